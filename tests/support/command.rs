//! One run of the command-line tool: its input, and the output and status that it must have.

use std::fmt;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::capture::Capture;
use super::{DEADLINE, Server, Terminal, within};

/// A command that is about to run. Unless told, it must print nothing and succeed.
pub(crate) struct Circuit {
    /// The words before the command line: the binary, and the program that starts it.
    base: Command,
    command: Command,
    line: String,
    stdin: Input,
    stdout: Option<String>,
    stderr: Option<String>,
    /// If it was told.
    status: Option<i32>,
}

enum Input {
    Empty,
    Bytes(Vec<u8>),
    Open,
}

impl Circuit {
    /// A line for the binary. What comes before it, and its environment, is the `base`.
    pub(crate) fn new(base: Command, line: &str) -> Circuit {
        let mut command = again(&base);
        command.args(line.split_whitespace());
        Circuit {
            base,
            command,
            line: format!("circuit {line}"),
            stdin: Input::Empty,
            stdout: Some(String::new()),
            stderr: Some(String::new()),
            status: None,
        }
    }

    /// One more argument, spaces and all.
    pub(crate) fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Circuit {
        self.line = format!("{} {:?}", self.line, argument.as_ref());
        self.command.arg(argument);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Circuit {
        self.base.env(name, &value);
        self.command.env(name, value);
        self
    }

    /// Gives the command this input.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Circuit {
        self.stdin = Input::Bytes(bytes.into());
        self
    }

    /// Lets [`Running::write`] give the command its input.
    pub(crate) fn stdin_open(mut self) -> Circuit {
        self.stdin = Input::Open;
        self
    }

    /// The command must print this on stdout.
    pub(crate) fn stdout(mut self, text: impl Into<String>) -> Circuit {
        self.stdout = Some(text.into());
        self
    }

    /// The command may print anything on stdout.
    pub(crate) fn any_stdout(mut self) -> Circuit {
        self.stdout = None;
        self
    }

    /// The command must print this on stderr.
    pub(crate) fn stderr(mut self, text: impl Into<String>) -> Circuit {
        self.stderr = Some(text.into());
        self
    }

    /// The command may print anything on stderr.
    pub(crate) fn any_stderr(mut self) -> Circuit {
        self.stderr = None;
        self
    }

    /// How it must exit.
    pub(crate) fn status(mut self, status: i32) -> Circuit {
        self.status = Some(status);
        self
    }

    /// Runs it, and checks everything that comes back.
    pub(crate) fn run(mut self) -> Output {
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        let status = self.status.take().unwrap_or(0);
        let output = self.spawn().finish();
        let as_expected = output.status.code() == Some(status)
            && stdout.as_ref().is_none_or(|text| *text == output.stdout())
            && stderr.as_ref().is_none_or(|text| *text == output.stderr());
        assert!(
            as_expected,
            "{output}--- expected\nstatus: {status}\nstdout: {}\nstderr: {}",
            stdout.as_deref().unwrap_or("(anything)"),
            stderr.as_deref().unwrap_or("(anything)"),
        );
        output
    }

    /// Runs it, and takes whatever comes back.
    pub(crate) fn unchecked(self) -> Output {
        self.spawn().finish()
    }

    /// Starts it. If it was told with which status it ends, that is checked when it is waited for.
    pub(crate) fn spawn(mut self) -> Running {
        match &self.stdin {
            Input::Empty => self.command.stdin(Stdio::null()),
            Input::Bytes(_) | Input::Open => self.command.stdin(Stdio::piped()),
        };
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap();
        let mut stdin = child.stdin.take();
        if let Input::Bytes(bytes) = self.stdin {
            let mut pipe = stdin.take().unwrap();
            // It may exit without reading any of it.
            thread::spawn(move || pipe.write_all(&bytes));
        }
        Running {
            stdout: Capture::of(child.stdout.take().unwrap()),
            stderr: Capture::of(child.stderr.take().unwrap()),
            line: self.line,
            expected: self.status,
            child,
            stdin,
        }
    }

    /// Starts it on a terminal.
    pub(crate) fn spawn_on(mut self, terminal: &Terminal) -> Running {
        self.command
            .stdin(terminal.end())
            .stdout(terminal.end())
            .stderr(terminal.end());
        Running {
            stdout: terminal.shown().clone(),
            stderr: Capture::of(std::io::empty()),
            line: self.line,
            expected: self.status,
            child: self.command.spawn().unwrap(),
            stdin: None,
        }
    }

