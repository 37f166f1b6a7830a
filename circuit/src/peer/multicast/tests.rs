//! Servers and clients on the loopback interface. The tests in `tests/hosts/` have several hosts, in
//! network namespaces.

use std::sync::Mutex;

use circuit_client::discover::{DiscoverError, discover_on};
use circuit_proto::auth::KeyMismatch;
use circuit_proto::{Key, Url};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(10);

/// A group of this test's own: its number and the process's id are in it.
fn group(test: u8) -> SocketAddr {
    let [.., low] = std::process::id().to_be_bytes();
    ([239, 255, low, test], 7711 + u16::from(low)).into()
}

fn key(byte: u8) -> Key {
    Key::from_random([byte; 32])
}

struct Server {
    id: ServerId,
    live: Arc<Mutex<BTreeSet<ServerId>>>,
    heard: mpsc::Receiver<Identity>,
    task: JoinHandle<()>,
}

impl Server {
    fn start(group: SocketAddr, id: u64, key: Option<Key>) -> Server {
        let id = ServerId(id);
        let url: Url = format!("circuit://127.0.0.1:1/1/{}", id.in_url())
            .parse()
            .unwrap();
        let me = Identity {
            url,
            name: "a".to_owned(),
            count: 0,
            instance: 0,
        };
        let machine = Machine::new(me, key, id.0).unwrap();
        let multicast = Multicast::open(group, Scope::Loopback).unwrap();
        assert_eq!(multicast.segments().len(), 1);
        let live = Arc::new(Mutex::new(BTreeSet::new()));
        let view = live.clone();
        let life_of: LifeOf = Arc::new(move |id| {
            let live = view.lock().unwrap().contains(&id);
            live.then_some(Life {
                id,
                count: 0,
                instance: 0,
            })
        });
        let (sender, heard) = mpsc::channel(8);
        let task = tokio::spawn(run(multicast, machine, life_of, sender));
        Server {
            id,
            live,
            heard,
            task,
        }
    }

    /// Waits for the next server that is heard, and makes it live.
    async fn hear(&mut self) -> ServerId {
        let heard = timeout(LONG, self.heard.recv())
            .await
            .expect("nobody was heard")
            .unwrap();
        let id = heard.url.server.unwrap().id;
        self.live.lock().unwrap().insert(id);
        id
    }
}

async fn ask(
    group: SocketAddr,
    key: Option<Key>,
    timeout: Duration,
) -> Result<Vec<Url>, DiscoverError> {
    discover_on(&Interface::is_loopback, group, key.as_ref(), timeout).await
}

async fn find_each_other(group: SocketAddr) {
    let mut a = Server::start(group, 1, Some(key(1)));
    let mut b = Server::start(group, 2, Some(key(1)));
    let mut c = Server::start(group, 3, Some(key(2)));
    assert_eq!((a.hear().await, b.hear().await), (b.id, a.id));
    let mut found = ask(group, Some(key(1)), LONG).await.unwrap();
    found.extend(ask(group, Some(key(1)), LONG).await.unwrap());
    assert!(
        found
            .iter()
            .all(|url| [a.id, b.id].contains(&url.server.unwrap().id))
    );
    let other = ask(group, Some(key(2)), LONG).await.unwrap();
    assert_eq!(other[0].server.unwrap().id, c.id);
    assert!(c.heard.try_recv().is_err(), "another circuit was heard");
}

#[tokio::test]
async fn servers_on_one_host_find_each_other_and_clients_find_them() {
    find_each_other(group(1)).await;
}

#[tokio::test]
async fn an_ipv6_group_works_on_the_loopback_interface() {
    let [.., low] = std::process::id().to_be_bytes();
    find_each_other(format!("[ff02::{low:x}02]:7711").parse().unwrap()).await;
}

#[tokio::test]
async fn clients_are_told_why_nobody_was_found() {
    let (group, short) = (group(3), Duration::from_millis(300));
    let none = ask(group, None, short).await.unwrap_err();
    assert_eq!(
        none.to_string(),
        format!("no server answered on the multicast group {group}")
    );
    let _server = Server::start(group, 1, Some(key(1)));
    let check = async |key: Option<Key>, expected: KeyMismatch| match ask(group, key, short)
        .await
        .unwrap_err()
    {
        DiscoverError::OtherKey {
            count: 1, reason, ..
        } => assert_eq!(reason, expected),
        other => panic!("{other}"),
    };
    check(Some(key(2)), KeyMismatch::Wrong).await;
    check(None, KeyMismatch::Missing).await;
}

#[tokio::test]
async fn a_client_that_asks_first_is_answered_by_a_server_that_starts_later() {
    let group = group(4);
    let mut ear = Multicast::open(group, Scope::Loopback).unwrap();
    let asking = tokio::spawn(ask(group, None, LONG));
    // Its first packet is out, and no server has heard it.
    timeout(LONG, ear.recv()).await.unwrap();
    let server = Server::start(group, 1, None);
    assert_eq!(
        asking.await.unwrap().unwrap()[0].server.unwrap().id,
        server.id
    );
}

#[tokio::test]
async fn ends_when_nobody_takes_what_is_heard() {
    let server = Server::start(group(5), 1, None);
    drop(server.heard);
    timeout(LONG, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_interface_that_is_not_there_may_come() {
    let scope = Scope::Interface("not-there".into());
    let multicast = Multicast::open(group(6), scope).unwrap();
    assert_eq!(multicast.segments(), []);
    let error = Multicast::open(([10, 0, 0, 1], 7711).into(), Scope::All).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_bound_address_tells_the_scope() {
    let check = |text: &str, expected: Scope| {
        assert_eq!(Scope::of_bound(text.parse().unwrap()), expected);
    };
    check("0.0.0.0", Scope::All);
    check("::", Scope::All);
    check("127.0.0.2", Scope::Loopback);
    check("::1", Scope::Loopback);
    check("10.0.0.1", Scope::Address("10.0.0.1".parse().unwrap()));
}
