//! The operations that processes and containers share: their three streams, their end, and signals.

use serde::{Deserialize, Serialize};

use super::{container, process, service};

/// An operation on a process or a container.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Write to its stdin.
    Stdin,
    /// Read its stdout.
    Stdout,
    /// Read its stderr.
    Stderr,
    /// Wait until it exits.
    Wait,
    /// Send it a signal.
    Signal {
        /// The signal's name, with or without `SIG`, in any case, or its number, as the server's
        /// system has it.
        signal: String,
        /// The processes that get it. A container takes [`Reach::Main`] only.
        reach: Reach,
    },
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Stdin => "stdin",
            Op::Stdout => "stdout",
            Op::Stderr => "stderr",
            Op::Wait => "wait",
            Op::Signal { .. } => "signal",
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Signal { .. } => true,
            Op::Stdin | Op::Stdout | Op::Stderr | Op::Wait => false,
        }
    }

    /// Whether the operation waits for others by nature.
    pub fn waits(&self) -> bool {
        match self {
            Op::Stdin | Op::Stdout | Op::Stderr | Op::Wait => true,
            Op::Signal { .. } => false,
        }
    }
}

/// Which processes a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// The process.
    Main,
    /// The process's group.
    Group,
    /// All descendants of the process.
    Tree,
}

/// The answer to `wait`: the status of an element that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// Of a process.
    Process(Box<process::Status>),
    /// Of a container.
    Container(Box<container::Status>),
    /// Of a service or slot, of which nothing is to go on.
    Service(Box<service::Status>),
}

impl Ended {
    /// Nothing after success, else `exit status 1`, `signal: terminated`.
    ///
    /// ```
    /// use circuit_proto::element::streams::Ended;
    /// fn line(ended: &Ended) -> &str {
    ///     ended.exit().unwrap_or("ok")
    /// }
    /// ```
    pub fn exit(&self) -> Option<&str> {
        match self {
            Ended::Process(status) => status.exit.as_deref(),
            Ended::Container(status) => status.exit.as_deref(),
            Ended::Service(status) => status.exit(),
        }
    }
}

/// The state of a stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Input {
    /// Whether it can still be written to.
    pub open: bool,
    /// Whether a writer is attached.
    pub writer: bool,
}

/// The state of a stdout or stderr.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Output {
    /// Whether all of it has been read, or it goes elsewhere.
    pub ended: bool,
    /// Whether a reader is attached.
    pub reader: bool,
    /// How many bytes are held for a reader.
    pub held: u64,
}
