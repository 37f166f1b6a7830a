//! What each change and each note does to the tables.

use rusqlite::Connection;
use rusqlite::types::Value;

use super::error::Fault;
use super::record::{Change, Instance, Note, Process, Service, Slot};
use super::row::{number, one, put, remove, text};

/// Why a change is not made.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The service at this path is not kept.
    Missing(String),
    /// The database failed.
    Fault(Fault),
}

impl<E: Into<Fault>> From<E> for Refusal {
    fn from(error: E) -> Refusal {
        Refusal::Fault(error.into())
    }
}

/// Makes a change.
pub(super) fn make(connection: &Connection, change: &Change) -> Result<(), Refusal> {
    match change {
        Change::Service(service) => {
            if let Some(id) = id(connection, &service.path)?
                && id != service.id
            {
                forget_slots(connection, id, 0)?;
            }
            put(connection, service)?;
        }
        Change::Intent { path, intent } => {
            let intent = *intent;
            let service = service(connection, path)?;
            put(connection, &Service { intent, ..service })?;
        }
        Change::Instances { path, instances } => {
            let instances = *instances;
            let service = service(connection, path)?;
            let scaled = Service {
                instances,
                ..service
            };
            put(connection, &scaled)?;
        }
        Change::Ready {
            path,
            slot,
            generation,
        } => {
            let missing = || Refusal::Missing(path.clone());
            let slot = Slot {
                service: id(connection, path)?.ok_or_else(missing)?,
                slot: *slot,
                ready: *generation,
            };
            put(connection, &slot)?;
        }
        Change::ForgetSlots { path, from } => {
            if let Some(id) = id(connection, path)? {
                forget_slots(connection, id, *from)?;
            }
        }
        Change::ForgetService { path } => {
            if let Some(id) = id(connection, path)? {
                forget_slots(connection, id, 0)?;
                remove::<Service>(connection, &[text(path)])?;
            }
        }
    }
    Ok(())
}

fn service(connection: &Connection, path: &str) -> Result<Service, Refusal> {
    let found = one::<Service>(connection, &[text(path)])?;
    found.ok_or_else(|| Refusal::Missing(path.to_owned()))
}

fn id(connection: &Connection, path: &str) -> Result<Option<u64>, Fault> {
    let found = one::<Service>(connection, &[text(path)])?;
    Ok(found.map(|service| service.id))
}

fn forget_slots(connection: &Connection, service: u64, from: u32) -> rusqlite::Result<()> {
    let sql = "DELETE FROM slots WHERE service = ? AND slot >= ?";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute([number(service), number(from)]).map(drop)
}

/// Names the thing that a note is about. A later note on the same thing takes an earlier one's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Instance(u64, u32, u64),
    Process(String),
}

/// What is now to be noted of it. `None`: it is gone.
pub(super) type Latest = Option<Note>;

impl Note {
    /// The thing, and what is to be noted of it.
    pub(super) fn split(self) -> (Key, Latest) {
        match &self {
            Note::Instance(instance) => (Key::of_instance(instance), Some(self)),
            Note::InstanceGone {
                service,
                slot,
                number,
            } => (Key::Instance(*service, *slot, *number), None),
            Note::Process(process) => (Key::of_process(process), Some(self)),
            Note::ProcessGone { path } => (Key::Process(path.clone()), None),
        }
    }
}

impl Key {
    pub(super) fn of_instance(instance: &Instance) -> Key {
        Key::Instance(instance.service, instance.slot, instance.number)
    }

    pub(super) fn of_process(process: &Process) -> Key {
        Key::Process(process.path.clone())
    }
}

/// Writes a note down.
pub(super) fn note(connection: &Connection, key: &Key, latest: &Latest) -> rusqlite::Result<()> {
    match (latest, key) {
        (Some(Note::Instance(instance)), _) => put(connection, instance),
        (Some(Note::Process(process)), _) => put(connection, process),
        (_, Key::Instance(service, slot, instance)) => {
            let key: [Value; 3] = [number(*service), number(*slot), number(*instance)];
            remove::<Instance>(connection, &key)
        }
        (_, Key::Process(path)) => remove::<Process>(connection, &[text(path)]),
    }
}
