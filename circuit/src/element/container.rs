//! A container element: a container that this server had its Engine run, its three streams, and
//! its end.
//!
//! The server attaches to the streams before the container starts, so that no output is lost, and
//! they lead through pipes to the same ends as a process's. The server asks the Engine for facts only
//! when a caller wants to know them; it waits for the exit all the time.
//!
//! **Invariant:** a maker that fails leaves no container behind. **Invariant:** every
//! fact about a container comes from its Engine; if the Engine does not answer, callers hear that.
//!
//! **Cancellation:** every async method may be dropped, but [`Container::start`], which would leave
//! a container without an element.

pub mod engine;
mod pump;
mod translate;

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::container::{Inspected, Pull, Run, Status};
use circuit_proto::element::process::Phase;
use circuit_proto::element::streams::Reach;
use circuit_proto::{Code, ElementKind, Error, Path};
use futures_util::{Stream, TryStreamExt};
use rustix::process::{Pid, PidfdFlags};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::warn;

use super::process::rfc3339;
use super::streams::{self, Attachable, Course, Descriptor, Input, Output, Streams, held_pipe};
use super::{Lifecycle, signals};
use crate::runtime::Runtime;
use crate::runtime::descriptors::{Descriptors, Taken, User};
use engine::{Engine, EngineError};

/// A container element.
#[derive(Debug)]
pub struct Container {
    engine: Arc<Engine>,
    run: Run,
    id: String,
    name: String,
    started: SystemTime,
    end: Mutex<Option<End>>,
    streams: Streams,
    /// Whether the server reads the Engine ahead of the readers: it does, unless it sees the
    /// container's process run.
    ahead: watch::Sender<bool>,
    /// How often the Engine was seen not to answer.
    losses: AtomicU64,
    descriptors: Arc<Descriptors>,
}

/// The task that waits for the first exit; it ends when this is dropped.
type Exit = JoinSet<Result<i32, EngineError>>;

/// How a container ended.
#[derive(Debug, Clone, Copy)]
struct End {
    /// As the Engine reports it; `None` if it no longer could.
    code: Option<i32>,
    at: SystemTime,
}

/// How long the server waits before it asks a silent Engine again, at first and at most. Chosen, not
/// measured.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How many containers at one path may have been forgotten while they run on.
const NAMESAKES: u32 = 1000;

/// Whether the image of a container is to be fetched before it is made.
pub async fn needs_image(engine: &Engine, run: &Run, path: &Path) -> Result<bool, Error> {
    // A container that cannot be made needs no image.
    translate::body(run, path)?;
    match run.pull {
        Pull::Always => return Ok(true),
        Pull::Missing | Pull::Never => (),
    }
    match (engine.has_image(&run.image).await.map_err(wire)?, run.pull) {
        (false, Pull::Never) => {
            let message = format!("no such image: {} (and Pull is never)", run.image);
            Err(Error::new(Code::Exec, message))
        }
        (there, _) => Ok(!there),
    }
}

/// Fetches the image of a container; the progress, as lines.
pub fn fetch_image(engine: &Engine, run: &Run) -> impl Stream<Item = Result<String, Error>> + Send {
    let image = run.image.clone();
    engine.pull(&run.image).map_err(move |error| match error {
        EngineError::Said { reason, .. } => {
            let message = format!("cannot fetch the image {image}: {reason}");
            Error::new(Code::Exec, message)
        }
        other => wire(other),
    })
}

impl Container {
    /// Runs a container, whose image the Engine has. Fails with the Engine's reason, and then
    /// nothing is left of it.
    pub async fn start(
        engine: Arc<Engine>,
        run: Run,
        path: &Path,
        runtime: &Runtime,
    ) -> Result<Arc<Container>, Error> {
        let (id, name) = create(&engine, &run, path).await?;
        let started =
            Container::start_created(engine.clone(), run, id.clone(), name, runtime).await;
        if started.is_err() {
            // A container that removes itself may be gone already.
            let _ = engine.remove(&id, true).await;
        }
        started
    }

