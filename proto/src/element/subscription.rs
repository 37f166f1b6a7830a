//! A subscription: a queue of the servers that join, or of those that leave.
//!
//! Its messages are paths of servers, received as those of a [channel](super::channel).

use serde::{Deserialize, Serialize};

/// What `peek` tells of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// What it tells of: `@join` or `@leave`.
    pub source: String,
    /// How many events wait for a receiver.
    pub pending: u64,
    /// Whether it was scrubbed.
    pub closed: bool,
    /// How many events were dropped, as nobody received them.
    pub dropped: u64,
}
