//! Candidates: servers that were heard and are not in the circuit, and the time at which this
//! server proposes each of them for a join.
//!
//! All servers of a segment hear a newcomer, and a few should dial it. Each server waits its turn,
//! by its rank in the [roster](super::roster); if the newcomer is in the circuit by then, the
//! server does nothing. A candidate that does not get into the circuit (because of a firewall, or
//! because somebody replays a packet) is proposed ever more rarely, and is not forgotten while it is
//! heard.
//!
//! **Invariant:** at most [`CANDIDATES_MAX`] candidates are remembered.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ServerId;
use crate::handshake::Identity;

/// How many candidates are remembered. Chosen, not measured: more at once are a flood, and the bound
/// then only limits memory.
pub(super) const CANDIDATES_MAX: usize = 256;

/// The pause after a candidate is first proposed; each later pause is twice as long. Chosen, not
/// measured: dialling and merging take a fifth of it.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause. Chosen, not measured: about the longest time between announcements.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// The candidates heard of late.
#[derive(Debug, Default)]
pub(super) struct Candidates(BTreeMap<ServerId, Candidate>);

#[derive(Debug)]
struct Candidate {
    identity: Identity,
    /// When it is our turn to tell of it; `None` once told.
    due: Option<Duration>,
    /// The pause that begins then.
    pause: Duration,
    /// Until when its announcements are no news.
    until: Duration,
}

impl Candidates {
    /// A candidate was heard; it is our turn to tell of it after `delay`.
    ///
    /// Returns whether it is news: not when it was heard shortly before.
    pub(super) fn on_heard(
        &mut self,
        id: ServerId,
        identity: Identity,
        delay: Duration,
        now: Duration,
    ) -> bool {
        let pause = match self.0.get(&id) {
            // A later life is news whatever became of the one before.
            Some(known) if known.identity.life() < identity.life() => FIRST_PAUSE,
            Some(known) if now < known.until => return false,
            Some(known) if now < known.until + LONGEST_PAUSE => {
                (known.pause * 2).min(LONGEST_PAUSE)
            }
            _ => FIRST_PAUSE,
        };
        if self.0.len() >= CANDIDATES_MAX && !self.0.contains_key(&id) {
            self.forget_one();
        }
        let due = now + delay;
        self.0.insert(
            id,
            Candidate {
                identity,
                due: Some(due),
                pause,
                until: due + pause,
            },
        );
        true
    }

    /// It is in the circuit, or was told of in vain: when heard next, it is news.
    pub(super) fn forget(&mut self, id: ServerId) {
        self.0.remove(&id);
    }

    /// When [`take_due`](Self::take_due) should be called next.
    pub(super) fn timeout(&self) -> Option<Duration> {
        self.0.values().filter_map(|candidate| candidate.due).min()
    }

    /// Those whose turn has come.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<(ServerId, Identity)> {
        let due = self
            .0
            .iter_mut()
            .filter(|(_, candidate)| candidate.due.is_some_and(|due| due <= now));
        due.map(|(id, candidate)| {
            candidate.due = None;
            (*id, candidate.identity.clone())
        })
        .collect()
    }

    /// Forgets the one that would be news again soonest.
    fn forget_one(&mut self) {
        let soonest = self
            .0
            .iter()
            .min_by_key(|(_, candidate)| candidate.until)
            .map(|(id, _)| *id);
        if let Some(id) = soonest {
            self.0.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(id: u64) -> Identity {
        let url = format!("circuit://10.0.0.1:1/1/Q{id:016x}")
            .parse()
            .unwrap();
        Identity {
            url,
            name: String::new(),
            count: 0,
            instance: 0,
        }
    }

    fn heard(candidates: &mut Candidates, id: u64, delay: Duration, now: Duration) -> bool {
        candidates.on_heard(ServerId(id), identity(id), delay, now)
    }

    #[test]
    fn tells_of_each_when_its_turn_comes_and_once() {
        let candidates = &mut Candidates::default();
        let secs = Duration::from_secs;
        assert!(heard(candidates, 1, secs(2), secs(0)));
        assert!(heard(candidates, 2, secs(1), secs(0)));
        assert!(!heard(candidates, 2, secs(0), secs(0)));
        assert_eq!(candidates.timeout(), Some(secs(1)));
        assert_eq!(candidates.take_due(secs(1)), [(ServerId(2), identity(2))]);
        assert_eq!(candidates.take_due(secs(1)), []);
        assert_eq!(candidates.timeout(), Some(secs(2)));
        candidates.forget(ServerId(1));
        assert_eq!(candidates.timeout(), None);
        assert!(heard(candidates, 1, secs(0), secs(1)));
    }

    #[test]
    fn proposes_a_lasting_candidate_ever_more_rarely() {
        let candidates = &mut Candidates::default();
        let told: Vec<u64> = (0..400)
            .filter(|at| {
                let now = Duration::from_secs(*at);
                heard(candidates, 1, Duration::ZERO, now);
                !candidates.take_due(now).is_empty()
            })
            .collect();
        assert_eq!(told, [0, 1, 3, 7, 15, 31, 63, 127, 191, 255, 319, 383]);
        let later = Duration::from_secs(383 + 128);
        assert!(heard(candidates, 1, Duration::ZERO, later));
        candidates.take_due(later);
        assert!(
            heard(candidates, 1, Duration::ZERO, later + FIRST_PAUSE),
            "afresh after a long time"
        );
    }

    #[test]
    fn a_later_life_is_news_at_once() {
        let candidates = &mut Candidates::default();
        let now = Duration::from_secs(1);
        let mut again = identity(1);
        again.count = 1;
        assert!(heard(candidates, 1, Duration::ZERO, now));
        assert_eq!(candidates.take_due(now).len(), 1);
        assert!(!heard(candidates, 1, Duration::ZERO, now));
        assert!(candidates.on_heard(ServerId(1), again.clone(), Duration::ZERO, now));
        assert_eq!(candidates.take_due(now), [(ServerId(1), again)]);
        assert!(!heard(candidates, 1, Duration::ZERO, now));
    }

    #[test]
    fn is_bounded() {
        let candidates = &mut Candidates::default();
        for id in 0..1000 {
            assert!(heard(
                candidates,
                id,
                Duration::ZERO,
                Duration::from_millis(id)
            ));
        }
        assert_eq!(candidates.0.len(), CANDIDATES_MAX);
    }
}
