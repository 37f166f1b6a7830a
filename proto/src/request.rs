//! Requests, one bidirectional stream each.
//!
//! The caller sends a framed [`Request`]; the answer begins with a framed [`Reply`]. For stream
//! operations chunks follow in one or both directions: a length of at most
//! [`MAX_CHUNK`](crate::codec::MAX_CHUNK), then that many bytes; a chunk of length 0 and a framed
//! [`End`] end a direction. A direction that finishes without its `End` was cut.
//!
//! The data that each operation sends besides:
//!
//! | operation | caller | server |
//! | --- | --- | --- |
//! | [`anchor::Op::List`] | | chunks of encoded [`Listed`](anchor::Listed), one behind the other |
//! | [`anchor::Op::Peek`] | | value: `Option<`[`Status`](crate::element::Status)`>` |
//! | [`streams::Op::Stdin`] | the data | `End` once the process's stdin has all of it |
//! | [`streams::Op::Stdout`], [`Stderr`](streams::Op::Stderr) | an `End` without an error closes for good: the rest is discarded; with one, the next reader goes on | the data |
//! | [`streams::Op::Wait`] | | value: [`Ended`](streams::Ended) |
//! | [`container::Op::Make`](crate::element::container::Op::Make) | | its reply comes when the container runs, or when the fetching of its image begins; then data: the progress of that, as lines of text; `End` once the container runs |
//! | [`server::Op::Stacks`](crate::element::server::Op::Stacks) | | text |
//! | [`channel::Op::Send`](crate::element::channel::Op::Send), `Receive`, `SendMany`, `ReceiveMany`, `ReceiveWithin`, and those of [`subscription`](crate::element::subscription) that receive | see [`channel`](crate::element::channel) | |
//! | those that make a [bound element](#bound-elements) | an `End` when the element is to go | its reply when the element is there; an `End` once it is gone |
//! | all others | | value: `()` |
//!
//! # Bound elements
//!
//! An element that is bound to the stream of the request which made it goes when that stream ends, in
//! order or not: when the caller has sent its `End`, is gone or lost, or a server that forwards is.
//! If somebody scrubs the element before, the server's `End` says so.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::element::{self, anchor, streams};
use crate::{Error, Path};

/// A caller's request to an anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The anchor. Its first name says which server executes the operation.
    pub path: Path,
    /// The encoded [`Op`], opaque to a server that only forwards it.
    #[serde(with = "codec::bytes")]
    pub op: Vec<u8>,
    /// The caller, for the log: set by the forwarding server, empty from a client.
    pub origin: String,
    /// Whether a server forwards it: it is never forwarded again.
    pub forwarded: bool,
}

/// The answer to a request: a value, or why not.
pub type Reply = Result<Value, Error>;

/// An encoded value, whose type depends on the operation. Empty where data follows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Value(#[serde(with = "codec::bytes")] pub Vec<u8>);

/// How a direction of a stream ended.
pub type End = Result<(), Error>;

macro_rules! operations {
    ($($room:ident $Room:ident { $($kinds:tt)* })*) => {
        /// The operations, by the kind of element that they are for.
        ///
        /// An encoded operation begins with two numbers, that of the variant here and that of the
        /// variant in the kind's own `Op`. The order of both is part of the wire format: new ones
        /// come last.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Op {
            /// On any anchor.
            Anchor(anchor::Op),
            /// On a process or a container.
            Streams(streams::Op),
            $(
                #[doc = concat!("See [`", stringify!($room), "`](mod@element::", stringify!($room), ").")]
                $Room(element::$room::Op),
            )*
        }

        /// How many operations this version knows, for each variant of [`Op`].
        const KNOWN: &[fn() -> usize] = &[
            codec::variants::<anchor::Op>,
            codec::variants::<streams::Op>,
            $(codec::variants::<element::$room::Op>),*
        ];

        impl Op {
            /// The operation's name in logs and tables: the name of its command.
            pub fn name(&self) -> &'static str {
                match self {
                    Op::Anchor(op) => op.name(),
                    Op::Streams(op) => op.name(),
                    $(Op::$Room(op) => op.name(),)*
                }
            }

            /// Whether the operation changes anything that outlives it, so that its outcome matters
            /// to a caller who did not hear of it.
            pub fn changes(&self) -> bool {
                match self {
                    Op::Anchor(op) => op.changes(),
                    Op::Streams(op) => op.changes(),
                    $(Op::$Room(op) => op.changes(),)*
                }
            }

            /// Whether the operation waits for others by nature, for as long as they like: it then
            /// takes another place of its connection than those that are done at once.
            pub fn waits(&self) -> bool {
                match self {
                    Op::Anchor(op) => op.waits(),
                    Op::Streams(op) => op.waits(),
                    $(Op::$Room(op) => op.waits(),)*
                }
            }
        }

        operations!(@from Anchor anchor::Op);
        operations!(@from Streams streams::Op);
        $(operations!(@from $Room element::$room::Op);)*
    };
    (@from $Room:ident $op:ty) => {
        impl From<$op> for Op {
            fn from(op: $op) -> Op {
                Op::$Room(op)
            }
        }
    };
}

