//! One log: the handle that an element has, and what the threads know of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{Gid, Uid};
use std::os::fd::OwnedFd;
use tokio::sync::{oneshot, watch};

use super::index::Index;
use super::pipe::{self, Pipe};
use super::reader::Reader;
use super::{LogError, Query, Shared, Source};
use crate::runtime::descriptors::User;

/// The log of one service or process. Clones are equal; dropping them all changes nothing.
#[derive(Debug, Clone)]
pub struct Log {
    shared: Arc<Shared>,
    inner: Arc<Inner>,
}

/// What `peek` tells of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// How many bytes its files have.
    pub bytes: u64,
    /// How many bytes of output were dropped in this life of the server.
    pub dropped: u64,
    /// The last error of the disk, in words.
    pub error: Option<String>,
}

/// What the threads know of a log.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) dir: PathBuf,
    /// The bound.
    pub(super) bytes: AtomicU64,
    pub(super) index: Mutex<Index>,
    /// Tells readers that there is more.
    pub(super) news: watch::Sender<News>,
    /// Bytes of output that are in segments.
    pub(super) written: AtomicU64,
    /// Bytes of output that are not.
    pub(super) dropped: AtomicU64,
    pub(super) error: Mutex<Option<String>>,
    /// Nobody wants it any more: what still comes is thrown away.
    pub(super) forgotten: AtomicBool,
}

/// What a reader waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct News {
    /// Whether the writer has looked at the directory.
    pub(super) loaded: bool,
    /// How many bytes were written.
    pub(super) end: u64,
    /// Nothing will be written any more.
    pub(super) closed: bool,
}

impl Log {
    pub(super) fn new(shared: Arc<Shared>, inner: Arc<Inner>) -> Log {
        Log { shared, inner }
    }

    /// Makes a pipe of this name, which must be new, begins to read it into the log, and returns it
    /// with the child's end: blocking, closed on exec, open for reading and writing. `owner` is whom
    /// the file is to belong to, if the child runs as another user. Blocks while the directory's disk
    /// does.
    ///
    /// The pipe lasts until [`Pipe::end`]. If the [`Pipe`] is dropped without it, nobody reads the
    /// pipe any more, and its file stays for [`adopt`](Self::adopt) in the next life.
    pub fn pipe(
        &self,
        name: &str,
        source: Source,
        owner: Option<(Uid, Gid)>,
    ) -> Result<(Pipe, OwnedFd), LogError> {
        let path = self.shared.pipe_path(name)?;
        let taken = self.shared.descriptors.take(User::Processes, 1)?;
        let made = match pipe::make(&path, owner) {
            Err(error) if pipe::is_of_disk(&error) => {
                let path = path.display();
                tracing::warn!(
                    "{path} cannot be made, and the next life will not find it: {error}"
                );
                pipe::nameless(owner)
            }
            made => made,
        };
        let (ours, childs) = made.map_err(LogError::io(&path))?;
        let added = self
            .shared
            .intake
            .add(ours, taken, path.clone(), &self.inner, source);
        match added {
            Ok(pipe) => Ok((pipe, childs)),
            Err(error) => {
                // If this fails as well, the next life finds the pipe and removes it.
                let _ = std::fs::remove_file(&path);
                Err(LogError::io(&path)(error))
            }
        }
    }

    /// Goes on reading a pipe that a former life made; `None` if there is none of this name. Blocks
    /// while the directory's disk does.
    pub fn adopt(&self, name: &str, source: Source) -> Result<Option<Pipe>, LogError> {
        let path = self.shared.pipe_path(name)?;
        let taken = self.shared.descriptors.take(User::Processes, 1)?;
        let Some(ours) = pipe::open(&path).map_err(LogError::io(&path))? else {
            return Ok(None);
        };
        self.shared
            .intake
            .add(ours, taken, path.clone(), &self.inner, source)
            .map(Some)
            .map_err(LogError::io(&path))
    }

    /// Reads it. Fails if there are too few descriptors.
    pub fn read(&self, query: Query) -> Result<Reader, LogError> {
        let taken = self.shared.descriptors.take(User::Processes, 1)?;
        Ok(Reader::new(&self.shared, &self.inner, query, taken))
    }

    /// What `peek` tells.
    pub fn stat(&self) -> Stat {
        Stat {
            bytes: self.inner.index.lock().held(),
            dropped: self.inner.dropped.load(Ordering::Relaxed),
            error: self.inner.error.lock().clone(),
        }
    }

    /// How many bytes of output were put into segments in this life. With the dropped ones these are
    /// all that were read from its pipes, but for those that still wait.
    pub fn written(&self) -> u64 {
        self.inner.written.load(Ordering::Relaxed)
    }

    /// What the threads know of it.
    #[cfg(test)]
    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// Sets the bound of its files. Older segments are deleted when the next one begins.
    pub fn set_bytes(&self, bytes: u64) {
        self.inner.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Nothing will be written any more: those who follow it come to its end.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Removes the log with all its files. Readers come to their end, and output that still comes
    /// from its pipes is thrown away. Resolves when the files are gone; need not be waited for. Its
    /// name may be opened again at once, as a new log.
    pub fn forget(self) -> impl Future<Output = ()> + Send + 'static {
        let (tell, told) = oneshot::channel();
        let mut open = self.shared.open.lock();
        let is_open = open.get(&self.inner.name).map(|inner| inner.id);
        if is_open == Some(self.inner.id) {
            open.remove(&self.inner.name);
            self.inner.forgotten.store(true, Ordering::Relaxed);
            self.inner.close();
            self.shared.queue.forget(self.inner.clone(), tell);
        }
        // Dropped instead of told: it was forgotten before, or the writer has ended.
        async move { told.await.unwrap_or(()) }
    }
}

impl Inner {
    pub(super) fn new(id: u64, name: &str, dir: PathBuf) -> Inner {
        Inner {
            id,
            name: name.to_owned(),
            dir,
            bytes: AtomicU64::new(super::DEFAULT_BYTES),
            index: Mutex::default(),
            news: watch::Sender::default(),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            error: Mutex::default(),
            forgotten: AtomicBool::new(false),
        }
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Ends its readers.
    pub(super) fn close(&self) {
        self.news.send_modify(|news| news.closed = true);
    }
}
