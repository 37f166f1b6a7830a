//! The output of a process that the server retains, for `logs`.
//!
//! The process gets ends of pipes that it can only write to: if its server is killed they break, as other
//! pipes do, and it does not wait for a reader that never comes.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Weak};
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

/// How long the server pauses before each look for those who are left of a process that has exited: at
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
        emptied(|| look(tree.clone(), runtime.upgrade())).await;
        self.end().await;
    }
}

impl Drop for Retained {
    /// There is no such process, or no element of it any more.
    fn drop(&mut self) {
        self.forget();
        for pipe in self.pipes.get_mut().drain(..) {
            // The writer removes it by itself.
            drop(pipe.end());
        }
    }
}

/// What a look for processes found.
#[derive(Debug, Clone, Copy)]
enum Look {
    Left,
    Empty,
    /// There is nothing to look at.
    Nowhere,
}

async fn look(tree: Option<Tree>, runtime: Option<Arc<Runtime>>) -> Look {
    let (Some(tree), Some(runtime)) = (tree, runtime) else {
        return Look::Nowhere;
    };
    let left = runtime.looking.run(move || {
        let members = Table::of(&[&tree])?.members(&[&tree])?;
        Ok::<_, std::io::Error>(members.into_iter().flatten().count())
    });
    match left.await {
        Ok(Ok(0)) => Look::Empty,
        _ => Look::Left,
    }
}

/// Resolves once two looks in a row have found nobody. The kernel may leave one out of a list while another
/// exits: a daemon's child while its parent does, which is the moment of the first look.
async fn emptied<L: Future<Output = Look>>(mut look: impl FnMut() -> L) {
    let (mut pause, mut was_empty) = (PAUSES.0, false);
    loop {
        tokio::time::sleep(pause).await;
        match look().await {
            Look::Nowhere => return,
            Look::Empty if was_empty => return,
            Look::Empty => (pause, was_empty) = (PAUSES.0, true),
            Look::Left => (pause, was_empty) = ((pause * 2).min(PAUSES.1), false),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{Logs, Query};
    use crate::runtime::descriptors::Descriptors;
    use crate::runtime::task::Alarm;

    #[tokio::test]
    async fn a_process_that_there_is_not_leaves_no_log_and_no_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let logs = Logs::start(
            dir.path(),
            None,
            &Alarm::new().0,
            &Descriptors::of_process(),
        );
        let logs = logs.unwrap();
        let log = logs.open("log", 1 << 20).unwrap();
        let follow = Query {
            follow: true,
            ..Query::default()
        };
        let mut follower = log.read(follow).unwrap();
        let retained = Retained::new(log);
        let end = retained.pipe("log.0.0", Stream::Stdout).unwrap();
        drop((retained, end));
        let end = tokio::time::timeout(Duration::from_secs(30), follower.next());
        assert_eq!(end.await.unwrap().unwrap(), None);
        while !logs.pipes().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn one_look_that_finds_nobody_ends_no_output() {
        use Look::{Empty, Left, Nowhere};
        for (looks, taken) in [
            (vec![Empty, Left, Empty, Empty, Left], 4),
            (vec![Left, Empty, Empty, Left], 3),
            (vec![Nowhere, Left], 1),
        ] {
            let mut next = looks.iter();
            emptied(|| std::future::ready(*next.next().unwrap())).await;
            assert_eq!(looks.len() - next.len(), taken, "{looks:?}");
        }
    }
}
