//! The flood: what changes here is told to all neighbours but the one it came from.
//!
//! What is kept per connection is not what to say but of whom to speak: when the time comes, the
//! latest is said, and what it has superseded never is. Connections that are no links are not
//! flooded; if one becomes a link, what has changed since it opened is said then.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::entry::{Entry, Phase};
use super::message::{MAX_ENTRIES, Message};
use super::timer::Timer;
use super::tuning::*;
use super::view::{Standing, is_sane};
use super::{Machine, Notice, Output};
use crate::Fingerprint;

/// What was changed lately, and who is still to be told.
#[derive(Debug, Clone, Default)]
pub(super) struct Flood {
    /// The connections that have something to be said on them.
    pub(super) unflushed: BTreeSet<Fingerprint>,
    /// The last changes; the first of them has the number `begin`.
    changes: VecDeque<Fingerprint>,
    begin: u64,
}

impl Flood {
    /// The number of the next change.
    pub(super) fn next(&self) -> u64 {
        self.begin + self.changes.len() as u64
    }

    fn note(&mut self, who: Fingerprint) {
        if self.changes.len() == MAX_CHANGES {
            self.changes.pop_front();
            self.begin += 1;
        }
        self.changes.push_back(who);
    }

    /// What has changed since this number; `None` if that is not known any longer.
    fn since(&self, number: u64) -> Option<BTreeSet<Fingerprint>> {
        let skipped = usize::try_from(number.checked_sub(self.begin)?).ok()?;
        Some(self.changes.iter().skip(skipped).copied().collect())
    }
}

impl Machine {
    /// News of several members.
    pub(super) fn on_delta(&mut self, from: Fingerprint, entries: Vec<Entry>) {
        self.used(from);
        let mut unknown = Vec::new();
        for entry in entries.into_iter().take(MAX_ENTRIES) {
            let who = entry.fingerprint;
            if !self.on_entry(entry, Some(from)) {
                unknown.push(who);
            }
        }
        if !unknown.is_empty() {
            self.send(from, Message::Who { members: unknown });
        }
    }

    /// Somebody wants whole entries.
    pub(super) fn on_who(&mut self, from: Fingerprint, members: Vec<Fingerprint>) {
        let now = self.now;
        let entries = members
            .iter()
            .take(MAX_ENTRIES)
            .filter_map(|who| self.view.entry(who, true, now))
            .collect();
        self.send(from, Message::Delta { entries });
    }

    /// One piece of news. False if it cannot be used without a record.
    pub(super) fn on_entry(&mut self, entry: Entry, from: Option<Fingerprint>) -> bool {
        if !is_sane(&entry) {
            return true;
        }
        let who = entry.fingerprint;
        if who == self.me.fingerprint {
            self.on_entry_about_me(&entry, from);
            return true;
        }
        match self.view.compare(&who, &entry.held) {
            Standing::Unknown if entry.record.is_none() => return !entry.held.phase.is_live(),
            Standing::Unknown if !entry.held.phase.is_live() => self.bury(entry),
            Standing::Newer if self.is_hearsay(&entry) => self.doubt(entry, from),
            Standing::Unknown => self.adopt(entry, from),
            Standing::Newer => {
                let known = self
                    .view
                    .get(&who)
                    .is_some_and(|member| member.record.count == entry.held.count);
                if entry.record.is_none() && !known && entry.held.phase.is_live() {
                    return false;
                }
                self.adopt(entry, from);
            }
            Standing::Same => {
                if let Some(connection) = from.and_then(|from| self.connections.get_mut(&from)) {
                    connection.dirty.remove(&who);
                }
            }
            Standing::Older => {
                if let Some(from) = from {
                    self.tell(from, who);
                }
            }
        }
        true
    }

    /// Keeps the tombstone of a server that was never known; it is no news.
    fn bury(&mut self, entry: Entry) {
        let age = Duration::from_secs(entry.age.into());
        if age < TOMBSTONE {
            let since = self.now.saturating_sub(age);
            // It was not live here and is not now: there is nothing for subscribers to hear.
            self.view
                .raise(entry.fingerprint, entry.held, entry.record, since);
        }
    }

