//! The Docker Engine that tests run containers on, and images of their own.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{DEADLINE, Home, Server, skipped};

/// The Engine of this machine, or one that a test started, with an image that is the test's alone.
/// Dropped, it takes along the image and the containers made of it.
pub(super) struct Engine {
    host: Option<String>,
    pub(super) image: String,
    keeps_image: bool,
}

/// The programs in the images: Debian's busybox-static, under these names.
const PROGRAMS: [&str; 13] = [
    "sh", "ls", "cat", "echo", "sleep", "head", "tr", "wc", "env", "pwd", "md5sum", "touch", "nc",
];

impl Engine {
    /// This machine's Engine. If there is none, returns nothing and says on stderr why.
    pub(super) fn of_machine() -> Option<Engine> {
        Engine::with_image(std::env::var("DOCKER_HOST").ok(), None)
    }

    /// This machine's Engine, with an image of this name, which is left alone if it was there.
    pub(super) fn of_machine_with(image: &str) -> Option<Engine> {
        Engine::with_image(std::env::var("DOCKER_HOST").ok(), Some(image))
    }

    /// The Engine that a test started.
    pub(super) fn of(host: String) -> Option<Engine> {
        Engine::with_image(Some(host), None)
    }

    /// The Engine that a test started, for an image which it does not have.
    pub(super) fn fetching(host: String, image: &str) -> Engine {
        Engine {
            host: Some(host),
            image: image.to_owned(),
            keeps_image: false,
        }
    }

    fn with_image(host: Option<String>, image: Option<&str>) -> Option<Engine> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let own = format!("circuit-test-{}-{number}", std::process::id());
        let mut engine = Engine {
            host,
            image: image.map_or(own, str::to_owned),
            keeps_image: true,
        };
        if !engine
            .asked(&["version"])
            .is_some_and(|answer| answer.status.success())
        {
            skipped("a Docker Engine");
            return None;
        }
        if !Path::new("/bin/busybox").exists() {
            skipped("a Docker Engine and /bin/busybox (busybox-static)");
            return None;
        }
        let there = engine.asked(&["image", "inspect", &engine.image]).unwrap();
        if !there.status.success() {
            engine.keeps_image = false;
            let dir = root(None);
            let tar = dir.path().join("root.tar");
            engine.docker(&["import", tar.to_str().unwrap(), &engine.image]);
        }
        Some(engine)
    }

    /// A server that runs its containers here.
    pub(super) fn server(&self, home: &Home, flags: &str) -> Server {
        let circuit = home.circuit(format!("start -docker {flags}"));
        match &self.host {
            Some(host) => circuit.env("DOCKER_HOST", host).serve(),
            None => circuit.serve(),
        }
    }

    /// The description of a container that runs a shell script.
    pub(super) fn sh(&self, script: &str) -> serde_json::Value {
        serde_json::json!({"Image": self.image, "Path": "/bin/sh", "Args": ["-c", script]})
    }

    /// The output of Docker's own command, which must succeed.
    pub(super) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.asked(arguments).unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The names of all containers made of the image.
    pub(super) fn containers(&self) -> Vec<String> {
        // Podman filters by the whole name of an image only, so the filter is here.
        let lines = self.docker(&["ps", "-a", "--format", "{{.Image}} {{.Names}}"]);
        let of_image = |line: &str| {
            let (image, name) = line.split_once(' ')?;
            let image = image.strip_suffix(":latest").unwrap_or(image);
            (image == self.image).then(|| name.to_owned())
        };
        lines.lines().filter_map(of_image).collect()
    }

    /// Removes all containers made of the image.
    pub(super) fn clear(&self) {
        for name in self.containers() {
            // Podman asks first, and waits for an answer.
            self.asked(&["kill", &name]);
            self.asked(&["rm", "-f", "-v", &name]);
        }
    }

    /// Whether the Engine has a bridge, a network that its containers share with its host.
    pub(super) fn has_bridge(&self) -> bool {
        let bridge = self.asked(&["network", "inspect", "bridge"]);
        bridge.is_some_and(|answer| answer.status.success())
    }

    fn asked(&self, arguments: &[&str]) -> Option<Output> {
        let mut docker = Command::new("docker");
        if let Some(host) = &self.host {
            docker.env("DOCKER_HOST", host);
        }
        docker.args(arguments).stdin(Stdio::null()).output().ok()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.keeps_image {
            return;
        }
        // An Engine that is gone has nothing that could be removed.
        if self
            .asked(&["version"])
            .is_some_and(|answer| answer.status.success())
        {
            self.clear();
        }
        self.asked(&["rmi", "-f", &self.image]);
    }
}

