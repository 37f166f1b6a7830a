//! A service element: keeps processes running in numbered slots.
//!
//! [`machine`] decides; this file and those beside it carry out. A [`Shared`] is one service: its machine
//! under a lock, and what runs for it. An element is a view of one: of the whole, of a slot, or of an instance
//! that is being replaced. [`registry`] has what all services of a server share.
//!
//! What the machine asks for begins under the lock, in its order; what takes time goes on in tasks, which
//! tell the machine of the result.
//!
//! **Cancellation:** nobody who asks or waits owns anything: an intent goes on without them.

mod command;
mod definition;
mod instance;
mod kept;
#[allow(dead_code)]
pub(crate) mod machine;
mod notify;
mod probe;
pub mod registry;
mod sockets;
mod status;
mod watcher;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::service::{MAX_SLOTS, Op, Outcome, Query, Scale, Status};
use circuit_proto::element::streams::Reach;
use circuit_proto::{Code, ElementKind, Error};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::debug;

use self::definition::Plan;
use self::instance::Instance;
use self::machine::{
    Generation, Input, InstanceId, Intent, Keep, Machine, Output, Refused, Ticket,
};
use self::registry::Services;
use self::sockets::Held;
use super::{Element, Kind, Lifecycle, signals};
use crate::anchor::Names;
use crate::logs::{Log, Reader};
use crate::store::{Flushed, Store};

pub use instance::{line, log_failed, read_log};

/// A service, one of its slots, or an instance that is being replaced, as an element.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    view: View,
}

/// What of a service an element shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    Whole,
    Slot(u32),
    Old(InstanceId),
}

/// One service.
#[derive(Debug)]
pub(super) struct Shared {
    services: Arc<Services>,
    store: Store,
    /// Where it is in the tree.
    names: Names,
    /// Its random id, with which its marks begin.
    id: u64,
    log: Mutex<Option<Log>>,
    state: Mutex<State>,
    /// Notified when the machine's deadline may have changed.
    timer: Notify,
    /// Notified after each change.
    changed: Notify,
    /// How many slots are ready, and how many there are to be, for listings, which hold the lock of the tree.
    ready: AtomicU32,
    slots: AtomicU32,
    /// What else there is to say in a listing.
    remark: Mutex<Option<&'static str>>,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    plans: BTreeMap<Generation, Arc<Plan>>,
    instances: BTreeMap<InstanceId, Instance>,
    /// Instances of which nothing is left but last words in their pipes.
    draining: BTreeSet<InstanceId>,
    sockets: Held,
    /// What became of the last intents.
    outcomes: BTreeMap<u64, machine::Outcome>,
    /// The last intent.
    last: u64,
    /// Whether it leaves the tree by itself once it is scrubbed.
    leaves: bool,
    /// Whether it has been scrubbed.
    gone: bool,
    /// Whether the server's end has stopped it.
    ended: bool,
    /// The definition that is kept.
    kept: Option<Arc<Plan>>,
    /// What of each slot is kept for after a start of the host, as it was written last.
    kept_slots: BTreeMap<u32, kept::Lasting>,
    /// The last change of what is kept.
    flushed: Option<Flushed>,
}

/// How many outcomes are remembered for those who will ask. Chosen, not measured.
const OUTCOMES: usize = 256;

/// How long a scrub waits for the end of the service before it answers that it goes on. Chosen: below the
/// callers' own deadline of five seconds.
const SCRUB_WAIT: Duration = Duration::from_secs(3);

/// How long the last words of an instance that failed are waited for. Chosen: its descendants may hold its
/// pipes for longer.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How many of the last lines of its output the failure of a first start shows.
const LAST_LINES: usize = 10;

