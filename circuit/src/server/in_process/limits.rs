//! The limits of a connection: the answer is `Busy`, never a wait that only another request could
//! end.

use circuit_proto::Code;
use circuit_proto::element::{anchor, streams};

use super::*;

/// How many operations of one connection may wait, and of one origin on a transfer connection.
const WAITING: usize = 16_384;
const OF_ONE_ORIGIN: usize = WAITING / 2;

/// More than all the streams that there are beyond the places.
const REFUSED: usize = 6_000;

type Streams = Vec<(SendHalf, RecvHalf)>;

/// Has so many requests wait.
async fn wait(peer: &Peer, count: usize, origin: &str) -> Streams {
    let waits = request("/one/p", streams::Op::Wait, origin);
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(peer.send(&waits).await);
    }
    all
}

/// Has so many requests refused that would wait.
async fn refused(peer: &Peer, count: usize, origin: &str, message: &str) {
    let waits = request("/one/p", streams::Op::Wait, origin);
    for _ in 0..count {
        let error = peer.ask(&waits).await.unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::Busy, message));
    }
}

async fn in_flight(one: &Running, count: usize) {
    let operations = one.server().operations.clone();
    until("all wait", || operations.in_flight().len() == count).await;
}

#[tokio::test]
async fn a_client_whose_operations_wait_is_told_so_and_still_answered() {
    let (one, _process) = one_with_a_process().await;
    let client = Peer::dial(&one, |_| Role::Client).await;
    let waiting = wait(&client, WAITING, "").await;
    in_flight(&one, WAITING).await;
    let message = "16384 operations wait on this connection";
    refused(&client, REFUSED, "", message).await;
    client
        .ask(&request("/one", anchor::Op::Peek, ""))
        .await
        .unwrap();
    drop(waiting);
    in_flight(&one, 0).await;
    let _again = wait(&client, 1, "").await;
    in_flight(&one, 1).await;
}

#[tokio::test]
async fn one_origin_takes_half_of_a_forwarders_places() {
    let (one, _process) = one_with_a_process().await;
    let forwarder = Peer::forwarder(&one).await;
    let _first = wait(&forwarder, OF_ONE_ORIGIN, "first").await;
    in_flight(&one, OF_ONE_ORIGIN).await;
    let message = "8192 operations of this client wait on this connection";
    refused(&forwarder, REFUSED, "first", message).await;
    let _second = wait(&forwarder, OF_ONE_ORIGIN, "second").await;
    in_flight(&one, WAITING).await;
    let message = "16384 operations wait on this connection";
    refused(&forwarder, REFUSED, "third", message).await;
    let peek = request("/one", anchor::Op::Peek, "third");
    forwarder.ask(&peek).await.unwrap();
}

#[tokio::test]
async fn requests_that_do_not_come_whole_are_in_flight() {
    let (one, _process) = one_with_a_process().await;
    let client = Peer::dial(&one, |_| Role::Client).await;
    let mut begun = Vec::new();
    for _ in 0..1_024 {
        let (mut send, recv) = client.accepted.connection.open_bi().await.unwrap();
        send.write_all(&[0, 0]).await.unwrap();
        begun.push((send, recv));
    }
    // Streams are accepted in the order of their numbers.
    let message = "1024 operations are in flight on this connection";
    for _ in 0..REFUSED {
        let peek = client.ask(&request("/one", anchor::Op::Peek, "")).await;
        let error = peek.unwrap_err();
        assert_eq!((error.code, &*error.message), (Code::Busy, message));
    }
}
