//! How servers that share a network segment find each other, and how clients find them.
//!
//! Every server announces its URL to a multicast group: at once on each segment that it sees
//! anew, and then by Trickle (RFC 6206), ever more rarely, and not at all while others of its
//! circuit have said enough, so that a segment's traffic does not grow with the number of its
//! servers. An announcement of a server that is not in the live view, or only in an earlier life,
//! means that two circuits
//! should become one: the machine says [`Output::Heard`], and announces itself soon, so that the
//! others hear of it too. A client asks with a nonce, and a few of the servers answer.
//!
//! The driver in `circuit/src/peer/multicast.rs` moves the packets and keeps the time; the client
//! crate uses [`Query`]. The machine knows neither sockets nor membership. At each step it asks
//! which servers are live, and so learns whether a `Heard` had an effect.
//!
//! **Invariants**
//! - Packets of another key, or with a key where we have none, change nothing here. All that
//!   they can get is one word, that the keys differ.
//! - No packet is answered by a larger one, nor by more than one.
//! - Everything that others can provoke is limited in rate, and every table in size.
//! - The same seed and inputs give the same outputs.
//!
//! It does not prevent replays: packets carry no time, so anybody who recorded an announcement can
//! send it again. The server that it names must prove itself in the TLS handshake; a replay gains
//! a number of futile attempts to dial, which grow ever rarer.

mod bucket;
mod candidates;
pub mod packet;
pub mod query;
mod roster;
#[cfg(test)]
mod tests;
pub mod trickle;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::SeedableRng;

use self::bucket::Bucket;
use self::candidates::Candidates;
use self::packet::{Nonce, Packet, Seal};
pub use self::query::{Query, Reply};
use self::roster::{Roster, mix};
use self::trickle::Trickle;
use crate::handshake::Identity;
use crate::{Key, Life, ServerId, Url};

/// How many servers answer a query, or dial a newcomer, at first. Chosen, not measured: one may
/// just have died, and one's packet may be lost.
pub const FEW: usize = 3;

/// How long the next few wait before they dial a newcomer. Chosen, not measured: dialling takes
/// some 10 ms and the news of the newcomer some 100 ms more.
const TURN: Duration = Duration::from_millis(100);

/// From this attempt on, everybody answers a query: by then the few did not.
const EVERYBODY: u8 = 3;

/// How many queries are remembered, so that one that arrives through two interfaces is answered
/// once. Chosen, not measured: 17 bytes each, and copies arrive within milliseconds.
const RECENT: usize = 256;

/// Answers to clients: a burst, and the time in which one more is allowed. Chosen, not measured:
/// many times the number that people and scripts ask, and 0.7 MB/s if somebody asks to do harm.
const ANSWERS: (u32, Duration) = (1000, Duration::from_millis(1));

/// Answers to clients with another key. Chosen, not measured: enough for people, who run a command
/// again.
const REFUSALS: (u32, Duration) = (10, Duration::from_millis(100));

/// Newcomers told of. Chosen, not measured: a random graph where each of many servers that start at
/// once dials eight is connected, and by the next second all are in the live view.
const NEWCOMERS: (u32, Duration) = (8, Duration::from_millis(100));

/// A network segment, by whatever number the driver has for it: an interface's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment(pub u32);

/// An event that a machine is told of.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// These are the segments that packets can be sent to now; those not listed are gone.
    Segments(&'a [Segment]),
    /// A packet to the group arrived. Packets of our own may come back; they are ignored.
    Packet {
        /// Where it arrived.
        segment: Segment,
        /// The sender's address, as the network says.
        from: SocketAddr,
        /// Its contents, hostile until proven otherwise.
        bytes: &'a [u8],
    },
    /// The time of [`Machine::poll_timeout`] has come. Early or late is harmless.
    Timeout,
}

