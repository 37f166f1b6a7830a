//! The handshake on a connection: the dialler says who it is, and the acceptor whether it may.
//!
//! The dialler's first bidirectional stream carries a [`Hello`]; the [`Answer`] on it is
//! [`Welcome`] or [`Refused`]. Only `Welcome` means accepted: TLS alone does not tell the
//! dialler whether the other end accepts it.

use serde::{Deserialize, Serialize};

use crate::auth::{KeyMismatch, Proof};
use crate::codec::{self, CodecError};
use crate::path::check_name;
use crate::{Fingerprint, Life, Tenure, Url};

/// The protocol's name in the TLS handshake (ALPN, RFC 7301).
pub const ALPN: &[u8] = b"circuit";

/// The only version of the protocol so far.
pub const VERSION: u16 = 1;

/// The first message of the dialler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The versions that the dialler speaks.
    pub versions: Versions,
    /// The rest, which only a version in common can read.
    pub body: HelloBody,
}

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The lowest version spoken.
    pub lowest: u16,
    /// The highest version spoken.
    pub highest: u16,
}

/// The versions that this build speaks.
pub const SPOKEN: Versions = Versions {
    lowest: VERSION,
    highest: VERSION,
};

impl Versions {
    /// The highest version that both speak.
    pub fn in_common(self, other: Versions) -> Option<u16> {
        let highest = self.highest.min(other.highest);
        (highest >= self.lowest.max(other.lowest)).then_some(highest)
    }

    /// Whether this version is one of them.
    pub fn contains(self, version: u16) -> bool {
        (self.lowest..=self.highest).contains(&version)
    }
}

/// The part of a [`Hello`] behind its versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloBody {
    /// The purpose of the connection.
    pub role: Role,
    /// That the dialler holds the circuit's key; `None` if it has none.
    pub proof: Option<Proof>,
}

/// The purpose of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// A client's requests.
    Client,
    /// Membership between servers, and nothing else. With the dialler's first message, encoded as
    /// [`crate::membership::Message`]; empty if it comes later, on the dialler's stream.
    Link(Identity, #[serde(with = "crate::codec::bytes")] Vec<u8>),
    /// Requests that another server forwards.
    Transfer(Identity),
    /// The question of a server that has heard of its own identity with another number. It is not
    /// accepted: the answer is [`Refused::Copy`], and both ends decide which of them goes on.
    Copy {
        /// Where the dialler is; pinned.
        url: Url,
        /// The dialler's claim.
        tenure: Tenure,
    },
}

/// The identity that a server claims. The id in its URL must be that of its TLS certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Where others reach it; pinned.
    pub url: Url,
    /// Its name, for people.
    pub name: String,
    /// Which of its lives this is: [`Life::count`].
    pub count: u64,
    /// The random number that it drew at its start: [`Life::instance`].
    pub instance: u64,
}

impl Identity {
    /// The life that this identity is of; `None` if its URL names no server.
    pub fn life(&self) -> Option<Life> {
        let id = self.url.server?.id;
        Some(Life {
            id,
            count: self.count,
            instance: self.instance,
        })
    }
}

/// The acceptor's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Accepted: requests may follow.
    Welcome(Welcome),
    /// Not accepted: the connection is about to close.
    Refused(Refused),
}

/// The acceptor's identity and proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that both will speak.
    pub version: u16,
    /// The acceptor's identity.
    pub identity: Identity,
    /// That the acceptor holds the circuit's key; `None` if it has none.
    pub proof: Option<Proof>,
}

/// Why a connection was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// The keys do not match.
    #[error("{0}")]
    Key(KeyMismatch),
    /// No protocol version in common; the acceptor's are given.
    #[error("it speaks versions {} to {} of the protocol, we speak {} to {}", .0.lowest, .0.highest, SPOKEN.lowest, SPOKEN.highest)]
    Version(Versions),
    /// The id in the `Hello`'s URL is not that of the certificate.
    #[error("our URL does not name our own key")]
    Identity,
    /// The dialler is the acceptor.
    #[error("it is this server itself")]
    Myself,
    /// Too many connections, for now.
    #[error("it has too many connections")]
    Busy,
    /// The `Hello` was not one.
    #[error("it did not understand our greeting")]
    Malformed,
    /// The server is leaving.
    #[error("it is leaving the circuit")]
    Leaving,
    /// The dialler and the acceptor are two servers with one identity. The acceptor's claim.
    #[error("it is another server with our identity")]
    Copy(Tenure),
    /// The acceptor has a link with another server of the dialler's identity, in a later life.
    #[error("it has a link with another server of our identity, at {}", .0.url)]
    Taken(Box<Identity>),
    /// The dialler's user is not one whom the server lets in over its Unix socket.
    #[error("only its own user, root and the group of its socket may use it")]
    User,
}

