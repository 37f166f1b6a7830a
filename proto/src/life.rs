//! Which life of a server is meant: the one thing by which lives are told apart.
//!
//! A server that is started again with the same key is the same server, in another life. Process
//! ids and start times do not tell its lives apart: in a container every server is process 1, and
//! clocks are wrong. They are text for people, and nothing compares them.

use crate::ServerId;

/// One life of one server.
///
/// Lives are compared with `==`. Of two lives of one server the greater one is the later:
///
/// ```
/// use circuit_proto::{Life, ServerId};
/// let life = |id, count| Life { id: ServerId(id), count };
/// assert!(life(1, 2) > life(1, 1));
/// assert_ne!(life(1, 2), life(2, 2));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Whose life it is.
    pub id: ServerId,
    /// How many lives that server had before. The server keeps this number with its key (`-var`)
    /// and raises it at each start. Without `-var` it is 0, and the id is new in each life.
    pub count: u64,
}
