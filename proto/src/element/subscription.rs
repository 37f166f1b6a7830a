//! A subscription: a queue of the servers that join, or of those that leave.
//!
//! The operations of a [channel](super::channel) that receive give the path of a server for each
//! event; the subscription's own, in the same words on the wire, give the encoded [`Event`].

use serde::{Deserialize, Serialize};

use crate::{Path, ServerId, Url};

/// An operation on a subscription.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Make a subscription.
    Make {
        /// The events that it delivers.
        source: Source,
    },
    /// Receive one event.
    Receive,
    /// Receive many events on one stream.
    ReceiveMany,
    /// Make a subscription that is [bound](crate::request#bound-elements) to the stream of this
    /// request.
    MakeBound {
        /// The events that it delivers.
        source: Source,
    },
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Make { source } | Op::MakeBound { source } => source.command(),
            Op::Receive | Op::ReceiveMany => "recv",
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Make { .. } | Op::MakeBound { .. } => true,
            Op::Receive | Op::ReceiveMany => false,
        }
    }

    /// Whether the operation waits for others by nature.
    pub fn waits(&self) -> bool {
        match self {
            Op::Make { .. } => false,
            Op::Receive | Op::ReceiveMany | Op::MakeBound { .. } => true,
        }
    }
}

/// A server that joined, or one that left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its id.
    pub id: ServerId,
    /// Its name, for people.
    pub name: String,
    /// Its URL.
    pub url: Url,
}

impl Event {
    /// The path of the server.
    pub fn path(&self) -> Path {
        Path::of_server(self.id)
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
    /// What happens to the services of the server that holds the subscription, from now on. These events
    /// travel as text, each a JSON object.
    #[serde(rename = "svc")]
    Service,
}

impl Source {
    fn command(self) -> &'static str {
        match self {
            Source::Join => "mk@join",
            Source::Leave => "mk@leave",
            Source::Service => "mk@svc",
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
