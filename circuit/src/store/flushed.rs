//! The changes: their queue, and the thread that makes them.
//!
//! Whatever has come while a transaction was being flushed is the next transaction, so the more
//! callers there are, the more of them share a flush, and a lone one waits for nobody.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use tokio::sync::watch;

use super::change::{Refusal, make};
use super::database::Database;
use super::directory::Directory;
use super::error::{Fault, WriteError};
use super::health::{Gauges, Of};
use super::record::Change;
use super::room::Room;

/// How many requests may wait. Chosen, not measured: as many as clients may have waiting on one
/// connection.
const WAITING: usize = 16_384;

/// How many bytes may wait. Chosen, not measured: a definition has at most 1 MiB.
const WAITING_BYTES: usize = 64 << 20;

/// How often a disk that was full is looked at while nobody writes. Chosen, not measured.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Answer = Result<(), WriteError>;

/// The answer to a change, once it is on the disk.
#[derive(Debug, Clone)]
#[must_use = "says whether the change is on the disk; drop it if that does not matter"]
pub(crate) struct Flushed(Result<watch::Receiver<Option<Answer>>, WriteError>);

impl Flushed {
    /// Waits until the change is on the disk, or is known not to be.
    pub(crate) async fn done(self) -> Answer {
        match self.0 {
            Ok(mut answer) => {
                let answer = answer.wait_for(Option::is_some).await;
                let answer = answer.ok().and_then(|answer| answer.clone());
                answer.unwrap_or(Err(WriteError::Closed))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether it is known by now that the change is not on the disk.
    pub(crate) fn has_failed(&self) -> bool {
        match &self.0 {
            Ok(answer) => {
                // The writer may be gone, and have said nothing.
                let ended = answer.has_changed().is_err();
                answer.borrow().as_ref().map_or(ended, Result::is_err)
            }
            Err(_) => true,
        }
    }
}

#[derive(Debug)]
struct Request {
    changes: Vec<Change>,
    answer: watch::Sender<Option<Answer>>,
}

impl Request {
    /// Makes the changes, or none of them.
    fn make(&self, connection: &Connection) -> Result<Answer, Fault> {
        let execute = |sql| connection.prepare_cached(sql)?.execute([]).map(drop);
        execute("SAVEPOINT request")?;
        let made = self
            .changes
            .iter()
            .try_for_each(|one| make(connection, one));
        let answer = match made {
            Ok(()) => Ok(()),
            Err(Refusal::Missing(path)) => Err(WriteError::Missing(path)),
            Err(Refusal::Fault(fault)) => return Err(fault),
        };
        if answer.is_err() {
            execute("ROLLBACK TO request")?;
        }
        execute("RELEASE request")?;
        Ok(answer)
    }
}

/// What waits for the thread.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    bytes: usize,
    /// Whether the thread is to look at the disk, whatever it waits for.
    looks: bool,
    closed: bool,
}

impl Queue {
    /// Has the thread look at the disk, as there was no room for others.
    pub(super) fn look(&self) {
        self.waiting.lock().looks = true;
        self.wake.notify_one();
    }

    pub(super) fn push(&self, changes: Vec<Change>) -> Flushed {
        let bytes: usize = changes.iter().map(Change::bytes).sum();
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Flushed(Err(WriteError::Closed));
        }
        let requests = waiting.requests.len();
        if requests > 0 && (requests >= WAITING || waiting.bytes + bytes > WAITING_BYTES) {
            return Flushed(Err(WriteError::Busy(requests)));
        }
        let (answer, flushed) = watch::channel(None);
        waiting.bytes += bytes;
        waiting.requests.push_back(Request { changes, answer });
        drop(waiting);
        self.wake.notify_one();
        Flushed(Ok(flushed))
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.lock().requests.len()
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// All that waits. `None` once the queue is closed and empty. Where the disk is short of room,
    /// nothing after a while.
    fn take(&self, short: bool) -> Option<VecDeque<Request>> {
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() && !waiting.closed && !waiting.looks {
            if !short {
                self.wake.wait(&mut waiting);
            } else if self.wake.wait_for(&mut waiting, LOOK_EVERY).timed_out() {
                break;
            }
        }
        if waiting.requests.is_empty() && waiting.closed {
            return None;
        }
        waiting.bytes = 0;
        waiting.looks = false;
        Some(std::mem::take(&mut waiting.requests))
    }
}

/// The work of the thread.
#[derive(Debug)]
pub(super) struct Worker {
    database: Database,
    queue: Arc<Queue>,
    room: Arc<Room>,
    gauges: Arc<Gauges>,
    /// Whether a transaction failed, and may have left its frames in the log.
    failed: bool,
    _directory: Arc<Directory>,
}

/// Answers what still waits when the thread ends, be it by a panic.
struct End(Arc<Queue>);

impl Drop for End {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting.lock();
        waiting.closed = true;
        // A sender that is dropped is an answer.
        waiting.requests.clear();
    }
}

impl Worker {
    pub(super) fn new(
        database: Database,
        queue: Arc<Queue>,
        room: Arc<Room>,
        gauges: Arc<Gauges>,
        directory: Arc<Directory>,
    ) -> Worker {
        gauges.measured(Of::Changes, database.bytes());
        Worker {
            database,
            queue,
            room,
            gauges,
            failed: false,
            _directory: directory,
        }
    }

