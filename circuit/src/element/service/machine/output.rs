//! The outputs of a machine: what its driver is to do, and what there is to tell.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

use super::{Command, End, Generation, InstanceId, Intent, Probe, Ticket};

/// Something that the driver is to do.
///
/// Outputs come in the order in which they are to be begun. Those of one input end with all its
/// [`Keep`](Output::Keep)s and then all its [`Settled`](Output::Settled)s, so that what must be
/// flushed before an answer stands before the answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    /// A slot is there from now on: make its anchor.
    SlotMade {
        /// Its number.
        slot: u32,
    },
    /// A slot is gone, with all its instances: remove its anchor.
    SlotGone {
        /// Its number.
        slot: u32,
    },
    /// The instance is to be found at the slot's own path, or as an old one beside it. Comes when an
    /// instance is made, and at each change.
    Place {
        /// The instance.
        instance: InstanceId,
        /// Whether it is beside the slot: `SLOT.NUMBER`.
        old: bool,
    },
    /// Nothing is left of the instance, and no more is said of it: drop what was held for it.
    InstanceGone {
        /// The instance.
        instance: InstanceId,
    },
    /// A slot wants an automatic restart: put it into the server's queue of these, once, and say
    /// [`MayStart`](super::Input::MayStart) when there is room.
    Ask {
        /// The slot.
        slot: u32,
    },
    /// A slot that asked no longer wants it: take it out of the queue. (A `MayStart` that is under
    /// way does no harm.)
    Unask {
        /// The slot.
        slot: u32,
    },
    /// Spawn the main process; answered by [`Spawned`](super::Input::Spawned) or
    /// [`NotSpawned`](super::Input::NotSpawned), exactly once, when there is room among the spawns in
    /// flight.
    Spawn {
        /// The instance.
        instance: InstanceId,
        /// With which definition.
        generation: Generation,
    },
    /// The spawn that was asked for is of no more use: if it has not begun, answer it with
    /// [`NotSpawned::Abandoned`](super::NotSpawned::Abandoned), otherwise as ever.
    Abandon {
        /// The instance.
        instance: InstanceId,
    },
    /// Run a command for the instance, in a tree of its own; answered by
    /// [`CommandEnded`](super::Input::CommandEnded). At most one of each kind per instance at a time.
    Run {
        /// The instance.
        instance: InstanceId,
        /// Which command.
        command: Command,
        /// Of which definition.
        generation: Generation,
    },
    /// Kill the tree of a command that still runs. It is answered by its `CommandEnded`.
    KillCommand {
        /// The instance.
        instance: InstanceId,
        /// Which command.
        command: Command,
    },
    /// Send the signal to the main process.
    Signal {
        /// The instance.
        instance: InstanceId,
        /// Which of the two signals of its definition.
        signal: Signal,
        /// Which definition: not always that of its start, as an update may leave the process.
        generation: Generation,
    },
    /// The main process is gone: send TERM and CONT to what is left of the tree.
    SignalRest {
        /// The instance.
        instance: InstanceId,
    },
    /// Send KILL to the whole tree, the main process included.
    KillTree {
        /// The instance.
        instance: InstanceId,
    },
    /// Watch the tree from now on, and say [`TreeEmpty`](super::Input::TreeEmpty) once nothing is
    /// left of it, also if it is empty by now. Comes once for each instance, when its main process is
    /// gone.
    Watch {
        /// The instance.
        instance: InstanceId,
    },
    /// Ask the instance; answered by [`Probed`](super::Input::Probed) unless it is called off. A probe
    /// that is over its time is killed whole and then answered. At most one of each kind per instance
    /// at a time.
    Probe {
        /// The instance.
        instance: InstanceId,
        /// Which question.
        probe: Probe,
        /// How long it may take.
        timeout: Duration,
        /// Of which definition.
        generation: Generation,
    },
    /// The probe under way is called off: kill it; no answer is expected, and one does no harm.
    EndProbe {
        /// The instance.
        instance: InstanceId,
        /// Which question.
        probe: Probe,
    },
    /// Measure the memory of the instance's tree; answered by [`Memory`](super::Input::Memory).
    Sample {
        /// The instance.
        instance: InstanceId,
    },
    /// The instance is ready, or not, from now on: for announcements and for those who wait for this
    /// service.
    Readiness {
        /// The instance.
        instance: InstanceId,
        /// Whether it is ready.
        ready: bool,
    },
    /// Tell the subscribers.
    Event(Event),
    /// Write a record, as [`Machine::service_record`](super::Machine::service_record) or
    /// [`Machine::slot_record`](super::Machine::slot_record) gives it when this is read.
    Keep(Keep),
    /// No instance needs this generation any more: its definition need not be kept.
    Forget {
        /// The generation.
        generation: Generation,
    },
    /// How it went with an intent. Comes once for each, unless the server ends before.
    Settled {
        /// The intent.
        ticket: Ticket,
        /// What became of it.
        outcome: Outcome,
    },
    /// After [`End`](super::Input::End) or [`Kill`](super::Input::Kill): all trees are empty.
    Ended,
}

