//! Which processors this program and what it starts run on.
//!
//! Two processes that answer each other are placed by the kernel on one processor or on two as
//! chance has it, and for long: a round trip then takes 30 µs or 70. Where that decides, this
//! program does.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Result;

/// The processors that this thread had. Dropped, it has them again.
pub(crate) struct Placed {
    before: CpuSet,
}

/// Keeps this thread, and what it starts, on the first or the second of its processors; there may
/// be one only.
pub(crate) fn keep_on(nth: usize) -> Result<Placed> {
    let before = sched_getaffinity(None)?;
    let mut mine = (0..CpuSet::MAX_CPU).filter(|cpu| before.is_set(*cpu));
    let first = mine.next().ok_or("this thread has no processor")?;
    let mut only = CpuSet::new();
    only.set(
        mine.nth(nth.wrapping_sub(1))
            .filter(|_| nth > 0)
            .unwrap_or(first),
    );
    sched_setaffinity(None, &only)?;
    Ok(Placed { before })
}

impl Drop for Placed {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = sched_setaffinity(None, &self.before);
    }
}
