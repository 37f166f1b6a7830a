//! The identity of a server: the hash of its public key, and the 64 bits of it that people see.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::path::printable;

/// A server's id: the first eight bytes, big-endian, of its [`Fingerprint`].
///
/// Written `X` and 16 hexadecimal digits in paths, `Q` and the same digits in URLs.
///
/// ```
/// let id: circuit_proto::ServerId = "X88550014d4c82e4d".parse().unwrap();
/// assert_eq!(id.to_string(), "X88550014d4c82e4d");
/// assert_eq!(id.in_url(), "Q88550014d4c82e4d");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u64);

impl ServerId {
    /// The id as a URL shows it: `Q` and 16 hexadecimal digits.
    pub fn in_url(self) -> String {
        format!("Q{:016x}", self.0)
    }

    /// Reads what [`in_url`](Self::in_url) writes.
    pub fn from_url_part(text: &str) -> Option<ServerId> {
        Self::parse_after('Q', text)
    }

    fn parse_after(letter: char, text: &str) -> Option<ServerId> {
        let digits = text.strip_prefix(letter)?;
        if digits.len() != 16 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u64::from_str_radix(digits, 16).ok().map(ServerId)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "X{:016x}", self.0)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As text where people read it, as a number on the wire.
impl Serialize for ServerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => self.0.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ServerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ServerId, D::Error> {
        match deserializer.is_human_readable() {
            true => String::deserialize(deserializer)?
                .parse()
                .map_err(serde::de::Error::custom),
            false => u64::deserialize(deserializer).map(ServerId),
        }
    }
}

/// The text is not `X` and 16 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a server id (X and 16 hexadecimal digits): {0}")]
pub struct NotAnId(pub String);

crate::error::debug_as_display!(NotAnId);

impl FromStr for ServerId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        Self::parse_after('X', text).ok_or_else(|| NotAnId(printable(text)))
    }
}

/// SHA-256 of a server's public key (the certificate's SubjectPublicKeyInfo in DER).
///
/// Records and pins inside the fabric keep the whole hash: 64 bits can be collided with effort,
/// 256 cannot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a SubjectPublicKeyInfo in DER.
    pub fn of_public_key(spki: &[u8]) -> Fingerprint {
        Fingerprint(Sha256::digest(spki).into())
    }

    /// The 64 bits that people see.
    pub fn id(&self) -> ServerId {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        ServerId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// The order of the bytes. The id decides but for collisions, and integers are compared faster.
impl Ord for Fingerprint {
    fn cmp(&self, other: &Fingerprint) -> Ordering {
        let rest = || self.0.cmp(&other.0);
        self.id().cmp(&other.id()).then_with(rest)
    }
}

impl PartialOrd for Fingerprint {
    fn partial_cmp(&self, other: &Fingerprint) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_the_head_of_the_hash() {
        // SHA-256 of the empty string begins e3b0c44298fc1c14 (FIPS 180-4 examples).
        let id = Fingerprint::of_public_key(b"").id();
        assert_eq!(id.to_string(), "Xe3b0c44298fc1c14");
        assert_eq!(id.in_url(), "Qe3b0c44298fc1c14");
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        for text in [
            "",
            "X",
            "X123",
            "Q88550014d4c82e4d",
            "X88550014d4c82e4dd",
            "X+8550014d4c82e4d",
        ] {
            assert!(text.parse::<ServerId>().is_err(), "{text}");
        }
    }
}
