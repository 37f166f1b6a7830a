//! The wire form of each kind of element, one file each: its operations, its status, and the rest
//! that its callers and its server say to each other. The caller's handle and the implementation of
//! a kind are in files of the same name in the crates above.
//!
//! [`kinds!`](crate::kinds) is the table of kinds. [`anchor`] has the operations that all anchors
//! take, [`streams`] those that processes and containers share.

pub mod anchor;
pub mod channel;
pub mod container;
pub mod dns;
pub mod process;
pub mod server;
pub mod service;
pub mod streams;
pub mod subscription;

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

use crate::codec::{self, CodecError};

/// The table of kinds: hands its rows to the macro `$then`, which makes of them what it needs. So
/// an enum over the kinds, or a `match` on them, is written once, whatever kinds there are.
///
/// A row has
///
/// - the basename of the kind's files, here a module of [`element`](crate::element), and the name
///   of the variant in enums of operations and implementations;
/// - the element kinds that live in these files, one but for subscriptions: each with its variant
///   in [`ElementKind`](crate::ElementKind), the short name that `ls -l` shows and that travels,
///   and the type of the value that `peek` gives of it.
///
/// The order of the rows is part of the wire format, as it numbers the operations: new ones come
/// last.
///
/// ```
/// macro_rules! files {
///     ($($room:ident $Room:ident { $($Kind:ident $name:literal $status:ty),* })*) => {
///         [$((stringify!($room), &[$($name),*][..])),*]
///     };
/// }
/// let files = circuit_proto::kinds!(files);
/// assert!(files.contains(&("channel", &["chan"])));
/// assert!(files.contains(&("subscription", &["@join", "@leave", "@svc"])));
/// ```
#[macro_export]
macro_rules! kinds {
    ($then:ident) => {
        $then! {
            process Process { Process "proc" process::Status }
            container Container { Container "docker" Box<container::Inspected> }
            channel Channel { Channel "chan" channel::Status }
            subscription Subscription { OnJoin "@join" subscription::Status, OnLeave "@leave" subscription::Status, OnService "@svc" subscription::Status }
            dns Dns { Dns "dns" dns::Status }
            server Server { Server "server" server::Status }
            service Service { Service "svc" service::Status, Slot "slot" service::Status }
        }
    };
}

macro_rules! element_kinds {
    ($($room:ident $Room:ident { $($Kind:ident $name:literal $status:ty),* })*) => {
        /// The kinds of elements that an anchor can hold.
        ///
        /// A kind travels as its short name, so that a peer of another version can still list the
        /// kinds that it does not know.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "&'static str")]
        pub enum ElementKind {
            $($(
                #[doc = concat!("`", $name, "` in `ls -l`: see [`", stringify!($room), "`].")]
                $Kind,
            )*)*
            /// A kind that a later version has.
            Unknown,
        }

        impl ElementKind {
            /// The kinds that this version knows.
            pub const KNOWN: &[ElementKind] = &[$($(ElementKind::$Kind),*),*];

            /// The short name, as `ls -l` shows it.
            pub fn name(self) -> &'static str {
                match self {
                    $($(ElementKind::$Kind => $name,)*)*
                    ElementKind::Unknown => "?",
                }
            }
        }

        /// The value that `peek` gives of an element.
        #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
        #[serde(try_from = "Wire")]
        pub enum Status {
            $($(
                #[doc = concat!("Of a `", $name, "`.")]
                $Kind($status),
            )*)*
            /// Of an element of a kind that a later version has.
            Unknown,
        }

        impl Status {
            /// The kind of the element.
            pub fn kind(&self) -> ElementKind {
                match self {
                    $($(Status::$Kind(_) => ElementKind::$Kind,)*)*
                    Status::Unknown => ElementKind::Unknown,
                }
            }

            fn encode(&self) -> Result<Vec<u8>, CodecError> {
                match self {
                    $($(Status::$Kind(status) => codec::encode(status),)*)*
                    Status::Unknown => Ok(Vec::new()),
                }
            }

            fn decode(kind: ElementKind, body: &[u8]) -> Result<Status, CodecError> {
                Ok(match kind {
                    $($(ElementKind::$Kind => Status::$Kind(codec::decode(body)?),)*)*
                    ElementKind::Unknown => Status::Unknown,
                })
            }
        }
    };
}

kinds!(element_kinds);

impl fmt::Display for ElementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<String> for ElementKind {
    fn from(name: String) -> ElementKind {
        let known = ElementKind::KNOWN.iter().copied();
        known
            .into_iter()
            .find(|kind| kind.name() == name)
            .unwrap_or(ElementKind::Unknown)
    }
}

impl From<ElementKind> for &'static str {
    fn from(kind: ElementKind) -> &'static str {
        kind.name()
    }
}

/// A status as it travels: a peer that does not know the kind can skip the body.
#[derive(Serialize, Deserialize)]
struct Wire {
    kind: ElementKind,
    #[serde(with = "codec::bytes")]
    body: Vec<u8>,
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.kind();
        // A status that is too long for a frame arrives empty, and is refused there.
        let body = self.encode().unwrap_or_default();
        Wire { kind, body }.serialize(serializer)
    }
}

impl TryFrom<Wire> for Status {
    type Error = CodecError;

    fn try_from(Wire { kind, body }: Wire) -> Result<Status, CodecError> {
        Status::decode(kind, &body)
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
        #[derive(Serialize)]
        #[allow(dead_code)]
        enum LaterListed {
            Server,
            Anchor {
                path: &'static str,
                kind: Option<&'static str>,
                note: &'static str,
            },
        }
        let kind = Some("anvil");
        let listed = codec::encode(&LaterListed::Anchor {
            path: "a/b",
            kind,
            note: "new",
        })
        .unwrap();
        let path = "a/b".to_owned();
        let kind = Some(ElementKind::Unknown);
        assert_eq!(
            codec::decode(&listed),
            Ok(anchor::Listed::Anchor {
                path,
                kind,
                note: "new".to_owned()
            })
        );
    }

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for kind in ElementKind::KNOWN {
            let bytes = codec::encode(kind).unwrap();
            assert_eq!(codec::decode(&bytes), Ok(*kind));
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
