//! The file of a Unix socket: made, guarded by a lock beside it, and removed.
//!
//! **Invariant:** a file is replaced only by whoever holds its lock, and only if it is a socket on
//! which nobody listens.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind, Write};
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
    /// The file cannot be given to the group.
    #[error("cannot give the socket {} to the group {group}", path.display())]
    Group {
        /// The socket in question.
        path: PathBuf,
        /// The number of the group.
        group: u32,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A server listens there.
    #[error("another server{holder} listens on {}: give each a path of its own", path.display())]
    InUse {
        /// The socket in question.
        path: PathBuf,
        /// The process or user that has it, behind a space; nothing if that is not known.
        holder: String,
    },
    /// Something else is there.
    #[error("{} is there and is no socket: remove it, or give another path", .0.display())]
    Other(PathBuf),
}

/// A socket's file, which is removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    mode: u32,
    group: Option<u32>,
    /// Its device and inode.
    identity: (u64, u64),
    /// Held until the file is removed.
    lock: Lock,
}

/// What has become of a socket's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// The file is there.
    There,
    /// Nothing is there any more.
    Gone,
    /// Somebody has put something else there.
    Replaced,
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
    let lock = lock(path)?;
    clear(path)?;
    let (socket, identity) = bind(path)?;
    // From here on a failure leaves nothing behind.
    let made = SocketFile {
        path: path.to_owned(),
        mode,
        group,
        identity,
        lock,
    };
    made.open(&socket)?;
    Ok((socket, made))
}

/// Makes a socket's file, to which nobody can connect before it is opened.
fn bind(path: &Path) -> Result<(OwnedFd, (u64, u64)), SocketFileError> {
    let bind = || {
        let socket = file::socket()?;
        rustix::net::bind(&socket, Address::of(path)?.get())?;
        Ok((socket, identity(path)?))
    };
    bind().map_err(|source| SocketFileError::Io {
        path: path.to_owned(),
        source,
    })
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
                    let mut options = File::options();
                    match options.read(true).write(true).open(&lock_path) {
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
                // For whoever finds it locked. It serves without that, too.
                let _ = file.set_len(0);
                let _ = (&file).write_all(format!("{}\n", std::process::id()).as_bytes());
                return Ok(Some(file));
            }
        }
    };
    match attempt() {
        Ok(Some(file)) => Ok(Lock {
            file,
            path: lock_path,
        }),
        Ok(None) => Err(in_use(path, &lock_path)),
        // Another user's lock, which only that user can open.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && lock_path.exists() => {
            Err(in_use(path, &lock_path))
        }
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
        _ => {
            let (path, holder) = (path.to_owned(), String::new());
            Err(SocketFileError::InUse { path, holder })
        }
    }
}

/// The error of a path whose lock another server holds.
fn in_use(path: &Path, lock: &Path) -> SocketFileError {
    let pid = fs::read_to_string(lock).unwrap_or_default();
    let pid = pid.trim().parse::<u32>().ok();
    let owner = fs::metadata(lock).map(|lock| lock.uid()).ok();
    let own = rustix::process::geteuid().as_raw();
    let holder = match (pid, owner) {
        (Some(pid), _) => format!(", process {pid},"),
        (None, Some(uid)) if uid != own => format!(" of the user {uid}"),
        (None, _) => String::new(),
    };
    let path = path.to_owned();
    SocketFileError::InUse { path, holder }
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

    /// Who may use it, for people.
    pub fn door(&self) -> String {
        match self.group {
            Some(group) => format!("{} (group {group})", self.path.display()),
            None => self.path.display().to_string(),
        }
    }

    /// What has become of it.
    pub fn state(&self) -> FileState {
        match identity(&self.path) {
            Ok(found) if found == self.identity => FileState::There,
            Err(error) if error.kind() == ErrorKind::NotFound => FileState::Gone,
            Ok(_) | Err(_) => FileState::Replaced,
        }
    }

    /// Makes it again where nothing is there any more. Fails if another server was faster.
    pub fn make_again(&mut self) -> Result<OwnedFd, SocketFileError> {
        // Whoever removed the one may have removed the other.
        if !self.lock.is_there() {
            self.lock = lock(&self.path)?;
        }
        let (socket, identity) = bind(&self.path)?;
        self.identity = identity;
        self.open(&socket)?;
        Ok(socket)
    }

    /// Lets clients connect.
    fn open(&self, socket: &OwnedFd) -> Result<(), SocketFileError> {
        let path = &self.path;
        let failed = |source| SocketFileError::Io {
            path: path.clone(),
            source,
        };
        // Nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(self.mode)).map_err(failed)?;
        if let Some(group) = self.group {
            std::os::unix::fs::chown(path, None, self.group).map_err(|source| {
                let path = path.clone();
                SocketFileError::Group {
                    path,
                    group,
                    source,
                }
            })?;
        }
        rustix::net::listen(socket, BACKLOG).map_err(|errno| failed(errno.into()))
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

impl Lock {
    /// Whether its file is there, and no other in its place.
    fn is_there(&self) -> bool {
        let held = self.file.metadata().map(|held| (held.dev(), held.ino()));
        let found = identity(&self.path);
        held.is_ok_and(|held| found.is_ok_and(|found| found == held))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // What somebody else has put there since is not ours.
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
