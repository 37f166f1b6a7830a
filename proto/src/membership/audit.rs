//! Audits of members and of tombstones: what finds the failures and the returns that no link shows.
//!
//! When a server and all its neighbours fail together, nobody is left to miss it: so members are
//! pinged at random, linked or not. When a network splits, each side gives the other up: so
//! tombstones are pinged too, and whoever answers is met again.

use std::sync::Arc;

use super::connection::Purpose;
use super::entry::{Entry, Held, Phase};
use super::message::{MAX_DATAGRAM, Message};
use super::timer::Timer;
use super::tuning::*;
use super::{Machine, Output, Record};
use crate::{Fingerprint, Url};

impl Machine {
    /// Audits the next member.
    pub(super) fn on_audit_timer(&mut self) {
        let pause = if self.now < self.storm {
            AUDIT_STORM
        } else {
            AUDIT / 2 + self.random.time(AUDIT)
        };
        self.timers.arm(Timer::Audit, self.now + pause);
        // Neighbours are watched anyway: one who is none is looked for, a few times.
        for _ in 0..=2 * DEGREE {
            if self.unaudited.is_empty() {
                self.unaudited = self.view.live().to_vec();
                self.random.shuffle(&mut self.unaudited);
            }
            let Some(who) = self.unaudited.pop() else {
                return;
            };
            let who = who.fingerprint;
            if self.view.is_trusted(&who)
                && !self.links.contains(&who)
                && who != self.me.fingerprint
            {
                if self.now < self.storm {
                    // Something is known to be wrong: no time is to be lost on doubts.
                    self.probe(who, false);
                } else {
                    self.audit(who);
                }
                return;
            }
        }
    }

    /// A member is suspected. Many failures at once may have hidden others: audit fast.
    pub(super) fn note_failure(&mut self) {
        if self
            .failed
            .is_none_or(|(since, _)| self.now.saturating_sub(since) > STORM)
        {
            self.failed = Some((self.now, 0));
        }
        let Some((_, failures)) = &mut self.failed else {
            return;
        };
        *failures += 1;
        // Fewer cannot well have hidden anybody: all neighbours of one must have been among them.
        if *failures >= 3.max(self.view.live().len() / 16) {
            self.storm = self.now + STORM;
            let soon = self.random.time(AUDIT_STORM);
            self.timers.arm_by(Timer::Audit, self.now + soon);
        }
    }

    /// Pings a tombstone.
    pub(super) fn on_grave_timer(&mut self) {
        let isolated = self.links.is_empty();
        let pause = if isolated { GRAVE_ISOLATED } else { GRAVE };
        self.timers
            .arm(Timer::Grave, self.now + pause / 2 + self.random.time(pause));
        let turns = GRAVE_PINGS * self.view.buried();
        if !isolated && self.random.below(self.view.live().len()) >= turns {
            return;
        }
        let Some(member) = self.view.random_grave(&mut self.random) else {
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
            // Our host's name is long: whoever gave us up as we gave it up knows where we are.
            message = Message::Ping { nonce, held };
        }
        self.outputs.push_back(Output::Datagram { to, message });
    }

    /// Somebody who had given us up finds that we live, and says where to answer.
    pub(super) fn on_knock(&mut self, from: Fingerprint, nonce: u64, url: Url, held: Held) {
        if url.server.is_none_or(|server| server.id != from.id()) {
            return;
        }
        self.on_held_of_me(held);
        let to = Arc::new(Record {
            fingerprint: from,
            url,
            name: String::new(),
            count: 0,
        });
        let message = Message::Pong {
            nonce,
            count: self.me.count,
            incarnation: self.incarnation,
        };
        self.outputs.push_back(Output::Datagram { to, message });
    }

    /// What somebody holds of us, said in passing.
    pub(super) fn on_held_of_me(&mut self, held: Held) {
        let entry = Entry {
            fingerprint: self.me.fingerprint,
            held,
            age: 0,
            record: None,
        };
        if held.is_sane() {
            self.on_entry_about_me(&entry, None);
        }
    }

    /// A server that was thought to have failed is there: meet it again.
    pub(super) fn reunite(&mut self, who: Fingerprint) {
        let failed = self
            .view
            .get(&who)
            .is_some_and(|member| member.phase == Phase::Down);
        if failed {
            self.meet(who);
        }
    }

    /// Opens a connection to a server of which something has not been heard, unless enough are being
    /// opened: whatever made us ask comes again.
    pub(super) fn meet(&mut self, who: Fingerprint) {
        let meeting = self
            .connecting
            .values()
            .filter(|purpose| **purpose == Purpose::Sync)
            .count();
        if meeting < REUNIONS {
            self.connect(who, Purpose::Sync);
        }
    }

    /// Drops old tombstones; but a server that has lost all others forgets none of them.
    pub(super) fn on_expire_timer(&mut self) {
        self.timers.arm(Timer::Expire, self.now + EXPIRE);
        if !self.is_isolated() {
            self.view.expire(self.now);
        }
    }
}
