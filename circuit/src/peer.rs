//! A server's place among the others: drives the membership machine of [`circuit_proto`] over
//! QUIC connections.
//!
//! One task, the [`Driver`], feeds the machine and carries out its outputs; connections are dialled
//! because the machine, a join URL or an announcement asks for it. All other tasks read the view
//! through [`Peer`].
//!
//! This module knows nothing of anchors.

mod addresses;
pub mod alone;
mod copies;
pub mod datagram;
pub mod discovery;
mod driver;
mod link;
pub mod multicast;
pub mod outbound;
pub mod seek;
pub mod tether;

use parking_lot::{Mutex, MutexGuard};
use std::sync::{Arc, Weak};
use std::time::Duration;

use circuit_client::transport::dial::Accepted;
use circuit_proto::element::anchor::{ServerEntry, ServerState};
use circuit_proto::membership::{Machine, Message, Notice, Output, Record};
use circuit_proto::{Code, Error, Life, ServerId, Url};
use tokio::sync::{mpsc, oneshot, watch};

use datagram::Datagrams;
pub use driver::Driver;
use driver::Event;
use outbound::Outbound;
use tether::Tethers;

/// How many events may wait for the driver; a task that brings more waits. Chosen, not measured: a
/// few per connection.
const EVENTS: usize = 256;

/// How long `join` may take until the other circuit is seen. Chosen, not measured: below the
/// callers' own deadline of five seconds.
const JOIN_TIMEOUT: Duration = Duration::from_secs(4);

/// The view of the circuit, and the way to change one's place in it.
#[derive(Debug)]
pub struct Peer {
    machine: Mutex<Machine>,
    events: mpsc::Sender<Event>,
    outbound: Arc<Outbound>,
    /// Counts the changes of the view.
    changes: watch::Sender<u64>,
    /// Changed under the machine's lock only.
    watchers: Mutex<Vec<Weak<dyn Watch>>>,
}

/// Something that is told of the servers that join and leave.
pub trait Watch: std::fmt::Debug + Send + Sync {
    /// A server has joined or left. This is called on the network thread, under the view's lock: it
    /// may only put the notice into a queue, and ask nothing of the view.
    fn notice(&self, notice: &Notice);
}

/// Which end opened a connection.
#[derive(Debug)]
pub enum Origin {
    /// This server.
    Dialled,
    /// The other, which may have said its first message with its handshake.
    Accepted(Option<Message>),
}

/// The part of `peek` that is about the view.
#[derive(Debug)]
pub struct View {
    /// How many servers live, this one included.
    pub servers: usize,
    /// The neighbours' ids.
    pub links: Vec<ServerId>,
    /// The suspects' ids.
    pub suspected: Vec<ServerId>,
    /// Whether this server has lost all its links.
    pub isolated: bool,
}

impl Peer {
    /// A server that knows only itself, and the driver to be run.
    pub fn new(
        me: Record,
        outbound: Arc<Outbound>,
        datagrams: Datagrams,
        tethers: Arc<Tethers>,
    ) -> (Arc<Peer>, Driver) {
        let (events, queue) = mpsc::channel(EVENTS);
        let machine = Mutex::new(Machine::new(me, random_seed(), Duration::ZERO));
        let peer = Arc::new(Peer {
            machine,
            events,
            outbound,
            changes: watch::Sender::new(0),
            watchers: Mutex::default(),
        });
        let driver = Driver::new(peer.clone(), queue, datagrams, tethers);
        (peer, driver)
    }

    /// This server's own record.
    pub fn me(&self) -> Record {
        self.machine().me().clone()
    }

    /// The live member with this id.
    pub fn member(&self, id: ServerId) -> Option<Record> {
        self.machine().get(id).cloned()
    }

    /// The live member, other than this server, whose URL has this address.
    fn member_at(&self, url: &Url) -> Option<ServerId> {
        let machine = self.machine();
        let me = machine.me().fingerprint;
        let mut others = machine.live().filter(|record| record.fingerprint != me);
        let there =
            others.find(|record| record.url.host == url.host && record.url.port == url.port);
        there.map(|record| record.fingerprint.id())
    }

    /// The live members with this name.
    pub fn members_named(&self, name: &str) -> Vec<Record> {
        self.machine()
            .live()
            .filter(|record| record.name == name)
            .map(|record| Record::clone(record))
            .collect()
    }

    /// The live members, for a listing.
    pub fn servers(&self) -> Vec<ServerEntry> {
        let machine = self.machine();
        let suspected: Vec<ServerId> = machine.suspected().map(|r| r.fingerprint.id()).collect();
        let isolated = is_cut_off(&machine).then(|| machine.me().fingerprint.id());
        let entry = |record: &Arc<Record>| {
            let id = record.fingerprint.id();
            let state = match id {
                id if isolated == Some(id) => ServerState::Isolated,
                id if suspected.binary_search(&id).is_ok() => ServerState::Suspected,
                _ => ServerState::Alive,
            };
            ServerEntry {
                id,
                name: record.name.clone(),
                url: record.url.clone(),
                state,
            }
        };
        machine.live().map(entry).collect()
    }

