//! The server of a circuit, and the command-line tool.
//!
//! [`cli`] reaches circuits through the client crate; [`server`] accepts, authenticates and
//! dispatches; [`peer`] drives membership and discovery; [`anchor`] is the tree; [`element`] has one
//! file per kind; [`logs`] keeps output in files; [`runtime`] keeps the one network thread fair and
//! alive; `store` keeps what a server has from one life to the next.

pub mod anchor;
pub mod cli;
mod descriptor;
pub mod element;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod logs;
pub mod peer;
pub mod runtime;
pub mod server;
mod store;
mod text;
