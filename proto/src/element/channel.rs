//! A channel: its operations, its status, and the messages of its streams.
//!
//! **One message.** [`Send`](Op::Send): the caller sends the data and an `End`; the server answers
//! with a one-byte chunk once the message has its place, and with an `End` once it is
//! [stored](#stored). [`Receive`](Op::Receive): the server sends the data and an `End`; the caller
//! answers with an `End` (*Ack*), the server with a framed `End` (*Done*).
//! [`ReceiveWithin`](Op::ReceiveWithin) is the same, and fails with [`Empty`](crate::Code::Empty)
//! if the time ends before a message is there.
//!
//! **Many messages** on one stream: [`SendMany`](Op::SendMany) and
//! [`ReceiveMany`](Op::ReceiveMany). Chunks hold whole [records](Record), each a message or a piece
//! of one.
//!
//! # Stored
//!
//! A message is stored once a slot of the channel holds all of it; with no slot, or if it is longer
//! than [`HELD`], once its receiver has committed.

use serde::{Deserialize, Serialize};

/// The greatest capacity.
pub const MAX_CAPACITY: u64 = 1 << 24;

/// How many bytes of a message a slot holds. docs/design.md, "Channel".
pub const HELD: usize = 32 << 10;

/// An operation on a channel. A subscription takes those that receive.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Make a channel.
    Make {
        /// How many messages it holds for receivers to come: at most [`MAX_CAPACITY`].
        capacity: u64,
    },
    /// Send one message.
    Send,
    /// Receive one message.
    Receive,
    /// Close the channel: it takes no more messages.
    Close,
    /// Send many messages, in order, on one stream.
    SendMany,
    /// Receive many messages on one stream.
    ReceiveMany,
    /// Receive one message, if it is there in time.
    ReceiveWithin {
        /// For how long the channel waits for a message, in milliseconds.
        wait: u64,
    },
    /// Make a channel that is [bound](crate::request#bound-elements) to the stream of this request.
    MakeBound {
        /// As of [`Make`](Op::Make).
        capacity: u64,
    },
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Make { .. } | Op::MakeBound { .. } => "mkchan",
            Op::Send | Op::SendMany => "send",
            Op::Receive | Op::ReceiveMany | Op::ReceiveWithin { .. } => "recv",
            Op::Close => "close",
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Make { .. } | Op::MakeBound { .. } | Op::Close => true,
            // The message may be right behind the request.
            Op::Send => true,
            // A caller of these says nothing more before the answer.
            Op::Receive | Op::SendMany | Op::ReceiveMany | Op::ReceiveWithin { .. } => false,
        }
    }

    /// Whether the operation waits for others by nature.
    pub fn waits(&self) -> bool {
        match self {
            Op::Send
            | Op::Receive
            | Op::SendMany
            | Op::ReceiveMany
            | Op::ReceiveWithin { .. }
            | Op::MakeBound { .. } => true,
            Op::Make { .. } | Op::Close => false,
        }
    }
}

/// The status of a channel, as `peek` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// How many messages it holds for receivers to come.
    pub cap: u64,
    /// Whether it takes no more.
    pub closed: bool,
    /// Whether it was scrubbed.
    pub aborted: bool,
    /// How many sends got their place.
    pub num_send: u64,
    /// How many messages were received, and their receivers said so.
    pub num_recv: u64,
    /// How many messages are in slots now.
    pub held: u64,
    /// How many messages wait for a place.
    pub senders: u64,
    /// How many receivers wait for a message.
    pub receivers: u64,
}

/// A request of the receiver of many messages, a chunk each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Demand {
    /// One message as soon as there is one, and with it up to so many in all that are there. One
    /// at a time is outstanding.
    Want(u32),
    /// The messages that came since the last one are received.
    Ack,
    /// What is wanted now is wanted for so many milliseconds more. Nothing, if nothing is wanted.
    Within(u64),
}

/// The answer to a [`Demand`]: the first byte of each chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Delivery {
    /// Records follow; more chunks do.
    Part = 0,
    /// Records follow: the last of what was wanted.
    Last = 1,
    /// The acknowledged messages are committed.
    Done = 2,
    /// No message came in the time that was given: nothing is wanted any more.
    Empty = 3,
}

impl Delivery {
    /// The meaning of a first byte.
    pub fn of(byte: u8) -> Option<Delivery> {
        [
            Delivery::Part,
            Delivery::Last,
            Delivery::Done,
            Delivery::Empty,
        ]
        .into_iter()
        .find(|delivery| *delivery as u8 == byte)
    }
}

/// The length of a record's header.
pub const RECORD_HEADER: usize = 4;

/// In a record's header: more of the message follows in the next record.
const MORE: u32 = 1 << 31;

/// A message or a piece of one: a big-endian length, whose highest bit says that more of the
/// message follows, and as many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Whether more of the message follows.
    pub more: bool,
}

impl<'a> Record<'a> {
    /// The header of a record of so many bytes, at most a chunk's.
    pub fn header(length: usize, more: bool) -> [u8; RECORD_HEADER] {
        let flag = if more { MORE } else { 0 };
        // A chunk's length fits 31 bits.
        (length as u32 & !MORE | flag).to_be_bytes()
    }

    /// Takes a record off the front of a chunk's bytes; `None` if they begin with none.
    pub fn split(bytes: &'a [u8]) -> Option<(Record<'a>, &'a [u8])> {
        let (header, rest) = bytes.split_first_chunk::<RECORD_HEADER>()?;
        let header = u32::from_be_bytes(*header);
        let (bytes, rest) = rest.split_at_checked((header & !MORE) as usize)?;
        let more = header & MORE != 0;
        Some((Record { bytes, more }, rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_are_read_as_they_are_written(records in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..100), any::<bool>()), 0..10)) {
            let mut bytes = Vec::new();
            for (body, more) in &records {
                bytes.extend_from_slice(&Record::header(body.len(), *more));
                bytes.extend_from_slice(body);
            }
            let mut rest = &bytes[..];
            for (body, more) in &records {
                let (record, left) = Record::split(rest).unwrap();
                prop_assert_eq!(record, Record { bytes: body, more: *more });
                rest = left;
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_records_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut rest = &bytes[..];
            while let Some((record, left)) = Record::split(rest) {
                prop_assert!(record.bytes.len() + RECORD_HEADER + left.len() == rest.len());
                rest = left;
            }
        }
    }
}
