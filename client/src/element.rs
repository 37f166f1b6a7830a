//! Handles to elements, one file per kind.

pub mod channel;
pub mod container;
pub mod dns;
pub mod process;
pub mod server;
pub mod subscription;

use channel::Chan;
use container::Container;
use dns::Nameserver;
use process::Proc;
use server::Server;
use subscription::Subscription;

/// What an anchor holds, as a handle of its kind.
#[derive(Debug, Clone)]
pub enum Element {
    /// A server, at its own anchor.
    Server(Server),
    /// A process.
    Process(Proc),
    /// A channel.
    Channel(Chan),
    /// A subscription to joins.
    OnJoin(Subscription),
    /// A subscription to leaves.
    OnLeave(Subscription),
    /// A DNS server.
    Dns(Nameserver),
    /// A container.
    Container(Container),
    /// An element of a kind that a later version has.
    Unknown,
}

/// The error of a handle whose anchor turned out to hold something else.
fn not_a(
    kind: circuit_proto::ElementKind,
    path: &circuit_proto::Path,
    found: Option<circuit_proto::element::Status>,
) -> crate::Error {
    use circuit_proto::{Code, Error};
    let error = match found {
        None => Error::new(Code::NoSuchElement, "nothing there"),
        Some(other) => Error::new(Code::WrongKind, format!("a {}, not a {kind}", other.kind())),
    };
    crate::Error::Refused {
        path: path.clone(),
        error,
    }
}

/// The error of a handle whose anchor came to hold another element while it waited.
fn not_what_it_was(path: &circuit_proto::Path) -> crate::Error {
    let error = circuit_proto::Error::new(
        circuit_proto::Code::WrongKind,
        "another element than this handle is for",
    );
    crate::Error::Refused {
        path: path.clone(),
        error,
    }
}
