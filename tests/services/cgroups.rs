//! Instances in cgroups of their own, where one is delegated to their server: nothing that they start can hide.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::{make, marked, number, pid, script, slot, with};
use crate::support::{DEADLINE, Home, Server, eventually, lives, skipped, within};

/// A cgroup as the manager of a host makes it for a unit. Dropped, it goes with all that are in it.
struct Unit(PathBuf);

impl Unit {
    /// One of a test's own, if the machine has such.
    fn new(home: &Home) -> Option<Unit> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let made = mount.and_then(|line| {
            let name = home.path().file_name()?;
            let dir = Path::new(line.split(' ').nth(4)?).join(name);
            fs::create_dir(&dir).ok()?;
            Some(Unit(dir))
        });
        if made.is_none() {
            skipped("root, and cgroups of version 2");
        }
        made
    }

    /// Says that it is delegated, as systemd does.
    fn delegate(&self) {
        let set = |name: &str| rustix::fs::setxattr(&self.0, name, b"1", XattrFlags::empty());
        // Older systems know the second only.
        set("user.delegate")
            .or_else(|_| set("trusted.delegate"))
            .unwrap();
    }

    /// A cgroup in it.
    fn subgroup(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        fs::create_dir(&dir).unwrap();
        dir
    }

    /// The names of the cgroups in it.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let dirs = entries.filter(|entry| entry.file_type().unwrap().is_dir());
        let mut names: Vec<_> = dirs
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let gone = || {
            for name in self.names() {
                let _ = fs::remove_dir(self.0.join(name));
            }
            fs::remove_dir(&self.0).ok()
        };
        let gone = within(DEADLINE, gone);
        assert!(gone.is_some() || std::thread::panicking());
    }
}

/// A server that begins in this cgroup.
fn start_in(home: &Home, cgroup: &Path) -> Server {
    start_as(home, cgroup, "start -name one -var var")
}

fn start_as(home: &Home, cgroup: &Path, line: &str) -> Server {
    let enter = format!(
        "echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"",
        cgroup.display()
    );
    home.circuit_under(&enter, line).serve()
}

/// An instance with a process that has another session, no mark and no parent.
fn hiding() -> Value {
    let hide = "(setsid env -i sh -c 'sleep 1000 & echo $! > hidden' &)
        while [ ! -s hidden ]; do sleep 0.01; done
        exec sleep 1000";
    let stop = json!({ "Stop": { "Seconds": 0.2 } });
    with(script(hide), stop)
}

fn is_stopped(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.contains(") T ")
}

#[test]
fn what_hides_is_signalled_and_stopped_and_no_cgroup_is_left() {
    let home = Home::new();
    let Some(unit) = Unit::new(&home) else { return };
    unit.delegate();
    // As with `DelegateSubgroup=server`.
    let one = start_in(&home, &unit.subgroup("server"));
    make(&one, "/one/a", &hiding());
    let hidden = number(&home, "hidden");
    assert!(marked(&home).iter().all(|(pid, _)| *pid != hidden));
    assert_eq!(slot(&one, "/one/a", 1)["Tree"], "cgroup");
    let names = unit.names();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].ends_with(".1.1"), "{names:?}");
    one.circuit("signal -tree STOP /one/a").run();
    eventually("it is stopped", || is_stopped(hidden).then_some(()));
    one.circuit("down /one/a").run();
    assert!(!lives(hidden));
    assert_eq!(unit.names(), ["server"]);
    fs::remove_file(home.file("hidden")).unwrap();
    one.circuit("up /one/a").run();
    let hidden = number(&home, "hidden");
    // The main process ends by itself: the next one begins once the other has gone.
    one.circuit("signal KILL /one/a").run();
    eventually("it is ended", || (!lives(hidden)).then_some(()));
    one.circuit("scrub /one/a").run();
    assert_eq!(unit.names(), ["server"]);
}

#[test]
fn an_instance_is_adopted_with_its_cgroup() {
    let home = Home::new();
    let Some(unit) = Unit::new(&home) else { return };
    unit.delegate();
    // The server is in the delegated cgroup itself.
    let mut one = start_in(&home, &unit.0);
    make(&one, "/one/a", &hiding());
    let hidden = number(&home, "hidden");
    let running = pid(&slot(&one, "/one/a", 1));
    one.signal(Signal::KILL);
    one.exit_status();
    let one = start_in(&home, &unit.0);
    let adopted = slot(&one, "/one/a", 1);
    assert_eq!(
        (pid(&adopted), &adopted["Adopted"], &adopted["Tree"]),
        (running, &json!(true), &json!("cgroup"))
    );
    assert!(lives(hidden));
    one.circuit("scrub /one/a").run();
    assert!(!lives(hidden));
    assert_eq!(unit.names(), [""; 0]);
}

