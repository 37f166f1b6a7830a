//! Requests for other servers: passed on once, over transfer connections that are opened on demand
//! and close when idle.
//!
//! The forwarder understands frames and chunks, not operations: whatever the two ends say to each
//! other passes, half-closes, resets and stops included, with back-pressure both ways. A hop that
//! is lost becomes `Unreachable`.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::dial::Accepted;
use circuit_client::transport::endpoint::close;
use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError, loss};
use circuit_client::transport::tls::Pin;
use circuit_proto::codec::MAX_FRAME;
use circuit_proto::handshake::Close;
use circuit_proto::membership::Record;
use circuit_proto::request::{End, Reply, Request};
use circuit_proto::{Code, Error, Fingerprint, Life};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tracing::debug;

use super::Server;

/// After how long without requests a transfer connection is closed. docs/design.md, "The wire".
const IDLE: Duration = Duration::from_secs(60);

/// How long a server that membership has given up may still speak: one that leaves in order closes
/// its connections itself, and says why. Membership knows of one that died long before its
/// connections time out. Chosen: far longer than a farewell takes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a server has to answer a forwarder's dial. Chosen: below the callers' own deadline of
/// five seconds, so that they learn the reason.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The transfer connections of a server, one per other server at most.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    slots: Mutex<BTreeMap<Fingerprint, Arc<Slot>>>,
}

/// The place of one connection. Locked while it is dialled, so that many callers dial once, and
/// share the failure if it fails.
#[derive(Debug, Default)]
struct Slot {
    place: AsyncMutex<Place>,
}

#[derive(Debug, Default)]
struct Place {
    open: Option<Transfer>,
    /// The last dial, if it failed: when, of which life, and why. Who asked for that before then is
    /// not to dial again.
    failed: Option<(Instant, Life, Error)>,
}

#[derive(Debug, Clone)]
struct Transfer {
    accepted: Accepted,
    used: Arc<Use>,
}

#[derive(Debug)]
struct Use {
    state: Mutex<(usize, Instant)>,
}

/// A request's use of a transfer connection.
struct InUse(Arc<Use>);

impl Transfers {
    /// How many are open.
    pub(super) fn open(&self) -> usize {
        let slots = self.slots.lock();
        slots.values().filter(|slot| slot.is_open()).count()
    }

    async fn connection(
        &self,
        server: &Server,
        to: &Record,
    ) -> Result<(quinn::Connection, InUse), Error> {
        let slot = {
            let mut slots = self.slots.lock();
            // Closed connections go when the next is asked for, so the table stays as large as
            // what is in use.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.is_open());
            slots.entry(to.fingerprint).or_default().clone()
        };
        let asked = Instant::now();
        let mut place = slot.place.lock().await;
        // An earlier life may have ended without a word. A later one may have answered before there
        // is news of it.
        if let Some(transfer) = &place.open
            && transfer.accepted.life() < to.life()
        {
            close(&transfer.accepted.connection, Close::Done);
        }
        if let Some(transfer) = &place.open
            && transfer.accepted.connection.close_reason().is_none()
        {
            return Ok((
                transfer.accepted.connection.clone(),
                InUse::begin(&transfer.used),
            ));
        }
        if let Some((at, of, error)) = &place.failed
            && *at >= asked
            && *of == to.life()
        {
            return Err(error.clone());
        }
        let pin = Pin::Fingerprint(to.fingerprint);
        let dialled = server.outbound.transfer(&to.url, pin, DIAL_TIMEOUT).await;
        let accepted = match dialled {
            Ok(accepted) => accepted,
            Err(error) => {
                let error = Error::new(Code::Unreachable, error.to_string());
                place.failed = Some((Instant::now(), to.life(), error.clone()));
                return Err(error);
            }
        };
        let used = Arc::new(Use {
            state: Mutex::new((0, Instant::now())),
        });
        let in_use = InUse::begin(&used);
        let (peer, life) = (server.peer.clone(), accepted.life());
        let idle = close_when_idle(accepted.connection.clone(), used.clone());
        let connection = accepted.connection.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = idle => (),
                () = async {
                    peer.outlived(life).await;
                    tokio::time::sleep(LAST_WORDS).await;
                } => close(&connection, Close::Done),
            }
        });
        let connection = accepted.connection.clone();
        place.open = Some(Transfer { accepted, used });
        Ok((connection, in_use))
    }
}

