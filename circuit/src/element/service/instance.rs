//! An instance of a service: its start, its main process, and its tree.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use circuit_proto::element::service::{Line, Query, Stream as WireStream};
use circuit_proto::{Code, Error};
use rustix::io::Errno;
use rustix::process::Signal;
use tokio::task::AbortHandle;

use super::command::RunningCommand;
use super::definition::{Plan, Probe, Reload, Socket};
use super::launch::{Launch, Launched};
use super::machine::{self, Command, End, Generation, Input, InstanceId, NotSpawned};
use super::queue::Place;
use super::shared::{Shared, State, scrubbed};
use super::sockets;
use crate::element::process::cgroup::Cgroup;
use crate::element::process::session::{self, Session};
use crate::element::process::tree::{MARK, Tree};
use crate::element::process::{Manner, SpawnError};
use crate::logs::{self, Ended, Item, Log, LogError, Pipe, Reader};
use crate::runtime::pool::PoolError;

/// How many of a slot's last lines are looked at for those of one instance. Chosen, not measured: an instance
/// that follows at once has said less.
const LOOKED_AT: u64 = 1000;

/// How much of each of those is told, in bytes. Chosen, not measured: ten of them are a small part of a frame.
const LONGEST_LINE: usize = 4096;

/// What an instance has while anything of it is left.
#[derive(Debug)]
pub(super) struct Instance {
    mark: String,
    /// Whether the start that has not begun is not to begin.
    abandoned: Arc<AtomicBool>,
    session: Option<Arc<Session>>,
    tree: Option<Arc<Tree>>,
    /// Why it is left alone, if it is.
    why: Option<&'static str>,
    /// The sockets that it is handed, from descriptor 3 on.
    pub(super) sockets: Vec<Socket>,
    pub(super) pipes: Vec<Pipe>,
    pub(super) commands: BTreeMap<Command, RunningCommand>,
    pub(super) probes: BTreeMap<machine::Probe, AbortHandle>,
    /// What it says of itself.
    pub(super) says: Option<String>,
    /// Hear what it says.
    pub(super) notify: Vec<AbortHandle>,
}

/// The main process of an instance, and its tree.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) session: Arc<Session>,
    pub(super) tree: Arc<Tree>,
}

impl Running {
    /// Sends the process group of the main process a signal.
    pub(super) fn signal_group(&self, signal: Signal) -> Result<(), Errno> {
        // The main process is held by its pidfd: while it is not reaped, the number of its group is its own.
        self.session.signal_group(signal)
    }
}

impl Instance {
    fn new(mark: String) -> Instance {
        Instance {
            mark,
            abandoned: Arc::default(),
            session: None,
            tree: None,
            why: None,
            sockets: Vec::new(),
            pipes: Vec::new(),
            commands: BTreeMap::new(),
            probes: BTreeMap::new(),
            says: None,
            notify: Vec::new(),
        }
    }

    /// An instance of the server's life before: its main process, if it lives, its tree, if that can be seen, and
    /// why it is left alone, if it is.
    pub(super) fn adopted(
        mark: String,
        session: Option<Arc<Session>>,
        tree: Option<Arc<Tree>>,
        why: Option<&'static str>,
    ) -> Instance {
        Instance {
            session,
            tree,
            why,
            ..Instance::new(mark)
        }
    }

    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Its main process and tree, once it has been started.
    pub(super) fn running(&self) -> Option<Running> {
        let (session, tree) = (self.session.clone()?, self.tree.clone()?);
        Some(Running { session, tree })
    }

    /// Its processes, once it has been started, as far as they can be seen.
    pub(super) fn tree(&self) -> Option<Arc<Tree>> {
        self.tree.clone()
    }

    /// Why it is left alone, if it is.
    pub(super) fn why(&self) -> Option<&'static str> {
        self.why
    }

    /// Sends the main process one of the two signals of its definition. One that has gone hears nothing.
    pub(super) fn signal(&self, which: machine::Signal, plan: &Plan) {
        let signal = match (which, &plan.reload) {
            (machine::Signal::Stop, _) => plan.stop_signal,
            (machine::Signal::Reload, Some(Reload::Signal(signal))) => *signal,
            (machine::Signal::Reload, _) => return,
        };
        if let Some(session) = &self.session {
            let _ = session.signal(signal);
        }
    }

    /// Nothing is left of it. Its pipes, which have their last words still.
    pub(super) fn end(self) -> Vec<Ended> {
        for probe in self.probes.values() {
            probe.abort();
        }
        for notify in self.notify {
            notify.abort();
        }
        // Its last words are read meanwhile.
        self.pipes.into_iter().map(Pipe::end).collect()
    }
}

impl Shared {
    /// The mark of an instance.
    pub(super) fn mark(&self, id: InstanceId) -> String {
        format!("{:016x}.{}.{}", self.id, id.slot, id.number)
    }

    /// The marks of its instances.
    pub(super) fn marks(&self) -> Vec<String> {
        let state = self.state.lock();
        state.instances.keys().map(|id| self.mark(*id)).collect()
    }

