//! A service, which keeps processes running: its operations, its definition, and its status.
//!
//! A service has numbered slots, each an anchor below it, and in each slot an instance runs. The
//! operations are for the whole service at its own path, and for one slot at the slot's.

mod definition;

use serde::{Deserialize, Serialize};

pub use definition::{
    Backoff, Bound, Definition, Limit, Port, Probe, Reload, Restart, Retained, Socket, Stop,
    Unknown,
};

use crate::codec::growing;

/// An operation on a service, or on one of its slots.
///
/// Those that change what a person wants are answered with the number of that intent as soon as it is
/// recorded; [`Op::Watch`] waits for its effect.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Make a service. Answered with the number of the intent.
    Make {
        /// The [`Definition`] as JSON.
        definition: String,
        /// Whether it is to be down at first.
        down: bool,
        /// Whether the definition takes the place of one that is there.
        update: bool,
    },
    /// Say what [`Op::Make`] with `update` would do, as lines of text, and do nothing.
    Check {
        /// The [`Definition`] as JSON.
        definition: String,
    },
    /// Have it up.
    Up,
    /// Have it down.
    Down,
    /// Replace its instances.
    Restart {
        /// Whether all stop before any starts.
        now: bool,
    },
    /// Have its instances read their configuration again.
    Reload,
    /// Change the number of its slots. Answered with a [`Scaled`].
    Scale {
        /// The number, or the change.
        by: Scale,
    },
    /// Wait until an intent is reached, or never will be. Answered with an [`Outcome`].
    Watch {
        /// The number of the intent.
        intent: u64,
    },
    /// Wait until all slots are ready, or else until none is meant to go on. Answered with an
    /// [`Outcome`].
    Wait {
        /// Whether for readiness.
        ready: bool,
    },
    /// Read its retained output, as [`Line`]s.
    Logs(Query),
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Make { .. } | Op::Check { .. } => "mksvc",
            Op::Up => "up",
            Op::Down => "down",
            Op::Restart { .. } => "restart",
            Op::Reload => "reload",
            Op::Scale { .. } => "scale",
            Op::Watch { .. } => "watch-intent",
            Op::Wait { .. } => "wait",
            Op::Logs(_) => "logs",
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Make { .. }
            | Op::Up
            | Op::Down
            | Op::Restart { .. }
            | Op::Reload
            | Op::Scale { .. } => true,
            Op::Check { .. } | Op::Watch { .. } | Op::Wait { .. } | Op::Logs(_) => false,
        }
    }

    /// Whether the operation waits for others by nature.
    pub fn waits(&self) -> bool {
        match self {
            Op::Watch { .. } | Op::Wait { .. } | Op::Logs(_) => true,
            Op::Make { .. }
            | Op::Check { .. }
            | Op::Up
            | Op::Down
            | Op::Restart { .. }
            | Op::Reload
            | Op::Scale { .. } => false,
        }
    }
}

/// The most slots that a service has.
pub const MAX_SLOTS: u16 = 1024;

/// A number of slots, or a change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scale {
    /// So many.
    To(u16),
    /// So many more, or less.
    By(i32),
}

/// The answer to [`Op::Scale`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    /// How many slots there were.
    pub from: u16,
    /// How many there are to be.
    pub to: u16,
    /// The number of the intent.
    pub intent: u64,
}

/// What came of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was reached.
    Reached,
    /// It was not, and the service goes on trying, or has given up.
    Failed {
        /// The slot and the reason.
        why: String,
        /// The last lines of the output of the instance that failed.
        log: Vec<String>,
    },
    /// Another intent took its place.
    Superseded {
        /// The command of the other.
        by: String,
    },
}

/// Which retained output is to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The last lines to begin with; `None` for all.
    pub last: Option<u64>,
    /// Only lines since this time, in nanoseconds since 1970.
    pub since: Option<u64>,
    /// Only lines of this stream.
    pub stream: Option<Stream>,
    /// Whether to go on with lines to come.
    pub follow: bool,
}

/// An output of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Its stdout.
    Stdout,
    /// Its stderr.
    Stderr,
}

