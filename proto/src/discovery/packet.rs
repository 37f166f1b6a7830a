//! The packets of discovery: the bytes of one UDP packet, and the proof of who wrote them.
//!
//! ```text
//! magic "crkt" | version | kind | sealed | 0 | code, 16 bytes | body
//!
//! kind 1, announcement: the sender's URL, name and life's count
//! kind 2, query:        nonce, 16 bytes | attempt | zeros up to QUERY_SIZE
//! kind 3, answer:       the query's nonce | the sender's URL, name and life's count
//! kind 4, key mismatch: the query's nonce | whether the sender has a key
//! ```
//!
//! The code is the packet's MAC under the circuit's key, over everything else in it: the kind, so
//! that an answer is no announcement, and the nonce, so that an answer is to this query. Without a
//! key `sealed` is 0 and the code is zeros. The [machine](super::Machine) and the
//! [query](super::query::Query) use this; it knows nothing of timing.
//!
//! **Invariants:** decoding is total; an announcement and an answer are at most [`QUERY_SIZE`]
//! bytes, so that no query is answered by a larger packet.

use crate::auth::{packet_mac, verify_packet};
use crate::handshake::Identity;
use crate::{Key, ServerId, codec};

/// The length of a query, and the longest packet that is sent, in bytes.
///
/// The longest URL has 300 bytes (a host name of 253), the longest name [`MAX_NAME`], and what is
/// around them 66; a test has them all. It fits one packet of the smallest MTU that IPv6 allows
/// (1,280, RFC 8200, section 5).
pub const QUERY_SIZE: usize = 640;

/// The longest packet that is read, in bytes: it fits the smallest MTU of IPv6 after its header
/// and UDP's. Later versions may send more than this one does.
pub const MAX_PACKET: usize = 1280 - 40 - 8;

/// The longest name that travels, in bytes. A longer one is cut.
pub const MAX_NAME: usize = 255;

/// A client's random number, which tells answers to its query from all others.
pub type Nonce = [u8; 16];

const MAGIC: &[u8; 4] = b"crkt";
const VERSION: u8 = 1;
const HEAD: usize = 8;
const CODE: usize = 16;
const NONCE: usize = 16;
const PURPOSE: &[u8] = b"circuit/1 discovery";

/// A packet's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// A server says where it is. Its URL is pinned.
    Announcement(Identity),
    /// A client asks who is there.
    Query {
        /// Comes back in the answers.
        nonce: Nonce,
        /// How often this was asked before, with the same nonce.
        attempt: u8,
    },
    /// A server answers a client of its own circuit. Its URL is pinned.
    Answer {
        /// The query's.
        nonce: Nonce,
        /// Where the server is, and its name.
        identity: Identity,
    },
    /// A server tells a client that they have not the same key, and nothing else. Never sealed:
    /// the two have no key in common.
    KeyMismatch {
        /// The query's.
        nonce: Nonce,
        /// Whether the server has a key.
        keyed: bool,
    },
}

/// The author of a packet, as far as its code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    /// Somebody with our key, or both have none.
    Ours,
    /// Somebody with another key, or with a key where we have none, or the reverse.
    Theirs,
}

impl Packet {
    /// The packet's bytes, sealed if there is a key.
    pub fn encode(&self, key: Option<&Key>) -> Vec<u8> {
        let key = match self {
            Packet::KeyMismatch { .. } => None,
            _ => key,
        };
        let head = self.head(key.is_some());
        let body = self.body();
        let code = key.map_or([0; CODE], |key| packet_mac(key, PURPOSE, &[&head, &body]));
        [&head[..], &code, &body].concat()
    }

    /// Reads a packet; `None` if it is not one, or of a version or kind that is not known.
    ///
    /// The contents are worth nothing unless the seal is [`Seal::Ours`].
    pub fn decode(bytes: &[u8], key: Option<&Key>) -> Option<(Packet, Seal)> {
        if bytes.len() > MAX_PACKET {
            return None;
        }
        let (head, rest) = bytes.split_first_chunk::<HEAD>()?;
        let (code, body) = rest.split_first_chunk::<CODE>()?;
        let [m0, m1, m2, m3, VERSION, kind, sealed @ 0..=1, 0] = *head else {
            return None;
        };
        if [m0, m1, m2, m3] != *MAGIC {
            return None;
        }
        let seal = match key {
            Some(key) if sealed == 1 && verify_packet(key, PURPOSE, &[head, body], code) => {
                Seal::Ours
            }
            None if sealed == 0 => Seal::Ours,
            _ => Seal::Theirs,
        };
        Some((Packet::read_body(kind, body)?, seal))
    }

