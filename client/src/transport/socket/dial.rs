//! The client's way to a server on this host: the socket, who serves it, and the handshake.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use circuit_proto::handshake::{Answer, Hello, HelloBody, Identity, Refused, Role, SPOKEN};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::UnixStream;

use super::{Connection, Side, file};
use crate::transport::lost::Lost;
use crate::transport::stream::StreamError;

/// How long a client waits before it tries again to connect to a server that many others connect to.
/// Chosen, not measured: a server accepts hundreds in that time.
const BACKLOG_WAIT: Duration = Duration::from_millis(1);

/// How long the end of a process may take between its first and its last descriptor, in
/// milliseconds. Chosen, not measured: it takes microseconds.
const LAST_BREATH: i64 = 20;

/// A server's socket, and the process that served it.
#[derive(Debug, Clone)]
pub struct Place {
    pub(super) path: PathBuf,
    /// `None` for a process that this one cannot see.
    process: Option<i32>,
}

/// Why a server on this host was not reached. Each names the socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// There is no file.
    #[error("there is no socket {}", .0.display())]
    NoSocket(PathBuf),
    /// The file's permissions keep us out.
    #[error("no permission for the socket {}", .0.display())]
    NoPermission(PathBuf),
    /// Something else is there.
    #[error("{} is {what}, and no socket", path.display())]
    Other {
        /// The path in question.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// Nobody listens: the server was killed.
    #[error("nobody listens on the socket {}: its server has ended", .0.display())]
    Dead(PathBuf),
    /// The file is no socket of a server's, or the system failed.
    #[error("cannot connect to {}", path.display())]
    Io {
        /// The socket in question.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// Somebody serves it whom we have no reason to trust.
    #[error("the socket {} is served by the user {uid}, who is neither this user nor root", path.display())]
    Foreign {
        /// The socket in question.
        path: PathBuf,
        /// The user id of the process that serves it.
        uid: u32,
    },
    /// The server did not accept us.
    #[error("the server at {} refused us: {reason}", path.display())]
    Refused {
        /// The socket in question.
        path: PathBuf,
        /// The server's reason.
        reason: Refused,
    },
    /// The server said nothing in time.
    #[error("no answer from {} within {} s", path.display(), .after.as_secs_f32())]
    NoAnswer {
        /// The socket in question.
        path: PathBuf,
        /// How long it was tried.
        after: Duration,
    },
    /// Something else is there, or it went away.
    #[error("{} does not speak the circuit protocol with us: {reason}", path.display())]
    Broken {
        /// The socket in question.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
}

impl Place {
    /// A place where nobody listens.
    #[cfg(test)]
    pub(super) fn nowhere() -> Place {
        Place {
            path: "/nowhere/at/all".into(),
            process: None,
        }
    }

    /// Why the server is lost; `None` if it lives, and only ended one connection. Asked within a
    /// runtime when a connection was cut; takes [`LAST_BREATH`] at most.
    pub(super) fn lost(&self) -> Option<Lost> {
        let connected = file::connect(&self.path);
        let socket = match connected {
            Ok(socket) => socket,
            // A server that leaves removes its socket first, one that is killed leaves it.
            Err(error) => {
                return match error.kind() {
                    ErrorKind::NotFound => Some(Lost::Left),
                    ErrorKind::ConnectionRefused => Some(Lost::Died),
                    _ => None,
                };
            }
        };
        let stream = UnixStream::from_std(socket.into()).ok()?;
        if stream.peer_cred().ok()?.pid() != self.process {
            return Some(Lost::Died);
        }
        // A process that is being ended may have closed that connection and not yet its socket.
        let mut asked = [PollFd::new(&stream, PollFlags::RDHUP)];
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: LAST_BREATH * 1_000_000,
        };
        let ended = rustix::event::poll(&mut asked, Some(&wait));
        ended.is_ok_and(|count| count > 0).then_some(Lost::Died)
    }
}

/// Connects to the server at this path and makes the handshake, within `timeout`.
///
/// **Cancellation:** a dropped dial closes the connection.
pub(super) async fn dial(
    path: &Path,
    timeout: Duration,
) -> Result<(Arc<Connection>, Place, Identity), SocketError> {
    let no_answer = || SocketError::NoAnswer {
        path: path.to_owned(),
        after: timeout,
    };
    let attempt = attempt(path);
    let dialled = tokio::time::timeout(timeout, attempt).await;
    dialled.unwrap_or_else(|_| Err(no_answer()))
}

async fn attempt(path: &Path) -> Result<(Arc<Connection>, Place, Identity), SocketError> {
    let stream = connect(path).await?;
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    let cred = stream.peer_cred().map_err(failed)?;
    if !trusted(path, cred.uid()) {
        let (path, uid) = (path.to_owned(), cred.uid());
        return Err(SocketError::Foreign { path, uid });
    }
    let place = Place {
        path: path.to_owned(),
        process: cred.pid(),
    };
    let connection = Connection::new(stream, Side::Client(place.clone()));
    let identity = greet(&connection, path).await?;
    Ok((connection, place, identity))
}

/// Connects, as soon as the server has room for another.
pub(super) async fn connect(path: &Path) -> Result<UnixStream, SocketError> {
    let connected = loop {
        match file::connect(path) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                tokio::time::sleep(BACKLOG_WAIT).await;
            }
            other => break other,
        }
    };
    let stream = connected.and_then(|socket| UnixStream::from_std(socket.into()));
    stream.map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::NotFound => SocketError::NoSocket(path),
            ErrorKind::PermissionDenied => SocketError::NoPermission(path),
            ErrorKind::ConnectionRefused => match file::other_than_socket(&path) {
                Some(what) => SocketError::Other { path, what },
                None => SocketError::Dead(path),
            },
            _ => SocketError::Io { path, source },
        }
    })
}