/// A record to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Keep {
    /// The service's: flushed before the intents that are settled after it, or that were taken by the
    /// same call, are answered.
    Service,
    /// A slot's: written without a flush. If the machine does not know the slot any more, delete it.
    Slot(u32),
}

/// One of the two signals that a definition names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// `Stop.Signal`.
    Stop,
    /// `Reload.Signal`.
    Reload,
}

/// What became of an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is reached.
    Reached,
    /// It failed; the intent itself stays: a service whose first start failed is in back-off.
    Failed(Failure),
    /// A newer one overtook it.
    Superseded {
        /// The newer one.
        by: Ticket,
        /// What it is.
        verb: Verb,
    },
}

/// The kind of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    /// `up`, `mksvc`.
    Up,
    /// `down`.
    Down,
    /// `restart`.
    Restart,
    /// `reload`.
    Reload,
    /// `scale`.
    Scale,
    /// `mksvc -update`.
    Update,
    /// `scrub`.
    Scrub,
}

impl Intent {
    /// Its kind.
    pub(crate) fn verb(&self) -> Verb {
        match self {
            Intent::Up => Verb::Up,
            Intent::Down => Verb::Down,
            Intent::Restart { .. } => Verb::Restart,
            Intent::Reload => Verb::Reload,
            Intent::Scale(_) => Verb::Scale,
            Intent::Update { .. } => Verb::Update,
            Intent::Scrub => Verb::Scrub,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Up => "up",
            Verb::Down => "down",
            Verb::Restart => "restart",
            Verb::Reload => "reload",
            Verb::Scale => "scale",
            Verb::Update => "update",
            Verb::Scrub => "scrub",
        })
    }
}

/// Why an intent failed, or a roll was halted. Displayed as `slot 2: not ready in 60 s`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// The slot that failed.
    pub(crate) slot: u32,
    /// Its instance.
    pub(crate) number: u64,
    /// What happened.
    pub(crate) what: Failed,
}

/// What happened to an instance so that an intent failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failed {
    /// It ended by itself.
    Ended(End),
    /// It was not ready in so long.
    NotReady(Duration),
    /// It did not say that it is alive, or a probe did not find it so.
    Alive,
    /// It used more memory than it may.
    MaxMemory,
    /// The command that must succeed before each start did not.
    Before,
    /// It could not be spawned, for the system's reason.
    CannotExecute(String),
    /// The command that makes it read its configuration again failed.
    Reload,
    /// It cannot be stopped: its tree is not empty ten seconds after the first KILL.
    Stuck,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Ended(End::Code(code)) => write!(f, "exit status {code}"),
            Failed::Ended(End::Signal(signal)) => write!(f, "ended by signal {signal}"),
            Failed::Ended(End::Unknown) => f.write_str("ended, and nobody saw how"),
            Failed::NotReady(time) => write!(f, "not ready in {} s", time.as_secs_f64()),
            Failed::Alive => f.write_str("not alive"),
            Failed::MaxMemory => f.write_str("more memory than it may use"),
            Failed::Before => f.write_str("the command before the start failed"),
            Failed::CannotExecute(why) => write!(f, "cannot execute: {why}"),
            Failed::Reload => f.write_str("the reload command failed"),
            Failed::Stuck => f.write_str("stuck: not all of its processes can be killed"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}: {}", self.slot, self.what)
    }
}

