//! What a life of the server finds of the one before: records, processes and pipes; and how it goes on with them.
//!
//! **Invariants:** nothing is looked up elsewhere, so that nobody who does not answer keeps a service from going
//! on. What a service cannot go on with is left alone, and the service says why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use circuit_proto::{Code, Error};
use rustix::process::Pid;
use tracing::{error, info};

use super::definition::Plan;
use super::instance::Instance;
use super::kept::{Here, SLOT, Written};
use super::machine::{
    self, End, Found, Generation, InstanceId, Machine, Policy, ServiceRecord, SlotRecord, Want,
};
use super::registry::{Services, internal, now};
use super::shared::{Parts, Shared};
use super::sockets::Held;
use super::{View, notify};
use crate::anchor::Names;
use crate::element::Kind;
use crate::element::process::cgroup::{Cgroup, Cgroups};
use crate::element::process::session::Session;
use crate::element::process::tree::{Identity, Table, Tree, mark_of};
use crate::logs::{self, Log, Source};
use crate::runtime::descriptors::User;
use crate::store::{self, Contents};

/// Why an instance is left alone that began in another pid namespace.
const ELSEWHERE: &str = "it began in another pid namespace, which cannot be seen from here: if it is gone, restart \
                         this one slot with -now";

/// Why an instance is left alone that cannot be watched.
const SHORT: &str = "there were too few descriptors to go on with it: its end is waited for";

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

/// What is left of an instance.
struct Left {
    found: Found,
    /// Its main process, if that lives.
    session: Option<Arc<Session>>,
    /// Its processes, if they can be seen.
    tree: Option<Arc<Tree>>,
    /// Why it is left alone, if it is.
    why: Option<&'static str>,
}

impl Left {
    /// Nothing is, or nothing that can be seen from here.
    fn unseen(found: Found, why: Option<&'static str>) -> Left {
        Left {
            found,
            session: None,
            tree: None,
            why,
        }
    }
}

/// A service of the life before, as far as its records tell.
struct Records {
    plans: BTreeMap<Generation, Arc<Plan>>,
    service: ServiceRecord,
    slots: BTreeMap<u32, SlotRecord>,
}

