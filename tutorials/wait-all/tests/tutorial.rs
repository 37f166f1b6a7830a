//! Three servers, and the program of this tutorial run against them.

// Tests say what they expect by failing.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take before a test fails. A killed server is given up within 6 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// A circuit of its own, whose servers end with it.
struct Circuit {
    dir: TempDir,
    servers: Vec<Child>,
    urls: Vec<String>,
}

impl Circuit {
    fn start(names: &[&str]) -> Circuit {
        let mut circuit = Circuit {
            dir: tempfile::tempdir().unwrap(),
            servers: Vec::new(),
            urls: Vec::new(),
        };
        for name in names {
            circuit.start_server(name);
        }
        for url in &circuit.urls {
            circuit.wait_for(url, "/", names.len(), |_| true);
        }
        circuit
    }

    fn start_server(&mut self, name: &str) {
        let log = File::create(self.dir.path().join(format!("{name}.log"))).unwrap();
        let mut command = self.command(&circuit_binary());
        command.args(["start", "-a", "127.0.0.1", "-name", name]);
        if let Some(first) = self.urls.first() {
            command.args(["-j", first]);
        }
        let mut server = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut url = String::new();
        let stdout = server.stdout.take().unwrap();
        self.servers.push(server);
        BufReader::new(stdout).read_line(&mut url).unwrap();
        assert!(url.starts_with("circuit://"), "{}", self.logs());
        self.urls.push(url.trim().to_owned());
    }

    /// A command that knows of this circuit only.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .env_remove("CIRCUIT")
            .env_remove("CIRCUIT_DISCOVER")
            .env_remove("CIRCUIT_HMAC");
        command
    }

    fn ls(&self, url: &str, pattern: &str) -> Vec<String> {
        let mut command = self.command(&circuit_binary());
        let output = command.args(["ls", "-l", "-d", url, pattern]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until a listing has so many lines of a kind.
    fn wait_for(&self, url: &str, pattern: &str, count: usize, wanted: impl Fn(&str) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let lines = self.ls(url, pattern);
            if lines.iter().filter(|line| wanted(line)).count() == count {
                return;
            }
            assert!(Instant::now() < end, "{lines:?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The tutorial's program, with a command for every server.
    fn wait_all(&self, command: &str) -> Command {
        let mut program = self.command(Path::new(env!("CARGO_BIN_EXE_wait-all")));
        program.args([&self.urls[0], "sh", "-c", command]);
        program
    }

    fn logs(&self) -> String {
        let logs = std::fs::read_dir(self.dir.path()).unwrap().flatten();
        logs.filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
            .collect()
    }
}

impl Drop for Circuit {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The server's binary, beside that of this tutorial. With the whole workspace it has been built.
fn circuit_binary() -> PathBuf {
    static BUILD: std::sync::Once = std::sync::Once::new();
    let path = Path::new(env!("CARGO_BIN_EXE_wait-all")).with_file_name("circuit");
    BUILD.call_once(|| {
        if !path.exists() {
            let mut cargo = Command::new(env!("CARGO"));
            let built = cargo.args(["build", "--locked", "-p", "circuit"]).status();
            assert!(built.unwrap().success());
        }
    });
    path
}

fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // Servers end in any order, and their ids differ from run to run.
    lines.sort_by_key(|line| line.find('(').map(|at| line[at..].to_owned()));
    lines
        .iter()
        .map(|line| match line.split_once(' ') {
            Some((id, rest)) if id.starts_with('X') => rest.to_owned(),
            _ => line.clone(),
        })
        .collect()
}

#[test]
fn waits_for_all_and_leaves_nothing_behind() {
    let circuit = Circuit::start(&["one", "two", "three"]);
    let output = circuit.wait_all("echo here").output().unwrap();
    let expected = [
        "3 of 3 succeeded",
        "(one): ok: here",
        "(three): ok: here",
        "(two): ok: here",
    ];
    assert_eq!(lines(&output), expected, "{}", circuit.logs());
    assert_eq!(output.status.code(), Some(0));
    let left = circuit.ls(&circuit.urls[0], "/...");
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn says_where_the_command_failed() {
    let circuit = Circuit::start(&["one"]);
    let output = circuit.wait_all("echo trouble; exit 3").output().unwrap();
    let expected = ["0 of 1 succeeded", "(one): exit status 3: trouble"];
    assert_eq!(lines(&output), expected, "{}", circuit.logs());
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_server_that_dies_is_named_and_the_others_go_on() {
    let mut circuit = Circuit::start(&["one", "two", "three"]);
    let mut program = circuit.wait_all("sleep 2; echo late");
    let program = program.stdout(Stdio::piped()).spawn().unwrap();
    let url = circuit.urls[0].clone();
    circuit.wait_for(&url, "/...", 3, |line| line.starts_with("proc"));
    circuit.servers[2].kill().unwrap();
    let output = program.wait_with_output().unwrap();
    let lines = lines(&output);
    assert_eq!(
        lines[0],
        "2 of 3 succeeded",
        "{lines:?}\n{}",
        circuit.logs()
    );
    assert_eq!(lines[1], "(one): ok: late");
    assert!(lines[2].starts_with("(three): lost: "), "{lines:?}");
    assert_eq!(lines[3], "(two): ok: late");
    assert_eq!(output.status.code(), Some(1));
}
