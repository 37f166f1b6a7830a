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
use circuit_proto::element::streams::Reach;
use circuit_proto::{Code, ElementKind, Error};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::sync::Notify;

pub use child::Owner;
pub use inherited::keep_from_children;
pub use spawn::{Beside, Manner, SpawnError, nothing, sink};

use self::retained::Retained;
use self::tree::{Identity, Table, Tree};
use super::streams::{Attachable, Course, Descriptor, Input, Output, Streams};
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

#[derive(Debug, Clone, Copy)]
struct Life {
    phase: Phase,
    code: Option<i32>,
    signal: Option<i32>,
    ended: Option<SystemTime>,
    /// Whether the process was reaped, so that another may have its number.
    reaped: bool,
    /// Whether members of its group were left when the process was reaped, and ever since: the system
    /// gives the number of a group to nobody while the group has members.
    group_left: bool,
}

/// How often the server checks whether anybody is attached to a process that is to hang up: its maker
/// may have gone before attaching, or between the streams' ends and the scrub. Chosen, not measured: a
/// client that was killed holds its place for as long.
const LOOK: Duration = Duration::from_secs(10);

/// How often the server checks whether anybody is left of the group of a process that has exited. Chosen,
/// not measured: the system gives numbers out in turn, so that another group has this number in so short a
/// time only if a hundred thousand processes start a second.
const GROUP_LOOK: Duration = Duration::from_millis(250);

/// How long a bound process and its group have after they were hung up, before they are killed. Chosen:
/// as long as other supervisors give.
const GRACE: Duration = Duration::from_secs(10);

