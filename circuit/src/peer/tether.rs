//! Tethers: beside each connection for membership a TCP connection to the same port number. It is
//! silent, and its end says that the process at the other end is gone.
//!
//! A QUIC connection ends with its process, and nobody hears of it. A TCP connection belongs to the
//! kernel, which closes it when the process dies and goes on acknowledging while the process is
//! merely stopped. The end that dialled the QUIC connection dials the tether too ([`dial`]); the
//! other end accepts it ([`accept`]). Each end shows a token that only the two ends of the QUIC
//! connection know; then both are silent. A tether that is lost before its QUIC connection is
//! opened again, and so is one that could not be opened: ever more rarely, should that go on.
//!
//! Whether the other kernel still acknowledges is found out when asked ([`Tether::ask`]): TCP's
//! keep-alive is made to fall due, once, and a moment later the kernel tells when it last received
//! an acknowledgement ([`tcp`]).
//!
//! A client has a tether too while it holds something here, which it opens as a server would; its end
//! frees what the client held.
//!
//! Nothing but time depends on tethers: where there is none, or where its end means something
//! else, the membership machine finds out by asking.
//!
//! **Invariants:** the connections without a valid token are bounded in number and time. A token
//! opens one tether at a time. A tether at rest has no timer.

mod accept;
mod dial;
mod tcp;

use parking_lot::{Mutex, MutexGuard};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::tether::Token;
use circuit_proto::membership::{Input, TetherState};
use circuit_proto::{Fingerprint, ServerId};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};

use super::Event;
use crate::runtime::Runtime;
use crate::runtime::descriptors::User;
pub use accept::listen;

/// How long a tether outlives its QUIC connection. The other end is to hear of the connection's
/// close first: else it takes the tether's end for the end of the process. Chosen, not measured:
/// far longer than the close takes to be sent.
const LINGER: Duration = Duration::from_millis(200);

/// The tethers of one server.
#[derive(Debug)]
pub struct Tethers {
    /// The address that the server is bound to.
    address: IpAddr,
    /// By the diallers' tokens. The map's hashes have a secret of their own, so that the time that
    /// a lookup takes tells nothing about the other tokens.
    expected: Mutex<HashMap<Token, accept::Expected>>,
    /// How many tethers there are to each server: while one connection replaces another, each of
    /// the two has its own.
    held: Mutex<BTreeMap<ServerId, usize>>,
    runtime: Arc<Runtime>,
}

/// The server at the other end of a tether, and the driver that is told about it.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) peer: Fingerprint,
    pub(super) number: u64,
    pub(super) events: mpsc::Sender<Event>,
}

/// One tether, open or to come.
#[derive(Debug)]
pub(super) struct Tether {
    asked: Arc<Notify>,
}

impl Tethers {
    /// No tethers yet, for a server that is bound to this address.
    pub fn new(address: IpAddr, runtime: Arc<Runtime>) -> Arc<Tethers> {
        Arc::new(Tethers {
            address,
            expected: Mutex::default(),
            held: Mutex::default(),
            runtime,
        })
    }

    /// How many of these servers have a tether to this one.
    pub fn beside(&self, servers: &[ServerId]) -> usize {
        let held = self.held();
        servers.iter().filter(|id| held.contains_key(id)).count()
    }

    /// Holds a tether until it ends.
    async fn hold(self: &Arc<Self>, stream: &TcpStream, asked: &Notify, subject: &Subject) {
        // Both sides looked before whether there is a descriptor. If there is none any more, the
        // tether is held all the same: its end would mean the end of this process.
        let _taken = self.runtime.descriptors.take(User::Tethers, 1);
        let _held = Held::begin(self.clone(), subject.peer.id());
        hold(stream, asked, subject).await;
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<ServerId, usize>> {
        self.held.lock()
    }

    fn expected(&self) -> MutexGuard<'_, HashMap<Token, accept::Expected>> {
        self.expected.lock()
    }
}

/// Counts a tether for as long as it is held.
struct Held {
    tethers: Arc<Tethers>,
    to: ServerId,
}

impl Held {
    fn begin(tethers: Arc<Tethers>, to: ServerId) -> Held {
        *tethers.held().entry(to).or_default() += 1;
        Held { tethers, to }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.tethers.held().entry(self.to) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

impl Tether {
    /// Runs the task that holds a tether, until a moment after the connection beside it is closed.
    fn spawn<T>(connection: quinn::Connection, held: impl FnOnce(Arc<Notify>) -> T) -> Tether
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let asked = Arc::new(Notify::new());
        let held = held(asked.clone());
        tokio::spawn(async move {
            let closed = async {
                connection.closed().await;
                tokio::time::sleep(LINGER).await;
            };
            tokio::select! {
                () = held => (),
                () = closed => (),
            }
        });
        Tether { asked }
    }

    /// Finds out whether the other kernel still acknowledges. The answer comes as an event.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }
}

/// Holds a tether until it ends, and answers whoever asks meanwhile.
async fn hold(stream: &TcpStream, asked: &Notify, subject: &Subject) {
    tcp::quieten(stream);
    let answer = async {
        let mut told = TetherState::Unknown;
        loop {
            asked.notified().await;
            let mut state = tcp::acknowledgement(stream);
            if state == TetherState::Unknown {
                // The state that was told before no longer holds, and no other is known yet.
                if told != state {
                    subject.tell(state).await;
                    told = state;
                }
                state = tcp::acknowledgement_after_keepalive(stream).await;
            }
            if told != state {
                subject.tell(state).await;
                told = state;
            }
        }
    };
    tokio::select! {
        state = tcp::end(stream) => subject.tell(state).await,
        () = answer => (),
    }
}

impl Subject {
    async fn tell(&self, state: TetherState) {
        let peer = self.peer;
        let event = Event::Input {
            number: self.number,
            input: Input::Tether { peer, state },
        };
        // Without a driver there is nobody to tell.
        let _ = self.events.send(event).await;
    }
}
