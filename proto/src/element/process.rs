//! A process: its operations, the command that makes one, and its status.
//!
//! The operations that it shares with a container are in [`streams`](super::streams), what is said in a
//! [`run`] in a file of its own.

pub mod run;

use std::ffi::OsStr;

use serde::{Deserialize, Serialize};

use super::streams::{Input, Output};
use crate::OsText;
use crate::codec::{growing, growing_option};

/// An operation on a process.
///
/// The order of the variants is part of the wire format: new ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Make a process.
    Make(Cmd),
    /// Change the size of the process's terminal.
    Resize {
        /// The new size.
        size: TerminalSize,
    },
    /// Make a process that is [bound](crate::request#bound-elements) to the stream of this request.
    MakeBound(Cmd),
    /// Make a process, attached, and carry its streams and its end: see [`run`].
    Run {
        /// The command. What it says of `scrub` and `hangup` is passed over.
        cmd: Cmd,
        /// How many bytes of each output the caller has room for: at least [`run::LEAST_WINDOW`].
        window: u64,
    },
}

impl Op {
    /// The operation's name in logs and tables: the name of its command.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Make(_) | Op::MakeBound(_) => "mkproc",
            Op::Resize { .. } => "resize",
            Op::Run { .. } => "run",
        }
    }

    /// Whether the operation changes anything that outlives it.
    pub fn changes(&self) -> bool {
        match self {
            Op::Make(_) | Op::MakeBound(_) | Op::Resize { .. } | Op::Run { .. } => true,
        }
    }

    /// Whether the operation waits for others by nature.
    pub fn waits(&self) -> bool {
        match self {
            Op::MakeBound(_) | Op::Run { .. } => true,
            Op::Make(_) | Op::Resize { .. } => false,
        }
    }
}

/// The command that a process element executes.
///
/// ```
/// use circuit_proto::element::process::{Cmd, Sink};
/// let cmd = Cmd::new("/bin/ls").arg("-l").args(["/", "/tmp"]).add_env("LANG", "C").dir("/");
/// assert_eq!(cmd.args, ["-l", "/", "/tmp"]);
/// let same = Cmd {
///     path: "/bin/ls".into(),
///     args: vec!["-l".into(), "/".into(), "/tmp".into()],
///     add_env: vec!["LANG=C".into()],
///     dir: Some("/".into()),
///     ..Cmd::default()
/// };
/// assert_eq!(cmd, same);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Cmd {
    /// The whole environment, as `NAME=value`; `None` inherits the server's. See
    /// [`add_env`](Cmd#structfield.add_env).
    #[serde(deserialize_with = "growing_option")]
    pub env: Option<Vec<OsText>>,
    /// The working directory; `None` is the server's own.
    pub dir: Option<OsText>,
    /// The program. Without a slash it is looked up in `PATH`.
    pub path: OsText,
    /// The arguments after the program's name.
    #[serde(deserialize_with = "growing")]
    pub args: Vec<OsText>,
    /// Forget the element by itself, once the process has exited and readers that were attached
    /// have had their end.
    pub scrub: bool,
    /// Where stdout goes.
    pub stdout: Sink,
    /// Where stderr goes.
    pub stderr: Sink,
    /// Run on a terminal of this size, in a session of its own: stdin and stdout are then the
    /// terminal, and stderr is empty.
    pub terminal: Option<TerminalSize>,
    /// Hang up when whoever is attached to one of its streams disappears without ending it, as a
    /// terminal does: its group gets SIGHUP, its stdin ends, its output is discarded, and the
    /// element forgets itself once the process has exited.
    pub hangup: bool,
    /// Variables on top of the server's environment, as `NAME=value`. A server refuses them
    /// together with [`env`](Cmd#structfield.env).
    #[serde(deserialize_with = "growing")]
    pub add_env: Vec<OsText>,
}