/// Why a connection is closed, as the code of its QUIC `CONNECTION_CLOSE` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Close {
    /// Its owner has no more use for it.
    Done = 0,
    /// The keys do not match: the dialler had none.
    KeyMissing = 1,
    /// The keys do not match: another key.
    KeyWrong = 2,
    /// The keys do not match: the dialler had one, the acceptor has none.
    KeyUnexpected = 3,
    /// No protocol version in common.
    Version = 4,
    /// The URL's id is not the certificate's.
    Identity = 5,
    /// A server dialled itself.
    Myself = 6,
    /// Too many connections.
    Busy = 7,
    /// The peer broke the protocol.
    Malformed = 8,
    /// The server leaves the circuit.
    Leaving = 9,
    /// No `Hello` or `Welcome` in time, or too much waits to be read.
    Slow = 10,
    /// Another connection between the same two serves the purpose.
    Redundant = 11,
    /// Two servers have one identity.
    Copy = 12,
    /// The user may not.
    User = 13,
}

impl Refused {
    /// The code with which the connection is closed after this answer.
    pub fn close(&self) -> Close {
        match self {
            Refused::Key(KeyMismatch::Missing) => Close::KeyMissing,
            Refused::Key(KeyMismatch::Wrong) => Close::KeyWrong,
            Refused::Key(KeyMismatch::Unexpected) => Close::KeyUnexpected,
            Refused::Version(_) => Close::Version,
            Refused::Identity => Close::Identity,
            Refused::Myself => Close::Myself,
            Refused::Copy(_) | Refused::Taken(_) => Close::Copy,
            Refused::Busy => Close::Busy,
            Refused::Malformed => Close::Malformed,
            Refused::Leaving => Close::Leaving,
            Refused::User => Close::User,
        }
    }
}

impl Hello {
    /// The body of a frame: the versions in four bytes that every version can read, then the rest.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&self.versions.lowest.to_be_bytes());
        bytes.extend_from_slice(&self.versions.highest.to_be_bytes());
        bytes.extend_from_slice(&codec::encode(&self.body)?);
        Ok(bytes)
    }

    /// Reads what [`encode`](Self::encode) writes. Fails with the version's refusal if there is no
    /// version in common, with `Malformed` if the rest does not decode.
    pub fn decode(bytes: &[u8]) -> Result<Hello, Refused> {
        let Some(([a, b, c, d], body)) = bytes.split_first_chunk::<4>() else {
            return Err(Refused::Malformed);
        };
        let versions = Versions {
            lowest: u16::from_be_bytes([*a, *b]),
            highest: u16::from_be_bytes([*c, *d]),
        };
        if versions.in_common(SPOKEN).is_none() {
            return Err(Refused::Version(SPOKEN));
        }
        let body = codec::decode(body).map_err(|_| Refused::Malformed)?;
        Ok(Hello { versions, body })
    }
}

/// Checks that an [`Identity`] is that of the certificate with this fingerprint, and that its name
/// is one: names are shown and logged.
pub fn check_identity(identity: &Identity, proven: Fingerprint) -> Result<(), Refused> {
    if check_name(&identity.name, &identity.name).is_err() {
        return Err(Refused::Malformed);
    }
    match identity.url.server {
        Some(server) if server.id == proven.id() => Ok(()),
        _ => Err(Refused::Identity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(lowest: u16, highest: u16) -> Hello {
        Hello {
            versions: Versions { lowest, highest },
            body: HelloBody {
                role: Role::Client,
                proof: None,
            },
        }
    }

    #[test]
    fn versions_meet_at_the_highest_in_common() {
        let check = |a: (u16, u16), b: (u16, u16), expected| {
            let range = |(lowest, highest)| Versions { lowest, highest };
            assert_eq!(range(a).in_common(range(b)), expected);
        };
        check((1, 1), (1, 1), Some(1));
        check((1, 3), (2, 5), Some(3));
        check((1, 1), (2, 2), None);
        check((3, 1), (1, 3), None);
        let range = Versions {
            lowest: 2,
            highest: 3,
        };
        let contained = [1, 2, 3, 4].map(|version| range.contains(version));
        assert_eq!(contained, [false, true, true, false]);
    }

    #[test]
    fn another_version_is_refused_before_the_rest_is_read() {
        let bytes = hello(2, 9).encode().unwrap();
        assert_eq!(Hello::decode(&bytes), Err(Refused::Version(SPOKEN)));
        let bytes = hello(1, 9).encode().unwrap();
        assert_eq!(Hello::decode(&bytes), Ok(hello(1, 9)));
        assert_eq!(Hello::decode(&[0, 1, 0, 1, 77]), Err(Refused::Malformed));
        assert_eq!(Hello::decode(&[0, 1]), Err(Refused::Malformed));
    }
}
