//! The operations that every anchor takes, whatever it holds, and the lines of a listing.

use serde::{Deserialize, Serialize};

use super::ElementKind;
use crate::{ServerId, Url};

/// An operation on an anchor.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// List the anchors below.
    List {
        /// All of them, or the children only.
        recursive: bool,
    },
    /// Report the element's status.
    Peek,
    /// Remove the element.
    Scrub,
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::List { .. } => "ls",
            Op::Peek => "peek",
            Op::Scrub => "scrub",
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Scrub => true,
            Op::List { .. } | Op::Peek => false,
        }
    }

    /// Whether the operation waits for others by nature.
    pub fn waits(&self) -> bool {
        match self {
            Op::List { .. } | Op::Peek | Op::Scrub => false,
        }
    }
}

/// One line of a listing. A chunk of a listing holds the encoded lines one behind the other: see
/// [`codec::decode_all`](crate::codec::decode_all).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listed {
    /// A server: a child of the root.
    Server(ServerEntry),
    /// An anchor of a server.
    Anchor {
        /// Its names below the listed anchor, with slashes between them.
        path: String,
        /// The kind of the element that it holds.
        kind: Option<ElementKind>,
        /// What there is to say of the element in a few words: of a service `2/3 ready`.
        note: String,
    },
}

/// A [`Listed`] to be written: the wire form is the same, and the path somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ListedRef<'a> {
    /// A server.
    Server(&'a ServerEntry),
    /// An anchor of a server.
    Anchor {
        /// Its names below the listed anchor.
        path: &'a str,
        /// The kind of the element.
        kind: Option<ElementKind>,
        /// What there is to say of the element.
        note: String,
    },
}

/// A live server, as a listing of the root shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerEntry {
    /// Its id.
    pub id: ServerId,
    /// Its name, for people.
    pub name: String,
    /// Its URL.
    pub url: Url,
    /// Whether the server that was asked takes it to be alive.
    pub state: ServerState,
}

/// The state of a server, in the view of the one that lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerState {
    /// It lives.
    Alive,
    /// Its neighbours suspect that it has died.
    Suspected,
    /// It is the server that was asked, and it has lost all its links and trusts no other server to
    /// be there: it cannot know which servers are alive.
    Isolated,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn what_is_written_by_reference_is_read_as_the_same() {
        let (path, kind, note) = ("a/b", Some(ElementKind::Service), "2/3 ready");
        let whole = Listed::Anchor {
            path: path.to_owned(),
            kind,
            note: note.to_owned(),
        };
        let borrowed = ListedRef::Anchor {
            path,
            kind,
            note: note.to_owned(),
        };
        let encoded = codec::encode(&borrowed).unwrap();
        assert_eq!(encoded, codec::encode(&whole).unwrap());
        let server = ServerEntry {
            id: ServerId(7),
            name: "a".to_owned(),
            url: "circuit://127.0.0.1:1".parse().unwrap(),
            state: ServerState::Alive,
        };
        let encoded = codec::encode(&ListedRef::Server(&server)).unwrap();
        assert_eq!(encoded, codec::encode(&Listed::Server(server)).unwrap());
    }
}
