//! The messages of membership between servers.
//!
//! The machine makes and reads these; the driver encodes them with [`Message::encode`], one frame
//! each on a connection, one packet each outside of connections.
//!
//! **Invariant:** no message that the machine makes is longer than a frame, and none of those sent
//! as datagrams is longer than [`MAX_DATAGRAM`] bytes.

use serde::{Deserialize, Serialize};

use super::{Entry, Held};
use crate::codec::{self, CodecError};
use crate::{Fingerprint, Url};

/// The longest message outside of connections, encoded, in bytes.
///
/// Chosen, not measured: with a signature and headers it stays far below the smallest packet that
/// every path carries (RFC 9000, section 14: 1,200 bytes).
pub const MAX_DATAGRAM: usize = 200;

/// The most entries in one message. Chosen, not measured: at most 700 bytes each (the longest
/// host name and server name), it keeps a message below a fifth of a frame.
pub const MAX_ENTRIES: usize = 256;

/// The most hashes in one message. Chosen, not measured: 9 bytes each, 148 kB in all.
pub const MAX_HASHES: usize = 16_384;

/// How many buckets the members are divided into for a sync, by the first bits of the fingerprint.
pub const BUCKETS: usize = 64;

/// How a server that asks for a link means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// One more link.
    Plain,
    /// Two more links, to you and to one of your neighbours, which gives up its link to you. So a
    /// newcomer joins.
    Split,
    /// The second half of a split: a link to me instead of the one to this neighbour of yours.
    Instead(Fingerprint),
    /// Each of us gives up one link for this one, and the two given up link with each other: how
    /// the graph stays random.
    Swap,
}

/// A message between two servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The first message of both ends on every connection.
    Hello {
        /// The sender itself.
        entry: Entry,
        /// How many live members the sender knows, itself included.
        live: u32,
        /// The digest of the sender's live members.
        digest: u64,
    },
    /// Every second on a link.
    Heartbeat {
        /// How many links the sender has.
        degree: u8,
        /// The digest of the sender's live members.
        digest: u64,
    },
    /// The changes in the sender's view.
    Delta {
        /// The entries, at most [`MAX_ENTRIES`].
        #[serde(deserialize_with = "crate::codec::growing")]
        entries: Vec<Entry>,
    },
    /// May this connection be a link?
    Link {
        /// How many links the sender has, this one not counted.
        degree: u8,
        /// How the link is meant.
        wish: Wish,
    },
    /// The answer to [`Message::Link`].
    LinkReply {
        /// Whether the connection is a link now.
        accepted: bool,
        /// After a split: the neighbour to link with instead of the sender. After a swap: the one
        /// that the sender gave up.
        other: Option<Fingerprint>,
    },
    /// This connection is no link any longer.
    Unlink {
        /// The server to link with instead, if the sender knows one.
        replacement: Option<Fingerprint>,
    },
    /// Are you there? On a connection or outside of any; answered by [`Message::Pong`].
    Ping {
        /// Comes back in the answer.
        nonce: u64,
        /// The value that the sender holds of the receiver.
        held: Held,
    },
    /// The answer to [`Message::Ping`] and [`Message::Knock`].
    Pong {
        /// That of the question.
        nonce: u64,
        /// Which life of the sender answers.
        count: u64,
        /// Which of several lives of that count.
        instance: u64,
        /// The sender's incarnation.
        incarnation: u64,
    },
    /// A [`Message::Ping`] to a server that may not know the sender: how splits are healed. Only
    /// outside of connections.
    Knock {
        /// Comes back in the answer.
        nonce: u64,
        /// Where the sender is.
        url: Url,
        /// The value that the sender holds of the receiver.
        held: Held,
    },
    /// Please try whether this server answers you; answered by [`Message::Witnessed`].
    Witness {
        /// Comes back in the answer.
        nonce: u64,
        /// The server to try.
        subject: Fingerprint,
        /// The value that the sender holds of that server.
        held: Held,
    },
    /// The answer to [`Message::Witness`].
    Witnessed {
        /// That of the question.
        nonce: u64,
        /// The server that was tried.
        subject: Fingerprint,
        /// Whether it answered; `None` if the sender cannot tell.
        answered: Option<bool>,
    },
    /// The beginning of a sync: the digests of the sender's buckets.
    Sync {
        /// One digest per bucket, [`BUCKETS`] of them.
        #[serde(deserialize_with = "crate::codec::growing")]
        buckets: Vec<u64>,
    },
    /// The answer to [`Message::Sync`]: the sender's members in the buckets that differ.
    Hashes {
        /// The buckets that differ, one bit each.
        buckets: u64,
        /// The hash of each live member in them, sorted.
        #[serde(deserialize_with = "crate::codec::growing")]
        hashes: Vec<u64>,
    },
    /// Please send the entries with these hashes.
    Want {
        /// The hashes, at most [`MAX_HASHES`].
        #[serde(deserialize_with = "crate::codec::growing")]
        hashes: Vec<u64>,
    },
    /// Please send the whole entries of these members: the sender has heard of them and does not
    /// know where they are.
    Who {
        /// The members, at most [`MAX_ENTRIES`].
        #[serde(deserialize_with = "crate::codec::growing")]
        members: Vec<Fingerprint>,
    },
}

