//! A server, as the element of its own anchor: its operations and its status.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::growing;
use crate::{ServerId, Url};

/// An operation on a server.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Merge the server's circuit with another.
    Join {
        /// A server of the other circuit.
        url: Url,
    },
    /// Leave the circuit and exit.
    Suicide,
    /// Report, as text, the state of the server's threads and operations.
    Stacks,
    /// Stop the services, leave the circuit and exit. What is wanted of the services stays.
    Stop,
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Join { .. } => "join",
            Op::Suicide | Op::Stop => "suicide",
            Op::Stacks => "stk",
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Join { .. } | Op::Suicide | Op::Stop => true,
            Op::Stacks => false,
        }
    }

    /// Whether the operation waits for others by nature.
    pub fn waits(&self) -> bool {
        match self {
            Op::Join { .. } | Op::Suicide | Op::Stacks | Op::Stop => false,
        }
    }
}

/// The status of a server, as `peek` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// Its URL.
    pub addr: Url,
    /// When it was started, and so joined: RFC 3339, UTC.
    pub joined: String,
    /// Its name, for people.
    pub name: String,
    /// The version of its binary.
    pub version: String,
    /// Whether the circuit has a key.
    pub key: bool,
    /// How many servers it knows to be alive, itself included.
    pub servers: u64,
    /// How many neighbours it has.
    pub degree: u64,
    /// The ids of its neighbours.
    #[serde(deserialize_with = "growing")]
    pub links: Vec<ServerId>,
    /// How many tethers it has: beside each link one, where no firewall stands between.
    pub tethers: u64,
    /// The ids of the servers that are suspected to have died.
    #[serde(deserialize_with = "growing")]
    pub suspected: Vec<ServerId>,
    /// Whether it has lost all its links, and so cannot know who is alive.
    pub isolated: bool,
    /// How many clients are connected.
    pub clients: u64,
    /// How many of its anchors hold an element.
    pub elements: u64,
    /// Why what is to be kept cannot be written, while that is so.
    pub store_error: Option<String>,
    /// The server's counters.
    pub counters: Counters,
}

/// Counters and gauges by group and name, both in PascalCase: `Requests`, `InFlight`. A server of
/// another version may have others, so that programs take what they know.
pub type Counters = BTreeMap<String, BTreeMap<String, u64>>;
