//! Errors as they travel: a code that programs match on, and a message for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of failure it is. A closed set: programs match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Code {
    /// No live server of the circuit has this id or name.
    NoSuchServer,
    /// The server is known, and does not answer.
    Unreachable,
    /// The anchor holds no element.
    NoSuchElement,
    /// The element is of a kind that cannot do this.
    WrongKind,
    /// The anchor holds an element already.
    Occupied,
    /// The channel, or the process's stream, has been closed.
    Closed,
    /// The element was scrubbed while the operation waited on it.
    Aborted,
    /// An argument is wrong.
    InvalidArgument,
    /// The operating system did not execute the program.
    Exec,
    /// The server does not do this, to anybody or in this build.
    Refused,
    /// Somebody else is at it, or a limit is reached: try again later.
    Busy,
    /// A message or a value exceeds a limit.
    TooLarge,
    /// The server is of a version that does not know the operation.
    Unsupported,
    /// The connection was lost at a moment when it may or may not have happened.
    Unknown,
    /// A defect, here or there.
    Internal,
}

/// An operation's failure, as a server reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// For programs.
    pub code: Code,
    /// For people: lower case, no full stop, names the path or address.
    pub message: String,
}

impl Error {
    /// An error of this kind with this message.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
