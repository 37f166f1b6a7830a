//! The servers of our circuit that were heard on a segment, ranked by whose turn it is to act.
//!
//! Where all servers of a segment hear the same packet and a few of them should act on it, each
//! ranks itself and all others that it knows there by a hash of the subject and the id, and acts
//! if it is among the first (highest random weight: Thaler and Ravishankar, 1998). Without a word
//! between them the same few act, others for each subject. A server that does not know of all
//! others ranks itself too high, never too low: then more act, never nobody.
//!
//! **Invariants:** at most [`ROSTER_MAX`] ids; if every id in every roster is live and hears the
//! subject, then for each `n` at least `n` servers (all, if they are fewer) have a rank below `n`.

use std::collections::BTreeSet;

use super::LifeOf;
use crate::ServerId;

/// How many ids a roster holds: 8 kB. Chosen, not measured: on a segment with four times as many
/// servers, four times as many act, which is still few.
pub(super) const ROSTER_MAX: usize = 1024;

/// The ids of the servers whose announcements were heard on one segment, dead ones included.
#[derive(Debug, Default)]
pub(super) struct Roster(BTreeSet<ServerId>);

impl Roster {
    /// A verified announcement of this server was heard.
    ///
    /// Live or not: a newcomer is heard first and becomes live then.
    pub(super) fn insert(&mut self, id: ServerId, life_of: LifeOf<'_>) {
        if self.0.len() >= ROSTER_MAX && !self.0.contains(&id) {
            if life_of(id).is_none() {
                return;
            }
            self.0.retain(|id| life_of(*id).is_some());
            if self.0.len() >= ROSTER_MAX {
                return;
            }
        }
        self.0.insert(id);
    }

    /// How many live servers of the segment come before `me` where this subject is concerned.
    pub(super) fn rank(&self, subject: u64, me: ServerId, life_of: LifeOf<'_>) -> usize {
        let mine = (score(subject, me), me);
        let before =
            |id: &&ServerId| (score(subject, **id), **id) < mine && life_of(**id).is_some();
        self.0.iter().filter(before).count()
    }
}

/// The same for all servers of all versions: they must agree on it.
fn score(subject: u64, id: ServerId) -> u64 {
    mix(subject ^ mix(id.0))
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014; `mix64` variant 13): every bit of the
/// result depends on every bit of the input.
pub(super) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Life;

    /// All servers live.
    fn all(id: ServerId) -> Option<Life> {
        Some(Life {
            id,
            count: 0,
            instance: 0,
        })
    }

    fn roster(ids: &[u64]) -> Roster {
        let mut roster = Roster::default();
        ids.iter().for_each(|id| roster.insert(ServerId(*id), &all));
        roster
    }

    #[test]
    fn alone_one_is_first() {
        assert_eq!(Roster::default().rank(7, ServerId(1), &all), 0);
        assert_eq!(
            roster(&[1]).rank(7, ServerId(1), &all),
            0,
            "not behind oneself"
        );
        assert_eq!(
            roster(&[2, 3, 4]).rank(7, ServerId(1), &|_| None),
            0,
            "not behind the dead"
        );
    }

    #[test]
    fn turns_are_taken_evenly() {
        let ids: Vec<u64> = (0..20).collect();
        let roster = roster(&ids);
        let first = |id: u64| {
            (0..10_000)
                .filter(|subject| roster.rank(*subject, ServerId(id), &all) < 3)
                .count()
        };
        // 3 in 20 answer: 1,500 are expected, with a standard deviation of 36.
        assert!(ids.iter().all(|id| (1300..1700).contains(&first(*id))));
    }

    #[test]
    fn is_bounded_and_lets_live_ids_in() {
        let mut roster = roster(&(0..2000).collect::<Vec<_>>());
        assert_eq!(roster.0.len(), ROSTER_MAX);
        roster.insert(ServerId(5000), &|id| {
            all(id).filter(|life| life.id.0 >= 1000)
        });
        assert_eq!(roster.0.len(), 24 + 1, "the dead make place for the living");
    }

    proptest! {
        #[test]
        fn enough_act_and_exactly_so_when_all_know_all(n in 1usize..40, known in 0usize..40, subject: u64, wanted in 1usize..5) {
            let ids: Vec<u64> = (0..n as u64).map(|i| mix(i + 1)).collect();
            let act = |known: usize| {
                let knows = |me: u64| {
                    let head: Vec<u64> = ids.iter().copied().filter(|id| *id != me).take(known).collect();
                    roster(&head)
                };
                ids.iter().filter(|id| knows(**id).rank(subject, ServerId(**id), &all) < wanted).count()
            };
            prop_assert!(act(known) >= wanted.min(n));
            prop_assert_eq!(act(n), wanted.min(n));
        }
    }
}