/// A piece of retained output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// A line.
    Line {
        /// When it was read, in nanoseconds since 1970.
        time: u64,
        /// The slot.
        slot: u16,
        /// The number of the instance.
        instance: u64,
        /// The stream.
        stream: Stream,
        /// Its bytes, without the line end.
        #[serde(with = "crate::codec::bytes")]
        text: Vec<u8>,
    },
    /// So many bytes are missing here.
    Dropped {
        /// When they were.
        time: u64,
        /// How many bytes.
        bytes: u64,
    },
}

/// The status of a service, or of one of its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Of a service.
    Service(Box<Whole>),
    /// Of a slot.
    Slot(Box<Slot>),
}

impl Status {
    /// How its last instance ended, if it failed: `exit status 1`, `signal: terminated`. Of several slots
    /// that of the first.
    pub fn exit(&self) -> Option<&str> {
        let slots = match self {
            Status::Service(whole) => whole.slots.as_slice(),
            Status::Slot(slot) => std::slice::from_ref(&**slot),
        };
        let ends = slots.iter().filter_map(|slot| slot.last.as_ref());
        ends.filter_map(|last| last.exit.as_deref()).next()
    }
}

/// The status of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Whole {
    /// The [`Definition`] as JSON, as it was given.
    pub service: String,
    /// How often the definition has changed, and one.
    pub generation: u64,
    /// The generation before, while a roll is unfinished or halted.
    pub previous: Option<u64>,
    /// `up`, `down` or `scrubbed`, as a person wants it.
    pub want: String,
    /// How many slots are ready.
    pub ready: u16,
    /// The present roll, or `halted`, with the reason.
    pub rolling: Option<Rolling>,
    /// Whether it is kept for the next life of its server.
    pub kept: bool,
    /// The sockets that are held for it.
    #[serde(deserialize_with = "growing")]
    pub sockets: Vec<HeldSocket>,
    /// Its retained output.
    pub log: Log,
    /// Its slots.
    #[serde(deserialize_with = "growing")]
    pub slots: Vec<Slot>,
}

/// A roll that is not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rolling {
    /// What it does.
    Unfinished(String),
    /// What halted it.
    Halted(String),
}

/// A socket that is held for a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HeldSocket {
    /// Its name.
    pub name: String,
    /// Its address, with the port that was bound.
    pub address: String,
    /// Who holds it: `server`, `adopted` or `beside`.
    pub held: String,
}

/// Retained output.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Log {
    /// Bytes that are retained.
    pub bytes: u64,
    /// Bytes that were dropped, as they came faster than they could be written.
    pub dropped: u64,
    /// The last error of the disk.
    pub error: Option<String>,
}

/// The status of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Slot {
    /// Its number.
    pub slot: u16,
    /// `waiting`, `starting`, `ready`, `unready`, `stopping`, `backoff`, `stuck`, `failed`,
    /// `finished` or `down`.
    pub state: String,
    /// What led to that state.
    pub why: Option<String>,
    /// The main process of its instance.
    pub pid: Option<u32>,
    /// The generation of its instance.
    pub generation: u64,
    /// Since when it is in that state: RFC 3339, UTC.
    pub since: String,
    /// Whether the instance began in an earlier life of the server.
    pub adopted: bool,
    /// How its tree is found: `cgroup` or `marked`.
    pub tree: String,
    /// What the instance says of itself (sd_notify(3)).
    pub status: Option<String>,
    /// What a start waits for.
    pub waiting: Option<String>,
    /// How many instances there were.
    pub starts: u64,
    /// The failures in a row.
    pub failures: u32,
    /// The milliseconds to the next start.
    pub next: Option<u64>,
    /// The end of the last instance.
    pub last: Option<Last>,
    /// The instances that are being replaced.
    #[serde(deserialize_with = "growing")]
    pub old: Vec<Old>,
}

/// The end of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Last {
    /// `None` after success, else `exit status 1`, `signal: terminated`.
    pub exit: Option<String>,
    /// The exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// Whether nobody saw how it ended.
    pub unknown: bool,
    /// Why it ended.
    pub why: String,
    /// When: RFC 3339, UTC.
    pub ended: String,
}

/// An instance that is being replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Old {
    /// Its name beside the slot: `2.5`.
    pub name: String,
    /// Its main process.
    pub pid: Option<u32>,
    /// Its generation.
    pub generation: u64,
    /// Its state.
    pub state: String,
    /// Since when: RFC 3339, UTC.
    pub since: String,
}
