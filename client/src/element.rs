//! Handles to elements, one file per kind.

pub mod process;
pub mod server;

use process::Proc;
use server::Server;

/// What an anchor holds, as a handle of its kind.
#[derive(Debug, Clone)]
pub enum Element {
    /// A server, at its own anchor.
    Server(Server),
    /// A process.
    Process(Proc),
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
