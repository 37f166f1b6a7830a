//! The tables of each database, and how an older database becomes a present one.
//!
//! A database says in `user_version` how many steps it has gone. A later kind of record is a step
//! that adds a table, and a changed one is a step that changes its table: no step is ever edited.
//!
//! Definitions have a table of their own, so that a change of an intent writes a few bytes, which
//! must find room on a full disk, and not a definition of up to 1 MiB.

use rusqlite::Connection;

use super::error::Fault;

/// The steps of one database. Each is SQL.
#[derive(Debug)]
pub(super) struct Schema {
    /// Says in the file's header that it is ours, and which.
    pub(super) application: i32,
    /// From nothing to the present tables.
    pub(super) steps: &'static [&'static str],
}

/// What is flushed.
pub(super) static STORE: Schema = Schema {
    application: i32::from_be_bytes(*b"CirS"),
    steps: &["
        CREATE TABLE services (
            path TEXT PRIMARY KEY,
            id INTEGER NOT NULL,
            intent TEXT NOT NULL,
            generation INTEGER NOT NULL,
            state TEXT NOT NULL,
            sum INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE definitions (
            path TEXT NOT NULL,
            generation INTEGER NOT NULL,
            text TEXT NOT NULL,
            looked_up TEXT NOT NULL,
            sum INTEGER NOT NULL,
            PRIMARY KEY (path, generation)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE slots (
            service INTEGER NOT NULL,
            slot INTEGER NOT NULL,
            state TEXT NOT NULL,
            sum INTEGER NOT NULL,
            PRIMARY KEY (service, slot)
        ) STRICT, WITHOUT ROWID;
    "],
};

/// What is not flushed.
pub(super) static RUNNING: Schema = Schema {
    application: i32::from_be_bytes(*b"CirR"),
    steps: &["
        CREATE TABLE instances (
            service INTEGER NOT NULL,
            slot INTEGER NOT NULL,
            number INTEGER NOT NULL,
            mark TEXT NOT NULL,
            boot TEXT,
            pid_namespace INTEGER,
            pid INTEGER,
            start INTEGER,
            cgroup TEXT,
            generation INTEGER NOT NULL,
            state TEXT NOT NULL,
            sum INTEGER NOT NULL,
            PRIMARY KEY (service, slot, number)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE processes (
            path TEXT PRIMARY KEY,
            mark TEXT NOT NULL,
            boot TEXT,
            pid_namespace INTEGER,
            pid INTEGER,
            start INTEGER,
            sum INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
    "],
};

/// What a database is, by its header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// This version's, or an older one's that can be migrated.
    Known,
    /// A later version's.
    Newer(i64),
    /// None of ours.
    Strange,
}

impl Schema {
    /// How many steps there are.
    pub(super) fn version(&self) -> i64 {
        // There will never be 2^63 of them.
        self.steps.len() as i64
    }

    /// Looks at the header of a database.
    pub(super) fn examine(&self, connection: &Connection) -> rusqlite::Result<Version> {
        let read = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let (application, version) = (read("application_id")?, read("user_version")?);
        Ok(match version {
            _ if application != i64::from(self.application) => Version::Strange,
            version if version > self.version() => Version::Newer(version),
            version if version < 1 => Version::Strange,
            _ => Version::Known,
        })
    }

    /// Takes the steps that a database has not taken, in one transaction. Leaves one that has taken
    /// all of them as it is.
    pub(super) fn migrate(&self, connection: &Connection) -> rusqlite::Result<()> {
        let version = "user_version";
        let taken: i64 = connection.pragma_query_value(None, version, |row| row.get(0))?;
        if taken == self.version() {
            return Ok(());
        }
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let steps = usize::try_from(taken).unwrap_or_default();
        let migrated = (|| {
            for step in &self.steps[steps..] {
                connection.execute_batch(step)?;
            }
            connection.pragma_update(None, "application_id", self.application)?;
            connection.pragma_update(None, version, self.version())?;
            connection.execute_batch("COMMIT")
        })();
        if migrated.is_err() && !connection.is_autocommit() {
            // The first error is the one to report.
            let _ = connection.execute_batch("ROLLBACK");
        }
        migrated
    }

    /// Compares the tables with those that the steps make: a letter of a table's definition that has
    /// become another one is damage, too.
    pub(super) fn compare(&self, connection: &Connection) -> Result<(), Fault> {
        let expected = Connection::open_in_memory()?;
        self.migrate(&expected)?;
        match tables(connection)? == tables(&expected)? {
            true => Ok(()),
            false => Err(Fault::Damaged(
                "its tables are not as they were made".into(),
            )),
        }
    }
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<[Option<String>; 4]>> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
    })?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(schema: &Schema) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        schema.migrate(&connection).unwrap();
        connection
    }

    /// The steps, and one of a later version.
    fn later() -> Schema {
        let next = "
            ALTER TABLE slots ADD COLUMN note TEXT;
            CREATE TABLE leases (path TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;";
        Schema {
            application: STORE.application,
            steps: vec![STORE.steps[0], next].leak(),
        }
    }

    #[test]
    fn an_older_database_is_migrated() {
        let connection = made(&STORE);
        assert_eq!(STORE.version(), 1);
        let kept = "INSERT INTO slots VALUES (1, 2, '{}', 4)";
        connection.execute_batch(kept).unwrap();
        let later = later();
        assert_eq!(later.examine(&connection).unwrap(), Version::Known);
        later.compare(&connection).unwrap_err();
        later.migrate(&connection).unwrap();
        later.compare(&connection).unwrap();
        let row = connection.query_row("SELECT slot, note FROM slots", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        });
        assert_eq!(row.unwrap(), (2, None::<String>));
        // There is nothing left to do.
        later.migrate(&connection).unwrap();
        assert_eq!(STORE.examine(&connection).unwrap(), Version::Newer(2));
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let connection = made(&STORE);
        let broken = Schema {
            application: STORE.application,
            steps: vec![STORE.steps[0], "CREATE TABLE leases (path TEXT)", "rubbish"].leak(),
        };
        broken.migrate(&connection).unwrap_err();
        assert!(connection.is_autocommit());
        STORE.compare(&connection).unwrap();
        assert_eq!(STORE.examine(&connection).unwrap(), Version::Known);
    }

    #[test]
    fn others_databases_are_none_of_ours() {
        let connection = made(&RUNNING);
        assert_eq!(STORE.examine(&connection).unwrap(), Version::Strange);
        let empty = Connection::open_in_memory().unwrap();
        assert_eq!(STORE.examine(&empty).unwrap(), Version::Strange);
    }

    #[test]
    fn the_bundled_sqlite_has_the_fix_of_the_logs_reset() {
        // https://www.sqlite.org/wal.html#walresetbug: since 3.51.3.
        assert!(rusqlite::version_number() >= 3_051_003);
    }
}
