//! What the machine needs to know of a definition.

use std::time::Duration;

/// The rules by which the instances of one generation are kept running.
///
/// The driver makes it from the definition; commands, addresses and texts stay with the driver.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    /// How many slots there are. Only the newest generation's number counts.
    pub(crate) instances: u32,
    /// Which ends are followed by a new start.
    pub(crate) restart: Restart,
    /// The exit codes that are a success.
    pub(crate) ok_codes: Vec<i32>,
    /// The exit codes after which a slot is `failed` at once.
    pub(crate) fatal_codes: Vec<i32>,
    /// Whether a slot is `finished` after an end that nobody saw; otherwise such an end counts as a
    /// failure and is followed by a start.
    pub(crate) unknown_finishes: bool,
    /// The delays between failures and starts.
    pub(crate) backoff: Backoff,
    /// How an instance is stopped.
    pub(crate) stop: Stop,
    /// How an instance becomes ready.
    pub(crate) ready: Ready,
    /// How it is seen that an instance is alive, if at all.
    pub(crate) alive: Option<Alive>,
    /// The services of the same server that must be ready before a start.
    pub(crate) after: Vec<String>,
    /// Whether a command must succeed before each start.
    pub(crate) before: bool,
    /// How many slots are started or replaced at once, by intents and at the beginning of a life;
    /// at least 1. Automatic restarts after failures do not wait for it.
    pub(crate) parallel: u32,
    /// Whether the new instance is ready before the old one is stopped.
    pub(crate) surge: bool,
    /// The age at which an instance is replaced.
    pub(crate) max_age: Option<Duration>,
    /// The memory, in bytes, of the whole tree above which an instance is replaced.
    pub(crate) max_memory: Option<u64>,
    /// What `reload` does, if there is anything.
    pub(crate) reload: Option<Reload>,
}

/// Which ends are followed by a new start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// All.
    Always,
    /// Those with a code that is not in `ok_codes`, by a signal, and unknown ones.
    Failure,
    /// None.
    Never,
}

/// The delays between failures and starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backoff {
    /// The delay after the second failure in a row; after each further one it is twice as long.
    pub(crate) first: Duration,
    /// The longest delay, before it is varied by a fifth.
    pub(crate) most: Duration,
    /// How long an instance must be ready until the failures before it are forgotten.
    pub(crate) steady: Duration,
    /// After how many failures in a row a slot is `failed`; 0 is never.
    pub(crate) tries: u32,
}

/// How an instance is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stop {
    /// Whether a command is run instead of the signal. If the command fails, the signal follows.
    pub(crate) command: bool,
    /// How long the instance has, from the first signal or the command, before KILL.
    pub(crate) seconds: Duration,
    /// How long the signal waits after readiness was withdrawn.
    pub(crate) wait: Duration,
}

/// How an instance becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// By having run for so long.
    Up(Duration),
    /// By a probe that succeeds; one that fails later makes it unready.
    Probe {
        /// The time from the beginning of one probe to that of the next.
        every: Duration,
        /// How long a probe may take.
        timeout: Duration,
        /// How long after the spawn it must be ready.
        deadline: Duration,
    },
    /// By saying so: [`Input::Ready`](super::Input::Ready).
    Notify {
        /// How long after the spawn it must be ready.
        deadline: Duration,
    },
}

/// How it is seen that an instance is alive. It is looked at once the instance has been ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Alive {
    /// Whether the instance says it by itself ([`Input::Watchdog`](super::Input::Watchdog), at least
    /// once in `every`) instead of being probed.
    pub(crate) watchdog: bool,
    /// The time from the beginning of one probe to that of the next.
    pub(crate) every: Duration,
    /// How long a probe may take.
    pub(crate) timeout: Duration,
    /// After how many failures in a row the instance is replaced; at least 1.
    pub(crate) fails: u32,
}

/// What `reload` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    /// The main process gets a signal.
    Signal,
    /// A command is run for each instance.
    Command,
}

impl Default for Policy {
    /// The documented defaults of a definition.
    fn default() -> Policy {
        let seconds = Duration::from_secs;
        Policy {
            instances: 1,
            restart: Restart::Always,
            ok_codes: vec![0],
            fatal_codes: Vec::new(),
            unknown_finishes: false,
            backoff: Backoff {
                first: seconds(1),
                most: seconds(60),
                steady: seconds(10),
                tries: 0,
            },
            stop: Stop {
                command: false,
                seconds: seconds(10),
                wait: Duration::ZERO,
            },
            ready: Ready::Up(seconds(1)),
            alive: None,
            after: Vec::new(),
            before: false,
            parallel: 1,
            surge: false,
            max_age: None,
            max_memory: None,
            reload: None,
        }
    }
}
