//! What an anchor of this server can hold, one file per kind.

pub mod process;
pub mod server;

use std::sync::Arc;

use circuit_proto::ElementKind;

use process::Process;

/// An element of this server. Clones share it.
#[derive(Debug, Clone)]
pub enum Element {
    /// The server itself, at its own anchor.
    Server,
    /// A process.
    Process(Arc<Process>),
}

impl Element {
    /// Its kind.
    pub fn kind(&self) -> ElementKind {
        match self {
            Element::Server => ElementKind::Server,
            Element::Process(_) => ElementKind::Process,
        }
    }
}
