//! Connections: the introduction of both ends, the state of each connection, and its end.
//!
//! A connection begins with the Hellos of both ends and a sync of their views. Then it becomes a
//! link (see `overlay`), or is closed after a while.

use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, Held, Phase};
use super::links::Purpose;
use super::message::Message;
use super::timer::Timer;
use super::tuning::*;
use super::view::is_sane;
use super::{Gone, Machine, Output, TetherState};
use crate::Fingerprint;

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    /// Whether the other end's Hello has come.
    pub(super) greeted: bool,
    /// When something was last heard on it.
    pub(super) heard: Duration,
    /// When it was last used for anything but heartbeats.
    pub(super) used: Duration,
    /// The state of the tether beside it.
    pub(super) tether: TetherState,
}

impl Machine {
    /// A connection is up: introduces this server, and asks for a link if it was opened for one.
    pub(super) fn on_connected(&mut self, peer: Fingerprint) {
        if peer == self.me.fingerprint || self.leaving {
            self.outputs.push_back(Output::Disconnect { peer });
            return;
        }
        let purpose = self.links.on_opened(&peer);
        self.timers.disarm(Timer::Connecting(peer));
        self.forget_connection(peer);
        // The server may have been avoided because the connection took so long.
        self.links.avoid_no_more(&peer);
        let now = self.now;
        let connection = Connection {
            greeted: false,
            heard: now,
            used: now,
            tether: TetherState::Unknown,
        };
        self.connections.insert(peer, connection);
        self.news.open(peer);
        self.timers.arm(Timer::Idle(peer), now + IDLE);
        self.send(peer, self.hello());
        if let Some(Purpose::Link(wish)) = purpose {
            self.ask(peer, wish);
        }
    }

    /// The other end introduces itself: begins a sync, and bridges the two circuits if they were two.
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
        // A dialler sends two: one with its handshake, and one once the connection is up.
        let first = !std::mem::replace(&mut connection.greeted, true);
        let unknown = self.view.live_member(&from).is_none();
        let mine = self.view.digest();
        let alone = self.view.live().len() <= 1;
        self.on_entry(entry, Some(from));
        if unknown {
            let told: Vec<_> = self
                .view
                .tombstones()
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
        if unknown && live > 1 && !alone {
            self.timers.arm(Timer::Bridge(from), self.now + BRIDGE);
        }
        // A server that we knew may be about to ask for the link that is missing.
        if unknown {
            self.timers.arm_by(Timer::Seek, self.now);
        }
    }

    /// A connection has ended. The reason decides whether its other end is in doubt.
    pub(super) fn on_disconnected(&mut self, peer: Fingerprint, why: Gone) {
        let was_link = self.links.contains(&peer);
        self.forget_connection(peer);
        match why {
            Gone::Closed if was_link => self.audit(peer),
            Gone::Closed => {}
            Gone::Leaving => self.claim(peer, Phase::Left),
            // Only a process with the server's secret can reset (RFC 9000, section 10.3): the same
            // process, whose close was lost, or its next life. Both answer a probe.
            Gone::Silent | Gone::Reset => self.probe(peer, false),
        }
    }

    /// A connection could not be opened: seeks other servers, and audits that one.
    pub(super) fn on_connect_failed(&mut self, peer: Fingerprint) {
        let sought = matches!(self.links.on_opened(&peer), Some(Purpose::Link(_)));
        self.timers.disarm(Timer::Connecting(peer));
        if sought {
            self.avoid(peer, AVOID);
            self.audit(peer);
        }
    }

    /// A connection takes too long to open: it counts as failed.
    pub(super) fn on_connecting_timer(&mut self, peer: Fingerprint) {
        self.on_connect_failed(peer);
    }

    /// The state of a tether has changed.
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

    /// Closes a connection that is no link and was not used for a while.
    pub(super) fn on_idle_timer(&mut self, peer: Fingerprint) {
        let Some(connection) = self.connections.get(&peer) else {
            return;
        };
        if self.links.contains(&peer) {
            return;
        }
        let end = connection.used + IDLE;
        if end > self.now || self.links.is_asked(&peer) {
            self.timers
                .arm(Timer::Idle(peer), end.max(self.now + ASK_WAIT));
            return;
        }
        self.close(peer);
    }

    /// Opens a connection, unless there is one or one is being opened.
    pub(super) fn connect(&mut self, to: Fingerprint, purpose: Purpose) {
        if self.connections.contains_key(&to) || to == self.me.fingerprint {
            return;
        }
        let Some(member) = self.view.get(&to) else {
            return;
        };
        if !self.links.on_connecting(to, purpose) {
            return;
        }
        let record = Arc::clone(&member.record);
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
        self.links.forget(&peer);
        self.connections.remove(&peer);
        self.news.close(peer);
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

    /// The value that this server holds of itself.
    pub(super) fn my_held(&self) -> Held {
        let phase = if self.leaving {
            Phase::Left
        } else {
            Phase::Alive
        };
        Held {
            count: self.me.count,
            instance: self.me.instance,
            incarnation: self.incarnation,
            phase,
        }
    }
}
