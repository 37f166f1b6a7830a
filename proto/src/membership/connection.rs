//! Connections: introductions, what is kept of each, and when one is closed again.
//!
//! A connection begins with the Hellos of both ends and a sync of what they hold. Then it becomes
//! a link (see `overlay`), or is closed after a while.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, Held, Phase};
use super::message::{Message, Wish};
use super::timer::Timer;
use super::tuning::*;
use super::view::is_sane;
use super::{Gone, Machine, Output, TetherState};
use crate::Fingerprint;

/// Why a connection was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To become a link.
    Link(Wish),
    /// To learn what the other end holds.
    Sync,
}

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// Whether the other end's Hello has come.
    pub(super) greeted: bool,
    /// When something was last heard on it.
    pub(super) heard: Duration,
    /// When it was last used for anything but heartbeats.
    pub(super) used: Duration,
    /// How many links the other end has.
    pub(super) degree: usize,
    /// What is still to be said on it.
    pub(super) dirty: BTreeSet<Fingerprint>,
    /// The number of the first change that was not considered for it; see `flood`.
    pub(super) changes: u64,
    /// How many heartbeats in a row had another digest than ours.
    pub(super) mismatches: u8,
    /// When a sync was last begun.
    pub(super) synced: Option<Duration>,
    /// What its tether says.
    pub(super) tether: TetherState,
}

impl Machine {
    /// A connection is up: introduce ourselves, and ask for what it was opened for.
    pub(super) fn on_connected(&mut self, peer: Fingerprint) {
        if peer == self.me.fingerprint || self.leaving {
            self.outputs.push_back(Output::Disconnect { peer });
            return;
        }
        let purpose = self.connecting.remove(&peer);
        self.timers.disarm(Timer::Connecting(peer));
        self.forget_connection(peer);
        // It may have been avoided because it took so long.
        self.avoided.remove(&peer);
        let now = self.now;
        let connection = Connection {
            greeted: false,
            heard: now,
            used: now,
            degree: 0,
            dirty: BTreeSet::new(),
            changes: self.flood.next(),
            mismatches: 0,
            synced: None,
            tether: TetherState::Unknown,
        };
        self.connections.insert(peer, connection);
        self.timers.arm(Timer::Idle(peer), now + IDLE);
        self.send(peer, self.hello());
        if let Some(Purpose::Link(wish)) = purpose {
            self.ask(peer, wish);
        }
    }

    /// The other end says who it is: sync, and bridge the two circuits if they were two.
    pub(super) fn on_hello(&mut self, from: Fingerprint, entry: Entry, live: u32, digest: u64) {
        if entry.fingerprint != from
            || entry.record.is_none()
            || entry.held.phase != Phase::Alive
            || !is_sane(&entry)
        {
            self.close(from);
            return;
        }
        let Some(connection) = self.connections.get_mut(&from) else {
            return;
        };
        // A dialler says it twice: with its handshake, and then as things are now.
        let first = !std::mem::replace(&mut connection.greeted, true);
        let stranger = self.view.live_member(&from).is_none();
        let mine = self.view.digest();
        let alone = self.view.live().len() <= 1;
        self.on_entry(entry, Some(from));
        if stranger {
            let told: Vec<_> = self
                .view
                .graves()
                .rev()
                .map(|member| member.record.fingerprint)
                .take(TOMBSTONES_TOLD)
                .collect();
            told.into_iter().for_each(|who| self.tell(from, who));
        }
        if live <= 1 && first {
            self.tell_all(from);
        } else if digest != mine && digest != self.view.digest() && self.me.fingerprint < from {
            self.start_sync(from);
        }
        if stranger && live > 1 && !alone {
            self.timers.arm(Timer::Bridge(from), self.now + BRIDGE);
        }
        // Whom we know may be about to ask for the link that is missing.
        if stranger {
            self.timers.arm_by(Timer::Seek, self.now);
        }
    }

    /// A connection has ended: what that says of its other end depends on how.
    pub(super) fn on_disconnected(&mut self, peer: Fingerprint, why: Gone) {
        let was_link = self.links.contains(&peer);
        self.forget_connection(peer);
        match why {
            Gone::Closed if was_link => self.audit(peer),
            Gone::Closed => {}
            Gone::Leaving => self.claim(peer, Phase::Left),
            // Only who has the server's key can reset (RFC 9000, section 10.3): it is the same
            // process, whose word that it closed was lost, or its successor. Both answer.
            Gone::Silent | Gone::Reset => self.probe(peer, false),
        }
    }

