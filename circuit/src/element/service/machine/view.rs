//! What `peek` and `ls` show of a service: a read-only picture.

use std::time::Duration;

use super::{AfterState, Failure, Generation, InstanceId, Last, Machine, Want, Why};

/// A service at one moment. Times are boot time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct View {
    /// What a person wants.
    pub(crate) want: Want,
    /// The newest generation.
    pub(crate) generation: Generation,
    /// The generation before, while a roll is unfinished or halted and some slot would go back to it.
    pub(crate) previous: Option<Generation>,
    /// How many slots there are to be.
    pub(crate) instances: u32,
    /// How many slots have a ready instance, old ones included.
    pub(crate) ready: u32,
    /// The roll, if one is unfinished or halted.
    pub(crate) rolling: Option<Rolling>,
    /// The slots, in the order of their numbers; more than `instances` while some are being stopped.
    pub(crate) slots: Vec<SlotView>,
}

/// A roll at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rolling {
    /// It goes on.
    Unfinished {
        /// Whether the definition changed; otherwise a person restarts.
        update: bool,
        /// The slots that are being replaced now.
        now: Vec<u32>,
        /// The slots that wait for their turn.
        pending: Vec<u32>,
    },
    /// It was halted.
    Halted(Failure),
}

/// A slot at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SlotView {
    /// Its number.
    pub(crate) slot: u32,
    /// Its state.
    pub(crate) state: State,
    /// Why it is in that state, if anything but its start led to it.
    pub(crate) why: Option<Why>,
    /// Since when.
    pub(crate) since: Duration,
    /// The instance in it.
    pub(crate) instance: Option<InstanceId>,
    /// The main process of that instance, while it lives.
    pub(crate) pid: Option<u32>,
    /// The definition of that instance, or of the next one.
    pub(crate) generation: Generation,
    /// Whether that instance is of an earlier life of the server.
    pub(crate) adopted: bool,
    /// What it waits for, in the state `waiting`; empty there means its turn (`Parallel`).
    pub(crate) waiting: Vec<(String, AfterState)>,
    /// How many instances were spawned in it.
    pub(crate) starts: u64,
    /// The failures in a row.
    pub(crate) failures: u32,
    /// When the next try is due.
    pub(crate) next: Option<Duration>,
    /// How the last instance ended.
    pub(crate) last: Option<Last>,
    /// The instances that are being replaced or that have been, while they run.
    pub(crate) old: Vec<OldView>,
}

/// An instance beside its slot at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OldView {
    /// The instance.
    pub(crate) instance: InstanceId,
    /// The main process, while it lives.
    pub(crate) pid: Option<u32>,
    /// Its definition.
    pub(crate) generation: Generation,
    /// Its state.
    pub(crate) state: State,
    /// Since when.
    pub(crate) since: Duration,
}

/// The states of a slot; those of an instance are `starting` to `stopping`, and `stuck`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// It waits for other services, or for its turn.
    Waiting,
    /// It is not ready yet.
    Starting,
    /// It is ready.
    Ready,
    /// It was ready and is not any more.
    Unready,
    /// It is being stopped.
    Stopping,
    /// It is started again after a delay.
    Backoff,
    /// It cannot be stopped.
    Stuck,
    /// It is given up until a person says otherwise.
    Failed,
    /// It did its work.
    Finished,
    /// It is down.
    Down,
}

impl State {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Starting => "starting",
            State::Ready => "ready",
            State::Unready => "unready",
            State::Stopping => "stopping",
            State::Backoff => "backoff",
            State::Stuck => "stuck",
            State::Failed => "failed",
            State::Finished => "finished",
            State::Down => "down",
        }
    }
}
