//! The events to come, in their order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use crate::membership::{Gone, Message, TetherState};

/// Something that happens to `node`, mostly by way of `peer`; `id` is the connection's, `life` tells
/// a server from itself after a restart.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Join {
        node: usize,
        life: u64,
    },
    /// `hello` came with the handshake.
    Accept {
        node: usize,
        peer: usize,
        life: u64,
        hello: Box<Message>,
    },
    Dialled {
        node: usize,
        peer: usize,
        id: u64,
        life: u64,
    },
    DialFailed {
        node: usize,
        peer: usize,
        life: u64,
    },
    Gone {
        node: usize,
        peer: usize,
        id: u64,
        why: Gone,
    },
    Deliver {
        node: usize,
        peer: usize,
        id: u64,
    },
    Late {
        node: usize,
        peer: usize,
        id: u64,
        message: Box<Message>,
    },
    Datagram {
        node: usize,
        peer: usize,
        message: Box<Message>,
    },
    Tether {
        node: usize,
        peer: usize,
        id: u64,
        state: TetherState,
    },
    Resume {
        node: usize,
    },
    /// Nobody has answered the question to another life of this server, of this count and instance.
    Settled {
        node: usize,
        life: u64,
        other: (u64, u64),
    },
    Tick {
        node: usize,
        life: u64,
    },
}

impl Event {
    /// The server whose process must run for it to happen; `None` if it happens to a stopped one too.
    pub(super) fn process(&self) -> Option<usize> {
        match self {
            Event::Resume { .. } => None,
            Event::Join { node, .. }
            | Event::Accept { node, .. }
            | Event::Dialled { node, .. }
            | Event::DialFailed { node, .. }
            | Event::Gone { node, .. }
            | Event::Deliver { node, .. }
            | Event::Late { node, .. }
            | Event::Datagram { node, .. }
            | Event::Tether { node, .. }
            | Event::Settled { node, .. }
            | Event::Tick { node, .. } => Some(*node),
        }
    }
}

/// The events to come: those of the same moment in the order in which they were pushed.
///
/// Millions may be. Only those of one slot of time are in order, so that what is looked at again and
/// again fits a processor's cache.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    /// Those of the slots up to and with `slot`.
    near: BinaryHeap<Reverse<Coming>>,
    slot: u128,
    /// Those of the slots after it.
    far: BTreeMap<u128, Vec<Reverse<Coming>>>,
    pushed: u64,
}

/// How long a slot is, in nanoseconds. Chosen, not measured: a few thousand events when thousands
/// of servers talk.
const SLOT: u128 = 250_000;

#[derive(Debug, Clone)]
struct Coming {
    at: Duration,
    number: u64,
    event: Event,
}

impl Queue {
    pub(super) fn push(&mut self, at: Duration, event: Event) {
        self.pushed += 1;
        let slot = at.as_nanos() / SLOT;
        let number = self.pushed;
        let coming = Reverse(Coming { at, number, event });
        match slot <= self.slot {
            true => self.near.push(coming),
            false => self.far.entry(slot).or_default().push(coming),
        }
    }

    /// The next event, if it is no later than that.
    pub(super) fn take_until(&mut self, end: Duration) -> Option<(Duration, Event)> {
        if self.near.is_empty() {
            let (slot, next) = self.far.pop_first()?;
            self.slot = slot;
            self.near = next.into();
        }
        if self.near.peek()?.0.at > end {
            return None;
        }
        let Reverse(Coming { at, event, .. }) = self.near.pop()?;
        Some((at, event))
    }
}

impl PartialEq for Coming {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Coming {}

impl PartialOrd for Coming {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Coming {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::random::Random;

    /// Events of the same time are taken in the order in which they were pushed, even if they were
    /// pushed while others were taken.
    #[test]
    fn events_come_in_the_order_of_time_and_then_of_pushing() {
        for seed in 1..=50 {
            let mut random = Random::new(seed);
            let (mut queue, mut waiting) = (Queue::default(), BTreeMap::new());
            let (mut now, mut pushed) = (Duration::ZERO, 0);
            while pushed < 2000 || !waiting.is_empty() {
                if pushed < 2000 && random.below(2) == 0 {
                    // Each of a hundred slots has twenty moments.
                    let moment = SLOT as u64 / 20;
                    let at = now + Duration::from_nanos(moment * random.below(2000) as u64);
                    queue.push(at, Event::Resume { node: pushed });
                    waiting.insert((at, pushed), pushed);
                    pushed += 1;
                }
                let end = now + Duration::from_nanos(random.below(4 * SLOT as usize) as u64);
                let first = waiting.first_entry().filter(|first| first.key().0 <= end);
                let expected = first.map(|first| (first.key().0, first.remove()));
                let taken = match queue.take_until(end) {
                    Some((at, Event::Resume { node })) => Some((at, node)),
                    _ => None,
                };
                assert_eq!(taken, expected, "seed {seed}");
                now = taken.map_or(end, |(at, _)| at);
            }
        }
    }
}
