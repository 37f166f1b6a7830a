//! What all services of a server share: who there is, the rate of automatic restarts, the trees that are
//! watched, the retained output, and those who are told of events.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use circuit_proto::element::streams::Reach;
use circuit_proto::{Code, Error};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::time::ClockId;
use tokio::sync::OnceCell;
use tracing::{info, warn};

use super::definition::Plan;
use super::instance::{Running, log_failed};
use super::kept::Here;
use super::machine::{AfterState, Input};
use super::notify;
use super::queue::Places;
use super::remains::left_behind;
use super::restarts::{Next, Restarts};
use super::samples::Samples;
use super::shared::Shared;
use super::watcher::Watcher;
use crate::anchor::{Names, Tree};
use crate::element::Element;
use crate::element::process::cgroup::Cgroups;
use crate::element::process::tree::{Table, Tree as ProcessTree, reached};
use crate::element::subscription::Subscription;
use crate::logs::{DEFAULT_BYTES, Log, Logs};
use crate::runtime::Runtime;
use crate::runtime::descriptors::Descriptors;
use crate::runtime::task::Alarm;
use crate::store::{Contents, Directory, Health, Store};

/// The services of a server.
#[derive(Debug)]
pub struct Services {
    pub(super) runtime: Arc<Runtime>,
    pub(super) tree: Arc<Tree<Element>>,
    pub(super) watcher: Arc<Watcher>,
    /// The starts in flight.
    pub(super) starts: Places,
    pub(super) samples: Arc<Samples>,
    /// The path of the server's own anchor.
    pub(super) server: String,
    /// The variables that all instances get: where their server is reached.
    pub(super) variables: Vec<String>,
    /// Where what is kept is to be.
    place: Place,
    kept: OnceCell<Kept>,
    all: Mutex<BTreeMap<Names, Arc<Shared>>>,
    restarts: Mutex<Restarts<(Weak<Shared>, u32)>>,
    subscribers: Mutex<Vec<Weak<Subscription>>>,
    /// Whether services that outlive the server are to be stopped at its end all the same.
    stops: AtomicBool,
    /// Whether the server ends. Set with the lock of `all`.
    ends: AtomicBool,
}

/// What a server keeps of its services, with the threads that write it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) store: Store,
    pub(super) logs: Logs,
    pub(super) here: Here,
    cgroups: Cgroups,
    directory: Arc<Directory>,
    /// The threads of the store, until it is closed.
    writers: Mutex<Vec<JoinHandle<()>>>,
}

/// Where a server is, and where it keeps what it keeps.
#[derive(Debug, Clone)]
pub struct Place {
    /// The path of the server's own anchor.
    pub server: String,
    /// The Unix socket for its own user, if there is one.
    pub socket: Option<PathBuf>,
    /// The directory that outlives it, if there is one.
    pub var: Option<PathBuf>,
    /// The user's runtime directory, in which a server without the other has one that goes with it.
    pub runtime: Option<PathBuf>,
    /// The bound of all retained output, in bytes; a tenth of the disk if that is `None`.
    pub logs: Option<u64>,
}

/// Why nothing is taken at the end.
const ENDS: &str = "the server ends";

/// How long the last writes may take at the server's end. Chosen, not measured: the logs give up after a
/// second, and a database is closed in a moment.
const CLOSING: Duration = Duration::from_secs(3);

impl Kept {
    /// Writes what is to be written, and removes what is not to outlive the server. Blocks.
    fn close(&self) {
        self.store.close();
        // While the store's threads write.
        self.logs.close();
        for writer in std::mem::take(&mut *self.writers.lock()) {
            // If it panicked, the alarm was told.
            let _ = writer.join();
        }
        if let Err(error) = self.directory.remove() {
            let path = self.directory.path().display();
            warn!("cannot remove {path}: {error}");
        }
    }
}

