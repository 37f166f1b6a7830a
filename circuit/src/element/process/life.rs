//! The life of a process and of its group: how it is, its signals, and its end.
//!
//! **Invariant:** nobody is signalled by a number that may be somebody else's: a process only while it is not
//! reaped, its group only while it is not reaped or has had members ever since.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use circuit_proto::element::process::Phase;
use circuit_proto::element::streams::Reach;
use circuit_proto::{Code, Error};
use parking_lot::MutexGuard;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};

use super::tree::{self, Table};
use super::{Process, orphans};
use crate::element::signals;
use crate::element::streams::Descriptor;
use crate::runtime::Runtime;

/// How a process is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life {
    pub(super) phase: Phase,
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) ended: Option<SystemTime>,
    /// Whether the process was reaped, so that another may have its number.
    pub(super) reaped: bool,
    /// Whether members of its group were left when the process was reaped, and ever since: the system
    /// gives the number of a group to nobody while the group has members.
    pub(super) group_left: bool,
}

/// How often the server checks whether anybody is left of the group of a process that has exited. Chosen,
/// not measured: the system gives numbers out in turn, so that another group has this number in so short a
/// time only if a hundred thousand processes start a second.
const GROUP_LOOK: Duration = Duration::from_millis(250);

/// The pauses after a process's exit before the server checks again whether its outputs have come to
/// their ends. Chosen, not measured: the start of another process takes a millisecond, and a process
/// that holds them for longer is a child of it.
const SETTLING: [Duration; 3] = [
    Duration::from_millis(20),
    Duration::from_millis(200),
    Duration::from_secs(2),
];

impl Process {
    /// Sends a signal to the process, its group, or its tree.
    pub async fn signal(&self, signal: &str, reach: Reach, runtime: &Runtime) -> Result<(), Error> {
        let signal = signals::parse(signal).ok_or_else(|| signals::unknown(signal))?;
        match reach {
            Reach::Main => self.signal_own(signal, false),
            Reach::Group => self.signal_own(signal, true),
            Reach::Tree => {
                let tree = self.tree.clone().ok_or_else(exited)?;
                let has_number = self.life().has_group();
                let sent = runtime.looking.run(move || {
                    let table = Table::of(&[&tree])?;
                    let members = match has_number {
                        true => table.members(&[&tree])?.remove(0),
                        false => table.members_of_unwatched(&tree)?,
                    };
                    let sent = members.into_iter().map(|member| member.signal(signal));
                    Ok::<_, std::io::Error>(tree::reached(sent))
                });
                let sent = sent.await?.map_err(|error| {
                    let message = format!("cannot look at the processes: {error}");
                    Error::new(Code::Internal, message)
                })?;
                sent.map_err(not_signalled)
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
        sent.map_err(not_signalled)
    }

    /// Sends the group signals. A group of which nobody is left hears nothing.
    pub(super) fn signal_group(&self, signals: &[Signal]) {
        let life = self.life();
        if life.has_group() {
            for signal in signals {
                let _ = rustix::process::kill_process_group(self.pid, *signal);
            }
        }
    }

    /// Resolves once the process has exited and nobody of its group is left, or the element is
    /// scrubbed.
    pub(super) async fn group_gone(&self) {
        self.streams.over().await;
        while self.life().group_left && !self.streams.is_scrubbed() {
            tokio::time::sleep(GROUP_LOOK).await;
        }
    }

    /// Reaps the child when it exits. One that is to hang up is reaped when its element goes: until
    /// then its number, which is its group's, is nobody else's.
    pub(super) async fn reap(self: Arc<Self>, pidfd: Arc<Descriptor>, runtime: Arc<Runtime>) {
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
    pub(super) fn let_go(&self) {
        let mut life = self.life();
        if life.phase.is_final() && !std::mem::replace(&mut life.reaped, true) {
            // The exit status is known already.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let reap = || rustix::process::waitid(WaitId::Pid(self.pid), options);
            let _ = orphans::reap_own(self.pid, reap);
        }
    }

    /// The state of the process, with what the kernel has to say of stops and continuations.
    pub(super) fn refreshed_life(&self) -> Life {
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

    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock()
    }
}

impl Life {
    /// That of a process which has just begun.
    pub(super) fn begun() -> Life {
        Life {
            phase: Phase::Running,
            code: None,
            signal: None,
            ended: None,
            reaped: false,
            group_left: false,
        }
    }

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

fn not_signalled(errno: Errno) -> Error {
    match errno {
        Errno::SRCH => exited(),
        errno => Error::new(Code::Refused, format!("cannot signal the process: {errno}")),
    }
}

/// Whether there is anybody in a group, though it may be somebody whom this server must not signal.
fn group_has_members(group: Pid) -> bool {
    rustix::process::test_kill_process_group(group) != Err(Errno::SRCH)
}
