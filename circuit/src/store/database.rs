//! Opening a database file: making it whole or not at all, and looking for damage before anything
//! depends on it.
//!
//! **Invariants.** A database that exists under its name was complete when it got that name, so an
//! empty one is damage and not a new one. While a connection is open, nobody else in this process
//! opens its file: closing any descriptor of a file drops the process's locks on it (POSIX).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, OpenFlags};

use super::error::{Fault, OpenError};
use super::extent::{self, Extent, ExtentFile};
use super::schema::{self, Schema, Version};
use super::wal;

/// How many pages a write-ahead log may have before it is copied into its database: SQLite's own
/// default. Tests come by sooner.
const CHECKPOINT: u32 = if cfg!(test) { 50 } else { 1000 };

/// SQLite's default size of a page.
pub(super) const PAGE: u64 = 4096;

/// What distinguishes the two databases.
#[derive(Debug)]
pub(super) struct Kind {
    schema: &'static Schema,
    /// Whether its commits are flushed.
    pub(super) flushed: bool,
    /// What to do about damage without a copy.
    remedy: &'static str,
}

/// What must survive the host.
pub(super) static STORE: Kind = Kind {
    schema: &schema::STORE,
    flushed: true,
    remedy: "end the processes that this server had started, remove all files beside it that begin with \
             store. or running-, and begin with nothing kept",
};

/// What must survive the server.
pub(super) static RUNNING: Kind = Kind {
    schema: &schema::RUNNING,
    flushed: false,
    remedy: "end the processes that this server had started and remove it",
};

/// A database that is open.
#[derive(Debug)]
pub(super) struct Database {
    path: PathBuf,
    kind: &'static Kind,
    connection: Connection,
    extent: ExtentFile,
    /// How many frames of the log are in the database.
    copied: u32,
}