impl Message {
    /// The bytes of the message, without a frame's header.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(self)
    }

    /// Reads what [`encode`](Self::encode) writes; `None` if it is a message of a later version,
    /// to be skipped.
    pub fn decode(body: &[u8]) -> Result<Option<Message>, CodecError> {
        // The enum has far fewer variants than a `u32` counts.
        if codec::variant(body)?.0 >= codec::variants::<Message>() as u32 {
            return Ok(None);
        }
        codec::decode(body).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::Arc;

    use super::*;
    use crate::membership::{Phase, Record};

    const WHO: Fingerprint = Fingerprint([255; 32]);
    const HELD: Held = Held {
        count: u64::MAX,
        instance: u64::MAX,
        incarnation: u64::MAX,
        phase: Phase::Left,
    };

    #[test]
    fn later_messages_are_skipped_and_malformed_ones_refused() {
        let known = Message::Who { members: vec![WHO] };
        let body = known.encode().unwrap();
        assert_eq!(Message::decode(&body), Ok(Some(known)));
        let last = codec::variants::<Message>() as u8 - 1;
        let skipped = |number: u8| Message::decode(&[number, 1, 2, 3]) == Ok(None);
        assert_eq!((skipped(last), skipped(last + 1)), (false, true));
        assert_eq!(Message::decode(&body[..20]), Err(CodecError::Malformed));
        assert_eq!(Message::decode(&[]), Err(CodecError::Malformed));
    }

    #[test]
    fn the_longest_messages_fit() {
        let host = "h".repeat(253);
        let url: Url = format!("circuit://{host}:65535/{}/{}", u32::MAX, WHO.id().in_url())
            .parse()
            .unwrap();
        let record = Arc::new(Record {
            fingerprint: WHO,
            url,
            name: "n".repeat(255),
            count: u64::MAX,
            instance: u64::MAX,
        });
        let entry = Entry {
            fingerprint: WHO,
            held: HELD,
            age: u32::MAX,
            record: Some(record),
        };
        let delta = Message::Delta {
            entries: vec![entry; MAX_ENTRIES],
        };
        assert!(delta.encode().unwrap().len() < 200_000);
        assert_eq!(Message::decode(&delta.encode().unwrap()), Ok(Some(delta)));
        let hashes = Message::Hashes {
            buckets: u64::MAX,
            hashes: vec![u64::MAX; MAX_HASHES],
        };
        assert!(hashes.encode().unwrap().len() < 200_000);

        let longest_address = "circuit://[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535/4294967295/Qffffffffffffffff";
        for datagram in [
            Message::Ping {
                nonce: u64::MAX,
                held: HELD,
            },
            Message::Pong {
                nonce: u64::MAX,
                count: u64::MAX,
                instance: u64::MAX,
                incarnation: u64::MAX,
            },
            Message::Knock {
                nonce: u64::MAX,
                url: longest_address.parse().unwrap(),
                held: HELD,
            },
            Message::Witness {
                nonce: u64::MAX,
                subject: WHO,
                held: HELD,
            },
            Message::Witnessed {
                nonce: u64::MAX,
                subject: WHO,
                answered: Some(true),
            },
        ] {
            assert!(
                datagram.encode().unwrap().len() <= MAX_DATAGRAM,
                "{datagram:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn decoding_is_total(body in prop::collection::vec(any::<u8>(), 0..300), tag in 0..20u8) {
            let _ = Message::decode(&body);
            let _ = Message::decode(&[&[tag], &body[..]].concat());
        }
    }
}