/// The time since the host's boot, the time that it slept included.
pub(super) fn now() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::Boottime);
    // Neither is negative since the boot.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Services {
    /// No services yet.
    pub fn new(place: Place, tree: &Arc<Tree<Element>>, runtime: &Arc<Runtime>) -> Arc<Services> {
        let socket = place.socket.iter();
        Arc::new(Services {
            runtime: runtime.clone(),
            tree: tree.clone(),
            watcher: Watcher::new(runtime),
            starts: Places::of_server(),
            samples: Samples::new(runtime),
            variables: socket
                .map(|path| format!("CIRCUIT_SOCKET={}", path.display()))
                .collect(),
            server: place.server.clone(),
            kept: OnceCell::new(),
            place,
            all: Mutex::default(),
            restarts: Mutex::new(Restarts::new(now())),
            subscribers: Mutex::default(),
            stops: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        })
    }

    /// The variables by which a process at these names finds itself and its server.
    pub fn variables_of(&self, names: &[String]) -> Vec<String> {
        let path = [&self.server, &names.join("/")]
            .map(String::as_str)
            .join("/");
        let own = format!("CIRCUIT_PATH={path}");
        self.variables.iter().cloned().chain([own]).collect()
    }

    /// A mark for a process that is no service's: that of an instance, with slot and number 0.
    pub fn new_mark(&self) -> String {
        format!("{:016x}.0.0", self.random())
    }

    /// The retained output of the process with this mark. Its name is the mark's id, as of a service.
    pub async fn log_of_process(&self, mark: &str) -> Result<Log, Error> {
        let logs = &self.kept().await?.logs;
        let id = mark.split('.').next().unwrap_or(mark);
        logs.open(id, DEFAULT_BYTES)
            .map_err(|error| log_failed(&error))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        // Without randomness two services have one id, and marks are told apart by less.
        let _ = getrandom::fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    /// Adds a service, unless the server ends: then it would not be told of that.
    pub(super) fn add(&self, shared: &Arc<Shared>) -> Result<(), Error> {
        let mut all = self.all.lock();
        if self.ends.load(Ordering::Relaxed) {
            return Err(Error::new(Code::Closed, ENDS));
        }
        all.insert(shared.names.clone(), shared.clone());
        Ok(())
    }

    pub(super) fn remove(&self, names: &Names) {
        self.all.lock().remove(names);
    }

    /// Refuses a definition by which a service would wait for itself.
    pub(super) fn check_order(&self, names: &Names, plan: &Plan) -> Result<(), Error> {
        let own = names.join("/");
        let mut seen = BTreeSet::new();
        let mut next = plan.policy.after.clone();
        while let Some(name) = next.pop() {
            if name == own {
                let message = "After: the service would wait for itself";
                return Err(Error::new(Code::InvalidArgument, message));
            }
            if seen.insert(name.clone())
                && let Some(other) = self.find(&name)
            {
                next.extend(other.after());
            }
        }
        Ok(())
    }

    fn find(&self, path: &str) -> Option<Arc<Shared>> {
        let names: Names = path.split('/').map(str::to_owned).collect();
        self.all.lock().get(&names).cloned()
    }

    /// Tells the services that start after this one of its state, and this one of those that it starts after.
    pub(super) fn tell_dependents(self: &Arc<Self>, names: &Names) {
        let (services, names) = (self.clone(), names.clone());
        // The caller holds the lock of a service.
        tokio::spawn(async move {
            let own = names.join("/");
            for shared in services.every() {
                let after = shared.after();
                for name in after
                    .iter()
                    .filter(|name| **name == own || shared.names == names)
                {
                    let found = services.find(name);
                    let state = found.map_or(AfterState::Missing, |found| found.standing());
                    let service = name.clone();
                    shared.handle(Input::After { service, state });
                }
            }
        });
    }

    /// What is kept, which is opened, and made if it is not there, when the first service needs it.
    pub(super) async fn kept(&self) -> Result<&Kept, Error> {
        let open = async {
            let (kept, contents) = self.open().await?;
            // The server goes on with services at its start only.
            match contents.services.first() {
                None => Ok(kept),
                Some(found) => Err(Error::new(
                    Code::Internal,
                    format!(
                        "{} is kept in {}, which was put there after this server began: start it again",
                        found.path,
                        kept.directory.path().display()
                    ),
                )),
            }
        };
        self.kept.get_or_try_init(|| open).await
    }

    async fn open(&self) -> Result<(Kept, Contents), Error> {
        let place = self.place.clone();
        let (alarm, descriptors) = (self.runtime.alarm.clone(), self.runtime.descriptors.clone());
        let opened = self
            .runtime
            .looking
            .run(move || open(&place, &alarm, &descriptors));
        opened.await?
    }

    /// How what is kept is, if anything is.
    pub(crate) fn health(&self) -> Option<Health> {
        self.kept.get().map(|kept| kept.store.health())
    }

    /// Whether it outlives the server.
    pub(super) fn is_lasting(&self) -> bool {
        self.place.var.is_some()
    }

    /// Where this process runs. There is a service, so what is kept is open.
    pub(super) fn here(&self) -> Here {
        self.kept
            .get()
            .map_or_else(Here::default, |kept| kept.here.clone())
    }

    /// The cgroups that there are, and may be made. There is a service, so what is kept is open.
    pub(super) fn cgroups(&self) -> Cgroups {
        let kept = self.kept.get();
        kept.map_or_else(Cgroups::default, |kept| kept.cgroups.clone())
    }

    /// The retained output of a service.
    pub(super) async fn log(&self, id: u64, bytes: u64) -> Result<Log, Error> {
        let logs = &self.kept().await?.logs;
        logs.open(&format!("{id:016x}"), bytes)
            .map_err(|error| log_failed(&error))
    }

    /// The directory of what is kept.
    pub(super) fn dir(&self) -> Option<&Path> {
        self.kept.get().map(|kept| kept.directory.path())
    }

    /// The user's runtime directory.
    pub(super) fn runtime_dir(&self) -> Option<&Path> {
        self.place.runtime.as_deref()
    }

    /// Goes on with the services of the server's life before, if it had any, and ends what servers of this user
    /// have left behind that were killed and keep nothing.
    pub async fn start(self: &Arc<Self>) -> Result<(), Error> {
        let looking = &self.runtime.looking;
        if let Some(var) = self.place.var.clone() {
            let is_used = looking.run(move || Directory::is_used(&var)).await?;
            if is_used.map_err(|error| internal(&error))? {
                let (kept, contents) = self.open().await?;
                if self.kept.set(kept).is_ok()
                    && let Some(kept) = self.kept.get()
                {
                    self.resume(&kept.store, &kept.logs, &contents)?;
                }
            }
        }
        self.runtime.looking.run(notify::sweep).await?;
        if let Some(runtime) = self.place.runtime.clone() {
            let found = looking.run(move || abandoned(&runtime)).await?;
            for (directory, trees) in found {
                self.clear(directory, trees);
            }
        }
        Ok(())
    }

    /// Ends what another server has left behind, and removes its directory then: until nobody is left, the
    /// directory is what names them.
    fn clear(self: &Arc<Self>, directory: Directory, trees: Vec<ProcessTree>) {
        let kill = |tree| {
            let tree = Arc::new(tree);
            self.watcher.kill(&tree);
            self.watcher.empty(&tree)
        };
        let empty: Vec<_> = trees.into_iter().map(kill).collect();
        let runtime = self.runtime.clone();
        tokio::spawn(async move {
            for empty in empty {
                // The watcher ends with the server only.
                let _ = empty.await;
            }
            let path = directory.path().to_owned();
            let removed = runtime.looking.run(move || directory.remove()).await;
            let error = match removed {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            warn!("cannot remove {}: {error}", path.display());
        });
    }

    /// The server ends: what is to be written is written, and what is not to outlive it goes.
    pub async fn close(self: &Arc<Self>) {
        for shared in self.every() {
            // One that was made while the others were being stopped is stopped as well.
            self.end(&shared).await;
            // What happens from now on would not be recorded: it is for the next life.
            shared.hold_back(ENDS);
        }
        let services = self.clone();
        let closed = tokio::task::spawn_blocking(move || {
            if let Some(kept) = services.kept.get() {
                kept.close();
            }
        });
        // A disk that hangs does not keep the server from ending.
        if tokio::time::timeout(CLOSING, closed).await.is_err() {
            warn!("the disk is slow: what the services said or did last may not be recorded");
        }
    }

    /// Has a slot restarted as soon as the rate allows.
    pub(super) fn ask(self: &Arc<Self>, shared: &Arc<Shared>, slot: u32) {
        let who = (Arc::downgrade(shared), slot);
        if self.restarts.lock().ask((shared.id, slot), who) {
            tokio::spawn(self.clone().grant());
        }
    }

    /// The slot does not wait for that any more.
    pub(super) fn unask(&self, shared: &Shared, slot: u32) {
        self.restarts.lock().unask((shared.id, slot));
    }

    async fn grant(self: Arc<Self>) {
        loop {
            let next = self.restarts.lock().next(now());
            match next {
                Next::Start((shared, slot)) => {
                    if let Some(shared) = shared.upgrade() {
                        shared.handle(Input::MayStart { slot });
                    }
                }
                Next::Pause(pause) => tokio::time::sleep(pause).await,
                Next::Nobody => return,
            }
        }
    }

    /// Sends instances a signal.
    pub(super) async fn signal(
        &self,
        targets: Vec<Running>,
        signal: Signal,
        reach: Reach,
    ) -> Result<(), Error> {
        let refused =
            |errno: Errno| Error::new(Code::Refused, format!("cannot signal an instance: {errno}"));
        let sent = self.runtime.looking.run(move || match reach {
            Reach::Main => reached(targets.iter().map(|target| target.session.signal(signal))),
            Reach::Group => reached(targets.iter().map(|target| target.signal_group(signal))),
            Reach::Tree => {
                let trees: Vec<_> = targets.iter().map(|target| &*target.tree).collect();
                let members = Table::of(&trees).and_then(|table| table.members(&trees));
                let members = members.map_err(|_| Errno::ACCESS)?;
                reached(
                    members
                        .into_iter()
                        .flatten()
                        .map(|member| member.signal(signal)),
                )
            }
        });
        match sent.await? {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(Error::new(Code::Closed, "no instance runs")),
            Err(errno) => Err(refused(errno)),
        }
    }

    /// The main process of an instance has gone: has the others end.
    pub(super) fn signal_rest(&self, tree: Arc<ProcessTree>) {
        let runtime = self.runtime.clone();
        tokio::spawn(async move {
            let told = runtime.looking.run(move || {
                let trees = [&*tree];
                let members = Table::of(&trees).and_then(|table| table.members(&trees));
                for member in members.into_iter().flatten().flatten() {
                    // Whoever has gone meanwhile needs none.
                    let _ = member.signal(Signal::TERM);
                    let _ = member.signal(Signal::CONT);
                }
            });
            // What is left is killed later.
            let _ = told.await;
        });
    }

    /// Has an event told to all who want to know.
    pub(super) fn tell(&self, event: String) {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|subscriber| match subscriber.upgrade() {
            Some(subscriber) => {
                subscriber.service_event(event.clone());
                true
            }
            None => false,
        });
    }

    /// Has a subscription be told of events.
    pub fn subscribe(&self, subscription: &Arc<Subscription>) {
        self.subscribers.lock().push(Arc::downgrade(subscription));
    }

    /// Has services stopped at the server's end, those that outlive it too.
    pub fn stop_at_end(&self) {
        self.stops.store(true, Ordering::Relaxed);
    }

    fn stops_at_end(&self) -> bool {
        !self.is_lasting() || self.stops.load(Ordering::Relaxed)
    }

    /// The server ends: has all services that are to stop begin to, together.
    pub fn begin_end(&self) {
        {
            let _all = self.all.lock();
            self.ends.store(true, Ordering::Relaxed);
        }
        if self.stops_at_end() {
            self.tell_all(|| Input::End);
        }
    }

    /// Kills what of the services that are being stopped is left.
    pub fn kill(&self) {
        if self.stops_at_end() {
            self.tell_all(|| Input::Kill);
        }
    }

    fn tell_all(&self, input: impl Fn() -> Input) {
        for shared in self.every() {
            shared.handle(input());
        }
    }

    fn every(&self) -> Vec<Arc<Shared>> {
        self.all.lock().values().cloned().collect()
    }

    /// The server ends: stops a service, unless the next life goes on with it.
    pub(super) async fn end(&self, shared: &Arc<Shared>) {
        if !self.stops_at_end() {
            return;
        }
        shared.handle(Input::End);
        shared
            .until(|state| {
                let over = state.ended || state.gone || state.held_back.is_some();
                over.then_some(())
            })
            .await;
    }
}