    async fn start_created(
        engine: Arc<Engine>,
        run: Run,
        id: String,
        name: String,
        runtime: &Runtime,
    ) -> Result<Arc<Container>, Error> {
        let system = |error: std::io::Error| {
            Error::new(Code::Busy, format!("no pipes for the container: {error}"))
        };
        let drains = &runtime.drains;
        let mut taken = take(&runtime.descriptors, DESCRIPTORS)?;
        let (from_stdin, stdin) = held_pipe().map_err(system)?;
        let (stdout, to_stdout) = output_pipe(taken.split(1)).map_err(system)?;
        let (stderr, to_stderr) = output_pipe(taken.split(1)).map_err(system)?;
        let stdin = Descriptor::new(stdin, taken.split(1)).map_err(system)?;
        let streams = Streams::new(
            Input::new(streams::Sink::Pipe(stdin)),
            Output::new(Some(stdout), drains),
            Output::new(Some(stderr), drains),
        );
        let from_stdin = pipe::Receiver::from_owned_fd(from_stdin).map_err(system)?;
        // The wait begins before the start: a container that removes itself could be gone after it.
        let mut exit = JoinSet::new();
        exit.spawn({
            let (engine, id) = (engine.clone(), id.clone());
            async move { engine.exit(&id, true).await }
        });
        let attached = async {
            let input = engine.attach_input(&id).await?;
            let outputs = (
                engine.attach_output(&id, true).await?,
                engine.attach_output(&id, false).await?,
            );
            engine.start(&id).await?;
            Ok((input, outputs))
        };
        let (input, outputs) = attached.await.map_err(not_started)?;
        let container = Arc::new(Container {
            engine,
            run,
            id,
            name,
            started: SystemTime::now(),
            end: Mutex::new(None),
            streams,
            ahead: watch::Sender::new(true),
            losses: AtomicU64::new(0),
            descriptors: runtime.descriptors.clone(),
        });
        // A pipe's other end and a connection to the Engine each.
        for (output, pipe, is_stdout) in
            [(outputs.0, to_stdout, true), (outputs.1, to_stderr, false)]
        {
            let (container, taken) = (container.clone(), taken.split(2));
            tokio::spawn(async move {
                container.drain(output, pipe, is_stdout).await;
                drop(taken);
            });
        }
        let (feeding, held) = (container.clone(), taken.split(2));
        tokio::spawn(async move {
            feeding.feed(from_stdin, input).await;
            drop(held);
        });
        tokio::spawn(container.clone().watch_process(taken.split(1)));
        let ending = container.clone();
        tokio::spawn(async move {
            ending.watch_end(exit).await;
            drop(taken);
        });
        Ok(container)
    }

    /// Its status now, and what its Engine says of it.
    pub async fn inspect(&self) -> Result<Inspected, Error> {
        let inspect =
            self.engine
                .inspect(&self.id)
                .await
                .map_err(|error| match error.is_not_found() {
                    true => self.removed(),
                    false => wire(error),
                })?;
        let status = self.status();
        Ok(Inspected { status, inspect })
    }

    /// Its status now.
    pub fn status(&self) -> Status {
        let end = *self.end();
        let code = end.and_then(|end| end.code);
        let signal = code
            .map(|code| code - SIGNALLED)
            .filter(|n| signals::is_known(*n));
        let phase = match (end, code, signal) {
            (None, ..) => Phase::Running,
            (Some(_), _, Some(_)) => Phase::Signaled,
            (Some(_), Some(_), None) => Phase::Exited,
            (Some(_), None, None) => Phase::Unknown,
        };
        Status {
            run: self.run.clone(),
            exit: match phase {
                Phase::Unknown => Some("unknown".to_owned()),
                _ => signals::exit(code, signal),
            },
            phase,
            code,
            signal: signal.map(signals::name),
            signal_number: signal,
            id: self.id.clone(),
            name: self.name.clone(),
            started: rfc3339(self.started),
            ended: end.map(|end| rfc3339(end.at)),
            blocked: match phase.is_final() {
                true => None,
                false => self.streams.blocked(),
            },
            stdin: self.streams.stdin.status(),
            stdout: self.streams.stdout.status(),
            stderr: self.streams.stderr.status(),
        }
    }

