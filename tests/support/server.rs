//! A running server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::Duration;

use circuit_client::{Address, Client, Url};
use rustix::process::Signal;
use serde_json::Value;

use super::command::again;
use super::{Circuit, DEADLINE, Home, Running, eventually};

/// The transport over which the tests' commands and clients dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Network,
    Socket,
}

/// The transport that `CIRCUIT_TESTS_OVER` names, `network` or `socket`; the network unless told.
pub(crate) fn over() -> Over {
    match std::env::var("CIRCUIT_TESTS_OVER").as_deref() {
        Err(_) | Ok("" | "network") => Over::Network,
        Ok("socket") => Over::Socket,
        Ok(other) => panic!("CIRCUIT_TESTS_OVER={other}: network or socket"),
    }
}

/// How the name of a client begins, as servers log it.
pub(crate) fn who() -> String {
    match over() {
        Over::Network => "127.0.0.1:".to_owned(),
        Over::Socket => format!("uid {} pid ", rustix::process::geteuid().as_raw()),
    }
}

/// A server, known by the URL that it printed. Dropped, it is killed; in a test that fails, its
/// log is shown.
pub(crate) struct Server {
    running: Running,
    url: Url,
    /// How it was called, without its arguments.
    base: Command,
}

impl Server {
    pub(crate) fn new(running: Running, base: Command) -> Server {
        let first_line = |shown: &str| Some(shown.split_once('\n')?.0.to_owned());
        let line = running.stdout().wait_for(DEADLINE, first_line);
        let Some(url) = line.as_deref().and_then(|line| line.parse().ok()) else {
            panic!(
                "no URL on stdout but {line:?}; on stderr:\n{}",
                running.stderr().text()
            );
        };
        Server { running, url, base }
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Its id, as in paths.
    pub(crate) fn id(&self) -> String {
        self.url.server.unwrap().id.to_string()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.url.address().unwrap()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.running.pid().as_raw_nonzero().get()
    }

    /// A command that dials this server, given in the place and the environment of its start.
    pub(crate) fn circuit(&self, line: impl AsRef<str>) -> Circuit {
        match over() {
            Over::Network => self.over_network(line),
            Over::Socket => self.dialled(line, &format!("unix:{}", self.socket().display())),
        }
    }

    /// A command that dials this server over the network, whatever the others do.
    pub(crate) fn over_network(&self, line: impl AsRef<str>) -> Circuit {
        self.dialled(line, &self.url.to_string())
    }

    fn dialled(&self, line: impl AsRef<str>, address: &str) -> Circuit {
        let (command, rest) = line.as_ref().split_once(' ').unwrap_or((line.as_ref(), ""));
        Circuit::new(again(&self.base), &format!("{command} -d {address} {rest}"))
    }

    /// The path of its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        let runtime_dir = self.base.get_envs().find_map(|(name, value)| {
            let value = value.filter(|_| name == "XDG_RUNTIME_DIR")?;
            Some(PathBuf::from(value))
        });
        let runtime_dir = runtime_dir.expect("a home has a runtime directory");
        runtime_dir.join(format!("circuit/{}.socket", self.id()))
    }

    /// Makes a process from JSON.
    pub(crate) fn make(&self, path: &str, json: impl Into<Vec<u8>>) {
        self.circuit(format!("mkproc {path}")).stdin(json).run();
    }

    /// The status of what is at a path.
    pub(crate) fn peek(&self, path: &str) -> Value {
        self.circuit(format!("peek {path}"))
            .any_stdout()
            .run()
            .json()
    }

    /// Waits until the status at a path is as it should be.
    pub(crate) fn until(&self, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let what = format!("{path} is as expected");
        eventually(&what, || Some(self.peek(path)).filter(|now| holds(now)))
    }

    /// The operations in flight, by the names of their commands.
    pub(crate) fn executed(&self) -> Vec<String> {
        let stacks = self
            .circuit(format!("stk /{}", self.id()))
            .any_stdout()
            .run();
        // A line begins with what is executed; a thread's may tell what the kernel waits in.
        let lines = stacks.stdout().lines();
        let names = lines.filter_map(|line| line.split_whitespace().next());
        names.map(str::to_owned).collect()
    }

    /// Waits until it executes commands of these names.
    pub(crate) fn is_executing(&self, names: &[&str]) {
        eventually(&format!("it executes {names:?}"), || {
            let executed = self.executed();
            let all = names.iter().all(|name| executed.iter().any(|e| e == name));
            all.then_some(())
        });
    }

    /// The paths that `ls` prints.
    pub(crate) fn ls(&self, pattern: &str) -> Vec<String> {
        let output = self
            .circuit(format!("ls {pattern}"))
            .any_stdout()
            .any_stderr()
            .unchecked();
        output.stdout().lines().map(str::to_owned).collect()
    }

    /// The lines that `ls -l` prints.
    pub(crate) fn ls_long(&self, pattern: &str) -> Vec<String> {
        let line = format!("ls -l {pattern}");
        let output = self.circuit(line).any_stdout().any_stderr().unchecked();
        output.stdout().lines().map(str::to_owned).collect()
    }

    /// A connection of this test's own.
    pub(crate) async fn client(&self, home: &Home) -> Client {
        let address = match over() {
            Over::Network => self.url.clone().into(),
            Over::Socket => Address::Socket(self.socket()),
        };
        Client::dial(&address, Some(&home.key())).await.unwrap()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.running.stderr().text()
    }

    /// Waits for a line of its log that contains this text.
    pub(crate) fn logs(&self, text: &str) -> String {
        let line = self.running.stderr().wait_for(DEADLINE, |log| {
            log.lines()
                .find(|line| line.contains(text))
                .map(str::to_owned)
        });
        line.unwrap_or_else(|| panic!("no {text:?} in the log of {}", self.url))
    }

    /// How much of its log there is: what follows is new.
    pub(crate) fn logged(&self) -> usize {
        self.log().len()
    }

    /// Waits for this text in what is new in its log; whether it came in time.
    pub(crate) fn logs_after(&self, logged: usize, text: &str, within: Duration) -> bool {
        let found = |log: &str| log.get(logged..)?.contains(text).then_some(());
        self.running.stderr().wait_for(within, found).is_some()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Waits until it exits.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        self.running.exit_status()
    }

    /// Stops it in order.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.exit_status()
    }

    /// Kills it: it has no chance to close its connections.
    pub(crate) fn kill(&mut self) {
        self.running.kill();
    }

    /// Waits until each of these servers has exactly these in its view.
    pub(crate) fn see_each_other(servers: &[&Server]) {
        let mut ids: Vec<String> = servers.iter().map(|s| format!("/{}", s.id())).collect();
        ids.sort();
        for server in servers {
            eventually("all servers see each other", || {
                (server.ls("/") == ids).then_some(())
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the log of {}\n{}---", self.url, self.log());
        }
    }
}
