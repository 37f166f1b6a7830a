//! A client's question to a group, and the answers.
//!
//! The client crate draws the nonce, sends the packets and hands in the packets that arrive. Nothing here
//! knows of sockets.

use std::time::Duration;

use super::packet::{Nonce, Packet, Seal};
use crate::Key;
use crate::auth::KeyMismatch;
use crate::handshake::Identity;

/// A question to a group, repeated until somebody answers.
///
/// ```
/// use circuit_proto::discovery::Query;
///
/// let query = Query::new([7; 16], None);
/// assert_eq!(query.packet(0).len(), 640);
/// assert_eq!(query.check(b"something else"), None);
/// ```
#[derive(Debug)]
pub struct Query<'a> {
    nonce: Nonce,
    key: Option<&'a Key>,
}

/// The meaning of a packet for a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A server of the client's circuit. Its URL is pinned.
    Answer(Identity),
    /// A server that has not the client's key. Anybody can write this: it is for the error
    /// message, and no reason to stop waiting.
    KeyMismatch(KeyMismatch),
}

impl<'a> Query<'a> {
    /// A query with a nonce that nobody can guess.
    pub fn new(nonce: Nonce, key: Option<&'a Key>) -> Query<'a> {
        Query { nonce, key }
    }

    /// How long after the first packet the one of this attempt (the first is 0) should be sent.
    ///
    /// Chosen, not measured: 150 ms are beyond any delay on a segment, so a packet that has not
    /// come by then is lost, and the pauses grow to a second, where they stay.
    pub fn at(attempt: u8) -> Duration {
        match attempt {
            0 => Duration::ZERO,
            1 => Duration::from_millis(150),
            2 => Duration::from_millis(500),
            n => Duration::from_millis(1200) + Duration::from_secs(u64::from(n - 3)),
        }
    }

    /// The packet to send to the group. Later attempts are answered by more servers.
    pub fn packet(&self, attempt: u8) -> Vec<u8> {
        Packet::Query {
            nonce: self.nonce,
            attempt,
        }
        .encode(self.key)
    }

    /// The meaning of a packet that arrived; `None` if it is no reply to this query.
    pub fn check(&self, bytes: &[u8]) -> Option<Reply> {
        match Packet::decode(bytes, self.key)? {
            (Packet::Answer { nonce, identity }, Seal::Ours) if nonce == self.nonce => {
                Some(Reply::Answer(identity))
            }
            (Packet::Answer { nonce, .. }, Seal::Theirs) if nonce == self.nonce => {
                Some(Reply::KeyMismatch(
                    self.key
                        .map_or(KeyMismatch::Missing, |_| KeyMismatch::Wrong),
                ))
            }
            (Packet::KeyMismatch { nonce, keyed }, _) if nonce == self.nonce => {
                match (self.key.is_some(), keyed) {
                    (true, true) => Some(Reply::KeyMismatch(KeyMismatch::Wrong)),
                    (true, false) => Some(Reply::KeyMismatch(KeyMismatch::Unexpected)),
                    (false, true) => Some(Reply::KeyMismatch(KeyMismatch::Missing)),
                    // Two servers without a key do not mismatch.
                    (false, false) => None,
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_random([byte; 32])
    }

    fn identity() -> Identity {
        let url = "circuit://10.0.0.1:1/1/Q0000000000000001".parse().unwrap();
        Identity {
            url,
            name: "a".into(),
            count: 0,
            instance: 0,
        }
    }

    #[test]
    fn an_answer_counts_with_the_key_and_the_nonce_only() {
        let ours = key(1);
        let query = Query::new([1; 16], Some(&ours));
        let check = |nonce: u8, key: Option<Key>, expected: Option<Reply>| {
            let answer = Packet::Answer {
                nonce: [nonce; 16],
                identity: identity(),
            };
            assert_eq!(query.check(&answer.encode(key.as_ref())), expected);
        };
        check(1, Some(key(1)), Some(Reply::Answer(identity())));
        check(2, Some(key(1)), None);
        check(
            1,
            Some(key(2)),
            Some(Reply::KeyMismatch(KeyMismatch::Wrong)),
        );
        check(1, None, Some(Reply::KeyMismatch(KeyMismatch::Wrong)));
        check(2, None, None);
        assert_eq!(
            query.check(&Packet::Announcement(identity()).encode(Some(&ours))),
            None
        );
    }

    #[test]
    fn says_how_the_keys_differ() {
        let check = |key: Option<Key>, keyed: bool, expected: Option<KeyMismatch>| {
            let bytes = Packet::KeyMismatch {
                nonce: [1; 16],
                keyed,
            }
            .encode(None);
            let reply = Query::new([1; 16], key.as_ref()).check(&bytes);
            assert_eq!(reply, expected.map(Reply::KeyMismatch));
            assert_eq!(
                Query::new([2; 16], key.as_ref()).check(&bytes),
                None,
                "another query's"
            );
        };
        check(Some(key(1)), true, Some(KeyMismatch::Wrong));
        check(Some(key(1)), false, Some(KeyMismatch::Unexpected));
        check(None, true, Some(KeyMismatch::Missing));
        check(None, false, None);
    }

    #[test]
    fn attempts_come_ever_later() {
        let times: Vec<u128> = (0..6).map(|n| Query::at(n).as_millis()).collect();
        assert_eq!(times, [0, 150, 500, 1200, 2200, 3200]);
    }
}
