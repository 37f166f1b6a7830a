//! Waiting for something to become true.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take: far longer than it does, far shorter than anybody's patience.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Asks until there is an answer, and panics with `what` if there is none in time.
pub(crate) fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    eventually_within(DEADLINE, what, ask)
}

/// Asks until there is an answer, with a deadline of its own.
pub(crate) fn eventually_within<T>(
    deadline: Duration,
    what: &str,
    ask: impl FnMut() -> Option<T>,
) -> T {
    within(deadline, ask).unwrap_or_else(|| panic!("not within {deadline:?}: {what}"))
}

/// Asks until there is an answer, or time is up.
pub(crate) fn within<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if begin.elapsed() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
