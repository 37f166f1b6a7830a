//! What is kept of services, so that the next life of the server goes on with them: it is written here, and
//! read when a server starts.
//!
//! What people want is flushed before it is answered. What follows from it, which processes there are and how
//! they are, is noted without a flush: it must survive the server, not the host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use circuit_proto::{Code, Error};
use rustix::process::Pid;
use tracing::{info, warn};

use super::View;
use super::definition::Plan;
use super::instance::{Instance, Running};
use super::machine::{
    self, End, Found, Generation, InstanceId, Machine, RestRecord, ServiceRecord, SlotRecord, Want,
};
use super::registry::{Services, now};
use super::shared::{Parts, Shared, State};
use super::sockets::Held;
use crate::anchor::Names;
use crate::element::Kind;
use crate::element::process::cgroup::{Cgroup, Cgroups};
use crate::element::process::session::Session;
use crate::element::process::tree::{Identity, Table, Tree, mark_of};
use crate::logs::{self, Log, Source};
use crate::runtime::descriptors::User;
use crate::store::{self, Change, Contents, Flushed, Note};

/// What is noted of a slot itself has this number, which no instance has.
const SLOT: u64 = 0;

/// What of a slot matters after a start of the host: the generation that it ran ready, whether it failed, and
/// whether it rests.
pub(super) type Lasting = (Option<Generation>, bool, bool);

/// This boot and this pid namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Here {
    pub(super) boot: String,
    pub(super) pid_namespace: u64,
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

/// Writes what is kept.
impl Shared {
    /// What is kept of the service as a whole.
    fn record(&self, state: &State) -> Option<store::Service> {
        let record = state.machine.service_record();
        let newest = state.plans.get(&record.generation)?;
        let before = state.plans.range(..record.generation).next_back();
        let definition = |generation: Generation, plan: &Plan| store::Definition {
            generation,
            text: plan.text.clone(),
        };
        Some(store::Service {
            path: self.path(),
            id: self.id,
            intent: intent(record.want),
            definition: definition(record.generation, newest),
            previous: before.map(|(generation, plan)| definition(*generation, plan)),
            state: serde_json::to_string(&record).unwrap_or_default(),
        })
    }

    /// Keeps the service as it is now.
    pub(super) fn keep_service(&self, state: &mut State) {
        let Some(record) = self.record(state) else {
            return;
        };
        // A scale changes the definition of a generation.
        let newest = state.plans.get(&record.definition.generation).cloned();
        let is_kept = match (&state.kept, &newest) {
            (Some(kept), Some(newest)) => Arc::ptr_eq(kept, newest),
            _ => false,
        };
        let changes = match record.intent {
            store::Intent::Scrub if state.machine.is_empty() => {
                vec![Change::ForgetService { path: self.path() }]
            }
            // Definitions do not change with most intents, which then need no room on the disk.
            _ if is_kept && record.previous.is_none() => {
                vec![Change::Intent {
                    path: record.path,
                    intent: record.intent,
                    state: record.state,
                }]
            }
            _ => {
                state.kept = newest;
                vec![Change::Service(record)]
            }
        };
        state.flushed = Some(self.store.write(changes));
    }

    /// Nothing of the service is kept any more. If that is not written, the next life does it.
    pub(super) fn forget_record(&self) {
        let path = self.path();
        drop(self.store.write(vec![Change::ForgetService { path }]));
    }

    /// Keeps a slot as it is now.
    pub(super) fn keep_slot(&self, state: &mut State, slot: u32) {
        let note = |note| self.store.note(note);
        let Some(record) = state.machine.slot_record(slot) else {
            state.kept_slots.remove(&slot);
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
            ready: false,
            failures: record.failures,
            state: text.clone(),
        }));
        // After a start of the host it matters which definition ran, and whether anything is to run again.
        let rest = match record.rest {
            RestRecord::Free | RestRecord::Backoff(_) => record.instances.is_empty(),
            RestRecord::Failed | RestRecord::Finished => true,
        };
        let failed = record.rest == RestRecord::Failed;
        let lasting = (record.ran_ready, failed, rest);
        if state.kept_slots.insert(slot, lasting) != Some(lasting) {
            drop(self.store.write(vec![Change::Slot {
                path: self.path(),
                slot,
                ready: record.ran_ready.unwrap_or(0),
                state: text,
            }]));
        }
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
        self.store.note(Note::Instance(store::Instance {
            service: self.id,
            slot: id.slot,
            number: id.number,
            mark: self.mark(id),
            identity: main.map(|main| self.services.here().identity(main)),
            cgroup: cgroup.map(|cgroup| cgroup.path().to_owned()),
            generation,
            ready: false,
            failures: 0,
            state: String::new(),
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
        Error::new(Code::Internal, message)
    })
}

