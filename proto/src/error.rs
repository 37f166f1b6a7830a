//! Errors as they travel: a code that programs match on, and a message for people.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $Code:ident = $number:literal,)*) => {
        /// The kinds of failures that programs match on.
        ///
        /// A code travels as its number. A number that this version does not know is read as
        /// [`Internal`](Code::Internal): the message beside it still says what happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "u32", into = "u32")]
        pub enum Code {
            $($(#[$doc])* $Code = $number,)*
        }

        impl From<u32> for Code {
            fn from(number: u32) -> Code {
                match number {
                    $($number => Code::$Code,)*
                    _ => Code::Internal,
                }
            }
        }
    };
}

codes! {
    /// No live server of the circuit has this id or name.
    NoSuchServer = 0,
    /// The server is known, and does not answer.
    Unreachable = 1,
    /// The anchor holds no element.
    NoSuchElement = 2,
    /// The element is of a kind that cannot do this.
    WrongKind = 3,
    /// The anchor holds an element already.
    Occupied = 4,
    /// The channel, or the process's stream, has been closed.
    Closed = 5,
    /// The element was scrubbed while the operation waited on it.
    Aborted = 6,
    /// An argument is wrong.
    InvalidArgument = 7,
    /// The operating system did not execute the program.
    Exec = 8,
    /// The server does not do this, to anybody or in this build.
    Refused = 9,
    /// Somebody else is at it, or a limit is reached: try again later.
    Busy = 10,
    /// A message or a value exceeds a limit.
    TooLarge = 11,
    /// The server is of a version that does not know the operation.
    Unsupported = 12,
    /// The connection was lost at a moment when it may or may not have happened.
    Unknown = 13,
    /// A defect, here or there, or a code of a later version.
    Internal = 14,
    /// The value was changed by somebody else meanwhile.
    Conflict = 15,
    /// The caller's lease has ended, and another's may have begun.
    Fenced = 16,
    /// There is no such program to execute.
    NoSuchProgram = 17,
    /// Nothing was there in the time that the caller gave.
    Empty = 18,
}

impl From<Code> for u32 {
    fn from(code: Code) -> u32 {
        code as u32
    }
}

/// Gives errors a `Debug` that reads as their `Display`: a `main` that returns an error prints its
/// `Debug`. For errors without a source.
macro_rules! debug_as_display {
    ($Error:ty) => {
        impl std::fmt::Debug for $Error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}
pub(crate) use debug_as_display;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn a_code_of_a_later_version_is_internal_with_its_message() {
        let later = codec::encode(&(9999u32, "the moon is full")).unwrap();
        let error = Error::new(Code::Internal, "the moon is full");
        assert_eq!(codec::decode(&later), Ok(error));
    }

    #[test]
    fn codes_are_read_as_they_are_written() {
        for number in 0..=18 {
            let code = Code::from(number);
            assert_eq!(u32::from(code), number);
            let bytes = codec::encode(&Error::new(code, "")).unwrap();
            assert_eq!(codec::decode(&bytes), Ok(Error::new(code, "")));
        }
        assert_eq!(Code::from(19), Code::Internal);
    }
}
