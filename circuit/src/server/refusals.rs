//! Rations the lines of the log that say whom a server refused: whoever tries again and again must not
//! drown what else is logged.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

/// How many refusals are logged a second. Chosen, not measured.
const LOGGED: u64 = 10;

/// Logs some refusals of a second, and counts the others.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<(Option<Instant>, u64)>);

impl Refusals {
    /// Has `log` log a refusal, unless too many were logged in this second.
    pub(super) fn log(&self, log: impl FnOnce()) {
        let mut state = self.0.lock();
        let (since, count) = &mut *state;
        if since.is_none_or(|since| since.elapsed() >= Duration::from_secs(1)) {
            if *count > LOGGED {
                warn!("refused {} connections more", *count - LOGGED);
            }
            (*since, *count) = (Some(Instant::now()), 0);
        }
        *count += 1;
        if *count <= LOGGED {
            log();
        }
    }
}
