//! The Docker Engine that tests run containers on, and images of their own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Home, Server};

/// The Engine of this machine, or one that a test started, with an image that is the test's alone.
/// Dropped, it takes along the image and the containers made of it.
pub(super) struct Engine {
    host: Option<String>,
    pub(super) image: String,
    keeps_image: bool,
}

/// What the images have: Debian's busybox-static, under these names.
const PROGRAMS: [&str; 12] = [
    "sh", "ls", "cat", "echo", "sleep", "head", "tr", "wc", "env", "pwd", "md5sum", "touch",
];

impl Engine {
    /// This machine's Engine; nothing, and a word about it, if there is none.
    pub(super) fn of_machine() -> Option<Engine> {
        Engine::with_image(std::env::var("DOCKER_HOST").ok(), None)
    }

    /// This machine's Engine, with an image of this name, which is left alone if it was there.
    pub(super) fn of_machine_with(image: &str) -> Option<Engine> {
        Engine::with_image(std::env::var("DOCKER_HOST").ok(), Some(image))
    }

    /// The Engine at this address.
    pub(super) fn at(host: String) -> Option<Engine> {
        Engine::with_image(Some(host), None)
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
            eprintln!("skipped: needs a Docker Engine");
            return None;
        }
        if !Path::new("/bin/busybox").exists() {
            eprintln!("skipped: needs a Docker Engine and /bin/busybox (busybox-static)");
            return None;
        }
        let there = engine.asked(&["image", "inspect", &engine.image]).unwrap();
        if !there.status.success() {
            engine.keeps_image = false;
            let dir = root();
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

    /// What makes a container that runs a shell script.
    pub(super) fn sh(&self, script: &str) -> serde_json::Value {
        serde_json::json!({"Image": self.image, "Path": "/bin/sh", "Args": ["-c", script]})
    }

    /// What Docker's own command prints, which must succeed.
    pub(super) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.asked(arguments).unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The names of all containers made of the image.
    pub(super) fn containers(&self) -> Vec<String> {
        let filter = format!("ancestor={}", self.image);
        let names = self.docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]);
        names.lines().map(str::to_owned).collect()
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
        let filter = format!("ancestor={}", self.image);
        // What is gone already needs no removing, nor does anything of an Engine that is.
        if let Some(left) = self.asked(&["ps", "-aq", "--filter", &filter]) {
            for id in String::from_utf8_lossy(&left.stdout).lines() {
                self.asked(&["rm", "-f", "-v", id]);
            }
        }
        self.asked(&["rmi", "-f", &self.image]);
    }
}

/// A directory with the root of an image in it, as a tar file.
fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let bin = dir.path().join("root/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(dir.path().join("root/tmp")).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for program in PROGRAMS {
        symlink("busybox", bin.join(program)).unwrap();
    }
    let mut tar = Command::new("tar");
    tar.current_dir(dir.path())
        .args(["-C", "root", "-cf", "root.tar", "."]);
    assert!(tar.status().unwrap().success());
    dir
}
