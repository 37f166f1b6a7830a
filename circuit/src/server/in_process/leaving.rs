//! The server that a client dialled leaves in order.

use std::future::ready;

use circuit_client::{Cmd, Error};

use super::*;

/// Checks that an operation ended because the server that was dialled left.
fn check<T: std::fmt::Debug>(what: &str, result: Result<T, Error>, dialled: &Identity) {
    let error = result.unwrap_err();
    assert!(
        matches!(error, Error::CircuitGone { .. }),
        "{what}: {error:?}"
    );
    let expected = format!(
        "the server that was dialled, one at {}, left the circuit",
        dialled.url.authority()
    );
    assert!(error.to_string().ends_with(&expected), "{what}: {error}");
}

/// Streams, waits and answers, here and on a server that lives on.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_goes_through_it_ends_as_the_loss_of_the_circuit() {
    let [one, two] = circuit(["one", "two"]).await;
    let dialled = one.server().me.clone();
    let client = client(&one).await;
    let mut operations = Vec::new();
    for server in ["one", "two"] {
        let anchor = client.walk(&format!("/{server}/p")).unwrap();
        let process = anchor.make_proc(Cmd::new("cat")).await.unwrap();
        let mut reader = process.stdout().await.unwrap();
        let mut writer = process.stdin().await.unwrap();
        let channel = client.walk(&format!("/{server}/c")).unwrap();
        let channel = channel.make_chan(0).await.unwrap();
        let waiting = process.clone();
        let receiving = channel.clone();
        operations.push((
            server,
            tokio::spawn(async move { waiting.wait().await.map(drop) }),
            tokio::spawn(async move { reader.chunk().await.map(drop) }),
            tokio::spawn(async move { receiving.recv().await.map(drop) }),
            tokio::spawn(async move { Err::<(), _>(writer.failed().await) }),
        ));
    }
    for server in [&one, &two] {
        let operations = server.server().operations.clone();
        until("all are in flight", || operations.in_flight().len() >= 4).await;
    }
    let left = tokio::spawn(one.finished(ready(())));
    for (server, wait, read, receive, write) in operations {
        check(&format!("wait on {server}"), wait.await.unwrap(), &dialled);
        check(
            &format!("stdout on {server}"),
            read.await.unwrap(),
            &dialled,
        );
        check(
            &format!("recv on {server}"),
            receive.await.unwrap(),
            &dialled,
        );
        check(
            &format!("stdin on {server}"),
            write.await.unwrap(),
            &dialled,
        );
    }
    left.await.unwrap().unwrap();
    let asked = client.walk("/two").unwrap().peek().await;
    check("an answer afterwards", asked.map(drop), &dialled);
    drop(two);
}