impl Service {
    /// Makes a service in its place, and has it up unless it is to be down. Returns the number of that intent.
    pub async fn make(
        services: &Arc<Services>,
        names: Names,
        definition: String,
        down: bool,
        commit: impl FnOnce(Arc<Service>),
    ) -> Result<u64, Error> {
        let read = services
            .runtime
            .looking
            .run(move || Plan::read(&definition));
        let plan = Arc::new(read.await??);
        services.check_order(&names, &plan)?;
        let store = services.kept().await?.store.clone();
        let id = services.random();
        let log = services.log(id, plan.log_bytes).await?;
        let mut sockets = Held::default();
        if !down {
            sockets.set(&plan.sockets, &services.runtime.descriptors)?;
        }
        let now = registry::now();
        let machine = Machine::new(plan.policy.clone(), services.random(), now);
        let shared = Arc::new(Shared {
            services: services.clone(),
            store,
            id,
            log: Mutex::new(Some(log)),
            state: Mutex::new(State {
                machine,
                plans: BTreeMap::from([(1, plan)]),
                instances: BTreeMap::new(),
                draining: BTreeSet::new(),
                sockets,
                outcomes: BTreeMap::new(),
                last: 0,
                leaves: false,
                gone: false,
                ended: false,
                kept: None,
                kept_slots: BTreeMap::new(),
                flushed: None,
            }),
            timer: Notify::new(),
            changed: Notify::new(),
            ready: AtomicU32::new(0),
            slots: AtomicU32::new(0),
            remark: Mutex::default(),
            names,
        });
        services.add(&shared);
        commit(shared.view(View::Whole));
        tokio::spawn(shared.clone().keep_time());
        let intent = if down { Intent::Down } else { Intent::Up };
        shared.intend(intent, |_| None)?.recorded().await
    }

    /// Takes another definition in place of the present one.
    pub async fn update(&self, definition: String) -> Result<u64, Error> {
        let plan = self.read_update(definition).await?;
        self.shared
            .services
            .check_order(&self.shared.names, &plan)?;
        let policy = plan.policy.clone();
        let unchanged = {
            let state = self.shared.state.lock();
            let plans = state.plans.iter();
            let same = plans.filter(|(_, old)| old.has_same_process(&plan));
            same.map(|(generation, _)| *generation).collect()
        };
        if let Some(log) = &*self.shared.log.lock() {
            log.set_bytes(plan.log_bytes);
        }
        {
            // Those that are new are bound first: if one cannot be, nothing changes.
            let mut state = self.shared.state.lock();
            if state.machine.view().want == machine::Want::Up {
                let descriptors = &self.shared.services.runtime.descriptors;
                state.sockets.set(&plan.sockets, descriptors)?;
            }
        }
        let intent = Intent::Update {
            policy: Box::new(policy),
            unchanged,
        };
        self.shared.intend(intent, |_| Some(plan))?.recorded().await
    }

    /// What [`update`](Service::update) would do, in lines for people.
    pub async fn check(&self, definition: String) -> Result<Vec<String>, Error> {
        let plan = self.read_update(definition).await?;
        let state = self.shared.state.lock();
        let Some(newest) = state.newest() else {
            return Ok(Vec::new());
        };
        let fields = newest.differences(&plan);
        if fields.is_empty() {
            return Ok(vec!["nothing would change".to_owned()]);
        }
        let rolled = match newest.has_same_process(&plan) {
            true => "no instance would be replaced",
            false => "all instances would be replaced",
        };
        Ok(vec![
            format!("would change: {}", fields.join(", ")),
            rolled.to_owned(),
        ])
    }

    async fn read_update(&self, definition: String) -> Result<Arc<Plan>, Error> {
        self.only_whole("mksvc -update")?;
        let looking = &self.shared.services.runtime.looking;
        let mut plan = looking.run(move || Plan::read(&definition)).await??;
        if plan.instances().is_none() {
            let view = self.shared.state.lock().machine.view();
            plan.policy.instances = view.instances;
        }
        Ok(Arc::new(plan))
    }

    /// Records what a person wants. Returns the number of that intent.
    pub fn intend(&self, op: &Op) -> Result<Intended, Error> {
        let intent = match (op, self.view) {
            (Op::Restart { now }, View::Whole) => Intent::Restart {
                slot: None,
                now: *now,
            },
            (Op::Restart { now }, View::Slot(slot)) => Intent::Restart {
                slot: Some(slot),
                now: *now,
            },
            (Op::Up, View::Whole) => Intent::Up,
            (Op::Down, View::Whole) => Intent::Down,
            (Op::Reload, View::Whole) => Intent::Reload,
            _ => return Err(self.only_whole(op.name()).err().unwrap_or_else(not_taken)),
        };
        self.shared.intend(intent, |_| None)
    }

