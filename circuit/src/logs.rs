//! Keeps the output of services and processes in files, for many readers.
//!
//! The element of a service, or of a process with `"Stdout": "log"`, opens a [`Log`], makes a pipe in
//! it for each stream of each instance ([`Log::pipe`]), hands the other end to the child, and says when
//! the instance is over ([`Pipe::end`]). The verb `logs` reads ([`Log::read`]). This part knows no
//! element, no supervisor and no wire form.
//!
//! ```text
//! child ─ FIFO ─▶ intake: one thread, epoll ─▶ queue, bounded ─▶ writer: one thread ─▶ segments
//!                                                                                        │
//!                                       Reader: lines, on a thread of a pool ◀───────────┘
//! ```
//!
//! A server has one [`Logs`]. Below its directory are `pipes/NAME`, the FIFOs, and
//! `kept/LOG/NUMBER`, the segments. A later life opens what it finds there: [`Logs::open`] goes on
//! with the numbers of a log, and [`Log::adopt`] with a pipe that a child still holds.
//!
//! A server that is killed loses the bytes that were read from pipes and not yet written: those of a
//! moment, or of the time for which the disk has hung, within the bounds of the queue. What is still
//! in the pipes stays there while anybody has them open.
//!
//! **Invariants:**
//! - The intake never waits for the disk. It leaves a child's pipe alone for [`queue::PATIENCE`] at
//!   most, so that a disk that keeps up loses nothing; after that it reads on, and what has waited
//!   longest is dropped.
//! - Bytes that are dropped are counted, and a record in their place says how many they were. For each
//!   log, bytes written plus bytes dropped is bytes read.
//! - A record is whole or is skipped: checksums cover its header, its place and its bytes.
//! - The only thread that waits for a disk that hangs is the writer, and each reader's own.
//! - Segments are never renamed and never truncated. Files have mode 0600, directories 0700.

mod cursor;
mod index;
mod intake;
mod lines;
mod log;
mod pipe;
mod queue;
mod reader;
mod record;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::runtime::READING;
use crate::runtime::descriptors::{Descriptors, Short, Taken, User};
use crate::runtime::pool::{Pool, PoolError};
use crate::runtime::task::Alarm;
use intake::Intake;
use queue::Queue;
use writer::{Disk, System};

pub use log::{Log, Stat};
pub use pipe::{Ended, Pipe};
pub use reader::Reader;

/// How many bytes a log may have unless its definition says otherwise.
pub const DEFAULT_BYTES: u64 = 16 << 20;

/// The FIFOs, below the directory of [`Logs`].
const PIPES: &str = "pipes";

/// The logs, below the directory of [`Logs`].
const KEPT: &str = "kept";

/// All logs of a server. Dropped, it is [closed](Logs::close).
#[derive(Debug)]
pub struct Logs {
    shared: Arc<Shared>,
    intake: Mutex<Option<JoinHandle<()>>>,
}

/// What the logs of a server share.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// How many bytes the files of all logs may have together.
    bound: u64,
    /// How many bytes they have.
    held: AtomicU64,
    next_id: AtomicU64,
    /// The logs that are open, by name.
    open: Mutex<BTreeMap<String, Arc<log::Inner>>>,
    queue: Arc<Queue>,
    intake: Arc<Intake>,
    descriptors: Arc<Descriptors>,
    /// The threads that read.
    pool: Arc<Pool>,
    /// For the segments that the writer has open, and what the intake needs itself.
    _taken: Taken,
}

/// Says which output bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The number of the slot: 0 for a process that is no service.
    pub slot: u16,
    /// The number of the instance in its slot.
    pub instance: u64,
    /// Which of its outputs.
    pub stream: Stream,
}