/// Something that the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this to the group on this segment.
    Multicast {
        /// Where to.
        segment: Segment,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// Send this to this address.
    Unicast {
        /// Where to.
        to: SocketAddr,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// There is a server with our key that is not in the live view, or only in an earlier life:
    /// merge with it. Or there is another server with our identity. Its URL is pinned.
    Heard(Identity),
}

/// Says in which life a server is in the circuit's live view now; `None` if it is not there.
pub type LifeOf<'a> = &'a dyn Fn(ServerId) -> Option<Life>;

/// The state machine of one server and one group.
///
/// Call [`handle`](Self::handle), then [`poll_output`](Self::poll_output) until it gives `None`,
/// then wait for a packet or for [`poll_timeout`](Self::poll_timeout), and again. Times are
/// durations since a moment of the driver's choice, always the same, and do not go back.
#[derive(Debug)]
pub struct Machine {
    me: ServerId,
    identity: Identity,
    key: Option<Key>,
    rng: Pcg64Mcg,
    segments: BTreeMap<Segment, State>,
    candidates: Candidates,
    recent: VecDeque<(Nonce, u8)>,
    answers: Bucket,
    refusals: Bucket,
    newcomers: Bucket,
    outputs: VecDeque<Output>,
}

/// The state of one segment.
#[derive(Debug)]
struct State {
    trickle: Trickle,
    roster: Roster,
}

/// The server's URL does not say who it must prove to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("only a URL with an id can be announced: {0}")]
pub struct Unpinned(pub Url);

impl Machine {
    /// A machine that announces this identity, its name cut to what fits a packet.
    ///
    /// Fails if its URL is not pinned: a server that hears it must be able to verify which server it
    /// reaches.
    pub fn new(me: Identity, key: Option<Key>, seed: u64) -> Result<Machine, Unpinned> {
        let Some(server) = me.url.server else {
            return Err(Unpinned(me.url));
        };
        Ok(Machine {
            me: server.id,
            identity: Identity {
                name: packet::fit_name(&me.name),
                ..me
            },
            key,
            // With the id in it, servers with the same seed do not keep step.
            rng: Pcg64Mcg::seed_from_u64(seed ^ mix(server.id.0)),
            segments: BTreeMap::new(),
            candidates: Candidates::default(),
            recent: VecDeque::new(),
            answers: Bucket::new(ANSWERS.0, ANSWERS.1),
            refusals: Bucket::new(REFUSALS.0, REFUSALS.1),
            newcomers: Bucket::new(NEWCOMERS.0, NEWCOMERS.1),
            outputs: VecDeque::new(),
        })
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input<'_>, now: Duration, life_of: LifeOf<'_>) {
        match input {
            Input::Segments(segments) => self.on_segments(segments, now),
            Input::Packet {
                segment,
                from,
                bytes,
            } => {
                self.on_packet(segment, from, bytes, now, life_of);
            }
            Input::Timeout => {}
        }
        self.on_time(now, life_of);
    }

    /// The next thing to do, in order; `None` when there is nothing left.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to hand in [`Input::Timeout`] at the latest; `None` if nothing will be due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let trickles = self.segments.values().map(|state| state.trickle.timeout());
        trickles.chain(self.candidates.timeout()).min()
    }

    fn on_segments(&mut self, segments: &[Segment], now: Duration) {
        self.segments
            .retain(|segment, _| segments.contains(segment));
        for segment in segments {
            if self.segments.contains_key(segment) {
                continue;
            }
            let trickle = Trickle::new(now, &mut self.rng);
            self.segments.insert(
                *segment,
                State {
                    trickle,
                    roster: Roster::default(),
                },
            );
            // Not Trickle's, which would wait up to its shortest interval: nobody there can have
            // said yet what a newcomer has to say.
            self.announce(*segment);
        }
    }

    fn on_packet(
        &mut self,
        segment: Segment,
        from: SocketAddr,
        bytes: &[u8],
        now: Duration,
        life_of: LifeOf<'_>,
    ) {
        match Packet::decode(bytes, self.key.as_ref()) {
            Some((Packet::Announcement(identity), Seal::Ours)) => {
                self.on_announcement(segment, from, identity, now, life_of);
            }
            Some((Packet::Query { nonce, attempt }, seal)) => {
                if may_answer(from) && !self.recent.contains(&(nonce, attempt)) {
                    self.on_query(
                        segment,
                        from,
                        (nonce, attempt),
                        seal,
                        bytes.len(),
                        now,
                        life_of,
                    );
                }
            }
            // Answers are for clients.
            Some((
                Packet::Announcement(_) | Packet::Answer { .. } | Packet::KeyMismatch { .. },
                _,
            ))
            | None => {}
        }
    }

    fn on_announcement(
        &mut self,
        segment: Segment,
        from: SocketAddr,
        identity: Identity,
        now: Duration,
        life_of: LifeOf<'_>,
    ) {
        let Some(id) = packet::id_of(&identity) else {
            return;
        };
        let Some(state) = self.segments.get_mut(&segment) else {
            return;
        };
        // Another host's loopback is not ours.
        let elsewhere = identity.url.is_loopback() && !from.ip().is_loopback();
        let is_me = id == self.me && identity.instance == self.identity.instance;
        if elsewhere || is_me {
            return;
        }
        if id != self.me {
            state.roster.insert(id, life_of);
        }
        if id != self.me && life_of(id) >= identity.life() {
            self.candidates.forget(id);
            state.trickle.on_consistent(id);
            return;
        }
        let turn = state.roster.rank(id.0, self.me, life_of) / FEW;
        // A roster has 1,024 ids at most: the turn fits.
        let delay = TURN * turn as u32;
        if self.candidates.on_heard(id, identity, delay, now) {
            state.trickle.on_inconsistent(now, &mut self.rng);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a query is all of these")]
    fn on_query(
        &mut self,
        segment: Segment,
        from: SocketAddr,
        (nonce, attempt): (Nonce, u8),
        seal: Seal,
        length: usize,
        now: Duration,
        life_of: LifeOf<'_>,
    ) {
        let Some(state) = self.segments.get(&segment) else {
            return;
        };
        let (packet, wanted, bucket) = match seal {
            Seal::Ours => {
                let answer = Packet::Answer {
                    nonce,
                    identity: self.identity.clone(),
                };
                (answer, answering(attempt), &mut self.answers)
            }
            Seal::Theirs => {
                let refusal = Packet::KeyMismatch {
                    nonce,
                    keyed: self.key.is_some(),
                };
                (refusal, FEW, &mut self.refusals)
            }
        };
        // Whose turn it is costs more than to answer, and anybody can ask.
        if !bucket.take(now) || state.roster.rank(subject(&nonce), self.me, life_of) >= wanted {
            return;
        }
        let bytes = packet.encode(self.key.as_ref());
        if bytes.len() > length {
            return;
        }
        self.outputs.push_back(Output::Unicast { to: from, bytes });
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((nonce, attempt));
    }

    fn on_time(&mut self, now: Duration, life_of: LifeOf<'_>) {
        for (id, identity) in self.candidates.take_due(now) {
            let known = id != self.me && life_of(id) >= identity.life();
            if known || !self.newcomers.take(now) {
                self.candidates.forget(id);
                continue;
            }
            self.outputs.push_back(Output::Heard(identity));
        }
        let mut due = Vec::new();
        for (segment, state) in &mut self.segments {
            if state.trickle.on_timeout(now, &mut self.rng) {
                due.push(*segment);
            }
        }
        for segment in due {
            self.announce(segment);
        }
    }

    fn announce(&mut self, segment: Segment) {
        let bytes = Packet::Announcement(self.identity.clone()).encode(self.key.as_ref());
        self.outputs.push_back(Output::Multicast { segment, bytes });
    }
}

/// Whether an address is one that a client can have.
fn may_answer(from: SocketAddr) -> bool {
    let ip = from.ip();
    let broadcast = matches!(from, SocketAddr::V4(from) if from.ip().is_broadcast());
    from.port() != 0 && !ip.is_multicast() && !ip.is_unspecified() && !broadcast
}

/// How many servers should answer a query.
///
/// Each attempt that stayed without answer says that those asked before are dead or deaf.
fn answering(attempt: u8) -> usize {
    match attempt {
        0..EVERYBODY => FEW * 3usize.pow(u32::from(attempt)),
        EVERYBODY.. => usize::MAX,
    }
}

/// The subject by which the servers rank themselves for a query.
fn subject(nonce: &Nonce) -> u64 {
    let whole = u128::from_be_bytes(*nonce);
    // The halves of 128 bits: nothing is lost.
    mix((whole >> 64) as u64) ^ whole as u64
}
