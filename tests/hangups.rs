//! A server and the signals of its system: hang-ups, limits of files, orphans, and who is left of a
//! group.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Home, Terminal, eventually, lives, sh, skipped, who};

/// Runs the binary as process 1 of a PID namespace, which ends with the process that waits for it.
const CONTAINED: &str = r#"
    [ "$(id -u)" = 0 ] || set -- --user --map-root-user -- "$0" "$@"
    [ "$1" = --user ] || set -- -- "$0" "$@"
    exec unshare --pid --fork --kill-child --mount-proc "$@"
"#;

/// Runs the binary where `/dev` is empty.
const WITHOUT_DEVICES: &str = r#"
    exec unshare --user --map-root-user --mount sh -c 'mount -t tmpfs none /dev; exec "$@"' sh "$0" "$@"
"#;

#[test]
fn a_log_that_has_become_too_long_does_not_end_the_server() {
    let home = Home::new();
    let limited = r#"ulimit -f 16; exec "$0" "$@" 2>>log"#;
    let mut one = home.circuit_under(limited, "start -name one").serve();
    let limit = fs::read_to_string(format!("/proc/{}/limits", one.pid())).unwrap();
    let limit = limit.lines().find(|line| line.contains("file size"));
    let limit = limit.and_then(|line| line.split_whitespace().nth(3));
    let limit: u64 = limit.unwrap().parse().unwrap();
    let long = format!("/one/{}", ["a"; 20].map(|name| name.repeat(250)).join("/"));
    let length = || fs::metadata(home.file("log")).unwrap().len();
    eventually("the log is full", || {
        one.circuit("peek").arg(&long).stdout("null\n").run();
        (length() == limit).then_some(())
    });
    one.circuit("peek").arg(&long).stdout("null\n").run();
    one.until("/one", |status| {
        status["Counters"]["Log"]["Dropped"].as_u64() > Some(0)
    });
    // A process is ended by its own limit all the same.
    let fill = r#"exec dd if=/dev/zero of=big bs=1024 count=64"#;
    one.make("/one/p", sh(fill));
    let status = one.circuit("wait /one/p").any_stdout().run().json();
    assert_eq!(status["Exit"], "signal: file size limit exceeded");
    // Once there is room again, the log says how much is missing, on a line of its own.
    let log = fs::OpenOptions::new().write(true).open(home.file("log"));
    log.unwrap().set_len(0).unwrap();
    one.circuit("peek /one/x").stdout("null\n").run();
    eventually("the log says it", || {
        let log = fs::read_to_string(home.file("log")).unwrap();
        log.lines()
            .find(|line| line.ends_with(" log lines were dropped: stderr: file too large"))
            .map(|line| line.split(' ').next().unwrap().parse::<u64>().unwrap())
    });
    assert_eq!(one.stop().code(), Some(0));
}

#[test]
fn a_server_with_a_terminal_leaves_in_order_when_that_hangs_up() {
    let home = Home::new();
    let one = home.start("one");
    let line = format!("start -name two -j {}", one.url());
    let terminal = Terminal::new(24, 80);
    // The tests themselves may run below nohup(1).
    let script = r#"exec env --default-signal=HUP setsid --ctty "$0" "$@" 2>two.log"#;
    let mut two = home.circuit_under(script, &line).spawn_on(&terminal);
    one.logs("linked");
    eventually("it is in the circuit", || {
        (one.ls("/").len() == 2).then_some(())
    });
    two.signal(Signal::HUP);
    assert_eq!(two.exit_status().code(), Some(0));
    let log = fs::read_to_string(home.file("two.log")).unwrap();
    assert!(log.contains("leaving the circuit"), "{log}");
    assert_eq!(one.ls("/").len(), 1);
}

#[test]
fn a_server_without_a_terminal_ignores_a_hangup() {
    let home = Home::new();
    let mut one = home
        .circuit_under(r#"exec setsid "$0" "$@""#, "start -name one")
        .serve();
    one.signal(Signal::HUP);
    one.circuit("peek /one/x").stdout("null\n").run();
    // Its processes do not ignore it.
    one.circuit("run one -- sh -c")
        .arg("kill -HUP $$; echo ignored")
        .status(128 + 1)
        .run();
    assert_eq!(one.stop().code(), Some(0));
}

/// The children of a process, zombies too.
fn children(pid: i32) -> Vec<i32> {
    let path = Path::new("/proc").join(format!("{pid}/task/{pid}/children"));
    let children = fs::read_to_string(path).unwrap();
    children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .collect()
}

#[test]
fn orphans_of_a_server_that_is_process_1_are_reaped() {
    let home = Home::new();
    let tried = home.circuit_under(CONTAINED, "help");
    let works = tried.any_stdout().any_stderr().unchecked().status.success();
    if !works {
        return skipped("PID namespaces and unshare (util-linux)");
    }
    let one = home.circuit_under(CONTAINED, "start -name one").serve();
    let server = children(one.pid())[0];
    one.make("/one/p", sh("sleep 0.1 & sleep 0.2 & exec true"));
    let status = one.circuit("wait /one/p").any_stdout().run().json();
    assert_eq!(status["Code"], 0);
    // None of its own is taken from it, however many come and go meanwhile.
    for n in 0..20 {
        one.make(&format!("/one/{n}"), sh("true & exit 7"));
        let status = one.circuit(format!("wait /one/{n}")).any_stdout().run();
        assert_eq!(status.json()["Code"], 7);
        one.circuit(format!("mkproc /one/no{n}"))
            .stdin(r#"{"Path": "/no/such"}"#)
            .status(1)
            .any_stderr()
            .run();
    }
    eventually("all are reaped", || {
        children(server).is_empty().then_some(())
    });
}

#[test]
fn orphans_become_the_servers_and_are_reaped() {
    let home = Home::new();
    let one = home.start("one");
    // Among its ancestors there may be one that reaps nobody.
    one.make("/one/p", sh("sleep 1000 >/dev/null 2>&1 & echo $!; exit 0"));
    one.circuit("wait /one/p").any_stdout().run();
    let orphan = one.circuit("stdout /one/p").any_stdout().run();
    let orphan: i32 = orphan.stdout().trim().parse().unwrap();
    let adopted = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", one.pid())).unwrap();
        tasks.flatten().any(|task| {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            children.split(' ').any(|pid| pid == orphan.to_string())
        })
    };
    eventually("the orphan is the server's", || adopted().then_some(()));
    one.circuit("signal -group KILL /one/p").run();
    // Reaped it has no number any more, a zombie has one.
    let path = format!("/proc/{orphan}");
    eventually("it is reaped", || {
        (!Path::new(&path).exists()).then_some(())
    });
}

#[test]
fn who_is_left_of_a_group_can_be_signalled() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", sh("sleep 1000 >/dev/null 2>&1 & echo $!; exit 0"));
    one.circuit("wait /one/p").any_stdout().run();
    let child = one.circuit("stdout /one/p").any_stdout().run();
    let child: i64 = child.stdout().trim().parse().unwrap();
    assert!(lives(child));
    one.circuit("signal TERM /one/p")
        .status(1)
        .stderr("circuit: signal /one/p: the process has exited\n")
        .run();
    one.circuit("signal -group TERM /one/p").run();
    eventually("the child is gone", || (!lives(child)).then_some(()));
    eventually("the group is empty", || {
        let said = one.circuit("signal -group TERM /one/p").any_stderr();
        let said = said.unchecked();
        said.stderr()
            .ends_with(": the process has exited\n")
            .then_some(())
    });
}

