//! A service element: keeps processes running in numbered slots.
//!
//! [`machine`] decides, and a [`Shared`] carries out: it is one service. An element is a view of one: of the
//! whole, of a slot, or of an instance that is being replaced. [`registry`] has what all services of a server
//! share.
//!
//! **Cancellation:** nobody who asks or waits owns anything: an intent goes on without them.

mod command;
mod definition;
mod instance;
mod kept;
mod launch;
pub(crate) mod machine;
mod notify;
mod probe;
mod queue;
pub mod registry;
mod remains;
mod restarts;
mod samples;
mod shared;
mod sockets;
mod status;
mod watcher;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::service::{MAX_SLOTS, Op, Outcome, Query, Scale, Status};
use circuit_proto::element::streams::Reach;
use circuit_proto::{Code, ElementKind, Error};

use self::definition::Plan;
use self::instance::Instance;
use self::kept::Written;
use self::machine::{Generation, InstanceId, Intent, Machine, SlotView, Ticket};
use self::registry::Services;
use self::shared::{Intended, Parts, Shared, State, not_taken, scrubbed};
use self::sockets::Held;
use super::{Lifecycle, signals};
use crate::anchor::Names;
use crate::logs::Reader;

pub use instance::{line, log_failed, read_log};
pub use sockets::Bound;

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

