//! A server of which a part fails: the tests of how it ends.

use std::time::Duration;

use circuit_proto::Key;

use super::*;

/// How long anything here may take. Chosen, not measured: far longer than it does on a busy
/// machine.
const DEADLINE: Duration = Duration::from_secs(60);

async fn started(join: Vec<Url>, discover: Vec<SocketAddr>) -> Running {
    let options = Options {
        name: "one".to_owned(),
        key: Some(Key::from_random([7; 32])),
        join,
        discover,
        ..Options::default()
    };
    start(options).await.unwrap()
}

/// Resolves when there are so many servers in the view.
async fn knows(running: &Running, servers: usize) {
    let peer = &running.server().peer;
    // Subscribed before the view is looked at, so that no change is missed.
    let mut changes = peer.changes();
    while peer.view().servers != servers {
        changes.changed().await.unwrap();
    }
}

#[tokio::test]
async fn a_server_without_one_of_its_parts_leaves_and_fails() {
    let discover = vec![([239, 192, 7, 7], 7707).into()];
    let parts = ["driver", "acceptor", "acceptor of tethers", "discovery"];
    for part in parts {
        let other = started(Vec::new(), Vec::new()).await;
        let running = started(vec![other.url().clone()], discover.clone()).await;
        let test = async {
            knows(&other, 2).await;
            running.tasks.saboteur().strike(part);
            let failure = running.finished(std::future::pending()).await.unwrap_err();
            assert_eq!(failure.to_string(), format!("the {part} panicked: struck"));
            // It has said that it leaves: nobody has to find out.
            knows(&other, 1).await;
        };
        tokio::time::timeout(DEADLINE, test).await.unwrap();
        other.finished(std::future::ready(())).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_without_the_thread_of_its_dns_server_fails() {
    let running = started(Vec::new(), Vec::new()).await;
    let alarm = running.server().runtime.alarm.clone();
    let thread =
        std::thread::spawn(move || alarm.watch("thread of a DNS server", || panic!("mad")));
    let finished = running.finished(std::future::pending());
    let failure = tokio::time::timeout(DEADLINE, finished).await.unwrap();
    assert_eq!(
        failure.unwrap_err().to_string(),
        "the thread of a DNS server panicked: mad"
    );
    thread.join().unwrap();
}
