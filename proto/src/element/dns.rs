//! A DNS server: its operations and its status. Records travel as text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// An operation on a DNS server.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Make a DNS server.
    Make {
        /// `HOST[:PORT]`: where it answers; without it, at the server's own address, on any port.
        address: Option<String>,
        /// The zone in which it serves the live servers of the circuit.
        zone: Option<String>,
    },
    /// Set a record.
    Set {
        /// Its text, as in a zone file.
        record: String,
    },
    /// Remove records.
    Unset {
        /// Their name.
        name: String,
        /// Their type; without it, all of the name.
        kind: Option<String>,
    },
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Make { .. } => "mkdns",
            Op::Set { .. } => "set",
            Op::Unset { .. } => "unset",
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Make { .. } | Op::Set { .. } | Op::Unset { .. } => true,
        }
    }

    /// Whether the operation waits for others by nature.
    pub fn waits(&self) -> bool {
        match self {
            Op::Make { .. } | Op::Set { .. } | Op::Unset { .. } => false,
        }
    }
}

/// The status of a DNS server, as `peek` prints it.
///
/// ```
/// use circuit_proto::element::dns::Status;
/// let status = Status {
///     address: "127.0.0.1:7711".into(),
///     records: [("a.example.".into(), vec!["a.example.\t60\tIN\tA\t10.0.0.1".into()])].into(),
///     zone: None,
/// };
/// assert_eq!(status.records["a.example."].len(), 1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// Where it answers, over UDP and TCP.
    pub address: String,
    /// The records that were set, by name: canonical text, tab-separated, in the order of setting.
    pub records: BTreeMap<String, Vec<String>>,
    /// The zone in which it serves the live servers of the circuit.
    pub zone: Option<String>,
}