    /// Waits until the container has ended. Fails with `Aborted` when the element is scrubbed
    /// before.
    pub async fn wait(&self) -> Result<Status, Error> {
        match self.streams.over().await {
            // An element that forgets itself was scrubbed after the end that the caller waits for.
            Course::Scrubbed if self.end().is_none() => {
                Err(Error::new(Code::Aborted, "the element was scrubbed"))
            }
            _ => Ok(self.status()),
        }
    }

    /// Has the Engine send the container's first process a signal.
    pub async fn signal(&self, signal: &str, reach: Reach) -> Result<(), Error> {
        let signal = signals::parse(signal).ok_or_else(|| signals::unknown(signal))?;
        if reach != Reach::Main {
            let message = "an Engine signals a container's first process only: leave out -group (KILL ends the others too)";
            return Err(Error::new(Code::InvalidArgument, message));
        }
        if self.end().is_some() {
            return Err(Error::new(Code::Closed, "the container has exited"));
        }
        let number = signal.as_raw().to_string();
        match self.engine.kill(&self.id, &number).await {
            Err(error) if error.is_not_found() => Err(self.removed()),
            Err(error) if error.is_conflict() => {
                Err(Error::new(Code::Closed, "the container has exited"))
            }
            result => result.map_err(wire),
        }
    }

    /// Removes the container if it has ended. One that runs is left alone.
    pub async fn remove(&self) -> Result<(), Error> {
        match self.engine.remove(&self.id, false).await {
            // The container runs, or somebody else removes it right now or has removed it.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            // Podman answers 500 for a container that runs.
            Err(error) => match self.engine.state(&self.id).await {
                Ok(state) if state.running => Ok(()),
                _ => Err(wire(error)),
            },
            Ok(()) => Ok(()),
        }
    }

    /// The element was removed: tells everybody who waits on it. If the container runs on, the
    /// server reads its output no longer.
    pub fn scrub(&self) {
        self.streams.scrub();
    }

    /// Whether the element is to forget itself when [`done`](Self::done) resolves.
    pub fn forgets_itself(&self) -> bool {
        self.run.scrub
    }

    /// Resolves once the container has ended and the readers that were attached then are gone, or
    /// the element is scrubbed.
    pub async fn done(&self) {
        if self.wait().await.is_ok() {
            self.streams.unread().await;
        }
    }

    /// Watches the container's first process, if this server can see it. If it cannot, or the process
    /// is already gone, the server reads the outputs ahead all the time.
    async fn watch_process(self: Arc<Self>, taken: Taken) {
        let state = match self.engine.is_local() {
            true => self.engine.state(&self.id).await.ok(),
            false => None,
        };
        if let Some(pid) = state.and_then(|state| Pid::from_raw(state.pid))
            && let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            && is_of_container(pid, &self.id)
            && let Ok(pidfd) = Descriptor::new(pidfd, taken)
        {
            self.ahead.send_replace(false);
            tokio::select! {
                _ = pidfd.readable() => (),
                _ = self.streams.over() => (),
            }
            self.ahead.send_replace(true);
        }
    }

    /// Waits for the container's end, through restarts of its Engine.
    async fn watch_end(self: Arc<Self>, exit: Exit) {
        let code = tokio::select! {
            code = self.exit_code(exit) => code,
            () = self.streams.scrubbed() => return,
        };
        let at = SystemTime::now();
        *self.end() = Some(End { code, at });
        self.streams.end();
    }

    /// The container's exit status, once it has one; `None` if it was removed before anybody heard.
    async fn exit_code(&self, mut exit: Exit) -> Option<i32> {
        let mut waited = exit.join_next().await.and_then(Result::ok);
        let mut pause = RETRY.0;
        loop {
            match waited {
                Some(Ok(code)) => return Some(code),
                Some(Err(error)) if error.is_not_found() => return None,
                Some(Err(error)) if pause == RETRY.0 => {
                    warn!("container {}: {error}", self.name);
                }
                Some(Err(_)) | None => (),
            }
            self.losses.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
            waited = Some(self.engine.exit(&self.id, false).await);
        }
    }

