//! Anti-entropy: two servers find the differences of their views, and tell them each other.
//!
//! One sends the digests of its buckets. The other answers with the hashes of its members in the
//! buckets that differ. Then each knows which entries the other lacks, and sends them. Servers with
//! the same view send nothing more.

use std::collections::BTreeSet;

use super::Machine;
use super::message::{BUCKETS, MAX_HASHES, Message};
use super::view::{bucket, hash};
use crate::Fingerprint;

impl Machine {
    /// A heartbeat has come: begins a sync if its digest goes on differing although nothing changes.
    pub(super) fn on_heartbeat(&mut self, from: Fingerprint, degree: u8, digest: u64) {
        let (now, mine) = (self.now, self.view.digest());
        let linked = self.links.contains(&from);
        if !linked && !self.links.is_asked(&from) {
            self.send(from, Message::Unlink { replacement: None });
            return;
        }
        let Some(connection) = self.connections.get(&from) else {
            return;
        };
        let (same, used) = (digest == mine, connection.used);
        self.links.on_degree(from, degree);
        if (same || linked) && self.news.on_digest(from, same, used, now) {
            self.start_sync(from);
        }
    }

    /// Begins a sync, unless one began a moment ago.
    pub(super) fn start_sync(&mut self, peer: Fingerprint) {
        if self.news.begin_sync(peer, self.now) {
            let buckets = self.view.buckets().to_vec();
            self.send(peer, Message::Sync { buckets });
        }
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
        // The buckets that do not fit a message are left for the next sync.
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

    /// The hashes of the other end's members have come: sends the entries that it lacks, and asks
    /// for those that this server lacks.
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
