//! What is kept of a service, so that the next life of the server goes on with it: it is written here, and read
//! in [`remains`](super::remains).
//!
//! What people want is flushed before it is answered. What follows from it, which processes there are and how
//! they are, is noted without a flush: it must survive the server, not the host.
//!
//! **Invariant:** a state that is kept never names a definition that is not.

use std::collections::{BTreeMap, BTreeSet};

use circuit_proto::{Code, Error};
use serde::{Deserialize, Serialize};

use super::definition::Plan;
use super::machine::{Generation, InstanceId, RestRecord, SlotRecord, Want};
use super::shared::{Shared, State};
use crate::element::process::cgroup::Cgroup;
use crate::element::process::tree::Identity;
use crate::store::{self, Change, Flushed, Note, Store, WriteError};

/// What is noted of a slot itself has this number, which no instance has.
pub(super) const SLOT: u64 = 0;

/// This boot and this pid namespace. Noted of each instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Here {
    pub(super) boot: String,
    pub(super) pid_namespace: u64,
    /// Whether this server is process 1 of the namespace: all that is in it ends with the server.
    pub(super) is_first: bool,
}

impl Here {
    /// Where this process runs. Blocks.
    pub(super) fn find() -> std::io::Result<Here> {
        use std::os::unix::fs::MetadataExt;
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let pid_namespace = std::fs::metadata("/proc/self/ns/pid")?.ino();
        Ok(Here {
            boot: boot.trim().to_owned(),
            pid_namespace,
            is_first: std::process::id() == 1,
        })
    }

    fn identity(&self, process: Identity) -> store::Identity {
        store::Identity {
            boot: self.boot.clone(),
            pid_namespace: self.pid_namespace,
            pid: process.pid.as_raw_nonzero().get().unsigned_abs(),
            start: process.start,
        }
    }
}

/// What of a slot matters after a start of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lasting {
    /// The generation that it last ran ready.
    ran_ready: Option<Generation>,
    /// Whether it waits for a person.
    rest: RestRecord,
    /// Whether it has an instance, and whether that was begun: work that must not run twice has run then.
    begun: Option<bool>,
}

impl Lasting {
    fn of(record: &SlotRecord) -> Lasting {
        let begun = record.instances.iter().map(|one| one.pid.is_some()).max();
        Lasting {
            ran_ready: record.ran_ready,
            rest: match record.rest {
                RestRecord::Free | RestRecord::Backoff(_) => RestRecord::Free,
                RestRecord::Failed => RestRecord::Failed,
                RestRecord::Finished => RestRecord::Finished,
            },
            begun,
        }
    }
}

/// What of a service was given to the store, and whether that is on the disk as far as is known.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The generations whose definitions are kept.
    generations: BTreeSet<Generation>,
    /// The answer to the last write of a definition in this life.
    definitions: Option<Flushed>,
    /// What of each slot was written last, and the answer to that.
    slots: BTreeMap<u32, (Lasting, Flushed)>,
}

impl Written {
    /// These definitions were kept by the life before.
    pub(super) fn before(generations: impl IntoIterator<Item = Generation>) -> Written {
        Written {
            generations: generations.into_iter().collect(),
            ..Written::default()
        }
    }

    /// Writes a service. The definition of a generation is written once; another number of slots is in the
    /// service's state.
    fn service(&mut self, store: &Store, service: store::Service) -> Flushed {
        let others = service.others.iter().map(|one| one.generation);
        let needed: Vec<Generation> = others.chain([service.definition.generation]).collect();
        let failed = self.definitions.as_ref().is_some_and(Flushed::has_failed);
        let is_kept = needed.iter().all(|one| self.generations.contains(one));
        // On a full disk this finds room where a definition finds none.
        let intent = (failed || is_kept).then(|| {
            store.write(vec![Change::Intent {
                path: service.path.clone(),
                id: service.id,
                intent: service.intent,
                generations: needed.clone(),
                state: service.state.clone(),
            }])
        });
        self.generations = needed.into_iter().collect();
        match intent {
            Some(intent) if !failed => intent,
            _ => {
                let written = store.write(vec![Change::Service(service)]);
                self.definitions = Some(written.clone());
                written
            }
        }
    }

