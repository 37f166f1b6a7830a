//! The errors of a caller's operations, which tell whether the server refused or is gone; and how
//! errors read.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use circuit_proto::path::PathError;
use circuit_proto::{Code, Path, Url};

use crate::client::{Dialled, DiscoverDialError};
use crate::discover::{DiscoverError, NotAGroup};
use crate::key_file::KeyFileError;
use crate::runtime_dir::RuntimeDirError;
use crate::search::SearchError;
pub use crate::transport::dial::DialError;
use crate::transport::lost::Lost;
pub use crate::transport::socket::dial::SocketError;
use crate::transport::stream::StreamError;

/// Why an operation failed.
#[derive(thiserror::Error)]
pub enum Error {
    /// The server that hosts the anchor did not do it; its code and message say why.
    #[error("{path}: {error}")]
    Refused {
        /// The anchor.
        path: Path,
        /// The server's error.
        error: circuit_proto::Error,
    },
    /// The server that hosts the anchor is gone: not in the circuit, or not answering.
    #[error("{path}: {error}")]
    ServerGone {
        /// The anchor.
        path: Path,
        /// The error of the server that forwards for us.
        error: circuit_proto::Error,
    },
    /// The server through which we reach the circuit is gone, and with it our connection.
    /// The operations under way may or may not have happened.
    #[error("{path}: {reason}")]
    CircuitGone {
        /// The anchor.
        path: Path,
        /// The server that was dialled.
        url: Url,
        /// How the connection ended, with the server's name and address.
        reason: String,
    },
    /// No answer in time. The operation may or may not have happened.
    #[error("{path}: no answer within {} s", .after.as_secs_f32())]
    TimedOut {
        /// The anchor.
        path: Path,
        /// The deadline.
        after: Duration,
    },
    /// The other side went away when all was said and its answer was still to come: it may have
    /// happened, or not.
    #[error("{path}: {reason}; it may have been done, or not")]
    Unknown {
        /// The anchor.
        path: Path,
        /// How the other side ended.
        reason: String,
    },
    /// The text is not a path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The peer's bytes made no sense.
    #[error("{path}: the server broke the protocol: {reason}")]
    Protocol {
        /// The anchor.
        path: Path,
        /// How.
        reason: String,
    },
}

impl Error {
    /// The server's code, where a server answered.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Refused { error, .. } | Error::ServerGone { error, .. } => Some(error.code),
            Error::Unknown { .. } => Some(Code::Unknown),
            _ => None,
        }
    }

    /// The text without the path that it begins with.
    pub(crate) fn reason(&self) -> String {
        match self {
            Error::Refused { error, .. } | Error::ServerGone { error, .. } => error.to_string(),
            Error::Unknown { reason, .. }
            | Error::Protocol { reason, .. }
            | Error::CircuitGone { reason, .. } => reason.clone(),
            other => other.to_string(),
        }
    }

    pub(crate) fn from_reply(path: &Path, error: circuit_proto::Error) -> Error {
        let path = path.clone();
        match error.code {
            Code::NoSuchServer | Code::Unreachable => Error::ServerGone { path, error },
            Code::Unknown => Error::Unknown {
                path,
                reason: error.message,
            },
            _ => Error::Refused { path, error },
        }
    }

    pub(crate) fn protocol(path: &Path, reason: impl ToString) -> Error {
        Error::Protocol {
            path: path.clone(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn from_stream(path: &Path, error: StreamError, dialled: &Dialled) -> Error {
        match error {
            StreamError::Failed(error) => Error::from_reply(path, error),
            StreamError::Abandoned => {
                Error::protocol(path, "it abandoned the stream without a reason")
            }
            StreamError::Lost(lost) => Error::CircuitGone {
                path: path.clone(),
                url: dialled.url.clone(),
                reason: circuit_gone(dialled, &lost),
            },
            StreamError::Protocol(codec) => Error::protocol(path, codec),
        }
    }
}

/// The text of the loss of the server that was dialled.
fn circuit_gone(dialled: &Dialled, lost: &Lost) -> String {
    let who = format!(
        "the server that was dialled, {} at {}",
        dialled.name,
        dialled.url.authority()
    );
    match lost {
        Lost::Left => format!("{who}, left the circuit"),
        other => format!("lost {who}: {other}"),
    }
}

/// The text of an error with its causes, each said once. The operating system's are in this crate's
/// style: lower case, and without a number.
///
/// ```
/// let error = circuit_client::key_file::read("/no/such".as_ref()).unwrap_err();
/// let text = "cannot read the key file /no/such: no such file or directory";
/// assert_eq!(circuit_client::chain(&error), text);
/// ```
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = words(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let words = words(cause);
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

/// One error's own words: the operating system's begin in lower case and have no number.
fn words(error: &(dyn StdError + 'static)) -> String {
    let words = error.to_string();
    if !error.is::<io::Error>() {
        return words;
    }
    let words = words.split(" (os error").next().unwrap_or(&words);
    // The standard library's own, before those of the C library's resolver.
    let words = words.trim_start_matches("failed to lookup address information: ");
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// A `main` that returns an error prints its `Debug`: so these read as a person wants them.
macro_rules! debug_as_chain {
    ($($Error:ty),* $(,)?) => {
        $(
            impl std::fmt::Debug for $Error {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(&chain(self))
                }
            }
        )*
    };
}

debug_as_chain! {
    DialError,
    DiscoverDialError,
    DiscoverError,
    Error,
    KeyFileError,
    NotAGroup,
    RuntimeDirError,
    SearchError,
}

/// For `AsyncRead` and `AsyncWrite`, whose errors are the standard library's.
impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match error.code() {
            Some(Code::Closed) => io::ErrorKind::BrokenPipe,
            Some(Code::Busy) => io::ErrorKind::ResourceBusy,
            _ => match error {
                Error::CircuitGone { .. } => io::ErrorKind::ConnectionAborted,
                Error::TimedOut { .. } => io::ErrorKind::TimedOut,
                _ => io::ErrorKind::Other,
            },
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_main_returns_reads_as_a_sentence() {
        let check = |error: &dyn std::fmt::Debug, expected: &str| {
            assert_eq!(format!("{error:?}"), expected);
        };
        let path: Path = "/one/a".parse().unwrap();
        let occupied = circuit_proto::Error::new(Code::Occupied, "occupied by a proc");
        let occupied = Error::from_reply(&path, occupied);
        check(&occupied, "/one/a: occupied by a proc");
        let boxed: Box<dyn StdError> = Box::new(occupied);
        check(&boxed, "/one/a: occupied by a proc");
        let address = "127.0.0.1:7".parse().unwrap();
        let source = io::Error::from_raw_os_error(13);
        check(
            &DialError::Socket { address, source },
            "cannot open a UDP socket towards 127.0.0.1:7: permission denied",
        );
        check(
            &crate::key_file::read("/no/such".as_ref()).unwrap_err(),
            "cannot read the key file /no/such: no such file or directory",
        );
        check(
            &"one/a".parse::<Path>().unwrap_err(),
            "a path begins with /: \"one/a\"",
        );
        check(
            &"10.0.0.1:7".parse::<Url>().unwrap_err(),
            "not a circuit URL (circuit://HOST:PORT/PID/Qid): 10.0.0.1:7",
        );
    }
}
