//! Membership: decides which servers are in the circuit and between which of them there are links.
//! It is one pure state machine.
//!
//! A server's driver feeds the [`Machine`] with [`Input`]s and carries out its [`Output`]s; the
//! simulator does the same for thousands of machines. The machine knows no sockets and no clock:
//! time comes in with each input, randomness from its seed.
//!
//! The driver's part is small. It dials join URLs and discovered servers by itself, keeps at most
//! one connection for membership per peer, says [`Input::Connected`] once the handshake is done,
//! and passes messages on. Everything else (introductions, sync, which connections become links,
//! which are closed again) is the machine's.
//!
//! **Invariants:** what is held of a server never decreases, and only that server raises its
//! life's count and its incarnation; it is never anything but alive in its own view, until it leaves. Nobody is down
//! without a leave, hard evidence, or a suspicion that has expired. Notices alternate per server,
//! and with the first list they make the view. The same seed and inputs give the same outputs.
//! Every table is bounded and nothing panics, no matter what peers say.
//!
//! After each [`Machine::handle`]: first drain [`Machine::poll_output`], then arm one timer for
//! [`Machine::poll_timeout`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::timers::Timers;
use crate::{Fingerprint, Life, ServerId, Url};

mod audit;
mod connection;
mod copies;
mod detector;
mod dissemination;
mod echo;
mod entry;
mod flood;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod input;
mod links;
mod message;
mod output;
mod overlay;
mod probe;
mod random;
mod rewire;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod suspicion;
mod sync;
#[cfg(test)]
mod tests;
mod timer;
mod tuning;
mod view;
mod witness;

pub use entry::{Entry, Held, Phase};
pub use input::{Gone, Input, TetherState, Verdict};
pub use message::{BUCKETS, MAX_DATAGRAM, MAX_ENTRIES, MAX_HASHES, Message, Wish};
pub use output::{Notice, Output};

use connection::Connection;
use copies::Copies;
use detector::Detector;
use dissemination::Dissemination;
use links::Links;
use random::Random;
use timer::Timer;
use tuning::*;
use view::View;

/// One server as the fabric knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Record {
    /// The hash of its public key.
    pub fingerprint: Fingerprint,
    /// Where others reach it; pinned.
    pub url: Url,
    /// Its name, for people.
    pub name: String,
    /// Which of its lives this is: [`Life::count`].
    pub count: u64,
    /// Which of several lives of that count: [`Life::instance`].
    pub instance: u64,
}

impl Record {
    /// The life that this record is of.
    pub fn life(&self) -> Life {
        Life {
            id: self.fingerprint.id(),
            count: self.count,
            instance: self.instance,
        }
    }
}

/// The membership of one server.
#[derive(Debug, Clone)]
pub struct Machine {
    me: Arc<Record>,
    incarnation: u64,
    leaving: bool,
    now: Duration,
    random: Random,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    connections: BTreeMap<Fingerprint, Connection>,
    // The components. Each has its own state and its own tests, and knows nothing of the others;
    // the machine tells each what has happened, and carries out what it decides. All may read the
    // view.
    view: View,
    news: Dissemination,
    links: Links,
    detector: Detector,
    copies: Copies,
}

/// The offset that is added to the driver's time, so that what happened before it began can be dated.
const BEFORE: Duration = TOMBSTONE;

impl Machine {
    /// A machine that knows only itself.
    ///
    /// `now` is the time since any fixed moment, and never goes back from call to call. The same
    /// seed and inputs give the same outputs.
    pub fn new(mut me: Record, seed: u64, now: Duration) -> Machine {
        me.count = me.count.min(MAX_LIVES);
        let now = now.saturating_add(BEFORE);
        let mut random = Random::new(seed);
        let first_nonce = random.bits();
        let links = Links::new(me.fingerprint);
        let mut machine = Machine {
            me: Arc::new(me),
            incarnation: 0,
            leaving: false,
            now,
            random,
            timers: Timers::default(),
            outputs: VecDeque::new(),
            connections: BTreeMap::new(),
            view: View::new(),
            news: Dissemination::new(now),
            links,
            detector: Detector::new(first_nonce),
            copies: Copies::default(),
        };
        let (who, held) = (machine.me.fingerprint, machine.my_held());
        machine
            .view
            .raise(who, held, Some(Arc::clone(&machine.me)), now);
        for (timer, interval) in [
            (Timer::Heartbeat, HEARTBEAT),
            (Timer::Rewire, REWIRE),
            (Timer::Audit, AUDIT),
            (Timer::Tombstone, TOMBSTONE_PING),
            (Timer::Expire, EXPIRE),
        ] {
            let at = now + machine.random.time(interval);
            machine.timers.arm(timer, at);
        }
        machine
    }

