use circuit_proto::membership::Message;
use tokio::sync::oneshot;

use super::*;

/// A resolver that asks the test.
#[derive(Debug, Clone)]
struct Asks(mpsc::Sender<(Url, oneshot::Sender<Vec<SocketAddr>>)>);

impl Resolver for Asks {
    async fn addresses(self, url: Url) -> Vec<SocketAddr> {
        let (answer, answered) = oneshot::channel();
        self.0.send((url, answer)).await.unwrap();
        answered.await.unwrap()
    }
}

/// Names, the questions to their resolver, and a clock.
struct Test {
    names: Names<Asks>,
    asked: mpsc::Receiver<(Url, oneshot::Sender<Vec<SocketAddr>>)>,
    now: Instant,
}

impl Test {
    fn new(v6: bool) -> Test {
        let (asks, asked) = mpsc::channel(1);
        Test {
            names: Names::new(Asks(asks), v6),
            asked,
            now: Instant::now(),
        }
    }

    /// Sends a message of this number to the server of this number at a host: where it went.
    fn send(&mut self, server: u64, host: &str, number: u64) -> Option<SocketAddr> {
        let (address, message) =
            self.names
                .find(&record(server, host), numbered(number), self.now)?;
        assert_eq!(message, numbered(number));
        Some(address)
    }

    fn is_asking(&self, server: u64) -> bool {
        let named = self.names.servers.get(&fingerprint(server));
        named.is_some_and(|named| named.asking)
    }

    /// Answers the next question, which is after this host: what was waiting for it.
    async fn answer(&mut self, host: &str, addresses: &[&str]) -> Option<(SocketAddr, Message)> {
        let (url, answer) = self.asked.recv().await.unwrap();
        assert_eq!(url.authority(), format!("{host}:7"));
        answer
            .send(addresses.iter().map(|a| at(a)).collect())
            .unwrap();
        let answer = self.names.answered.recv().await.unwrap();
        let (_, address, message) = self.names.on_answer(answer)?;
        Some((address, message))
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

fn fingerprint(server: u64) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&server.to_be_bytes());
    Fingerprint(bytes)
}

fn record(server: u64, host: &str) -> Record {
    let fingerprint = fingerprint(server);
    let id = fingerprint.id().in_url();
    Record {
        fingerprint,
        url: format!("circuit://{host}:7/1/{id}").parse().unwrap(),
        name: String::new(),
        count: 0,
    }
}

fn numbered(nonce: u64) -> Message {
    Message::Pong {
        nonce,
        count: 0,
        incarnation: 0,
    }
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 7)
}

#[tokio::test]
async fn an_address_needs_nobody() {
    let mut test = Test::new(false);
    assert_eq!(test.send(1, "10.0.0.1", 1), Some(at("10.0.0.1")));
    assert!(test.names.servers.is_empty());
}

#[tokio::test]
async fn the_newest_message_waits_for_the_address() {
    let mut test = Test::new(false);
    assert_eq!(test.send(1, "a", 1), None);
    assert_eq!(test.send(1, "a", 2), None);
    let found = test.answer("a", &["10.0.0.1"]).await;
    assert_eq!(found, Some((at("10.0.0.1"), numbered(2))));
    assert!(test.asked.try_recv().is_err(), "asked once");
    assert_eq!(test.send(1, "a", 3), Some(at("10.0.0.1")));
    assert!(!test.is_asking(1));
}

#[tokio::test]
async fn an_old_address_is_used_while_it_is_looked_up_again() {
    let mut test = Test::new(false);
    test.send(1, "a", 1);
    test.answer("a", &["10.0.0.1"]).await;
    test.pass(FRESH - PAUSE);
    assert_eq!(test.send(1, "a", 2), Some(at("10.0.0.1")));
    assert!(!test.is_asking(1));
    test.pass(PAUSE);
    assert_eq!(test.send(1, "a", 3), Some(at("10.0.0.1")));
    assert!(test.is_asking(1));
    assert_eq!(test.answer("a", &["10.0.0.2"]).await, None);
    assert_eq!(test.send(1, "a", 4), Some(at("10.0.0.2")));
    // Nobody asks in between.
    test.pass(KEPT);
    assert_eq!(test.send(1, "a", 5), None);
    let found = test.answer("a", &["10.0.0.2"]).await;
    assert_eq!(found, Some((at("10.0.0.2"), numbered(5))));
}

#[tokio::test]
async fn a_failure_keeps_the_old_address_for_a_time_and_is_asked_again_soon() {
    let mut test = Test::new(false);
    test.send(1, "a", 1);
    assert_eq!(test.answer("a", &[]).await, None);
    assert_eq!(test.send(1, "a", 2), None);
    assert!(!test.is_asking(1), "too soon");
    test.pass(PAUSE);
    assert_eq!(test.send(1, "a", 3), None);
    let found = test.answer("a", &["10.0.0.1"]).await;
    assert_eq!(found, Some((at("10.0.0.1"), numbered(3))));
    let begin = test.now;
    for number in 0.. {
        test.pass(FRESH);
        if test.now - begin >= KEPT {
            break;
        }
        assert_eq!(test.send(1, "a", number), Some(at("10.0.0.1")));
        test.answer("a", &[]).await;
    }
    assert_eq!(test.send(1, "a", 4), None);
}

