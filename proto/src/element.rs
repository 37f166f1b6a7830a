//! The wire form of each kind of element, one file each. The caller's handle and the
//! implementation of a kind are in files of the same name in the crates above.

pub mod process;
pub mod server;

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an anchor can hold. A new kind makes the compiler name every place to touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ElementKind {
    /// The server itself, at its own anchor.
    Server,
    /// An operating-system process.
    Process,
}

impl fmt::Display for ElementKind {
    /// The short name, as `ls -l` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ElementKind::Server => "server",
            ElementKind::Process => "proc",
        })
    }
}

/// What `peek` tells of an element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Of a server.
    Server(server::Status),
    /// Of a process.
    Process(process::Status),
}

impl Status {
    /// The kind of the element.
    pub fn kind(&self) -> ElementKind {
        match self {
            Status::Server(_) => ElementKind::Server,
            Status::Process(_) => ElementKind::Process,
        }
    }
}
