//! The inputs of a machine.

use std::sync::Arc;

use super::{Message, Record};
use crate::Fingerprint;

/// An event that a machine is told of.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A connection for membership is up: authenticated, usable in both directions. At most one
    /// per peer: a second one replaces the first.
    Connected {
        /// The other end.
        peer: Fingerprint,
        /// Whether this end opened it.
        dialled: bool,
    },
    /// The connection is gone.
    Disconnected {
        /// The other end.
        peer: Fingerprint,
        /// The reason, as far as it is known.
        why: Gone,
    },
    /// An [`Output::Connect`](super::Output::Connect) did not succeed.
    ConnectFailed {
        /// The server that was dialled.
        peer: Fingerprint,
    },
    /// A message came on a connection.
    Message {
        /// The other end.
        from: Fingerprint,
        /// The message.
        message: Message,
    },
    /// A message came outside of connections; authenticated.
    Datagram {
        /// The sender.
        from: Fingerprint,
        /// The message.
        message: Message,
    },
    /// The state of the tether beside a link has changed. A driver may leave this out: then silence
    /// decides.
    Tether {
        /// The other end.
        peer: Fingerprint,
        /// Its state from now on.
        state: TetherState,
    },
    /// There is another server with this server's identity, as somebody says who is no peer.
    Copy {
        /// Where it is, and its life.
        record: Arc<Record>,
    },
    /// An [`Output::Ask`](super::Output::Ask) is settled, or another server with this server's
    /// identity has asked: this server goes on.
    Settled {
        /// The number of the other life.
        instance: u64,
        /// Why.
        verdict: Verdict,
    },
    /// Leave the circuit in order: the outputs that follow say so to all neighbours, and are the
    /// last.
    Leave,
    /// A timeout came due.
    Tick,
}

/// Why a server goes on that had heard of another life of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Another server lives on its identity, in a life of this count, and ends.
    Outlasts(u64),
    /// Nobody lives the life of this count.
    Nobody(u64),
    /// Nothing was found out.
    Unknown,
}

/// Why a connection is gone, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gone {
    /// The other side closed it in order, or it was closed as redundant.
    Closed,
    /// The other side closed it because it leaves the circuit.
    Leaving,
    /// Nothing was heard for the idle time-out.
    Silent,
    /// A stateless reset (RFC 9000, section 10.3): somebody with the server's key is there and does
    /// not know the connection. The server is asked, as after silence.
    Reset,
}

/// The evidence of a tether, the silent TCP connection beside a link, about the process at its other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TetherState {
    /// There is none, or its host does not answer either: no evidence.
    Unknown,
    /// The other host's kernel has acknowledged it within the last second.
    Acknowledged,
    /// The other kernel has closed it: the process is probably gone.
    Broken,
}
