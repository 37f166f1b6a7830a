//! Tests of the whole store. What they share stands here.

mod damage;
mod disk;
mod kill;
mod lock;
mod records;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::*;

/// An id of a boot.
pub(super) const BOOT: &str = "0a1b2c3d-0000-4000-8000-000000000001";

/// A store with its threads.
pub(super) struct Live {
    pub(super) store: Store,
    pub(super) contents: Contents,
    threads: Vec<JoinHandle<()>>,
}

impl Live {
    pub(super) fn open(dir: &Path) -> Live {
        Live::at(Directory::kept(dir).unwrap().with_ballast(1 << 16))
    }

    pub(super) fn at(directory: Directory) -> Live {
        let opened = Store::open(Arc::new(directory), BOOT).unwrap();
        let spawn = |writer: Writer| {
            let thread = std::thread::Builder::new().name(writer.name().to_owned());
            thread.spawn(move || writer.run().unwrap()).unwrap()
        };
        Live {
            store: opened.store,
            contents: opened.contents,
            threads: opened.writers.into_iter().map(spawn).collect(),
        }
    }

    /// Makes changes, and waits until they are flushed.
    pub(super) fn write(&self, changes: Vec<Change>) -> Result<(), WriteError> {
        wait(self.store.write(changes))
    }

    /// Notes something, and waits until the kernel has it.
    pub(super) fn note(&self, note: Note) {
        self.store.note(note);
        self.store.0.notes.settle();
    }

    /// Ends it in order.
    pub(super) fn end(self) {
        self.store.close();
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// Waits for an answer without a runtime.
pub(super) fn wait(flushed: Flushed) -> Result<(), WriteError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(flushed.done())
}

/// A directory in memory if possible: there a flush takes no time. What is killed is the server, so
/// it is as good as a disk for these tests.
pub(super) fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// What is in a store, found by opening it again.
pub(super) fn contents(dir: &Path) -> Result<Contents, OpenError> {
    let directory = Arc::new(Directory::kept(dir)?.with_ballast(1 << 16));
    Ok(Store::open(directory, BOOT)?.contents)
}

/// Executes one of these tests in a process of its own, which is told so by a variable.
pub(super) fn child(test: &str, told: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", "--nocapture", test]);
    command.env(TOLD, told).env("RUST_BACKTRACE", "0");
    command
}

/// What this process was told, if it is such a child.
pub(super) fn told() -> Option<String> {
    std::env::var(TOLD).ok()
}

const TOLD: &str = "CIRCUIT_STORE_TEST";

/// Says that a test cannot be made here.
pub(super) fn skipped(needs: &str) {
    eprintln!("skipped: needs {needs}");
    let all = std::env::var_os("CIRCUIT_TESTS").is_some_and(|which| which == "all");
    assert!(!all, "CIRCUIT_TESTS=all, and this test needs {needs}");
}

/// Ids of services in random histories are below this: several services come to one path.
const ID: u64 = 3;

/// Generations of definitions in random histories are below this.
const GENERATIONS: u64 = 3;

/// Random numbers from a seed (splitmix64, <https://prng.di.unimi.it/splitmix64.c>).
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % bound
    }

    fn some<T>(&mut self, value: impl FnOnce(&mut Random) -> T) -> Option<T> {
        (self.below(2) == 0).then(|| value(self))
    }

    fn text(&mut self, most: u64) -> String {
        let letters = ['a', '{', '"', '\\', '\0', 'ß', '\u{10ffff}', '\n'];
        let length = self.below(most);
        let letter = |_| letters[self.below(letters.len() as u64) as usize];
        (0..length).map(letter).collect()
    }

    fn path(&mut self) -> String {
        format!("/s/{}", self.below(6))
    }

    fn definition(&mut self, generation: u64) -> Definition {
        Definition {
            generation,
            text: self.text(6000),
            looked_up: self.text(20),
        }
    }

    fn identity(&mut self) -> Identity {
        Identity {
            boot: BOOT.to_owned(),
            pid_namespace: self.below(u64::MAX),
            pid: self.below(1 << 32) as u32,
            start: self.below(u64::MAX),
        }
    }

    pub(super) fn service(&mut self) -> Service {
        let intents = [Intent::Up, Intent::Down, Intent::Scrub];
        let present = self.below(GENERATIONS);
        let mut others: Vec<u64> = (0..GENERATIONS).filter(|one| *one != present).collect();
        others.retain(|_| self.below(2) == 0);
        Service {
            path: self.path(),
            id: self.below(ID),
            intent: intents[self.below(3) as usize],
            definition: self.definition(present),
            others: others.into_iter().map(|one| self.definition(one)).collect(),
            state: self.text(100),
        }
    }

    pub(super) fn change(&mut self) -> Change {
        let path = self.path();
        let number = self.below(8) as u32;
        match self.below(8) {
            0..2 => Change::Service(self.service()),
            2 => Change::Intent {
                path,
                id: self.below(ID),
                intent: self.service().intent,
                generations: vec![self.below(GENERATIONS), self.below(GENERATIONS)],
                state: self.text(100),
            },
            3 => Change::ForgetSlots { path, from: number },
            4 => Change::ForgetService { path },
            _ => Change::Slot {
                path,
                id: self.below(ID),
                slot: number,
                state: self.text(100),
            },
        }
    }

    pub(super) fn note(&mut self) -> Note {
        let (service, slot, number) = (self.below(3) << 62, self.below(3) as u32, self.below(4));
        match self.below(6) {
            0 => Note::InstanceGone {
                service,
                slot,
                number,
            },
            1 => Note::ProcessGone { path: self.path() },
            2 => Note::Process(Process {
                path: self.path(),
                mark: self.text(50),
                identity: self.some(Random::identity),
            }),
            _ => Note::Instance(Instance {
                service,
                slot,
                number,
                mark: self.text(50),
                identity: self.some(Random::identity),
                cgroup: self.some(|random| random.text(50)),
                generation: self.below(u64::MAX),
                state: self.text(300),
            }),
        }
    }
}

