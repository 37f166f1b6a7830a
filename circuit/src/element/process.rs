//! A process element: a child of this server, its three streams, and its end.
//!
//! A process is waited for through its pidfd, so that it is reaped by exactly one place, and
//! signalling it can never hit another process that got its number.
//!
//! **Invariant:** every child is reaped. **Invariant:** nothing that a caller does or omits blocks
//! the server; a child blocks only at its own full pipe.
//!
//! **Cancellation:** every async method may be dropped; a dropped reader or writer frees its place.

pub mod cgroup;
mod child;
mod inherited;
mod life;
pub mod orphans;
mod retained;
pub mod session;
mod spawn;
pub mod tree;

use parking_lot::{Mutex, MutexGuard};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::process::{Cmd, Phase, Status, TerminalSize};
use circuit_proto::{Code, ElementKind, Error};
use rustix::process::{Pid, Signal};
use tokio::sync::Notify;

pub use child::Owner;
pub use inherited::keep_from_children;
pub use spawn::{Beside, Manner, SpawnError, nothing, sink};

use self::life::Life;
use self::retained::Retained;
use self::tree::{Identity, Tree};
use super::streams::{Attachable, Course, Input, Output, Streams};
use super::{Lifecycle, signals};
use crate::logs::Log;
use crate::runtime::Runtime;
use crate::runtime::descriptors::User;

/// A process element.
#[derive(Debug)]
pub struct Process {
    cmd: Cmd,
    pid: Pid,
    /// All its descendants; `None` if the system did not say when it began.
    tree: Option<Tree>,
    started: SystemTime,
    /// Taken while the child is reaped or signalled, so that the one never overtakes the other.
    life: Mutex<Life>,
    streams: Streams,
    /// Until it exits.
    terminal: Mutex<Option<Arc<OwnedFd>>>,
    /// Whether it is bound to its maker's stream.
    bound: AtomicBool,
    /// Notified once nobody is attached any more to a process that is to hang up then.
    hung_up: Notify,
    /// Its output, if the server retains any of it.
    retained: Option<Retained>,
}

/// What a server gives a process besides what the command says.
#[derive(Debug)]
pub struct Given {
    /// How it is executed.
    pub manner: Manner,
    /// By which the server knows its descendants, wherever they are.
    pub mark: String,
    /// The log of a command of which some output is retained.
    pub log: Option<Log>,
}

/// How often the server checks whether anybody is attached to a process that is to hang up: its maker
/// may have gone before attaching, or between the streams' ends and the scrub. Chosen, not measured: a
/// client that was killed holds its place for as long.
const LOOK: Duration = Duration::from_secs(10);

/// How long a bound process and its group have after they were hung up, before they are killed. Chosen:
/// as long as other supervisors give.
const GRACE: Duration = Duration::from_secs(10);

impl Process {
    /// Executes the command. Fails with the operating system's reason, and then nothing is left.
    ///
    /// The system takes up to a millisecond to start a process, and a file system may hang, so a
    /// thread of the pool for spawning does it.
    ///
    /// **Cancellation:** a future that is dropped half-way leaves a process that nobody knows, so
    /// it is not to be dropped before the runtime is.
    pub async fn spawn(
        cmd: Cmd,
        given: Given,
        runtime: &Arc<Runtime>,
    ) -> Result<Arc<Process>, SpawnError> {
        let mark = Some(given.mark.clone());
        let spawned = Process::spawn_in_pool(cmd, given, runtime).await;
        let counters = &runtime.counters;
        match &spawned {
            Ok(_) => counters.started.one(),
            Err(_) => counters.not_started.one(),
        }
        let (cmd, spawned, main, retained) = spawned?;
        let process = Arc::new(Process {
            pid: spawned.pid,
            tree: main.map(|main| Tree {
                main,
                mark,
                is_older: false,
                cgroup: None,
            }),
            started: SystemTime::now(),
            life: Mutex::new(Life::begun()),
            streams: Streams::new(
                Input::new(spawned.stdin),
                Output::new(spawned.stdout, &runtime.drains),
                Output::new(spawned.stderr, &runtime.drains),
            ),
            terminal: Mutex::new(spawned.terminal),
            bound: AtomicBool::new(false),
            hung_up: Notify::new(),
            retained,
            cmd,
        });
        let reaping = process.clone().reap(spawned.pidfd, runtime.clone());
        tokio::spawn(reaping);
        Ok(process)
    }

