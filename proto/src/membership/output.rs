//! The outputs of a machine.

use std::sync::Arc;

use super::{Message, Record};
use crate::Fingerprint;

/// Something that the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Open a connection for membership; answered by [`Input::Connected`](super::Input::Connected) or
    /// [`Input::ConnectFailed`](super::Input::ConnectFailed). If there is one already, nothing is to be done.
    Connect {
        /// The server to dial.
        to: Arc<Record>,
    },
    /// There is no further use for this connection: close it in order. No
    /// [`Input::Disconnected`](super::Input::Disconnected) is expected, and one does no harm.
    Disconnect {
        /// The other end.
        peer: Fingerprint,
    },
    /// Send on the connection: reliable, ordered; dropped silently if there is none.
    Send {
        /// The other end.
        to: Fingerprint,
        /// The message.
        message: Message,
    },
    /// Send outside of connections: cheap, unreliable, at most [`MAX_DATAGRAM`](super::MAX_DATAGRAM) bytes.
    Datagram {
        /// The receiver. The name may be empty and the count 0 where they are not known.
        to: Arc<Record>,
        /// The message.
        message: Message,
    },
    /// There is another life of this server at this address: ask there whether somebody lives it,
    /// and decide by the [`Tenure`](crate::Tenure)s of both who goes on. Answered by
    /// [`Input::Settled`](super::Input::Settled), unless this server ends.
    Ask {
        /// The other life.
        to: Arc<Record>,
    },
    /// Tell the subscribers.
    Notice(Notice),
}

/// A join or a leave, which subscribers are told of. They alternate per server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// This server is a member from now on.
    Join(Arc<Record>),
    /// This server is a member no longer.
    Leave(Arc<Record>),
}