    /// Writes a slot, if there is anything new in it that matters after a start of the host.
    fn slot(&mut self, store: &Store, path: String, id: u64, record: &SlotRecord, state: &str) {
        let lasting = Lasting::of(record);
        let is_kept =
            |(kept, written): &(Lasting, Flushed)| *kept == lasting && !written.has_failed();
        if self.slots.get(&record.slot).is_some_and(is_kept) {
            return;
        }
        let written = store.write(vec![Change::Slot {
            path,
            id,
            slot: record.slot,
            state: state.to_owned(),
        }]);
        self.slots.insert(record.slot, (lasting, written));
    }
}

/// Writes what is kept.
impl Shared {
    /// What is kept of the service as a whole.
    fn record(&self, state: &State) -> Option<store::Service> {
        let record = state.machine.service_record();
        let newest = state.plans.get(&record.generation)?;
        let definition = |generation: Generation, plan: &Plan| store::Definition {
            generation,
            text: plan.text.clone(),
            looked_up: plan.looked_up(),
        };
        let others = state.plans.range(..record.generation);
        Some(store::Service {
            path: self.path(),
            id: self.id,
            intent: intent(record.want),
            definition: definition(record.generation, newest),
            others: others
                .map(|(generation, plan)| definition(*generation, plan))
                .collect(),
            state: serde_json::to_string(&record).unwrap_or_default(),
        })
    }

    /// Keeps the service as it is now.
    pub(super) fn keep_service(&self, state: &mut State) {
        // What has been scrubbed is forgotten, and not kept.
        let over = state.machine.want() == Want::Scrubbed && state.machine.is_empty();
        if let Some(record) = self.record(state).filter(|_| !over) {
            state.flushed = Some(state.written.service(&self.store, record));
        }
    }

    /// Nothing of the service is kept any more. If that is not written, the next life does it.
    pub(super) fn forget_record(&self, state: &mut State) {
        let path = self.path();
        state.flushed = Some(self.store.write(vec![Change::ForgetService { path }]));
    }

    /// Keeps a slot as it is now.
    pub(super) fn keep_slot(&self, state: &mut State, slot: u32) {
        let note = |note| self.store.note(note);
        let Some(record) = state.machine.slot_record(slot) else {
            state.written.slots.remove(&slot);
            note(Note::InstanceGone {
                service: self.id,
                slot,
                number: SLOT,
            });
            let from = state.machine.instances() + 1;
            if slot >= from {
                drop(self.store.write(vec![Change::ForgetSlots {
                    path: self.path(),
                    from,
                }]));
            }
            return;
        };
        let text = serde_json::to_string(&record).unwrap_or_default();
        note(Note::Instance(store::Instance {
            service: self.id,
            slot,
            number: SLOT,
            mark: String::new(),
            identity: None,
            cgroup: None,
            generation: record.ran_ready.unwrap_or(0),
            state: text.clone(),
        }));
        let (path, written) = (self.path(), &mut state.written);
        written.slot(&self.store, path, self.id, &record, &text);
    }

    /// Notes an instance: before its start without a process, with the cgroup that is about to be made for it, and
    /// then with both.
    pub(super) fn note_instance(
        &self,
        id: InstanceId,
        generation: Generation,
        main: Option<Identity>,
        cgroup: Option<&Cgroup>,
    ) {
        let here = self.services.here();
        self.store.note(Note::Instance(store::Instance {
            service: self.id,
            slot: id.slot,
            number: id.number,
            mark: self.mark(id),
            identity: main.map(|main| here.identity(main)),
            cgroup: cgroup.map(|cgroup| cgroup.path().to_owned()),
            generation,
            state: serde_json::to_string(&here).unwrap_or_default(),
        }));
    }

    pub(super) fn forget_instance(&self, id: InstanceId) {
        self.store.note(Note::InstanceGone {
            service: self.id,
            slot: id.slot,
            number: id.number,
        });
    }
}

fn intent(want: Want) -> store::Intent {
    match want {
        Want::Up => store::Intent::Up,
        Want::Down => store::Intent::Down,
        Want::Scrubbed => store::Intent::Scrub,
    }
}

/// Waits until what a caller wants is kept.
pub(super) async fn flushed(change: Option<Flushed>) -> Result<(), Error> {
    let Some(change) = change else { return Ok(()) };
    change.done().await.map_err(|error| {
        let message = format!(
            "it is done, and is not recorded: {}",
            circuit_client::chain(&error)
        );
        let code = match error {
            WriteError::Full | WriteError::Busy(_) => Code::Busy,
            WriteError::Missing(_) | WriteError::Failed { .. } | WriteError::Closed => {
                Code::Internal
            }
        };
        Error::new(code, message)
    })
}

#[cfg(test)]
mod tests;
