//! Requests, one bidirectional stream each.
//!
//! The caller sends a framed [`Request`]; the answer begins with a framed [`Reply`]. For stream
//! operations chunks follow in one or both directions: a length of at most
//! [`MAX_CHUNK`](crate::codec::MAX_CHUNK), then that many bytes; a chunk of length 0 and a framed
//! [`End`] end a direction. A direction that finishes without its `End` was cut.
//!
//! What each operation sends besides:
//!
//! | operation | caller | server |
//! | --- | --- | --- |
//! | [`List`](Op::List) | | chunks, each an encoded `Vec<`[`Listed`]`>` |
//! | [`Peek`](Op::Peek) | | value: `Option<`[`Status`](crate::element::Status)`>` |
//! | [`Stdin`](Op::Stdin) | the data | `End` once the process's stdin has all of it |
//! | [`Stdout`](Op::Stdout), [`Stderr`](Op::Stderr) | an `End` without an error closes for good: the rest is discarded; with one, the next reader goes on | the data |
//! | [`Wait`](Op::Wait) | | value: [`Ended`](crate::element::Ended) |
//! | [`MakeContainer`](Op::MakeContainer) | | its reply comes when the container runs, or when the fetching of its image begins; then data: the progress of that, as lines of text; `End` once the container runs |
//! | [`Stacks`](Op::Stacks) | | text |
//! | [`Send`](Op::Send), [`Receive`](Op::Receive), [`SendMany`](Op::SendMany), [`ReceiveMany`](Op::ReceiveMany) | see [`channel`](crate::element::channel) | |
//! | all others | | value: `()` |

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::element::ElementKind;
use crate::element::container::Run;
use crate::element::process::Cmd;
use crate::{Error, Path, ServerId, Url};

/// What a caller asks of an anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The anchor. Its first name says which server executes the operation.
    pub path: Path,
    /// The encoded [`Op`], opaque to a server that only forwards it.
    #[serde(with = "codec::bytes")]
    pub op: Vec<u8>,
    /// Who asks, for the log: set by the forwarding server, empty from a client.
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

/// What can be asked of an anchor.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// List the anchors below.
    List {
        /// All of them, or the children only.
        recursive: bool,
    },
    /// The element's status.
    Peek,
    /// Remove the element.
    Scrub,
    /// Make a process.
    MakeProcess(Cmd),
    /// Write to the stdin of the process or container.
    Stdin,
    /// Read the stdout of the process or container.
    Stdout,
    /// Read the stderr of the process or container.
    Stderr,
    /// Wait for the process or container to exit.
    Wait,
    /// Send the process or container a signal.
    Signal {
        /// Its name, with or without `SIG`, in any case, or its number, as the server's system
        /// has it.
        signal: String,
        /// To the process's whole group; of a container it is refused.
        group: bool,
    },
    /// Change the size of the process's terminal.
    Resize {
        /// The new size.
        size: crate::element::process::TerminalSize,
    },
    /// Merge the server's circuit with another.
    Join {
        /// A server of the other circuit.
        url: Url,
    },
    /// Leave the circuit and exit.
    Suicide,
    /// What the server's threads and operations are doing, as text.
    Stacks,
    /// Make a channel.
    MakeChannel {
        /// How many messages it holds for receivers to come: at most
        /// [`MAX_CAPACITY`](crate::element::channel::MAX_CAPACITY).
        capacity: u64,
    },
    /// Send one message to the channel.
    Send,
    /// Receive one message of the channel or subscription.
    Receive,
    /// Close the channel: it takes no more messages.
    Close,
    /// Send many messages to the channel, in order, on one stream.
    SendMany,
    /// Receive many messages of the channel or subscription on one stream.
    ReceiveMany,
    /// Make a subscription to the servers that join, beginning with those that are there.
    MakeOnJoin,
    /// Make a subscription to the servers that leave from now on.
    MakeOnLeave,
    /// Make a DNS server.
    MakeDns {
        /// `HOST[:PORT]`: where it answers; without it, at the server's own address, on any port.
        address: Option<String>,
        /// The zone in which it serves the live servers of the circuit.
        zone: Option<String>,
    },
    /// Set a record of the DNS server.
    SetRecord {
        /// Its text, as in a zone file.
        record: String,
    },
    /// Remove records of the DNS server.
    UnsetRecords {
        /// Their name.
        name: String,
        /// Their type; without it, all of the name.
        kind: Option<String>,
    },
    /// Make a container.
    MakeContainer(Run),
}