    fn head(&self, sealed: bool) -> [u8; HEAD] {
        let kind = match self {
            Packet::Announcement(_) => 1,
            Packet::Query { .. } => 2,
            Packet::Answer { .. } => 3,
            Packet::KeyMismatch { .. } => 4,
        };
        let [m0, m1, m2, m3] = *MAGIC;
        [m0, m1, m2, m3, VERSION, kind, sealed.into(), 0]
    }

    fn body(&self) -> Vec<u8> {
        match self {
            Packet::Announcement(identity) => write_identity(identity),
            Packet::Query { nonce, attempt } => {
                let mut body = [&nonce[..], &[*attempt]].concat();
                body.resize(QUERY_SIZE - HEAD - CODE, 0);
                body
            }
            Packet::Answer { nonce, identity } => [&nonce[..], &write_identity(identity)].concat(),
            Packet::KeyMismatch { nonce, keyed } => [&nonce[..], &[u8::from(*keyed)]].concat(),
        }
    }

    fn read_body(kind: u8, body: &[u8]) -> Option<Packet> {
        match kind {
            1 => Some(Packet::Announcement(read_identity(body)?)),
            2 => {
                let (nonce, rest) = body.split_first_chunk::<NONCE>()?;
                let (attempt, _padding) = rest.split_first()?;
                Some(Packet::Query {
                    nonce: *nonce,
                    attempt: *attempt,
                })
            }
            3 => {
                let (nonce, rest) = body.split_first_chunk::<NONCE>()?;
                Some(Packet::Answer {
                    nonce: *nonce,
                    identity: read_identity(rest)?,
                })
            }
            4 => match body.split_first_chunk::<NONCE>()? {
                (nonce, [keyed @ 0..=1]) => Some(Packet::KeyMismatch {
                    nonce: *nonce,
                    keyed: *keyed == 1,
                }),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The id in an identity's URL, if it is pinned.
pub(super) fn id_of(identity: &Identity) -> Option<ServerId> {
    identity.url.server.map(|server| server.id)
}

/// A name as it travels: at most [`MAX_NAME`] bytes, no control characters.
pub(super) fn fit_name(name: &str) -> String {
    let mut fit = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if fit.len() + c.len_utf8() > MAX_NAME {
            break;
        }
        fit.push(c);
    }
    fit
}

fn write_identity(identity: &Identity) -> Vec<u8> {
    // Two short strings always encode and always fit a frame. Nobody understands an empty body,
    // should that ever be wrong.
    codec::encode(identity).unwrap_or_default()
}

fn read_identity(body: &[u8]) -> Option<Identity> {
    let identity: Identity = codec::decode(body).ok()?;
    // Names end up on terminals and in logs.
    let fits = identity.name.len() <= MAX_NAME && !identity.name.chars().any(char::is_control);
    (fits && id_of(&identity).is_some()).then_some(identity)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_random([byte; 32])
    }

    fn identity(host: &str, name: &str) -> Identity {
        let url = format!("circuit://{host}:65535/4294967295/Qffffffffffffffff");
        Identity {
            url: url.parse().unwrap(),
            name: name.into(),
            count: u64::MAX,
            instance: u64::MAX,
        }
    }

    fn packet() -> impl Strategy<Value = Packet> {
        let identity = ("[a-z]{1,63}(\\.[a-z0-9]{1,60}){0,3}", "[^\\p{C}]{0,60}")
            .prop_map(|(host, name)| identity(&host, &name));
        prop_oneof![
            identity.clone().prop_map(Packet::Announcement),
            any::<(Nonce, u8)>().prop_map(|(nonce, attempt)| Packet::Query { nonce, attempt }),
            (any::<Nonce>(), identity)
                .prop_map(|(nonce, identity)| Packet::Answer { nonce, identity }),
            any::<(Nonce, bool)>().prop_map(|(nonce, keyed)| Packet::KeyMismatch { nonce, keyed }),
        ]
    }

    #[test]
    fn the_longest_answer_is_no_longer_than_a_query() {
        let host = [&"a".repeat(63) as &str; 4].join(".")[..253].to_owned();
        let answer = Packet::Answer {
            nonce: [0; 16],
            identity: identity(&host, &"é".repeat(200)),
        };
        let Packet::Answer {
            nonce,
            mut identity,
        } = answer
        else {
            unreachable!()
        };
        identity.name = fit_name(&identity.name);
        assert_eq!(identity.name.len(), 254, "cut between characters");
        let answer = Packet::Answer { nonce, identity }.encode(Some(&key(1)));
        assert!(answer.len() <= QUERY_SIZE, "{} bytes", answer.len());
        let query = Packet::Query { nonce, attempt: 0 }.encode(Some(&key(1)));
        assert_eq!(query.len(), QUERY_SIZE);
    }

    #[test]
    fn refuses() {
        let check = |why: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = Packet::Announcement(identity("10.0.0.1", "a")).encode(None);
            assert!(Packet::decode(&bytes, None).is_some());
            change(&mut bytes);
            assert_eq!(Packet::decode(&bytes, None), None, "{why}");
        };
        check("another protocol", &|bytes| bytes[0] = b'x');
        check("another version", &|bytes| bytes[4] = 2);
        check("an unknown kind", &|bytes| bytes[5] = 9);
        check("an unknown seal", &|bytes| bytes[6] = 2);
        check("an unknown flag", &|bytes| bytes[7] = 1);
        check("a byte too many", &|bytes| bytes.push(0));
        check("too long", &|bytes| bytes.resize(MAX_PACKET + 1, 0));
        let mut unpinned = identity("10.0.0.1", "a");
        unpinned.url.server = None;
        assert_eq!(
            Packet::decode(&Packet::Announcement(unpinned).encode(None), None),
            None
        );
        let rude = identity("10.0.0.1", "a\x1b[2J");
        assert_eq!(
            Packet::decode(&Packet::Announcement(rude).encode(None), None),
            None
        );
    }

    #[test]
    fn a_seal_is_ours_only_with_our_key() {
        let seal = |from: Option<&Key>, to: Option<&Key>| {
            let bytes = Packet::Announcement(identity("10.0.0.1", "a")).encode(from);
            Packet::decode(&bytes, to).unwrap().1
        };
        assert_eq!(seal(None, None), Seal::Ours);
        assert_eq!(seal(Some(&key(1)), Some(&key(1))), Seal::Ours);
        assert_eq!(seal(Some(&key(1)), Some(&key(2))), Seal::Theirs);
        assert_eq!(seal(Some(&key(1)), None), Seal::Theirs);
        assert_eq!(seal(None, Some(&key(1))), Seal::Theirs);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(packet in packet(), keyed: bool) {
            let key = keyed.then(|| key(1));
            let bytes = packet.encode(key.as_ref());
            prop_assert!(bytes.len() <= QUERY_SIZE);
            let seal = if keyed && matches!(packet, Packet::KeyMismatch { .. }) { Seal::Theirs } else { Seal::Ours };
            prop_assert_eq!(Packet::decode(&bytes, key.as_ref()), Some((packet, seal)));
        }

        #[test]
        fn any_changed_bit_breaks_the_seal(packet in packet(), at: prop::sample::Index, bit in 0u8..8) {
            prop_assume!(!matches!(packet, Packet::KeyMismatch { .. }));
            let mut bytes = packet.encode(Some(&key(1)));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let seal = Packet::decode(&bytes, Some(&key(1))).map(|(_, seal)| seal);
            prop_assert_ne!(seal, Some(Seal::Ours));
        }

        #[test]
        fn decoding_is_total(kind in 0u8..6, sealed in 0u8..2, body in prop::collection::vec(any::<u8>(), 0..700)) {
            let key = key(1);
            let _ = Packet::decode(&body, Some(&key));
            let bytes = [MAGIC, &[VERSION, kind, sealed, 0], &body[..]].concat();
            let _ = Packet::decode(&bytes, Some(&key));
            let _ = Packet::decode(&bytes, None);
        }

        #[test]
        fn names_are_cut_to_fit(name in "\\PC{0,300}") {
            let fit = fit_name(&name);
            prop_assert!(fit.len() <= MAX_NAME && !fit.chars().any(char::is_control));
        }
    }
}