impl Slot {
    fn is_open(&self) -> bool {
        match self.place.try_lock() {
            Ok(place) => place
                .open
                .as_ref()
                .is_some_and(|transfer| transfer.accepted.connection.close_reason().is_none()),
            // Somebody dials.
            Err(_) => true,
        }
    }
}

impl Use {
    fn lock(&self) -> parking_lot::MutexGuard<'_, (usize, Instant)> {
        self.state.lock()
    }
}

impl InUse {
    fn begin(used: &Arc<Use>) -> InUse {
        used.lock().0 += 1;
        InUse(used.clone())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.0 -= 1;
        state.1 = Instant::now();
    }
}

async fn close_when_idle(connection: quinn::Connection, used: Arc<Use>) {
    loop {
        let (count, last) = *used.lock();
        let wait = match (count, last.elapsed()) {
            (0, idle) if idle >= IDLE => break,
            (0, idle) => IDLE - idle,
            _ => IDLE,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => (),
            _ = connection.closed() => return,
        }
    }
    close(&connection, Close::Done);
}

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
    tokio::join!(
        pass_up(from, send),
        pass_down(server, to, recv, back, changes)
    );
}

/// From the caller to the other server.
async fn pass_up(mut from: RecvHalf, mut to: SendHalf) {
    let abandoned = to.abandoned();
    tokio::pin!(abandoned);
    loop {
        let finished = tokio::select! {
            finished = from.at_finish() => finished,
            // The other server reads no more: so do we, and the caller learns of it.
            () = &mut abandoned => return,
        };
        match finished {
            Ok(true) => return to.finish(),
            Ok(false) => (),
            // Dropped unfinished, `to` resets.
            Err(_) => return,
        }
        let Ok(item) = from.raw_frame(MAX_FRAME).await else {
            return;
        };
        if to.raw_frame(item).await.is_err() {
            return;
        }
    }
}

/// How far an answer has come.
#[derive(PartialEq)]
enum Stage {
    Reply,
    Data,
    End,
    Behind,
}

/// From the other server to the caller.
async fn pass_down(
    server: &Server,
    to: &Record,
    mut from: RecvHalf,
    mut back: SendHalf,
    changes: bool,
) {
    let abandoned = back.abandoned();
    tokio::pin!(abandoned);
    let mut stage = Stage::Reply;
    let lost = loop {
        let item = async {
            match from.at_finish().await? {
                true => Ok(None),
                false => from.raw_frame(MAX_FRAME).await.map(Some),
            }
        };
        let item = tokio::select! {
            item = item => item,
            () = &mut abandoned => return,
        };
        let item = match item {
            Ok(Some(item)) => item,
            Ok(None) => return back.finish(),
            Err(error) => break error,
        };
        stage = match stage {
            Stage::Reply => Stage::Data,
            Stage::Data if item.is_empty() => Stage::End,
            Stage::Data => Stage::Data,
            Stage::End | Stage::Behind => Stage::Behind,
        };
        if back.raw_frame(item).await.is_err() {
            return;
        }
    };
    debug!("lost {} while forwarding: {lost}", to.fingerprint.id());
    let mut error = unreachable(server, to, &lost);
    // The other server itself abandoned the stream: then so do we.
    if matches!(lost, StreamError::Abandoned) {
        return;
    }
    // Behind the end an acknowledgement is answered, which may have been heard.
    if stage == Stage::Behind || stage == Stage::Reply && changes {
        error.code = Code::Unknown;
    }
    let said = match stage {
        Stage::Reply => back.frame(&Reply::Err(error)).await,
        Stage::End | Stage::Behind => back.frame(&End::Err(error)).await,
        Stage::Data => back.send_end(&Err(error)).await,
    };
    if said.is_ok() {
        back.finish();
    }
}

fn unreachable(server: &Server, to: &Record, error: &StreamError) -> Error {
    let is_back = || server.peer.member(to.fingerprint.id()).is_some();
    let reason = match error {
        // Servers keep their connections up: only a restart forgets them.
        StreamError::Lost(quinn::ConnectionError::Reset) => "it was restarted".to_owned(),
        // Closed by us, as membership knows of another life of it.
        StreamError::Lost(quinn::ConnectionError::LocallyClosed) if is_back() => {
            "it was restarted".to_owned()
        }
        StreamError::Lost(quinn::ConnectionError::LocallyClosed) => {
            "it is no longer in the circuit".to_owned()
        }
        StreamError::Lost(lost) => loss(lost),
        other => other.to_string(),
    };
    Error::new(
        Code::Unreachable,
        format!("lost the server at {}: {reason}", to.url.authority()),
    )
}