/// What a life finds of the one before.
struct Remains {
    /// The processes that there are.
    table: Table,
    here: Here,
    /// Those with the marks of services, by mark.
    marked: BTreeMap<String, Vec<Identity>>,
    /// The pipes of retained output.
    pipes: BTreeSet<String>,
    /// The cgroups of instances, by mark.
    cgroups: BTreeMap<String, Cgroup>,
}

impl Services {
    /// Goes on with the services that the server's life before had.
    pub(super) fn resume(
        self: &Arc<Self>,
        store: &store::Store,
        logs: &logs::Logs,
        contents: &Contents,
    ) {
        let here = self.here();
        let table = Table::read().unwrap_or_default();
        let mut marked: BTreeMap<String, Vec<Identity>> = BTreeMap::new();
        for (process, mark) in table.marked(|mark| mark.split('.').count() >= 3) {
            marked.entry(mark).or_default().push(process);
        }
        let pipes = logs.pipes().unwrap_or_default().into_iter().collect();
        let mut remains = Remains {
            table,
            here,
            marked,
            pipes,
            cgroups: left_cgroups(&self.cgroups(), contents),
        };
        let mut all = Vec::new();
        for service in &contents.services {
            match self.resume_one(store, logs, contents, service, &mut remains) {
                Ok(shared) => all.push(shared),
                Err(error) => warn!("the service {} does not go on: {error}", service.path),
            }
        }
        // Pipes of nobody that goes on hold the last words of those who wrote them.
        for name in remains.pipes {
            let service = name
                .split('.')
                .next()
                .and_then(|id| u64::from_str_radix(id, 16).ok());
            let owner = all
                .iter()
                .find(|shared: &&Arc<Shared>| Some(shared.id) == service);
            let log = owner.and_then(|shared| shared.log.lock().as_ref().map(Log::clone));
            let adopted = log.and_then(|log| log.adopt(&name, source_of(&name)?).ok().flatten());
            match adopted {
                Some(pipe) => drop(pipe.end()),
                None => drop(logs.remove_pipe(&name)),
            }
        }
        let ids: BTreeSet<String> = contents
            .services
            .iter()
            .map(|s| format!("{:016x}", s.id))
            .collect();
        // Processes that are no services are not known any more, and with them go their logs.
        for name in logs.kept().unwrap_or_default() {
            if !ids.contains(&name)
                && let Ok(log) = logs.open(&name, logs::DEFAULT_BYTES)
            {
                drop(log.forget());
            }
        }
        self.empty_cgroups(remains.cgroups);
        // Those of instances that are not known any more, and commands beside them.
        for (mark, processes) in remains.marked {
            let own = mark.split('.').next().is_some_and(|id| ids.contains(id));
            for main in processes.into_iter().filter(|_| own) {
                let mark = Some(mark.clone());
                self.watcher.kill(&Arc::new(Tree {
                    main,
                    mark,
                    is_older: true,
                    cgroup: None,
                }));
            }
        }
        for shared in all {
            tokio::spawn(shared.clone().keep_time());
            self.tell_dependents(&shared.names);
            shared.handle(machine::Input::Tick);
        }
    }

