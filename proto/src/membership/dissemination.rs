//! Dissemination: the news that is still to be told on each connection, and when a sync is due.
//!
//! It keeps for each connection of which members there is news, not the news itself: when the time
//! comes the machine tells the value that it holds then, and no value that was superseded. It knows
//! nothing of failures, nor of the values that are held of members.
//!
//! **Invariant:** of the changes of the view at most [`MAX_CHANGES`] are remembered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::tuning::{MAX_CHANGES, MISMATCHES, MISMATCHES_BUSY, QUIET, SYNC_EVERY};
use crate::Fingerprint;

/// The news of one server.
#[derive(Debug, Clone, Default)]
pub(super) struct Dissemination {
    /// When the view last changed.
    changed: Duration,
    /// The last changes; the first of them has the number `begin`.
    changes: VecDeque<Fingerprint>,
    begin: u64,
    peers: BTreeMap<Fingerprint, Backlog>,
    /// The connections with something to be said on them.
    unflushed: BTreeSet<Fingerprint>,
}

/// The state of one connection.
#[derive(Debug, Clone)]
struct Backlog {
    /// The members of which there is news.
    dirty: BTreeSet<Fingerprint>,
    /// The number of the first change that was not considered for this connection.
    next: u64,
    /// How many heartbeats in a row had another digest than ours.
    mismatches: u8,
    /// When a sync was last begun.
    synced: Option<Duration>,
}

impl Dissemination {
    /// Nothing has been said yet.
    pub(super) fn new(now: Duration) -> Dissemination {
        Dissemination {
            changed: now,
            ..Dissemination::default()
        }
    }

    fn next(&self) -> u64 {
        self.begin + self.changes.len() as u64
    }

    /// A connection has opened. Once it becomes a link, it is told the changes from now on.
    pub(super) fn open(&mut self, peer: Fingerprint) {
        let backlog = Backlog {
            dirty: BTreeSet::new(),
            next: self.next(),
            mismatches: 0,
            synced: None,
        };
        self.peers.insert(peer, backlog);
    }

    /// A connection has ended.
    pub(super) fn close(&mut self, peer: Fingerprint) {
        self.peers.remove(&peer);
        self.unflushed.remove(&peer);
    }

    /// The value that the view holds of this member has changed.
    pub(super) fn note(&mut self, who: Fingerprint, now: Duration) {
        self.changed = now;
        if self.changes.len() == MAX_CHANGES {
            self.changes.pop_front();
            self.begin += 1;
        }
        self.changes.push_back(who);
    }

    /// There is news of this member for this connection. Returns whether there was none before.
    pub(super) fn tell(&mut self, peer: Fingerprint, who: Fingerprint) -> bool {
        let Some(backlog) = self.peers.get_mut(&peer) else {
            return false;
        };
        let new = backlog.dirty.insert(who);
        if new {
            self.unflushed.insert(peer);
        }
        new
    }

    /// The other end of this connection holds the same value of this member as this server.
    pub(super) fn is_known(&mut self, peer: Fingerprint, who: &Fingerprint) {
        if let Some(backlog) = self.peers.get_mut(&peer) {
            backlog.dirty.remove(who);
        }
    }

    /// A connection on which there is something to say.
    pub(super) fn unflushed(&self) -> Option<Fingerprint> {
        self.unflushed.first().copied()
    }

    /// Takes out the members of which there is news for this connection.
    pub(super) fn take(&mut self, peer: Fingerprint) -> Vec<Fingerprint> {
        self.unflushed.remove(&peer);
        let backlog = self.peers.get_mut(&peer);
        let dirty = backlog.map(|backlog| std::mem::take(&mut backlog.dirty));
        dirty.into_iter().flatten().collect()
    }

    /// The connection becomes a link: the members that have changed since it opened, or since it was
    /// a link before. `None` if these are no longer known: then a sync is to find them.
    pub(super) fn on_linked(&mut self, peer: Fingerprint) -> Option<BTreeSet<Fingerprint>> {
        let Some(backlog) = self.peers.get_mut(&peer) else {
            return Some(BTreeSet::new());
        };
        backlog.mismatches = 0;
        let skipped = usize::try_from(backlog.next.checked_sub(self.begin)?).ok()?;
        Some(self.changes.iter().skip(skipped).copied().collect())
    }

