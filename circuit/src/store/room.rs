//! The ballast: a file that takes room, to be cut when the disk is full.
//!
//! What frees room or stops a service must be recorded on a full disk, too. The ballast keeps the
//! room for it. From the cut on until the ballast is back, the store is *short*: it refuses
//! whatever needs more room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use super::error::is_full;

/// The ballast's name.
pub(super) const BALLAST: &str = "store.ballast";

/// The room of one state directory, shared by the threads that write there.
#[derive(Debug)]
pub(super) struct Room {
    ballast: PathBuf,
    /// How many bytes the ballast has. 0: there is none.
    size: u64,
    short: AtomicBool,
    /// One thread at a time changes the file.
    changes: Mutex<()>,
}

impl Room {
    /// The room of a directory. Touches nothing yet.
    pub(super) fn new(dir: &Path, size: u64) -> Room {
        Room {
            ballast: dir.join(BALLAST),
            size,
            short: AtomicBool::new(false),
            changes: Mutex::new(()),
        }
    }

    /// Whether there is no room for what grows.
    pub(super) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// How much room there must be for the ballast to come back: for it, and as much again.
    pub(super) fn wanted(&self) -> u64 {
        2 * self.size.max(super::database::PAGE)
    }

    /// Gives the ballast's room to whoever writes next.
    pub(super) fn cut(&self) {
        let _changing = self.changes.lock();
        self.short.store(true, Ordering::Relaxed);
        if self.size > 0
            && let Ok(ballast) = OpenOptions::new().write(true).open(&self.ballast)
        {
            // What cannot be cut gives no room, and the next write says so.
            let _ = ballast.set_len(0);
        }
    }

    /// Puts the ballast in its place if it is not there and there is room for it. Says whether there
    /// is room now.
    pub(super) fn restore(&self) -> bool {
        let _changing = self.changes.lock();
        let is_there = |found: fs::Metadata| {
            // The unit of `blocks` is 512 bytes (stat(2)).
            found.len() == self.size && found.blocks() * 512 >= self.size
        };
        let is_whole = fs::metadata(&self.ballast).is_ok_and(is_there);
        let has_room = match is_whole || self.size == 0 {
            true => !self.is_short() || self.has(self.wanted()),
            false => {
                self.has(self.wanted())
                    && match self.fill() {
                        Ok(()) => true,
                        // A ballast that cannot be had for another reason does not say that there is no room.
                        Err(error) => !is_full(&error),
                    }
            }
        };
        self.short.store(!has_room, Ordering::Relaxed);
        has_room
    }

    fn has(&self, bytes: u64) -> bool {
        let dir = self.ballast.parent().unwrap_or(&self.ballast);
        match rustix::fs::statvfs(dir) {
            Ok(found) => found.f_bavail.saturating_mul(found.f_frsize) >= bytes,
            // Whoever writes next learns whether there is.
            Err(_) => true,
        }
    }

    fn fill(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&self.ballast)?;
        let filled = self.allocate(&mut file).and_then(|()| file.sync_all());
        if filled.is_err() {
            // Half a ballast is none.
            let _ = file.set_len(0);
        }
        filled
    }

    fn allocate(&self, file: &mut File) -> io::Result<()> {
        use rustix::io::Errno;
        match rustix::fs::fallocate(&*file, FallocateFlags::empty(), 0, self.size) {
            Ok(()) => Ok(()),
            // Not every file system can.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = [0; 65536];
                let mut left = self.size;
                while left > 0 {
                    let some = left.min(zeros.len() as u64);
                    // It is at most the length of the array.
                    file.write_all(&zeros[..some as usize])?;
                    left -= some;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