    fn resume_one(
        self: &Arc<Self>,
        store: &store::Store,
        logs: &logs::Logs,
        contents: &Contents,
        kept: &store::Service,
        remains: &mut Remains,
    ) -> Result<Arc<Shared>, Error> {
        let names: Names = kept.path.split('/').map(str::to_owned).collect();
        let plan = Plan::read(&kept.definition.text)?;
        let log_bytes = plan.log_bytes;
        let mut plans = BTreeMap::from([(kept.definition.generation, Arc::new(plan))]);
        if let Some(previous) = &kept.previous
            && let Ok(plan) = Plan::read(&previous.text)
        {
            plans.insert(previous.generation, Arc::new(plan));
        }
        let mut record: ServiceRecord = serde_json::from_str(&kept.state).map_err(|error| {
            Error::new(Code::Internal, format!("its state cannot be read: {error}"))
        })?;
        record.want = match kept.intent {
            store::Intent::Up => Want::Up,
            store::Intent::Down => Want::Down,
            store::Intent::Scrub => Want::Scrubbed,
        };
        let noted = || {
            contents
                .instances
                .iter()
                .filter(|row| row.service == kept.id)
        };
        let mut slots: BTreeMap<u32, SlotRecord> = BTreeMap::new();
        for slot in contents.slots.iter().filter(|slot| slot.service == kept.id) {
            if let Ok(record) = serde_json::from_str::<SlotRecord>(&slot.state) {
                slots.insert(slot.slot, record.after_reboot());
            }
        }
        // What was noted in this boot is newer.
        for row in noted().filter(|row| row.number == SLOT) {
            if let Ok(record) = serde_json::from_str::<SlotRecord>(&row.state) {
                slots.insert(row.slot, record);
            }
        }
        let log = logs.open(&format!("{:016x}", kept.id), log_bytes);
        let log = log.map_err(|error| super::instance::log_failed(&error))?;
        let mut found = BTreeMap::new();
        let mut instances = BTreeMap::new();
        let mut adopted = Vec::new();
        for row in noted().filter(|row| row.number != SLOT) {
            let id = InstanceId {
                slot: row.slot,
                number: row.number,
            };
            let (what, running) = self.look_for(row, remains);
            let plan = plans
                .get(&row.generation)
                .or_else(|| plans.values().next_back());
            if let (Some(running), Some(plan)) = (running, plan) {
                let mut instance =
                    Instance::adopted(plan.clone(), row.mark.clone(), running.clone());
                for suffix in ["out", "err"] {
                    let name = format!("{}.{suffix}", row.mark);
                    if remains.pipes.remove(&name)
                        && let Some(source) = source_of(&name)
                        && let Ok(Some(pipe)) = log.adopt(&name, source)
                    {
                        instance.pipes.push(pipe);
                    }
                }
                remains.marked.remove(&row.mark);
                remains.cgroups.remove(&row.mark);
                if matches!(what, Found::Main { .. }) {
                    adopted.push((id, running));
                }
                instances.insert(id, instance);
            }
            if what == Found::Foreign {
                remains.cgroups.remove(&row.mark);
            }
            found.insert(id, what);
        }
        let mut sockets = Held::default();
        if record.want == Want::Up {
            let descriptors = &self.runtime.descriptors;
            sockets.recover(&plans, instances.values(), &remains.table, descriptors);
        }
        let slot_records = slots.into_values().collect();
        let policies = plans
            .iter()
            .map(|(generation, plan)| (*generation, plan.policy.clone()))
            .collect();
        let seed = self.random();
        let newest = plans.get(&record.generation).cloned();
        let machine = Machine::resume(record, slot_records, policies, &found, seed, now());
        let place = self.tree.reserve_closed(&names);
        let place = place.map_err(|error| Error::new(Code::Occupied, error.to_string()))?;
        let parts = Parts {
            services: self.clone(),
            store: store.clone(),
            names,
            id: kept.id,
            log,
            machine,
            plans,
            instances,
            sockets,
            kept: newest,
        };
        let shared = parts.assembled();
        place.commit(shared.view(View::Whole).into_element());
        self.add(&shared);
        for (id, running) in adopted {
            let spoken = {
                let state = shared.state.lock();
                let instance = state.instances.get(&id);
                instance.map(|instance| (instance.plan().clone(), instance.mark.clone()))
            };
            if let Some((plan, mark)) = spoken
                && let Err(error) = shared.listen_again(id, &plan, &mark)
            {
                warn!("{}/{} is not heard any more: {error}", kept.path, id.slot);
            }
            info!(
                "{}/{} goes on as process {}",
                kept.path,
                id.slot,
                running.session.identity().pid.as_raw_nonzero()
            );
            let shared = shared.clone();
            tokio::spawn(async move { shared.wait_for(&running.session, id).await });
        }
        Ok(shared)
    }

    /// What is left of an instance, and its main process and tree if anything is.
    fn look_for(&self, row: &store::Instance, remains: &Remains) -> (Found, Option<Running>) {
        let end = End::Unknown;
        let cgroup = remains.cgroups.get(&row.mark).cloned();
        let mut with_mark = remains.marked.get(&row.mark).cloned().unwrap_or_default();
        with_mark.extend(cgroup.iter().flat_map(Cgroup::members));
        let main = match &row.identity {
            Some(identity) if identity.boot != remains.here.boot => {
                return (Found::Gone { end }, None);
            }
            Some(identity) if identity.pid_namespace != remains.here.pid_namespace => {
                return (Found::Foreign, None);
            }
            Some(identity) => i32::try_from(identity.pid)
                .ok()
                .and_then(Pid::from_raw)
                .map(|pid| Identity {
                    pid,
                    start: identity.start,
                }),
            // The start was not recorded: the mark alone tells. The main process began the session.
            None => with_mark
                .iter()
                .copied()
                .find(|process| remains.table.leads(process.pid)),
        };
        let Some(main) = main else {
            let Some(any) = with_mark.first() else {
                return (Found::Gone { end }, None);
            };
            return (Found::Rest { end }, self.running(*any, row, cgroup));
        };
        let other = mark_of(main.pid).is_some_and(|mark| mark != row.mark);
        match self.running(main, row, cgroup.clone()) {
            Some(running) if !other && running.session.is_alive() => {
                let pid = main.pid.as_raw_nonzero().get().unsigned_abs();
                (Found::Main { pid }, Some(running))
            }
            _ => {
                let mark = Some(row.mark.clone());
                let tree = Tree {
                    main,
                    mark,
                    is_older: true,
                    cgroup: cgroup.clone(),
                };
                let members = remains.table.members(&[&tree]).remove(0);
                match members.first() {
                    None => (Found::Gone { end }, None),
                    Some(any) => {
                        let running = self.running(*any, row, cgroup);
                        (Found::Rest { end }, running)
                    }
                }
            }
        }
    }