#[tokio::test]
async fn a_server_that_changes_its_name_is_looked_up_as_rarely() {
    let mut test = Test::new(false);
    test.send(1, "a", 1);
    assert_eq!(test.send(1, "b", 2), None);
    let found = test.answer("a", &["10.0.0.1"]).await;
    assert_eq!(found, Some((at("10.0.0.1"), numbered(1))));
    assert_eq!(test.send(1, "b", 3), None);
    assert!(!test.is_asking(1), "too soon");
    test.pass(PAUSE);
    assert_eq!(test.send(1, "b", 4), None);
    let found = test.answer("b", &["10.0.0.2"]).await;
    assert_eq!(found, Some((at("10.0.0.2"), numbered(4))));
    assert_eq!(test.names.servers.len(), 1);
}

#[tokio::test]
async fn a_server_that_restarts_is_not_looked_up_again() {
    let mut test = Test::new(false);
    test.send(1, "a", 1);
    test.answer("a", &["10.0.0.1"]).await;
    let mut record = record(1, "a");
    record.url.server.as_mut().unwrap().pid = 2;
    let found = test.names.find(&record, numbered(2), test.now);
    assert_eq!(found, Some((at("10.0.0.1"), numbered(2))));
}

#[tokio::test]
async fn addresses_take_turns_until_one_is_heard() {
    let mut test = Test::new(true);
    test.send(1, "a", 1);
    let both = ["fd00::1", "10.0.0.1"];
    let found = test.answer("a", &both).await;
    assert_eq!(found, Some((at("fd00::1"), numbered(1))));
    assert_eq!(test.send(1, "a", 2), Some(at("10.0.0.1")));
    assert_eq!(test.send(1, "a", 3), Some(at("fd00::1")));
    for number in 4..8 {
        // As a socket for both has it.
        test.names.heard(fingerprint(1), at("::ffff:10.0.0.1"));
        assert_eq!(test.send(1, "a", number), Some(at("10.0.0.1")));
    }
    test.names.heard(fingerprint(1), at("10.0.0.1"));
    test.names.heard(fingerprint(1), at("10.0.0.9"));
    test.names.heard(fingerprint(2), at("10.0.0.9"));
    // The order of answers changes, as many name servers have it.
    test.pass(FRESH);
    assert_eq!(test.send(1, "a", 8), Some(at("10.0.0.1")));
    test.names.heard(fingerprint(1), at("10.0.0.1"));
    test.answer("a", &["10.0.0.3", "fd00::1", "10.0.0.1"]).await;
    assert_eq!(test.send(1, "a", 9), Some(at("10.0.0.1")));
}

#[tokio::test]
async fn a_socket_for_one_family_is_given_no_other() {
    let mut test = Test::new(false);
    test.send(1, "a", 1);
    let found = test.answer("a", &["::1", "127.0.0.1"]).await;
    assert_eq!(found, Some((at("127.0.0.1"), numbered(1))));
    test.send(2, "b", 2);
    assert_eq!(test.answer("b", &["::1"]).await, None);
}

#[tokio::test]
async fn a_resolver_that_hangs_has_so_many_questions_at_most() {
    let mut test = Test::new(false);
    let many = PLACES as u64 + 20;
    for server in 0..many {
        assert_eq!(test.send(server, "a", 1), None);
    }
    test.pass(KEPT);
    for server in 0..many {
        assert_eq!(test.send(server, "a", 2), None);
        assert_eq!(test.is_asking(server), server < PLACES as u64);
    }
    assert_eq!(test.names.servers.len(), PLACES);
    // An answer at once gives no place away at once.
    assert!(test.answer("a", &["10.0.0.1"]).await.is_some());
    assert_eq!(test.send(many, "a", 1), None);
    assert!(!test.is_asking(many));
}

#[tokio::test]
async fn who_was_unused_for_longest_is_forgotten() {
    let mut test = Test::new(false);
    test.names.places.add_permits(SERVERS);
    test.send(0, "hangs", 1);
    let (_, _hangs) = test.asked.recv().await.unwrap();
    for server in 1..=SERVERS as u64 {
        test.pass(Duration::from_micros(1));
        assert_eq!(test.send(server, "a", 1), None);
        assert!(test.answer("a", &["10.0.0.1"]).await.is_some());
        // The second is in use.
        if server > 2 {
            assert!(test.send(2, "a", 1).is_some());
        }
    }
    let remembered = |server| test.names.servers.contains_key(&fingerprint(server));
    assert_eq!(test.names.servers.len(), SERVERS);
    assert!(remembered(0), "its answer is still to come");
    assert!(!remembered(1));
    assert!(remembered(2) && remembered(3));
}