    /// Starts it with its stdout going there.
    pub(crate) fn spawn_into(mut self, stdout: impl Into<Stdio>) -> Running {
        self.command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap();
        Running {
            stdout: Capture::of(std::io::empty()),
            stderr: Capture::of(child.stderr.take().unwrap()),
            line: self.line,
            expected: self.status,
            child,
            stdin: None,
        }
    }

    /// Starts it with these as its stdin, stdout and stderr.
    pub(crate) fn spawn_with(
        mut self,
        stdin: impl Into<Stdio>,
        stdout: impl Into<Stdio>,
        stderr: impl Into<Stdio>,
    ) -> Running {
        self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        Running {
            stdout: Capture::of(std::io::empty()),
            stderr: Capture::of(std::io::empty()),
            line: self.line,
            expected: self.status,
            child: self.command.spawn().unwrap(),
            stdin: None,
        }
    }

    /// Starts it as a server, and waits for its URL.
    pub(crate) fn serve(self) -> Server {
        let base = again(&self.base);
        Server::new(self.spawn(), base)
    }
}

/// A command that begins as this one does, in no environment but that which this one was given.
pub(super) fn again(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            copy.env(name, value);
        }
    }
    if let Some(dir) = command.get_current_dir() {
        copy.current_dir(dir);
    }
    copy
}

/// A command that runs. Dropped, it is killed.
pub(crate) struct Running {
    line: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Capture,
    stderr: Capture,
    expected: Option<i32>,
}

impl Running {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).unwrap()
    }

    pub(crate) fn stdout(&self) -> &Capture {
        &self.stdout
    }

    pub(crate) fn stderr(&self) -> &Capture {
        &self.stderr
    }

    /// Gives it something to read.
    pub(crate) fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Gives it nothing more to read.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits until it has printed this text, and nothing else.
    pub(crate) fn prints(&self, text: &str) {
        let printed = self
            .stdout
            .wait_for(DEADLINE, |shown| (shown == text).then_some(()));
        assert!(
            printed.is_some(),
            "{}: printed {:?}, not {text:?}",
            self.line,
            self.stdout.text()
        );
    }

    /// Waits until this text is among what it printed.
    pub(crate) fn shows(&self, text: &str) {
        let shown = self
            .stdout
            .wait_for(DEADLINE, |shown| shown.contains(text).then_some(()));
        assert!(
            shown.is_some(),
            "{}: shows {:?} without {text:?}",
            self.line,
            self.stdout.text()
        );
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Kills it: it has no chance to close its connections.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until it exits.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        within(DEADLINE, || self.child.try_wait().unwrap()).unwrap_or_else(|| {
            panic!(
                "{}: still there after {DEADLINE:?}\nstdout: {}\nstderr: {}",
                self.line,
                short(&self.stdout.bytes()),
                self.stderr.text()
            )
        })
    }

    /// Waits until it exits by itself, and takes what it printed.
    pub(crate) fn finish(mut self) -> Output {
        self.stdin = None;
        let status = self.exit_status();
        // Somebody else may hold the other end of the pipes: then this is what there is.
        self.stdout.wait_for_end(Duration::from_secs(1));
        self.stderr.wait_for_end(Duration::from_secs(1));
        let output = Output {
            line: self.line.clone(),
            status,
            stdout: self.stdout.bytes(),
            stderr: self.stderr.text(),
        };
        if let Some(expected) = self.expected {
            assert_eq!(status.code(), Some(expected), "{output}");
        }
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output and status of a command.
pub(crate) struct Output {
    line: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    stderr: String,
}

impl Output {
    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    pub(crate) fn stderr(&self) -> &str {
        &self.stderr
    }

    /// Its stdout, read as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{self}{error}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => code.to_string(),
            (None, signal) => format!("signal {signal:?}"),
        };
        writeln!(f, "$ {}", self.line)?;
        writeln!(f, "status: {status}")?;
        writeln!(f, "stdout: {}", short(&self.stdout))?;
        writeln!(f, "stderr: {}", self.stderr)
    }
}

fn short(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(4000) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], bytes.len()),
        None => text.into_owned(),
    }
}
