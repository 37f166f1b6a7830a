//! The client of a circuit: reach any process on any host by its path.
//!
//! A [`Client`] dials one server, any, and reaches all of them through it. [`Client::walk`] gives
//! an [`Anchor`], a name for a place; what is there is asked for with the anchor's methods.
//!
//! ```no_run
//! use circuit_client::{Client, Cmd};
//! use tokio::io::AsyncReadExt;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let url = "circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d".parse()?;
//! let client = Client::dial(&url, None).await?;
//! for server in client.servers().await? {
//!     let anchor = client.server(server.id).walk("hello")?;
//!     let process = anchor.make_proc(Cmd::new("hostname")).await?;
//!     let mut text = String::new();
//!     process.stdout().await?.read_to_string(&mut text).await?;
//!     println!("{}: {text}", server.name);
//!     process.wait().await?;
//!     anchor.scrub().await?;
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

mod anchor;
mod client;
pub mod discover;
pub mod element;
mod error;
pub mod key_file;
pub mod runtime_dir;
mod stream;
pub mod transport;

pub use anchor::{Anchor, Entry};
pub use circuit_proto::element::anchor::{ServerEntry, ServerState};
pub use circuit_proto::element::container::{Pull, Run};
pub use circuit_proto::element::process::{Cmd, Phase, Sink, TerminalSize};
pub use circuit_proto::element::streams::Ended;
pub use circuit_proto::element::{
    ElementKind, Status, channel, container, dns, process, server, streams, subscription,
};
pub use circuit_proto::path::{Path, PathError, Pattern};
pub use circuit_proto::{Code, Key, ServerId, Url};
pub use client::{Client, DiscoverDialError};
pub use element::channel::{Chan, MessageReader, MessageWriter, Receiver, Sender};
pub use element::container::Container;
pub use element::dns::Nameserver;
pub use element::process::Proc;
pub use element::server::Server;
pub use element::subscription::Subscription;
pub use element::{Element, Handle, Kind};
pub use error::{DialError, Error};
pub use stream::{Reader, Writer};
