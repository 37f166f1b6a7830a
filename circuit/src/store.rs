//! The store holds what a server keeps from one life to the next.
//!
//! The server opens it before it answers its first request, hands each of the two [`Writer`]s to a
//! supervised thread, and gives the [`Store`] to whatever must remember something. There are two
//! classes of writes, each in a database of its own (`docs/adr/0011-what-is-kept-is-in-sqlite.md`):
//!
//! - [`Store::write`] *changes* what must survive the host: services, what people want of them, and
//!   the generations of their slots. Its answer comes when the change is on the disk.
//! - [`Store::note`] *notes* what must survive the server only: which processes it has started, and
//!   how they are. Nobody waits for it, and a later note on the same thing takes the place of an
//!   earlier one that is not yet written.
//!
//! | file | what it is |
//! | --- | --- |
//! | `store.db`, `store.db-wal` | changes; each commit is flushed |
//! | `store.db-extent` | how long the log, `-wal`, was at least |
//! | `running-BOOT.db`, `…-wal`, `…-extent` | notes of this boot of the host; never flushed |
//! | `store.ballast` | room that is given up when the disk is full |
//! | `store.lock` | locked while a server uses the directory |
//!
//! The store knows nothing of the supervisor: it compares, starts and signals no process.
//!
//! **Invariants.** Nobody but the two threads touches the disk once the store is open. A change is
//! acknowledged after it was flushed, and changes take effect in the order in which `write` was
//! called. All SQL is below this directory. Nothing that is found damaged is replaced or left out:
//! the store then does not open.
//!
//! **Cancellation.** [`Flushed`] may be dropped at any time: the change is made all the same.

mod change;
mod database;
mod directory;
mod error;
mod extent;
mod flushed;
mod health;
mod record;
mod room;
mod row;
mod schema;
#[cfg(test)]
mod tests;
mod unflushed;
mod wal;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub(crate) use directory::Directory;
pub(crate) use error::{OpenError, WriteError};
pub(crate) use flushed::Flushed;
pub(crate) use health::Health;
pub(crate) use record::{Change, Contents, Definition, Identity, Instance, Intent, Note, Service};
#[cfg(test)]
pub(crate) use record::{Process, Slot};

use change::services;
use database::{Database, RUNNING, STORE};
use health::Gauges;
use room::Room;
use row::all;

/// A store that is open. Clones are the same store; once the last is dropped, the writers end.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    changes: Arc<flushed::Queue>,
    notes: Arc<unflushed::Notes>,
    gauges: Arc<Gauges>,
    room: Arc<Room>,
}

/// A store, with what was in it, and the work that keeps it going.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The way in.
    pub(crate) store: Store,
    /// All that was kept.
    pub(crate) contents: Contents,
    /// The work of two threads, which the caller starts and supervises.
    pub(crate) writers: [Writer; 2],
}

/// The work of one of the store's threads.
#[derive(Debug)]
pub(crate) struct Writer(Work);

#[derive(Debug)]
enum Work {
    Changes(flushed::Worker),
    Notes(unflushed::Worker),
}

impl Writer {
    /// The thread's name, for errors: "the store ended".
    pub(crate) fn name(&self) -> &'static str {
        match &self.0 {
            Work::Changes(_) => "store",
            Work::Notes(_) => "store of notes",
        }
    }

    /// Writes until the store is closed. Blocks: it is the body of a thread.
    pub(crate) fn run(self) -> io::Result<()> {
        match self.0 {
            Work::Changes(worker) => worker.run(),
            Work::Notes(worker) => worker.run(),
        }
        Ok(())
    }
}