/// What a store should hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model {
    services: BTreeMap<String, Service>,
    slots: BTreeMap<(i64, i64), Slot>,
    instances: BTreeMap<(i64, i64, i64), Instance>,
    processes: BTreeMap<String, Process>,
}

impl Model {
    pub(super) fn of(contents: &Contents) -> Model {
        let mut model = Model::default();
        for service in &contents.services {
            model.services.insert(service.path.clone(), service.clone());
        }
        for slot in &contents.slots {
            model.slots.insert(slot_key(slot), slot.clone());
        }
        for instance in contents.instances.iter().cloned() {
            model.note(Note::Instance(instance));
        }
        for process in contents.processes.iter().cloned() {
            model.note(Note::Process(process));
        }
        model
    }

    pub(super) fn contents(&self) -> Contents {
        Contents {
            services: self.services.values().cloned().collect(),
            slots: self.slots.values().cloned().collect(),
            instances: self.instances.values().cloned().collect(),
            processes: self.processes.values().cloned().collect(),
        }
    }

    /// Makes all of these changes, or none of them if the service of one is not there.
    pub(super) fn write(&mut self, changes: &[Change]) -> Result<(), String> {
        let mut next = self.clone();
        for change in changes {
            next.change(change)?;
        }
        *self = next;
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), String> {
        let there = |path: &String| self.services.get(path).cloned();
        let known = |path: &String, id: &u64| {
            let found = there(path).filter(|found| found.id == *id);
            found.ok_or_else(|| path.clone())
        };
        match change {
            Change::Service(service) => {
                let old = there(&service.path).filter(|old| old.id != service.id);
                self.forget(old.map(|old| old.id), 0);
                self.services.insert(service.path.clone(), service.clone());
            }
            Change::Intent {
                path,
                id,
                intent,
                generations,
                state,
            } => {
                let mut service = known(path, id)?;
                service.intent = *intent;
                let present = service.definition.generation;
                let is_kept = |needed: &u64| {
                    let others = service.others.iter().map(|one| one.generation);
                    others.chain([present]).any(|kept| kept == *needed)
                };
                if generations.last() == Some(&present) && generations.iter().all(is_kept) {
                    service.state = state.clone();
                    let is_needed = |one: &Definition| generations.contains(&one.generation);
                    service.others.retain(is_needed);
                }
                self.services.insert(path.clone(), service);
            }
            Change::Slot {
                path,
                id,
                slot,
                state,
            } => {
                let slot = Slot {
                    service: known(path, id)?.id,
                    slot: *slot,
                    state: state.clone(),
                };
                self.slots.insert(slot_key(&slot), slot);
            }
            Change::ForgetSlots { path, from } => {
                let id = there(path).map(|service| service.id);
                self.forget(id, *from);
            }
            Change::ForgetService { path } => {
                let id = there(path).map(|service| service.id);
                self.forget(id, 0);
                self.services.remove(path);
            }
        }
        Ok(())
    }

    fn forget(&mut self, service: Option<u64>, from: u32) {
        if let Some(id) = service {
            self.slots
                .retain(|_, slot| slot.service != id || slot.slot < from);
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        let key = |service: u64, slot: u32, number: u64| {
            (service.cast_signed(), i64::from(slot), number.cast_signed())
        };
        match note {
            Note::Instance(instance) => {
                let key = key(instance.service, instance.slot, instance.number);
                self.instances.insert(key, instance);
            }
            Note::InstanceGone {
                service,
                slot,
                number,
            } => {
                self.instances.remove(&key(service, slot, number));
            }
            Note::Process(process) => {
                self.processes.insert(process.path.clone(), process);
            }
            Note::ProcessGone { path } => {
                self.processes.remove(&path);
            }
        }
    }
}

/// Rows stand in the order of SQLite's numbers, which have a sign.
fn slot_key(slot: &Slot) -> (i64, i64) {
    (slot.service.cast_signed(), i64::from(slot.slot))
}