    /// The connection is a link no longer.
    pub(super) fn on_unlinked(&mut self, peer: Fingerprint) {
        let next = self.next();
        if let Some(backlog) = self.peers.get_mut(&peer) {
            backlog.next = next;
        }
    }

    /// A heartbeat on a link has told whether the digests are the same. Returns whether a sync is
    /// to begin. `used` is when the connection was last used for anything but heartbeats.
    pub(super) fn on_digest(
        &mut self,
        peer: Fingerprint,
        same: bool,
        used: Duration,
        now: Duration,
    ) -> bool {
        let Some(backlog) = self.peers.get_mut(&peer) else {
            return false;
        };
        if same {
            backlog.mismatches = 0;
            return false;
        }
        let quiet = now.saturating_sub(self.changed.max(used)) >= QUIET;
        let enough = if quiet { MISMATCHES } else { MISMATCHES_BUSY };
        backlog.mismatches += 1;
        let sync = backlog.mismatches >= enough;
        if sync {
            backlog.mismatches = 0;
        }
        sync
    }

    /// Whether a sync may begin on this connection, which then has begun.
    pub(super) fn begin_sync(&mut self, peer: Fingerprint, now: Duration) -> bool {
        let Some(backlog) = self.peers.get_mut(&peer) else {
            return false;
        };
        if backlog.synced.is_some_and(|at| at + SYNC_EVERY > now) {
            return false;
        }
        backlog.synced = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn who(number: u16) -> Fingerprint {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        Fingerprint(key)
    }

    fn with_one_peer() -> Dissemination {
        let mut news = Dissemination::new(SECOND);
        news.open(who(0));
        news
    }

    #[test]
    fn each_member_is_spoken_of_once_and_not_if_it_is_known_by_then() {
        let mut news = with_one_peer();
        assert_eq!(news.unflushed(), None);
        assert!(news.tell(who(0), who(1)));
        assert!(!news.tell(who(0), who(1)));
        assert!(news.tell(who(0), who(2)));
        assert!(!news.tell(who(9), who(1)), "there is no such connection");
        news.is_known(who(0), &who(1));
        assert_eq!(news.unflushed(), Some(who(0)));
        assert_eq!(news.take(who(0)), [who(2)]);
        assert_eq!(news.unflushed(), None);
        assert!(news.take(who(0)).is_empty());
        news.tell(who(0), who(1));
        news.close(who(0));
        assert_eq!(news.unflushed(), None);
    }

    #[test]
    fn a_link_learns_what_has_changed_while_it_was_none() {
        let mut news = Dissemination::new(SECOND);
        news.note(who(1), SECOND);
        news.open(who(0));
        news.note(who(2), SECOND);
        assert_eq!(news.on_linked(who(0)), Some([who(2)].into()));
        news.on_unlinked(who(0));
        assert_eq!(news.on_linked(who(0)), Some(BTreeSet::new()));
        for number in 0..MAX_CHANGES as u16 {
            news.note(who(number), SECOND);
        }
        assert_eq!(news.on_linked(who(0)).unwrap().len(), MAX_CHANGES);
        news.note(who(1), SECOND);
        assert_eq!(news.on_linked(who(0)), None, "one was forgotten");
        assert_eq!(news.changes.len(), MAX_CHANGES);
    }

    #[test]
    fn digests_that_go_on_differing_begin_a_sync_soon_if_nothing_is_under_way() {
        let after = |used: Duration| {
            let mut news = with_one_peer();
            let now = SECOND * 10;
            (1..20)
                .find(|_| news.on_digest(who(0), false, used, now))
                .unwrap()
        };
        assert_eq!(after(SECOND), MISMATCHES);
        assert_eq!(after(SECOND * 10), MISMATCHES_BUSY);
        let mut news = with_one_peer();
        for _ in 0..20 {
            assert!(!news.on_digest(who(0), false, SECOND, SECOND * 10));
            assert!(!news.on_digest(who(0), true, SECOND, SECOND * 10));
        }
    }

    #[test]
    fn syncs_are_a_second_apart() {
        let mut news = with_one_peer();
        assert!(news.begin_sync(who(0), SECOND));
        assert!(!news.begin_sync(who(0), SECOND * 2 - Duration::from_millis(1)));
        assert!(news.begin_sync(who(0), SECOND * 2));
        assert!(
            !news.begin_sync(who(9), SECOND),
            "there is no such connection"
        );
    }
}
