//! Two servers, and the program of this tutorial run against them, with a worker that is killed.

// Tests say what they expect by failing.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take before a test fails. A killed client is given up after 10 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// A process that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A circuit of its own.
struct Circuit {
    urls: Vec<String>,
    _servers: Vec<Ended>,
    // Removed when the servers have ended.
    dir: TempDir,
}

impl Circuit {
    fn start(names: &[&str]) -> Circuit {
        let mut circuit = Circuit {
            urls: Vec::new(),
            _servers: Vec::new(),
            dir: tempfile::tempdir().unwrap(),
        };
        for name in names {
            let log = File::create(circuit.dir.path().join(format!("{name}.log"))).unwrap();
            let mut command = circuit.command(&circuit_binary());
            command.args(["start", "-a", "127.0.0.1", "-name", name]);
            if let Some(first) = circuit.urls.first() {
                command.args(["-j", first]);
            }
            let server = command.stdout(Stdio::piped()).stderr(log).spawn();
            let mut server = Ended(server.unwrap());
            let mut url = String::new();
            let stdout = server.0.stdout.take().unwrap();
            BufReader::new(stdout).read_line(&mut url).unwrap();
            circuit.urls.push(url.trim().to_owned());
            circuit._servers.push(server);
        }
        for url in &circuit.urls {
            until("all servers see each other", || {
                circuit.run(url, &["ls", "/"]).lines().count() == names.len()
            });
        }
        circuit
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

    fn run(&self, url: &str, arguments: &[&str]) -> String {
        let mut command = self.command(&circuit_binary());
        let output = command.args(arguments).args(["-d", url]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    fn pipeline(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_pipeline")));
        command.args(arguments);
        command
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The server's binary, beside that of this tutorial. With the whole workspace it has been built.
fn circuit_binary() -> PathBuf {
    static BUILD: std::sync::Once = std::sync::Once::new();
    let path = Path::new(env!("CARGO_BIN_EXE_pipeline")).with_file_name("circuit");
    BUILD.call_once(|| {
        if !path.exists() {
            let mut cargo = Command::new(env!("CARGO"));
            let built = cargo.args(["build", "--locked", "-p", "circuit"]).status();
            assert!(built.unwrap().success());
        }
    });
    path
}

#[test]
fn every_line_is_counted_though_a_worker_is_killed() {
    let circuit = Circuit::start(&["one", "two"]);
    let [one, two] = &circuit.urls[..] else {
        unreachable!("there are two");
    };
    let mut leader = circuit
        .pipeline(&[one])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = leader.stdin.take().unwrap();
    let leader = Ended(leader);
    let lines: Vec<String> = (0..300).map(|n| "word ".repeat(n % 7)).collect();
    let feeding = std::thread::spawn(move || {
        for line in lines {
            writeln!(stdin, "{line}").unwrap();
        }
    });
    let first = one.rsplit_once('Q').unwrap().1;
    let second = two.rsplit_once('Q').unwrap().1;
    let host = if first < second { first } else { second };
    let path = format!("/X{host}/pipeline/lines");
    let says = |text: &str| circuit.run(one, &["peek", &path]).contains(text);
    until("the channel is full", || says("\"Held\": 10,"));
    let mut killed = Ended(circuit.pipeline(&[two, "work"]).spawn().unwrap());
    // It has done something, and is in the middle of something.
    until("somebody works", || !says("\"NumRecv\": 0,"));
    killed.0.kill().unwrap();
    let workers = [one, two].map(|url| Ended(circuit.pipeline(&[url, "work"]).spawn().unwrap()));
    feeding.join().unwrap();
    let mut leader = leader;
    let stdout = leader.0.stdout.take().unwrap();
    let counts: Vec<String> = BufReader::new(stdout).lines().map(Result::unwrap).collect();
    let expected: Vec<String> = (0..300).map(|n| (n % 7).to_string()).collect();
    assert_eq!(counts, expected);
    assert!(leader.0.wait().unwrap().success());
    for mut worker in workers {
        assert!(worker.0.wait().unwrap().success());
    }
    let left = circuit.run(one, &["ls", "/..."]);
    assert_eq!(left.lines().count(), 2, "{left}");
}
