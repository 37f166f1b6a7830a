//! A program that runs in a session of its own, and its end: the instances of services, and the commands
//! beside them.
//!
//! **Invariant:** a program that was started is reaped, whoever waits for it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use circuit_proto::element::process::Cmd;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use super::orphans;
use super::spawn::{self, Beside, Manner, SpawnError};
use super::tree::Identity;
use crate::element::streams::Descriptor;
use crate::runtime::descriptors::Taken;

/// How many descriptors a program of a session has, while it runs.
pub const DESCRIPTORS: u64 = 1;

/// The main process of a session. It may be this server's child, or have been one of its life before.
#[derive(Debug)]
pub struct Session {
    identity: Identity,
    pidfd: Arc<Descriptor>,
    entered: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Nobody saw how.
    Unknown,
}

impl Session {
    /// Starts a command with these descriptors open, the first as its stdin. Blocks.
    pub fn start(
        cmd: &Cmd,
        open: Vec<OwnedFd>,
        beside: Beside,
        manner: &Manner,
        taken: Taken,
    ) -> Result<Session, SpawnError> {
        let child = spawn::start_session(cmd, open, beside, manner)?;
        let entered = child.entered;
        child.wired(|pid, pidfd| {
            // Nobody has reaped the child yet, so that the number is its own.
            let identity = Identity::read(pid)?.ok_or(Errno::SRCH)?;
            let pidfd = spawn::watched(Descriptor::new(pidfd, taken)?)?;
            Ok(Session {
                identity,
                pidfd,
                entered,
            })
        })
    }

    /// A process of the server's life before, if it is still there. Must be called within the runtime.
    pub fn adopt(identity: Identity, taken: Taken) -> Option<Session> {
        let flags = rustix::process::PidfdFlags::empty();
        let pidfd = rustix::process::pidfd_open(identity.pid, flags).ok()?;
        // Opened first and compared then: the descriptor refers to whatever has the number now.
        if Identity::of(identity.pid) != Some(identity) {
            return None;
        }
        let pidfd = spawn::watched(Descriptor::new(pidfd, taken).ok()?).ok()?;
        let entered = false;
        Some(Session {
            identity,
            pidfd,
            entered,
        })
    }

    /// Whether it began in the cgroup that it was to enter.
    pub fn has_entered(&self) -> bool {
        self.entered
    }

    /// The process.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The descriptor that tells of its end.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it has not exited.
    pub fn is_alive(&self) -> bool {
        let mut polled = [PollFd::new(&*self.pidfd, PollFlags::IN)];
        let now = Timespec::default();
        !matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(1))
    }

    /// How another's child ended, as far as the kernel tells.
    async fn remembered(&self) -> End {
        for pause in REAPING {
            tokio::time::sleep(pause).await;
            if let Some(end) = exit_of(self.pidfd.as_fd()) {
                return end;
            }
        }
        End::Unknown
    }

    /// Sends it a signal. Fails if it has gone.
    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        rustix::process::pidfd_send_signal(self.pidfd.as_fd(), signal)
    }

    /// Sends the process group that it began a signal. Fails if the process has gone: then the number may be
    /// another group's.
    pub fn signal_group(&self, signal: Signal) -> Result<(), Errno> {
        orphans::while_nobody_reaps(|| match Identity::of(self.identity.pid) {
            Some(found) if found == self.identity => {
                rustix::process::kill_process_group(self.identity.pid, signal)
            }
            _ => Err(Errno::SRCH),
        })
    }

    /// Waits until it has ended, and reaps it. To be awaited once, to its end.
    pub async fn ended(&self) -> End {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        loop {
            // A pidfd becomes readable when the process exits, and errs only when the runtime ends.
            let Ok(mut ready) = self.pidfd.readable().await else {
                return std::future::pending().await;
            };
            let wait = || rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options);
            match orphans::reap_own(self.identity.pid, wait) {
                Ok(Some(status)) => {
                    return match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => End::Code(code),
                        (None, Some(signal)) => End::Signal(signal),
                        (None, None) => End::Unknown,
                    };
                }
                Ok(None) | Err(Errno::INTR) => ready.clear_ready(),
                // It is not this server's child, but the kernel remembers how it ended.
                Err(_) => return self.remembered().await,
            }
        }
    }
}

/// The pauses before the kernel is asked again how a process ended: it tells once the parent has reaped it.
/// Chosen, not measured.
const REAPING: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(400),
];

/// What the kernel says of a process (`struct pidfd_info`, linux/pidfd.h).
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    /// Its numbers, and those of its user and groups.
    numbers: [u32; 11],
    exit_code: i32,
}

/// Asks for the exit code, which Linux tells from 6.15 on.
const EXIT: u64 = 1 << 3;

/// `_IOWR(0xFF, 11, struct pidfd_info)`.
const GET_INFO: libc::Ioctl =
    ((3 << 30) | (size_of::<Info>() << 16) | (0xFF << 8) | 11) as libc::Ioctl;

/// How the process of a pidfd ended, if the kernel tells.
#[allow(unsafe_code)]
fn exit_of(pidfd: BorrowedFd<'_>) -> Option<End> {
    let mut info = Info {
        mask: EXIT,
        ..Info::default()
    };
    // SAFETY: the request names the size of the structure, and the kernel writes no more than that. A kernel
    // that does not know the request fails.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    if done != 0 || info.mask & EXIT == 0 {
        return None;
    }
    Some(
        match (
            libc::WIFEXITED(info.exit_code),
            libc::WIFSIGNALED(info.exit_code),
        ) {
            (true, _) => End::Code(libc::WEXITSTATUS(info.exit_code)),
            (false, true) => End::Signal(libc::WTERMSIG(info.exit_code)),
            (false, false) => End::Unknown,
        },
    )
}
