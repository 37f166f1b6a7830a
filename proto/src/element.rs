//! The wire form of each kind of element, one file each. The caller's handle and the
//! implementation of a kind are in files of the same name in the crates above.

pub mod channel;
pub mod container;
pub mod dns;
pub mod process;
pub mod server;
pub mod subscription;

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::codec::{self, CodecError};

/// What an anchor can hold. A new kind makes the compiler name every place to touch.
///
/// Travels as its short name, so that a peer of another version can still list what it does not
/// know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "&'static str")]
pub enum ElementKind {
    /// The server itself, at its own anchor.
    Server,
    /// An operating-system process.
    Process,
    /// A channel.
    Channel,
    /// A queue of the servers that join.
    OnJoin,
    /// A queue of the servers that leave.
    OnLeave,
    /// A DNS server.
    Dns,
    /// A container of a Docker Engine.
    Container,
    /// One that a later version has.
    Unknown,
}

impl ElementKind {
    const KNOWN: [ElementKind; 7] = [
        ElementKind::Server,
        ElementKind::Process,
        ElementKind::Channel,
        ElementKind::OnJoin,
        ElementKind::OnLeave,
        ElementKind::Dns,
        ElementKind::Container,
    ];

    /// The short name, as `ls -l` shows it.
    pub fn name(self) -> &'static str {
        match self {
            ElementKind::Server => "server",
            ElementKind::Process => "proc",
            ElementKind::Channel => "chan",
            ElementKind::OnJoin => "@join",
            ElementKind::OnLeave => "@leave",
            ElementKind::Dns => "dns",
            ElementKind::Container => "docker",
            ElementKind::Unknown => "?",
        }
    }
}

impl fmt::Display for ElementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<String> for ElementKind {
    fn from(name: String) -> ElementKind {
        let known = ElementKind::KNOWN.into_iter();
        known
            .clone()
            .find(|kind| kind.name() == name)
            .unwrap_or(ElementKind::Unknown)
    }
}

impl From<ElementKind> for &'static str {
    fn from(kind: ElementKind) -> &'static str {
        kind.name()
    }
}

/// What `peek` tells of an element.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Wire")]
pub enum Status {
    /// Of a server.
    Server(server::Status),
    /// Of a process.
    Process(process::Status),
    /// Of a channel.
    Channel(channel::Status),
    /// Of a subscription to joins.
    OnJoin(subscription::Status),
    /// Of a subscription to leaves.
    OnLeave(subscription::Status),
    /// Of a DNS server.
    Dns(dns::Status),
    /// Of a container.
    Container(Box<container::Inspected>),
    /// Of an element of a kind that a later version has.
    Unknown,
}

impl Status {
    /// The kind of the element.
    pub fn kind(&self) -> ElementKind {
        match self {
            Status::Server(_) => ElementKind::Server,
            Status::Process(_) => ElementKind::Process,
            Status::Channel(_) => ElementKind::Channel,
            Status::OnJoin(_) => ElementKind::OnJoin,
            Status::OnLeave(_) => ElementKind::OnLeave,
            Status::Dns(_) => ElementKind::Dns,
            Status::Container(_) => ElementKind::Container,
            Status::Unknown => ElementKind::Unknown,
        }
    }
}

/// What `wait` tells of an element that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// Of a process.
    Process(Box<process::Status>),
    /// Of a container.
    Container(Box<container::Status>),
}

impl Ended {
    /// Nothing after success, else `exit status 1`, `signal: terminated`.
    ///
    /// ```
    /// use circuit_proto::element::Ended;
    /// fn line(ended: &Ended) -> &str {
    ///     ended.exit().unwrap_or("ok")
    /// }
    /// ```
    pub fn exit(&self) -> Option<&str> {
        match self {
            Ended::Process(status) => status.exit.as_deref(),
            Ended::Container(status) => status.exit.as_deref(),
        }
    }
}

/// A status as it travels: one of a kind that is not known can be skipped.
#[derive(Serialize, Deserialize)]
struct Wire {
    kind: ElementKind,
    #[serde(with = "codec::bytes")]
    body: Vec<u8>,
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire::from(self).serialize(serializer)
    }
}

impl From<&Status> for Wire {
    fn from(status: &Status) -> Wire {
        let kind = status.kind();
        let body = match status {
            Status::Server(status) => codec::encode(status),
            Status::Process(status) => codec::encode(status),
            Status::Channel(status) => codec::encode(status),
            Status::OnJoin(status) | Status::OnLeave(status) => codec::encode(status),
            Status::Dns(status) => codec::encode(status),
            Status::Container(status) => codec::encode(status),
            Status::Unknown => Ok(Vec::new()),
        };
        // One that is too long for a frame arrives empty, and is refused there.
        let body = body.unwrap_or_default();
        Wire { kind, body }
    }
}

impl TryFrom<Wire> for Status {
    type Error = CodecError;

    fn try_from(Wire { kind, body }: Wire) -> Result<Status, CodecError> {
        Ok(match kind {
            ElementKind::Server => Status::Server(codec::decode(&body)?),
            ElementKind::Process => Status::Process(codec::decode(&body)?),
            ElementKind::Channel => Status::Channel(codec::decode(&body)?),
            ElementKind::OnJoin => Status::OnJoin(codec::decode(&body)?),
            ElementKind::OnLeave => Status::OnLeave(codec::decode(&body)?),
            ElementKind::Dns => Status::Dns(codec::decode(&body)?),
            ElementKind::Container => Status::Container(codec::decode(&body)?),
            ElementKind::Unknown => Status::Unknown,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_a_later_version_is_no_error() {
        let listed = codec::encode(&"anvil").unwrap();
        assert_eq!(codec::decode(&listed), Ok(ElementKind::Unknown));
        #[derive(Serialize)]
        struct Later {
            kind: &'static str,
            #[serde(with = "codec::bytes")]
            body: Vec<u8>,
        }
        let status = Later {
            kind: "anvil",
            body: vec![1, 2, 3],
        };
        let status = codec::encode(&Some(status)).unwrap();
        assert_eq!(codec::decode(&status), Ok(Some(Status::Unknown)));
    }

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for kind in ElementKind::KNOWN {
            let bytes = codec::encode(&kind).unwrap();
            assert_eq!(codec::decode(&bytes), Ok(kind));
        }
    }

    #[test]
    fn a_status_that_is_not_of_its_kind_is_refused() {
        let wire = Wire {
            kind: ElementKind::Channel,
            body: vec![1],
        };
        let bytes = codec::encode(&wire).unwrap();
        assert_eq!(codec::decode::<Status>(&bytes), Err(CodecError::Malformed));
    }
}
