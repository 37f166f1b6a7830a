//! The flood: each change of the view is told to all neighbours but the one that it came from.
//!
//! Connections that are no links are not flooded; when one becomes a link, it is told the changes
//! since it opened. [`Dissemination`](super::dissemination::Dissemination) keeps of which members
//! each connection is still to be told.

use std::time::Duration;

use super::entry::{Entry, Phase};
use super::message::{MAX_ENTRIES, Message};
use super::timer::Timer;
use super::tuning::*;
use super::view::{Standing, is_sane};
use super::{Machine, Notice, Output};
use crate::Fingerprint;

impl Machine {
    /// A message with news of several members has come.
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

    /// The other end wants whole entries.
    pub(super) fn on_who(&mut self, from: Fingerprint, members: Vec<Fingerprint>) {
        let now = self.now;
        let entries = members
            .iter()
            .take(MAX_ENTRIES)
            .filter_map(|who| self.view.entry(who, true, now))
            .collect();
        self.send(from, Message::Delta { entries });
    }

    /// Takes note of one entry. Returns false if it is of no use without a record.
    pub(super) fn on_entry(&mut self, entry: Entry, from: Option<Fingerprint>) -> bool {
        if !is_sane(&entry) {
            return true;
        }
        let who = entry.fingerprint;
        if who == self.me.fingerprint {
            return self.on_entry_about_me(&entry, from);
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
                    .is_some_and(|member| entry.held.is_of(&member.record));
                if entry.record.is_none() && !known && entry.held.phase.is_live() {
                    return false;
                }
                self.adopt(entry, from);
            }
            Standing::Same => {
                if let Some(from) = from {
                    self.news.is_known(from, &who);
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

    /// Keeps the tombstone of a server that was never known here, and floods nothing.
    fn bury(&mut self, entry: Entry) {
        let age = Duration::from_secs(entry.age.into());
        if age < TOMBSTONE {
            let since = self.now.saturating_sub(age);
            // The server was not live here and is not now: subscribers hear nothing.
            self.view
                .raise(entry.fingerprint, entry.held, entry.record, since);
        }
    }

    /// Raises the value that is held of a member, and does all that follows from it.
    pub(super) fn adopt(&mut self, entry: Entry, from: Option<Fingerprint>) {
        let Entry {
            fingerprint: who,
            held,
            record,
            age,
        } = entry;
        let before = self.view.get(&who).map(|member| member.held());
        // A server that hears late that a process stands still waits no longer than the others.
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

    /// Floods the value that is held of a member.
    pub(super) fn spread(&mut self, who: Fingerprint, from: Option<Fingerprint>) {
        self.news.note(who, self.now);
        let others = self.links.iter().filter(|peer| Some(*peer) != from);
        for peer in others.collect::<Vec<_>>() {
            self.tell(peer, who);
        }
        if let Some(from) = from {
            self.news.is_known(from, &who);
        }
    }

    /// Will tell the value that is held of this member on this connection.
    pub(super) fn tell(&mut self, peer: Fingerprint, who: Fingerprint) {
        if self.news.tell(peer, who) {
            self.timers.arm_by(Timer::Flush, self.now + FLUSH);
        }
    }

    /// Will tell the values that are held of all live members on this connection.
    pub(super) fn tell_all(&mut self, peer: Fingerprint) {
        let all = self.view.live().iter().map(|record| record.fingerprint);
        let all: Vec<_> = all.filter(|who| *who != peer).collect();
        all.into_iter().for_each(|who| self.tell(peer, who));
    }

    /// A connection becomes a link: tells it the changes since it opened.
    pub(super) fn catch_up(&mut self, peer: Fingerprint) {
        match self.news.on_linked(peer) {
            Some(changed) => changed.into_iter().for_each(|who| self.tell(peer, who)),
            None => self.start_sync(peer),
        }
    }

    /// Sends all that is to be told.
    pub(super) fn on_flush_timer(&mut self) {
        while let Some(peer) = self.news.unflushed() {
            self.flush(peer);
        }
    }

    /// Sends all that is to be told on one connection.
    pub(super) fn flush(&mut self, peer: Fingerprint) {
        for chunk in self.news.take(peer).chunks(MAX_ENTRIES) {
            let now = self.now;
            // To the end of a link the servers are known; elsewhere they may be unknown.
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