/// The handshake: one frame each way.
async fn greet(connection: &Arc<Connection>, path: &Path) -> Result<Identity, SocketError> {
    let broken = |reason: String| SocketError::Broken {
        path: path.to_owned(),
        reason,
    };
    let failed = |error: StreamError| match error {
        // Whether its process has ended cannot be told: it may close every connection at once.
        StreamError::Abandoned | StreamError::Lost(_) => {
            broken("it closed the connection".to_owned())
        }
        other => broken(other.to_string()),
    };
    let hello = Hello {
        versions: SPOKEN,
        body: HelloBody {
            role: Role::Client,
            proof: None,
        },
    };
    let (mut send, mut recv) = connection.open();
    let hello = hello.encode().map_err(|error| broken(error.to_string()))?;
    // What a server says that refuses us is read, though it may not have read us.
    let _ = send.last_raw_frame(hello.into()).await;
    match recv.frame().await.map_err(failed)? {
        Answer::Welcome(welcome) if SPOKEN.contains(welcome.version) => {
            let _ = recv.at_finish().await;
            Ok(welcome.identity)
        }
        Answer::Welcome(_) => Err(broken(
            "it answers in a version that we do not speak".to_owned(),
        )),
        Answer::Refused(reason) => Err(SocketError::Refused {
            path: path.to_owned(),
            reason,
        }),
    }
}

/// Whether a server of this user id is to be trusted with what we ask: it is ours or root's, or it is
/// the owner's of a socket in a directory that only root can write.
fn trusted(path: &Path, uid: u32) -> bool {
    if uid == 0 || uid == rustix::process::geteuid().as_raw() {
        return true;
    }
    let owner = std::fs::symlink_metadata(path).map(|found| found.uid());
    let directory = file::split(path).and_then(|(directory, _)| std::fs::metadata(directory));
    let roots = |found: std::fs::Metadata| found.uid() == 0 && found.mode() & 0o022 == 0;
    owner.is_ok_and(|owner| owner == uid) && directory.is_ok_and(roots)
}