/// One of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Which lines a reader wants. The default is all that there is, and no waiting for more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Query {
    /// Only so many lines, the last ones; with `follow`, those that come later follow them.
    pub last: Option<u64>,
    /// Only lines that began at this time or later, by the wall clock that the server had then.
    pub since: Option<SystemTime>,
    /// Only one of the two outputs.
    pub stream: Option<Stream>,
    /// Only one slot.
    pub slot: Option<u16>,
    /// Waits for more at the end.
    pub follow: bool,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A line.
    Entry(Entry),
    /// Something is missing here.
    Lost(Lost),
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// When its first bytes were read, by the server's wall clock.
    pub time: SystemTime,
    /// Who wrote it.
    pub source: Source,
    /// Its bytes, without the line feed: 64 KiB at most.
    pub bytes: Vec<u8>,
    /// Whether a line feed followed. If not, this is a piece of a longer line, or the output ended, or
    /// something is missing behind it, or the rest was not yet written when the log was read.
    pub ended: bool,
}

/// Output that a reader does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Why.
    pub cause: Cause,
    /// How many bytes: of output if they were dropped, else of the log's files, which have a few more.
    pub bytes: u64,
    /// Who wrote them, and when the last of them were read, if it is known.
    pub from: Option<(Source, SystemTime)>,
}

/// Why output is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It was not kept: the disk was full, failed, or was slower than the output.
    Dropped,
    /// Its segment was deleted before this reader came to it: the log had its full size, or somebody
    /// deleted the file.
    Deleted,
    /// It is damaged: the host lost its power, the server was killed in the middle of a write, or
    /// somebody changed the file.
    Damaged,
}

/// Why something cannot be done to a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A name that is empty, begins with a dot, or has a slash.
    #[error("{0:?} cannot be the name of a log or of a pipe")]
    Name(String),
    /// The file system refuses.
    #[error("cannot use {}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// There are too few descriptors.
    #[error(transparent)]
    Short(#[from] Short),
    /// There is no thread to read on.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

impl LogError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> LogError {
        let path = path.to_owned();
        |source| LogError::Io { path, source }
    }
}

impl Logs {
    /// Makes the directory if it is not there, and starts the two threads. All logs together take at
    /// most `bound` bytes; a tenth of the disk if that is `None`. Blocks.
    ///
    /// The directory must be used by one server at a time.
    pub fn start(
        dir: &Path,
        bound: Option<u64>,
        alarm: &Alarm,
        descriptors: &Arc<Descriptors>,
    ) -> Result<Logs, LogError> {
        Logs::start_on(dir, bound, alarm, descriptors, Arc::new(System))
    }

