//! A client goes on through another server when the one that it had dialled is gone.

use std::time::{Duration, Instant};

use circuit_client::{Address, Client, Error, SearchError};

use crate::dialing::group;
use crate::support::{Home, Server};

/// Waits until a client is told that the server it dialled is gone.
async fn is_gone(client: &Client) {
    let wait = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            match client.servers().await {
                Err(Error::CircuitGone { .. }) => return,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    wait.await.unwrap();
}

fn dead() -> Address {
    // Nobody listens on the discard port.
    "circuit://127.0.0.1:9/1/Q0000000000000001".parse().unwrap()
}

async fn dialled(client: &Client, server: &Server) {
    assert_eq!(client.dialled().id.to_string(), server.id());
    assert!(client.servers().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_urls_those_that_answer_let_in() {
    let home = Home::new();
    let [mut one, two] = home.start_all(["one", "two"]);
    let key = home.key();
    let begin = Instant::now();
    let urls = [dead(), one.url().clone().into(), two.url().clone().into()];
    let client = Client::dial_any(&urls, Some(&key)).await.unwrap();
    dialled(&client, &one).await;
    let patience = Duration::from_millis(4321);
    let client = Client::dial_any(&urls, Some(&key)).await.unwrap();
    let client = client.with_timeout(patience);
    one.kill();
    is_gone(&client).await;
    let again = client.redial().await.unwrap();
    dialled(&again, &two).await;
    // It is not the dead ones that are waited for.
    assert!(begin.elapsed() < Duration::from_secs(15));
    // Whoever has nowhere else to go, goes back.
    let back = again.redial().await.unwrap();
    dialled(&back, &two).await;
    let none = Client::dial_any(&[], Some(&key)).await.unwrap_err();
    assert_eq!(none.to_string(), "no circuit to dial: no address is given");
    let none = Client::dial_any(&[dead()], Some(&key)).await.unwrap_err();
    assert!(matches!(none, SearchError::Dial(_)), "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_that_the_circuit_has_named_are_ways_too() {
    let home = Home::new();
    let [mut one, mut two, three] = home.start_all(["one", "two", "three"]);
    let client = one.client(&home).await;
    let anchor = client.walk("/three/c").unwrap();
    let chan = anchor.make_chan(1).await.unwrap();
    chan.send_all("hello").await.unwrap();
    client.servers().await.unwrap();
    // Also while the server that was dialled is there: one that is cut off may think that others are
    // gone.
    let other = client.redial().await.unwrap();
    assert_ne!(other.dialled().id, client.dialled().id);
    one.stop();
    two.kill();
    is_gone(&client).await;
    let client = client.redial().await.unwrap();
    dialled(&client, &three).await;
    // Handles are of the client that they came from.
    assert!(matches!(chan.peek().await, Err(Error::CircuitGone { .. })));
    let chan = client.anchor(chan.path().clone()).chan();
    assert_eq!(chan.recv_all(10).await.unwrap(), "hello");
    drop(three);
    is_gone(&client).await;
    let begin = Instant::now();
    let none = client.redial().await.unwrap_err();
    assert!(matches!(none, SearchError::Dial(_)), "{none}");
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_a_group_asks_the_group_again() {
    let home = Home::new();
    let group = group();
    let start = |name: &str| {
        home.circuit(format!("start -name {name} -a 127.0.0.1 -discover {group}"))
            .serve()
    };
    let (one, two) = (start("one"), start("two"));
    Server::see_each_other(&[&one, &two]);
    let key = home.key();
    let group = group.parse().unwrap();
    let client = Client::discover(group, Some(&key)).await.unwrap();
    let (mut found, mut other) = (one, two);
    if client.dialled().id.to_string() != found.id() {
        std::mem::swap(&mut found, &mut other);
    }
    found.kill();
    is_gone(&client).await;
    let again = client.redial().await.unwrap();
    dialled(&again, &other).await;
    // Nobody else answers, and who did before, does still.
    let back = again.redial().await.unwrap();
    dialled(&back, &other).await;
    other.stop();
    is_gone(&back).await;
    assert!(back.redial().await.is_err());
}
