//! The figures of a store, for `peek`, and the one line that the log has of a failure.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tracing::{error, info};

/// How a store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Health {
    /// How many bytes its databases have.
    pub(crate) bytes: u64,
    /// How many requests were written, of changes and of notes.
    pub(crate) writes: u64,
    /// In how many transactions.
    pub(crate) commits: u64,
    /// How many requests wait to be written.
    pub(crate) waiting: usize,
    /// How many notes are not written yet.
    pub(crate) unwritten: usize,
    /// Whether only what needs no room is recorded, until there is room again.
    pub(crate) short: bool,
    /// The last error, with its reason. `None` since the same database was last written.
    pub(crate) error: Option<String>,
}

/// What the two threads say of themselves. The index is the thread's.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    bytes: [AtomicU64; 2],
    writes: AtomicU64,
    commits: AtomicU64,
    errors: Mutex<[Option<String>; 2]>,
}

/// Which thread speaks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of {
    Changes,
    Notes,
}

impl Gauges {
    /// So many requests were written in one transaction.
    pub(super) fn wrote(&self, of: Of, requests: usize) {
        self.writes.fetch_add(requests as u64, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        if self.errors.lock()[of as usize].take().is_some() {
            info!("the store records again");
        }
    }

    /// A transaction failed. The log says so once, until one succeeds.
    pub(super) fn failed(&self, of: Of, error: String) {
        let before = self.errors.lock()[of as usize].replace(error.clone());
        if before.is_none() {
            error!("the store cannot record: {error}");
        }
    }

    /// The size of a database has changed.
    pub(super) fn measured(&self, of: Of, bytes: u64) {
        self.bytes[of as usize].store(bytes, Ordering::Relaxed);
    }

    /// The figures, with those that the caller has.
    pub(super) fn health(&self, waiting: usize, unwritten: usize, short: bool) -> Health {
        let bytes = self.bytes.iter().map(|one| one.load(Ordering::Relaxed));
        Health {
            bytes: bytes.sum(),
            writes: self.writes.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
            waiting,
            unwritten,
            short,
            error: self.errors.lock().iter().flatten().next().cloned(),
        }
    }
}