    /// Raises what is held of a member, and does all that follows from it.
    pub(super) fn adopt(&mut self, entry: Entry, from: Option<Fingerprint>) {
        let Entry {
            fingerprint: who,
            held,
            record,
            age,
        } = entry;
        let before = self.view.get(&who).map(|member| member.held());
        // Whoever hears late that a process stands still does not wait for it for longer.
        let since = match held.phase {
            Phase::Stalled => {
                let age = Duration::from_secs(age.into()).min(STALL);
                self.now.saturating_sub(age)
            }
            _ => self.now,
        };
        let notices = self.view.raise(who, held, record, since);
        if self.view.get(&who).map(|member| member.held()) == before {
            return;
        }
        if notices
            .iter()
            .any(|notice| matches!(notice, Notice::Join(_)))
        {
            self.mix_in();
        }
        self.outputs.extend(notices.into_iter().map(Output::Notice));
        self.spread(who, from);
        self.on_raised(who, before, held);
    }

    /// Floods what is held of a member.
    pub(super) fn spread(&mut self, who: Fingerprint, from: Option<Fingerprint>) {
        self.flood.note(who);
        self.changed = self.now;
        let links: Vec<_> = self
            .links
            .iter()
            .copied()
            .filter(|peer| Some(*peer) != from)
            .collect();
        links.into_iter().for_each(|peer| self.tell(peer, who));
        if let Some(connection) = from.and_then(|from| self.connections.get_mut(&from)) {
            connection.dirty.remove(&who);
        }
    }

    /// Will say on this connection what is held of this member.
    pub(super) fn tell(&mut self, peer: Fingerprint, who: Fingerprint) {
        let Some(connection) = self.connections.get_mut(&peer) else {
            return;
        };
        if connection.dirty.insert(who) {
            self.flood.unflushed.insert(peer);
            self.timers.arm_by(Timer::Flush, self.now + FLUSH);
        }
    }

    /// Will say on this connection what is held of all live members.
    pub(super) fn tell_all(&mut self, peer: Fingerprint) {
        let all = self.view.live().iter().map(|record| record.fingerprint);
        let all: Vec<_> = all.filter(|who| *who != peer).collect();
        all.into_iter().for_each(|who| self.tell(peer, who));
    }

    /// A connection becomes a link: what has changed since it opened is to be said.
    pub(super) fn catch_up(&mut self, peer: Fingerprint) {
        let Some(connection) = self.connections.get(&peer) else {
            return;
        };
        match self.flood.since(connection.changes) {
            Some(changed) => changed.into_iter().for_each(|who| self.tell(peer, who)),
            None => self.start_sync(peer),
        }
    }

    /// Says what is to be said.
    pub(super) fn on_flush_timer(&mut self) {
        while let Some(peer) = self.flood.unflushed.first().copied() {
            self.flush(peer);
        }
    }

    /// Says on one connection what is to be said on it.
    pub(super) fn flush(&mut self, peer: Fingerprint) {
        self.flood.unflushed.remove(&peer);
        let Some(connection) = self.connections.get_mut(&peer) else {
            return;
        };
        let dirty: Vec<_> = std::mem::take(&mut connection.dirty).into_iter().collect();
        for chunk in dirty.chunks(MAX_ENTRIES) {
            let now = self.now;
            // To the end of a link the servers are known; elsewhere they may be strangers.
            let whole = !self.links.contains(&peer);
            let entries: Vec<_> = chunk
                .iter()
                .filter_map(|who| self.view.entry(who, whole, now))
                .collect();
            if !entries.is_empty() {
                self.send(peer, Message::Delta { entries });
            }
        }
    }

    /// Takes note that a connection serves a purpose.
    pub(super) fn used(&mut self, peer: Fingerprint) {
        if let Some(connection) = self.connections.get_mut(&peer) {
            connection.used = self.now;
        }
    }
}