/// Opens what a server keeps. Blocks.
fn open(
    place: &Place,
    alarm: &Alarm,
    descriptors: &Arc<Descriptors>,
) -> Result<(Kept, Contents), Error> {
    let here = Here::find().map_err(|error| internal(&error))?;
    let directory = match (&place.var, &place.runtime) {
        (Some(dir), _) => Directory::kept(dir),
        (None, Some(runtime)) => Directory::private(runtime),
        (None, None) => {
            let message = "this server has no directory for services: start it with -var DIR, or set \
                           XDG_RUNTIME_DIR";
            return Err(Error::new(Code::Refused, message));
        }
    };
    let directory = Arc::new(directory.map_err(|error| internal(&error))?);
    let opened = Store::open(directory.clone(), &here.boot).map_err(|error| internal(&error))?;
    let mut writers = Vec::new();
    for writer in opened.writers {
        let started = alarm.thread(writer.name(), move || writer.run());
        writers.push(started.map_err(|error| internal(&error))?);
    }
    let dir = directory.path().join("logs");
    let logs =
        Logs::start(&dir, place.logs, alarm, descriptors).map_err(|error| internal(&error))?;
    let cgroups = Cgroups::find();
    if let Some(path) = cgroups.delegated() {
        info!("instances of services have cgroups of their own below {path}");
    }
    let kept = Kept {
        store: opened.store,
        logs,
        here,
        cgroups,
        directory,
        writers: Mutex::new(writers),
    };
    Ok((kept, opened.contents))
}

pub(super) fn internal(error: &(dyn std::error::Error + 'static)) -> Error {
    Error::new(Code::Internal, circuit_client::chain(error))
}

/// What servers of this user have left behind: their directories, and their processes. Blocks.
fn abandoned(runtime: &Path) -> Vec<(Directory, Vec<ProcessTree>)> {
    let (directories, errors) = Directory::abandoned(runtime);
    for error in errors {
        let error = circuit_client::chain(&error);
        warn!("cannot look for what other servers left behind: {error}");
    }
    let boot = Here::find().map_or_else(|_| String::new(), |here| here.boot);
    let trees = |directory: Directory| {
        let contents = directory
            .read(&boot)
            .map_err(|error| circuit_client::chain(&error));
        let trees =
            contents.and_then(|contents| left_behind(&contents).map_err(|error| error.to_string()));
        match trees {
            Ok(trees) => Some((directory, trees)),
            Err(error) => {
                let path = directory.path().display();
                warn!(
                    "what a server has left running cannot be found in {path}, which stays: {error}"
                );
                None
            }
        }
    };
    directories.into_iter().filter_map(trees).collect()
}

#[cfg(test)]
mod tests;