    /// Changes the number of slots.
    pub fn scale(&self, by: Scale) -> Result<(u16, u16, Intended), Error> {
        self.only_whole("scale")?;
        let (from, to, plan) = {
            let state = self.shared.state.lock();
            let from = state.machine.view().instances;
            let to = match by {
                Scale::To(to) => i64::from(to),
                Scale::By(by) => i64::from(from) + i64::from(by),
            };
            let to = u16::try_from(to).ok().filter(|to| *to <= MAX_SLOTS);
            let to = to.ok_or_else(|| {
                let message = format!("there are {from} slots: from 0 to {MAX_SLOTS} is possible");
                Error::new(Code::InvalidArgument, message)
            })?;
            let newest = state.newest().ok_or_else(not_taken)?;
            (from, to, newest.with_instances(to)?)
        };
        let same_definition = move |generation: Generation| (generation, Arc::new(plan));
        let intent = self
            .shared
            .intend_with(Intent::Scale(u32::from(to)), |state| {
                let generation = state.machine.view().generation;
                let (generation, plan) = same_definition(generation);
                state.plans.insert(generation, plan);
            })?;
        let from = u16::try_from(from).unwrap_or(MAX_SLOTS);
        Ok((from, to, intent))
    }

    /// Sends a signal to its instances.
    pub async fn signal(&self, name: &str, reach: Reach) -> Result<(), Error> {
        let signal = signals::parse(name).ok_or_else(|| signals::unknown(name))?;
        let targets = {
            let state = self.shared.state.lock();
            let all = state.instances.iter();
            let wanted = all.filter(|(id, _)| match self.view {
                View::Whole => true,
                View::Slot(slot) => id.slot == slot,
                View::Old(old) => **id == old,
            });
            wanted
                .filter_map(|(_, instance)| instance.running())
                .collect::<Vec<_>>()
        };
        if targets.is_empty() {
            return Err(Error::new(Code::Closed, "no instance runs"));
        }
        let services = &self.shared.services;
        services.signal(targets, signal, reach).await
    }

    /// Waits until an intent is reached or never will be.
    pub async fn watch(&self, intent: u64) -> Result<Outcome, Error> {
        let shared = &self.shared;
        let outcome = shared
            .until(|state| {
                if let Some(outcome) = state.outcomes.get(&intent) {
                    return Some(Ok(outcome.clone()));
                }
                let oldest = state.outcomes.keys().next();
                if intent > state.last || oldest.is_some_and(|oldest| intent < *oldest) {
                    let message = format!("no intent has the number {intent} any more");
                    return Some(Err(Error::new(Code::NoSuchElement, message)));
                }
                state.gone.then(|| Err(scrubbed()))
            })
            .await?;
        Ok(match outcome {
            machine::Outcome::Reached => Outcome::Reached,
            machine::Outcome::Superseded { verb, .. } => Outcome::Superseded {
                by: verb.to_string(),
            },
            machine::Outcome::Failed(failure) => {
                let id = InstanceId {
                    slot: failure.slot,
                    number: failure.number,
                };
                // Its last words say why. One that only does not become ready has none.
                let is_dry = |state: &mut State| {
                    let left = state.instances.contains_key(&id) || state.draining.contains(&id);
                    (!left).then_some(())
                };
                let _ = tokio::time::timeout(LAST_WORDS, shared.until(is_dry)).await;
                Outcome::Failed {
                    why: failure.to_string(),
                    log: shared.last_lines(id).await,
                }
            }
        })
    }

    /// Waits until all slots are ready, or, if that is not what is waited for, until none is meant to go on.
    pub async fn wait(&self, ready: bool) -> Result<Outcome, Error> {
        let view = self.view;
        let only = match view {
            View::Whole => None,
            View::Slot(slot) => Some(slot),
            View::Old(id) => Some(id.slot),
        };
        let is_so = move |state: &mut State| {
            use machine::State::{Down, Failed, Finished, Ready};
            if state.gone {
                return Some(Err(scrubbed()));
            }
            let seen = state.machine.view();
            let mut slots = seen
                .slots
                .iter()
                .filter(|slot| only.is_none_or(|only| slot.slot == only));
            let done = match ready {
                true => slots.all(|slot| slot.state == Ready),
                false => slots.all(|slot| matches!(slot.state, Down | Failed | Finished)),
            };
            done.then_some(Ok(Outcome::Reached))
        };
        self.shared.until(is_so).await
    }

    /// Waits until nothing of it is meant to go on: of a slot, until its instance has gone. Its status then.
    pub async fn ended(&self) -> Result<Status, Error> {
        self.wait(false).await?;
        Ok(self.shared.status(self.slot()))
    }

    /// Reads its retained output.
    pub fn logs(&self, query: &Query) -> Result<Reader, Error> {
        self.shared.read_log(query, self.slot())
    }

