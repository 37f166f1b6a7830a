//! The sockets that a server holds for a service: bound once, when the service comes up, and handed to each
//! instance. Instances come and go on them, and nothing that is queued is lost.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use circuit_proto::element::service::HeldSocket;
use circuit_proto::{Code, Error};
use rustix::process::PidfdGetfdFlags;
use socket2::{Domain, SockAddr, SockRef, Socket as Raw, Type};

use tracing::warn;

use super::definition::{Listen, Socket};
use crate::runtime::descriptors::{Descriptors, Taken, User};

/// How many connections wait at most unless the definition says otherwise: the system's own maximum is less.
const BACKLOG: i32 = 4096;

/// The sockets of a service that is up.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<One>);

#[derive(Debug)]
struct One {
    socket: Socket,
    fd: OwnedFd,
    _taken: Taken,
}

impl Held {
    /// Binds the sockets that are not held yet, and then closes those that are not among them. If one cannot
    /// be bound, nothing changes.
    pub(super) fn set(
        &mut self,
        sockets: &[Socket],
        descriptors: &Arc<Descriptors>,
    ) -> Result<(), Error> {
        let mut new = Vec::new();
        for socket in sockets {
            let same = |held: &One| held.socket.listen == socket.listen;
            if !self.0.iter().any(same) {
                let taken = descriptors.take(User::Processes, 1);
                let taken = taken.map_err(|short| Error::new(Code::Busy, short.to_string()))?;
                let fd = bind(socket).map_err(|error| {
                    let message = format!(
                        "cannot listen on {}: {}",
                        text(&socket.listen),
                        words(&error)
                    );
                    Error::new(Code::Refused, message)
                })?;
                new.push(One {
                    socket: socket.clone(),
                    fd,
                    _taken: taken,
                });
            }
        }
        let mut all = std::mem::take(&mut self.0);
        all.extend(new);
        for socket in sockets {
            if let Some(at) = all
                .iter()
                .position(|held| held.socket.listen == socket.listen)
            {
                let mut held = all.swap_remove(at);
                held.socket = socket.clone();
                self.0.push(held);
            }
        }
        all.into_iter().for_each(One::close);
        Ok(())
    }

    /// Closes all.
    pub(super) fn close(&mut self) {
        self.0.drain(..).for_each(One::close);
    }

    /// Takes the sockets over that the server's life before held, from the instances that have them still, and
    /// binds those that no instance has.
    pub(super) fn recover(
        &mut self,
        sockets: &[Socket],
        holders: &[OwnedFd],
        descriptors: &Arc<Descriptors>,
    ) {
        for (socket, number) in sockets.iter().zip(3..) {
            let copy = |holder: &OwnedFd| {
                let flags = PidfdGetfdFlags::empty();
                let fd = rustix::process::pidfd_getfd(holder, number, flags).ok()?;
                is_bound(&socket.listen, fd.as_fd()).then_some(fd)
            };
            let found = holders.iter().find_map(copy);
            let fd = match found.map_or_else(|| bind(socket), Ok) {
                Ok(fd) => fd,
                Err(error) => {
                    warn!(
                        "cannot listen on {} again: {}",
                        text(&socket.listen),
                        words(&error)
                    );
                    continue;
                }
            };
            let Ok(taken) = descriptors.take(User::Processes, 1) else {
                continue;
            };
            self.0.push(One {
                socket: socket.clone(),
                fd,
                _taken: taken,
            });
        }
    }

    /// Copies for an instance, and the variables that tell it of them (sd_listen_fds(3)).
    pub(super) fn hand_over(&self) -> io::Result<(Vec<OwnedFd>, Vec<String>)> {
        if self.0.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let copies = self.0.iter().map(|held| held.fd.try_clone());
        let names: Vec<_> = self
            .0
            .iter()
            .map(|held| held.socket.name.as_str())
            .collect();
        let variables = vec![
            format!("LISTEN_FDS={}", names.len()),
            format!("LISTEN_FDNAMES={}", names.join(":")),
        ];
        Ok((copies.collect::<io::Result<_>>()?, variables))
    }

    /// As `peek` shows them.
    pub(super) fn status(&self) -> Vec<HeldSocket> {
        let one = |held: &One| HeldSocket {
            name: held.socket.name.clone(),
            address: bound(&held.socket.listen, held.fd.as_fd()),
            held: "server".to_owned(),
        };
        self.0.iter().map(one).collect()
    }
}

impl One {
    /// Closes it for good: the file of a Unix socket goes with it.
    fn close(self) {
        if let Listen::Unix(path) = &self.socket.listen {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a descriptor is the socket that is meant.
fn is_bound(listen: &Listen, fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let socket = SockRef::from(&fd);
    let (Ok(local), Ok(kind)) = (socket.local_addr(), socket.r#type()) else {
        return false;
    };
    match listen {
        Listen::Tcp(address) => {
            kind == Type::STREAM && local.as_socket().is_some_and(|bound| same(*address, bound))
        }
        Listen::Udp(address) => {
            kind == Type::DGRAM && local.as_socket().is_some_and(|bound| same(*address, bound))
        }
        Listen::Unix(path) => local.as_pathname() == Some(path),
    }
}

/// Whether a socket that was to be bound to the one address may be bound to the other.
fn same(wanted: SocketAddr, bound: SocketAddr) -> bool {
    wanted.ip() == bound.ip() && (wanted.port() == 0 || wanted.port() == bound.port())
}

/// The address with the port that was bound.
fn bound(listen: &Listen, fd: impl AsFd) -> String {
    let local = SockRef::from(&fd.as_fd()).local_addr().ok();
    let address = local.and_then(|local| local.as_socket());
    match (listen, address) {
        (Listen::Tcp(_), Some(address)) => address.to_string(),
        (Listen::Udp(_), Some(address)) => format!("udp:{address}"),
        (listen, _) => text(listen),
    }
}

fn text(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Udp(address) => format!("udp:{address}"),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or(&text)
        .to_lowercase()
}

fn bind(socket: &Socket) -> io::Result<OwnedFd> {
    let backlog = socket
        .backlog
        .and_then(|backlog| i32::try_from(backlog).ok());
    let backlog = backlog.unwrap_or(BACKLOG);
    match &socket.listen {
        Listen::Tcp(address) => {
            let raw = Raw::new(Domain::for_address(*address), Type::STREAM, None)?;
            // Connections of an earlier life that are still being closed do not hold the port.
            raw.set_reuse_address(true)?;
            if address.is_ipv6() {
                raw.set_only_v6(true)?;
            }
            raw.bind(&SockAddr::from(*address))?;
            raw.listen(backlog)?;
            Ok(raw.into())
        }
        Listen::Udp(address) => {
            let raw = Raw::new(Domain::for_address(*address), Type::DGRAM, None)?;
            if address.is_ipv6() {
                raw.set_only_v6(true)?;
            }
            raw.bind(&SockAddr::from(*address))?;
            Ok(raw.into())
        }
        Listen::Unix(path) => {
            remove_stale(path)?;
            let raw = Raw::new(Domain::UNIX, Type::STREAM, None)?;
            raw.bind(&SockAddr::unix(path)?)?;
            if let Some(mode) = socket.mode {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
            }
            raw.listen(backlog)?;
            Ok(raw.into())
        }
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::other("there is something else than a socket"))
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)
            }
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        },
    }
}