crate::kinds!(operations);

/// Why an operation could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// It is for a kind of a later version.
    #[error("operations of kind number {0} are not known to this server's version")]
    UnknownKind(u32),
    /// It is for a known kind, and of a later version.
    #[error("operation {1} of kind number {0} is not known to this server's version")]
    UnknownOperation(u32, u32),
    /// It is none.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl Op {
    /// Reads an encoded operation; one that this version does not know is told from a malformed
    /// one.
    pub fn decode(bytes: &[u8]) -> Result<Op, OpError> {
        let (kind, rest) = codec::variant(bytes)?;
        let known = KNOWN.get(kind as usize);
        let known = known.ok_or(OpError::UnknownKind(kind))?();
        let (number, _) = codec::variant(rest)?;
        if number as usize >= known {
            return Err(OpError::UnknownOperation(kind, number));
        }
        Ok(codec::decode(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::{channel, container};

    fn check(bytes: &[u8], expected: Result<Op, OpError>) {
        assert_eq!(Op::decode(bytes), expected, "{bytes:?}");
    }

    #[test]
    fn operations_are_read_as_they_are_written() {
        for op in [
            Op::from(anchor::Op::List { recursive: true }),
            streams::Op::Wait.into(),
            channel::Op::ReceiveMany.into(),
            channel::Op::ReceiveWithin { wait: 500 }.into(),
            container::Op::Make(container::Run::new("ubuntu")).into(),
        ] {
            check(&codec::encode(&op).unwrap(), Ok(op));
        }
    }

    #[test]
    fn an_operation_of_a_later_version_is_told_from_a_malformed_one() {
        let malformed = || Err(OpError::Codec(CodecError::Malformed));
        let close = codec::encode(&Op::from(channel::Op::Close)).unwrap();
        let [channel, _] = close[..] else {
            panic!("two numbers: {close:?}");
        };
        // No kind has so many operations.
        check(
            &[channel, 200, 1, 2],
            Err(OpError::UnknownOperation(channel.into(), 200)),
        );
        check(&[200, 1, 2], Err(OpError::UnknownKind(200)));
        check(&[200], Err(OpError::UnknownKind(200)));
        check(&[], malformed());
        check(&[channel], malformed());
        // A channel without its capacity, and bytes behind a whole operation.
        check(&[channel, 0], malformed());
        check(&[&close[..], &[0]].concat(), malformed());
    }

    #[test]
    fn the_first_operation_that_is_not_known_follows_the_last_one_that_is() {
        // Exhaustive: a new operation of a channel is to be entered here, and its number is
        // compared with the one that the table has.
        let last = |op: channel::Op| match op {
            channel::Op::Make { .. }
            | channel::Op::Send
            | channel::Op::Receive
            | channel::Op::Close
            | channel::Op::SendMany
            | channel::Op::ReceiveMany
            | channel::Op::ReceiveWithin { .. } => None,
            channel::Op::MakeBound { .. } => Some(op),
        };
        let last = last(channel::Op::MakeBound { capacity: 0 }).unwrap();
        let mut bytes = codec::encode(&Op::from(last)).unwrap();
        assert!(Op::decode(&bytes).is_ok());
        bytes[1] += 1;
        assert_eq!(
            Op::decode(&bytes),
            Err(OpError::UnknownOperation(bytes[0].into(), bytes[1].into()))
        );
    }
}
