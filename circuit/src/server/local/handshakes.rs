//! The places of connections that have made no handshake yet, shared out among users.
//!
//! [`admission`](crate::runtime::admission) does the same for the network, where nobody knows yet who a
//! newcomer is, and refuses the newcomer. Here the system tells whose a connection is, so it is the
//! oldest connection that goes: whoever connects and speaks at once is never kept out by others who
//! say nothing.
//!
//! **Invariant:** the connections without a handshake are bounded, for each user and in all.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How many places there are, and how many of them one user may have.
#[derive(Debug, Clone, Copy)]
struct Limits {
    all: usize,
    user: usize,
}

/// The most places that there are, and the most of one user: as over the network, where a host has a
/// quarter (`docs/PROTOCOL.md`, "Limits"). A command has its place for some ten microseconds.
const MOST: Limits = Limits {
    all: 256,
    user: 128,
};

/// The part of the process's descriptors that connections without a handshake may have in all, where
/// the process may have few. Chosen, not measured: one user is left with an eighth.
const PART: u64 = 4;

/// The places.
#[derive(Debug)]
pub(crate) struct Handshakes {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next connection.
    next: u64,
    all: usize,
    /// Those of each user, the oldest first. A user without any is not here.
    users: BTreeMap<u32, BTreeMap<u64, Arc<Notify>>>,
}

/// One place. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    handshakes: Arc<Handshakes>,
    user: u32,
    number: u64,
    lost: Arc<Notify>,
}

impl Handshakes {
    /// Makes free places, fewer than usual where the process may have this few descriptors.
    pub(crate) fn new(descriptors: u64) -> Arc<Handshakes> {
        // A share that does not fit is far above the most.
        let part = usize::try_from(descriptors / PART).unwrap_or(usize::MAX);
        let all = MOST.all.min(part).max(2);
        Arc::new(Handshakes {
            limits: Limits {
                all,
                user: MOST.user.min(all / 2),
            },
            state: Mutex::default(),
        })
    }

    /// Takes a place for a connection of this user. When none is free, the oldest connection of the
    /// user who has the most loses its own; of this user, when it has its share.
    pub(super) fn enter(self: &Arc<Self>, user: u32) -> Place {
        let mut state = self.state.lock();
        let of_user = state.users.get(&user).map_or(0, BTreeMap::len);
        if of_user >= self.limits.user {
            state.give_up_oldest(user);
        } else if state.all >= self.limits.all {
            let most = state.users.iter().max_by_key(|(_, held)| held.len());
            if let Some(most) = most.map(|(user, _)| *user) {
                state.give_up_oldest(most);
            }
        }
        let number = state.next;
        state.next += 1;
        state.all += 1;
        let lost = Arc::new(Notify::new());
        let held = state.users.entry(user).or_default();
        held.insert(number, lost.clone());
        Place {
            handshakes: self.clone(),
            user,
            number,
            lost,
        }
    }

    /// How many places are taken.
    pub(crate) fn taken(&self) -> usize {
        self.state.lock().all
    }
}

impl State {
    fn give_up_oldest(&mut self, user: u32) {
        let held = self.users.get(&user);
        let oldest = held.and_then(|held| held.keys().next().copied());
        if let Some(oldest) = oldest
            && let Some(lost) = self.remove(user, oldest)
        {
            lost.notify_one();
        }
    }

    fn remove(&mut self, user: u32, number: u64) -> Option<Arc<Notify>> {
        let held = self.users.get_mut(&user)?;
        let removed = held.remove(&number)?;
        if held.is_empty() {
            self.users.remove(&user);
        }
        self.all -= 1;
        Some(removed)
    }
}

impl Place {
    /// Resolves when another connection has taken the place.
    pub(super) async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshakes.state.lock().remove(self.user, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_lost(place: &Place) -> bool {
        place.lost().now_or_never().is_some()
    }

    #[test]
    fn a_user_with_all_of_its_share_loses_its_own_oldest() {
        let handshakes = Handshakes::new(u64::MAX);
        let other = handshakes.enter(1);
        let held: Vec<Place> = (0..MOST.user + 2).map(|_| handshakes.enter(7)).collect();
        assert_eq!(handshakes.taken(), MOST.user + 1);
        let lost: Vec<bool> = held.iter().map(is_lost).collect();
        assert!(lost[..2].iter().all(|lost| *lost));
        assert!(!lost[2..].iter().any(|lost| *lost));
        assert!(!is_lost(&other));
        drop((held, other));
        assert_eq!(handshakes.taken(), 0);
        assert!(handshakes.state.lock().users.is_empty());
    }

    #[test]
    fn when_all_places_are_taken_the_user_with_the_most_loses_one() {
        let handshakes = Handshakes::new(64);
        assert_eq!((handshakes.limits.all, handshakes.limits.user), (16, 8));
        let many: Vec<Place> = (0..8).map(|_| handshakes.enter(1)).collect();
        let few: Vec<Place> = (2..10).map(|user| handshakes.enter(user)).collect();
        assert_eq!(handshakes.taken(), 16);
        let newcomer = handshakes.enter(10);
        assert_eq!(handshakes.taken(), 16);
        assert!(is_lost(&many[0]) && !is_lost(&many[1]));
        assert!(!few.iter().any(is_lost) && !is_lost(&newcomer));
    }
}
