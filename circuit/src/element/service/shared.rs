//! One service: its machine under a lock, and what carries out what the machine asks for.
//!
//! What the machine asks for begins under the lock, in its order; what takes time goes on in tasks, which
//! tell the machine of the result.
//!
//! **Invariant:** the lock of a service comes before the lock of the tree of anchors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use circuit_proto::{Code, Error};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::debug;

use super::definition::Plan;
use super::instance::Instance;
use super::kept::{self, Written};
use super::machine::{
    self, Generation, Input, InstanceId, Intent, Keep, Machine, Output, Refused, Ticket,
};
use super::queue::Places;
use super::registry::{self, Services};
use super::sockets::{Bound, Held};
use super::status;
use super::{Service, View};
use crate::anchor::Names;
use crate::element::{Element, Kind};
use crate::logs::Log;
use crate::store::{Flushed, Store};

/// One service.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) services: Arc<Services>,
    pub(super) store: Store,
    /// Where it is in the tree.
    pub(super) names: Names,
    /// Its random id, with which its marks begin.
    pub(super) id: u64,
    pub(super) log: Mutex<Option<Log>>,
    /// Its share of the starts in flight.
    pub(super) starts: Places,
    /// Who binds sockets has it meanwhile.
    pub(super) binding: Arc<tokio::sync::Mutex<()>>,
    pub(super) state: Mutex<State>,
    /// Notified when the machine's deadline may have changed.
    pub(super) timer: Notify,
    /// Notified after each change.
    pub(super) changed: Notify,
    /// How many slots are ready, and how many there are to be, for listings, which hold the lock of the tree.
    pub(super) ready: AtomicU32,
    pub(super) slots: AtomicU32,
    /// What else there is to say in a listing.
    pub(super) remark: Mutex<Option<&'static str>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) machine: Machine,
    pub(super) plans: BTreeMap<Generation, Arc<Plan>>,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    /// Instances of which nothing is left but last words in their pipes.
    pub(super) draining: BTreeSet<InstanceId>,
    pub(super) sockets: Held,
    /// What became of the last intents.
    pub(super) outcomes: BTreeMap<u64, machine::Outcome>,
    /// Whether it leaves the tree by itself once it is scrubbed.
    pub(super) leaves: bool,
    /// Whether it has been scrubbed.
    pub(super) gone: bool,
    /// Whether the server's end has stopped it.
    pub(super) ended: bool,
    /// Why nothing changes any more, if that is so: no intent is taken, and the machine is told of nothing.
    pub(super) held_back: Option<String>,
    /// What of it is kept.
    pub(super) written: Written,
    /// The last change of what is kept.
    pub(super) flushed: Option<Flushed>,
}

/// How many outcomes are remembered for those who will ask. Chosen, not measured.
const OUTCOMES: usize = 256;

/// What a service is made of, for the first time or once more.
pub(super) struct Parts {
    pub(super) services: Arc<Services>,
    pub(super) store: Store,
    pub(super) names: Names,
    pub(super) id: u64,
    pub(super) log: Option<Log>,
    pub(super) machine: Machine,
    pub(super) plans: BTreeMap<Generation, Arc<Plan>>,
    pub(super) instances: BTreeMap<InstanceId, Instance>,
    pub(super) sockets: Held,
    /// What is kept already.
    pub(super) written: Written,
    /// Why it does not go on, if it does not.
    pub(super) held_back: Option<String>,
}

impl Parts {
    /// A service of these.
    pub(super) fn assembled(self) -> Arc<Shared> {
        // One that is to be scrubbed has nobody any more who waits for that.
        let leaves = self.machine.want() == machine::Want::Scrubbed;
        Arc::new(Shared {
            services: self.services,
            store: self.store,
            names: self.names,
            id: self.id,
            log: Mutex::new(self.log),
            starts: Places::of_service(),
            binding: Arc::default(),
            state: Mutex::new(State {
                machine: self.machine,
                plans: self.plans,
                instances: self.instances,
                draining: BTreeSet::new(),
                sockets: self.sockets,
                outcomes: BTreeMap::new(),
                leaves,
                gone: false,
                ended: false,
                held_back: self.held_back,
                written: self.written,
                flushed: None,
            }),
            timer: Notify::new(),
            changed: Notify::new(),
            ready: AtomicU32::new(0),
            slots: AtomicU32::new(0),
            remark: Mutex::default(),
        })
    }
}

/// An intent that was taken, and is about to be recorded.
#[derive(Debug)]
#[must_use]
pub struct Intended {
    pub(super) number: u64,
    flushed: Option<Flushed>,
}

impl Intended {
    /// Its number, once it is recorded.
    pub async fn recorded(self) -> Result<u64, Error> {
        kept::flushed(self.flushed).await?;
        Ok(self.number)
    }
}

