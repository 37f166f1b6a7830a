//! Copies: other servers that live on this server's identity, because its directory was copied.
//!
//! Each process draws a random number at its start, the *instance*, which is part of its life. A
//! server that hears of a greater life of its own with another number has the driver ask at that
//! life's address. If somebody answers, the two decide by their [`Tenure`](crate::Tenure)s which of
//! them ends; if nobody does, the count that this server keeps was set back. Whoever goes on raises
//! its count above that of the other life.
//!
//! **Invariant:** however often others speak of such a life, one question is under way at a time,
//! and the count is raised ever more rarely.

use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use super::tuning::*;
use super::{Machine, Output, Record};
use crate::Fingerprint;

/// The dealings of one server with other lives of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Copies {
    /// Until when the answer to a question is waited for.
    asking: Option<Duration>,
    /// When the count was last raised, and the rest after that.
    raised: Option<(Duration, Duration)>,
}

impl Copies {
    /// Whether this server rests, after it has raised its count.
    fn rests(&self, now: Duration) -> bool {
        self.raised.is_some_and(|(at, rest)| now < at + rest)
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
        self.copies.asking.is_some_and(|until| self.now < until)
    }

    /// An entry tells of a greater life of this server that is not this one. Returns false if it is
    /// of no use without a record.
    pub(super) fn on_other_life_of_me(&mut self, entry: &Entry, from: Option<Fingerprint>) -> bool {
        if self.copies.rests(self.now) {
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
            self.outlive(entry.held.count, from);
        }
        true
    }

    /// Somebody who is no peer tells of another server with this server's identity.
    pub(super) fn on_copy(&mut self, record: Arc<Record>) {
        let is_other = record.fingerprint == self.me.fingerprint
            && record.instance != self.me.instance
            && record.count <= MAX_LIVES;
        if !is_other || self.copies.rests(self.now) {
            return;
        }
        if self.is_mine(&record) {
            self.outlive(record.count, None);
        } else {
            self.ask_copy(&record);
        }
    }

    /// This server goes on, and the other life does not.
    pub(super) fn on_settled(&mut self, above: Option<u64>) {
        self.copies.asking = None;
        if let Some(count) = above {
            self.outlive(count.min(MAX_LIVES), None);
        }
    }

    fn is_mine(&self, record: &Record) -> bool {
        (&record.url.host, record.url.port) == (&self.me.url.host, self.me.url.port)
    }

    fn ask_copy(&mut self, record: &Arc<Record>) {
        if !self.is_asking() {
            self.copies.asking = Some(self.now + COPY_WAIT);
            let to = Arc::clone(record);
            self.outputs.push_back(Output::Ask { to });
        }
    }

    /// Begins a life above this count, if the present one is not.
    fn outlive(&mut self, count: u64, from: Option<Fingerprint>) {
        let above = (count + 1).min(MAX_LIVES);
        // Else a hostile member has said the last word there is.
        if above > self.me.count {
            self.copies.note_raise(self.now);
            self.speak_of_me(above, 0, from);
        }
    }
}
