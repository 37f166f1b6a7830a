//! Serves the requests of one connection, each in a task of its own, up to a number at the same time.
//!
//! **Cancellation:** each request of a connection that is lost learns so from its own stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use circuit_client::transport::stream::{RecvHalf, SendHalf};
use circuit_proto::request::Reply;
use circuit_proto::{Code, Error};
use tracing::{Instrument, Level, debug_span};

use super::Server;
use super::accept::{CLIENT_REQUESTS, TRANSFER_REQUESTS};
use super::dispatch::{Caller, answer};
use crate::runtime::budget::Budget;

/// How many requests are begun before the other tasks of the thread have their turn. Chosen, not
/// measured: a request that has come costs some ten microseconds.
const TURN: usize = 64;

/// Serves the requests of a connection until it ends.
pub(super) async fn serve(server: Arc<Server>, connection: quinn::Connection, caller: Caller) {
    let limit = match &caller {
        Caller::Client(_) => CLIENT_REQUESTS,
        Caller::Server(..) => TRANSFER_REQUESTS,
    };
    let in_flight = Arc::new(AtomicUsize::new(0));
    let mut turn = Budget::new(TURN);
    while let Ok((send, recv)) = connection.accept_bi().await {
        turn.spend(1).await;
        let (send, recv) = (SendHalf::new(send), RecvHalf::new(recv));
        let count = Counted::new(&in_flight);
        let busy = count.before >= limit;
        let (server, connection) = (server.clone(), connection.clone());
        let caller = caller.clone();
        let request = async move {
            let _count = count;
            match busy {
                true => refuse_one_too_many(send, limit).await,
                false => answer(server, connection, caller, send, recv).await,
            }
        };
        match tracing::enabled!(Level::DEBUG) {
            true => drop(tokio::spawn(request.instrument(debug_span!("request")))),
            false => drop(tokio::spawn(request)),
        }
    }
}

/// A request in flight.
struct Counted {
    in_flight: Arc<AtomicUsize>,
    /// How many there were before it.
    before: usize,
}

impl Counted {
    fn new(in_flight: &Arc<AtomicUsize>) -> Counted {
        let before = in_flight.fetch_add(1, Ordering::Relaxed);
        Counted {
            in_flight: in_flight.clone(),
            before,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn refuse_one_too_many(mut send: SendHalf, limit: usize) {
    let message = format!("{limit} requests are in flight on this connection");
    // A caller that is gone needs no answer.
    let _ = send
        .frame(&Reply::Err(Error::new(Code::Busy, message)))
        .await;
    send.finish();
}
