//! What is to happen, in the order in which it will.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
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
    Tick {
        node: usize,
        life: u64,
    },
}

impl Event {
    /// Whose process must run for it to happen; `None` for what happens to a stopped one too.
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
            | Event::Tick { node, .. } => Some(*node),
        }
    }
}

/// The events to come: those of the same moment in the order in which they were pushed.
#[derive(Debug, Clone, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<Coming>>,
    pushed: u64,
}

#[derive(Debug, Clone)]
struct Coming {
    at: Duration,
    number: u64,
    event: Event,
}

impl Queue {
    pub(super) fn push(&mut self, at: Duration, event: Event) {
        self.pushed += 1;
        self.heap.push(Reverse(Coming {
            at,
            number: self.pushed,
            event,
        }));
    }

    /// The next event, if it is no later than that.
    pub(super) fn take_until(&mut self, end: Duration) -> Option<(Duration, Event)> {
        if self.heap.peek()?.0.at > end {
            return None;
        }
        let Reverse(Coming { at, event, .. }) = self.heap.pop()?;
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
