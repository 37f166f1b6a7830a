//! Requests for other servers: passed on once, over transfer connections.
//!
//! [`dispatch`](super::dispatch) calls this for a request whose path belongs to another server.
//! [`transfers`] keeps the connections, [`relay`] passes on what the two ends say. The forwarder
//! understands frames and chunks, not operations; a hop that is lost becomes `Unreachable`.
//!
//! **Cancellation:** a caller that goes away takes its request along, also while the other server is
//! dialled.

mod relay;
mod transfers;

use std::time::Duration;

use circuit_client::transport::lost::Lost;
use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError};
use circuit_proto::membership::Record;
use circuit_proto::request::{Reply, Request};
use circuit_proto::{Code, Error};
use tracing::debug;

use super::Server;
pub(super) use transfers::Transfers;

/// How long another server may take to let this one open one more stream. Servers always do at once
/// (`requests/places.rs`). Chosen, not measured: a few slow round trips.
const NO_STREAM: Duration = Duration::from_secs(1);

/// Passes a request on to the server `to`, and everything that follows it, both ways. `changes` says
/// whether the operation changes anything, so that a hop that is lost leaves its outcome unknown.
pub(super) async fn forward(
    server: &Server,
    to: &Record,
    request: Request,
    changes: bool,
    mut back: SendHalf,
    from: RecvHalf,
) {
    let opened = async {
        let (connection, in_use) = server.transfers.connection(server, to).await?;
        let lost = |error: StreamError| unreachable(server, to, &error);
        let stream = tokio::time::timeout(NO_STREAM, connection.open_bi()).await;
        let stream = stream.map_err(|_| too_many(to))?;
        let (send, recv) = stream.map_err(|error| lost(error.into()))?;
        let (mut send, recv) = (SendHalf::new(send), RecvHalf::new(recv));
        match send.frame(&request).await {
            Ok(()) => Ok((send, recv, in_use)),
            // With the caller's name the request no longer fits.
            Err(StreamError::Protocol(codec)) => Err(Error::new(Code::TooLarge, codec.to_string())),
            Err(error) => Err(lost(error)),
        }
    };
    // A caller that goes away while the other server is dialled takes its request along.
    let opened = tokio::select! {
        opened = opened => opened,
        () = back.abandoned() => return,
    };
    let (send, recv, _in_use) = match opened {
        Ok(opened) => opened,
        // The caller hears that this server leaves, which is why the other is lost.
        Err(error) if error.code == Code::Unreachable && server.is_leaving() => {
            return back.abandoned().await;
        }
        Err(error) => {
            // A caller that is gone needs no answer.
            let _ = back.last_frame(&Reply::Err(error)).await;
            return;
        }
    };
    let explain = |lost: &StreamError| {
        debug!("lost {} while forwarding: {lost}", to.fingerprint.id());
        // Of a server that leaves the others close the connections. What it forwards is lost with
        // itself, and its callers hear so by the end of their own connections.
        (!server.is_leaving()).then(|| unreachable(server, to, lost))
    };
    tokio::join!(
        relay::up(from, send),
        relay::down(recv, back, changes, explain)
    );
}

/// A server's name and address.
fn named(to: &Record) -> String {
    format!("the server {} at {}", to.name, to.url.authority())
}

/// The error for a caller whose request the other server takes no stream for.
fn too_many(to: &Record) -> Error {
    let message = format!("{} takes no more requests from this server", named(to));
    Error::new(Code::Busy, message)
}

/// The error for a caller whose request or its answer was lost on the way.
fn unreachable(server: &Server, to: &Record, error: &StreamError) -> Error {
    let who = named(to);
    let lost = match error {
        StreamError::Lost(lost) => lost,
        StreamError::Protocol(_) | StreamError::Failed(_) | StreamError::Abandoned => {
            let message = format!("{who} broke the protocol: {error}");
            return Error::new(Code::Internal, message);
        }
    };
    let is_back = || server.peer.member(to.fingerprint.id()).is_some();
    let reason = match lost {
        // Servers keep their connections up: only a restart forgets them.
        Lost::Forgotten => "it was restarted".to_owned(),
        // This server closed the connection, as membership knows of another life of the other.
        Lost::ClosedHere if is_back() => "it was restarted".to_owned(),
        Lost::ClosedHere => "it is no longer in the circuit".to_owned(),
        other => other.to_string(),
    };
    let message = format!("lost {who}: {reason}");
    Error::new(Code::Unreachable, message)
}
