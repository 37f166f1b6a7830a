//! Starts a program of a service, an instance or a command beside one, with its output in the service's log.

use std::os::fd::{OwnedFd, RawFd};

use circuit_proto::element::process::{Cmd, Sink};
use tracing::warn;

use super::sockets::One;
use crate::element::process::cgroup::Cgroup;
use crate::element::process::session::{self, Session};
use crate::element::process::{Beside, Manner, SpawnError, nothing, sink};
use crate::logs::{Log, Pipe, Source, Stream};
use crate::runtime::Runtime;
use crate::runtime::descriptors::{Taken, User};

/// How many descriptors a start takes at most, for a moment, beside copies of sockets: a stdin, two pipes of two
/// ends, a pidfd, two of a notification, and one of a cgroup.
const DESCRIPTORS: u64 = 9;

/// A program that is about to start.
pub(super) struct Launch {
    pub(super) cmd: Cmd,
    pub(super) manner: Manner,
    pub(super) log: Log,
    /// Where its output is from: the slot, and the number of the instance.
    pub(super) from: (u32, u64),
    /// The beginning of the names of its pipes.
    pub(super) pipes: String,
    /// The sockets that it gets, from descriptor 3 on.
    pub(super) sockets: Vec<One>,
    /// Where it writes a line once it is ready, and the number of that descriptor.
    pub(super) line: Option<(OwnedFd, RawFd)>,
    /// The cgroup that is made for it.
    pub(super) cgroup: Option<Cgroup>,
}

/// A program that runs, and the pipes of its output.
pub(super) struct Launched {
    pub(super) session: Session,
    pub(super) pipes: Vec<Pipe>,
    /// The cgroup that it is in, if it has one of its own.
    pub(super) cgroup: Option<Cgroup>,
}

impl Launch {
    /// Starts it on a thread of the pool for spawning.
    pub(super) async fn launched(self, runtime: &Runtime) -> Result<Launched, SpawnError> {
        let system = |why: &dyn std::fmt::Display| SpawnError::System(why.to_string());
        let count = DESCRIPTORS + self.sockets.len() as u64;
        let taken = runtime.descriptors.take(User::Processes, count);
        let mut taken = taken.map_err(|short| system(&short))?;
        let one = taken.split(session::DESCRIPTORS);
        let launched = runtime.spawning.run_in_turn(move || {
            let launched = self.launch(one);
            drop(taken);
            launched
        });
        launched.await.map_err(|error| system(&error))?
    }

    /// Starts it. On failure nothing is left. Blocks.
    fn launch(mut self, taken: Taken) -> Result<Launched, SpawnError> {
        let mut pipes = Vec::new();
        let name = self.pipes.clone();
        // Without a cgroup it is told from others by less, and runs all the same.
        let without = |why: &dyn std::fmt::Display| {
            warn!("{name} begins without a cgroup of its own: {why}");
        };
        let mut cgroup = self.cgroup.take();
        let made = cgroup.as_ref().map(Cgroup::make).transpose();
        let enters = made.unwrap_or_else(|error| {
            without(&error);
            cgroup = None;
            None
        });
        let session = self.start(&mut pipes, enters, taken);
        let entered = session.as_ref().is_ok_and(Session::has_entered);
        if let Some(cgroup) = cgroup.take_if(|_| !entered) {
            cgroup.remove();
            if session.is_ok() {
                without(&"it may not enter");
            }
        }
        match session {
            Ok(session) => Ok(Launched {
                session,
                pipes,
                cgroup,
            }),
            Err(error) => {
                for pipe in pipes {
                    drop(pipe.end());
                }
                Err(error)
            }
        }
    }

    fn start(
        self,
        pipes: &mut Vec<Pipe>,
        enters: Option<OwnedFd>,
        taken: Taken,
    ) -> Result<Session, SpawnError> {
        let mut open = vec![nothing()?];
        let outputs = [
            (&self.cmd.stdout, Stream::Stdout, "Stdout", "out"),
            (&self.cmd.stderr, Stream::Stderr, "Stderr", "err"),
        ];
        for (to, stream, field, suffix) in outputs {
            if *to != Sink::Log {
                open.push(sink(&self.cmd, &self.manner, to, field)?);
                continue;
            }
            let (slot, instance) = self.from;
            let source = Source {
                // There are at most 1,024 slots.
                slot: u16::try_from(slot).unwrap_or(u16::MAX),
                instance,
                stream,
            };
            let name = format!("{}.{suffix}", self.pipes);
            let made = self.log.pipe(&name, source, self.manner.owner_numbers());
            let (pipe, end) =
                made.map_err(|error| SpawnError::System(circuit_client::chain(&error)))?;
            pipes.push(pipe);
            open.push(end);
        }
        for socket in &self.sockets {
            let copy = socket.copy();
            open.push(copy.map_err(|error| SpawnError::System(error.to_string()))?);
        }
        let beside = Beside {
            open: self.line,
            enters,
        };
        Session::start(&self.cmd, open, beside, &self.manner, taken)
    }
}
