//! Each promise of the two halves, over every transport that they have.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use circuit_proto::{Code, Error};
use futures::now_or_never;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig, VarInt};

use super::memory::{self, End as StreamEnd};
use super::*;
use crate::transport::congestion::Windows;
use crate::transport::endpoint::{dialling, transport_config};
use crate::transport::tls::{self, Certificate, Pin, Verifier};

/// The window of a stream in memory, in bytes.
const WINDOW: usize = 100_000;

/// Where streams come from.
enum Transport {
    Memory,
    Quic(Quic),
}

/// A QUIC connection over loopback.
struct Quic {
    dialled: Connection,
    accepted: Connection,
    _endpoints: [Endpoint; 2],
}

/// A stream and what is beneath it.
struct Stream {
    here: StreamEnd,
    there: StreamEnd,
    beneath: Option<memory::Connection>,
}

/// The writing end of a direction without its framing.
enum Raw {
    Memory(memory::Sender, memory::Connection),
    Quic(quinn::SendStream, Connection),
}

async fn transports() -> [Transport; 2] {
    [Transport::Memory, Transport::Quic(Quic::new().await)]
}

impl Quic {
    async fn new() -> Quic {
        let (certificate, _) = Certificate::generate().unwrap();
        let crypto = QuicServerConfig::try_from(tls::acceptor(&certificate).unwrap()).unwrap();
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        let mut transport = transport_config(&Windows::default());
        transport.max_concurrent_bidi_streams(VarInt::from_u32(100));
        transport.max_concurrent_uni_streams(VarInt::from_u32(100));
        config.transport_config(Arc::new(transport));
        let acceptor = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = acceptor.local_addr().unwrap();
        let crypto = tls::dialler(&certificate, Verifier::new(Pin::Anybody)).unwrap();
        let crypto = QuicClientConfig::try_from(crypto).unwrap();
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport_config(&Windows::default())));
        let (endpoint, _) = dialling(&[address]).unwrap();
        let connecting = endpoint.connect_with(config, address, "circuit").unwrap();
        let accepting = async { acceptor.accept().await.unwrap().await };
        let (dialled, accepted) = tokio::join!(connecting, accepting);
        Quic {
            dialled: dialled.unwrap(),
            accepted: accepted.unwrap(),
            _endpoints: [endpoint, acceptor],
        }
    }
}

impl Transport {
    fn name(&self) -> &'static str {
        match self {
            Transport::Memory => "memory",
            Transport::Quic(_) => "QUIC",
        }
    }

    /// A bidirectional stream.
    async fn stream(&self) -> Stream {
        match self {
            Transport::Memory => {
                let (here, there, beneath) = memory::pair(WINDOW);
                Stream {
                    here,
                    there,
                    beneath: Some(beneath),
                }
            }
            Transport::Quic(quic) => {
                let (send, recv) = quic.dialled.open_bi().await.unwrap();
                let mut here = (SendHalf::new(send), RecvHalf::new(recv));
                // The other side knows of the stream from its first bytes.
                here.0.frame(&()).await.unwrap();
                let (send, recv) = quic.accepted.accept_bi().await.unwrap();
                let mut there = (SendHalf::new(send), RecvHalf::new(recv));
                there.1.frame::<()>().await.unwrap();
                Stream {
                    here,
                    there,
                    beneath: None,
                }
            }
        }
    }

    /// A direction into which any bytes can be written.
    async fn raw(&self, bytes: &[u8]) -> (Raw, RecvHalf) {
        match self {
            Transport::Memory => {
                let (mut sender, receiver, connection) = memory::direction(WINDOW);
                sender.write(bytes);
                (Raw::Memory(sender, connection), RecvHalf::new(receiver))
            }
            Transport::Quic(quic) => {
                let mut send = quic.dialled.open_uni().await.unwrap();
                // One byte more than is looked at, so that the stream is known if there are none.
                send.write_all(&[0]).await.unwrap();
                let mut recv = quic.accepted.accept_uni().await.unwrap();
                recv.read_exact(&mut [0]).await.unwrap();
                send.write_all(bytes).await.unwrap();
                let connection = quic.dialled.clone();
                (Raw::Quic(send, connection), RecvHalf::new(recv))
            }
        }
    }

    fn lose(&self, stream: &Stream) {
        match (self, &stream.beneath) {
            (Transport::Quic(quic), _) => quic.dialled.close(VarInt::from_u32(9), b""),
            (Transport::Memory, Some(beneath)) => beneath.lose(&Lost::Left),
            (Transport::Memory, None) => unreachable!(),
        }
    }
}

