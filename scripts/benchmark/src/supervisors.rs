//! Supervisors of processes, ours and others, at the same work: a hundred programs that stay.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Ended, Result};

/// How many programs each supervisor runs.
const PROGRAMS: usize = 100;

/// For how long a supervisor is watched at rest.
const REST: Duration = Duration::from_secs(20);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that supervises others.
pub(crate) struct Daemon(pub(crate) u32);

/// A supervisor, and how it is started.
pub(crate) struct Supervisor {
    name: &'static str,
    command: Command,
}

/// What was measured of one; seconds and bytes.
pub(crate) struct Measured {
    pub(crate) start: f64,
    pub(crate) memory: f64,
    pub(crate) reaction: f64,
    /// The part of a processor.
    pub(crate) rest: f64,
}

impl Daemon {
    fn stat(&self) -> Vec<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // Behind the name, which may hold anything.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().map(str::to_owned).collect()
    }

    /// Memory in use, in bytes.
    pub(crate) fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        kilobytes.map_or(f64::NAN, |kilobytes: f64| kilobytes * 1024.0)
    }

    /// How many descriptors it has.
    pub(crate) fn descriptors(&self) -> i64 {
        let all = fs::read_dir(format!("/proc/{}/fd", self.0));
        all.map_or(0, |all| all.count() as i64)
    }

    /// Seconds of processor time that it has used.
    pub(crate) fn processor_time(&self) -> f64 {
        let ticks = |field: usize| self.stat().get(field).and_then(|t| t.parse::<f64>().ok());
        // utime and stime are the 14th and 15th field; a tick is a hundredth of a second.
        (ticks(11).unwrap_or(f64::NAN) + ticks(12).unwrap_or(f64::NAN)) / 100.0
    }

    /// The children that execute the program.
    fn children(&self) -> Vec<u32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0));
        let of_task = |task: std::io::Result<fs::DirEntry>| {
            let children = fs::read_to_string(task.ok()?.path().join("children")).ok()?;
            let children = children.split_whitespace();
            Some(
                children
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<u32>>(),
            )
        };
        let all = tasks.into_iter().flatten().filter_map(of_task).flatten();
        let runs = |pid: &u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "sleep")
        };
        all.filter(runs).collect()
    }

    fn wait(&self, what: &str, is_so: impl Fn(&[u32]) -> bool) -> Result<Vec<u32>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let children = self.children();
            if is_so(&children) {
                return Ok(children);
            }
            if Instant::now() > deadline {
                return Err(format!("{what}: {} programs run", children.len()).into());
            }
            thread::sleep(Duration::from_micros(500));
        }
    }
}

impl Supervisor {
    /// Those that are compared: ours, and others where they are installed.
    pub(crate) fn installed(binary: &Path, place: &Path) -> Result<Vec<Supervisor>> {
        let circuit = circuit(binary, place)?;
        let mut supervisord = String::from("[supervisord]\nnodaemon=true\n");
        let mut circus = String::from("[circus]\n");
        for n in 0..PROGRAMS {
            write!(
                supervisord,
                "[program:p{n}]\ncommand=/bin/sleep 1000000\nstartsecs=0\n"
            )?;
            write!(
                circus,
                "[watcher:p{n}]\ncmd = /bin/sleep\nargs = 1000000\nnumprocesses = 1\n"
            )?;
        }
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = place.join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let mut others = Command::new("supervisord");
        others
            .arg("-c")
            .arg(file("supervisord.conf", &supervisord)?);
        let mut circusd = Command::new("circusd");
        circusd.arg(file("circus.ini", &circus)?);
        let all = [
            ("circuit", circuit),
            ("supervisord", others),
            ("circusd", circusd),
        ];
        let supervisor = |(name, mut command): (&'static str, Command)| {
            command
                .current_dir(place)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            Supervisor { name, command }
        };
        Ok(all.into_iter().map(supervisor).collect())
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Starts it, and measures it; `None` if it is not installed.
    pub(crate) fn measure(mut self) -> Result<Option<Measured>> {
        let begin = Instant::now();
        let Ok(child) = self.command.stdin(Stdio::null()).spawn() else {
            return Ok(None);
        };
        let running = Ended(child);
        let daemon = Daemon(running.0.id());
        let programs = daemon.wait(self.name, |programs| programs.len() == PROGRAMS);
        let start = begin.elapsed().as_secs_f64();
        let measured = programs.and_then(|programs| {
            thread::sleep(Duration::from_secs(3));
            let memory = daemon.resident();
            let before = daemon.processor_time();
            thread::sleep(REST);
            let rest = (daemon.processor_time() - before) / REST.as_secs_f64();
            let mut reactions = Vec::new();
            for victim in programs.iter().take(10) {
                let begin = Instant::now();
                kill(*victim);
                daemon.wait(self.name, |now| {
                    now.len() == PROGRAMS && !now.contains(victim)
                })?;
                reactions.push(begin.elapsed().as_secs_f64());
            }
            let reaction = crate::table::median(&reactions);
            Ok(Some(Measured {
                start,
                memory,
                reaction,
                rest,
            }))
        });
        let left = daemon.children();
        drop(running);
        left.into_iter().for_each(kill);
        measured
    }
}

/// A server that comes back with a hundred services, of which no instance is left.
fn circuit(binary: &Path, place: &Path) -> Result<Command> {
    let mut command = Command::new(binary);
    let var = place.join("var");
    command
        .args(["start", "-a", "127.0.0.1", "-var"])
        .arg(&var)
        .env("XDG_RUNTIME_DIR", place);
    let mut first = Command::new(binary);
    first
        .args(["start", "-a", "127.0.0.1", "-var"])
        .arg(&var)
        .env("XDG_RUNTIME_DIR", place)
        .stderr(Stdio::null());
    let (server, url) = crate::first_line(&mut first)?;
    let id = url.trim().rsplit_once("/Q").map(|(_, id)| format!("X{id}"));
    let id = id.ok_or("a server's own URL names it")?;
    for n in 0..PROGRAMS {
        let made = Command::new(binary)
            .args([
                "mksvc",
                &format!("/{id}/p{n}"),
                "--",
                "/bin/sleep",
                "1000000",
            ])
            .arg("-nowait")
            .env("XDG_RUNTIME_DIR", place)
            .env("CIRCUIT_SOCKET", place.join(format!("circuit/{id}.socket")))
            .stdout(Stdio::null())
            .status()?;
        if !made.success() {
            return Err("mksvc failed".into());
        }
    }
    let daemon = Daemon(server.0.id());
    let programs = daemon.wait("circuit", |programs| programs.len() == PROGRAMS)?;
    drop(server);
    programs.into_iter().for_each(kill);
    Ok(command)
}

fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        // It may have ended.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