    async fn spawn_in_pool(
        cmd: Cmd,
        given: Given,
        runtime: &Runtime,
    ) -> Result<(Cmd, spawn::Spawned, Option<Identity>, Option<Retained>), SpawnError> {
        let system = |why: &dyn std::fmt::Display| SpawnError::System(why.to_string());
        let Given {
            mut manner,
            mark,
            log,
        } = given;
        // From here on the log is forgotten unless there is a process.
        let retained = log.map(Retained::new);
        let taken = runtime
            .descriptors
            .take(User::Processes, spawn::DESCRIPTORS);
        let taken = taken.map_err(|short| system(&short))?;
        manner.variables.push(format!("{}={mark}", tree::MARK));
        let spawned = runtime.spawning.run(move || {
            let pipe = |stream| match &retained {
                Some(retained) => retained.pipe(&mark, stream),
                None => Err(SpawnError::Invalid("nothing is retained".to_owned())),
            };
            let spawned = spawn::spawn(&cmd, &manner, &pipe, taken)?;
            // Nobody has reaped the child yet, so that the number is its own.
            let main = Identity::of(spawned.pid);
            Ok((cmd, spawned, main, retained))
        });
        spawned.await.map_err(|error| system(&error))?
    }

    /// The command that it was made of.
    pub fn cmd(&self) -> &Cmd {
        &self.cmd
    }

    /// Its status now.
    pub fn status(&self) -> Status {
        let life = self.refreshed_life();
        let signal = life.signal.map(signals::name);
        let exit = match life.phase {
            Phase::Unknown => Some("unknown".to_owned()),
            _ => signals::exit(life.code, life.signal),
        };
        let blocked = match life.phase.is_final() {
            true => None,
            false => self.streams.blocked(),
        };
        Status {
            cmd: self.cmd.clone(),
            exit,
            phase: life.phase,
            code: life.code,
            signal,
            signal_number: life.signal,
            pid: self.pid.as_raw_nonzero().get().unsigned_abs(),
            started: rfc3339(self.started),
            ended: life.ended.map(rfc3339),
            blocked,
            stdin: self.streams.stdin.status(),
            stdout: self.streams.stdout.status(),
            stderr: self.streams.stderr.status(),
        }
    }

    /// Waits until the process has exited. Fails with `Aborted` when the element is scrubbed before.
    pub async fn wait(&self) -> Result<Status, Error> {
        let _waits = self.streams.attend();
        match self.streams.over().await {
            // One that forgets itself has exited first: that is what was waited for.
            Course::Scrubbed if !self.life().phase.is_final() => {
                Err(Error::new(Code::Aborted, "the element was scrubbed"))
            }
            _ => Ok(self.status()),
        }
    }