impl Database {
    /// Opens a database, or makes it if neither it nor one of these files beside it is there.
    pub(super) fn open_or_make(
        path: &Path,
        kind: &'static Kind,
        flush: bool,
        witnesses: &[&str],
    ) -> Result<Database, OpenError> {
        let there = |path: &Path| match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(OpenError::io(path)(error)),
        };
        if !there(path)? {
            for witness in witnesses {
                let witness = path.with_file_name(witness);
                if there(&witness)? {
                    let fault = format!("{} is there and it is missing", witness.display());
                    return Err(damaged(path, kind, fault));
                }
            }
            make(path, kind, flush)?;
        }
        Database::open(path, kind, flush)
    }

    /// Opens a database, checks all of it, and brings its tables up to date.
    pub(super) fn open(
        path: &Path,
        kind: &'static Kind,
        flush: bool,
    ) -> Result<Database, OpenError> {
        header(path)
            .map_err(OpenError::io(path))?
            .map_err(|fault| damaged(path, kind, fault))?;
        let (log, beside) = (suffixed(path, "-wal"), suffixed(path, "-extent"));
        let extent = extent::read(&beside).map_err(OpenError::io(&beside))?;
        let extent =
            extent.ok_or_else(|| damaged(&beside, kind, "it is not as it was written".into()))?;
        let checked = wal::check(&log, extent).map_err(OpenError::io(&log))?;
        checked.map_err(|fault| damaged(&log, kind, fault))?;
        let connection = connect(path, flush).map_err(|fault| refused(path, kind, fault, None))?;
        let mut database = Database {
            path: path.to_owned(),
            kind,
            connection,
            extent: ExtentFile::open(&beside, flush).map_err(OpenError::io(&beside))?,
            copied: 0,
        };
        database.check()?;
        database.set_extent();
        Ok(database)
    }

    fn check(&self) -> Result<(), OpenError> {
        let (connection, schema) = (&self.connection, self.kind.schema);
        let refuse = |fault: Fault| self.refuse(fault);
        let sql = |error: rusqlite::Error| self.refuse(error.into());
        if connection.is_readonly("main").map_err(sql)? {
            return Err(OpenError::io(&self.path)(
                io::ErrorKind::PermissionDenied.into(),
            ));
        }
        match schema.examine(connection).map_err(sql)? {
            Version::Known => (),
            Version::Newer(found) => {
                return Err(OpenError::Newer {
                    path: self.path.clone(),
                    found,
                    known: schema.version(),
                });
            }
            Version::Strange => return Err(refuse(Fault::Damaged("it is not ours".into()))),
        }
        let found: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(sql)?;
        if found != "ok" {
            // SQLite's text may have several lines.
            let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
            return Err(refuse(Fault::Damaged(found)));
        }
        schema.migrate(connection).map_err(sql)?;
        schema.compare(connection).map_err(refuse)
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The way to its tables.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Words a fault that keeps the store from opening.
    pub(super) fn refuse(&self, fault: Fault) -> OpenError {
        refused(&self.path, self.kind, fault, Some(&self.connection))
    }

    /// Makes changes in one transaction: all of them if this succeeds, else none.
    pub(super) fn transaction(
        &mut self,
        changes: impl FnOnce(&Connection) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let connection = &self.connection;
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let done = changes(connection)
            .and_then(|()| Ok(connection.prepare_cached("COMMIT")?.execute([]).map(drop)?));
        match &done {
            Ok(()) => self.set_extent(),
            Err(_) if !connection.is_autocommit() => {
                // The first error is the one to report.
                let _ = connection.execute_batch("ROLLBACK");
            }
            Err(_) => (),
        }
        done
    }

    /// Writes down how long the log is. Without that less damage is found, and nothing else fails.
    fn set_extent(&mut self) {
        let log = suffixed(&self.path, "-wal");
        if let Ok(frames @ 1..) = self.frames()
            && let Ok(salts) = wal::salts(&log)
        {
            let _ = self.extent.set(Extent { salts, frames });
        }
    }

    /// How many frames of the log are in use.
    fn frames(&self) -> rusqlite::Result<u32> {
        let (frames, _) = self.checkpoint(CheckpointMode::NOOP)?;
        // -1 where there is no log yet.
        Ok(u32::try_from(frames).unwrap_or_default())
    }

    fn checkpoint(&self, mode: CheckpointMode) -> rusqlite::Result<(i32, i32)> {
        self.connection.wal_checkpoint_v2(None::<&str>, mode)
    }

    /// Copies the log into the database once it is long enough, or at once. The log keeps its room,
    /// and is written again from its beginning.
    pub(super) fn tidy(&mut self, at_once: bool) -> Result<(), Fault> {
        let frames = self.frames()?;
        let new = match frames < self.copied {
            true => frames,
            false => frames - self.copied,
        };
        if new >= CHECKPOINT || at_once && new > 0 {
            self.checkpoint(CheckpointMode::PASSIVE)?;
            self.copied = frames;
        }
        Ok(())
    }

    /// Gives back the room that is free within the files, if it is at least this much.
    pub(super) fn shrink(&mut self, least: u64) -> Result<(), Fault> {
        let free = |database: &Database| {
            let sql = "PRAGMA freelist_count";
            let pages: i64 = database.connection.query_row(sql, [], |row| row.get(0))?;
            Ok::<u64, Fault>(pages.cast_unsigned())
        };
        let mut pages = free(self)?;
        if pages * PAGE < least {
            return Ok(());
        }
        // Little by little: what fits into SQLite's cache needs no room in the log.
        while pages > 0 {
            let connection = &self.connection;
            let mut vacuum = connection.prepare_cached("PRAGMA incremental_vacuum(100)")?;
            let mut steps = vacuum.query([])?;
            while steps.next()?.is_some() {}
            drop(steps);
            drop(vacuum);
            self.tidy(true)?;
            let before = std::mem::replace(&mut pages, free(self)?);
            if pages >= before {
                break;
            }
        }
        // The log gets shorter.
        if self.extent.erase().is_ok() {
            self.checkpoint(CheckpointMode::TRUNCATE)?;
            self.copied = 0;
        }
        Ok(())
    }

    /// Has what a failed transaction left in the log not taken for damage. Says whether that is done.
    pub(super) fn disown(&self) -> bool {
        let log = suffixed(&self.path, "-wal");
        self.frames()
            .is_ok_and(|frames| wal::disown(&log, frames).is_ok())
    }

    /// How many bytes its files have.
    pub(super) fn bytes(&self) -> u64 {
        let length = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
        length(&self.path) + length(&suffixed(&self.path, "-wal"))
    }
}