/// The pauses after a process's exit before the server checks again whether its outputs have come to
/// their ends. Chosen, not measured: the start of another process takes a millisecond, and a process
/// that holds them for longer is a child of it.
const SETTLING: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_secs(2),
];

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
        let (cmd, spawned, retained) = spawned?;
        let process = Arc::new(Process {
            pid: spawned.pid,
            tree: Identity::of(spawned.pid).map(|main| Tree {
                main,
                mark,
                is_older: false,
                cgroup: None,
            }),
            started: SystemTime::now(),
            life: Mutex::new(Life {
                phase: Phase::Running,
                code: None,
                signal: None,
                ended: None,
                reaped: false,
                group_left: false,
            }),
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
    ) -> Result<(Cmd, spawn::Spawned, Option<Retained>), SpawnError> {
        let system = |why: &dyn std::fmt::Display| SpawnError::System(why.to_string());
        let taken = runtime
            .descriptors
            .take(User::Processes, spawn::DESCRIPTORS);
        let taken = taken.map_err(|short| system(&short))?;
        let Given {
            mut manner,
            mark,
            log,
        } = given;
        manner.variables.push(format!("{}={mark}", tree::MARK));
        let retained = log.map(Retained::new);
        let spawned = runtime.spawning.run(move || {
            let pipe = |stream| match &retained {
                Some(retained) => retained.pipe(&mark, stream),
                None => Err(SpawnError::Invalid("nothing is retained".to_owned())),
            };
            let spawned = spawn::spawn(&cmd, &manner, &pipe, taken);
            (cmd, spawned, retained)
        });
        let (cmd, spawned, retained) = spawned.await.map_err(|error| system(&error))?;
        match spawned {
            Ok(spawned) => Ok((cmd, spawned, retained)),
            Err(error) => {
                if let Some(retained) = retained {
                    retained.forget();
                    retained.end().await;
                }
                Err(error)
            }
        }
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

    /// Sends a signal to the process, its group, or its tree.
    pub async fn signal(&self, signal: &str, reach: Reach, runtime: &Runtime) -> Result<(), Error> {
        let signal = signals::parse(signal).ok_or_else(|| signals::unknown(signal))?;
        match reach {
            Reach::Main => self.signal_own(signal, false),
            Reach::Group => self.signal_own(signal, true),
            Reach::Tree => {
                let tree = self.tree.clone().ok_or_else(exited)?;
                let reached = runtime.looking.run(move || {
                    let table = Table::of(&[&tree])?;
                    let members = table.members(&[&tree]).remove(0);
                    let sent = members.into_iter().map(|member| member.signal(signal));
                    Ok::<_, std::io::Error>(sent.filter(Result::is_ok).count())
                });
                match reached.await? {
                    Ok(0) => Err(exited()),
                    Ok(_) => Ok(()),
                    Err(error) => Err(Error::new(
                        Code::Internal,
                        format!("cannot look at the processes: {error}"),
                    )),
                }
            }
        }
    }

    fn signal_own(&self, signal: Signal, group: bool) -> Result<(), Error> {
        let life = self.life();
        if life.phase.is_final() && !(group && life.has_group()) {
            return Err(exited());
        }
        // The lock is held: the child is not reaped meanwhile, so its number is still its own, or its
        // group's.
        let sent = match group {
            true => rustix::process::kill_process_group(self.pid, signal),
            false => rustix::process::kill_process(self.pid, signal),
        };
        sent.map_err(|errno| match errno {
            Errno::SRCH => exited(),
            errno => Error::new(Code::Refused, format!("cannot signal the process: {errno}")),
        })
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

    /// Sends the group signals. A group of which nobody is left hears nothing.
    fn signal_group(&self, signals: &[Signal]) {
        let life = self.life();
        if life.has_group() {
            for signal in signals {
                let _ = rustix::process::kill_process_group(self.pid, *signal);
            }
        }
    }

    /// The process is bound to its maker's stream: at the server's own end it is hung up, too.
    pub fn bind(&self) {
        self.bound.store(true, Ordering::Relaxed);
    }

    /// Resolves once the process has exited and nobody of its group is left, or the element is
    /// scrubbed.
    async fn group_gone(&self) {
        self.streams.over().await;
        while self.life().group_left && !self.streams.is_scrubbed() {
            tokio::time::sleep(GROUP_LOOK).await;
        }
    }

    /// Resolves once the process has exited and the readers that were attached then are gone, or
    /// the element is scrubbed.
    async fn done(&self) {
        if self.streams.over().await == Course::Ended {
            self.streams.unread().await;
        }
    }

    /// Reaps the child when it exits. One that is to hang up is reaped when its element goes: until
    /// then its number, which is its group's, is nobody else's.
    async fn reap(self: Arc<Self>, pidfd: Arc<Descriptor>, runtime: Arc<Runtime>) {
        let keeps = self.cmd.hangup;
        let options = match keeps {
            true => WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
            false => WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        };
        loop {
            // A pidfd becomes readable when the process exits, and errs only when the runtime ends.
            let Ok(mut ready) = pidfd.readable().await else {
                return;
            };
            let wait = WaitId::PidFd(pidfd.as_fd());
            let mut life = self.life();
            let waited = match keeps {
                true => rustix::process::waitid(wait, options),
                false => orphans::reap_own(self.pid, || rustix::process::waitid(wait, options)),
            };
            match waited {
                Ok(Some(status)) => {
                    *life = Life::ended(&status, !keeps);
                    life.group_left = !keeps && group_has_members(self.pid);
                    break;
                }
                Ok(None) | Err(Errno::INTR) => ready.clear_ready(),
                // Somebody else reaped it, which nobody here does.
                Err(_) => {
                    life.phase = Phase::Unknown;
                    life.ended = Some(SystemTime::now());
                    life.reaped = true;
                    break;
                }
            }
        }
        // The runtime's means are not to outlive the server because of a process.
        drop(pidfd);
        runtime.counters.ended.one();
        if self.retained.is_some() {
            let (process, runtime) = (self.clone(), Arc::downgrade(&runtime));
            tokio::spawn(async move {
                if let Some(retained) = &process.retained {
                    retained.end_after(process.tree.clone(), runtime).await;
                }
            });
        }
        drop(runtime);
        *self.terminal() = None;
        if self.life().group_left {
            tokio::spawn(self.clone().watch_group());
        }
        let settled = self.streams.settle();
        self.streams.end();
        if self.streams.is_scrubbed() {
            self.let_go();
        }
        // Between its fork and its exec every other child holds the pipes for a moment.
        let mut pauses = SETTLING.into_iter();
        let mut settled = settled;
        while let (false, Some(pause)) = (settled, pauses.next()) {
            tokio::time::sleep(pause).await;
            settled = self.streams.settle();
        }
    }

    /// Lasts until nobody of the group is left: from then on its number may be somebody else's.
    async fn watch_group(self: Arc<Self>) {
        loop {
            tokio::time::sleep(GROUP_LOOK).await;
            let mut life = self.life();
            life.group_left = group_has_members(self.pid);
            if !life.group_left || self.streams.is_scrubbed() {
                return;
            }
        }
    }

    /// Reaps a child that has exited and was kept.
    fn let_go(&self) {
        let mut life = self.life();
        if life.phase.is_final() && !std::mem::replace(&mut life.reaped, true) {
            // The exit status is known already.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let reap = || rustix::process::waitid(WaitId::Pid(self.pid), options);
            let _ = orphans::reap_own(self.pid, reap);
        }
    }

    /// The state of the process, with what the kernel has to say of stops and continuations.
    fn refreshed_life(&self) -> Life {
        let mut life = self.life();
        if !life.phase.is_final() {
            let options = WaitIdOptions::STOPPED | WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
            while let Ok(Some(status)) = rustix::process::waitid(WaitId::Pid(self.pid), options) {
                match status {
                    status if status.stopped() => life.phase = Phase::Stopped,
                    status if status.continued() => life.phase = Phase::Continued,
                    _ => break,
                }
            }
        }
        *life
    }

    fn terminal(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.terminal.lock()
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock()
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

impl Life {
    /// Whether the process's number is still that of its group, and of no other.
    fn has_group(&self) -> bool {
        !self.reaped || self.group_left
    }

    fn ended(status: &WaitIdStatus, reaped: bool) -> Life {
        let ended = Some(SystemTime::now());
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Life {
                phase: Phase::Exited,
                code: Some(code),
                signal: None,
                ended,
                reaped,
                group_left: false,
            },
            (None, Some(signal)) => Life {
                phase: Phase::Signaled,
                code: None,
                signal: Some(signal),
                ended,
                reaped,
                group_left: false,
            },
            (None, None) => Life {
                phase: Phase::Unknown,
                code: None,
                signal: None,
                ended,
                reaped,
                group_left: false,
            },
        }
    }
}

fn exited() -> Error {
    Error::new(Code::Closed, "the process has exited")
}

/// Whether there is anybody in a group, though it may be somebody whom this server must not signal.
fn group_has_members(group: Pid) -> bool {
    rustix::process::test_kill_process_group(group) != Err(Errno::SRCH)
}

/// A time as people and programs read it: RFC 3339, UTC, milliseconds.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