    /// `2/3 ready`, and why no more are: `0/1 ready, down`.
    pub fn note(&self) -> String {
        match self.view {
            View::Whole => {
                let count = |count: &AtomicU32| count.load(Ordering::Relaxed);
                let (ready, slots) = (count(&self.shared.ready), count(&self.shared.slots));
                let remark = *self.shared.remark.lock();
                let remark = remark.map_or_else(String::new, |remark| format!(", {remark}"));
                format!("{ready}/{slots} ready{remark}")
            }
            View::Slot(_) | View::Old(_) => String::new(),
        }
    }

    fn slot(&self) -> Option<u32> {
        match self.view {
            View::Whole => None,
            View::Slot(slot) => Some(slot),
            View::Old(id) => Some(id.slot),
        }
    }

    fn only_whole(&self, what: &str) -> Result<(), Error> {
        match self.view {
            View::Whole => Ok(()),
            View::Slot(_) | View::Old(_) => Err(Error::new(
                Code::InvalidArgument,
                format!(
                    "a slot does not take {what}: it is for the whole service, {}",
                    self.shared.path()
                ),
            )),
        }
    }
}

/// An intent that was taken, and is about to be recorded.
#[derive(Debug)]
#[must_use]
pub struct Intended {
    number: u64,
    flushed: Option<Flushed>,
}

impl Intended {
    /// Its number, once it is recorded.
    pub async fn recorded(self) -> Result<u64, Error> {
        kept::flushed(self.flushed).await?;
        Ok(self.number)
    }
}

fn not_taken() -> Error {
    Error::new(Code::Internal, "a service without a definition")
}

fn scrubbed() -> Error {
    Error::new(Code::Aborted, "the element was scrubbed")
}

impl State {
    /// The newest definition.
    fn newest(&self) -> Option<&Arc<Plan>> {
        self.plans.get(&self.machine.view().generation)
    }

    fn plan(&self, generation: Generation) -> Option<Arc<Plan>> {
        self.plans.get(&generation).cloned()
    }
}

impl Shared {
    fn view(self: &Arc<Self>, view: View) -> Arc<Service> {
        let shared = self.clone();
        Arc::new(Service { shared, view })
    }

    /// Its path below its server's own.
    pub(super) fn path(&self) -> String {
        self.names.join("/")
    }

    fn names_of(&self, view: View) -> Names {
        let mut names = self.names.clone();
        match view {
            View::Whole => (),
            View::Slot(slot) => names.push(slot.to_string()),
            View::Old(id) => names.push(format!("{}.{}", id.slot, id.number)),
        }
        names
    }

    /// Takes an intent. `plan` gives the definition of its new generation, if it has one.
    fn intend(
        self: &Arc<Self>,
        intent: Intent,
        plan: impl FnOnce(Generation) -> Option<Arc<Plan>>,
    ) -> Result<Intended, Error> {
        self.intend_with(intent, |state| {
            let generation = state.machine.view().generation;
            if let Some(plan) = plan(generation) {
                state.plans.insert(generation, plan);
            }
        })
    }

    fn intend_with(
        self: &Arc<Self>,
        intent: Intent,
        then: impl FnOnce(&mut State),
    ) -> Result<Intended, Error> {
        let verb = intent.verb();
        let mut state = self.state.lock();
        let down = matches!(intent, Intent::Down | Intent::Scrub);
        let descriptors = &self.services.runtime.descriptors;
        if matches!(intent, Intent::Up)
            && let Some(plan) = state.newest().cloned()
        {
            state.sockets.set(&plan.sockets, descriptors)?;
        }
        let taken = state.machine.intend(intent, registry::now());
        let Ticket(ticket) = taken.map_err(|refused| self.refused(refused, &verb.to_string()))?;
        state.last = state.last.max(ticket);
        then(&mut state);
        if down {
            state.sockets.close();
        }
        self.drain(&mut state);
        Ok(Intended {
            number: ticket,
            flushed: state.flushed.take(),
        })
    }

    fn refused(&self, refused: Refused, verb: &str) -> Error {
        let path = self.path();
        match refused {
            Refused::Down => Error::new(
                Code::InvalidArgument,
                format!("{path} is down: up it first"),
            ),
            Refused::NoReload => Error::new(
                Code::InvalidArgument,
                format!("{path} has no Reload in its definition: there is nothing to do"),
            ),
            Refused::NoSlot => Error::new(Code::NoSuchElement, format!("{path} has no such slot")),
            Refused::Scrubbed => Error::new(
                Code::Closed,
                format!("{path} is being scrubbed: it takes no {verb}"),
            ),
            Refused::Ending => Error::new(Code::Closed, "the server ends"),
        }
    }

