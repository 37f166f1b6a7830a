//! A DNS server: its status. Records travel as text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What `peek` tells of a DNS server.
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
    /// What was set, by name: canonical text, tab-separated, in the order of setting.
    pub records: BTreeMap<String, Vec<String>>,
    /// The zone in which it serves the live servers of the circuit.
    pub zone: Option<String>,
}