pub(super) fn not_taken() -> Error {
    Error::new(Code::Internal, "a service without a definition")
}

pub(super) fn scrubbed() -> Error {
    Error::new(Code::Aborted, "the element was scrubbed")
}

impl State {
    /// The newest definition.
    pub(super) fn newest(&self) -> Option<&Arc<Plan>> {
        self.plans.get(&self.machine.generation())
    }

    pub(super) fn plan(&self, generation: Generation) -> Option<Arc<Plan>> {
        self.plans.get(&generation).cloned()
    }
}

impl Shared {
    pub(super) fn view(self: &Arc<Self>, view: View) -> Arc<Service> {
        let shared = self.clone();
        Arc::new(Service { shared, view })
    }

    /// Its path below its server's own.
    pub(super) fn path(&self) -> String {
        self.names.join("/")
    }

    pub(super) fn names_of(&self, view: View) -> Names {
        let mut names = self.names.clone();
        match view {
            View::Whole => (),
            View::Slot(slot) => names.push(slot.to_string()),
            View::Old(id) => names.push(format!("{}.{}", id.slot, id.number)),
        }
        names
    }

    /// Takes an intent, with the definition of the new generation if it has one, and sockets that were bound
    /// for it.
    pub(super) fn intend(
        self: &Arc<Self>,
        intent: Intent,
        plan: Option<Arc<Plan>>,
        bound: Option<Bound>,
    ) -> Result<Intended, Error> {
        let verb = intent.verb();
        let mut state = self.state.lock();
        if let Some(why) = &state.held_back {
            return Err(Error::new(Code::Closed, why.as_str()));
        }
        let down = matches!(intent, Intent::Down | Intent::Scrub);
        let taken = state.machine.intend(intent, registry::now());
        let Ticket(ticket) = taken.map_err(|refused| self.refused(refused, &verb.to_string()))?;
        let generation = state.machine.generation();
        if let Some(plan) = plan {
            state.plans.insert(generation, plan);
        }
        if let Some(bound) = bound {
            state.hold(generation, bound);
        }
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
    pub(super) fn handle(self: &Arc<Self>, input: Input) {
        self.take(&mut self.state.lock(), input);
    }

    pub(super) fn take(self: &Arc<Self>, state: &mut State, input: Input) {
        if state.held_back.is_none() {
            state.machine.handle(input, registry::now());
            self.drain(state);
        }
    }

    /// Has nothing change any more.
    pub(super) fn hold_back(&self, why: &str) {
        self.state.lock().held_back = Some(why.to_owned());
    }

    /// Carries out what the machine asks for.
    pub(super) fn drain(self: &Arc<Self>, state: &mut State) {
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
            let seen = state.machine.summary();
            self.ready.store(seen.ready, Ordering::Relaxed);
            self.slots
                .store(state.machine.instances(), Ordering::Relaxed);
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
            Output::Unask { slot } => self.services.unask(self, slot),
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
            Output::Signal {
                instance,
                signal,
                generation,
            } => {
                if let Some(found) = state.instances.get(&instance)
                    && let Some(plan) = state.plans.get(&generation)
                {
                    found.signal(signal, plan);
                }
            }
            Output::SignalRest { instance } => {
                if let Some(tree) = state.instances.get(&instance).and_then(Instance::tree) {
                    self.services.signal_rest(tree);
                }
            }
            Output::KillTree { instance } => {
                if let Some(tree) = state.instances.get(&instance).and_then(Instance::tree) {
                    self.services.watcher.kill(&tree);
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
                state.sockets.forget(generation);
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
        let machine = &state.machine;
        if state.gone || machine.want() != machine::Want::Scrubbed || !machine.is_empty() {
            return;
        }
        state.gone = true;
        self.forget_record(state);
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
    pub(super) fn forget(&self) {
        self.services.remove(&self.names);
        if let Some(log) = self.log.lock().take() {
            tokio::spawn(log.forget());
        }
    }

    /// Lasts until the service is scrubbed; tells the machine of the time whenever it is due.
    pub(super) async fn keep_time(self: Arc<Self>) {
        loop {
            let (deadline, over) = {
                let state = self.state.lock();
                let over = state.gone || state.held_back.is_some();
                (state.machine.deadline(), over)
            };
            if over {
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
    pub(super) async fn until<T>(&self, mut is_so: impl FnMut(&mut State) -> Option<T>) -> T {
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
    pub(super) fn standing(&self) -> machine::AfterState {
        self.state.lock().machine.standing()
    }

    /// The services that it starts after.
    pub(super) fn after(&self) -> Vec<String> {
        let state = self.state.lock();
        state
            .newest()
            .map_or_else(Vec::new, |plan| plan.policy.after.clone())
    }
}