impl Services {
    /// Goes on with the services that the server's life before had.
    pub(super) fn resume(
        self: &Arc<Self>,
        store: &store::Store,
        logs: &logs::Logs,
        contents: &Contents,
    ) -> Result<(), Error> {
        let here = self.here();
        // Whoever cannot look would take all that lives for gone.
        let table = Table::read().map_err(|error| internal(&error))?;
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
        let mut held_back = Vec::new();
        for service in &contents.services {
            let resumed = Records::read(contents, service).and_then(|records| {
                self.resume_one(store, logs, contents, service, records, &mut remains)
            });
            let shared = match resumed {
                Ok(shared) => Ok(shared),
                Err(error) => {
                    error!("the service {} does not go on: {error}", service.path);
                    remains.leave_alone(service.id);
                    held_back.push(format!("{:016x}", service.id));
                    self.hold_back(store, contents, service, &error)
                }
            };
            match shared {
                Ok(shared) => all.push(shared),
                Err(error) => error!("the service {} is not shown: {error}", service.path),
            }
        }
        // Pipes of nobody that goes on hold last words, as long as anybody has them open: the system keeps
        // nothing of a pipe that nobody has open, so that an instance which ended meanwhile has lost them.
        for name in remains.pipes {
            let service = name
                .split('.')
                .next()
                .and_then(|id| u64::from_str_radix(id, 16).ok());
            let is_owner = |shared: &&Arc<Shared>| Some(shared.id) == service;
            let owner = all.iter().find(is_owner);
            let log = owner.and_then(|shared| shared.log.lock().as_ref().map(Log::clone));
            let adopted = log.and_then(|log| log.adopt(&name, source_of(&name)?).ok().flatten());
            match adopted {
                Some(pipe) => drop(pipe.end()),
                None => drop(logs.remove_pipe(&name)),
            }
        }
        let ids = ids(contents);
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
            if is_of(&mark, &ids) {
                for main in processes {
                    self.watcher.kill(&Arc::new(tree(main, &mark, None)));
                }
            }
        }
        if let Some(dir) = self.dir() {
            let heard: BTreeSet<String> = all.iter().flat_map(|shared| shared.marks()).collect();
            notify::clear(dir, |mark| {
                let held_back = held_back.iter().any(|id| mark.starts_with(id));
                held_back || heard.contains(mark)
            });
        }
        for shared in all {
            tokio::spawn(shared.clone().keep_time());
            self.tell_dependents(&shared.names);
            shared.handle(machine::Input::Tick);
        }
        Ok(())
    }

    fn resume_one(
        self: &Arc<Self>,
        store: &store::Store,
        logs: &logs::Logs,
        contents: &Contents,
        kept: &store::Service,
        records: Records,
        remains: &mut Remains,
    ) -> Result<Arc<Shared>, Error> {
        let Records {
            plans,
            service,
            slots,
        } = records;
        let newest = plans.get(&service.generation).cloned();
        let newest = newest.ok_or_else(|| damaged("its definition is missing"))?;
        let log = logs.open(&format!("{:016x}", kept.id), newest.log_bytes);
        let log = log.map_err(|error| super::instance::log_failed(&error))?;
        let names = names(kept);
        let place = self.tree.reserve_closed(&names);
        let place = place.map_err(|error| Error::new(Code::Occupied, error.to_string()))?;
        let mut found = BTreeMap::new();
        let mut instances = BTreeMap::new();
        let mut adopted = Vec::new();
        let mut watched = Vec::new();
        for row in rows(contents, kept).filter(|row| row.number != SLOT) {
            let id = id(row);
            let left = self.look_for(row, remains)?;
            if !matches!(left.found, Found::Gone { .. }) {
                // An update may have left the process, and given it another definition.
                let slot = slots.get(&row.slot).into_iter();
                let mut own = slot.flat_map(|slot| &slot.instances);
                let own = own.find(|one| one.number == row.number);
                let generation = own.map_or(row.generation, |own| own.generation);
                let plan = plans.get(&generation).unwrap_or(&newest);
                let mut instance =
                    Instance::adopted(row.mark.clone(), left.session.clone(), left.tree, left.why);
                instance.sockets.clone_from(&plan.sockets);
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
                if left.found == Found::Foreign && instance.tree().is_some() {
                    watched.push(id);
                }
                if let Some(session) = left.session {
                    adopted.push((id, session, plan.clone()));
                }
                instances.insert(id, instance);
            }
            found.insert(id, left.found);
        }
        let mut sockets = Held::default();
        if service.want == Want::Up {
            let descriptors = &self.runtime.descriptors;
            sockets.recover(&plans, instances.values(), &remains.table, descriptors);
        }
        let policies = plans.iter();
        let policies = policies.map(|(generation, plan)| (*generation, plan.policy.clone()));
        let slots = slots.into_values().collect();
        let machine = Machine::resume(
            service,
            slots,
            policies.collect(),
            &found,
            self.random(),
            now(),
        );
        let parts = Parts {
            services: self.clone(),
            store: store.clone(),
            names,
            id: kept.id,
            log: Some(log),
            machine,
            written: Written::before(plans.keys().copied()),
            plans,
            instances,
            sockets,
            held_back: None,
        };
        let shared = parts.assembled();
        place.commit(shared.view(View::Whole).into_element());
        self.add(&shared)?;
        for id in watched {
            shared.watch_tree(&shared.state.lock(), id);
        }
        for (id, session, plan) in adopted {
            let mark = shared.mark(id);
            if let Err(error) = shared.listen_again(id, &plan, &mark) {
                tracing::warn!("{}/{} is not heard any more: {error}", kept.path, id.slot);
            }
            info!(
                "{}/{} goes on as process {}",
                kept.path,
                id.slot,
                session.identity().pid.as_raw_nonzero()
            );
            let shared = shared.clone();
            tokio::spawn(async move { shared.wait_for(&session, id).await });
        }
        Ok(shared)
    }

    /// Shows a service that cannot go on. What there is of it is left alone, and so is what is kept.
    fn hold_back(
        self: &Arc<Self>,
        store: &store::Store,
        contents: &Contents,
        kept: &store::Service,
        why: &Error,
    ) -> Result<Arc<Shared>, Error> {
        let names = names(kept);
        let place = self.tree.reserve_closed(&names);
        let place = place.map_err(|error| Error::new(Code::Occupied, error.to_string()))?;
        let rows = rows(contents, kept).filter(|row| row.number != SLOT);
        let found: BTreeMap<InstanceId, Found> =
            rows.map(|row| (id(row), Found::Foreign)).collect();
        let generation = kept.definition.generation;
        let service = ServiceRecord {
            want: want(kept.intent),
            generation,
            instances: found.keys().map(|id| id.slot).max().unwrap_or(0),
            first_number: 1,
            roll: None,
            restarts: BTreeSet::new(),
        };
        let policies = BTreeMap::from([(generation, Policy::default())]);
        let machine = Machine::resume(service, Vec::new(), policies, &found, self.random(), now());
        let parts = Parts {
            services: self.clone(),
            store: store.clone(),
            names,
            id: kept.id,
            log: None,
            machine,
            written: Written::default(),
            plans: BTreeMap::new(),
            instances: BTreeMap::new(),
            sockets: Held::default(),
            held_back: Some(format!("it does not go on: {}", why.message)),
        };
        let shared = parts.assembled();
        *shared.remark.lock() = Some("stuck");
        place.commit(shared.view(View::Whole).into_element());
        self.add(&shared)?;
        Ok(shared)
    }

    /// Looks what is left of an instance.
    fn look_for(&self, row: &store::Instance, remains: &Remains) -> Result<Left, Error> {
        let end = End::Unknown;
        let gone = || Left::unseen(Found::Gone { end }, None);
        if let Ok(there) = serde_json::from_str::<Here>(&row.state)
            && there.pid_namespace != remains.here.pid_namespace
        {
            // The server that was process 1 there has ended, as this one has its directory: all of them have.
            return Ok(match there.boot != remains.here.boot || there.is_first {
                true => gone(),
                false => Left::unseen(Found::Foreign, Some(ELSEWHERE)),
            });
        }
        let cgroup = remains.cgroups.get(&row.mark).cloned();
        let mut with_mark = remains.marked.get(&row.mark).cloned().unwrap_or_default();
        with_mark.extend(cgroup.iter().flat_map(Cgroup::members));
        let main = match &row.identity {
            Some(identity) if identity.boot != remains.here.boot => return Ok(gone()),
            Some(identity) => process(identity),
            // The start was not recorded: the mark alone tells. The main process began the session.
            None => with_mark
                .iter()
                .copied()
                .find(|process| remains.table.leads(process.pid)),
        };
        // A mark that can be read and is another one says that this is somebody else.
        let is_other = |main: &Identity| mark_of(main.pid).is_some_and(|mark| mark != row.mark);
        let main = main.filter(|main| !is_other(main));
        let Some(any) = main.or_else(|| with_mark.first().copied()) else {
            return Ok(gone());
        };
        let tree = Arc::new(tree(any, &row.mark, cgroup));
        let left = |found, session, why| Left {
            found,
            session,
            tree: Some(tree.clone()),
            why,
        };
        if let Some(main) = main {
            let taken = self.runtime.descriptors.take(User::Processes, 1).ok();
            match taken.and_then(|taken| Session::adopt(main, taken)) {
                Some(session) if session.is_alive() => {
                    let pid = main.pid.as_raw_nonzero().get().unsigned_abs();
                    return Ok(left(Found::Main { pid }, Some(Arc::new(session)), None));
                }
                None if Identity::of(main.pid) == Some(main) => {
                    return Ok(left(Found::Foreign, None, Some(SHORT)));
                }
                // It has ended. Others of its tree may live.
                _ => (),
            }
        }
        let members = remains.table.members_of_unwatched(&tree);
        Ok(match members.map_err(|error| internal(&error))?.first() {
            None => gone(),
            // The number of the main process may be another group's by now.
            Some(any) => Left {
                tree: Some(Arc::new(self::tree(*any, &row.mark, tree.cgroup.clone()))),
                ..left(Found::Rest { end }, None, None)
            },
        })
    }

    /// Kills all that are in these cgroups, and removes them.
    fn empty_cgroups(&self, cgroups: BTreeMap<String, Cgroup>) {
        for (mark, cgroup) in cgroups {
            match cgroup.members().first() {
                Some(main) => {
                    let tree = tree(*main, &mark, Some(cgroup));
                    self.watcher.kill(&Arc::new(tree));
                }
                None => cgroup.remove(),
            }
        }
    }
}

