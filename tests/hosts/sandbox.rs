//! Running a test where network namespaces can be made.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::skipped;

/// The beginning of the names of namespaces; the number of the process that made them follows.
const PREFIX: &str = "circuit-test-";

/// Set where a test runs again in a user namespace: its own name.
const AGAIN: &str = "CIRCUIT_TEST_HOSTS";

/// Runs a test that makes hosts; says why if it cannot be run here.
///
/// A user who is not root cannot make network namespaces: then the test alone is run again in a user
/// namespace, in which it is root, and which has a `/run/netns` of its own.
pub(super) fn on_hosts<T: FnOnce()>(test: T) {
    if tool("ip").is_none() {
        return skipped("ip (iproute2)");
    }
    if rustix::process::geteuid().is_root() {
        return match allowed() {
            Ok(()) => test(),
            Err(why) => skipped(&format!("network namespaces: {why}")),
        };
    }
    match (env::var_os(AGAIN), tool("unshare")) {
        (None, Some(unshare)) => again(&unshare, &name_of::<T>()),
        _ => skipped("root, or user namespaces and unshare (util-linux)"),
    }
}

/// The path of a program; those for administrators too, of which users' `PATH` knows nothing.
pub(super) fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places
        .map(|place| place.join(name))
        .find(|path| path.is_file())
}

/// Runs `ip`, which must succeed, with lines for `-batch` to read.
pub(super) fn ip<S: AsRef<OsStr>>(arguments: &[S], lines: &str) {
    // Two that make the first namespace of all at the same time get in each other's way.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (status, stderr) = run(Command::new(tool("ip").unwrap()).args(arguments), lines);
    assert!(status, "ip {lines}: {stderr}");
}

/// Runs a command on this input: whether it succeeded, and what it said.
pub(super) fn run(command: &mut Command, input: &str) -> (bool, String) {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may fail before it has read anything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    (output.status.success(), stderr)
}

/// The name for a new namespace.
pub(super) fn new_name(role: &str) -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{count}-{role}", std::process::id())
}

/// Deletes a namespace and ends what runs in it.
pub(super) fn delete(name: &str) {
    let Some(ip) = tool("ip") else { return };
    let output = Command::new(&ip).args(["netns", "pids", name]).output();
    let pids = output.map(|output| output.stdout).unwrap_or_default();
    for pid in String::from_utf8_lossy(&pids).lines() {
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let mut command = Command::new(ip);
    let _ = run(command.args(["netns", "delete", name]), "");
}

/// Whether namespaces can be made; found out once, after what dead runs left has been removed.
fn allowed() -> Result<(), String> {
    static ALLOWED: OnceLock<Result<(), String>> = OnceLock::new();
    let find_out = || {
        remove_leftovers();
        let name = new_name("try");
        let mut command = Command::new(tool("ip").unwrap());
        let made = run(command.args(["netns", "add", &name]), "");
        delete(&name);
        match made {
            (true, _) => Ok(()),
            (false, why) => Err(why),
        }
    };
    ALLOWED.get_or_init(find_out).clone()
}

fn remove_leftovers() {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| {
            let (pid, _) = rest.split_once('-')?;
            pid.parse::<u32>().ok()
        });
        // One that has ended and was not waited for has no program any more.
        if pid.is_some_and(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_err()) {
            delete(&name);
        }
    }
}

/// Runs the test of this name in namespaces where this user is root.
fn again(unshare: &Path, name: &str) {
    let (possible, why) = run(Command::new(unshare).args(["-Urnm", "true"]), "");
    if !possible {
        return skipped(&format!("root, or user namespaces: {why}"));
    }
    let script = "mount -t tmpfs tmpfs /run && mkdir /run/netns && exec \"$@\"";
    let status = Command::new(unshare)
        .args([
            "-Urnm",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(AGAIN, name)
        .status()
        .unwrap();
    assert!(status.success(), "{name} in a user namespace: {status}");
}

/// The name of the test whose closure this is, as the test harness knows it.
fn name_of<T>() -> String {
    let whole = std::any::type_name::<T>();
    let path = whole.split_once("::").map_or(whole, |(_, path)| path);
    path.trim_end_matches("::{{closure}}").to_owned()
}
