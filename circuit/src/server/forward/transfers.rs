//! The transfer connections of a server: dialled on demand, one per other server at most, shared by
//! all requests for it, and closed when idle.
//!
//! **Invariant:** asking for one connection looks at the others rarely: the cost of a request does
//! not grow with the number of connections.
//!
//! **Cancellation:** a caller that is dropped while it dials leaves the place to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::dial::Accepted;
use circuit_client::transport::endpoint::close;
use circuit_client::transport::tls::Pin;
use circuit_proto::handshake::Close;
use circuit_proto::membership::Record;
use circuit_proto::{Code, Error, Fingerprint, Life};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::Server;

/// After how long without requests a transfer connection is closed (docs/design.md, "The wire").
const IDLE: Duration = Duration::from_secs(60);

/// How long a server that membership has given up may still speak: one that leaves in order closes
/// its connections itself, and says why. Membership knows of one that died long before its
/// connections time out. Chosen, not measured: far longer than a close takes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a server has to answer a forwarder's dial. Chosen, not measured: below the callers' own deadline of
/// five seconds, so that they learn the reason.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How many places there are before closed ones are looked for. Chosen, not measured: fewer cost
/// nothing to keep.
const SWEEP_AT: usize = 64;

/// The transfer connections of a server, one per other server at most.
#[derive(Debug, Default)]
pub(in super::super) struct Transfers {
    slots: Mutex<Slots<Fingerprint, Slot>>,
}

/// A table of shared places by key. Places that are not in use are dropped now and then.
#[derive(Debug)]
struct Slots<K, S> {
    places: BTreeMap<K, Arc<S>>,
    /// How many places there may be before those that are not in use are dropped.
    sweep_at: usize,
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
    /// The last dial, if it failed: when, of which life, and why. A caller that asked for that life
    /// before then shares the failure instead of dialling again.
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

/// A request's use of a transfer connection, which is not idle for as long as this is held.
#[derive(Debug)]
pub(super) struct InUse(Arc<Use>);

impl Transfers {
    /// How many are open.
    pub(in super::super) fn open(&self) -> usize {
        let slots = self.slots.lock();
        slots.places.values().filter(|slot| slot.is_open()).count()
    }

    /// An open connection to this life of a server, and the use of it, for as long as that is held.
    pub(super) async fn connection(
        &self,
        server: &Server,
        to: &Record,
    ) -> Result<(quinn::Connection, InUse), Error> {
        let slot = self.slots.lock().place(to.fingerprint, Slot::is_open);
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
                let message = format!("cannot reach the server {}: {error}", to.name);
                let error = Error::new(Code::Unreachable, message);
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

impl<K: Ord, S> Default for Slots<K, S> {
    fn default() -> Slots<K, S> {
        Slots {
            places: BTreeMap::new(),
            sweep_at: SWEEP_AT,
        }
    }
}

impl<K: Ord, S: Default> Slots<K, S> {
    /// The place of a key. `is_open` says whether a place that nobody holds is still in use.
    fn place(&mut self, key: K, is_open: impl Fn(&S) -> bool) -> Arc<S> {
        if self.places.len() >= self.sweep_at {
            self.places
                .retain(|_, place| Arc::strong_count(place) > 1 || is_open(place));
            // As many more may come as are left, so that a sweep costs each of them one look.
            self.sweep_at = SWEEP_AT.max(2 * self.places.len());
        }
        self.places.entry(key).or_default().clone()
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Asks for each of `count` open places, twice; gives how often a place was looked at.
    fn looked_at(count: usize) -> usize {
        let looked = Cell::new(0);
        let mut slots = Slots::<usize, ()>::default();
        for key in (0..count).chain(0..count) {
            slots.place(key, |()| {
                looked.set(looked.get() + 1);
                true
            });
        }
        assert_eq!(slots.places.len(), count);
        looked.get()
    }

    #[test]
    fn a_request_does_not_look_at_all_other_connections() {
        let (some, many) = (looked_at(1_000), looked_at(4_000));
        assert!(some <= 4_000, "{some} looks of 2,000 requests");
        assert!(many <= 16_000, "{many} looks of 8,000 requests");
    }

    #[test]
    fn places_that_are_closed_and_that_nobody_holds_go() {
        let mut slots = Slots::<usize, ()>::default();
        let held = slots.place(0, |()| false);
        for key in 1..10_000 {
            slots.place(key, |()| false);
            assert!(slots.places.len() <= 2 * SWEEP_AT, "{}", slots.places.len());
        }
        assert!(Arc::ptr_eq(&held, &slots.place(0, |()| false)));
    }
}
