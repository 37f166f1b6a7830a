//! Streams over a pair of sockets, without a server.

use circuit_proto::codec::MAX_CHUNK;
use circuit_proto::{Code, Error};

use super::*;

/// Both ends of a connection. The client's place is one where nobody listens.
fn pair() -> (Arc<Connection>, Arc<Connection>) {
    let (client, server) = UnixStream::pair().unwrap();
    let place = dial::Place::nowhere();
    (
        Connection::new(client, Side::Client(place)),
        Connection::accepted(server),
    )
}

#[tokio::test]
async fn a_connection_serves_one_stream_after_the_other() {
    let (client, server) = pair();
    for n in 0..3_u32 {
        let (mut asks, mut hears) = client.open();
        asks.last_frame(&n).await.unwrap();
        let (mut answers, mut reads) = server.open();
        assert_eq!(reads.frame::<u32>().await, Ok(n));
        answers.last_frame(&(n + 1)).await.unwrap();
        assert_eq!(hears.frame::<u32>().await, Ok(n + 1));
        drop((asks, hears, answers, reads));
        assert!(client.is_in_order() && server.is_in_order());
    }
}

#[tokio::test]
async fn bulk_data_arrives_whole_in_both_directions_at_the_same_time() {
    let (client, server) = pair();
    let data: Bytes = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let echo = tokio::spawn(async move {
        let (mut send, mut recv) = server.open();
        while let Some(piece) = recv.data().await.unwrap() {
            send.data(piece).await.unwrap();
        }
        send.end(&Ok(())).await.unwrap();
        drop((send, recv));
        server.is_in_order()
    });
    let (mut send, mut recv) = client.open();
    let sent = data.clone();
    let sending = tokio::spawn(async move {
        send.data(sent).await.unwrap();
        send.end(&Ok(())).await.unwrap();
    });
    let mut back = Vec::new();
    while let Some(piece) = recv.data().await.unwrap() {
        back.extend_from_slice(&piece);
    }
    assert!(back == data);
    sending.await.unwrap();
    // The server may have ended before it saw the client's marker; then it says that it closes.
    drop(recv);
    assert_eq!(client.is_in_order(), echo.await.unwrap());
}

#[tokio::test]
async fn a_cut_is_never_an_end() {
    let (client, server) = pair();
    let (mut send, recv) = server.open();
    send.data(Bytes::from_static(b"half")).await.unwrap();
    drop((send, recv));
    assert!(!server.is_in_order());
    let (_asks, mut hears) = client.open();
    assert_eq!(hears.data().await, Ok(Some(Bytes::from_static(b"half"))));
    // Where nobody listens any more the process has ended.
    let error = hears.data().await.unwrap_err();
    assert!(matches!(error, StreamError::Lost(_)), "{error}");
}

#[tokio::test]
async fn whoever_is_told_to_stop_still_reads_why() {
    let (client, server) = pair();
    let told = tokio::spawn(async move {
        let (mut send, recv) = server.open();
        let why = Error::new(Code::Closed, "no more");
        send.end(&Err(why)).await.unwrap();
        drop((send, recv));
        assert!(!server.is_in_order());
    });
    let (mut asks, mut hears) = client.open();
    let chunk = Bytes::from(vec![7; MAX_CHUNK]);
    // Far more than the socket holds.
    let error = loop {
        if let Err(error) = asks.data(chunk.clone()).await {
            break error;
        }
    };
    assert_eq!(error, StreamError::Abandoned);
    let StreamError::Failed(why) = hears.data().await.unwrap_err() else {
        panic!("it knows no reason");
    };
    assert_eq!(why.message, "no more");
    told.await.unwrap();
    drop((asks, hears));
    assert!(!client.is_in_order());
}

#[tokio::test]
async fn who_works_for_a_client_that_goes_away_hears_so_at_once() {
    let (client, server) = pair();
    let (mut asks, hears) = client.open();
    asks.frame(&1_u32).await.unwrap();
    let (answers, mut reads) = server.open();
    assert_eq!(reads.frame::<u32>().await, Ok(1));
    let abandoned = answers.abandoned();
    // What waits to be read does not hide the end.
    asks.data(Bytes::from_static(b"unread")).await.unwrap();
    drop((asks, hears, client));
    abandoned.await;
}

#[tokio::test]
async fn an_answer_is_received_when_it_is_written() {
    let (client, server) = pair();
    let (mut asks, _hears) = client.open();
    asks.last_frame(&1_u32).await.unwrap();
    let (mut answers, mut reads) = server.open();
    assert_eq!(reads.frame::<u32>().await, Ok(1));
    let received = answers.received();
    answers.last_frame(&2_u32).await.unwrap();
    received.await;
}

#[tokio::test]
async fn an_answer_that_found_no_room_is_flushed() {
    let (client, server) = pair();
    let (mut asks, mut hears) = client.open();
    asks.last_frame(&1_u32).await.unwrap();
    let (mut answers, mut reads) = server.open();
    assert_eq!(reads.frame::<u32>().await, Ok(1));
    let data = Bytes::from(vec![7; 4 << 20]);
    answers.queue_data(data.clone());
    answers.queue_end(&Ok(())).unwrap();
    answers.finish();
    drop((answers, reads));
    assert!(!server.is_in_order(), "all of it had room");
    let flushing = tokio::spawn(async move {
        server.flush().await;
        server.is_in_order()
    });
    let mut heard = 0;
    while let Some(piece) = hears.data().await.unwrap() {
        heard += piece.len();
    }
    assert_eq!(heard, data.len());
    assert!(flushing.await.unwrap());
}