    /// [`start`](Self::start), with another disk.
    fn start_on(
        dir: &Path,
        bound: Option<u64>,
        alarm: &Alarm,
        descriptors: &Arc<Descriptors>,
        disk: Arc<dyn Disk>,
    ) -> Result<Logs, LogError> {
        let taken = descriptors.take(User::Processes, writer::OPEN as u64 + 4)?;
        for dir in [dir, &dir.join(PIPES), &dir.join(KEPT)] {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(dir).map_err(LogError::io(dir))?;
        }
        let bound = match bound {
            Some(bound) => bound,
            None => tenth(dir).map_err(LogError::io(dir))?,
        };
        let queue = Arc::new(Queue::default());
        let intake = Intake::new(queue.clone(), disk.patience()).map_err(LogError::io(dir))?;
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            bound,
            held: AtomicU64::new(0),
            next_id: AtomicU64::new(0),
            open: Mutex::default(),
            queue,
            intake: Arc::new(intake),
            descriptors: descriptors.clone(),
            pool: Arc::new(Pool::new("logs being read", READING)),
            _taken: taken,
        });
        let logs = Logs {
            shared: shared.clone(),
            intake: Mutex::default(),
        };
        writer::spawn(&shared, disk, alarm).map_err(LogError::io(dir))?;
        let body = move || shared.intake.run();
        let intake = alarm.thread("log intake", body);
        *logs.intake.lock() = Some(intake.map_err(LogError::io(dir))?);
        Ok(logs)
    }

    /// Opens the log of this name, which is made if it is not there; with `bytes` as the bound of its
    /// files. Does not wait for the disk. A log that is open already is given once more, with the new
    /// bound.
    pub fn open(&self, name: &str, bytes: u64) -> Result<Log, LogError> {
        check_name(name)?;
        let mut open = self.shared.open.lock();
        let inner = open.entry(name.to_owned()).or_insert_with(|| {
            let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
            let dir = self.shared.dir.join(KEPT).join(name);
            let inner = Arc::new(log::Inner::new(id, name, dir));
            self.shared.queue.load(inner.clone());
            inner
        });
        let log = Log::new(self.shared.clone(), inner.clone());
        log.set_bytes(bytes);
        Ok(log)
    }

    /// The names of all logs that there are, those that former lives left among them: a server opens
    /// each of them at its start, so that the bound holds for all, and forgets those that nobody wants.
    /// Blocks.
    pub fn kept(&self) -> Result<Vec<String>, LogError> {
        names(&self.shared.dir.join(KEPT))
    }

    /// The names of all pipes that there are, those that former lives left among them. Blocks.
    pub fn pipes(&self) -> Result<Vec<String>, LogError> {
        names(&self.shared.dir.join(PIPES))
    }

    /// Removes a pipe that nobody reads, and that belongs to no log. Blocks.
    pub fn remove_pipe(&self, name: &str) -> Result<(), LogError> {
        let path = self.shared.pipe_path(name)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(LogError::io(&path)(error))
            }
            _ => Ok(()),
        }
    }

    /// How many bytes the files of all open logs have.
    #[cfg(test)]
    fn held(&self) -> u64 {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Ends the two threads and all readers. Pipes that have come to their end are read to it; the
    /// others stay for the next life, with what is in them. Blocks for a second at most, until the
    /// bytes that are on their way to the disk are there.
    pub fn close(&self) {
        self.shared.intake.stop();
        if let Some(intake) = self.intake.lock().take() {
            // It waits for nothing. If it panicked, the alarm was told.
            let _ = intake.join();
        }
        self.shared.queue.finish();
        for log in self.shared.open.lock().values() {
            log.close();
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    /// Where the FIFO of this name is.
    fn pipe_path(&self, name: &str) -> Result<PathBuf, LogError> {
        check_name(name)?;
        Ok(self.dir.join(PIPES).join(name))
    }
}

impl Query {
    /// Whether it asks for the lines of this output.
    fn wants(&self, source: &Source) -> bool {
        self.stream.is_none_or(|stream| stream == source.stream)
            && self.slot.is_none_or(|slot| slot == source.slot)
    }
}

fn check_name(name: &str) -> Result<(), LogError> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
        return Err(LogError::Name(name.to_owned()));
    }
    Ok(())
}

/// The names in a directory. Those that are no UTF-8 are not ours.
fn names(dir: &Path) -> Result<Vec<String>, LogError> {
    let name = |entry: io::Result<std::fs::DirEntry>| match entry {
        Ok(entry) => entry.file_name().into_string().ok().map(Ok),
        Err(error) => Some(Err(error)),
    };
    let entries = std::fs::read_dir(dir).map_err(LogError::io(dir))?;
    let mut names = entries
        .filter_map(name)
        .collect::<io::Result<Vec<_>>>()
        .map_err(LogError::io(dir))?;
    names.sort_unstable();
    Ok(names)
}

/// A tenth of the disk that a directory is on.
fn tenth(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_blocks.saturating_mul(disk.f_frsize) / 10)
}

/// The time now, as records have it: nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    // A clock before 1970 is wrong: records then begin with the epoch.
    since.map_or(0, |since| since.as_nanos().try_into().unwrap_or(u64::MAX))
}

/// The time that a record has.
fn time(nanoseconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(nanoseconds)
}

/// The operating system's words, in lower case and without the number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}