/// A command is built from its program on; its fields can be set as well.
impl Cmd {
    /// A command without arguments; everything else as the server has it.
    pub fn new(path: impl Into<OsText>) -> Cmd {
        Cmd {
            path: path.into(),
            ..Cmd::default()
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsText>) -> Cmd {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<T: Into<OsText>>(mut self, args: impl IntoIterator<Item = T>) -> Cmd {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets the whole environment, in place of the server's: names and values.
    pub fn env<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Cmd {
        let entry = |(name, value): (N, V)| entry(name.as_ref(), value.as_ref());
        self.env = Some(variables.into_iter().map(entry).collect());
        self
    }

    /// Adds a variable to the server's environment, or replaces it there.
    pub fn add_env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Cmd {
        self.add_env.push(entry(name.as_ref(), value.as_ref()));
        self
    }

    /// Sets the working directory.
    pub fn dir(mut self, dir: impl Into<OsText>) -> Cmd {
        self.dir = Some(dir.into());
        self
    }

    /// Sets where stdout goes.
    pub fn stdout(mut self, sink: Sink) -> Cmd {
        self.stdout = sink;
        self
    }

    /// Sets where stderr goes.
    pub fn stderr(mut self, sink: Sink) -> Cmd {
        self.stderr = sink;
        self
    }

    /// Runs it on a terminal of this size.
    pub fn terminal(mut self, size: TerminalSize) -> Cmd {
        self.terminal = Some(size);
        self
    }
}

/// The entry of an environment for a variable.
fn entry(name: &OsStr, value: &OsStr) -> OsText {
    let mut entry = name.to_owned();
    entry.push("=");
    entry.push(value);
    entry.into()
}

/// Where a process's output goes: `"pipe"`, `"discard"`, `"log"` (in any case), or a file's path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "OsText", into = "OsText")]
pub enum Sink {
    /// Held for a reader: 32 KiB of it, then the process blocks, as at any pipe.
    #[default]
    Pipe,
    /// Discarded.
    Discard,
    /// Retained by the server, for `logs`.
    Log,
    /// Appended to this file on the server's host, which is made if it is not there. A relative
    /// path is one in the process's working directory.
    File(OsText),
}

impl From<OsText> for Sink {
    fn from(text: OsText) -> Sink {
        if text.is_empty() || text.eq_ignore_ascii_case("pipe") {
            Sink::Pipe
        } else if text.eq_ignore_ascii_case("discard") {
            Sink::Discard
        } else if text.eq_ignore_ascii_case("log") {
            Sink::Log
        } else {
            Sink::File(text)
        }
    }
}

impl From<Sink> for OsText {
    fn from(sink: Sink) -> OsText {
        match sink {
            Sink::Pipe => "pipe".into(),
            Sink::Discard => "discard".into(),
            Sink::Log => "log".into(),
            Sink::File(path) => path,
        }
    }
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Its height.
    #[serde(alias = "rows")]
    pub rows: u16,
    /// Its width.
    #[serde(alias = "columns")]
    pub columns: u16,
}

/// The status of a process, as `peek` and `wait` print it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Status {
    /// The command that is executed.
    pub cmd: Cmd,
    /// `None` while it runs and after success, else `exit status 1`, `signal: terminated`.
    pub exit: Option<String>,
    /// The phase of its run.
    pub phase: Phase,
    /// The exit status, once it has exited by itself.
    pub code: Option<i32>,
    /// The name of the signal that ended it: `SIGTERM`.
    pub signal: Option<String>,
    /// The number of that signal, on the server's system.
    pub signal_number: Option<i32>,
    /// The process id on the server's host.
    pub pid: u32,
    /// When it was started: RFC 3339, UTC.
    pub started: String,
    /// When it exited: RFC 3339, UTC.
    pub ended: Option<String>,
    /// On which of its outputs the process blocks, as nobody reads it.
    pub blocked: Option<String>,
    /// Its stdin.
    pub stdin: Input,
    /// Its stdout.
    pub stdout: Output,
    /// Its stderr.
    pub stderr: Output,
}

impl Status {
    /// Whether the process has exited with status 0.
    pub fn success(&self) -> bool {
        self.phase == Phase::Exited && self.code == Some(0)
    }
}

/// The phase of a process, in the reference's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It has not exited.
    Running,
    /// It exited by itself.
    Exited,
    /// A signal stopped it; it may continue.
    Stopped,
    /// A signal ended it.
    Signaled,
    /// It runs again after it was stopped.
    Continued,
    /// The system did not say.
    Unknown,
}

impl Phase {
    /// Whether the process has ended, by itself or by a signal.
    pub fn is_final(self) -> bool {
        match self {
            Phase::Exited | Phase::Signaled | Phase::Unknown => true,
            Phase::Running | Phase::Stopped | Phase::Continued => false,
        }
    }
}