    /// Takes note of an input. The outputs are then to be polled.
    pub fn handle(&mut self, input: Input, now: Duration) {
        self.now = self.now.max(now.saturating_add(BEFORE));
        if self.leaving {
            return;
        }
        let late = self.timers.next().is_some_and(|at| at + LATE < self.now);
        match input {
            Input::Connected { peer, dialled: _ } => self.on_connected(peer),
            Input::Disconnected { peer, why } => self.on_disconnected(peer, why),
            Input::ConnectFailed { peer } => self.on_connect_failed(peer),
            Input::Message { from, message } => self.on_message(from, message),
            Input::Datagram { from, message } => self.on_datagram(from, message),
            Input::Tether { peer, state } => self.on_tether(peer, state),
            Input::Copy { record } => self.on_copy(record),
            Input::Settled { instance, verdict } => self.on_settled(instance, verdict),
            Input::Leave => self.on_leave(),
            Input::Tick => {}
        }
        // A server that leaves says nothing after its leave.
        if late && !self.leaving {
            self.on_late();
        }
        while let Some(timer) = self.timers.take_due(self.now) {
            self.on_timer(timer);
        }
    }

    fn on_message(&mut self, from: Fingerprint, message: Message) {
        let Some(connection) = self.connections.get(&from) else {
            return;
        };
        if !connection.greeted && !matches!(message, Message::Hello { .. }) {
            return;
        }
        self.on_alive(from, self.now);
        match message {
            Message::Hello {
                entry,
                live,
                digest,
            } => self.on_hello(from, entry, live, digest),
            Message::Heartbeat { degree, digest } => self.on_heartbeat(from, degree, digest),
            Message::Delta { entries } => self.on_delta(from, entries),
            Message::Link { degree, wish } => self.on_link(from, degree, wish),
            Message::LinkReply { accepted, other } => self.on_link_reply(from, accepted, other),
            Message::Unlink { replacement } => self.on_unlink(from, replacement),
            Message::Ping { nonce, held } => self.on_ping(from, nonce, held, false),
            Message::Pong {
                nonce,
                count,
                instance,
                incarnation,
            } => {
                let held = answering(count, instance, incarnation);
                self.on_pong(from, nonce, held);
            }
            Message::Witness {
                nonce,
                subject,
                held,
            } => self.on_witness(from, nonce, subject, held),
            Message::Witnessed {
                nonce,
                subject,
                answered,
            } => self.on_witnessed(from, nonce, subject, answered),
            Message::Sync { buckets } => self.on_sync(from, &buckets),
            Message::Hashes { buckets, hashes } => self.on_hashes(from, buckets, hashes),
            Message::Want { hashes } => self.on_want(from, hashes),
            Message::Who { members } => self.on_who(from, members),
            // A knock comes only outside of connections.
            Message::Knock { .. } => {}
        }
    }

    fn on_datagram(&mut self, from: Fingerprint, message: Message) {
        if from == self.me.fingerprint {
            return;
        }
        match message {
            Message::Ping { nonce, held } => self.on_ping(from, nonce, held, true),
            Message::Pong {
                nonce,
                count,
                instance,
                incarnation,
            } => {
                let held = answering(count, instance, incarnation);
                self.on_pong(from, nonce, held);
            }
            Message::Knock { nonce, url, held } => self.on_knock(from, nonce, url, held),
            Message::Witness {
                nonce,
                subject,
                held,
            } => self.on_witness(from, nonce, subject, held),
            Message::Witnessed {
                nonce,
                subject,
                answered,
            } => self.on_witnessed(from, nonce, subject, answered),
            // These come only on connections.
            Message::Hello { .. }
            | Message::Heartbeat { .. }
            | Message::Delta { .. }
            | Message::Link { .. }
            | Message::LinkReply { .. }
            | Message::Unlink { .. }
            | Message::Sync { .. }
            | Message::Hashes { .. }
            | Message::Want { .. }
            | Message::Who { .. } => {}
        }
        self.on_rumour(from);
    }

    fn on_timer(&mut self, timer: Timer) {
        match timer {
            Timer::Heartbeat => self.on_heartbeat_timer(),
            Timer::Flush => self.on_flush_timer(),
            Timer::Silence(peer) => self.on_silence_timer(peer),
            Timer::Idle(peer) => self.on_idle_timer(peer),
            Timer::Asked(peer) => self.on_asked_timer(peer),
            Timer::Connecting(peer) => self.on_connecting_timer(peer),
            Timer::Bridge(peer) => self.on_bridge_timer(peer),
            Timer::Probe(who) => self.on_probe_timer(who),
            Timer::IndirectProbe(who) => self.on_indirect_probe_timer(who),
            Timer::Suspicion(who) => self.on_suspicion_timer(who),
            Timer::Copies => self.on_copies_timer(),
            Timer::Seek => self.on_seek_timer(),
            Timer::Rewire => self.on_rewire_timer(),
            Timer::Audit => self.on_audit_timer(),
            Timer::Tombstone => self.on_tombstone_timer(),
            Timer::Expire => self.on_expire_timer(),
        }
    }

