//! Why a connection is lost, in one type for every transport.

use circuit_proto::handshake::Close;
use quinn::{ConnectionError, TransportErrorCode};

/// Why a connection is lost.
///
/// The display has none of the peer's own words: the text that a peer gives as its reason may be
/// anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Nothing was heard of the peer for too long.
    #[error("it no longer answers")]
    Silent,
    /// The peer answered that it does not know the connection.
    #[error("it was restarted, or had not heard from us for too long")]
    Forgotten,
    /// The process of the peer, on this host, has ended.
    #[error("its process has ended")]
    Died,
    /// This side closed the connection.
    #[error("we closed it")]
    ClosedHere,
    /// The peer left the circuit in order.
    #[error("it left the circuit")]
    Left,
    /// The peer closed the connection, with a code of [`Close`] or one of a later version.
    #[error("it closed the connection with code {0}")]
    Closed(u64),
    /// The peer refused the connection before the handshake.
    #[error("it refused the connection")]
    Refused,
    /// The transport failed; its own words.
    #[error("{0}")]
    Transport(String),
}

impl From<ConnectionError> for Lost {
    fn from(error: ConnectionError) -> Lost {
        match error {
            ConnectionError::TimedOut => Lost::Silent,
            ConnectionError::Reset => Lost::Forgotten,
            ConnectionError::LocallyClosed => Lost::ClosedHere,
            ConnectionError::ApplicationClosed(closed) => match u64::from(closed.error_code) {
                code if code == Close::Leaving as u64 => Lost::Left,
                code => Lost::Closed(code),
            },
            ConnectionError::ConnectionClosed(closed) => match closed.error_code {
                TransportErrorCode::CONNECTION_REFUSED => Lost::Refused,
                code => Lost::Transport(format!("it closed the connection: {code}")),
            },
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::CidsExhausted => Lost::Transport(error.to_string()),
        }
    }
}

impl Lost {
    /// The code with which the peer closed the connection, if it did.
    pub fn code(&self) -> Option<u64> {
        match self {
            Lost::Closed(code) => Some(*code),
            Lost::Left => Some(Close::Leaving as u64),
            Lost::Silent
            | Lost::Forgotten
            | Lost::Died
            | Lost::ClosedHere
            | Lost::Refused
            | Lost::Transport(_) => None,
        }
    }
}