/// The number of [`Op`]s that this version knows.
const OPS: u32 = 25;

/// Why an operation could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// It is of a later version.
    #[error("operation {0} is not known to this version")]
    Unsupported(u32),
    /// It is none.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl Op {
    /// The operation's name in logs and tables: that of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::List { .. } => "ls",
            Op::Peek => "peek",
            Op::Scrub => "scrub",
            Op::MakeProcess(_) => "mkproc",
            Op::Stdin => "stdin",
            Op::Stdout => "stdout",
            Op::Stderr => "stderr",
            Op::Wait => "wait",
            Op::Signal { .. } => "signal",
            Op::Resize { .. } => "resize",
            Op::Join { .. } => "join",
            Op::Suicide => "suicide",
            Op::Stacks => "stk",
            Op::MakeChannel { .. } => "mkchan",
            Op::Send | Op::SendMany => "send",
            Op::Receive | Op::ReceiveMany => "recv",
            Op::Close => "close",
            Op::MakeOnJoin => "mk@join",
            Op::MakeOnLeave => "mk@leave",
            Op::MakeDns { .. } => "mkdns",
            Op::SetRecord { .. } => "set",
            Op::UnsetRecords { .. } => "unset",
            Op::MakeContainer(_) => "mkdkr",
        }
    }

    /// Whether it changes anything that outlives it, so that its outcome matters to a caller who
    /// did not hear of it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Scrub
            | Op::MakeProcess(_)
            | Op::Signal { .. }
            | Op::Resize { .. }
            | Op::Join { .. }
            | Op::Suicide
            | Op::MakeChannel { .. }
            | Op::Close
            | Op::MakeOnJoin
            | Op::MakeOnLeave
            | Op::MakeDns { .. }
            | Op::SetRecord { .. }
            | Op::UnsetRecords { .. }
            | Op::MakeContainer(_) => true,
            // The message may be right behind the request.
            Op::Send => true,
            Op::List { .. }
            | Op::Peek
            | Op::Stdin
            | Op::Stdout
            | Op::Stderr
            | Op::Wait
            | Op::Stacks => false,
            // Whoever asks for these says nothing more before the answer.
            Op::Receive | Op::SendMany | Op::ReceiveMany => false,
        }
    }

    /// Reads an encoded operation; one that this version does not know is told from a malformed
    /// one.
    pub fn decode(bytes: &[u8]) -> Result<Op, OpError> {
        let tag = codec::variant(bytes)?;
        if tag >= OPS {
            return Err(OpError::Unsupported(tag));
        }
        Ok(codec::decode(bytes)?)
    }
}

/// One line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listed {
    /// A server: a child of the root.
    Server(ServerEntry),
    /// An anchor of a server.
    Anchor {
        /// Its names below the listed anchor, with slashes between them.
        path: String,
        /// What it holds.
        kind: Option<ElementKind>,
    },
}

/// A live server, as a listing of the root shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEntry {
    /// Its id.
    pub id: ServerId,
    /// Its name, for people.
    pub name: String,
    /// Where it is.
    pub url: Url,
    /// What is thought of it.
    pub state: ServerState,
}

/// What a server thinks of one that it lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerState {
    /// It lives.
    Alive,
    /// Its neighbours suspect that it has died.
    Suspected,
    /// It is the server that was asked, which has lost all its links and trusts no other to be there:
    /// it cannot know who is alive.
    Isolated,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_of_a_later_version_is_told_from_a_malformed_one() {
        let last = codec::encode(&Op::MakeContainer(Run::new("ubuntu"))).unwrap();
        assert_eq!(
            codec::variant(&last),
            Ok(OPS - 1),
            "OPS counts the variants"
        );
        assert_eq!(Op::decode(&last), Ok(Op::MakeContainer(Run::new("ubuntu"))));
        assert_eq!(
            Op::decode(&[OPS as u8, 1, 2, 3]),
            Err(OpError::Unsupported(OPS))
        );
        assert_eq!(Op::decode(&[0]), Err(OpError::Codec(CodecError::Malformed)));
        assert_eq!(Op::decode(&[]), Err(OpError::Codec(CodecError::Malformed)));
    }
}
