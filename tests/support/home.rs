//! A user, with a directory and an environment, for the servers and commands of one test.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use circuit_client::Key;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Circuit, Server};

/// A directory with a runtime directory in it. Dropped, it takes the processes along that run in
/// it: what servers leave running is not left behind by tests.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Home {
        let dir = tempfile::Builder::new()
            .prefix("circuit-test-")
            .tempdir()
            .unwrap();
        let home = Home { dir };
        DirBuilder::new()
            .mode(0o700)
            .create(home.path().join("run"))
            .unwrap();
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file's path in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file that only the user can read.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path
    }

    /// The runtime directory, in which servers make themselves known.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.file("run").join("circuit")
    }

    /// The names of the files of servers in the runtime directory.
    pub(crate) fn registered(&self) -> Vec<String> {
        let entries = fs::read_dir(self.runtime_dir()).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".url")).collect();
        names.sort();
        names
    }

    /// The user's local key, once a server has made it.
    pub(crate) fn key(&self) -> Key {
        let text = fs::read_to_string(self.runtime_dir().join("key")).unwrap();
        Key::parse(&text).unwrap()
    }

    /// A command line after `circuit`, its words separated by spaces.
    pub(crate) fn circuit(&self, line: impl AsRef<str>) -> Circuit {
        Circuit::new(self.command(), line.as_ref())
    }

    /// A command line that a shell script gives to the binary as `"$0" "$@"`.
    pub(crate) fn circuit_under(&self, script: &str, line: &str) -> Circuit {
        let mut shell = self.clean(Command::new("sh"));
        shell.args(["-c", script, env!("CARGO_BIN_EXE_circuit")]);
        Circuit::new(shell, line)
    }

    /// Another program, with these arguments, separated by spaces.
    pub(crate) fn program(&self, program: impl AsRef<Path>, arguments: &str) -> Circuit {
        Circuit::new(self.clean(Command::new(program.as_ref())), arguments)
    }

    /// A server of this name, on loopback.
    pub(crate) fn start(&self, name: &str) -> Server {
        self.circuit(format!("start -name {name}")).serve()
    }

    /// Servers of these names in one circuit, once each sees all.
    pub(crate) fn start_all<const N: usize>(&self, names: [&str; N]) -> [Server; N] {
        let mut servers: Vec<Server> = Vec::new();
        for name in names {
            let join = match servers.first() {
                Some(first) => format!("start -name {name} -j {}", first.url()),
                None => format!("start -name {name}"),
            };
            servers.push(self.circuit(join).serve());
        }
        Server::see_each_other(&servers.iter().collect::<Vec<_>>());
        servers.try_into().ok().unwrap()
    }

    /// The binary, in a clean environment.
    fn command(&self) -> Command {
        self.clean(Command::new(env!("CARGO_BIN_EXE_circuit")))
    }

    /// A command with this user's environment and nothing else of ours.
    pub(crate) fn clean(&self, mut command: Command) -> Command {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("XDG_RUNTIME_DIR", self.file("run"))
            .current_dir(self.path());
        command
    }

    /// The processes whose working directory is in this home.
    fn processes(&self) -> Vec<Pid> {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let here = self.path();
        all.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let place = fs::read_link(entry.path().join("cwd")).ok()?;
            place.starts_with(here).then_some(Pid::from_raw(pid)?)
        })
        .collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The JSON for `mkproc` of a shell that runs this script.
pub(crate) fn sh(script: &str) -> String {
    serde_json::json!({"Path": "/bin/sh", "Args": ["-c", script]}).to_string()
}