    /// Tells the machine of something.
    fn handle(self: &Arc<Self>, input: Input) {
        let mut state = self.state.lock();
        state.machine.handle(input, registry::now());
        self.drain(&mut state);
    }

    /// Carries out what the machine asks for.
    fn drain(self: &Arc<Self>, state: &mut State) {
        let mut counts = false;
        while let Some(output) = state.machine.poll_output() {
            counts |= matches!(
                output,
                Output::Readiness { .. }
                    | Output::SlotMade { .. }
                    | Output::SlotGone { .. }
                    | Output::Keep(_)
            );
            self.carry_out(state, output);
        }
        self.leave_once_scrubbed(state);
        if counts {
            let seen = state.machine.view();
            self.ready.store(seen.ready, Ordering::Relaxed);
            self.slots.store(seen.instances, Ordering::Relaxed);
            *self.remark.lock() = status::remark(&seen);
        }
        self.timer.notify_one();
        self.changed.notify_waiters();
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, output: Output) {
        debug!(service = %self.path(), ?output);
        match output {
            Output::SlotMade { slot } => self.put(View::Slot(slot)),
            Output::SlotGone { slot } => self.remove(View::Slot(slot)),
            Output::Place { instance, old } => match old {
                true => self.put(View::Old(instance)),
                false => self.remove(View::Old(instance)),
            },
            Output::InstanceGone { instance } => {
                self.remove(View::Old(instance));
                self.forget_instance(instance);
                if let Some(gone) = state.instances.remove(&instance) {
                    state.draining.insert(instance);
                    let (shared, pipes) = (self.clone(), gone.end());
                    tokio::spawn(async move {
                        for pipe in pipes {
                            pipe.await;
                        }
                        shared.state.lock().draining.remove(&instance);
                        shared.changed.notify_waiters();
                    });
                }
            }
            Output::Ask { slot } => self.services.ask(self, slot),
            // One that comes all the same does no harm.
            Output::Unask { .. } => (),
            Output::Spawn {
                instance,
                generation,
            } => self.spawn(state, instance, generation),
            Output::Abandon { instance } => {
                if let Some(found) = state.instances.get_mut(&instance) {
                    found.abandon();
                }
            }
            Output::Run {
                instance,
                command,
                generation,
            } => self.run(state, instance, command, generation),
            Output::KillCommand { instance, command } => {
                if let Some(found) = state.instances.get(&instance) {
                    found.kill_command(command, &self.services.watcher);
                }
            }
            Output::Signal { instance, signal } => {
                if let Some(found) = state.instances.get(&instance) {
                    found.signal(signal);
                }
            }
            Output::SignalRest { instance } => {
                if let Some(running) = state.instances.get(&instance).and_then(Instance::running) {
                    self.services.signal_rest(running);
                }
            }
            Output::KillTree { instance } => {
                if let Some(running) = state.instances.get(&instance).and_then(Instance::running) {
                    self.services.watcher.kill(&running.tree);
                }
            }
            Output::Watch { instance } => self.watch_tree(state, instance),
            Output::Probe {
                instance,
                probe,
                timeout,
                generation,
            } => self.probe(state, instance, probe, timeout, generation),
            Output::EndProbe { instance, probe } => {
                if let Some(found) = state.instances.get_mut(&instance) {
                    found.end_probe(probe);
                }
            }
            Output::Sample { instance } => self.sample(state, instance),
            Output::Readiness { .. } => self.services.tell_dependents(&self.names),
            Output::Event(event) => {
                let event = status::event(&self.services, self, &event);
                self.services.tell(event);
            }
            Output::Keep(Keep::Service) => {
                self.keep_service(state);
                self.services.tell_dependents(&self.names);
            }
            Output::Keep(Keep::Slot(slot)) => self.keep_slot(state, slot),
            Output::Forget { generation } => {
                state.plans.remove(&generation);
            }
            Output::Settled { ticket, outcome } => {
                state.outcomes.insert(ticket.0, outcome);
                while state.outcomes.len() > OUTCOMES {
                    state.outcomes.pop_first();
                }
            }
            Output::Ended => state.ended = true,
        }
    }

    /// Forgets the service once it has been scrubbed, also if that was wanted in a life before.
    fn leave_once_scrubbed(&self, state: &mut State) {
        let view = state.machine.view();
        if state.gone || view.want != machine::Want::Scrubbed || !view.slots.is_empty() {
            return;
        }
        state.gone = true;
        self.forget_record();
        self.forget();
        // Others that start after it are told that it is missing.
        self.services.tell_dependents(&self.names);
        if state.leaves {
            let same = |found: &Element| self.is_shown_by(found);
            self.services.tree.remove_if(&self.names, same);
        }
    }

