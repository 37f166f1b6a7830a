//! The inputs of a machine: what people want, and what the world says.

use super::{Generation, InstanceId, Policy};
use serde::{Deserialize, Serialize};

/// What a person wants of the service. Given to [`Machine::intend`](super::Machine::intend).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Intent {
    /// `up`, also the second half of `mksvc`: all slots run. Clears back-off and `failed`; slots that
    /// are `finished` stay so unless the service was down.
    Up,
    /// `down`: no slot runs.
    Down,
    /// `restart`: each slot, or one, gets a new instance, with the newest definition (one slot: while
    /// a roll is unfinished or halted, the definition that it last ran ready). Clears `failed` and
    /// `finished`.
    Restart {
        /// The one slot; all if there is none.
        slot: Option<u32>,
        /// Whether all stop first and then all start, instead of rolling. Of one slot it says besides
        /// that an instance that may be alive elsewhere ([`Found::Foreign`](super::Found::Foreign)) is
        /// gone; that is taken whatever is wanted of the service.
        now: bool,
    },
    /// `reload`: tells each running instance to read its configuration again.
    Reload,
    /// `scale`: so many slots from now on.
    Scale(u32),
    /// `mksvc -update`: another definition. The machine gives it the next generation.
    Update {
        /// What the machine needs of it.
        policy: Box<Policy>,
        /// The kept generations ([`Machine::generations`](super::Machine::generations)) whose
        /// processes would be the same under it: their instances stay and belong to it from now on.
        /// All others are rolled.
        unchanged: Vec<Generation>,
    },
    /// `scrub`: stops all, for good. No intent is taken after it.
    Scrub,
}

/// Why an intent was not taken. Nothing has changed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The service is down: `restart` and `reload` want it up.
    Down,
    /// There is nothing to do at a reload.
    NoReload,
    /// There is no slot with this number.
    NoSlot,
    /// The service is being scrubbed.
    Scrubbed,
    /// The server ends.
    Ending,
}

/// What a machine is told of. What names an instance or a slot that is not there, or that does not
/// wait for it, changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Input {
    /// Time has passed.
    Tick,
    /// An [`Output::Ask`](super::Output::Ask) is granted.
    MayStart {
        /// The slot that asked.
        slot: u32,
    },
    /// An [`Output::Spawn`](super::Output::Spawn) is done. Its time counts as the beginning of the
    /// instance's life, however long the spawn was queued.
    Spawned {
        /// The instance.
        instance: InstanceId,
        /// The main process.
        pid: u32,
    },
    /// An [`Output::Spawn`](super::Output::Spawn) failed. Nothing of the instance is left.
    NotSpawned {
        /// The instance.
        instance: InstanceId,
        /// Why not.
        why: NotSpawned,
    },
    /// The main process is gone. Comes once for each instance that was spawned or adopted with a
    /// main process.
    MainExited {
        /// The instance.
        instance: InstanceId,
        /// How it ended.
        end: End,
    },
    /// An [`Output::Watch`](super::Output::Watch) has come to its end: nothing is left of the
    /// instance's tree.
    TreeEmpty {
        /// The instance.
        instance: InstanceId,
    },
    /// A command has ended, and nothing is left of its tree.
    CommandEnded {
        /// The instance for which it ran.
        instance: InstanceId,
        /// Which command.
        command: Command,
        /// Whether it succeeded. False also if it could not be run or was killed.
        ok: bool,
    },
    /// The instance says that it is ready (`READY=1`, or a newline at its descriptor).
    Ready {
        /// The instance.
        instance: InstanceId,
    },
    /// The instance says that it is alive (`WATCHDOG=1`).
    Watchdog {
        /// The instance.
        instance: InstanceId,
    },
    /// A probe has ended, and nothing is left of its tree.
    Probed {
        /// The instance.
        instance: InstanceId,
        /// Which of its two probes.
        probe: Probe,
        /// Whether it succeeded in time.
        ok: bool,
    },
    /// The answer to an [`Output::Sample`](super::Output::Sample).
    Memory {
        /// The instance.
        instance: InstanceId,
        /// The memory of its tree; none if it cannot be told.
        bytes: Option<u64>,
    },
    /// The state of a service that is named in a policy's `after`. To be told for each name after
    /// the machine was made, after an update, and at each change; not told is missing.
    After {
        /// The name, as in the policy.
        service: String,
        /// Its state from now on.
        state: AfterState,
    },
    /// The server ends and its services with it: all instances are stopped as their policies say,
    /// intents stay as they are. [`Output::Ended`](super::Output::Ended) follows.
    End,
    /// The same at once: KILL to all.
    Kill,
}

/// The state of a service that others wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AfterState {
    /// All its slots are ready, or finished.
    Ready,
    /// It is up, and not all are.
    NotReady,
    /// It is down.
    Down,
    /// There is none.
    Missing,
}

/// How a main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum End {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// Nobody saw how.
    Unknown,
}

/// Why nothing was spawned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotSpawned {
    /// The system's reason: no such file, not executable, no memory, and so on.
    Cannot(String),
    /// An [`Output::Abandon`](super::Output::Abandon) came in time.
    Abandoned,
}

/// The commands of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Command {
    /// The one that must succeed before a start.
    Before,
    /// The one that stops an instance.
    Stop,
    /// The one that makes an instance read its configuration again.
    Reload,
}

/// The two questions to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Probe {
    /// Is it ready?
    Ready,
    /// Is it alive?
    Alive,
}
