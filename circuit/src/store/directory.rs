//! The directory that a store is in, and its lock.
//!
//! A server that was given a state directory keeps it. Any other has a private one in the runtime
//! directory, named by its pid and a random number (every pid is 1 in a container), and removes it at
//! an orderly end. What a server that was killed has left in its private directory tells the next
//! server of that user what to end.
//!
//! **Invariants.** One server at a time uses a directory, and it is locked for as long as one of the
//! store's threads runs. A private directory that is not locked is a leftover.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::OpenError;

/// How long the lock is waited for: a process that the last server was about to start holds it until
/// it is executed, and a killed server until the kernel has taken it apart.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How often the lock is tried meanwhile. Chosen, not measured.
const LOCK_EVERY: Duration = Duration::from_millis(20);

/// How big the ballast is. Chosen, not measured: a record of a service takes a page or two, so this
/// is room for a few thousand of them, and for a log that is full.
const BALLAST: u64 = 16 << 20;

const LOCK: &str = "store.lock";

/// How the names of private directories begin.
const PRIVATE: &str = "state-";

/// How the names of the files begin that are kept for ever.
const STORE: &str = "store.";

/// How the names of the databases of notes begin.
const NOTES: &str = "running-";

/// A directory that this process has locked.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    is_private: bool,
    ballast: u64,
    _lock: File,
}

impl Directory {
    /// Locks a state directory, which must be there. Blocks for up to five seconds while it is
    /// locked by another process.
    pub(crate) fn kept(path: &Path) -> Result<Directory, OpenError> {
        Directory::within(path, LOCK_WAIT)
    }

    pub(super) fn within(path: &Path, wait: Duration) -> Result<Directory, OpenError> {
        let file = path.join(LOCK);
        let lock = lock_file(path).map_err(OpenError::io(&file))?;
        let begin = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(source)) => return Err(OpenError::io(&file)(source)),
                Err(TryLockError::WouldBlock) if begin.elapsed() < wait => {
                    std::thread::sleep(LOCK_EVERY);
                }
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(path.to_owned())),
            }
        }
        Ok(Directory {
            path: path.to_owned(),
            is_private: false,
            ballast: BALLAST,
            _lock: lock,
        })
    }

    /// Makes a private directory in this one.
    pub(crate) fn private(runtime: &Path) -> Result<Directory, OpenError> {
        loop {
            let mut random = [0; 4];
            // Without random numbers a server has no identity either.
            getrandom::fill(&mut random).map_err(|error| OpenError::Io {
                path: runtime.to_owned(),
                source: io::Error::other(error.to_string()),
            })?;
            let (pid, random) = (std::process::id(), u32::from_ne_bytes(random));
            let path = runtime.join(format!("{PRIVATE}{pid}-{random:08x}"));
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                other => other.map_err(OpenError::io(&path))?,
            }
            // Another server may take the new directory for a leftover, until it is locked.
            if let Some(directory) = take(&path)? {
                return Ok(directory);
            }
        }
    }

    /// Whether anything is kept in a state directory, or was meant to be: then it is to be opened, so that
    /// whatever is damaged, missing or unreadable is told.
    pub(crate) fn is_used(path: &Path) -> Result<bool, OpenError> {
        let failed = OpenError::io(path);
        for entry in fs::read_dir(path).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name();
            let bytes = name.as_encoded_bytes();
            let is_ours = [STORE, NOTES]
                .iter()
                .any(|ours| bytes.starts_with(ours.as_bytes()));
            if is_ours && bytes != LOCK.as_bytes() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The private directories in this one that servers of this user have left behind when they were
    /// killed, and why others cannot be looked at. They are locked, so no other server deals with them.
    pub(crate) fn abandoned(runtime: &Path) -> (Vec<Directory>, Vec<OpenError>) {
        let (mut abandoned, mut errors) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(runtime) {
            Ok(entries) => entries,
            Err(error) => return (abandoned, vec![OpenError::io(runtime)(error)]),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    errors.push(OpenError::io(runtime)(error));
                    break;
                }
            };
            let own = |found: fs::Metadata| {
                found.is_dir() && found.uid() == rustix::process::geteuid().as_raw()
            };
            // `metadata` of an entry follows no link.
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(PRIVATE.as_bytes())
                && entry.metadata().is_ok_and(own)
            {
                match take(&entry.path()) {
                    Ok(taken) => abandoned.extend(taken),
                    Err(error) => errors.push(error),
                }
            }
        }
        abandoned.sort_by(|one, other| one.path.cmp(&other.path));
        (abandoned, errors)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes a private directory with all that is in it. One that is kept stays.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match self.is_private {
            true => fs::remove_dir_all(&self.path),
            false => Ok(()),
        }
    }

    /// Whether it is to be forgotten with its server. Then nothing in it needs to survive the host.
    pub(super) fn is_private(&self) -> bool {
        self.is_private
    }

    /// How big the ballast is: the runtime directory may be in memory, where room is dear.
    pub(super) fn ballast(&self) -> u64 {
        match self.is_private {
            true => 0,
            false => self.ballast,
        }
    }

    /// Has a smaller ballast, for tests on a small disk.
    #[cfg(test)]
    pub(super) fn with_ballast(self, ballast: u64) -> Directory {
        Directory { ballast, ..self }
    }

    /// Removes the notes of other boots: their processes are gone.
    pub(super) fn remove_notes_but(&self, running: &str) -> Result<(), OpenError> {
        let failed = OpenError::io(&self.path);
        for entry in fs::read_dir(&self.path).map_err(&failed)? {
            let name = entry.map_err(&failed)?.file_name();
            let bytes = name.as_encoded_bytes();
            if bytes.starts_with(NOTES.as_bytes()) && !bytes.starts_with(running.as_bytes()) {
                let path = self.path.join(&name);
                fs::remove_file(&path).map_err(OpenError::io(&path))?;
            }
        }
        Ok(())
    }
}

/// The name of the database of notes of a boot.
pub(super) fn running(boot: &str) -> Result<String, OpenError> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    match !boot.is_empty() && boot.len() <= 64 && boot.chars().all(fits) {
        true => Ok(format!("{NOTES}{boot}.db")),
        false => Err(OpenError::NoBoot(boot.to_owned())),
    }
}

fn lock_file(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(dir.join(LOCK))
}

/// Locks a private directory. `None` if another process has it locked, or has removed it meanwhile.
fn take(path: &Path) -> Result<Option<Directory>, OpenError> {
    let file = path.join(LOCK);
    let failed = OpenError::io(&file);
    let lock = match lock_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.map_err(&failed)?,
    };
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
        Ok(()) => (),
    }
    let inode = |found: fs::Metadata| (found.dev(), found.ino());
    let locked = lock.metadata().map(inode).map_err(&failed)?;
    match fs::metadata(&file).map(inode) {
        Ok(found) if found == locked => Ok(Some(Directory {
            path: path.to_owned(),
            is_private: true,
            ballast: 0,
            _lock: lock,
        })),
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(None),
    }
}