    fn put(self: &Arc<Self>, view: View) {
        let element = self.view(view).into_element();
        self.services.tree.put(self.names_of(view), element);
    }

    fn remove(&self, view: View) {
        let same = |found: &Element| self.is_shown_by(found);
        self.services.tree.remove_if(&self.names_of(view), same);
    }

    fn is_shown_by(&self, element: &Element) -> bool {
        Service::of(element).is_some_and(|found| std::ptr::eq(&*found.shared, self))
    }

    /// What is left of it, but for the tree.
    fn forget(&self) {
        self.services.remove(&self.names);
        if let Some(log) = self.log.lock().take() {
            tokio::spawn(log.forget());
        }
    }

    /// Lasts until the service is scrubbed; tells the machine of the time whenever it is due.
    async fn keep_time(self: Arc<Self>) {
        loop {
            let (deadline, gone) = {
                let state = self.state.lock();
                (state.machine.deadline(), state.gone)
            };
            if gone {
                return;
            }
            let now = registry::now();
            match deadline {
                None => self.timer.notified().await,
                Some(deadline) if deadline <= now => self.handle(Input::Tick),
                Some(deadline) => {
                    tokio::select! {
                        () = tokio::time::sleep(deadline - now) => (),
                        () = self.timer.notified() => (),
                    }
                }
            }
        }
    }

    /// Resolves once `is_so` gives a value; it is asked again after each change.
    async fn until<T>(&self, mut is_so: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(value) = is_so(&mut self.state.lock()) {
                return value;
            }
            changed.await;
        }
    }

    /// Whether and how others that start after it may start.
    fn after_state(&self) -> machine::AfterState {
        use machine::State::{Finished, Ready};
        let view = self.state.lock().machine.view();
        if view.want != machine::Want::Up {
            return machine::AfterState::Down;
        }
        match view
            .slots
            .iter()
            .all(|slot| matches!(slot.state, Ready | Finished))
        {
            true => machine::AfterState::Ready,
            false => machine::AfterState::NotReady,
        }
    }

    /// The services that it starts after.
    fn after(&self) -> Vec<String> {
        let state = self.state.lock();
        state
            .newest()
            .map_or_else(Vec::new, |plan| plan.policy.after.clone())
    }
}

impl Lifecycle for Service {
    fn kind(&self) -> ElementKind {
        match self.view {
            View::Whole => ElementKind::Service,
            View::Slot(_) | View::Old(_) => ElementKind::Slot,
        }
    }

    async fn status(&self) -> Result<AnyStatus, Error> {
        let status = self.shared.status(self.slot());
        Ok(match status {
            Status::Service(_) => AnyStatus::Service(status),
            Status::Slot(_) => AnyStatus::Slot(status),
        })
    }

    async fn retire(&self) -> Result<(), Error> {
        if self.view != View::Whole {
            let message = format!(
                "a slot goes with its service: scale {} instead",
                self.shared.path()
            );
            return Err(Error::new(Code::Refused, message));
        }
        let intent = self.shared.intend(Intent::Scrub, |_| None)?;
        let intent = intent.recorded().await?;
        let settled = self.shared.until(|state| {
            let stuck = state.outcomes.get(&intent).cloned();
            state.gone.then_some(None).or(stuck.map(Some))
        });
        match tokio::time::timeout(SCRUB_WAIT, settled).await {
            Ok(None | Some(machine::Outcome::Reached)) => Ok(()),
            Ok(Some(other)) => {
                self.shared.state.lock().leaves = true;
                let message = match other {
                    machine::Outcome::Failed(failure) => {
                        let stuck = self.shared.stuck();
                        format!("{failure}: {stuck}")
                    }
                    _ => "somebody else scrubs it".to_owned(),
                };
                Err(Error::new(Code::Busy, message))
            }
            Err(_) => {
                self.shared.state.lock().leaves = true;
                Err(Error::new(
                    Code::Busy,
                    "it is being stopped, and is scrubbed when nothing is left of it: this goes on",
                ))
            }
        }
    }

    async fn scrubbed(&self) {}

    async fn shutdown(&self) {
        if self.view == View::Whole {
            self.shared.services.end(&self.shared).await;
        }
    }
}
