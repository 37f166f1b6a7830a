//! Keeps the one network thread fair and alive.
//!
//! Each file has one purpose: [`task`] notices a task or thread that ends or panics, [`transient`]
//! tells errors that pass from those that stay, [`budget`] has long loops yield, [`drain`] empties
//! the outputs that nobody reads any more, [`pool`] bounds how many threads block, [`descriptors`]
//! hands out the open files that the process may have, [`admission`] shares scarce places out by
//! address, and [`counters`] counts. The rest of the server uses them; none of them knows an element,
//! a request or a peer.

pub mod admission;
pub mod budget;
pub mod counters;
pub mod descriptors;
pub mod drain;
pub mod handlers;
pub mod pool;
pub mod task;
pub mod transient;

use std::io;
use std::sync::Arc;

use admission::{Admission, Limits};
use counters::Counters;
use descriptors::Descriptors;
use drain::Drains;
use pool::Pool;
use task::Alarm;

/// How many processes may be in the making at the same time. Chosen, not measured: starting one
/// takes a millisecond of a processor, so that more at once are no faster; the others are for those
/// that a file system keeps waiting.
const SPAWNING: usize = 128;

/// How many names may be asked of the resolver at the same time. Chosen, not measured: a resolver
/// answers in milliseconds, or else none does for seconds.
const RESOLVING: usize = 32;

/// How many threads look at the processes of the host at the same time. Chosen, not measured: files below
/// /proc take no time, but for those of a process that the kernel is taking apart.
const LOOKING: usize = 8;

/// How many threads read logs at most. Chosen, not measured: a reader has a thread only while it reads, not
/// while it waits.
pub const READING: usize = 32;

/// How many threads the pools together may have: the runtime is to have room for all of them, so
/// that no pool ever waits for another.
pub const BLOCKING_THREADS: usize = SPAWNING + RESOLVING + LOOKING + READING + 64;

/// The means that the parts of one server share.
#[derive(Debug)]
pub struct Runtime {
    /// Reports threads that fail.
    pub alarm: Alarm,
    /// Empties forgotten outputs.
    pub drains: Drains,
    /// Starts processes.
    pub spawning: Pool,
    /// Asks the resolver.
    pub resolving: Pool,
    /// Looks at the processes of the host.
    pub looking: Pool,
    /// Hands out descriptors.
    pub descriptors: Arc<Descriptors>,
    /// Places for QUIC connections without a `Welcome`.
    pub unauthenticated: Arc<Admission>,
    /// Places for TCP connections without a token.
    pub tokenless: Arc<Admission>,
    /// Counts what happens.
    pub counters: Counters,
}

impl Runtime {
    /// Starts the threads that all servers have.
    pub fn start(alarm: &Alarm) -> io::Result<Arc<Runtime>> {
        Ok(Arc::new(Runtime {
            alarm: alarm.clone(),
            drains: Drains::start(alarm)?,
            spawning: Pool::new("processes being started", SPAWNING),
            resolving: Pool::new("names being looked up", RESOLVING),
            looking: Pool::new("looks at the processes of the host", LOOKING),
            descriptors: Descriptors::of_process(),
            unauthenticated: Admission::new(Limits::UNAUTHENTICATED),
            tokenless: Admission::new(Limits::UNAUTHENTICATED),
            counters: Counters::default(),
        }))
    }

    /// The means of a server that is not there.
    #[cfg(test)]
    pub(crate) fn alone() -> Arc<Runtime> {
        Runtime::start(&Alarm::new().0).unwrap()
    }
}