    pub(super) fn run(mut self) {
        let _end = End(self.queue.clone());
        while let Some(requests) = self.queue.take(self.room.is_short()) {
            if self.room.is_short() {
                self.look();
            }
            if !requests.is_empty() {
                self.commit(requests.into());
            }
            self.gauges.measured(Of::Changes, self.database.bytes());
        }
    }

    /// Makes all these changes in one transaction, and answers them.
    fn commit(&mut self, requests: Vec<Request>) {
        let mut outcome = self.attempt(&requests);
        if let Err(fault) = &outcome
            && fault.is_full(Some(self.database.connection()))
        {
            self.room.cut();
            outcome = self.attempt(&requests);
        }
        match outcome {
            Ok(answers) => {
                self.gauges.wrote(Of::Changes, requests.len());
                for (request, answer) in requests.into_iter().zip(answers) {
                    request.answer.send_replace(Some(answer));
                }
                self.tidy();
            }
            Err(fault) => {
                let error = self.fail(&fault);
                for request in requests {
                    request.answer.send_replace(Some(Err(error.clone())));
                }
            }
        }
    }

    /// Copies the log. The answers are out: whoever comes next waits for this, and nobody else.
    fn tidy(&mut self) {
        if let Err(fault) = self.database.tidy(self.room.is_short()) {
            if fault.is_full(Some(self.database.connection())) {
                self.room.cut();
            }
            self.fail(&fault);
        }
    }

    fn fail(&self, fault: &Fault) -> WriteError {
        let error = WriteError::Failed {
            path: self.database.path().to_owned(),
            reason: fault.reason(Some(self.database.connection())),
        };
        self.gauges.failed(Of::Changes, error.to_string());
        error
    }

    /// Makes the changes. The answers are those of the requests; an error is the transaction's.
    fn attempt(&mut self, requests: &[Request]) -> Result<Vec<Answer>, Fault> {
        if self.failed {
            self.failed = !self.database.disown();
        }
        let short = self.room.is_short();
        let mut answers = Vec::with_capacity(requests.len());
        let committed = self.database.transaction(|connection| {
            for request in requests {
                answers.push(match short && request.changes.iter().any(Change::grows) {
                    true => Err(WriteError::Full),
                    false => request.make(connection)?,
                });
            }
            Ok(())
        });
        self.failed |= committed.is_err();
        committed.map(|()| answers)
    }

    /// Looks whether a disk that was full has room again.
    fn look(&mut self) {
        if let Err(fault) = self.database.shrink(self.room.wanted()) {
            self.fail(&fault);
        }
        self.room.restore();
    }
}
