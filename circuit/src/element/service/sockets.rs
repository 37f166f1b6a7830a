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
        // Several may be at port 0: their names tell them apart. One that was renamed stays.
        let mut places: Vec<Option<usize>> = vec![None; sockets.len()];
        for with_name in [true, false] {
            for (number, socket) in sockets.iter().enumerate() {
                let is_it = |held: &Socket| {
                    held.listen == socket.listen && (!with_name || held.name == socket.name)
                };
                let mut held = self.0.iter().enumerate();
                let free =
                    held.find(|(at, held)| is_it(&held.socket) && !places.contains(&Some(*at)));
                places[number] = places[number].or(free.map(|(at, _)| at));
            }
        }
        let mut new: Vec<One> = Vec::new();
        let missing = sockets
            .iter()
            .zip(&places)
            .filter(|(_, place)| place.is_none());
        for (socket, _) in missing {
            match One::bound(socket, descriptors) {
                Ok(one) => new.push(one),
                Err(error) => {
                    new.into_iter().for_each(One::close);
                    return Err(error);
                }
            }
        }
        let mut before: Vec<Option<One>> = self.0.drain(..).map(Some).collect();
        let mut new = new.into_iter();
        for (socket, place) in sockets.iter().zip(places) {
            let held = match place {
                Some(at) => before[at].take(),
                None => new.next(),
            };
            self.0.extend(held.map(|held| One {
                socket: socket.clone(),
                ..held
            }));
        }
        before.into_iter().flatten().for_each(One::close);
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
            let one = match (found, descriptors.take(User::Processes, 1)) {
                (Some(fd), Ok(taken)) => Ok(One {
                    socket: socket.clone(),
                    fd,
                    _taken: taken,
                }),
                _ => One::bound(socket, descriptors),
            };
            match one {
                Ok(one) => self.0.push(one),
                Err(error) => warn!("after the start: {}", error.message),
            }
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
    fn bound(socket: &Socket, descriptors: &Arc<Descriptors>) -> Result<One, Error> {
        let taken = descriptors.take(User::Processes, 1);
        let taken = taken.map_err(|short| Error::new(Code::Busy, short.to_string()))?;
        let fd = bind(socket).map_err(|error| {
            let listen = text(&socket.listen);
            let message = format!("cannot listen on {listen}: {}", words(&error));
            Error::new(Code::Refused, message)
        })?;
        Ok(One {
            socket: socket.clone(),
            fd,
            _taken: taken,
        })
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(name: &str, listen: Listen) -> Socket {
        Socket {
            name: name.to_owned(),
            listen,
            backlog: None,
            mode: None,
        }
    }

    fn free(name: &str) -> Socket {
        socket(name, Listen::Tcp("127.0.0.1:0".parse().unwrap()))
    }

    fn addresses(held: &Held) -> Vec<(String, String)> {
        let status = held.status().into_iter();
        status.map(|held| (held.name, held.address)).collect()
    }

    #[test]
    fn sockets_at_any_port_are_told_apart_by_their_names() {
        let descriptors = Descriptors::of_process();
        let mut held = Held::default();
        held.set(&[free("a"), free("b")], &descriptors).unwrap();
        let before = addresses(&held);
        held.set(&[free("c"), free("b"), free("a")], &descriptors)
            .unwrap();
        let after = addresses(&held);
        assert_eq!((&after[1], &after[2]), (&before[1], &before[0]));
        // One that was renamed stays where it is.
        held.set(&[free("d"), free("a")], &descriptors).unwrap();
        let renamed = addresses(&held);
        assert_eq!(renamed[1], before[0]);
        assert!(after.iter().any(|(_, address)| *address == renamed[0].1));
    }

    #[test]
    fn nothing_changes_if_one_cannot_be_bound() {
        let descriptors = Descriptors::of_process();
        let mut held = Held::default();
        held.set(&[free("a"), free("b")], &descriptors).unwrap();
        let before = addresses(&held);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = socket("c", Listen::Tcp(taken.local_addr().unwrap()));
        let used = descriptors.used();
        let error = held.set(&[free("x"), taken, free("b")], &descriptors);
        assert!(
            error
                .unwrap_err()
                .message
                .contains("address already in use")
        );
        assert_eq!(addresses(&held), before);
        assert_eq!(descriptors.used(), used);
    }

    #[test]
    fn a_listener_whose_queue_is_full_is_not_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("socket");
        let listener = Raw::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let raw = Raw::new(Domain::UNIX, Type::STREAM, None).unwrap();
            raw.set_nonblocking(true).unwrap();
            if raw.connect(&SockAddr::unix(&path).unwrap()).is_err() {
                break;
            }
            waiting.push(raw);
        }
        let refused = remove_stale(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop((listener, waiting));
        remove_stale(&path).unwrap();
        assert!(!path.exists());
    }
}