/// Why an instance ended or a slot is in its state: a closed list, displayed in the words of `Why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Why {
    /// It ended by itself.
    Exited,
    /// It was not ready within its deadline.
    NotReady,
    /// It was found not to be alive.
    Alive,
    /// It had reached its age.
    MaxAge,
    /// It used more memory than it may.
    MaxMemory,
    /// A person restarted it.
    Restart,
    /// The definition changed.
    Update,
    /// There are fewer slots now.
    Scale,
    /// The service went down, or its server ended.
    Down,
    /// A newer intent, or the failure of another slot, made it needless before it was ready.
    Superseded,
    /// The command before its start failed.
    BeforeFailed,
    /// It ended, and nobody saw how.
    Unknown,
    /// It could not be spawned, for the system's reason.
    CannotExecute(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Exited => "exited",
            Why::NotReady => "not ready in time",
            Why::Alive => "alive",
            Why::MaxAge => "max age",
            Why::MaxMemory => "max memory",
            Why::Restart => "restart",
            Why::Update => "update",
            Why::Scale => "scale",
            Why::Down => "down",
            Why::Superseded => "superseded",
            Why::BeforeFailed => "before failed",
            Why::Unknown => "unknown",
            Why::CannotExecute(why) => return write!(f, "cannot execute: {why}"),
        })
    }
}

/// Something that the subscribers of service events are told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// An instance was spawned.
    Spawn {
        /// The instance.
        instance: InstanceId,
        /// Its main process.
        pid: u32,
        /// Its definition.
        generation: Generation,
    },
    /// An instance of the server's life before goes on in this one.
    Adopted {
        /// The instance.
        instance: InstanceId,
        /// Its main process.
        pid: u32,
        /// Its definition.
        generation: Generation,
    },
    /// An instance is ready, for the first time or again.
    Ready {
        /// The instance.
        instance: InstanceId,
    },
    /// An instance that runs on is not ready any more.
    Unready {
        /// The instance.
        instance: InstanceId,
    },
    /// An instance is being stopped. Not told of one whose main process ended by itself.
    Stopping {
        /// The instance.
        instance: InstanceId,
        /// Why.
        why: Why,
    },
    /// A main process has ended.
    Exit {
        /// The instance.
        instance: InstanceId,
        /// How.
        end: End,
        /// Why.
        why: Why,
    },
    /// A slot waits until it is started again.
    Backoff {
        /// The slot.
        slot: u32,
        /// The failures in a row.
        failures: u32,
        /// How long it waits.
        delay: Duration,
        /// Why.
        why: Why,
    },
    /// A slot is given up until a person says otherwise.
    Failed {
        /// The slot.
        slot: u32,
        /// The failures in a row.
        failures: u32,
        /// Why.
        why: Why,
    },
    /// An instance's tree is not empty ten seconds after the first KILL.
    Stuck {
        /// The instance.
        instance: InstanceId,
    },
    /// The service is to be up.
    Up,
    /// The service is to be down.
    Down,
    /// Another number of slots.
    Scale {
        /// Before.
        from: u32,
        /// From now on.
        to: u32,
    },
    /// A running instance was told to read its configuration again.
    Reload {
        /// The instance.
        instance: InstanceId,
    },
    /// The definition changed.
    Update {
        /// The new generation.
        generation: Generation,
    },
    /// All slots have their new instances.
    Rolled {
        /// The generation that they have.
        generation: Generation,
    },
    /// A roll was halted.
    Halted {
        /// By what.
        failure: Failure,
    },
}
