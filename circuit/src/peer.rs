//! A server's place among the others: drives the membership machine of [`circuit_proto`] over
//! QUIC connections.
//!
//! One task, the [`Driver`], feeds the machine and carries out its outputs. All other tasks read the
//! view through [`Peer`]. The machine is pure, so the driver's own work is connections: at most one
//! per peer, dialled because the machine, a join URL or an announcement asks for it.
//!
//! This module knows nothing of anchors.

mod addresses;
pub mod alone;
mod copies;
pub mod datagram;
pub mod discovery;
mod link;
pub mod multicast;
pub mod outbound;
pub mod seek;
pub mod tether;

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use circuit_client::transport::dial::{Accepted, DIAL_TIMEOUT};
use circuit_client::transport::endpoint::plain;
use circuit_client::transport::tls::Pin;
use circuit_proto::element::anchor::{ServerEntry, ServerState};
use circuit_proto::handshake::Close;
use circuit_proto::membership::{
    Gone, Input, Machine, Message, Notice, Output, Record, TetherState,
};
use circuit_proto::{Code, Error, Fingerprint, Life, ServerId, Url};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use addresses::Addresses;
use datagram::Datagrams;
use link::Link;
use outbound::Outbound;
use tether::{Subject, Tethers};

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

/// An event that the driver is told of.
#[derive(Debug)]
enum Event {
    /// A connection is up.
    Up { accepted: Accepted, origin: Origin },
    /// A message on the connection of this number.
    Message {
        peer: Fingerprint,
        number: u64,
        message: Message,
    },
    /// Something else about the connection of this number; 0 if it is about none.
    Input { number: u64, input: Input },
    /// Leaves the circuit; done when the last messages on all links have been sent.
    Leave {
        silently: bool,
        done: oneshot::Sender<()>,
    },
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

/// The task that drives the machine.
#[derive(Debug)]
pub struct Driver {
    peer: Arc<Peer>,
    me: Fingerprint,
    queue: mpsc::Receiver<Event>,
    datagrams: Datagrams,
    addresses: Addresses,
    tethers: Arc<Tethers>,
    links: BTreeMap<Fingerprint, Link>,
    next_number: u64,
    begin: Instant,
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
        let driver = Driver {
            me: peer.me().fingerprint,
            peer: peer.clone(),
            queue,
            addresses: Addresses::new(datagrams.reaches_v6(), &peer.outbound),
            datagrams,
            tethers,
            links: BTreeMap::new(),
            next_number: 1,
            begin: Instant::now(),
        };
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

impl Driver {
    /// Drives the machine for as long as the server lives.
    pub async fn run(mut self) {
        let me = self.me;
        loop {
            let due = self.peer.machine().poll_timeout().map(|at| self.begin + at);
            tokio::select! {
                event = self.queue.recv() => match event {
                    Some(Event::Leave { silently, done }) => {
                        if !silently {
                            self.handle(Input::Leave);
                        }
                        let why = if silently { Close::Copy } else { Close::Leaving };
                        self.close_links(why).await;
                        // Nobody waits any more if the time ran out.
                        let _ = done.send(());
                        return;
                    }
                    Some(event) => self.on_event(event),
                    None => return,
                },
                Some((from, message)) = self.datagrams.recv(me) => {
                    self.handle(Input::Datagram { from, message });
                }
                Some(()) = self.addresses.found() => (),
                () = tokio::time::sleep_until(due.unwrap_or(self.begin)), if due.is_some() => {
                    self.handle(Input::Tick);
                }
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Up { accepted, origin } => self.on_up(accepted, origin),
            Event::Message {
                peer,
                number,
                message,
            } => {
                if self.is_current(&peer, number) {
                    self.tether(&peer);
                    self.handle(Input::Message {
                        from: peer,
                        message,
                    });
                }
            }
            Event::Input { number, mut input } => {
                match &mut input {
                    Input::Disconnected { peer, why } if self.is_current(peer, number) => {
                        let link = self.links.remove(peer);
                        let known = self.peer.life(peer.id());
                        // The life that leaves need not be the one that is in the view.
                        if let (Some(link), Some(known)) = (link, known)
                            && link.accepted.identity.instance != known.instance
                            && *why == Gone::Leaving
                        {
                            *why = Gone::Closed;
                        }
                    }
                    Input::Tether { peer, state } if self.is_current(peer, number) => match state {
                        TetherState::Broken => info!("tether broke: {}", peer.id()),
                        _ => debug!(?state, "tether: {}", peer.id()),
                    },
                    _ if number == 0 => (),
                    // The event is about an earlier connection.
                    _ => return,
                }
                self.handle(input);
            }
            // Handled by the loop.
            Event::Leave { .. } => (),
        }
    }

    fn is_current(&self, peer: &Fingerprint, number: u64) -> bool {
        self.links
            .get(peer)
            .is_some_and(|link| link.number == number)
    }

    /// Keeps one connection per peer. When two servers dial each other at the same time, both
    /// keep the one that the lower fingerprint dialled. Of two from the same side the newer is kept:
    /// the server that dialled it knows that the older is gone. Of two to different lives of one server
    /// the one to the later life is kept, unless something is held against that life.
    fn on_up(&mut self, accepted: Accepted, origin: Origin) {
        let peer = accepted.fingerprint;
        let dialled = matches!(origin, Origin::Dialled);
        if let Some(old) = self.links.get(&peer)
            && old.is_open()
        {
            let same = old.accepted.identity.instance == accepted.identity.instance;
            let preferred = self.me < peer;
            let redundant = match same {
                true => old.dialled != dialled && old.dialled == preferred,
                false => self.peer.taken(&peer, accepted.life()).is_some(),
            };
            if redundant {
                circuit_client::transport::endpoint::close(&accepted.connection, Close::Redundant);
                return;
            }
        }
        let number = self.next_number;
        self.next_number += 1;
        let mut link = Link::new(accepted, dialled, number, &self.peer.events);
        if !dialled {
            let subject = self.subject(peer, number);
            let connection = &link.accepted.connection;
            link.tether = self.tethers.await_dialler(connection, subject);
        }
        if let Some(old) = self.links.insert(peer, link) {
            old.close(Close::Redundant);
        }
        self.handle(Input::Connected { peer, dialled });
        if let Origin::Accepted(Some(message)) = origin {
            let from = peer;
            self.handle(Input::Message { from, message });
        }
    }

    /// Opens the tether of a connection that this server has dialled, if there is none yet.
    fn tether(&mut self, peer: &Fingerprint) {
        if let Some(link) = self.links.get(peer)
            && link.dialled
            && link.tether.is_none()
        {
            let subject = self.subject(*peer, link.number);
            let tether = self.tethers.dial(&link.accepted.connection, subject);
            if let Some(link) = self.links.get_mut(peer) {
                link.tether = tether;
            }
        }
    }

    fn subject(&self, peer: Fingerprint, number: u64) -> Subject {
        Subject {
            peer,
            number,
            events: self.peer.events.clone(),
        }
    }

    /// Feeds the machine, and carries out its outputs.
    fn handle(&mut self, input: Input) {
        let now = self.begin.elapsed();
        let outputs: Vec<Output> = {
            let mut machine = self.peer.machine();
            machine.handle(input, now);
            let outputs: Vec<_> = std::iter::from_fn(|| machine.poll_output()).collect();
            self.peer.tell(&outputs);
            self.peer.outbound.set_life(machine.me().count);
            outputs
        };
        for output in outputs {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Connect { to } => self.connect(to),
            Output::Disconnect { peer } => {
                if let Some(link) = self.links.remove(&peer) {
                    tokio::spawn(link.drain_and_close(Close::Done));
                }
            }
            Output::Send { to, message } => {
                if let Some(link) = self.links.get(&to) {
                    // The process that is pinged may have died, or only stand still.
                    if let (Message::Ping { .. }, Some(tether)) = (&message, &link.tether) {
                        tether.ask();
                    }
                    link.send(message);
                }
            }
            Output::Datagram { to, message } => {
                if let Some(address) = self.address_of(&to) {
                    self.datagrams.send(to.fingerprint, address, &message);
                }
            }
            Output::Ask { to } => {
                let peer = self.peer.clone();
                tokio::spawn(async move { peer.ask(to).await });
            }
            Output::Notice(notice) => {
                let counters = &self.peer.outbound.runtime().counters;
                match &notice {
                    Notice::Join(who) if who.fingerprint == self.me => warn!(
                        "the circuit knew of a later life of this server than -var did (was the \
                         directory set back, or copied?): this is life {} from now on",
                        who.count
                    ),
                    Notice::Leave(who) if who.fingerprint == self.me => (),
                    Notice::Join(who) => {
                        counters.joined.one();
                        info!("joined: {} {}", who.fingerprint.id(), who.url);
                        self.warn_of_namesake(who);
                    }
                    Notice::Leave(who) => {
                        counters.left.one();
                        warn!("left: {} {}", who.fingerprint.id(), who.url);
                    }
                }
                self.peer.changes.send_modify(|count| *count += 1);
            }
        }
    }

    /// Where a datagram to this server goes; `None` if that is not known yet.
    fn address_of(&mut self, to: &Record) -> Option<SocketAddr> {
        if let Some(address) = to.url.address() {
            return Some(address);
        }
        match self.links.get(&to.fingerprint) {
            Some(link) if link.is_open() => Some(plain(link.accepted.connection.remote_address())),
            _ => self.addresses.of(&to.url, Instant::now()),
        }
    }

    /// Two servers of one name are found out by people only when a path fails.
    fn warn_of_namesake(&self, who: &Record) {
        let me = self.peer.me();
        if who.fingerprint != me.fingerprint && who.name == me.name {
            let (mine, theirs) = (me.fingerprint.id(), who.fingerprint.id());
            warn!(
                "two servers are named {}: {mine} at {} (this one) and {theirs} at {}; paths reach \
                 them by id only, until one is started with another -name",
                me.name,
                me.url.authority(),
                who.url.authority()
            );
        }
    }

    fn connect(&self, to: Arc<Record>) {
        if self.links.get(&to.fingerprint).is_some_and(Link::is_open) {
            return;
        }
        let peer = self.peer.clone();
        tokio::spawn(async move {
            let pin = Pin::Fingerprint(to.fingerprint);
            let hello = peer.hello();
            let dialled = peer.outbound.link(&to.url, pin, &hello, DIAL_TIMEOUT).await;
            match dialled {
                Ok(accepted) => peer.adopt_in_order(accepted, Origin::Dialled).await,
                Err(error) => {
                    debug!("no link: {error}");
                    peer.failed_by_copy(&to.url, &error).await;
                    let input = Input::ConnectFailed {
                        peer: to.fingerprint,
                    };
                    let _ = peer.events.send(Event::Input { number: 0, input }).await;
                }
            }
        });
    }

    /// Closes all links, once the messages on them have been sent.
    async fn close_links(&mut self, why: Close) {
        let links = std::mem::take(&mut self.links).into_values();
        let mut closing = tokio::task::JoinSet::new();
        for link in links {
            closing.spawn(link.drain_and_close(why));
        }
        closing.join_all().await;
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