    /// Changes the size of the terminal that the process runs on.
    pub fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        let terminal = self.terminal().clone();
        let Some(terminal) = terminal else {
            return Err(Error::new(
                Code::InvalidArgument,
                "the process runs on no terminal",
            ));
        };
        spawn::set_size(terminal.as_fd(), size).map_err(|errno| {
            Error::new(
                Code::Internal,
                format!("cannot resize the terminal: {errno}"),
            )
        })
    }

    /// The element was removed: everybody who waits on it is told, and the process, if it runs on,
    /// has its output drained.
    pub fn scrub(&self) {
        self.streams.scrub();
        self.let_go();
        if let Some(retained) = &self.retained {
            retained.forget();
        }
    }

    /// Its retained output. Fails if it has none.
    pub fn log(&self) -> Result<Log, Error> {
        let Some(retained) = &self.retained else {
            let message = "its output is not retained: make it with \"Stdout\": \"log\"";
            return Err(Error::new(Code::WrongKind, message));
        };
        let scrubbed = || Error::new(Code::Aborted, "the element was scrubbed");
        retained.log().ok_or_else(scrubbed)
    }

    /// Whether the element is to forget itself when [`forgettable`](Self::forgettable) resolves.
    pub fn forgets_itself(&self) -> bool {
        self.cmd.scrub || self.cmd.hangup
    }

    /// Resolves once the element is to forget itself, or is scrubbed.
    pub async fn forgettable(&self) {
        if !self.cmd.scrub {
            self.deserted().await;
        }
        self.done().await;
    }

    /// Resolves once the process was hung up, or the element is scrubbed. Hangs up itself if nobody
    /// is attached.
    async fn deserted(&self) {
        loop {
            tokio::select! {
                () = self.hung_up.notified() => return,
                () = self.streams.scrubbed() => return,
                () = tokio::time::sleep(LOOK) => (),
            }
            if !self.streams.attached() {
                return self.hang_up();
            }
        }
    }

    /// Hangs up after a caller who waited for the end has gone, unless others are attached.
    pub fn waiter_gone(&self) {
        if !self.streams.attached() {
            self.hang_up();
        }
    }

    /// Hangs up, if the command says so.
    fn hang_up(&self) {
        if self.cmd.hangup {
            self.hung_up.notify_one();
            self.close_terminal();
        }
    }

    /// Tells the whole group, as the end of a terminal does: children of a process that has exited and
    /// processes that are stopped hear it too.
    fn close_terminal(&self) {
        self.streams.close_unattached();
        self.signal_group(&[Signal::HUP, Signal::CONT]);
    }

    /// The process is bound to its maker's stream: at the server's own end it is hung up, too.
    pub fn bind(&self) {
        self.bound.store(true, Ordering::Relaxed);
    }

    /// Resolves once the process has exited and the readers that were attached then are gone, or
    /// the element is scrubbed.
    async fn done(&self) {
        if self.streams.over().await == Course::Ended {
            self.streams.unread().await;
        }
    }

    fn terminal(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.terminal.lock()
    }
}

impl Lifecycle for Process {
    fn kind(&self) -> ElementKind {
        ElementKind::Process
    }

    async fn status(&self) -> Result<AnyStatus, Error> {
        Ok(AnyStatus::Process(self.status()))
    }

    async fn scrubbed(&self) {
        self.scrub();
    }

    async fn aborted(&self) -> Error {
        self.streams.scrubbed().await;
        Error::new(Code::Aborted, "the element was scrubbed")
    }

    async fn unbind(&self) {
        self.close_terminal();
        if tokio::time::timeout(GRACE, self.group_gone())
            .await
            .is_err()
        {
            self.signal_group(&[Signal::KILL]);
        }
        // Waiters and readers are told of the end, and not of a scrub.
        self.streams.over().await;
    }

    async fn shutdown(&self) {
        if self.bound.load(Ordering::Relaxed) {
            self.close_terminal();
        }
    }
}

impl Attachable for Process {
    fn streams(&self) -> &Streams {
        &self.streams
    }

    fn attached_gone(&self) {
        self.hang_up();
    }
}

/// A time as people and programs read it: RFC 3339, UTC, milliseconds. A clock that is further off than that can
/// say shows the first or the last time of it.
pub fn rfc3339(time: SystemTime) -> String {
    // The end of the year 9999.
    let last = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let time = time.clamp(SystemTime::UNIX_EPOCH, last);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_told() {
        let day = Duration::from_secs(86_400);
        for (time, expected) in [
            (SystemTime::UNIX_EPOCH - day, "1970-01-01T00:00:00.000Z"),
            (SystemTime::UNIX_EPOCH + day, "1970-01-02T00:00:00.000Z"),
            (
                SystemTime::UNIX_EPOCH + 4_000_000 * day,
                "9999-12-31T23:59:59.000Z",
            ),
        ] {
            assert_eq!(rfc3339(time), expected);
        }
    }
}
