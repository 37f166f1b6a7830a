//! The file of a Unix socket: made, guarded by a lock beside it, and removed.
//!
//! **Invariant:** a file is replaced only by whoever holds its lock, and only if it is a socket on
//! which nobody listens.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use circuit_client::key_file;
use circuit_client::transport::socket::file::{self, Address};

/// How many clients may wait to be accepted. The kernel takes `net.core.somaxconn` at most, which is as
/// many by default.
const BACKLOG: i32 = 4096;

/// The user id that stands for all that have none in this user namespace, unless the system has another
/// (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65_534;

/// Says whom a socket lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The server's own user and root.
    Own,
    /// Whomever the file's permissions let in.
    Group,
}

impl Door {
    /// Whether the user of this id may come in, who has connected already.
    pub(super) fn lets_in(self, uid: u32) -> bool {
        let own = rustix::process::geteuid().as_raw();
        match uid {
            uid if uid == overflow() && !all_users_are_mapped() => false,
            0 => true,
            uid => uid == own || self == Door::Group,
        }
    }
}

fn overflow() -> u32 {
    let read = fs::read_to_string("/proc/sys/kernel/overflowuid");
    let parsed = read.ok().and_then(|text| text.trim().parse().ok());
    parsed.unwrap_or(OVERFLOW)
}

/// Whether each user of the host has an id here, so that the overflow id is a user's own.
fn all_users_are_mapped() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut first = map.lines().next().unwrap_or_default().split_whitespace();
    (first.next(), first.next(), first.next()) == (Some("0"), Some("0"), Some("4294967295"))
}

/// The options of a socket for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForOthers {
    /// The path of its file.
    pub path: PathBuf,
    /// The group that may use it.
    pub group: Option<u32>,
}

/// The reason why a socket was not made. Each names the path.
#[derive(Debug, thiserror::Error)]
pub enum SocketFileError {
    /// The system refused.
    #[error("cannot make the socket {}", path.display())]
    Io {
        /// The socket in question.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A server listens there.
    #[error("another server listens on {}: give each a path of its own", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{} is there and is no socket: remove it, or give another path", .0.display())]
    Other(PathBuf),
}

/// A socket's file, which is removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Its device and inode.
    identity: (u64, u64),
    /// Held until the file is removed.
    _lock: Lock,
}

/// The lock beside a socket, which is removed when this is dropped.
#[derive(Debug)]
struct Lock {
    file: File,
    path: PathBuf,
}

/// Makes a socket at this path that clients can connect to, of this mode and group.
pub fn listen(
    path: &Path,
    mode: u32,
    group: Option<u32>,
) -> Result<(OwnedFd, SocketFile), SocketFileError> {
    let failed = |source| SocketFileError::Io {
        path: path.to_owned(),
        source,
    };
    let lock = lock(path)?;
    clear(path)?;
    let bind = || {
        let socket = file::socket()?;
        rustix::net::bind(&socket, Address::of(path)?.get())?;
        Ok((socket, identity(path)?))
    };
    let (socket, identity) = bind().map_err(failed)?;
    // From here on a failure leaves nothing behind.
    let made = SocketFile {
        path: path.to_owned(),
        identity,
        _lock: lock,
    };
    let open = || {
        // Nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        if group.is_some() {
            std::os::unix::fs::chown(path, None, group)?;
        }
        Ok(rustix::net::listen(&socket, BACKLOG)?)
    };
    open().map_err(failed)?;
    Ok((socket, made))
}

/// The lock beside a socket. Fails if another server holds it.
fn lock(path: &Path) -> Result<Lock, SocketFileError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let attempt = || -> io::Result<Option<File>> {
        loop {
            let file = match key_file::create_private(&lock_path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    match File::open(&lock_path) {
                        // Its owner has removed it meanwhile.
                        Err(error) if error.kind() == ErrorKind::NotFound => continue,
                        opened => opened?,
                    }
                }
                made => made?,
            };
            match file.try_lock() {
                Ok(()) => (),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let (held, found) = (file.metadata()?, fs::symlink_metadata(&lock_path));
            if found.is_ok_and(|found| (found.dev(), found.ino()) == (held.dev(), held.ino())) {
                return Ok(Some(file));
            }
        }
    };
    match attempt() {
        Ok(Some(file)) => Ok(Lock {
            file,
            path: lock_path,
        }),
        Ok(None) => Err(SocketFileError::InUse(path.to_owned())),
        Err(source) => Err(SocketFileError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Removes a socket that a killed server left.
fn clear(path: &Path) -> Result<(), SocketFileError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(SocketFileError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    if !found.file_type().is_socket() {
        return Err(SocketFileError::Other(path.to_owned()));
    }
    match file::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)
            .map_err(|source| SocketFileError::Io {
                path: path.to_owned(),
                source,
            }),
        Err(source) if source.kind() != ErrorKind::WouldBlock => Err(SocketFileError::Io {
            path: path.to_owned(),
            source,
        }),
        _ => Err(SocketFileError::InUse(path.to_owned())),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl SocketFile {
    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // What somebody else has put there since is not ours.
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let held = self.file.metadata().map(|held| (held.dev(), held.ino()));
        let found = identity(&self.path);
        // What somebody else has put there since is not ours.
        if held.is_ok_and(|held| found.is_ok_and(|found| found == held)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
