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

use circuit_client::transport::lost::Lost;
use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError};
use circuit_proto::membership::Record;
use circuit_proto::request::{Reply, Request};
use circuit_proto::{Code, Error};
use tracing::debug;

use super::Server;
pub(super) use transfers::Transfers;

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
        let (send, recv) = connection
            .open_bi()
            .await
            .map_err(|error| lost(error.into()))?;
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
        Err(error) => {
            // A caller that is gone needs no answer.
            let _ = back.frame(&Reply::Err(error)).await;
            back.finish();
            return;
        }
    };
    let explain = |lost: &StreamError| {
        debug!("lost {} while forwarding: {lost}", to.fingerprint.id());
        Some(unreachable(server, to, lost))
    };
    tokio::join!(
        relay::up(from, send),
        relay::down(recv, back, changes, explain)
    );
}

/// The error for a caller whose request or its answer was lost on the way.
fn unreachable(server: &Server, to: &Record, error: &StreamError) -> Error {
    let authority = to.url.authority();
    let lost = match error {
        StreamError::Lost(lost) => lost,
        StreamError::Protocol(_) | StreamError::Failed(_) | StreamError::Abandoned => {
            let message = format!("the server at {authority} broke the protocol: {error}");
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
    let message = format!("lost the server at {authority}: {reason}");
    Error::new(Code::Unreachable, message)
}