    /// The surroundings of an instance's processes, the commands beside it among them.
    pub(super) fn manner(&self, plan: &Plan, id: InstanceId, mark: &str) -> Manner {
        let mut manner = plan.manner.clone();
        manner.variables = self
            .services
            .variables_of(&self.names_of(super::View::Slot(id.slot)));
        manner.variables.push(format!("CIRCUIT_SLOT={}", id.slot));
        manner.variables.push(format!("{MARK}={mark}"));
        manner
    }

    pub(super) fn instance<'a>(&self, state: &'a mut State, id: InstanceId) -> &'a mut Instance {
        let new = || Instance::new(self.mark(id));
        state.instances.entry(id).or_insert_with(new)
    }

    /// Starts the main process of an instance.
    pub(super) fn spawn(
        self: &Arc<Self>,
        state: &mut State,
        id: InstanceId,
        generation: Generation,
    ) {
        let plan = state.plan(generation);
        let instance = self.instance(state, id);
        if let Some(plan) = &plan {
            instance.sockets.clone_from(&plan.sockets);
        }
        let (mark, abandoned) = (instance.mark.clone(), instance.abandoned.clone());
        let cgroup = self.services.cgroups().named(&mark);
        self.note_instance(id, generation, None, cgroup.as_ref());
        let shared = self.clone();
        tokio::spawn(async move {
            let place = shared.place().await;
            let Some(plan) = plan else {
                let why = NotSpawned::Cannot(format!("definition {generation} is missing"));
                return shared.handle(Input::NotSpawned { instance: id, why });
            };
            // It may have waited for long.
            if abandoned.load(Ordering::Relaxed) {
                let why = NotSpawned::Abandoned;
                return shared.handle(Input::NotSpawned { instance: id, why });
            }
            let started = shared.start(&plan, id, generation, mark.clone(), cgroup);
            let started = started.await;
            drop(place);
            let counters = &shared.services.runtime.counters;
            match started {
                Ok(started) => {
                    counters.started.one();
                    let main = Some(started.session.identity());
                    shared.note_instance(id, generation, main, started.cgroup.as_ref());
                    shared.run_instance(started, id, mark).await;
                }
                Err(error) => {
                    counters.not_started.one();
                    let why = NotSpawned::Cannot(error.to_string());
                    shared.handle(Input::NotSpawned { instance: id, why });
                }
            }
        });
    }

    /// Waits for a place among the starts that are in flight.
    pub(super) async fn place(&self) -> Place {
        self.starts.place(&self.services.starts).await
    }

    async fn start(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        id: InstanceId,
        generation: Generation,
        mark: String,
        cgroup: Option<Cgroup>,
    ) -> Result<Launched, SpawnError> {
        let runtime = &self.services.runtime;
        let system = |why: &dyn std::fmt::Display| SpawnError::System(why.to_string());
        let mut manner = self.manner(plan, id, &mark);
        let mut line = None;
        if plan.uses_notify() || matches!(plan.ready, Probe::NotifyFd(_)) {
            let (shared, plan, mark) = (self.clone(), plan.clone(), mark.clone());
            let ears = runtime
                .spawning
                .run_in_turn(move || shared.ears(id, &plan, &mark));
            let ears = ears.await.map_err(|error| system(&error))?;
            let (variable, found) = ears.map_err(|error| system(&error))?;
            manner.variables.extend(variable);
            line = found;
        }
        let sockets = self.sockets(generation, plan).await;
        let sockets = sockets.map_err(|error| system(&error.message))?;
        manner.variables.extend(sockets::variables(&sockets));
        let launch = Launch {
            cmd: plan.cmd(id.slot),
            manner,
            log: self
                .open_log()
                .ok_or_else(|| system(&"it is being scrubbed"))?,
            from: (id.slot, id.number),
            pipes: mark,
            sockets,
            line,
            cgroup,
        };
        launch.launched(runtime).await
    }

    /// Its retained output, unless it is being forgotten.
    pub(super) fn open_log(&self) -> Option<Log> {
        self.log.lock().as_ref().map(Log::clone)
    }

    /// Lasts until the main process of an instance has ended.
    async fn run_instance(self: &Arc<Self>, started: Launched, id: InstanceId, mark: String) {
        let session = Arc::new(started.session);
        let main = session.identity();
        let tree = Arc::new(Tree {
            main,
            mark: Some(mark),
            is_older: false,
            cgroup: started.cgroup,
        });
        let pid = main.pid.as_raw_nonzero().get().unsigned_abs();
        {
            let mut state = self.state.lock();
            if let Some(instance) = state.instances.get_mut(&id) {
                let session = session.clone();
                instance.session = Some(session);
                instance.tree = Some(tree);
                instance.pipes = started.pipes;
            }
            self.take(&mut state, Input::Spawned { instance: id, pid });
        }
        self.wait_for(&session, id).await;
    }

    /// Tells the machine of the end of a main process.
    pub(super) async fn wait_for(self: &Arc<Self>, session: &Session, id: InstanceId) {
        let end = session.ended().await;
        self.services.runtime.counters.ended.one();
        let end = match end {
            session::End::Code(code) => End::Code(code),
            session::End::Signal(signal) => End::Signal(signal),
            session::End::Unknown => End::Unknown,
        };
        self.handle(Input::MainExited { instance: id, end });
    }

    /// Tells the machine when nothing is left of an instance's tree.
    pub(super) fn watch_tree(self: &Arc<Self>, state: &State, id: InstanceId) {
        // Without a tree nobody can look, and so nobody says that it is empty.
        let Some(tree) = state.instances.get(&id).and_then(Instance::tree) else {
            return;
        };
        let shared = self.clone();
        tokio::spawn(async move {
            // The watcher ends with the server only.
            let _ = shared.services.watcher.empty(&tree).await;
            shared.handle(Input::TreeEmpty { instance: id });
        });
    }

    /// Measures the memory of an instance's tree.
    pub(super) fn sample(self: &Arc<Self>, state: &State, id: InstanceId) {
        let running = state.instances.get(&id).and_then(Instance::running);
        let shared = self.clone();
        tokio::spawn(async move {
            let bytes = match running {
                Some(running) => {
                    let measured = shared.services.samples.measure(&running.tree).await;
                    measured.ok().flatten()
                }
                None => None,
            };
            shared.handle(Input::Memory {
                instance: id,
                bytes,
            });
        });
    }

    pub(super) fn read_log(&self, query: &Query, slot: Option<u32>) -> Result<Reader, Error> {
        let log = self.log.lock();
        let log = log.as_ref().ok_or_else(scrubbed)?;
        read_log(log, query, slot)
    }

    /// The last lines of what an instance said. Another may have begun in its slot since.
    pub(super) async fn last_lines(&self, id: InstanceId) -> Vec<String> {
        let query = Query {
            last: Some(LOOKED_AT),
            since: None,
            stream: None,
            follow: false,
        };
        let mut lines = LastLines::default();
        let Ok(mut reader) = self.read_log(&query, Some(id.slot)) else {
            return Vec::new();
        };
        while let Ok(Some(items)) = reader.next().await {
            for item in items {
                match item {
                    Item::Entry(entry) if entry.source.instance == id.number => {
                        lines.push(&entry.bytes);
                    }
                    Item::Entry(_) | Item::Lost(_) => (),
                }
            }
        }
        lines.0.into()
    }
}