    /// Leaves: the neighbours are told, and then nothing is said any more.
    fn on_leave(&mut self) {
        self.leaving = true;
        let entry = Entry {
            fingerprint: self.me.fingerprint,
            held: self.my_held(),
            age: 0,
            record: None,
        };
        for peer in self.connections.keys().copied().collect::<Vec<_>>() {
            self.flush(peer);
            self.send(
                peer,
                Message::Delta {
                    entries: vec![entry.clone()],
                },
            );
        }
        self.timers.clear();
    }

    /// The first message on a connection. A driver may send it ahead with its handshake, and feed
    /// what it so receives right after [`Input::Connected`]: a newcomer is then known earlier.
    pub fn hello(&self) -> Message {
        let record = Some(Arc::clone(&self.me));
        Message::Hello {
            entry: Entry {
                fingerprint: self.me.fingerprint,
                held: self.my_held(),
                age: 0,
                record,
            },
            live: u32::try_from(self.len()).unwrap_or(u32::MAX),
            digest: self.digest(),
        }
    }

    /// The next thing to do, in order, if there is one.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if output.is_none() {
            // A server that has met a large circuit had many messages to send once.
            self.outputs.shrink_to(OUTPUTS_KEPT);
        }
        output
    }

    /// When to call [`handle`](Self::handle) with [`Input::Tick`] at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.next().map(|at| at.saturating_sub(BEFORE))
    }

    /// This server's own record.
    pub fn me(&self) -> &Record {
        &self.me
    }

    /// All live members in the order of their ids, this server and suspected ones included.
    pub fn live(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.view.iter().map(|member| &member.record)
    }

    /// How many live members there are.
    pub fn len(&self) -> usize {
        self.view.live().len()
    }

    /// Never: this server itself is always there.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The live member with this id.
    pub fn get(&self, id: ServerId) -> Option<&Record> {
        self.view.find(id).map(|member| &*member.record)
    }

    /// In which life the server with this id is a live member; `None` if it is none.
    pub fn life(&self, id: ServerId) -> Option<Life> {
        self.view.find(id).map(|member| member.record.life())
    }

    /// The live member with this fingerprint.
    pub fn record(&self, fingerprint: &Fingerprint) -> Option<&Record> {
        self.view
            .live_member(fingerprint)
            .map(|member| &*member.record)
    }

    /// Whether this server is a live member.
    pub fn is_live(&self, fingerprint: &Fingerprint) -> bool {
        self.view.live_member(fingerprint).is_some()
    }

    /// The live members that are suspected, in the order of their ids.
    pub fn suspected(&self) -> impl Iterator<Item = &Record> {
        self.view
            .iter()
            .filter(|member| member.phase.is_suspected())
            .map(|member| &*member.record)
    }

    /// The servers to which there is a link, in the order of their ids.
    pub fn neighbours(&self) -> impl Iterator<Item = &Record> {
        self.links
            .iter()
            .filter_map(|who| self.view.get(&who))
            .map(|member| &*member.record)
    }

    /// The server with this fingerprint, if there is a link to it and nothing is held against it.
    pub fn trusted_neighbour(&self, fingerprint: &Fingerprint) -> Option<&Record> {
        let trusted = self.links.contains(fingerprint) && self.view.is_trusted(fingerprint);
        trusted.then(|| self.record(fingerprint)).flatten()
    }

    /// The servers that failed and are still looked for, the longest gone first.
    pub fn failed(&self) -> impl Iterator<Item = &Record> {
        self.view
            .tombstones()
            .filter(|member| member.phase == Phase::Down)
            .map(|member| &*member.record)
    }

    /// Whether this server has lost all its links while there were others in the circuit that did
    /// not leave: what it shows is what it last knew.
    pub fn is_isolated(&self) -> bool {
        self.links.are_lost() && (self.len() > 1 || self.failed().next().is_some())
    }

    /// This server's own incarnation in this life.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The digest of the live members: two servers with the same one hold the same.
    pub fn digest(&self) -> u64 {
        self.view.digest()
    }
}

/// The value that a server's answer to a ping tells of it.
fn answering(count: u64, instance: u64, incarnation: u64) -> Held {
    Held {
        count,
        instance,
        incarnation,
        phase: Phase::Alive,
    }
}