/// A directory with the root of an image in it, as a tar file; a mark makes it unlike any other.
pub(super) fn root(mark: Option<&str>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("root/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(dir.path().join("root/tmp")).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    if let Some(mark) = mark {
        fs::write(dir.path().join("root/mark"), mark).unwrap();
    }
    for program in PROGRAMS {
        symlink("busybox", bin.join(program)).unwrap();
    }
    let mut tar = Command::new("tar");
    tar.current_dir(dir.path())
        .args(["-C", "root", "-cf", "root.tar", "."]);
    assert!(tar.status().unwrap().success());
    dir
}

/// A program that runs in a network of its own, which has a loopback and nothing else.
pub(super) fn in_own_network(program: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = "ip link set lo up; exec \"$0\" \"$@\"";
    command.args(["--net", "sh", "-c", script, program]);
    command
}

/// Waits until an Engine answers or exits, and returns whether it answers in time.
pub(super) fn answers(host: &str, engine: &mut Child) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < DEADLINE && engine.try_wait().unwrap().is_none() {
        let mut version = Command::new("docker");
        version.env("DOCKER_HOST", host).arg("version");
        if version.output().is_ok_and(|answer| answer.status.success()) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    false
}

/// A Docker Engine of a test's own, in a network of its own. When it is dropped, it ends with all that it
/// ran.
pub(super) struct Daemon {
    dir: tempfile::TempDir,
    flags: &'static [&'static str],
    daemon: Option<Child>,
}

impl Daemon {
    /// The second address of the shared Engine, in its network.
    pub(super) const TCP: &str = "tcp://127.0.0.1:2375";

    /// An Engine that all tests share that want one at the same time.
    pub(super) fn shared() -> Option<Arc<Daemon>> {
        static SHARED: Mutex<Weak<Daemon>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(daemon) = shared.upgrade() {
            return Some(daemon);
        }
        let daemon = Arc::new(Daemon::start(&["-H", Daemon::TCP, "--tls=false"])?);
        *shared = Arc::downgrade(&daemon);
        Some(daemon)
    }

    /// Starts one. If that cannot be, returns nothing and says on stderr why.
    pub(super) fn start(flags: &'static [&'static str]) -> Option<Daemon> {
        if !Path::new("/bin/busybox").exists() {
            skipped("/bin/busybox (busybox-static)");
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("circuit-dockerd-")
            .tempdir()
            .unwrap();
        let mut daemon = Daemon {
            dir,
            flags,
            daemon: None,
        };
        if daemon.run() {
            return Some(daemon);
        }
        let log = daemon.log();
        let why = log.lines().last().unwrap_or("no dockerd");
        skipped(&format!(
            "a Docker Engine (dockerd) that a test can start: {why}"
        ));
        None
    }

    /// Starts it, also again after a stop, and returns whether it answers in time.
    pub(super) fn run(&mut self) -> bool {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.file("log"))
            .unwrap();
        // The Engine gets a configuration of its own, so that it does not read the machine's.
        fs::write(self.file("daemon.json"), "{}").unwrap();
        // An Engine without a bridge removes the bridge of the network that it runs in.
        let mut dockerd = in_own_network("dockerd");
        dockerd
            .args([
                "--bridge=none",
                "--iptables=false",
                "--ip-forward=false",
                "--ip-masq=false",
                // A download that fails is reported at once, not tried again.
                "--max-download-attempts=1",
            ])
            .arg("--config-file")
            .arg(self.file("daemon.json"))
            .arg("--data-root")
            .arg(self.file("data"))
            .arg("--exec-root")
            .arg(self.file("exec"))
            .arg("--pidfile")
            .arg(self.file("pid"))
            .arg("-H")
            .arg(self.host())
            .args(self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // A killed Engine has left these files behind, and the next would take processes that are not
        // reaped yet for running ones.
        let _ = fs::remove_file(self.file("pid"));
        let _ = fs::remove_file(self.file("exec/containerd/containerd.pid"));
        let Ok(child) = dockerd.spawn() else {
            return false;
        };
        answers(&self.host(), self.daemon.insert(child))
    }

    /// Kills it: it has no chance to stop its containers.
    pub(super) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// The network that it runs in.
    pub(super) fn network(&self) -> PathBuf {
        let pid = self.daemon.as_ref().unwrap().id();
        format!("/proc/{pid}/ns/net").into()
    }

    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.socket())
    }

    pub(super) fn socket(&self) -> String {
        self.file("sock").display().to_string()
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It ends in order, so that it unmounts its mounts and stops its containerd.
        if let Some(mut daemon) = self.daemon.take() {
            let pid = Pid::from_raw(daemon.id().cast_signed()).unwrap();
            let _ = kill_process(pid, Signal::TERM);
            let _ = daemon.wait();
        }
        // A daemon does not unmount what a killed one before it had mounted.
        let mut umount = Command::new("umount");
        umount
            .args(["--recursive", "--quiet"])
            .arg(self.file("data"));
        let _ = umount.status();
    }
}