/// What is left of the processes of a server of this user that was killed and had no `-var`. Blocks.
pub(super) fn left_behind(contents: &Contents) -> std::io::Result<Vec<Tree>> {
    let mut trees = Vec::new();
    // Main processes are known by their identities, whether or not their marks can be read.
    let here = Here::find()?;
    for row in &contents.instances {
        let Some(identity) = &row.identity else {
            continue;
        };
        if identity.boot != here.boot || identity.pid_namespace != here.pid_namespace {
            continue;
        }
        if let Some(main) = process(identity)
            && Identity::read(main.pid)? == Some(main)
            && mark_of(main.pid).is_none_or(|mark| mark == row.mark)
        {
            trees.push(tree(main, &row.mark, None));
        }
    }
    for (mark, cgroup) in left_cgroups(&Cgroups::find(), contents) {
        match cgroup.members().first().copied() {
            Some(main) => trees.push(tree(main, &mark, Some(cgroup))),
            None => cgroup.remove(),
        }
    }
    let ids = ids(contents);
    let marked = Table::read()?.marked(|mark| is_of(mark, &ids));
    trees.extend(marked.iter().map(|(main, mark)| tree(*main, mark, None)));
    Ok(trees)
}

impl Remains {
    /// Takes nothing of this service for left over.
    fn leave_alone(&mut self, id: u64) {
        let ids = BTreeSet::from([format!("{id:016x}")]);
        self.marked.retain(|mark, _| !is_of(mark, &ids));
        self.pipes.retain(|pipe| !is_of(pipe, &ids));
        self.cgroups.retain(|mark, _| !is_of(mark, &ids));
    }
}

