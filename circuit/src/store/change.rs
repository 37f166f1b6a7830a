//! What each change and each note does to the tables.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::error::Fault;
use super::record::{Change, Definition, Instance, Note, Process, Service, Slot};
use super::row::{DefinitionRow, ServiceRow, all, number, one, put, remove, text};

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
        Change::Service(new) => {
            if let Some(old) = found(connection, &new.path)? {
                forget_definitions(connection, &old.path)?;
                if old.id != new.id {
                    forget_slots(connection, old.id, 0)?;
                }
            }
            keep(connection, new)?;
        }
        Change::Intent {
            path,
            id,
            intent,
            generations,
            state,
        } => {
            let mut service = known(connection, path, *id)?;
            service.intent = *intent;
            let kept = generations_of(connection, path)?;
            let fits = generations.last() == Some(&service.generation);
            if fits && generations.iter().all(|needed| kept.contains(needed)) {
                service.state.clone_from(state);
                for old in kept.iter().filter(|old| !generations.contains(old)) {
                    remove::<DefinitionRow>(connection, &[text(path), number(*old)])?;
                }
            }
            put(connection, &service)?;
        }
        Change::Slot {
            path,
            id,
            slot,
            state,
        } => {
            let slot = Slot {
                service: known(connection, path, *id)?.id,
                slot: *slot,
                state: state.clone(),
            };
            put(connection, &slot)?;
        }
        Change::ForgetSlots { path, from } => {
            if let Some(service) = found(connection, path)? {
                forget_slots(connection, service.id, *from)?;
            }
        }
        Change::ForgetService { path } => {
            if let Some(service) = found(connection, path)? {
                forget_slots(connection, service.id, 0)?;
                forget_definitions(connection, path)?;
                remove::<ServiceRow>(connection, &[text(path)])?;
            }
        }
    }
    Ok(())
}

fn found(connection: &Connection, path: &str) -> Result<Option<ServiceRow>, Fault> {
    one(connection, &[text(path)])
}

fn known(connection: &Connection, path: &str, id: u64) -> Result<ServiceRow, Refusal> {
    // Another service may be left at this path.
    let found = found(connection, path)?.filter(|found| found.id == id);
    found.ok_or_else(|| Refusal::Missing(path.to_owned()))
}

/// The generations of the definitions that are kept of a service.
fn generations_of(connection: &Connection, path: &str) -> Result<Vec<u64>, Fault> {
    let sql = "SELECT generation FROM definitions WHERE path = ?";
    let mut statement = connection.prepare_cached(sql)?;
    let generations = statement.query_map([text(path)], |row| row.get::<_, i64>(0))?;
    let generations: Result<Vec<i64>, _> = generations.collect();
    Ok(generations?.into_iter().map(i64::cast_unsigned).collect())
}

fn keep(connection: &Connection, service: &Service) -> rusqlite::Result<()> {
    let present = &service.definition;
    // Two texts of one generation cannot be told apart: the present one counts, which is written last.
    for definition in service.others.iter().chain([present]) {
        let row = DefinitionRow {
            path: service.path.clone(),
            generation: definition.generation,
            text: definition.text.clone(),
            looked_up: definition.looked_up.clone(),
        };
        put(connection, &row)?;
    }
    let row = ServiceRow {
        path: service.path.clone(),
        id: service.id,
        intent: service.intent,
        generation: present.generation,
        state: service.state.clone(),
    };
    put(connection, &row)
}

fn forget_definitions(connection: &Connection, path: &str) -> rusqlite::Result<()> {
    let sql = "DELETE FROM definitions WHERE path = ?";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute([text(path)]).map(drop)
}

fn forget_slots(connection: &Connection, service: u64, from: u32) -> rusqlite::Result<()> {
    let sql = "DELETE FROM slots WHERE service = ? AND slot >= ?";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute([number(service), number(from)]).map(drop)
}

/// All services with their definitions, in the order of their paths.
pub(super) fn services(connection: &Connection) -> Result<Vec<Service>, Fault> {
    let mut definitions: BTreeMap<String, Vec<Definition>> = BTreeMap::new();
    for row in all::<DefinitionRow>(connection)? {
        definitions.entry(row.path).or_default().push(Definition {
            generation: row.generation,
            text: row.text,
            looked_up: row.looked_up,
        });
    }
    let mut services = Vec::new();
    for row in all::<ServiceRow>(connection)? {
        let mut others = definitions.remove(&row.path).unwrap_or_default();
        let present = others
            .iter()
            .position(|one| one.generation == row.generation);
        let present = present
            .ok_or_else(|| Fault::Damaged(format!("the definition of {} is missing", row.path)))?;
        services.push(Service {
            definition: others.remove(present),
            others,
            path: row.path,
            id: row.id,
            intent: row.intent,
            state: row.state,
        });
    }
    match definitions.is_empty() {
        true => Ok(services),
        false => Err(Fault::Damaged("a definition is nobody's".into())),
    }
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
