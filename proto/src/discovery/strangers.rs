//! Servers that were heard and are not in the circuit: when to tell of each.
//!
//! All servers of a segment hear a newcomer, and a few should dial it. Each waits its turn, by
//! its rank in the [roster](super::roster); if the newcomer is in the circuit by then, there is
//! nothing left to do. A stranger that stays one (a firewall, a packet that somebody replays) is
//! told of ever more rarely, and never forgotten while it is heard.
//!
//! **Invariant:** at most [`STRANGERS_MAX`] are remembered.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ServerId;
use crate::handshake::Identity;

/// How many strangers are remembered. Chosen: more at once are a flood, of which the remembering
/// bounds nothing but memory.
pub(super) const STRANGERS_MAX: usize = 256;

/// The pause after the first time that a stranger is told of; each later one is twice as long.
/// Chosen: dialling and merging take a fifth of it.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause. Chosen: about the longest time between announcements.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// The strangers heard of late.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<ServerId, Stranger>);

#[derive(Debug)]
struct Stranger {
    identity: Identity,
    /// When it is our turn to tell of it; `None` once told.
    due: Option<Duration>,
    /// The pause that begins then.
    pause: Duration,
    /// Until when its announcements are no news.
    until: Duration,
}

impl Strangers {
    /// A stranger was heard; it is our turn to tell of it after `delay`.
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
        if self.0.len() >= STRANGERS_MAX && !self.0.contains_key(&id) {
            self.forget_one();
        }
        let due = now + delay;
        self.0.insert(
            id,
            Stranger {
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
        self.0.values().filter_map(|stranger| stranger.due).min()
    }

    /// Those whose turn has come.
    pub(super) fn take_due(&mut self, now: Duration) -> Vec<(ServerId, Identity)> {
        let due = self
            .0
            .iter_mut()
            .filter(|(_, stranger)| stranger.due.is_some_and(|due| due <= now));
        due.map(|(id, stranger)| {
            stranger.due = None;
            (*id, stranger.identity.clone())
        })
        .collect()
    }

    /// Forgets the one that would be news again soonest.
    fn forget_one(&mut self) {
        let soonest = self
            .0
            .iter()
            .min_by_key(|(_, stranger)| stranger.until)
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
        }
    }

    fn heard(strangers: &mut Strangers, id: u64, delay: Duration, now: Duration) -> bool {
        strangers.on_heard(ServerId(id), identity(id), delay, now)
    }

    #[test]
    fn tells_of_each_when_its_turn_comes_and_once() {
        let strangers = &mut Strangers::default();
        let secs = Duration::from_secs;
        assert!(heard(strangers, 1, secs(2), secs(0)));
        assert!(heard(strangers, 2, secs(1), secs(0)));
        assert!(!heard(strangers, 2, secs(0), secs(0)));
        assert_eq!(strangers.timeout(), Some(secs(1)));
        assert_eq!(strangers.take_due(secs(1)), [(ServerId(2), identity(2))]);
        assert_eq!(strangers.take_due(secs(1)), []);
        assert_eq!(strangers.timeout(), Some(secs(2)));
        strangers.forget(ServerId(1));
        assert_eq!(strangers.timeout(), None);
        assert!(heard(strangers, 1, secs(0), secs(1)));
    }

    #[test]
    fn tells_of_a_lasting_stranger_ever_more_rarely() {
        let strangers = &mut Strangers::default();
        let told: Vec<u64> = (0..400)
            .filter(|at| {
                let now = Duration::from_secs(*at);
                heard(strangers, 1, Duration::ZERO, now);
                !strangers.take_due(now).is_empty()
            })
            .collect();
        assert_eq!(told, [0, 1, 3, 7, 15, 31, 63, 127, 191, 255, 319, 383]);
        let later = Duration::from_secs(383 + 128);
        assert!(heard(strangers, 1, Duration::ZERO, later));
        strangers.take_due(later);
        assert!(
            heard(strangers, 1, Duration::ZERO, later + FIRST_PAUSE),
            "afresh after a long time"
        );
    }

    #[test]
    fn a_later_life_is_news_at_once() {
        let strangers = &mut Strangers::default();
        let now = Duration::from_secs(1);
        let mut again = identity(1);
        again.count = 1;
        assert!(heard(strangers, 1, Duration::ZERO, now));
        assert_eq!(strangers.take_due(now).len(), 1);
        assert!(!heard(strangers, 1, Duration::ZERO, now));
        assert!(strangers.on_heard(ServerId(1), again.clone(), Duration::ZERO, now));
        assert_eq!(strangers.take_due(now), [(ServerId(1), again)]);
        assert!(!heard(strangers, 1, Duration::ZERO, now));
    }

    #[test]
    fn is_bounded() {
        let strangers = &mut Strangers::default();
        for id in 0..1000 {
            assert!(heard(
                strangers,
                id,
                Duration::ZERO,
                Duration::from_millis(id)
            ));
        }
        assert_eq!(strangers.0.len(), STRANGERS_MAX);
    }
}
