//! A subscription: a queue of the servers that join, or of those that leave.
//!
//! Its messages are paths of servers, received as those of a [channel](super::channel).

use serde::{Deserialize, Serialize};

/// An operation on a subscription. The operations that receive its events are a channel's.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Make a subscription.
    Make {
        /// The events that it delivers.
        source: Source,
    },
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Make { source } => source.command(),
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Make { .. } => true,
        }
    }
}

/// The events that a subscription delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Servers that join, beginning with those that are there.
    Join,
    /// Servers that leave from now on.
    Leave,
}

impl Source {
    fn command(self) -> &'static str {
        match self {
            Source::Join => "mk@join",
            Source::Leave => "mk@leave",
        }
    }
}

/// The status of a subscription, as `peek` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// The events that it delivers.
    pub source: Source,
    /// How many events wait for a receiver.
    pub pending: u64,
    /// Whether it was scrubbed.
    pub closed: bool,
    /// How many events were dropped, as nobody received them.
    pub dropped: u64,
}
