//! The notes: the latest on each thing, and the thread that writes them down.
//!
//! **Invariant:** what waits is bounded by the number of things there are: a note takes the place of
//! an earlier one on the same thing, and a thing that has come and gone before it was written leaves
//! nothing. So a disk that hangs or is full costs little memory, and no caller ever waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::change::{Key, Latest, note};
use super::database::Database;
use super::directory::Directory;
use super::error::Fault;
use super::flushed::Queue;
use super::health::{Gauges, Of};
use super::record::{Contents, Note};
use super::room::Room;

/// How long the thread rests after a failure. Chosen, not measured.
const RETRY: Duration = Duration::from_secs(1);

/// The notes that are not written yet.
#[derive(Debug)]
pub(super) struct Notes {
    pending: Mutex<Pending>,
    wake: Condvar,
    #[cfg(test)]
    settled: Condvar,
}

#[derive(Debug, Default)]
struct Pending {
    latest: BTreeMap<Key, Latest>,
    /// The things of which there is a row, or of which one is being written.
    rows: BTreeSet<Key>,
    writing: bool,
    closed: bool,
}

impl Notes {
    /// Nothing waits, and these rows are there.
    pub(super) fn new(contents: &Contents) -> Notes {
        let instances = contents.instances.iter().map(Key::of_instance);
        let processes = contents.processes.iter().map(Key::of_process);
        let pending = Pending {
            rows: instances.chain(processes).collect(),
            ..Pending::default()
        };
        Notes {
            pending: Mutex::new(pending),
            wake: Condvar::new(),
            #[cfg(test)]
            settled: Condvar::new(),
        }
    }

    pub(super) fn push(&self, note: Note) {
        let (key, latest) = note.split();
        let mut pending = self.pending.lock();
        if pending.closed {
            return;
        }
        match latest.is_none() && !pending.rows.contains(&key) {
            true => drop(pending.latest.remove(&key)),
            false => drop(pending.latest.insert(key, latest)),
        }
        drop(pending);
        self.wake.notify_one();
    }

    pub(super) fn len(&self) -> usize {
        self.pending.lock().latest.len()
    }

    pub(super) fn close(&self) {
        self.pending.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits until all notes are in the hands of the kernel.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let mut pending = self.pending.lock();
        while !pending.latest.is_empty() || pending.writing {
            self.settled.wait(&mut pending);
        }
    }

    /// All that waits. `None` once the notes are closed and written.
    fn take(&self) -> Option<BTreeMap<Key, Latest>> {
        let mut pending = self.pending.lock();
        while pending.latest.is_empty() {
            if pending.closed {
                return None;
            }
            self.wake.wait(&mut pending);
        }
        let taken = std::mem::take(&mut pending.latest);
        pending.rows.extend(taken.keys().cloned());
        pending.writing = true;
        Some(taken)
    }

    fn written(&self, notes: BTreeMap<Key, Latest>) {
        let mut pending = self.pending.lock();
        for (key, latest) in notes {
            if latest.is_none() {
                pending.rows.remove(&key);
            }
        }
        self.wrote(pending);
    }

    /// Has notes that were not written wait again, where there is no later one. Says whether they
    /// are to be tried again; waits for a moment first.
    fn give_back(&self, notes: BTreeMap<Key, Latest>) -> bool {
        let mut pending = self.pending.lock();
        for (key, latest) in notes {
            pending.latest.entry(key).or_insert(latest);
        }
        pending.writing = false;
        if !pending.closed {
            let until = std::time::Instant::now() + RETRY;
            while !pending.closed && !self.wake.wait_until(&mut pending, until).timed_out() {}
            return true;
        }
        pending.latest.clear();
        self.wrote(pending);
        false
    }

    fn wrote(&self, mut pending: parking_lot::MutexGuard<'_, Pending>) {
        pending.writing = false;
        #[cfg(test)]
        self.settled.notify_all();
    }
}

/// The work of the thread.
#[derive(Debug)]
pub(super) struct Worker {
    database: Database,
    notes: Arc<Notes>,
    /// Those of the other thread, which looks whether there is room again.
    changes: Arc<Queue>,
    room: Arc<Room>,
    gauges: Arc<Gauges>,
    _directory: Arc<Directory>,
}

impl Worker {
    pub(super) fn new(
        database: Database,
        notes: Arc<Notes>,
        changes: Arc<Queue>,
        room: Arc<Room>,
        gauges: Arc<Gauges>,
        directory: Arc<Directory>,
    ) -> Worker {
        gauges.measured(Of::Notes, database.bytes());
        Worker {
            database,
            notes,
            changes,
            room,
            gauges,
            _directory: directory,
        }
    }

    pub(super) fn run(mut self) {
        while let Some(notes) = self.notes.take() {
            match self.write(&notes) {
                Ok(()) => {
                    self.gauges.wrote(Of::Notes, notes.len());
                    self.notes.written(notes);
                    if let Err(fault) = self.database.tidy(false) {
                        if fault.is_full(Some(self.database.connection())) {
                            self.cut();
                        }
                        self.fail(&fault);
                    }
                }
                Err(fault) => {
                    self.fail(&fault);
                    if !self.notes.give_back(notes) {
                        break;
                    }
                }
            }
            self.gauges.measured(Of::Notes, self.database.bytes());
        }
    }

    fn write(&mut self, notes: &BTreeMap<Key, Latest>) -> Result<(), Fault> {
        let outcome = self.attempt(notes);
        match &outcome {
            Err(fault) if fault.is_full(Some(self.database.connection())) => {
                self.cut();
                self.attempt(notes)
            }
            _ => outcome,
        }
    }

    fn attempt(&mut self, notes: &BTreeMap<Key, Latest>) -> Result<(), Fault> {
        self.database.transaction(|connection| {
            for (key, latest) in notes {
                note(connection, key, latest)?;
            }
            Ok(())
        })
    }

    fn cut(&self) {
        self.room.cut();
        self.changes.look();
    }

    fn fail(&self, fault: &Fault) {
        let reason = fault.reason(Some(self.database.connection()));
        let path = self.database.path().display();
        self.gauges
            .failed(Of::Notes, format!("cannot record it in {path}: {reason}"));
    }
}