#[test]
fn every_name_of_a_signal_that_is_printed_is_accepted() {
    let home = Home::new();
    let one = home.start("one");
    for number in [37, 64] {
        one.make("/one/p", r#"{"Path": "sleep", "Args": ["1000"]}"#);
        one.circuit(format!("signal {number} /one/p")).run();
        let status = one.circuit("wait /one/p").any_stdout().run().json();
        one.circuit("scrub /one/p").run();
        let name = status["Signal"].as_str().unwrap();
        one.make("/one/p", r#"{"Path": "sleep", "Args": ["1000"]}"#);
        one.circuit(format!("signal {name} /one/p")).run();
        let status = one.circuit("wait /one/p").any_stdout().run().json();
        one.circuit("scrub /one/p").run();
        assert_eq!(status["SignalNumber"], number);
    }
}

#[test]
fn names_of_servers_are_short_and_plain() {
    let home = Home::new();
    let long = "a".repeat(64);
    for name in [".", "-a", "_a", "a b", "ä", "all", "", "a/b", long.as_str()] {
        let said = home.circuit("start -var v").arg(format!("-name={name}"));
        let said = said.status(2).any_stderr().run();
        let begins = format!("circuit: start: -name {name:?}: ");
        assert!(said.stderr().starts_with(&begins), "{said}");
    }
    let longest = format!("9{}", "._-aB".repeat(12));
    let one = home.circuit(format!("start -name {longest}")).serve();
    assert_eq!(one.peek(&format!("/{longest}"))["Name"], longest);
}

#[test]
fn the_output_that_is_not_there_is_named() {
    let home = Home::new();
    let one = home.start("one");
    let command =
        json!({"Path": "sleep", "Args": ["1000"], "Stdout": "out.log", "Dir": home.path()});
    one.make("/one/p", command.to_string());
    one.circuit("stdout /one/p")
        .status(1)
        .stderr("circuit: stdout /one/p: it goes to the file out.log\n")
        .run();
    let reader = one.circuit("stderr /one/p").spawn();
    one.until("/one/p", |status| status["Stderr"]["Reader"] == true);
    let said = one.circuit("stderr /one/p").status(1).any_stderr().run();
    let begins = format!(
        "circuit: stderr /one/p: somebody else is reading it: {}",
        who()
    );
    assert!(said.stderr().starts_with(&begins), "{said}");
    assert!(said.stderr().contains(", since 20"), "{said}");
    drop(reader);
}

#[test]
fn a_program_that_cannot_be_executed_is_told_from_one_that_is_missing() {
    let home = Home::new();
    let one = home.start("one");
    home.write("tool", "#!/bin/sh\n");
    let path = format!("PATH={}", home.path().display());
    let command = json!({"Path": "tool", "Env": [path]}).to_string();
    let file = home.file("tool");
    let said = format!("not executable: {}", file.display());
    let made = one.circuit("mkproc /one/p").stdin(command).status(1);
    let made = made.any_stderr().run();
    assert!(made.stderr().contains(&said), "{made}");
}

#[test]
fn discarding_without_the_null_device_says_so() {
    let home = Home::new();
    let tried = home.circuit_under(WITHOUT_DEVICES, "help");
    let works = tried.any_stdout().any_stderr().unchecked().status.success();
    if !works {
        return skipped("user and mount namespaces and unshare (util-linux)");
    }
    let one = home
        .circuit_under(WITHOUT_DEVICES, "start -name one")
        .serve();
    let command: Value = json!({"Path": "/bin/true", "Stdout": "discard"});
    let made = one.circuit("mkproc /one/p").stdin(command.to_string());
    let made = made.status(1).any_stderr().run();
    let said = "no such file or directory: /dev/null (Stdout)";
    assert!(made.stderr().contains(said), "{made}");
}
