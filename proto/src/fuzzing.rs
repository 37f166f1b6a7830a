//! The bodies of the fuzz targets of this crate. A body takes the bytes of an unauthenticated peer, and
//! checks all that must hold for any bytes.
//!
//! `fuzz/` runs them under libFuzzer, with the feature `fuzzing`. The test here runs them over the
//! corpus of `fuzz/`, so that a defect that was mended stays so. A body panics where something does
//! not hold.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::discovery::packet::Packet;
use crate::element;
use crate::element::anchor::Listed;
use crate::element::channel::{Demand, Record};
use crate::element::streams::Ended;
use crate::handshake::{Answer, Hello, SPOKEN, check_identity};
use crate::membership::Message;
use crate::path::Pattern;
use crate::request::{End, Op, Reply, Request};
use crate::{Error, Fingerprint, Key, Path, ServerId, Url, codec};

/// The name of a target, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    ("wire", wire),
    ("handshake", handshake),
    ("membership_message", membership_message),
    ("membership_machine", membership_machine),
    ("discovery_packet", discovery_packet),
    ("path", path),
    ("url", url),
    ("key", key),
];

/// The types that travel in frames, each under the number that a `wire` input begins with.
const WIRE: &[fn(&[u8])] = &[
    request,
    operation,
    reads_what_it_writes::<Reply>,
    reads_what_it_writes::<End>,
    reads_what_it_writes::<Option<element::Status>>,
    reads_what_it_writes::<Ended>,
    reads_what_it_writes::<Vec<Listed>>,
    reads_what_it_writes::<Error>,
    reads_what_it_writes::<Demand>,
    records,
];

/// Everything that requests and answers are made of.
pub fn wire(data: &[u8]) {
    if let Some((number, body)) = data.split_first()
        && let Some(read) = WIRE.get(usize::from(*number))
    {
        read(body);
    }
}

fn request(body: &[u8]) {
    reads_what_it_writes::<Request>(body);
    if let Ok(request) = codec::decode::<Request>(body) {
        operation(&request.op);
    }
}

fn operation(body: &[u8]) {
    match Op::decode(body) {
        Ok(op) => {
            assert!(!op.name().is_empty());
            op.changes();
            assert_eq!(Op::decode(&written(&op)), Ok(op));
        }
        Err(error) => is_a_line(&error),
    }
}

fn records(mut bytes: &[u8]) {
    while let Some((record, rest)) = Record::split(bytes) {
        let header = Record::header(record.bytes.len(), record.more);
        assert_eq!([&header, record.bytes, rest].concat(), bytes);
        bytes = rest;
    }
}

/// The first words on a connection, of both ends.
pub fn handshake(data: &[u8]) {
    let Some((side, body)) = data.split_first() else {
        return;
    };
    match side % 2 {
        0 => match Hello::decode(body) {
            Ok(hello) => {
                assert!(hello.versions.in_common(SPOKEN).is_some());
                let bytes = hello.encode().expect("what was read is written");
                assert_eq!(Hello::decode(&bytes), Ok(hello));
            }
            Err(refused) => {
                is_a_line(&refused);
                refused.close();
            }
        },
        _ => {
            reads_what_it_writes::<Answer>(body);
            match codec::decode(body) {
                Ok(Answer::Welcome(welcome)) => {
                    let proven = Fingerprint([7; 32]);
                    if check_identity(&welcome.identity, proven).is_ok() {
                        let server = welcome.identity.url.server;
                        assert_eq!(server.map(|server| server.id), Some(proven.id()));
                    }
                }
                Ok(Answer::Refused(refused)) => is_a_line(&refused),
                Err(_) => (),
            }
        }
    }
}

/// The messages of servers about membership, on connections and outside of them.
pub fn membership_message(data: &[u8]) {
    if let Ok(Some(message)) = Message::decode(data) {
        let bytes = message.encode().expect("what was read is written");
        assert_eq!(Message::decode(&bytes), Ok(Some(message)));
    }
}

/// Operations on a few machines, and on what is between them.
pub fn membership_machine(data: &[u8]) {
    crate::membership::fuzzing::machine(data);
}

/// A packet on a multicast group.
pub fn discovery_packet(data: &[u8]) {
    let key = Key::from_random([7; 32]);
    for key in [None, Some(&key)] {
        let Some((packet, _)) = Packet::decode(data, key) else {
            continue;
        };
        let bytes = packet.encode(key);
        match Packet::decode(&bytes, key) {
            Some((again, _)) => assert_eq!(again, packet),
            // A later version may say more than fits what this one sends.
            None => assert!(bytes.len() > crate::discovery::packet::MAX_PACKET),
        }
    }
}

/// Paths and patterns, as people write them.
pub fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(path) = shows_what_it_reads::<Path>(&text) {
        let path: Path = path;
        let moved = path.on_server(ServerId(7));
        assert_eq!(moved.below_server(), path.below_server());
        if let Ok(joined) = path.join(&text) {
            assert!(joined.names().starts_with(path.names()));
        }
    }
    match text.parse::<Pattern>() {
        Ok(pattern) => assert_eq!(pattern.base.to_string().parse(), Ok(pattern.base)),
        Err(error) => is_a_line(&error),
    }
}

/// URLs, as people write them.
pub fn url(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(url) = shows_what_it_reads::<Url>(&text) {
        let url: Url = url;
        assert!(url.to_string().contains(&url.authority()));
        if let Some(address) = url.address() {
            assert_eq!(address.port(), url.port);
        }
    }
    shows_what_it_reads::<ServerId>(&text);
}

/// The text of a key file.
pub fn key(data: &[u8]) {
    match Key::parse(&String::from_utf8_lossy(data)) {
        Ok(key) => assert_eq!(Key::parse(&key.to_text()), Ok(key)),
        Err(error) => is_a_line(&error),
    }
}

/// Decoding fails, or gives a value that is the same after another turn.
fn reads_what_it_writes<T: Serialize + DeserializeOwned + PartialEq + Debug>(body: &[u8]) {
    if let Ok(value) = codec::decode::<T>(body) {
        assert_eq!(codec::decode(&written(&value)), Ok(value));
    }
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    codec::encode(value).expect("what was read is written")
}

/// Parsing fails with a line that can be shown, or gives a value whose text is that value's.
fn shows_what_it_reads<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Display + Debug + PartialEq> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let shown = value.to_string();
            assert!(!shown.contains(char::is_control), "{shown:?}");
            assert_eq!(shown.parse().as_ref(), Ok(&value));
            Some(value)
        }
        Err(error) => {
            is_a_line(&error);
            None
        }
    }
}

/// An error's text is one line of a bounded length: at most two texts of 200 characters, escaped.
fn is_a_line(error: &impl Display) {
    let text = error.to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(text.len() < 5000, "{} bytes", text.len());
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_survives_its_corpus() {
        super::replay::replay(super::TARGETS);
    }
}
