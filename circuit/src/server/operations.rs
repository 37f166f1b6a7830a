//! The operations that a server executes: a table of those in flight, and the operation log of those
//! that have ended.
//!
//! **Invariant:** the log has one line per operation, in the order in which they took effect; it
//! holds no payload, no argument and no key.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use circuit_proto::{Code, Error, Path};
use serde::Serialize;

use super::log::{Format, Lines};
use crate::runtime::Runtime;
use crate::text::one_line;

/// The table of operations in flight.
#[derive(Debug)]
pub struct Operations {
    next: AtomicU64,
    table: Mutex<BTreeMap<u64, Arc<InFlight>>>,
    order: Mutex<()>,
    log: Option<Lines>,
    runtime: Arc<Runtime>,
}

/// An operation in flight.
#[derive(Debug)]
pub struct InFlight {
    /// The caller.
    pub who: Arc<str>,
    /// The name of the operation.
    pub what: &'static str,
    /// The anchor.
    pub path: Path,
    /// The time at which it began.
    pub since: Instant,
}

/// One operation in flight. It leaves the table when it is dropped.
#[derive(Debug)]
pub struct Operation {
    operations: Arc<Operations>,
    number: u64,
    in_flight: Arc<InFlight>,
    logged: bool,
}

impl Operations {
    /// An empty table, whose operations are logged there, and counted by the runtime.
    pub fn new(log: Option<Lines>, runtime: &Arc<Runtime>) -> Arc<Operations> {
        Arc::new(Operations {
            next: AtomicU64::new(0),
            table: Mutex::default(),
            order: Mutex::default(),
            log,
            runtime: runtime.clone(),
        })
    }

    /// Enters an operation into the table.
    pub fn begin(self: &Arc<Self>, who: Arc<str>, what: &'static str, path: Path) -> Operation {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        let in_flight = Arc::new(InFlight {
            who,
            what,
            path,
            since,
        });
        self.lock().insert(number, in_flight.clone());
        Operation {
            operations: self.clone(),
            number,
            in_flight,
            logged: false,
        }
    }

    /// The operations in flight, the oldest first.
    pub fn in_flight(&self) -> Vec<Arc<InFlight>> {
        self.lock().values().cloned().collect()
    }

    /// How many are in flight.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// The operation log, if there is one.
    pub fn log(&self) -> Option<&Lines> {
        self.log.as_ref()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<InFlight>>> {
        self.table.lock()
    }
}

impl Operation {
    /// The operation's name.
    pub fn what(&self) -> &'static str {
        self.in_flight.what
    }

    /// The caller.
    pub fn who(&self) -> &Arc<str> {
        &self.in_flight.who
    }

    /// Makes a change to the tree, and logs its outcome before any other change is made: so the log
    /// has the order in which changes took effect.
    pub fn in_order<T>(
        &mut self,
        change: impl FnOnce() -> Result<T, Error>,
        logs: impl FnOnce(&Result<T, Error>) -> bool,
    ) -> Result<T, Error> {
        let operations = self.operations.clone();
        let _order = operations.order.lock();
        let result = change();
        if logs(&result) {
            self.log(result.as_ref().err());
        }
        result
    }

    /// Leaves the operation out of this server's log, as another server executes and logs it.
    pub fn leave_unlogged(&mut self) {
        self.operations.runtime.counters.forwarded.one();
        self.logged = true;
    }

    /// Logs and counts the outcome. Only the first call has an effect.
    pub fn log(&mut self, failure: Option<&Error>) {
        if std::mem::replace(&mut self.logged, true) {
            return;
        }
        self.operations.runtime.counters.outcomes.count(failure);
        if let Some(log) = &self.operations.log {
            log.operation(Done {
                operation: self.in_flight.clone(),
                at: SystemTime::now(),
                took: self.in_flight.since.elapsed(),
                failure: failure.cloned(),
            });
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if !self.logged {
            let cut_off = "cut off: the caller or this server went away";
            self.log(Some(&Error::new(Code::Aborted, cut_off)));
        }
        self.operations.lock().remove(&self.number);
    }
}

/// An operation that has ended. The thread that writes its line puts it into words.
#[derive(Debug)]
pub struct Done {
    operation: Arc<InFlight>,
    at: SystemTime,
    took: Duration,
    failure: Option<Error>,
}

/// The line in its JSON form, with the field names that other lines have.
#[derive(Serialize)]
struct Fields<'a> {
    timestamp: String,
    level: &'a str,
    who: &'a str,
    what: &'a str,
    path: &'a str,
    outcome: &'a str,
    micros: u64,
    target: &'a str,
}

impl Done {
    /// Its line in the log, with the line end.
    pub fn line(&self, format: Format) -> String {
        let InFlight {
            who, what, path, ..
        } = &*self.operation;
        let time = humantime::format_rfc3339_micros(self.at);
        let (who, outcome) = (one_line(who), self.outcome());
        let quoted = match who.contains(' ') {
            true => format!("\"{who}\""),
            false => who.clone(),
        };
        let path = path.to_string();
        // Microseconds in 64 bits last for half a million years.
        let micros = self.took.as_micros() as u64;
        match format {
            // A name may hold what separates the fields.
            Format::Text if path.contains([' ', '"', '=']) => format!(
                "{time}  INFO operation: who={quoted} what={what:?} path={path:?} outcome={outcome} \
                 micros={micros}\n"
            ),
            Format::Text => format!(
                "{time}  INFO operation: who={quoted} what={what:?} path={path} outcome={outcome} \
                 micros={micros}\n"
            ),
            Format::Json => {
                let fields = Fields {
                    timestamp: time.to_string(),
                    level: "INFO",
                    who: &who,
                    what,
                    path: &path,
                    outcome: &outcome,
                    micros,
                    target: "operation",
                };
                // Fails for nothing that has no maps and no code of its own.
                let line = serde_json::to_string(&fields).unwrap_or_default();
                format!("{line}\n")
            }
        }
    }

    /// How much memory it takes until it is written, in bytes, within a factor.
    pub(super) fn held(&self) -> usize {
        let InFlight { who, path, .. } = &*self.operation;
        let names = path.below_server().iter();
        let path: usize = names.map(|name| size_of::<String>() + name.len()).sum();
        let failure = self.failure.as_ref().map_or(0, |error| error.message.len());
        size_of::<Done>() + size_of::<InFlight>() + who.len() + path + failure
    }

    fn outcome(&self) -> String {
        match &self.failure {
            None => "ok".to_owned(),
            // These quote what the caller sent, and that may be a secret.
            Some(Error {
                code:
                    code @ (Code::InvalidArgument | Code::Exec | Code::NoSuchProgram | Code::TooLarge),
                ..
            }) => format!("{code:?}"),
            Some(error) => format!("{:?}: {}", error.code, one_line(&error.message)),
        }
    }
}
