//! The output of a process that the server retains, for `logs`.
//!
//! The process gets ends of pipes that it can only write to: if its server is killed they break, as other
//! pipes do, and it does not wait for a reader that never comes.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Weak;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use super::spawn::SpawnError;
use super::tree::{Table, Tree};
use crate::logs::{Log, LogError, Pipe, Source, Stream};
use crate::runtime::Runtime;

/// The log of one process, and the pipes that lead there.
#[derive(Debug)]
pub(super) struct Retained {
    log: Mutex<Option<Log>>,
    pipes: Mutex<Vec<Pipe>>,
}

/// How long the server pauses between two looks for those who are left of a process that has exited: at
/// first, and at most. It doubles in between. Chosen, not measured: a look takes a millisecond for a hundred
/// processes, and nobody waits for it but who follows the log.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(30));

impl Retained {
    pub(super) fn new(log: Log) -> Retained {
        Retained {
            log: Mutex::new(Some(log)),
            pipes: Mutex::default(),
        }
    }

    /// The log, unless it is forgotten.
    pub(super) fn log(&self) -> Option<Log> {
        self.log.lock().clone()
    }

    /// Makes the pipe of an output, and returns the process's end of it. Blocks.
    pub(super) fn pipe(&self, mark: &str, stream: Stream) -> Result<OwnedFd, SpawnError> {
        let system = |why: &dyn std::fmt::Display| SpawnError::System(why.to_string());
        let log = self.log();
        let log = log.ok_or_else(|| system(&"its log is forgotten"))?;
        let (name, source) = (pipe_name(mark, stream), source(stream));
        let made = log.pipe(&name, source, None);
        let (pipe, end) = made.map_err(|error: LogError| system(&circuit_client::chain(&error)))?;
        self.pipes.lock().push(pipe);
        let only_to_write = rustix::fs::open(
            format!("/proc/self/fd/{}", end.as_raw_fd()),
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        only_to_write.map_err(|errno| system(&errno))
    }

    /// Forgets the log. What still comes is thrown away.
    pub(super) fn forget(&self) {
        if let Some(log) = self.log.lock().take() {
            // The writer removes the files by itself.
            drop(log.forget());
        }
    }

    /// Nobody is left who writes: reads what is left in the pipes, and tells those who follow the log.
    pub(super) async fn end(&self) {
        let pipes = std::mem::take(&mut *self.pipes.lock());
        for pipe in pipes {
            pipe.end().await;
        }
        if let Some(log) = self.log() {
            log.close();
        }
    }

    /// Waits until nobody is left of the tree of a process that has exited, and ends then.
    pub(super) async fn end_after(&self, tree: Option<Tree>, runtime: Weak<Runtime>) {
        let mut pause = PAUSES.0;
        while let (Some(tree), Some(runtime)) = (tree.clone(), runtime.upgrade()) {
            let left = runtime.looking.run(move || {
                let members = Table::of(&[&tree])?.members(&[&tree]).remove(0);
                Ok::<_, std::io::Error>(members.len())
            });
            let left = left.await;
            drop(runtime);
            if let Ok(Ok(0)) = left {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        self.end().await;
    }
}

/// The name of the pipe of an output: that of an instance's, with slot and number 0.
fn pipe_name(mark: &str, stream: Stream) -> String {
    let suffix = match stream {
        Stream::Stdout => "out",
        Stream::Stderr => "err",
    };
    format!("{mark}.{suffix}")
}

fn source(stream: Stream) -> Source {
    Source {
        slot: 0,
        instance: 0,
        stream,
    }
}
