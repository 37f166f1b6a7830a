//! The operations that a server executes: those in flight, and the log of those done.
//!
//! **Invariant:** the log has one line per operation, in the order in which they took effect; it
//! holds no payload, no argument and no key.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use circuit_proto::{Error, Path};
use tracing::info;

/// The target under which operations are logged.
pub const LOG_TARGET: &str = "operation";

/// The table of operations in flight.
#[derive(Debug, Default)]
pub struct Operations {
    next: AtomicU64,
    table: Mutex<BTreeMap<u64, Arc<InFlight>>>,
    order: Mutex<()>,
}

/// An operation in flight.
#[derive(Debug)]
pub struct InFlight {
    /// Who asked.
    pub who: String,
    /// The operation's name.
    pub what: &'static str,
    /// The anchor.
    pub path: Path,
    /// When it began.
    pub since: Instant,
}

/// One operation, in the table until it is dropped.
#[derive(Debug)]
pub struct Operation {
    operations: Arc<Operations>,
    number: u64,
    in_flight: Arc<InFlight>,
    logged: bool,
}

impl Operations {
    /// Enters an operation into the table.
    pub fn begin(self: &Arc<Self>, who: String, what: &'static str, path: Path) -> Operation {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let in_flight = Arc::new(InFlight {
            who,
            what,
            path,
            since: Instant::now(),
        });
        self.lock().insert(number, in_flight.clone());
        Operation {
            operations: self.clone(),
            number,
            in_flight,
            logged: false,
        }
    }

    /// Those in flight, the oldest first.
    pub fn in_flight(&self) -> Vec<Arc<InFlight>> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<InFlight>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Operation {
    /// Does something that changes the tree, and logs its outcome before anybody else's change:
    /// so the log has the order in which changes took effect.
    pub fn in_order<T>(
        &mut self,
        change: impl FnOnce() -> Result<T, Error>,
        logs: impl FnOnce(&Result<T, Error>) -> bool,
    ) -> Result<T, Error> {
        let operations = self.operations.clone();
        let _order = operations
            .order
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let result = change();
        if logs(&result) {
            self.log(result.as_ref().err());
        }
        result
    }

    /// Another server executes and logs it.
    pub fn leave_unlogged(&mut self) {
        self.logged = true;
    }

    /// Logs the outcome: once, later calls are without effect.
    pub fn log(&mut self, failure: Option<&Error>) {
        if std::mem::replace(&mut self.logged, true) {
            return;
        }
        let InFlight {
            who,
            what,
            path,
            since,
        } = &*self.in_flight;
        let outcome = Outcome(failure);
        // Microseconds in 64 bits last for half a million years.
        let micros = since.elapsed().as_micros() as u64;
        info!(target: LOG_TARGET, %who, what, %path, %outcome, micros);
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.log(Some(&Error::new(
            circuit_proto::Code::Aborted,
            "cut off: the caller or this server went away",
        )));
        self.operations.lock().remove(&self.number);
    }
}

struct Outcome<'a>(Option<&'a Error>);

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("ok"),
            Some(error) => {
                write!(f, "{:?}: ", error.code)?;
                // A line is one operation's, whatever the message quotes.
                error
                    .message
                    .chars()
                    .try_for_each(|c| match c.is_control() {
                        true => write!(f, "{}", c.escape_default()),
                        false => f.write_char(c),
                    })
            }
        }
    }
}
