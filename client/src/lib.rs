//! The client of a circuit: reach any process on any host by its path.
//!
//! A [`Client`] dials one server, any, and reaches all of them through it. [`Client::walk`] gives
//! an [`Anchor`], a name for a place; what is there is asked for with the anchor's methods.
//!
//! ```no_run
//! use circuit_client::{Client, Cmd};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::from_env().await?;
//! for server in client.servers().await? {
//!     let output = client.server(server.id).output(Cmd::new("hostname")).await?;
//!     println!("{}: {}", server.name, String::from_utf8_lossy(&output.stdout));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Dropping a handle or a future cancels what it was doing, remotely too. What a program makes
//! stays: elements live on their servers until they are scrubbed.
//!
//! # Errors
//!
//! [`Error`] tells who is gone: *the server refused* ([`Error::Refused`]), *the server that hosts
//! the anchor is gone* ([`Error::ServerGone`]), *the circuit is gone* ([`Error::CircuitGone`]: the
//! connection to the server that was dialled). A dial fails with a [`DialError`].

#[cfg(doctest)]
#[doc = include_str!("../../docs/crate.md")]
mod page {}

mod address;
mod anchor;
mod client;
pub mod discover;
pub mod element;
mod error;
pub mod key_file;
pub mod runtime_dir;
mod search;
mod signal;
mod stream;
#[doc(hidden)]
pub mod transport;
mod ways;

pub use address::Address;
pub use anchor::{Anchor, Entry};
pub use bytes::Bytes;
pub use circuit_proto::auth::KeyMismatch;
pub use circuit_proto::element::anchor::{ServerEntry, ServerState};
pub use circuit_proto::element::container::{Pull, Run};
pub use circuit_proto::element::process::{Cmd, Phase, Sink, TerminalSize};
pub use circuit_proto::element::streams::Ended;
pub use circuit_proto::element::subscription::Event;
pub use circuit_proto::element::{
    ElementKind, Status, channel, container, dns, process, server, service, streams, subscription,
};
pub use circuit_proto::handshake::{Identity, Refused, Versions};
pub use circuit_proto::id::NotAnId;
pub use circuit_proto::key::KeyError;
pub use circuit_proto::life::Tenure;
pub use circuit_proto::path::{Path, PathError, Pattern, ServerPart};
pub use circuit_proto::url::{Host, UrlError};
pub use circuit_proto::{Code, Error as ServerError, Fingerprint, Key, OsText, ServerId, Url, url};
pub use client::{Client, Dialled, DiscoverDialError};
pub use element::channel::{Chan, MessageReader, MessageWriter, Receiver, Sender};
pub use element::container::Container;
pub use element::dns::Nameserver;
pub use element::process::{Attached, AttachedEnd, AttachedOutput, AttachedStdin, Output, Proc};
pub use element::server::Server;
pub use element::service::{Intent, Lines, Making, Service};
pub use element::subscription::{Events, Subscription};
pub use element::{Bound, Element, Handle, Kind};
pub use error::{DialError, Error, SocketError, chain};
pub use search::{Search, SearchError, Source, Warning, Way};
pub use signal::Signal;
pub use stream::{Reader, Writer};
