//! The failure detector: the doubts that one server has about others, and its decisions.
//!
//! It keeps probes and accusations (in files of their own), indirect probes, in which this server tries
//! others for those that ask it, and the rounds of audits. It reads the view to choose members. It knows nothing of
//! connections, links, messages and timers: the machine tells it of events, sends the messages that
//! it decides on, and arms the timers. The values that all servers agree on are in the view; the
//! doubts here are this server's own.
//!
//! **Invariant:** at most [`MAX_PROBES`] probes, and as many indirect probes, are under way.

mod accusation;
mod probe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Record;
use super::random::Random;
use super::tuning::*;
use super::view::View;
use crate::Fingerprint;

pub(super) use accusation::Turn;
use accusation::{Accusation, SuspicionFactor};
use probe::Probe;
pub(super) use probe::{Ask, Begun, Stage, Step, Verdict};

/// The doubts of one server.
#[derive(Debug, Clone, Default)]
pub(super) struct Detector {
    probes: BTreeMap<Fingerprint, Probe>,
    indirect_probes: BTreeMap<Fingerprint, IndirectProbe>,
    accused: BTreeMap<Fingerprint, Accusation>,
    suspicion_factor: BTreeMap<Fingerprint, SuspicionFactor>,
    /// The number from which the numbers of pings count.
    first_nonce: u64,
    /// The members that are still to be audited in this round.
    unaudited: Vec<Arc<Record>>,
    /// Since when failures are counted, and how many there were.
    failed: Option<(Duration, usize)>,
    /// Until when audits are fast.
    storm: Duration,
}

/// An indirect probe: one server that this server tries for others.
#[derive(Debug, Clone)]
struct IndirectProbe {
    /// The servers that asked, and the numbers of their questions.
    askers: BTreeMap<Fingerprint, u64>,
    since: Duration,
    until: Duration,
}

impl Detector {
    /// A detector without doubts. The numbers of pings count from `first_nonce`.
    pub(super) fn new(first_nonce: u64) -> Detector {
        Detector {
            first_nonce,
            ..Detector::default()
        }
    }

    /// The number of a ping that is sent now.
    pub(super) fn nonce(&self, now: Duration) -> u64 {
        // The nanoseconds of 584 years fit.
        self.first_nonce.wrapping_add(now.as_nanos() as u64)
    }

    /// When the ping with this number was sent; `None` if it is not one of ours.
    pub(super) fn pinged(&self, nonce: u64, now: Duration) -> Option<Duration> {
        let at = Duration::from_nanos(nonce.wrapping_sub(self.first_nonce));
        (at <= now).then_some(at)
    }

    /// Whether one more server cannot be tried for others.
    pub(super) fn is_busy_for(&self, subject: &Fingerprint) -> bool {
        self.indirect_probes.len() >= MAX_PROBES && !self.indirect_probes.contains_key(subject)
    }

    /// A server is to be tried for another. Returns whether it was not being tried yet.
    pub(super) fn begin_indirect_probe(
        &mut self,
        subject: Fingerprint,
        asker: Fingerprint,
        nonce: u64,
        now: Duration,
    ) -> bool {
        let new = !self.indirect_probes.contains_key(&subject);
        let indirect_probe = self
            .indirect_probes
            .entry(subject)
            .or_insert(IndirectProbe {
                askers: BTreeMap::new(),
                since: now,
                until: now + INDIRECT_PROBE,
            });
        if indirect_probe.askers.len() < MAX_PROBES {
            indirect_probe.askers.insert(asker, nonce);
        }
        new
    }

    /// Until when a server is tried for others.
    pub(super) fn indirect_probe(&self, subject: &Fingerprint) -> Option<Duration> {
        self.indirect_probes
            .get(subject)
            .map(|indirect_probe| indirect_probe.until)
    }

    /// The servers that are being tried for others.
    pub(super) fn indirect_probes(&self) -> Vec<Fingerprint> {
        self.indirect_probes.keys().copied().collect()
    }

    /// Whether it settles an indirect probe that a server was there at that time.
    pub(super) fn settles_indirect_probe(&self, subject: &Fingerprint, at: Duration) -> bool {
        let indirect_probe = self.indirect_probes.get(subject);
        indirect_probe.is_some_and(|indirect_probe| indirect_probe.since <= at)
    }

    /// Ends an indirect probe. Returns the servers to be told, with the numbers of their questions.
    pub(super) fn end_indirect_probe(
        &mut self,
        subject: &Fingerprint,
    ) -> Option<BTreeMap<Fingerprint, u64>> {
        self.indirect_probes
            .remove(subject)
            .map(|indirect_probe| indirect_probe.askers)
    }

    /// A member is suspected. Many failures at once may have hidden others. Returns whether audits
    /// are to be fast.
    pub(super) fn note_failure(&mut self, members: usize, now: Duration) -> bool {
        let (since, failures) = match self.failed {
            Some((since, failures)) if now.saturating_sub(since) <= STORM => (since, failures + 1),
            _ => (now, 1),
        };
        self.failed = Some((since, failures));
        // Fewer cannot well have hidden anybody: all neighbours of one must have been among them.
        let many = failures >= 3.max(members / 16);
        if many {
            self.storm = now + STORM;
        }
        many
    }

    /// Whether audits are fast.
    pub(super) fn is_storm(&self, now: Duration) -> bool {
        now < self.storm
    }

    /// The next member to audit: a trusted one for which this holds, looked for a few times.
    pub(super) fn next_audit(
        &mut self,
        view: &View,
        random: &mut Random,
        holds: impl Fn(&Fingerprint) -> bool,
    ) -> Option<Fingerprint> {
        for _ in 0..=2 * DEGREE {
            if self.unaudited.is_empty() {
                self.unaudited = view.live().to_vec();
                random.shuffle(&mut self.unaudited);
            }
            let who = self.unaudited.pop()?.fingerprint;
            if view.is_trusted(&who) && holds(&who) {
                return Some(who);
            }
        }
        None
    }

    /// How many probes, indirect probes, accusations and suspicion factors there are.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 4] {
        [
            self.probes.len(),
            self.indirect_probes.len(),
            self.accused.len(),
            self.suspicion_factor.len(),
        ]
    }

    /// The members that are waited for longer.
    #[cfg(test)]
    pub(super) fn waited_for(&self) -> Vec<Fingerprint> {
        self.suspicion_factor.keys().copied().collect()
    }
}
