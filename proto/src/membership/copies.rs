//! Copies: other servers that live on this server's identity, because its directory was copied.
//!
//! Each process draws a random number at its start, the *instance*, which is part of its life. A
//! server that hears of a greater life of its own with another number has the driver ask at that
//! life's address. If somebody answers, the two decide by their [`Tenure`](crate::Tenure)s which of
//! them ends; if nobody does, the count that this server keeps was set back. Whoever goes on raises
//! its count above that of the other life.
//!
//! **Invariant:** however often others speak of such lives, each is asked once at a time and a
//! bounded number of them in all, and while nobody answers the questions are asked, and the count is raised, ever more rarely.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use super::timer::Timer;
use super::tuning::*;
use super::{Machine, Output, Record, Verdict};
use crate::Fingerprint;

/// The dealings of one server with other lives of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Copies {
    /// The numbers of the lives that are being asked, and until when the answer is waited for.
    asking: BTreeMap<u64, Duration>,
    /// When the count was last raised on hearsay, and the rest after that.
    raised: Option<(Duration, Duration)>,
    /// Whether nobody has answered since.
    in_vain: bool,
    /// What was said last of another life while this server did not listen.
    unheard: Option<Arc<Record>>,
}

impl Copies {
    /// Whether this server rests, after it has raised its count on hearsay.
    fn rests(&self, now: Duration) -> bool {
        self.raised.is_some_and(|(at, rest)| now < at + rest)
    }

    /// Whether this server listens to what is said of other lives of its own.
    fn listens(&self, now: Duration) -> bool {
        !self.in_vain || !self.rests(now)
    }

    fn note_raise(&mut self, now: Duration) {
        let rest = match self.raised {
            Some((at, rest)) if now < at + 2 * OUTBID_MAX => (rest * 2).min(OUTBID_MAX),
            _ => OUTBID,
        };
        self.raised = Some((now, rest));
    }
}

impl Machine {
    /// Whether a question to another life of this server is under way.
    pub fn is_asking(&self) -> bool {
        self.copies.asking.values().any(|until| self.now < *until)
    }

    /// An entry tells of a greater life of this server that is not this one. Returns false if it is
    /// of no use without a record.
    pub(super) fn on_other_life_of_me(&mut self, entry: &Entry, from: Option<Fingerprint>) -> bool {
        if !self.copies.listens(self.now) {
            if let Some(record) = &entry.record {
                self.hear_later(record);
            }
            return true;
        }
        // Nobody lives a life that has ended.
        let mut ended = !entry.held.phase.is_live() || entry.held.instance == self.me.instance;
        if let Some(record) = &entry.record
            && !ended
        {
            // At this server's own address nobody else can be.
            ended = self.is_mine(record);
            if !ended {
                self.ask_copy(record);
            }
        } else if !ended {
            return false;
        }
        if ended {
            self.outlive_hearsay(entry.held.count, from);
        }
        true
    }

    /// Somebody who is no peer tells of another server with this server's identity.
    pub(super) fn on_copy(&mut self, record: Arc<Record>) {
        let is_other = record.fingerprint == self.me.fingerprint
            && record.instance != self.me.instance
            && record.count <= MAX_LIVES;
        if !is_other {
            return;
        }
        if !self.copies.listens(self.now) {
            return self.hear_later(&record);
        }
        if self.is_mine(&record) {
            self.outlive_hearsay(record.count, None);
        } else {
            self.ask_copy(&record);
        }
    }

    fn hear_later(&mut self, record: &Arc<Record>) {
        if let Some((at, rest)) = self.copies.raised {
            self.copies.unheard = Some(Arc::clone(record));
            self.timers.arm(Timer::Copies, at + rest);
        }
    }

    /// The rest is over: listens to what was said last meanwhile.
    pub(super) fn on_copies_timer(&mut self) {
        if let Some(record) = self.copies.unheard.take() {
            self.on_copy(record);
        }
    }

    /// This server goes on, and the other life does not.
    pub(super) fn on_settled(&mut self, instance: u64, verdict: Verdict) {
        self.copies.asking.remove(&instance);
        match verdict {
            Verdict::Outlasts(count) => {
                self.copies.in_vain = false;
                self.outlive(count.min(MAX_LIVES), None);
            }
            Verdict::Nobody(count) => {
                self.copies.in_vain = true;
                self.outlive_hearsay(count.min(MAX_LIVES), None);
            }
            Verdict::Unknown => (),
        }
        // Who refused this life before says now what is in its way, or takes it.
        self.links.avoid_nobody();
        self.timers.arm_by(Timer::Seek, self.now);
    }

    fn is_mine(&self, record: &Record) -> bool {
        (&record.url.host, record.url.port) == (&self.me.url.host, self.me.url.port)
    }

    fn ask_copy(&mut self, record: &Arc<Record>) {
        let now = self.now;
        let asking = &mut self.copies.asking;
        asking.retain(|_, until| now < *until);
        if asking.len() < COPIES_ASKED && !asking.contains_key(&record.instance) {
            asking.insert(record.instance, now + COPY_WAIT);
            let to = Arc::clone(record);
            self.outputs.push_back(Output::Ask { to });
        }
    }

    /// Begins a life above this count, which nobody has confirmed, unless this server rests.
    fn outlive_hearsay(&mut self, count: u64, from: Option<Fingerprint>) {
        if !self.copies.rests(self.now) && self.outlive(count, from) {
            self.copies.note_raise(self.now);
        }
    }

    /// Begins a life above this count, if the present one is not. Returns whether it did.
    fn outlive(&mut self, count: u64, from: Option<Fingerprint>) -> bool {
        let above = (count + 1).min(MAX_LIVES);
        // Else a hostile member has said the last word there is.
        let raised = above > self.me.count;
        if raised {
            self.speak_of_me(above, 0, from);
        }
        raised
    }
}
