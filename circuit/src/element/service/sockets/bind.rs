//! Binds the sockets of definitions, and takes them back from processes that have them. All of it may block.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use rustix::net::sockopt::socket_acceptconn;
use rustix::process::PidfdGetfdFlags;
use socket2::{Domain, SockAddr, SockRef, Socket as Raw, Type};

use super::super::definition::{Listen, Socket};
use crate::element::process::tree::Identity;

/// How many connections wait at most unless the definition says otherwise: the system's own maximum is less.
const BACKLOG: i32 = 4096;

/// A process that may have sockets of a service, and the sockets that its definition names.
#[derive(Debug, Clone)]
pub(in super::super) struct Holder {
    pub(in super::super) process: Identity,
    pub(in super::super) sockets: Vec<Socket>,
}

impl Holder {
    /// A copy of a socket, if the process has it still where it was handed over.
    pub(super) fn copy(&self, wanted: &Socket) -> Option<OwnedFd> {
        let number = self.number(wanted)?;
        // The file has gone with the last `down`: nobody finds this socket any more.
        if let Listen::Unix(path) = &wanted.listen
            && !is_socket(path)
        {
            return None;
        }
        let process = self.process.pidfd().ok()?;
        let fd = rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty()).ok()?;
        is_bound(&wanted.listen, &fd).then_some(fd)
    }

    /// Its descriptor for a socket. Several may be at port 0: their names tell them apart.
    fn number(&self, wanted: &Socket) -> Option<RawFd> {
        let same = |has: &&Socket| has.listen == wanted.listen;
        let by_name = |has: &Socket| has.listen == wanted.listen && has.name == wanted.name;
        let at = self.sockets.iter().position(by_name).or_else(|| {
            let only = self.sockets.iter().filter(same).count() == 1;
            self.sockets
                .iter()
                .position(|has| only && has.listen == wanted.listen)
        })?;
        RawFd::try_from(at + 3).ok()
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// Whether a descriptor is the socket that is meant.
pub(super) fn is_bound(listen: &Listen, fd: impl AsFd) -> bool {
    let fd = fd.as_fd();
    let socket = SockRef::from(&fd);
    let (Ok(local), Ok(kind)) = (socket.local_addr(), socket.r#type()) else {
        return false;
    };
    // A connection that was accepted has the address of its listener.
    let listens = kind == Type::STREAM && socket_acceptconn(fd).unwrap_or(false);
    match listen {
        Listen::Tcp(address) => {
            listens && local.as_socket().is_some_and(|bound| same(*address, bound))
        }
        Listen::Udp(address) => {
            kind == Type::DGRAM && local.as_socket().is_some_and(|bound| same(*address, bound))
        }
        Listen::Unix(path) => listens && local.as_pathname() == Some(path),
    }
}

/// Whether a socket that was to be bound to the one address may be bound to the other.
fn same(wanted: SocketAddr, bound: SocketAddr) -> bool {
    wanted.ip() == bound.ip() && (wanted.port() == 0 || wanted.port() == bound.port())
}

/// The address with the port that was bound.
pub(super) fn bound(listen: &Listen, fd: impl AsFd) -> String {
    let local = SockRef::from(&fd.as_fd()).local_addr().ok();
    let address = local.and_then(|local| local.as_socket());
    match (listen, address) {
        (Listen::Tcp(_), Some(address)) => address.to_string(),
        (Listen::Udp(_), Some(address)) => format!("udp:{address}"),
        (listen, _) => text(listen),
    }
}

pub(super) fn text(listen: &Listen) -> String {
    match listen {
        Listen::Tcp(address) => address.to_string(),
        Listen::Udp(address) => format!("udp:{address}"),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

pub(super) fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or(&text)
        .to_lowercase()
}

fn backlog(socket: &Socket) -> i32 {
    let backlog = socket.backlog;
    let backlog = backlog.and_then(|backlog| i32::try_from(backlog).ok());
    backlog.unwrap_or(BACKLOG)
}

/// Applies what of a definition may change while a socket is bound.
pub(super) fn adjust(before: &Socket, socket: &Socket, fd: impl AsFd) -> io::Result<()> {
    if before.backlog != socket.backlog && !matches!(socket.listen, Listen::Udp(_)) {
        rustix::net::listen(&fd, backlog(socket))?;
    }
    if let Listen::Unix(path) = &socket.listen
        && before.mode != socket.mode
        && let Some(mode) = socket.mode
    {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

pub(super) fn bind(socket: &Socket) -> io::Result<OwnedFd> {
    let backlog = backlog(socket);
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
pub(super) fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::other("there is something else than a socket"))
        }
        Ok(_) => {
            let raw = Raw::new(Domain::UNIX, Type::STREAM, None)?;
            // Without waiting for a listener whose queue is full.
            raw.set_nonblocking(true)?;
            match raw.connect(&SockAddr::unix(path)?) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
            }
        }
    }
}