/// The last lines of an output, each without its middle if it is long: they travel in one answer.
#[derive(Debug, Default)]
struct LastLines(VecDeque<String>);

impl LastLines {
    fn push(&mut self, line: &[u8]) {
        if self.0.len() == super::LAST_LINES {
            self.0.pop_front();
        }
        let line = String::from_utf8_lossy(line);
        self.0
            .push_back(crate::text::cut(&line, LONGEST_LINE).into_owned());
    }
}

/// Begins to read retained output: all of it, or that of a slot.
pub fn read_log(log: &Log, query: &Query, slot: Option<u32>) -> Result<Reader, Error> {
    let query = logs::Query {
        last: query.last,
        since: query.since.map(time),
        stream: query.stream.map(|stream| match stream {
            WireStream::Stdout => logs::Stream::Stdout,
            WireStream::Stderr => logs::Stream::Stderr,
        }),
        slot: slot.and_then(|slot| u16::try_from(slot).ok()),
        follow: query.follow,
    };
    log.read(query).map_err(|error| log_failed(&error))
}

/// A time in nanoseconds since 1970.
fn time(nanoseconds: u64) -> std::time::SystemTime {
    std::time::SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

fn nanoseconds(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// The error of a log that cannot be read.
pub fn log_failed(error: &LogError) -> Error {
    let code = match error {
        LogError::Short(_) | LogError::Pool(PoolError::Busy { .. }) => Code::Busy,
        LogError::Name(_) | LogError::Io { .. } | LogError::Pool(PoolError::Failed(_)) => {
            Code::Internal
        }
    };
    Error::new(code, circuit_client::chain(error))
}

/// A piece of retained output as it travels.
pub fn line(item: Item) -> Line {
    match item {
        Item::Entry(entry) => Line::Line {
            time: nanoseconds(entry.time),
            slot: entry.source.slot,
            instance: entry.source.instance,
            stream: match entry.source.stream {
                logs::Stream::Stdout => WireStream::Stdout,
                logs::Stream::Stderr => WireStream::Stderr,
            },
            text: entry.bytes,
        },
        Item::Lost(lost) => Line::Dropped {
            time: lost.from.map_or(0, |(_, time)| nanoseconds(time)),
            bytes: lost.bytes,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_few_and_short() {
        let mut lines = LastLines::default();
        for number in 0..1000 {
            lines.push(format!("{number} {}", "x".repeat(64 << 10)).as_bytes());
        }
        assert_eq!(lines.0.len(), super::super::LAST_LINES);
        assert!(lines.0[0].starts_with("990 x"));
        assert!(lines.0.iter().all(|line| line.len() <= LONGEST_LINE + 3));
    }
}