/// The first generation of a definition.
const FIRST: Generation = 1;

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
        let resolving = &services.runtime.resolving;
        let read = resolving.run(move || Plan::read(&definition));
        let plan = Arc::new(read.await??);
        services.check_order(&names, &plan)?;
        let store = services.kept().await?.store.clone();
        let mut sockets = Held::default();
        if !down {
            let (plan, descriptors) = (plan.clone(), services.runtime.descriptors.clone());
            let bind = move || Held::default().bind(FIRST, &plan.sockets, &[], &descriptors);
            sockets.put(FIRST, services.runtime.spawning.run(bind).await??);
        }
        let id = services.random();
        let log = services.log(id, plan.log_bytes).await?;
        let machine = Machine::new(plan.policy.clone(), services.random(), registry::now());
        let parts = Parts {
            services: services.clone(),
            store,
            names,
            id,
            log: Some(log),
            machine,
            plans: BTreeMap::from([(FIRST, plan)]),
            instances: BTreeMap::new(),
            sockets,
            written: Written::default(),
            held_back: None,
        };
        let shared = parts.assembled();
        if let Err(refused) = services.add(&shared) {
            shared.state.lock().sockets.close();
            shared.forget();
            return Err(refused);
        }
        commit(shared.view(View::Whole));
        tokio::spawn(shared.clone().keep_time());
        let intent = if down { Intent::Down } else { Intent::Up };
        shared.intend(intent, None, None)?.recorded().await
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
        let (is_up, next) = {
            let state = self.shared.state.lock();
            let is_up = state.machine.want() == machine::Want::Up;
            (is_up, state.machine.generation() + 1)
        };
        // Those that are new are bound first: if one cannot be, nothing changes.
        let bound = match is_up {
            true => Some(self.shared.bind(next, &plan).await?),
            false => None,
        };
        if let Some(log) = &*self.shared.log.lock() {
            log.set_bytes(plan.log_bytes);
        }
        let intent = Intent::Update {
            policy: Box::new(policy),
            unchanged,
        };
        let intended = self.shared.intend(intent, Some(plan), bound)?;
        intended.recorded().await
    }

    /// What [`update`](Service::update) would do, in lines for people.
    pub async fn check(&self, definition: String) -> Result<Vec<String>, Error> {
        let plan = self.read_update(definition).await?;
        let state = self.shared.state.lock();
        let Some(newest) = state.newest() else {
            return Ok(Vec::new());
        };
        let fields = newest.differences(&plan);
        // While a roll is unfinished they are of several definitions.
        let seen = state.machine.view().slots;
        let replaced = |slot: &&SlotView| {
            let runs = slot.instance.and_then(|_| state.plan(slot.generation));
            runs.is_some_and(|runs| !runs.has_same_process(&plan))
        };
        let slots: Vec<_> = seen.iter().filter(replaced).collect();
        let running = seen.iter().filter(|slot| slot.instance.is_some()).count();
        if fields.is_empty() && slots.is_empty() {
            return Ok(vec!["nothing would change".to_owned()]);
        }
        let rolled = match slots.len() {
            0 if running > 0 || newest.has_same_process(&plan) => {
                "no instance would be replaced".to_owned()
            }
            count if count == running => "all instances would be replaced".to_owned(),
            _ => {
                let slots = slots.iter().map(|slot| slot.slot.to_string());
                let slots = slots.collect::<Vec<_>>().join(", ");
                format!("would be replaced: {slots}")
            }
        };
        let changed = match fields.is_empty() {
            true => Vec::new(),
            false => vec![format!("would change: {}", fields.join(", "))],
        };
        Ok([changed, vec![rolled]].concat())
    }

    async fn read_update(&self, definition: String) -> Result<Arc<Plan>, Error> {
        self.only_whole("mksvc -update")?;
        let resolving = &self.shared.services.runtime.resolving;
        let mut plan = resolving.run(move || Plan::read(&definition)).await??;
        if plan.instances().is_none() {
            plan.policy.instances = self.shared.state.lock().machine.instances();
        }
        Ok(Arc::new(plan))
    }

    /// Binds the sockets that a service needs before it is up. Those go with the intent.
    pub async fn prepare(&self, op: &Op) -> Result<Option<Bound>, Error> {
        let newest = {
            let state = self.shared.state.lock();
            let plan = state.newest().cloned();
            plan.map(|plan| (state.machine.generation(), plan))
        };
        match (op, self.view, newest) {
            (Op::Up, View::Whole, Some((generation, plan))) if !plan.sockets.is_empty() => {
                Ok(Some(self.shared.bind(generation, &plan).await?))
            }
            _ => Ok(None),
        }
    }

    /// Records what a person wants. Returns the number of that intent.
    pub fn intend(&self, op: &Op, bound: Option<Bound>) -> Result<Intended, Error> {
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
        self.shared.intend(intent, None, bound)
    }

    /// Changes the number of slots.
    pub fn scale(&self, by: Scale) -> Result<(u16, u16, Intended), Error> {
        self.only_whole("scale")?;
        let (from, to, plan) = {
            let state = self.shared.state.lock();
            let from = state.machine.instances();
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
        let intent = Intent::Scale(u32::from(to));
        let intent = self.shared.intend(intent, Some(Arc::new(plan)), None)?;
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
                if state.gone {
                    return Some(Err(scrubbed()));
                }
                // Those of earlier lives of the server are not pending, and neither are old ones.
                (!state.machine.is_pending(Ticket(intent))).then(|| {
                    let message = format!("no intent has the number {intent} any more");
                    Err(Error::new(Code::NoSuchElement, message))
                })
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
        let only = self.slot();
        let is_so = move |state: &mut State| {
            use machine::State::{Down, Failed, Finished, Ready};
            if state.gone {
                return Some(Err(scrubbed()));
            }
            let machine = &state.machine;
            let done = match (only, ready) {
                (None, true) => machine.standing() == machine::AfterState::Ready,
                (None, false) => machine.is_over(),
                (Some(slot), true) => machine.state(slot) == Some(Ready),
                (Some(slot), false) => {
                    matches!(machine.state(slot), None | Some(Down | Failed | Finished))
                }
            };
            done.then_some(Ok(Outcome::Reached))
        };
        self.shared.until(is_so).await
    }

    /// Waits until nothing of it is meant to go on: of a slot, until it is down, failed or finished. Its status
    /// then.
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
        let intent = self.shared.intend(Intent::Scrub, None, None)?;
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
