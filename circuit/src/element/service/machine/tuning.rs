//! The constants of the machine. Each says where its value comes from: "promised" means by the
//! documents for users.

use std::time::Duration;

/// How long after the TERM to the rest of a tree there is no KILL. Promised.
pub(super) const REST: Duration = Duration::from_secs(2);

/// The time between two KILLs to a tree that is not empty. Promised for stuck ones; before, for what
/// a process forked while its tree was being killed.
pub(super) const KILL_AGAIN: Duration = Duration::from_secs(1);

/// How long after the first KILL an instance is stuck. Promised.
pub(super) const STUCK: Duration = Duration::from_secs(10);

/// The time between two samples of an instance's memory. Promised.
pub(super) const SAMPLE: Duration = Duration::from_secs(5);

/// How many samples in a row must be too large. Promised.
pub(super) const SAMPLES: u32 = 3;

/// How far a back-off is spread around its value. Promised.
pub(super) const JITTER: f64 = 0.2;

/// How much later than at its age an instance is replaced at most, as a part of that age. Promised.
pub(super) const AGE_SPREAD: f64 = 0.1;

/// How many instances there are beside a slot's own at most. Promised.
pub(super) const OLD: usize = 2;

/// How long an adopted instance that was starting, and that says by itself when it is ready, must run
/// to be ready: what it said may have fallen between two lives. The default of `Ready`'s `Up`.
pub(super) const ADOPTED_UP: Duration = Duration::from_secs(1);

/// The shortest interval of probes and watchdogs. Chosen, not measured: against definitions that would
/// keep the server busy.
pub(super) const LEAST_EVERY: Duration = Duration::from_millis(10);