/// How a direction is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Finished,
    Reset,
    Lost,
}

impl Raw {
    fn cut(&mut self, how: Cut) {
        match (self, how) {
            (Raw::Memory(sender, _), Cut::Finished) => sender.finish(),
            (Raw::Memory(sender, _), Cut::Reset) => sender.reset(),
            (Raw::Memory(_, connection), Cut::Lost) => connection.lose(&Lost::Silent),
            (Raw::Quic(stream, _), Cut::Finished) => stream.finish().unwrap(),
            (Raw::Quic(stream, _), Cut::Reset) => stream.reset(VarInt::from_u32(1)).unwrap(),
            (Raw::Quic(_, connection), Cut::Lost) => connection.close(VarInt::from_u32(0), b""),
        }
    }
}

/// Two chunks and an end, as they travel.
fn message(end: &End) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in ["hello, ", "world"] {
        bytes.extend((chunk.len() as u32).to_be_bytes());
        bytes.extend(chunk.as_bytes());
    }
    bytes.extend([0; HEADER]);
    bytes.extend(codec::frame(end).unwrap());
    bytes
}

const TEXT: &[u8] = b"hello, world";

/// Reads data to its end: what came, and how it ended.
async fn read(recv: &mut RecvHalf, whole_chunks: bool) -> (Vec<u8>, Result<(), StreamError>) {
    let mut all = Vec::new();
    loop {
        let next = match whole_chunks {
            true => recv.whole_chunk().await,
            false => recv.data().await,
        };
        match next {
            Ok(Some(bytes)) => all.extend(bytes),
            Ok(None) => return (all, Ok(())),
            Err(error) => return (all, Err(error)),
        }
    }
}

/// Checks what a reader makes of a direction of which so many bytes came before it was cut.
async fn check_cut(transport: &Transport, at: usize, how: Cut, whole_chunks: bool) {
    let case = format!("{}: {how:?} at byte {at}", transport.name());
    let bytes = message(&Ok(()));
    let (mut raw, mut recv) = transport.raw(&bytes[..at]).await;
    raw.cut(how);
    let (data, end) = read(&mut recv, whole_chunks).await;
    assert!(TEXT.starts_with(&data), "{case}: {data:?}");
    match (how, at == bytes.len()) {
        (Cut::Finished, true) => assert_eq!((&data[..], end), (TEXT, Ok(())), "{case}"),
        // All of it had come, which the reader may have seen or not.
        (Cut::Reset | Cut::Lost, true) => assert!(end.is_err() || data == TEXT, "{case}"),
        (Cut::Finished | Cut::Reset, false) => {
            assert_eq!(end, Err(StreamError::Abandoned), "{case}");
        }
        (Cut::Lost, false) => assert!(matches!(end, Err(StreamError::Lost(_))), "{case}: {end:?}"),
    }
}