#[test]
fn what_an_instance_leaves_between_two_lives_is_ended_and_removed() {
    let home = Home::new();
    let Some(unit) = Unit::new(&home) else { return };
    unit.delegate();
    let server = unit.subgroup("server");
    let mut one = start_in(&home, &server);
    make(&one, "/one/a", &hiding());
    make(&one, "/one/b", &script("exec sleep 1000"));
    let hidden = number(&home, "hidden");
    let ended = ["a", "b"].map(|name| pid(&slot(&one, &format!("/one/{name}"), 1)));
    one.signal(Signal::KILL);
    one.exit_status();
    for pid in ended {
        let main = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(main, Signal::KILL).unwrap();
        eventually("it has gone", || (!lives(pid)).then_some(()));
    }
    let before = unit.names();
    assert_eq!(before.len(), 3, "{before:?}");
    fs::remove_file(home.file("hidden")).unwrap();
    let one = start_in(&home, &server);
    for path in ["/one/a", "/one/b"] {
        one.until(path, |status| status["Ready"] == 1);
    }
    assert!(!lives(hidden));
    let after = unit.names();
    let kept = |name: &&String| *name == "server" || !before.contains(name);
    assert_eq!(after.iter().filter(kept).count(), 3, "{before:?} {after:?}");
    assert_eq!(after.len(), 3, "{after:?}");
    one.circuit("scrub /one/a").run();
    one.circuit("scrub /one/b").run();
    assert_eq!(unit.names(), ["server"]);
}

#[test]
fn what_a_killed_server_without_a_directory_leaves_is_ended_and_removed() {
    let home = Home::new();
    let Some(unit) = Unit::new(&home) else { return };
    unit.delegate();
    let server = unit.subgroup("server");
    let mut one = start_as(&home, &server, "start -name one");
    make(&one, "/one/a", &hiding());
    let hidden = number(&home, "hidden");
    one.signal(Signal::KILL);
    one.exit_status();
    assert!(lives(hidden));
    // Not in a cgroup that is delegated.
    let _two = home.start("two");
    eventually("it is ended", || (!lives(hidden)).then_some(()));
    eventually("its cgroup is removed", || {
        (unit.names() == ["server"]).then_some(())
    });
}

#[test]
fn an_instance_starts_all_the_same_where_no_cgroup_can_be_made() {
    let home = Home::new();
    let Some(unit) = Unit::new(&home) else { return };
    unit.delegate();
    let one = start_in(&home, &unit.subgroup("server"));
    fs::write(unit.0.join("cgroup.max.descendants"), "1").unwrap();
    make(&one, "/one/a", &script("exec sleep 1000"));
    assert_eq!(slot(&one, "/one/a", 1)["Tree"], "marked");
    one.logs("begins without a cgroup of its own");
    one.circuit("scrub /one/a").run();
}

#[test]
fn a_cgroup_that_is_not_delegated_to_the_server_is_left_alone() {
    let home = Home::new();
    let Some(unit) = Unit::new(&home) else { return };
    let is_left_alone = |cgroup: &Path| {
        let mut one = start_in(&home, cgroup);
        make(&one, "/one/a", &script("exec sleep 1000"));
        assert_eq!(slot(&one, "/one/a", 1)["Tree"], "marked");
        one.circuit("scrub /one/a").run();
        assert!(one.stop().success());
    };
    is_left_alone(&unit.0);
    // Delegated to the manager of a user's units, or to another server, and not to a unit or an instance.
    unit.delegate();
    let others = ["0123456789abcdef.1.1", "other.service"];
    for name in others {
        is_left_alone(&unit.subgroup(name));
    }
    assert_eq!(unit.names(), others);
}

#[test]
fn the_root_of_a_cgroup_namespace_is_delegated() {
    let home = Home::new();
    let Some(unit) = Unit::new(&home) else { return };
    // Beside the mount of the host, in which nothing of the namespace is seen.
    fs::create_dir(home.file("mounted")).unwrap();
    let enter = format!(
        "echo $$ > {}/cgroup.procs && exec unshare --cgroup --mount sh -c \
         'mount -t cgroup2 none mounted && exec \"$0\" \"$@\"' \"$0\" \"$@\"",
        unit.0.display()
    );
    let one = home.circuit_under(&enter, "start -name one").serve();
    make(&one, "/one/a", &hiding());
    let hidden = number(&home, "hidden");
    assert_eq!(slot(&one, "/one/a", 1)["Tree"], "cgroup");
    assert_eq!(unit.names().len(), 1);
    one.circuit("scrub /one/a").run();
    assert!(!lives(hidden));
    assert_eq!(unit.names(), [""; 0]);
}