impl Store {
    /// Opens the store in a directory, makes it if it is not there, checks it, and reads all of it.
    ///
    /// `boot` is the kernel's id of this boot (`/proc/sys/kernel/random/boot_id`): notes of another
    /// boot are removed, as their processes are gone. Blocks, for as long as the disk takes.
    ///
    /// # Errors
    ///
    /// One line that names the file: it is damaged, was written by a later version, or cannot be
    /// used.
    pub(crate) fn open(directory: Arc<Directory>, boot: &str) -> Result<Opened, OpenError> {
        let room = Arc::new(Room::new(directory.path(), directory.ballast()));
        let opened = databases(&directory, boot);
        let (changes, notes) = match opened {
            // The ballast is there for this: a server starts on a full disk.
            Err(error) if error.is_full() => {
                room.cut();
                databases(&directory, boot)?
            }
            other => other?,
        };
        let contents = read(&changes, &notes)?;
        room.restore();
        let gauges = Arc::new(Gauges::default());
        let queue = Arc::new(flushed::Queue::default());
        let pending = Arc::new(unflushed::Notes::new(&contents));
        let writers = [
            Writer(Work::Changes(flushed::Worker::new(
                changes,
                queue.clone(),
                room.clone(),
                gauges.clone(),
                directory.clone(),
            ))),
            Writer(Work::Notes(unflushed::Worker::new(
                notes,
                pending.clone(),
                queue.clone(),
                room.clone(),
                gauges.clone(),
                directory,
            ))),
        ];
        let store = Store(Arc::new(Inner {
            changes: queue,
            notes: pending,
            gauges,
            room,
        }));
        Ok(Opened {
            store,
            contents,
            writers,
        })
    }

    /// Changes what is kept. All the changes of one call are made, or none of them.
    ///
    /// The place in the order is taken at once; the answer can be waited for, and need not be.
    pub(crate) fn write(&self, changes: Vec<Change>) -> Flushed {
        self.0.changes.push(changes)
    }

    /// Notes something that need not survive the host. Returns at once, and cannot fail: what cannot
    /// be written is tried again until it can, or a later note takes its place.
    pub(crate) fn note(&self, note: Note) {
        self.0.notes.push(note);
    }

    /// Figures and the last error, for `peek`. Does not touch the disk.
    pub(crate) fn health(&self) -> Health {
        let (changes, notes) = (self.0.changes.len(), self.0.notes.len());
        self.0.gauges.health(changes, notes, self.0.room.is_short())
    }

    /// Has the writers write what waits, close their files, and end. Later writes are refused.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}

impl Inner {
    fn close(&self) {
        self.changes.close();
        self.notes.close();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

impl Directory {
    /// Reads what an earlier server has left here. Changes nothing but the journals of the databases,
    /// and leaves out notes of other boots than `boot`. A directory in which no store was made is
    /// empty.
    pub(crate) fn read(&self, boot: &str) -> Result<Contents, OpenError> {
        let mut contents = Contents::default();
        if let Some(changes) = self.database(&STORE, "store.db")? {
            contents.services =
                services(changes.connection()).map_err(|fault| changes.refuse(fault))?;
            contents.slots = all(changes.connection()).map_err(|fault| changes.refuse(fault))?;
        }
        if let Some(notes) = self.database(&RUNNING, &directory::running(boot)?)? {
            contents.instances = all(notes.connection()).map_err(|fault| notes.refuse(fault))?;
            contents.processes = all(notes.connection()).map_err(|fault| notes.refuse(fault))?;
        }
        Ok(contents)
    }

    fn database(
        &self,
        kind: &'static database::Kind,
        name: &str,
    ) -> Result<Option<Database>, OpenError> {
        let path = self.path().join(name);
        match path.try_exists().map_err(OpenError::io(&path))? {
            true => Database::open(&path, kind, self.flush(kind)).map(Some),
            false => Ok(None),
        }
    }

    fn flush(&self, kind: &database::Kind) -> bool {
        kind.flushed && !self.is_private()
    }
}

fn databases(directory: &Directory, boot: &str) -> Result<(Database, Database), OpenError> {
    let running = directory::running(boot)?;
    directory.remove_notes_but(&running)?;
    let open = |kind, name: &str, witnesses: &[&str]| {
        let path: &Path = &directory.path().join(name);
        Database::open_or_make(path, kind, directory.flush(kind), witnesses)
    };
    let changes = open(&STORE, "store.db", &["store.db-wal", room::BALLAST])?;
    let notes = open(&RUNNING, &running, &[&format!("{running}-wal")])?;
    Ok((changes, notes))
}

fn read(changes: &Database, notes: &Database) -> Result<Contents, OpenError> {
    let in_changes = |fault| changes.refuse(fault);
    let in_notes = |fault| notes.refuse(fault);
    Ok(Contents {
        services: services(changes.connection()).map_err(in_changes)?,
        slots: all(changes.connection()).map_err(in_changes)?,
        instances: all(notes.connection()).map_err(in_notes)?,
        processes: all(notes.connection()).map_err(in_notes)?,
    })
}
