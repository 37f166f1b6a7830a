//! One connection for membership: messages out, messages in, and its end.
//!
//! Messages go on one long-lived stream per direction, a frame each.
//!
//! **Invariant:** a peer that does not read costs a bounded queue, and then its connection.

use circuit_client::transport::dial::Accepted;
use circuit_client::transport::endpoint::close;
use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError};
use circuit_proto::Fingerprint;
use circuit_proto::codec::MAX_FRAME;
use circuit_proto::handshake::Close;
use circuit_proto::membership::{Gone, Input, Message};
use quinn::ConnectionError;
use tokio::sync::mpsc;

use super::Event;
use super::tether::Tether;

/// How many messages may wait for a peer that is slow. Chosen, not measured: a sync of a large
/// circuit is a few dozen; a peer that is behind by more does not read at all.
const QUEUE: usize = 1024;

/// A connection, as the driver holds it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) accepted: Accepted,
    /// Whether this server opened it.
    pub(super) dialled: bool,
    /// Tells this connection from earlier ones to the same peer.
    pub(super) number: u64,
    /// The tether beside it.
    pub(super) tether: Option<Tether>,
    queue: mpsc::Sender<Message>,
}

impl Link {
    /// Begins to send and receive.
    pub(super) fn new(
        accepted: Accepted,
        dialled: bool,
        number: u64,
        events: &mpsc::Sender<Event>,
    ) -> Link {
        let (queue, messages) = mpsc::channel(QUEUE);
        let connection = accepted.connection.clone();
        let peer = accepted.fingerprint;
        tokio::spawn(send(connection.clone(), messages));
        tokio::spawn(receive(connection.clone(), peer, number, events.clone()));
        tokio::spawn(watch(connection, peer, number, events.clone()));
        Link {
            accepted,
            dialled,
            number,
            tether: None,
            queue,
        }
    }

    /// Queues a message. A peer that is too far behind loses its connection.
    pub(super) fn send(&self, message: Message) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.queue.try_send(message)
            && self.is_open()
        {
            tracing::warn!("{} reads too slowly: closing the link", self.accepted);
            self.close(Close::Slow);
        }
    }

    pub(super) fn close(&self, why: Close) {
        close(&self.accepted.connection, why);
    }

    /// Closes the connection once the queued messages have been sent, or a moment has passed.
    pub(super) async fn drain_and_close(self, why: Close) {
        let Link {
            accepted, queue, ..
        } = self;
        drop(queue);
        let sent = accepted.connection.closed();
        // The sender finishes its stream when the queue has run dry; the peer then answers by
        // nothing, so a few acknowledgements' time is all there is to wait for.
        let _ = tokio::time::timeout(DRAIN, sent).await;
        close(&accepted.connection, why);
    }

    pub(super) fn is_open(&self) -> bool {
        self.accepted.connection.close_reason().is_none()
    }
}

/// How long the last message has to be delivered before its connection closes. Chosen, not
/// measured: several round trips of a continent.
const DRAIN: std::time::Duration = std::time::Duration::from_millis(200);

/// How long a peer's close may take after the end of its messages. Chosen, not measured: as long as
/// the peer drains its queue, and a slow round trip.
const HANG_UP: std::time::Duration = std::time::Duration::from_millis(500);

async fn send(connection: quinn::Connection, mut messages: mpsc::Receiver<Message>) {
    let Ok(stream) = connection.open_uni().await else {
        return;
    };
    let mut stream = SendHalf::new(stream);
    while let Some(message) = messages.recv().await {
        if stream.frame(&message).await.is_err() {
            return hang_up(connection).await;
        }
    }
    stream.finish();
}

async fn receive(
    connection: quinn::Connection,
    peer: Fingerprint,
    number: u64,
    events: mpsc::Sender<Event>,
) {
    let Ok(stream) = connection.accept_uni().await else {
        return;
    };
    let mut stream = RecvHalf::new(stream);
    loop {
        let frame = stream.raw_frame(MAX_FRAME).await;
        let message = match frame.and_then(|body| Ok(Message::decode(&body)?)) {
            Ok(Some(message)) => message,
            // The message is of a later version.
            Ok(None) => continue,
            Err(StreamError::Protocol(_)) => return close(&connection, Close::Malformed),
            Err(_) => return hang_up(connection).await,
        };
        let event = Event::Message {
            peer,
            number,
            message,
        };
        // A driver that is busy lets the peer wait.
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Closes a connection on which nothing more can be said or heard, should the peer not do so: in
/// order its close follows the end of its messages at once.
async fn hang_up(connection: quinn::Connection) {
    let _ = tokio::time::timeout(HANG_UP, connection.closed()).await;
    close(&connection, Close::Malformed);
}

async fn watch(
    connection: quinn::Connection,
    peer: Fingerprint,
    number: u64,
    events: mpsc::Sender<Event>,
) {
    let why = match connection.closed().await {
        ConnectionError::TimedOut => Gone::Silent,
        ConnectionError::Reset => Gone::Reset,
        ConnectionError::ApplicationClosed(closed)
            if u64::from(closed.error_code) == Close::Leaving as u64 =>
        {
            Gone::Leaving
        }
        _ => Gone::Closed,
    };
    let _ = events
        .send(Event::Input {
            number,
            input: Input::Disconnected { peer, why },
        })
        .await;
}
