//! Malformed requests: the answer to each, and whom it harms.

use circuit_proto::Code;
use circuit_proto::codec::MAX_FRAME;
use circuit_proto::element::{anchor, streams};
use circuit_proto::handshake::Close;

use super::*;

/// Requests that are none, as they travel.
fn malformed() -> [Vec<u8>; 4] {
    let framed = |body: &[u8]| [&(body.len() as u32).to_be_bytes(), body].concat();
    let good = request("/one", anchor::Op::Peek, "");
    let good = codec::encode(&good).unwrap();
    [
        framed(&[]),
        // There are bytes behind the request.
        framed(&[&good[..], &[0]].concat()),
        // A path that is none, in a request that is none.
        framed(b"\x03a/b\x00\x00\x00"),
        (MAX_FRAME as u32 + 1).to_be_bytes().to_vec(),
    ]
}

#[tokio::test]
async fn a_bad_request_of_a_forwarder_is_refused_and_harms_no_other() {
    let (one, process) = one_with_a_process().await;
    let forwarder = Peer::forwarder(&one).await;
    let waits = request("/one/p", streams::Op::Wait, "another client");
    let (_send, mut waiting) = forwarder.send(&waits).await;
    for bytes in malformed() {
        let (send, recv) = forwarder.accepted.connection.open_bi().await.unwrap();
        let (mut send, mut recv) = (send, RecvHalf::new(recv));
        send.write_all(&bytes).await.unwrap();
        let reply: Reply = recv.frame().await.unwrap();
        assert_eq!(reply.unwrap_err().code, Code::InvalidArgument, "{bytes:?}");
        assert_eq!(recv.at_finish().await, Ok(true));
    }
    process.scrub().await.unwrap();
    let answered: Reply = waiting.frame().await.unwrap();
    assert_eq!(answered.unwrap_err().code, Code::Aborted);
}

#[tokio::test]
async fn a_bad_request_of_a_client_closes_its_connection() {
    let [one] = circuit(["one"]).await;
    for bytes in malformed() {
        let client = Peer::dial(&one, |_| Role::Client).await;
        let (mut send, _recv) = client.accepted.connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        assert_eq!(client.closed_with().await, Close::Malformed as u64);
    }
}