impl Records {
    fn read(contents: &Contents, kept: &store::Service) -> Result<Records, Error> {
        let mut service: ServiceRecord = serde_json::from_str(&kept.state)
            .map_err(|error| damaged(&format!("its state cannot be read: {error}")))?;
        service.want = want(kept.intent);
        let mut plans = BTreeMap::new();
        for kept in kept.others.iter().chain([&kept.definition]) {
            let plan = Plan::read_again(&kept.text, &kept.looked_up)?;
            plans.insert(kept.generation, Arc::new(plan));
        }
        // A scale is kept in the state.
        if let Some(newest) = plans.get_mut(&service.generation)
            && newest.policy.instances != service.instances
            && let Ok(instances) = u16::try_from(service.instances)
        {
            *newest = Arc::new(newest.with_instances(instances)?);
        }
        let mut slots: BTreeMap<u32, SlotRecord> = BTreeMap::new();
        for slot in contents.slots.iter().filter(|slot| slot.service == kept.id) {
            if let Ok(record) = serde_json::from_str::<SlotRecord>(&slot.state) {
                slots.insert(slot.slot, record.after_reboot());
            }
        }
        // What was noted in this boot is newer.
        for row in rows(contents, kept).filter(|row| row.number == SLOT) {
            if let Ok(record) = serde_json::from_str::<SlotRecord>(&row.state) {
                slots.insert(row.slot, record);
            }
        }
        Ok(Records {
            plans,
            service,
            slots,
        })
    }
}

fn damaged(what: &str) -> Error {
    Error::new(Code::Internal, what)
}

fn want(intent: store::Intent) -> Want {
    match intent {
        store::Intent::Up => Want::Up,
        store::Intent::Down => Want::Down,
        store::Intent::Scrub => Want::Scrubbed,
    }
}

fn names(kept: &store::Service) -> Names {
    kept.path.split('/').map(str::to_owned).collect()
}

/// What is noted of a service.
fn rows<'a>(
    contents: &'a Contents,
    kept: &store::Service,
) -> impl Iterator<Item = &'a store::Instance> + use<'a> {
    let id = kept.id;
    contents
        .instances
        .iter()
        .filter(move |row| row.service == id)
}

fn id(row: &store::Instance) -> InstanceId {
    InstanceId {
        slot: row.slot,
        number: row.number,
    }
}

/// The ids of all services, as marks begin with them.
fn ids(contents: &Contents) -> BTreeSet<String> {
    let ids = contents.services.iter().map(|one| one.id);
    ids.map(|id| format!("{id:016x}")).collect()
}

/// Whether a mark, or the name of a pipe, is of one of these services.
fn is_of(mark: &str, ids: &BTreeSet<String>) -> bool {
    mark.split('.').next().is_some_and(|id| ids.contains(id))
}

fn process(identity: &store::Identity) -> Option<Identity> {
    let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
    let start = identity.start;
    Some(Identity { pid, start })
}

/// The cgroups of the instances of these services, by mark. Blocks.
fn left_cgroups(cgroups: &Cgroups, contents: &Contents) -> BTreeMap<String, Cgroup> {
    let recorded = contents.instances.iter();
    let all = cgroups.beside(recorded.filter_map(|row| row.cgroup.as_deref()));
    let named = all
        .into_iter()
        .map(|cgroup| (cgroup.name().to_owned(), cgroup));
    let ids = ids(contents);
    named.filter(|(mark, _)| is_of(mark, &ids)).collect()
}

/// A tree of an earlier life.
fn tree(main: Identity, mark: &str, cgroup: Option<Cgroup>) -> Tree {
    Tree {
        cgroup,
        main,
        mark: Some(mark.to_owned()),
        is_older: true,
    }
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