    fn removed(&self) -> Error {
        let message = format!(
            "the container {} was removed by somebody else: `circuit scrub` forgets it",
            self.name
        );
        Error::new(Code::Closed, message)
    }

    fn end(&self) -> parking_lot::MutexGuard<'_, Option<End>> {
        self.end.lock()
    }
}

impl Lifecycle for Container {
    fn kind(&self) -> ElementKind {
        ElementKind::Container
    }

    async fn status(&self) -> Result<AnyStatus, Error> {
        Ok(AnyStatus::Container(Box::new(self.inspect().await?)))
    }

    async fn retire(&self) -> Result<(), Error> {
        self.remove().await
    }

    async fn scrubbed(&self) {
        self.scrub();
    }
}

impl Attachable for Container {
    fn streams(&self) -> &Streams {
        &self.streams
    }

    fn attached_gone(&self) {}
}

/// How many descriptors a container takes while it runs: both ends of three pipes, a connection to the
/// Engine for each, one to wait for its end, and its process.
const DESCRIPTORS: u64 = 11;

fn take(descriptors: &Arc<Descriptors>, count: u64) -> Result<Taken, Error> {
    let taken = descriptors.take(User::Containers, count);
    taken.map_err(|short| Error::new(Code::Busy, short.to_string()))
}

/// A pipe for an output: the end that is read, and the one that the Engine's words go into. `taken` is
/// the first one's.
fn output_pipe(taken: Taken) -> std::io::Result<(Arc<Descriptor>, pipe::Sender)> {
    let (source, into) = held_pipe()?;
    let source = Descriptor::new(source, taken)?;
    Ok((source, pipe::Sender::from_owned_fd(into)?))
}

/// An Engine reports the end by a signal as this and the signal's number.
const SIGNALLED: i32 = 128;

/// Makes a container that does not run yet, under a name that is free: its id and name.
async fn create(engine: &Engine, run: &Run, path: &Path) -> Result<(String, String), Error> {
    let body = translate::body(run, path)?;
    let base = translate::name(path);
    for number in 1..NAMESAKES {
        // A container whose element was scrubbed while it ran has kept its name.
        let name = match number {
            1 => base.clone(),
            _ => format!("{base}-{number}"),
        };
        match engine.create(&name, body.clone()).await {
            Ok(id) => return Ok((id, name)),
            Err(error) if error.is_name_taken() => (),
            Err(error) => return Err(wire(error)),
        }
    }
    let message = format!("{NAMESAKES} containers are named {base}: remove some");
    Err(Error::new(Code::Busy, message))
}

/// Whether a process of this host is one of a container: an Engine's numbers may be those of
/// another namespace.
fn is_of_container(pid: Pid, id: &str) -> bool {
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()));
    groups.is_ok_and(|groups| groups.contains(id))
}

/// Why a container did not start: the last cause, without the programs that passed it on.
fn not_started(error: EngineError) -> Error {
    let mut error = wire(error);
    if error.code == Code::InvalidArgument {
        error.code = Code::Exec;
    }
    if let Some((_, reason)) = error.message.rsplit_once("container process: ") {
        let reason = reason.trim_end_matches(": unknown");
        // Podman adds its own words behind.
        error.message = reason.split(": OCI ").next().unwrap_or(reason).to_owned();
    }
    error
}

/// An Engine's failure as the caller hears of it.
fn wire(error: EngineError) -> Error {
    let code = match &error {
        EngineError::Said { status: 400, .. } => Code::InvalidArgument,
        EngineError::Said { .. } => Code::Exec,
        EngineError::Silent { .. } => Code::Busy,
        EngineError::Nowhere(_) | EngineError::Address(_) | EngineError::Tls => Code::Internal,
    };
    Error::new(code, error.to_string())
}

/// The body of a fuzz target: a container as somebody described it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(run: &Run, path: &Path) {
    if let Err(error) = translate::body(run, path) {
        assert!(!error.message.is_empty());
    }
}

#[cfg(test)]
mod tests;
