//! A container: its operations, the description that makes one, and its status.
//!
//! The operations that it shares with a process are in [`streams`](super::streams).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::process::Phase;
use super::streams::{Input, Output};
use crate::codec::growing;

/// An operation on a container.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Make a container.
    Make(Run),
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Make(_) => "mkdkr",
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Make(_) => true,
        }
    }

    /// Whether the operation waits for others by nature.
    pub fn waits(&self) -> bool {
        match self {
            Op::Make(_) => false,
        }
    }
}

/// The container that a container element runs.
///
/// ```
/// use circuit_proto::element::container::Run;
/// let run = Run {
///     path: Some("/bin/ls".into()),
///     args: vec!["/".into()],
///     ..Run::new("ubuntu")
/// };
/// assert_eq!(run.memory, 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Run {
    /// The image, as the Engine knows it: `ubuntu`, `ubuntu:24.04`, an id.
    pub image: String,
    /// The limit of its memory, in bytes; 0 is none.
    pub memory: u64,
    /// Its weight among those that want the processors; 0 is the Engine's usual.
    pub cpu_shares: u64,
    /// Limits in the words of LXC: `lxc.cgroup.cpuset.cpus = 0,1`. Those that have an equivalent
    /// are translated, all others refused.
    #[serde(deserialize_with = "growing")]
    pub lxc: Vec<String>,
    /// Volumes: `/webapp` is a new one that goes with the container, `/src/webapp:/opt/webapp:ro`
    /// a directory of the host.
    #[serde(deserialize_with = "growing")]
    pub volume: Vec<String>,
    /// The working directory; `None` or empty is the image's own.
    pub dir: Option<String>,
    /// The entry point; `None` or empty is the image's own.
    pub entry: Option<String>,
    /// Additions to the image's environment, as `NAME=value`.
    #[serde(deserialize_with = "growing")]
    pub env: Vec<String>,
    /// The program; `None` or empty, without arguments, is the image's own command.
    pub path: Option<String>,
    /// The arguments after the program's name.
    #[serde(deserialize_with = "growing")]
    pub args: Vec<String>,
    /// Remove the container when it exits, and forget the element once readers that were attached
    /// have had their end.
    pub scrub: bool,
    /// The network: `none`, `host`, `bridge`, or a name; `None` or empty is the Engine's usual.
    pub network: Option<String>,
    /// Ports of the container and of the host: `80`, `8080:80`, `127.0.0.1:8080:80/udp`.
    #[serde(deserialize_with = "growing")]
    pub ports: Vec<String>,
    /// Labels, besides those that name the container's server and path.
    pub labels: BTreeMap<String, String>,
    /// When the image is fetched from its registry.
    pub pull: Pull,
}

impl Run {
    /// The image's own command, with nothing limited.
    pub fn new(image: impl Into<String>) -> Run {
        Run {
            image: image.into(),
            memory: 0,
            cpu_shares: 0,
            lxc: Vec::new(),
            volume: Vec::new(),
            dir: None,
            entry: None,
            env: Vec::new(),
            path: None,
            args: Vec::new(),
            scrub: false,
            network: None,
            ports: Vec::new(),
            labels: BTreeMap::new(),
            pull: Pull::Missing,
        }
    }
}

/// When an image is fetched from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// If the Engine does not have it.
    #[default]
    Missing,
    /// Not at all: the Engine must have it.
    Never,
    /// Each time.
    Always,
}

/// The end of a container, as `wait` prints it. `Exit`, `Phase`, `Code` and `Signal` are in a process's words.
///
/// An Engine reports 128 + n both for signal n and for such an exit status: it is taken for the
/// signal, and `code` keeps the number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// The command that is executed.
    pub run: Run,
    /// `None` while it runs and after success, else `exit status 1`, `signal: terminated`.
    pub exit: Option<String>,
    /// The phase of its run.
    pub phase: Phase,
    /// The exit status as the Engine reports it.
    pub code: Option<i32>,
    /// The name of the signal that ended it: `SIGTERM`.
    pub signal: Option<String>,
    /// The number of that signal, on the server's system.
    pub signal_number: Option<i32>,
    /// The Engine's id of it.
    pub id: String,
    /// Its name in the Engine.
    pub name: String,
    /// When it was started: RFC 3339, UTC.
    pub started: String,
    /// When it was seen to have exited: RFC 3339, UTC.
    pub ended: Option<String>,
    /// On which of its outputs the container blocks, as nobody reads it.
    pub blocked: Option<String>,
    /// Its stdin.
    pub stdin: Input,
    /// Its stdout. What the Engine holds besides is not counted.
    pub stdout: Output,
    /// Its stderr. What the Engine holds besides is not counted.
    pub stderr: Output,
}

/// The status of a container, as `peek` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspected {
    /// Its status.
    pub status: Status,
    /// The Engine's description of it as JSON, as `docker inspect` prints it.
    pub inspect: String,
}
