//! Podman's service, in place of a Docker Engine.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::engine::{answers, in_own_network};
use crate::support::skipped;

/// A service of Podman of a test's own, in a network of its own, which keeps all its data in one
/// directory. When it is dropped, it ends.
pub(super) struct Podman {
    dir: tempfile::TempDir,
    service: Child,
}

/// A configuration with limits that also a user may set who cannot raise their own, and without other
/// services of the machine.
const CONFIGURATION: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// The registry with which it speaks plain HTTP.
const REGISTRIES: &str = r#"
[[registry]]
location = "127.0.0.1:5000"
insecure = true
"#;

impl Podman {
    /// The port of a registry in its network, which it trusts.
    pub(super) const REGISTRY: u16 = 5000;

    /// Starts it. If that cannot be, returns nothing and says on stderr why.
    pub(super) fn start() -> Option<Podman> {
        let dir = tempfile::Builder::new()
            .prefix("circuit-podman-")
            .tempdir()
            .unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("containers.conf"), CONFIGURATION).unwrap();
        fs::write(file("registries.conf"), REGISTRIES).unwrap();
        let log = File::create(file("log")).unwrap();
        let mut podman = in_own_network("podman");
        podman
            .env("CONTAINERS_CONF", file("containers.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", file("registries.conf"))
            .arg("--root")
            .arg(file("root"))
            .arg("--runroot")
            .arg(file("runroot"))
            .arg("--tmpdir")
            .arg(file("tmp"))
            .arg("--network-config-dir")
            .arg(file("networks"))
            .args([
                "--storage-driver",
                "vfs",
                "system",
                "service",
                "--time",
                "0",
            ])
            .arg(format!("unix://{}", file("sock").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let service = match podman.spawn() {
            Ok(service) => service,
            Err(error) => {
                skipped(&format!(
                    "unshare, for Podman in a network of its own: {error}"
                ));
                return None;
            }
        };
        let mut podman = Podman { dir, service };
        if answers(&podman.host(), &mut podman.service) {
            return Some(podman);
        }
        let log = fs::read_to_string(podman.file("log")).unwrap_or_default();
        let why = log.lines().last().unwrap_or("no answer");
        skipped(&format!("Podman, and Docker's command: {why}"));
        None
    }

    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.file("sock").display())
    }

    /// The network that it runs in.
    pub(super) fn network(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.service.id()).into()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.service);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.service.wait();
        // Podman does not unmount what it mounted in its own directory.
        for mounted in ["root/vfs", "root", "runroot"] {
            let mut umount = std::process::Command::new("umount");
            umount
                .args(["--recursive", "--quiet"])
                .arg(self.file(mounted));
            let _ = umount.stderr(Stdio::null()).status();
        }
    }
}