    fn running(
        &self,
        main: Identity,
        row: &store::Instance,
        cgroup: Option<Cgroup>,
    ) -> Option<Running> {
        let taken = self.runtime.descriptors.take(User::Processes, 1).ok()?;
        let session = Arc::new(Session::adopt(main, taken)?);
        let mark = Some(row.mark.clone());
        let tree = Arc::new(Tree {
            main,
            mark,
            is_older: true,
            cgroup,
        });
        Some(Running { session, tree })
    }

    /// Kills all that are in these cgroups, and removes them.
    fn empty_cgroups(&self, cgroups: BTreeMap<String, Cgroup>) {
        for (mark, cgroup) in cgroups {
            let Some(main) = cgroup.members().first().copied() else {
                cgroup.remove();
                continue;
            };
            self.watcher.kill(&Arc::new(Tree {
                main,
                mark: Some(mark),
                is_older: true,
                cgroup: Some(cgroup),
            }));
        }
    }

    /// Ends what a server of this user has left behind that was killed and had no `-var`.
    pub(super) fn clear(self: &Arc<Self>, contents: &Contents) {
        let ids: BTreeSet<String> = contents
            .services
            .iter()
            .map(|s| format!("{:016x}", s.id))
            .collect();
        // Main processes are known by their identities, whether or not their marks can be read.
        let here = Here::find().unwrap_or_default();
        for row in &contents.instances {
            let Some(identity) = &row.identity else {
                continue;
            };
            if identity.boot != here.boot || identity.pid_namespace != here.pid_namespace {
                continue;
            }
            let pid = i32::try_from(identity.pid).ok().and_then(Pid::from_raw);
            let main = pid.and_then(Identity::of).filter(|main| {
                let other = mark_of(main.pid).is_some_and(|mark| mark != row.mark);
                main.start == identity.start && !other
            });
            if let Some(main) = main {
                let tree = Tree {
                    main,
                    mark: Some(row.mark.clone()),
                    is_older: true,
                    cgroup: None,
                };
                self.watcher.kill(&Arc::new(tree));
            }
        }
        self.empty_cgroups(left_cgroups(&Cgroups::find(), contents));
        let table = Table::read().unwrap_or_default();
        let ours = |mark: &str| mark.split('.').next().is_some_and(|id| ids.contains(id));
        for (main, mark) in table.marked(ours) {
            let mark = Some(mark);
            self.watcher.kill(&Arc::new(Tree {
                main,
                mark,
                is_older: true,
                cgroup: None,
            }));
        }
    }
}

/// The cgroups of the instances of these services, by mark. Blocks.
fn left_cgroups(cgroups: &Cgroups, contents: &Contents) -> BTreeMap<String, Cgroup> {
    let ids: BTreeSet<String> = contents
        .services
        .iter()
        .map(|service| format!("{:016x}", service.id))
        .collect();
    let recorded = contents.instances.iter();
    let all = cgroups.beside(recorded.filter_map(|row| row.cgroup.as_deref()));
    let named = all
        .into_iter()
        .map(|cgroup| (cgroup.name().to_owned(), cgroup));
    let ours = |mark: &str| mark.split('.').next().is_some_and(|id| ids.contains(id));
    named.filter(|(mark, _)| ours(mark)).collect()
}

/// The output that a pipe carries, by its name: `ID.SLOT.NUMBER.out`, or with a command's name in between.
fn source_of(name: &str) -> Option<Source> {
    let mut parts = name.split('.');
    let (_, slot, instance) = (parts.next()?, parts.next()?, parts.next()?);
    let stream = match name.rsplit('.').next()? {
        "out" => logs::Stream::Stdout,
        "err" => logs::Stream::Stderr,
        _ => return None,
    };
    Some(Source {
        slot: slot.parse().ok()?,
        instance: instance.parse().ok()?,
        stream,
    })
}
