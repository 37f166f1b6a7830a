//! Why a store does not open, and why a change was not made.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// A directory or file cannot be used.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// Another server has it.
    #[error("{} is in use by another server: give each server a directory of its own", .0.display())]
    InUse(PathBuf),
    /// A file is not as it was written.
    #[error("{} is damaged ({fault}): restore it from a copy, or {remedy}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        fault: String,
        /// What to do without a copy.
        remedy: &'static str,
    },
    /// A later version of this program wrote it.
    #[error(
        "{} was written by a later version of circuit (format {found}, this one reads up to {known}): \
         start that version, or give this one a directory of its own", .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest that this program knows.
        known: i64,
    },
    /// The database does not do what it is asked.
    #[error("cannot use {}: {reason}", .path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// SQLite's reason, or the system's.
        reason: String,
        /// Whether it is that the disk is full.
        full: bool,
    },
    /// The caller's id of this boot is none.
    #[error("{0:?} is no id of a boot")]
    NoBoot(String),
}

impl OpenError {
    /// Whether more room on the disk would help.
    pub(super) fn is_full(&self) -> bool {
        match self {
            OpenError::Io { source, .. } => is_full(source),
            OpenError::Refused { full, .. } => *full,
            _ => false,
        }
    }

    pub(super) fn io(path: &Path) -> impl Fn(io::Error) -> OpenError {
        let path = path.to_owned();
        move |source| OpenError::Io {
            path: path.clone(),
            source,
        }
    }
}

/// Why a change was not made, or is not known to be on the disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// There is no room.
    #[error(
        "the disk is full, or nearly: until there is room again, only what needs none is recorded"
    )]
    Full,
    /// Too much waits for the disk.
    #[error("too busy: {0} changes wait for the disk")]
    Busy(usize),
    /// A change to a service that is not kept.
    #[error("{0} is not recorded")]
    Missing(String),
    /// The disk, or what is on it, failed. After a restart the change may be there.
    #[error("cannot record it in {}: {reason}", .path.display())]
    Failed {
        /// The database.
        path: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The store is closed, or its thread has ended.
    #[error("the store is closed")]
    Closed,
}

/// What goes wrong with a database, before it is known what that means to whom.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database's own error.
    Sqlite(rusqlite::Error),
    /// What was read is not what was written.
    Damaged(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        match code(&error) {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Fault::Damaged(text(&error))
            }
            _ => Fault::Sqlite(error),
        }
    }
}

impl Fault {
    /// Whether it is that the disk, or the user's part of it, is full.
    pub(super) fn is_full(&self, connection: Option<&Connection>) -> bool {
        match self {
            Fault::Sqlite(error) => match code(error) {
                Some(ErrorCode::DiskFull) => true,
                Some(ErrorCode::SystemIoFailure) => connection
                    .and_then(system)
                    .is_some_and(|error| is_full(&error)),
                _ => false,
            },
            Fault::Damaged(_) => false,
        }
    }

    /// The reason as the system gave it, where it did.
    pub(super) fn reason(&self, connection: Option<&Connection>) -> String {
        let error = match self {
            Fault::Damaged(fault) => return format!("it is damaged ({fault})"),
            Fault::Sqlite(error) => error,
        };
        let from_system = match code(error) {
            Some(ErrorCode::DiskFull) => Some(rustix::io::Errno::NOSPC.into()),
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => connection.and_then(system),
            _ => None,
        };
        from_system.map_or_else(|| text(error), |reason| reason.to_string())
    }
}

fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    error.sqlite_error_code()
}

fn text(error: &rusqlite::Error) -> String {
    // SQLite's own texts have no source: nothing is left out, and nothing comes twice.
    error.to_string()
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// The error of the last system call that failed under a connection.
#[expect(
    unsafe_code,
    reason = "rusqlite has no safe way to sqlite3_system_errno"
)]
fn system(connection: &Connection) -> Option<io::Error> {
    // SAFETY: the handle is that of an open connection, which the reference keeps open, and the
    // function only reads a number from it.
    let number = unsafe { rusqlite::ffi::sqlite3_system_errno(connection.handle()) };
    (number != 0).then(|| io::Error::from_raw_os_error(number))
}
