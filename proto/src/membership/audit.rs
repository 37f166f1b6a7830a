//! Audits members and tombstones, to find the failures and the returns that no link shows.
//!
//! When a server and all its neighbours fail together, nobody is left to miss it: so each server
//! pings members at random, linked or not. When a network splits, each side gives the other up: so
//! each server pings tombstones too, and connects to a server that answers.

use std::sync::Arc;

use super::entry::{Entry, Held, Phase};
use super::links::Purpose;
use super::message::{MAX_DATAGRAM, Message};
use super::timer::Timer;
use super::tuning::*;
use super::{Machine, Output, Record};
use crate::{Fingerprint, Url};

impl Machine {
    /// Audits the next member.
    pub(super) fn on_audit_timer(&mut self) {
        let storm = self.detector.is_storm(self.now);
        let pause = if storm {
            AUDIT_STORM
        } else {
            AUDIT / 2 + self.random.time(AUDIT)
        };
        self.timers.arm(Timer::Audit, self.now + pause);
        // Neighbours are watched anyway.
        let (links, me) = (&self.links, self.me.fingerprint);
        let other = |who: &Fingerprint| !links.contains(who) && *who != me;
        let detector = &mut self.detector;
        match detector.next_audit(&self.view, &mut self.random, other) {
            // Something is known to be wrong: no time is to be lost on doubts.
            Some(who) if storm => self.probe(who, false),
            Some(who) => self.audit(who),
            None => {}
        }
    }

    /// Audits fast when many members are suspected at once: their failures may have hidden others.
    pub(super) fn note_failure(&mut self) {
        if self.detector.note_failure(self.len(), self.now) {
            let soon = self.random.time(AUDIT_STORM);
            self.timers.arm_by(Timer::Audit, self.now + soon);
        }
    }

    /// Pings a tombstone.
    pub(super) fn on_tombstone_timer(&mut self) {
        let isolated = self.links.len() == 0;
        let pause = if isolated {
            TOMBSTONE_PING_ISOLATED
        } else {
            TOMBSTONE_PING
        };
        self.timers.arm(
            Timer::Tombstone,
            self.now + pause / 2 + self.random.time(pause),
        );
        let turns = TOMBSTONE_PINGS * self.view.tombstone_count();
        if !isolated && self.random.below(self.view.live().len()) >= turns {
            return;
        }
        let Some(member) = self.view.random_tombstone(&mut self.random) else {
            return;
        };
        if member.phase == Phase::Left {
            return;
        }
        let (to, held) = (Arc::clone(&member.record), member.held());
        let nonce = self.nonce();
        let url = self.me.url.clone();
        let mut message = Message::Knock { nonce, url, held };
        if message
            .encode()
            .is_ok_and(|bytes| bytes.len() > MAX_DATAGRAM)
        {
            // The name of our host is too long for a datagram. The other server knows our address if it
            // has given us up as we have given it up.
            message = Message::Ping { nonce, held };
        }
        self.outputs.push_back(Output::Datagram { to, message });
    }

    /// Answers a server that had given this one up and looks for it.
    pub(super) fn on_knock(&mut self, from: Fingerprint, nonce: u64, url: Url, held: Held) {
        if url.server.is_none_or(|server| server.id != from.id()) {
            return;
        }
        self.on_held_of_me(from, held);
        let to = Arc::new(Record {
            fingerprint: from,
            url,
            name: String::new(),
            count: 0,
            instance: 0,
        });
        let message = Message::Pong {
            nonce,
            count: self.me.count,
            instance: self.me.instance,
            incarnation: self.incarnation,
        };
        self.outputs.push_back(Output::Datagram { to, message });
    }

    /// Takes note of the value that a peer holds of this server.
    pub(super) fn on_held_of_me(&mut self, from: Fingerprint, held: Held) {
        let entry = Entry {
            fingerprint: self.me.fingerprint,
            held,
            age: 0,
            record: None,
        };
        if !held.is_sane() || self.on_entry_about_me(&entry, None) {
            return;
        }
        if self.connections.contains_key(&from) {
            let members = vec![self.me.fingerprint];
            self.send(from, Message::Who { members });
        } else {
            self.meet(from);
        }
    }

    /// Connects to a server that is there although it was given up.
    pub(super) fn reunite(&mut self, who: Fingerprint) {
        let failed = self
            .view
            .get(&who)
            .is_some_and(|member| member.phase == Phase::Down);
        if failed {
            self.meet(who);
        }
    }

    /// Opens a connection to a server to learn what it holds, unless enough such connections are
    /// being opened: the reason for this one will come again.
    pub(super) fn meet(&mut self, who: Fingerprint) {
        if self.links.meeting() < REUNIONS {
            self.connect(who, Purpose::Sync);
        }
    }

    /// Drops old tombstones, unless this server has lost all others: then it forgets none of them.
    pub(super) fn on_expire_timer(&mut self) {
        self.timers.arm(Timer::Expire, self.now + EXPIRE);
        if !self.is_isolated() {
            self.view.expire(self.now);
        }
    }
}