/// In a length, in a chunk, before the `End`, in it, and behind it.
#[tokio::test]
async fn a_cut_is_never_an_end() {
    for transport in transports().await {
        for at in 0..=message(&Ok(())).len() {
            for how in [Cut::Finished, Cut::Reset] {
                for whole_chunks in [false, true] {
                    check_cut(&transport, at, how, whole_chunks).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_lost_connection_is_never_an_end() {
    for at in 0..=message(&Ok(())).len() {
        check_cut(&Transport::Memory, at, Cut::Lost, false).await;
        check_cut(&Transport::Memory, at, Cut::Lost, true).await;
    }
    for at in [0, 2, 6, 11, 22, 23, 25, 27] {
        let quic = Transport::Quic(Quic::new().await);
        check_cut(&quic, at, Cut::Lost, false).await;
    }
}

#[tokio::test]
async fn a_frame_that_is_cut_is_an_error() {
    let bytes = codec::frame(&"a value".to_owned()).unwrap();
    for transport in transports().await {
        for at in 0..bytes.len() {
            for how in [Cut::Finished, Cut::Reset] {
                let (mut raw, mut recv) = transport.raw(&bytes[..at]).await;
                raw.cut(how);
                let frame = recv.frame::<String>().await;
                assert_eq!(frame, Err(StreamError::Abandoned), "{how:?} at {at}");
            }
        }
    }
}

#[tokio::test]
async fn an_error_in_the_end_is_heard_behind_the_data() {
    let failed = Error::new(Code::Aborted, "the element was scrubbed");
    for transport in transports().await {
        let (mut raw, mut recv) = transport.raw(&message(&Err(failed.clone()))).await;
        raw.cut(Cut::Finished);
        let (data, end) = read(&mut recv, false).await;
        assert_eq!(data, TEXT);
        assert_eq!(end, Err(StreamError::Failed(failed.clone())));
    }
}

#[tokio::test]
async fn what_is_too_long_or_malformed_is_refused() {
    let chunk = (MAX_CHUNK as u32 + 1).to_be_bytes();
    let mut end = [0; HEADER].to_vec();
    end.extend([0, 0, 0, 1, 7]);
    for transport in transports().await {
        for whole_chunks in [false, true] {
            let (_raw, mut recv) = transport.raw(&chunk).await;
            let (_, error) = read(&mut recv, whole_chunks).await;
            let too_large = CodecError::TooLarge(MAX_CHUNK + 1);
            assert_eq!(error, Err(StreamError::Protocol(too_large)));
            let (_raw, mut recv) = transport.raw(&end).await;
            let (_, error) = read(&mut recv, whole_chunks).await;
            assert_eq!(error, Err(StreamError::Protocol(CodecError::Malformed)));
        }
    }
}

#[tokio::test]
async fn a_sender_that_is_dropped_resets() {
    for transport in transports().await {
        let Stream { here, there, .. } = transport.stream().await;
        let (mut send, (_, mut recv)) = (here.0, there);
        send.data(Bytes::from_static(TEXT)).await.unwrap();
        drop(send);
        let (_, end) = read(&mut recv, false).await;
        assert_eq!(end, Err(StreamError::Abandoned), "{}", transport.name());
    }
}

#[tokio::test]
async fn a_sender_that_has_finished_may_be_dropped() {
    for transport in transports().await {
        let Stream { here, there, .. } = transport.stream().await;
        let (mut send, (_, mut recv)) = (here.0, there);
        send.data(Bytes::from_static(TEXT)).await.unwrap();
        send.end(&Ok(())).await.unwrap();
        assert_eq!(read(&mut recv, false).await, (TEXT.to_vec(), Ok(())));
        assert_eq!(recv.at_finish().await, Ok(true), "{}", transport.name());
    }
}

#[tokio::test]
async fn a_stop_reaches_the_sender() {
    for transport in transports().await {
        let Stream { here, there, .. } = transport.stream().await;
        let (mut send, recv) = (here.0, there.1);
        send.data(Bytes::from_static(TEXT)).await.unwrap();
        let abandoned = send.abandoned();
        drop(recv);
        abandoned.await;
        let more = send.data(Bytes::from_static(TEXT)).await;
        assert_eq!(more, Err(StreamError::Abandoned), "{}", transport.name());
    }
}

#[tokio::test]
async fn a_reader_that_has_seen_the_finish_stops_nobody() {
    for transport in transports().await {
        let Stream { here, there, .. } = transport.stream().await;
        let (mut send, mut recv) = (here.0, there.1);
        send.frame(&7_u32).await.unwrap();
        let (received, abandoned) = (send.received(), send.abandoned());
        send.finish();
        assert_eq!(recv.frame::<u32>().await, Ok(7));
        assert_eq!(recv.at_finish().await, Ok(true));
        drop(recv);
        received.await;
        assert!(now_or_never(abandoned).is_none(), "{}", transport.name());
    }
}

#[tokio::test]
async fn a_direction_that_has_ended_leaves_the_other_open() {
    for transport in transports().await {
        let Stream { here, there, .. } = transport.stream().await;
        let (mut asker, mut answerer) = (here, there);
        asker.0.data(Bytes::from_static(b"asked")).await.unwrap();
        asker.0.end(&Ok(())).await.unwrap();
        let asked = read(&mut answerer.1, false).await;
        assert_eq!(asked, (b"asked".to_vec(), Ok(())));
        answerer.0.data(Bytes::from_static(TEXT)).await.unwrap();
        answerer.0.end(&Ok(())).await.unwrap();
        let answered = read(&mut asker.1, false).await;
        assert_eq!(answered, (TEXT.to_vec(), Ok(())), "{}", transport.name());
    }
}

#[tokio::test]
async fn a_frame_may_follow_the_end_of_the_data() {
    for transport in transports().await {
        let Stream { here, there, .. } = transport.stream().await;
        let (mut send, mut recv) = (here.0, there.1);
        send.send_end(&Ok(())).await.unwrap();
        send.frame(&End::Ok(())).await.unwrap();
        send.finish();
        assert_eq!(recv.data().await, Ok(None));
        assert_eq!(recv.at_finish().await, Ok(false));
        assert_eq!(recv.frame::<End>().await, Ok(Ok(())));
        assert_eq!(recv.at_finish().await, Ok(true), "{}", transport.name());
    }
}

/// Data for a reader that does not read stays with the sender. It passes whole once the reader reads,
/// also if futures were dropped meanwhile.
#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_sender_back() {
    let data: Bytes = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    for transport in transports().await {
        let Stream { here, there, .. } = transport.stream().await;
        let (mut send, mut recv) = (here.0, there.1);
        send.queue_data(data.clone());
        // As much goes as fits the windows.
        let drained = tokio::time::timeout(Duration::from_millis(300), send.drain()).await;
        assert!(drained.is_err(), "{} took all of it", transport.name());
        let left: usize = send.queued.iter().map(Bytes::len).sum();
        assert!(
            left > 1_000_000,
            "{}: {left} bytes are left",
            transport.name()
        );
        let sent = tokio::spawn(async move {
            // The future is dropped whenever it is pending, and begun again.
            while let Err(_pending) =
                tokio::time::timeout(Duration::from_micros(1), send.drain()).await
            {}
            send.end(&Ok(())).await
        });
        let (read, end) = read(&mut recv, false).await;
        assert_eq!(end, Ok(()), "{}", transport.name());
        assert!(read == data, "{}: {} bytes", transport.name(), read.len());
        sent.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_lost_connection_ends_both_halves_of_both_ends() {
    for transport in transports().await {
        let mut stream = transport.stream().await;
        let abandoned = stream.there.0.abandoned();
        transport.lose(&stream);
        abandoned.await;
        let lost = Err(StreamError::Lost(Lost::Left));
        assert_eq!(stream.there.1.data().await, lost, "{}", transport.name());
        let bytes = Bytes::from_static(TEXT);
        let sent = stream.there.0.data(bytes.clone()).await;
        assert_eq!(sent.map(|()| None), lost, "{}", transport.name());
        let here = stream.here.0.data(bytes).await;
        assert!(matches!(here, Err(StreamError::Lost(_))), "{here:?}");
    }
}

/// A future's output if it has one already.
mod futures {
    use super::*;

    pub(super) fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}
