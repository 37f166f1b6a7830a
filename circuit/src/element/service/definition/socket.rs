//! The sockets of a definition.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use circuit_proto::Error;
use circuit_proto::element::service as wire;

use super::{invalid, octal};

/// A socket that the server holds.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Socket {
    pub(in super::super) name: String,
    pub(in super::super) listen: Listen,
    pub(in super::super) backlog: Option<u32>,
    pub(in super::super) mode: Option<u32>,
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Listen {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

impl Socket {
    /// Looks the name of its host up, unless its address is `known`.
    pub(super) fn read(socket: &wire::Socket, known: Option<SocketAddr>) -> Result<Socket, Error> {
        let name = socket.name.clone();
        if name.is_empty()
            || name.len() > 255
            || name.contains(|c: char| c.is_control() || c == ':')
        {
            return Err(invalid(format!(
                "the socket's Name {name:?} is no name: 1 to 255 characters without colons"
            )));
        }
        let wrong = |why: &str| invalid(format!("the socket {name:?}: {:?} {why}", socket.listen));
        let address = |text: &str| {
            if let Some(known) = known {
                return Ok(known);
            }
            let mut found = text
                .to_socket_addrs()
                .map_err(|_| wrong("is no HOST:PORT, udp:HOST:PORT or unix:PATH"))?;
            found.next().ok_or_else(|| wrong("has no address"))
        };
        let listen = if let Some(path) = socket.listen.strip_prefix("unix:") {
            if !path.starts_with('/') || path.len() > 107 {
                return Err(wrong("has no absolute path of at most 107 bytes"));
            }
            Listen::Unix(path.into())
        } else if let Some(text) = socket.listen.strip_prefix("udp:") {
            Listen::Udp(address(text)?)
        } else {
            Listen::Tcp(address(&socket.listen)?)
        };
        let mode = socket
            .mode
            .as_deref()
            .map(|mode| octal("Mode", mode))
            .transpose()?;
        if mode.is_some() && !matches!(listen, Listen::Unix(_)) {
            return Err(wrong("has no Mode: only Unix sockets do"));
        }
        Ok(Socket {
            name: name.clone(),
            listen,
            backlog: socket.backlog,
            mode,
        })
    }
}
