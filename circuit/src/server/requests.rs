//! Serves the requests of one connection, each in a task of its own, up to a number at the same time.
//!
//! [`accept`](super::accept) hands over a connection whose peer was let in;
//! [`dispatch`](super::dispatch) executes each request in the [`Place`] that it has here.
//!
//! **Invariant:** a request beyond a limit is answered `Busy`. It never waits for the end of another
//! one, as the peer may always open more streams than there are places.
//!
//! **Cancellation:** each request of a connection that is lost learns so from its own stream.

mod places;

use std::sync::Arc;

use circuit_client::transport::endpoint::close;
use circuit_client::transport::stream::{RecvHalf, SendHalf};
use circuit_proto::Error;
use circuit_proto::handshake::Close;
use circuit_proto::request::Reply;
use quinn::VarInt;
use tracing::{Instrument, Level, debug_span};

use super::Server;
use super::dispatch::{Caller, Malformed, answer};
use crate::runtime::budget::Budget;
use places::TRANSFER;
pub(super) use places::{CLIENT, Place, Places, STREAMS_AT_FIRST};

/// How many requests are begun before the other tasks of the thread have their turn. Chosen, not
/// measured: a request that has come costs some ten microseconds.
const TURN: usize = 64;

/// Serves the requests of a connection until it ends.
pub(super) async fn serve(server: Arc<Server>, connection: quinn::Connection, caller: Caller) {
    let places = Places::new(match &caller {
        Caller::Client(_) => CLIENT,
        Caller::Server(..) => TRANSFER,
    });
    let mut turn = Budget::new(TURN);
    while let Ok((send, recv)) = connection.accept_bi().await {
        turn.spend(1).await;
        let (send, recv) = (SendHalf::new(send), RecvHalf::new(recv));
        let place = places.enter();
        if let Some(streams) = places.more_streams() {
            connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
        }
        let (server, connection) = (server.clone(), connection.clone());
        let caller = caller.clone();
        tokio::spawn(async move {
            if let Err(Malformed) = request(server, caller, place, send, recv).await {
                close(&connection, Close::Malformed);
            }
        });
    }
}

/// Has one request executed that has this place. Fails if it cannot be read, and the connection is
/// its caller's alone.
pub(super) async fn request(
    server: Arc<Server>,
    caller: Caller,
    place: Place,
    send: SendHalf,
    recv: RecvHalf,
) -> Result<(), Malformed> {
    if let Err(busy) = place.is_there() {
        refuse(send, busy).await;
        return Ok(());
    }
    let answered = answer(server, caller, place, send, recv);
    match tracing::enabled!(Level::DEBUG) {
        true => answered.instrument(debug_span!("request")).await,
        false => answered.await,
    }
}

/// Answers a request that was not read.
pub(super) async fn refuse(mut send: SendHalf, error: Error) {
    // A caller that is gone needs no answer.
    let _ = send.last_frame(&Reply::Err(error)).await;
}
