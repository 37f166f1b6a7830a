//! What programs do in the world.

use std::time::Duration;

use super::super::super::End;
use super::ms;

/// What an instance does.
#[derive(Debug, Clone)]
pub(in super::super) struct Behaviour {
    /// How long the spawn takes, or why it fails.
    pub(in super::super) spawn: Result<Duration, &'static str>,
    /// How long the command before the start takes, and whether it succeeds.
    pub(in super::super) before: (Duration, bool),
    /// How long after the spawn it is ready, to a probe or by its own word.
    pub(in super::super) ready: Option<Duration>,
    /// When it ends by itself, and how.
    pub(in super::super) exit: Option<(Duration, End)>,
    /// How long after the signal the main process ends, if it does.
    pub(in super::super) term: Option<Duration>,
    /// Whether there are others in the tree when the main process ends, and how long they need after
    /// their TERM, if they heed it.
    pub(in super::super) rest: Option<Option<Duration>>,
    /// How long after a KILL the tree is empty, if ever.
    pub(in super::super) kill: Option<Duration>,
    /// How long after the spawn it is alive.
    pub(in super::super) alive: Duration,
    /// How often it says so by itself.
    pub(in super::super) watchdog: Option<Duration>,
    /// The memory that it uses.
    pub(in super::super) memory: u64,
    /// How long the stop command takes, and whether it succeeds; the main process ends with it if so.
    pub(in super::super) stop: (Duration, bool),
    /// How long the reload command takes, and whether it succeeds.
    pub(in super::super) reload: (Duration, bool),
}

impl Default for Behaviour {
    /// A well-behaved program.
    fn default() -> Behaviour {
        Behaviour {
            spawn: Ok(ms(2)),
            before: (ms(100), true),
            ready: Some(ms(500)),
            exit: None,
            term: Some(ms(200)),
            rest: None,
            kill: Some(ms(10)),
            alive: Duration::MAX,
            watchdog: None,
            memory: 1,
            stop: (ms(200), true),
            reload: (ms(100), true),
        }
    }
}

impl Behaviour {
    /// One that ends by itself.
    pub(in super::super) fn exits(after: Duration, code: i32) -> Behaviour {
        Behaviour {
            exit: Some((after, End::Code(code))),
            ..Behaviour::default()
        }
    }
}