    /// A connection could not be opened: try others, and see whether that server lives.
    pub(super) fn on_connect_failed(&mut self, peer: Fingerprint) {
        let sought = matches!(self.connecting.remove(&peer), Some(Purpose::Link(_)));
        self.timers.disarm(Timer::Connecting(peer));
        if sought {
            self.avoid(peer, AVOID);
            self.audit(peer);
        }
    }

    /// A connection takes long to open: no longer count on it.
    pub(super) fn on_connecting_timer(&mut self, peer: Fingerprint) {
        self.on_connect_failed(peer);
    }

    /// What the tether says has changed.
    pub(super) fn on_tether(&mut self, peer: Fingerprint, state: TetherState) {
        let Some(connection) = self.connections.get_mut(&peer) else {
            return;
        };
        connection.tether = state;
        if state == TetherState::Broken && self.links.contains(&peer) {
            self.probe(peer, true);
        }
    }

    /// Whether the kernel of the other end's host acknowledges its tether.
    pub(super) fn is_acknowledged(&self, peer: Fingerprint) -> bool {
        self.connections
            .get(&peer)
            .is_some_and(|connection| connection.tether == TetherState::Acknowledged)
    }

    /// A connection that is no link may have served its purpose.
    pub(super) fn on_idle_timer(&mut self, peer: Fingerprint) {
        let Some(connection) = self.connections.get(&peer) else {
            return;
        };
        if self.links.contains(&peer) {
            return;
        }
        let end = connection.used + IDLE;
        if end > self.now || self.asked.contains_key(&peer) {
            self.timers
                .arm(Timer::Idle(peer), end.max(self.now + ASK_WAIT));
            return;
        }
        self.close(peer);
    }

    /// Opens a connection, unless there is one or one is being opened.
    pub(super) fn connect(&mut self, to: Fingerprint, purpose: Purpose) {
        if self.connections.contains_key(&to)
            || self.connecting.contains_key(&to)
            || to == self.me.fingerprint
        {
            return;
        }
        let Some(member) = self.view.get(&to) else {
            return;
        };
        let record = Arc::clone(&member.record);
        self.connecting.insert(to, purpose);
        self.timers
            .arm(Timer::Connecting(to), self.now + CONNECT_WAIT);
        self.outputs.push_back(Output::Connect { to: record });
    }

    /// Closes a connection.
    pub(super) fn close(&mut self, peer: Fingerprint) {
        self.flush(peer);
        self.forget_connection(peer);
        self.outputs.push_back(Output::Disconnect { peer });
    }

    /// Forgets everything about a connection, a link that it was included.
    pub(super) fn forget_connection(&mut self, peer: Fingerprint) {
        self.unlink(peer);
        self.asked.remove(&peer);
        self.connections.remove(&peer);
        self.flood.unflushed.remove(&peer);
        for timer in [Timer::Idle(peer), Timer::Asked(peer), Timer::Bridge(peer)] {
            self.timers.disarm(timer);
        }
    }

    /// Sends on a connection, if there is one.
    pub(super) fn send(&mut self, to: Fingerprint, message: Message) {
        let now = self.now;
        if let Some(connection) = self.connections.get_mut(&to) {
            if !matches!(message, Message::Heartbeat { .. }) {
                connection.used = now;
            }
            self.outputs.push_back(Output::Send { to, message });
        }
    }

    /// Sends outside of connections, to a server whose address is known.
    pub(super) fn send_datagram(&mut self, to: Fingerprint, message: Message) {
        if let Some(member) = self.view.get(&to) {
            let to = Arc::clone(&member.record);
            self.outputs.push_back(Output::Datagram { to, message });
        }
    }

    /// Sends on the connection if there is one, else outside of connections.
    pub(super) fn say(&mut self, to: Fingerprint, message: Message) {
        if self.connections.contains_key(&to) {
            self.send(to, message);
        } else {
            self.send_datagram(to, message);
        }
    }

    /// What is held of this server itself.
    pub(super) fn my_held(&self) -> Held {
        let phase = if self.leaving {
            Phase::Left
        } else {
            Phase::Alive
        };
        Held {
            count: self.me.count,
            incarnation: self.incarnation,
            phase,
        }
    }
}