impl Drop for Database {
    /// The connection copies the log and removes it when it closes, unless the extent says still that there is
    /// one: the next start would take a log that is gone for damage.
    fn drop(&mut self) {
        if self.extent.erase().is_err() {
            let keep_log = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
            let _ = self.connection.set_db_config(keep_log, true);
        }
    }
}

/// Makes a database under another name, and renames it once it is complete.
fn make(path: &Path, kind: &'static Kind, flush: bool) -> Result<(), OpenError> {
    let draft = path.with_extension("draft");
    let drafts = [
        draft.clone(),
        suffixed(&draft, "-wal"),
        suffixed(&draft, "-journal"),
    ];
    for leftover in &drafts {
        match fs::remove_file(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::io(leftover)(error));
            }
            _ => (),
        }
    }
    let file = || {
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
    };
    file().map_err(OpenError::io(&draft))?;
    let fill = || {
        let connection = connect_to(&draft, flush)?;
        // Before the first page: room that is free can then be given back to the disk.
        connection.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
        log_ahead(&connection)?;
        kind.schema.migrate(&connection)?;
        connection.close().map_err(|(_, error)| Fault::from(error))
    };
    fill().map_err(|fault| refused(&draft, kind, fault, None))?;
    let rename = || {
        if flush {
            File::open(&draft)?.sync_all()?;
        }
        fs::rename(&draft, path)?;
        match path.parent() {
            Some(dir) if flush => File::open(dir)?.sync_all(),
            _ => Ok(()),
        }
    };
    rename().map_err(OpenError::io(path))
}

/// Looks at the first bytes of a file (<https://www.sqlite.org/fileformat2.html>, section 1.3).
/// SQLite would take an empty file for a new database, and leave the log of one out that does not
/// say that it has one.
fn header(path: &Path) -> io::Result<Result<(), String>> {
    let mut header = [0; 20];
    let mut file = File::open(path)?;
    Ok(match file.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err("it is shorter than its header".into())
        }
        Err(error) => return Err(error),
        Ok(()) if !header.starts_with(b"SQLite format 3\0") => Err("it is no database".into()),
        Ok(()) if header[18..] != [2, 2] => Err("it does not say that it has a log".into()),
        Ok(()) => Ok(()),
    })
}

/// Connects to a database that has a log.
fn connect(path: &Path, flush: bool) -> Result<Connection, Fault> {
    let connection = connect_to(path, flush)?;
    log_ahead(&connection)?;
    Ok(connection)
}

fn connect_to(path: &Path, flush: bool) -> Result<Connection, Fault> {
    // No locks of SQLite's own around a connection that one thread has.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // Exclusive: the log's index is in this process's memory, so there is no third file, and nobody
    // else keeps the log from being copied. Its checkpoints are ours, after the answers.
    let synchronous = if flush { "FULL" } else { "OFF" };
    connection.execute_batch(&format!(
        "PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA synchronous = {synchronous};
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA mmap_size = 0;"
    ))?;
    Ok(connection)
}

fn log_ahead(connection: &Connection) -> Result<(), Fault> {
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Damaged(format!("its journal is {mode}")));
    }
    connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
    Ok(())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(suffix);
    path.into()
}

fn damaged(path: &Path, kind: &Kind, fault: String) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        fault,
        remedy: kind.remedy,
    }
}

fn refused(path: &Path, kind: &Kind, fault: Fault, connection: Option<&Connection>) -> OpenError {
    match fault {
        Fault::Damaged(fault) => damaged(path, kind, fault),
        Fault::Sqlite(error) => {
            let fault = Fault::Sqlite(error);
            OpenError::Refused {
                path: path.to_owned(),
                reason: fault.reason(connection),
                full: fault.is_full(connection),
            }
        }
    }
}