    /// Whether this server has lost all its links and suspects all others: its view may be old.
    pub fn is_cut_off(&self) -> bool {
        is_cut_off(&self.machine())
    }

    /// The view for `peek`.
    pub fn view(&self) -> View {
        let machine = self.machine();
        View {
            servers: machine.len(),
            links: machine
                .neighbours()
                .map(|record| record.fingerprint.id())
                .collect(),
            suspected: machine
                .suspected()
                .map(|record| record.fingerprint.id())
                .collect(),
            isolated: machine.is_isolated(),
        }
    }

    /// Merges this circuit with that of the server at `url`. Returns when it is in the view.
    pub async fn join(&self, url: &Url) -> Result<(), Error> {
        let unreachable = |error: String| Error::new(Code::Unreachable, error);
        let joined = async {
            let is_joined = seek::is_joined(self, url).await;
            if is_joined.map_err(|e| unreachable(e.to_string()))? {
                return Ok(());
            }
            let accepted = match seek::dial(self, url).await {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.failed_by_copy(url, &error).await;
                    return Err(unreachable(error.to_string()));
                }
            };
            let life = accepted.life();
            self.adopt_in_order(accepted, Origin::Dialled).await;
            self.seen(life).await;
            Ok(())
        };
        tokio::time::timeout(JOIN_TIMEOUT, joined)
            .await
            .unwrap_or_else(|_| Err(unreachable(format!("{url} did not join in time"))))
    }

    /// In which life a server is in the view; `None` if it is not there.
    pub fn life(&self, id: ServerId) -> Option<Life> {
        self.machine().life(id)
    }

    /// Resolves when this life of a server, or a later one, is in the view.
    async fn seen(&self, life: Life) {
        self.until(|| self.life(life.id) >= Some(life)).await;
    }

    /// Resolves when this life of a server is no longer in the view. It may be yet to come: a newcomer
    /// may be faster than the news of it.
    pub async fn outlived(&self, life: Life) {
        self.seen(life).await;
        // A process goes on where it has only raised its count.
        let instance = |life: Life| life.instance;
        self.until(|| self.life(life.id).map(instance) != Some(life.instance))
            .await;
    }

    /// Counts the changes of the view.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Resolves when something is so in the view.
    async fn until(&self, is_so: impl Fn() -> bool) {
        let mut changes = self.changes.subscribe();
        while !is_so() {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Tells a watcher of each server that is in the view, and from then on of each that joins or
    /// leaves, for as long as it lives: nothing is missing between the two, and nothing doubled.
    pub fn watch(&self, watcher: &Arc<dyn Watch>) {
        let machine = self.machine();
        for record in machine.live() {
            watcher.notice(&Notice::Join(Arc::clone(record)));
        }
        let mut watchers = self.watchers();
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(watcher));
    }

    /// Takes over a connection for membership.
    pub fn adopt(self: &Arc<Self>, accepted: Accepted, origin: Origin) {
        let peer = self.clone();
        tokio::spawn(async move { peer.adopt_in_order(accepted, origin).await });
    }

    async fn adopt_in_order(&self, accepted: Accepted, origin: Origin) {
        // Without a driver the server is about to end, and its connections with it.
        let _ = self.events.send(Event::Up { accepted, origin }).await;
    }

    /// The first message of membership on a connection.
    fn hello(&self) -> Message {
        self.machine().hello()
    }

    /// Leaves the circuit: says so to all neighbours, unless it is to go silently, because another
    /// server with this one's identity stays.
    pub async fn leave(&self, silently: bool) {
        let (done, left) = oneshot::channel();
        let leave = Event::Leave { silently, done };
        if self.events.send(leave).await.is_ok() {
            let _ = left.await;
        }
    }

    /// How many events wait for the driver.
    pub fn queued(&self) -> usize {
        self.events.max_capacity() - self.events.capacity()
    }

    fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// Tells the watchers of the joins and leaves among these outputs. The machine is locked
    /// meanwhile.
    fn tell(&self, outputs: &[Output]) {
        for output in outputs {
            if let Output::Notice(notice) = output {
                self.watchers().retain(|watcher| match watcher.upgrade() {
                    Some(watcher) => {
                        watcher.notice(notice);
                        true
                    }
                    None => false,
                });
            }
        }
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Weak<dyn Watch>>> {
        self.watchers.lock()
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        // The machine does not panic; were it to, its view would still be the best there is.
        self.machine.lock()
    }
}

fn is_cut_off(machine: &Machine) -> bool {
    // A server that is back is trusted a moment before there is a link to it.
    machine.is_isolated() && machine.suspected().count() + 1 == machine.len()
}

/// A seed for a machine, from the operating system; from the clock if that has none.
fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |now| now.as_nanos() as u64),
    }
}
