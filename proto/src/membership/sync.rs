//! Anti-entropy: two servers find out in what their views differ, and tell each other.
//!
//! One sends the digests of its buckets, the other answers with the hashes of its members in those
//! that differ; then each knows, and says, what the other lacks. Servers with the same view say
//! nothing.

use std::collections::BTreeSet;

use super::Machine;
use super::message::{BUCKETS, MAX_HASHES, Message};
use super::tuning::{MISMATCHES, MISMATCHES_BUSY, QUIET, SYNC_EVERY};
use super::view::{bucket, hash};
use crate::Fingerprint;

impl Machine {
    /// A heartbeat: if its digest goes on differing although nothing is under way, sync.
    pub(super) fn on_heartbeat(&mut self, from: Fingerprint, degree: u8, digest: u64) {
        let (now, mine) = (self.now, self.view.digest());
        let linked = self.links.contains(&from);
        if !linked && !self.asked.contains_key(&from) {
            self.send(from, Message::Unlink { replacement: None });
            return;
        }
        let Some(connection) = self.connections.get_mut(&from) else {
            return;
        };
        connection.degree = usize::from(degree);
        if digest == mine {
            connection.mismatches = 0;
        } else if linked {
            let quiet = now.saturating_sub(self.changed.max(connection.used)) >= QUIET;
            let enough = if quiet { MISMATCHES } else { MISMATCHES_BUSY };
            connection.mismatches += 1;
            if connection.mismatches >= enough {
                connection.mismatches = 0;
                self.start_sync(from);
            }
        }
    }

    /// Begins a sync, unless one began a moment ago.
    pub(super) fn start_sync(&mut self, peer: Fingerprint) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&peer) else {
            return;
        };
        if connection.synced.is_some_and(|at| at + SYNC_EVERY > now) {
            return;
        }
        connection.synced = Some(now);
        let buckets = self.view.buckets().to_vec();
        self.send(peer, Message::Sync { buckets });
    }

    /// The other end's digests have come.
    pub(super) fn on_sync(&mut self, from: Fingerprint, theirs: &[u64]) {
        self.used(from);
        if theirs.len() != BUCKETS {
            return;
        }
        let differing = self
            .view
            .buckets()
            .iter()
            .zip(theirs)
            .enumerate()
            .filter(|(_, (mine, theirs))| mine != theirs);
        let mut buckets = differing.fold(0u64, |bits, (i, _)| bits | 1 << i);
        let mut hashes = self.hashes(buckets);
        // What does not fit a message is left for the next sync.
        while hashes.len() > MAX_HASHES {
            buckets &= buckets.wrapping_sub(1);
            hashes = self.hashes(buckets);
        }
        if buckets != 0 {
            self.send(
                from,
                Message::Hashes {
                    buckets,
                    hashes: hashes.into_iter().map(|(hash, _)| hash).collect(),
                },
            );
        }
    }

    /// The hashes of the other end's members have come: say what it lacks, ask for what we lack.
    pub(super) fn on_hashes(&mut self, from: Fingerprint, buckets: u64, theirs: Vec<u64>) {
        self.used(from);
        let theirs: BTreeSet<u64> = theirs.into_iter().take(MAX_HASHES).collect();
        let mine = self.hashes(buckets);
        let wanted: BTreeSet<u64> = theirs
            .iter()
            .copied()
            .filter(|hash| mine.binary_search_by_key(hash, |(hash, _)| *hash).is_err())
            .collect();
        for (hash, who) in mine {
            if !theirs.contains(&hash) {
                self.tell(from, who);
            }
        }
        if !wanted.is_empty() {
            self.send(
                from,
                Message::Want {
                    hashes: wanted.into_iter().collect(),
                },
            );
        }
    }

    /// The other end asks for entries.
    pub(super) fn on_want(&mut self, from: Fingerprint, hashes: Vec<u64>) {
        self.used(from);
        let wanted: BTreeSet<u64> = hashes.into_iter().take(MAX_HASHES).collect();
        for (hash, who) in self.hashes(u64::MAX) {
            if wanted.contains(&hash) {
                self.tell(from, who);
            }
        }
    }

    /// The hashes of the live members in these buckets, sorted.
    fn hashes(&self, buckets: u64) -> Vec<(u64, Fingerprint)> {
        let mut hashes: Vec<_> = self
            .view
            .iter()
            .filter(|member| buckets >> bucket(&member.record.fingerprint) & 1 == 1)
            .map(|member| {
                (
                    hash(&member.record.fingerprint, &member.held()),
                    member.record.fingerprint,
                )
            })
            .collect();
        hashes.sort_unstable();
        hashes
    }
}
