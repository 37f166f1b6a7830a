//! The definition of a service, as people write it.
//!
//! It travels as JSON text, and its server reads it: so a field that the server does not know is refused
//! by name, and `peek` shows the definition as it was given.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::OsText;
use crate::element::process::Sink;

/// The definition of a service. A field that is absent has the default in parentheses. Times are seconds,
/// and may have fractions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Definition {
    /// The whole environment, as `NAME=value` (the server's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<OsText>>,
    /// The working directory (the server's own).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<OsText>,
    /// The program. Without a slash it is looked up in `PATH`.
    pub path: OsText,
    /// The arguments after the program's name. In them, `{slot}` is the number of the slot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OsText>,
    /// Variables on top of the server's environment, as `NAME=value`, with `{slot}` as in the arguments.
    /// Not together with `Env`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_env: Vec<OsText>,
    /// The user, or user and group as `www:adm` (the server's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The mask of the modes of new files, in octal digits (the server's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<String>,
    /// The priority, from -20, which is served first, to 19 (the server's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nice: Option<i32>,
    /// Limits by their names, as setrlimit(2) has them, in lower case and without `RLIMIT_`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<BTreeMap<String, Limit>>,
    /// How many slots there are (1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<u16>,
    /// Which ends are followed by another start (`"always"`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<Restart>,
    /// The exit codes that are a success (`[0]`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok_codes: Option<Vec<i32>>,
    /// The exit codes that make a slot failed at once (none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fatal_codes: Option<Vec<i32>>,
    /// What follows an end that nobody saw (`"restart"`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<Unknown>,
    /// The pauses between starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// How an instance is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// How an instance is told to read its configuration again (`reload` is refused).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload: Option<Reload>,
    /// How it is known that an instance is ready (`{"Up": 1}`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<Probe>,
    /// How it is known that an instance is alive (not at all).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alive: Option<Probe>,
    /// Services of the same server for which each start waits (none).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// A command that must succeed before each start (none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Vec<OsText>>,
    /// Sockets that the server holds for the service (none).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<Socket>,
    /// The name under which instances are found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announce: Option<String>,
    /// The port that is announced (that of the first socket).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<port::Port>,
    /// How many slots are started or replaced at once (1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u16>,
    /// Whether a new instance is ready before the old one stops (if there are sockets).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surge: Option<bool>,
    /// The age at which an instance is replaced (none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<f64>,
    /// The memory, in bytes, at which an instance is replaced (none).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<u64>,
    /// Where stdout goes (`"log"`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<Sink>,
    /// Where stderr goes (`"log"`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<Sink>,
    /// How much of the output is retained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<Retained>,
}

/// A port, or a text with `{slot}` that is one.
mod port {
    use serde::{Deserialize, Serialize};

    /// See the module.
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    pub enum Port {
        /// A number.
        Number(u16),
        /// A text.
        Text(String),
    }
}

pub use port::Port;

/// A soft and a hard limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Limit {
    /// Both the same.
    Both(Bound),
    /// The soft one and the hard one.
    Each([Bound; 2]),
}

/// One side of a limit: a number or `"unlimited"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bound {
    /// A number.
    Number(u64),
    /// A word.
    Word(String),
}

/// Which ends of an instance are followed by another start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Restart {
    /// All.
    Always,
    /// All but an exit with one of `OkCodes`.
    Failure,
    /// None.
    Never,
}

/// What follows an end that nobody saw, as it fell between two lives of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Another start.
    Restart,
    /// None: for work that must not run twice.
    Finished,
}

/// The pauses between starts: after f failures in a row the pause is none for f = 1, and else the least of
/// `Most` and First·2^(f−2), a fifth more or less.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Backoff {
    /// The pause after the second failure in a row (1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<f64>,
    /// The longest pause (60).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<f64>,
    /// For how long an instance is ready before its failures are forgotten (10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steady: Option<f64>,
    /// After how many failures in a row a slot is failed (0: never).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tries: Option<u32>,
}

/// How an instance is stopped.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Stop {
    /// The signal to the main process (`"TERM"`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// The time until it is killed (10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// A command in place of the signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<OsText>>,
    /// The time between the end of readiness and the signal (0).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<f64>,
}

/// How an instance is told to read its configuration again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Reload {
    /// A signal to the main process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// A command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<OsText>>,
}

/// How it is known that an instance is ready, or alive: one of the first six, and the times.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Probe {
    /// It is ready once it has run for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<f64>,
    /// A command succeeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<OsText>>,
    /// A connection to this address is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// A request for this URL is answered with a status of 200 to 399.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// The instance says so itself (sd_notify(3)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<bool>,
    /// The instance writes a line to this descriptor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify_fd: Option<u16>,
    /// The time from one question to the next (1; of `Alive` 10).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<f64>,
    /// The time within which a question is answered (1; of `Alive` 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<f64>,
    /// The time from the start within which an instance is ready (60).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<f64>,
    /// After how many failures in a row an instance is not alive (3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fails: Option<u32>,
}

/// A socket that the server holds for the service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Socket {
    /// Its name, which instances find in `LISTEN_FDNAMES`.
    pub name: String,
    /// `HOST:PORT`, `udp:HOST:PORT` or `unix:PATH`.
    pub listen: String,
    /// How many connections wait at most (the system's).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<u32>,
    /// The mode of a Unix socket, in octal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// How much of the output is retained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Retained {
    /// Bytes, of all slots and instances together (16777216).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}
