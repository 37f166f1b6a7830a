//! Faults and changes that the server did not cause: of containers, images and their Engine.

use std::time::Duration;

use super::engine::{Daemon, Engine};
use super::{make, wait};
use crate::support::{Home, eventually};

#[test]
fn what_others_do_to_a_container_is_told() {
    let Some(engine) = Engine::of_machine() else {
        return;
    };
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    make(&one, "/one/c", &engine.sh("echo said; sleep 1000"));
    let name = one.peek("/one/c")["Name"].as_str().unwrap()[1..].to_owned();
    let waiting = one.circuit("waitall").stdin("/one/c\n").spawn();
    let reader = one.circuit("stdout /one/c").spawn();
    reader.prints("said\n");
    engine.docker(&["rm", "-f", &name]);
    assert_eq!(waiting.finish().stdout(), "/one/c\tsignal: killed\n");
    assert_eq!(reader.finish().stdout(), "said\n");
    one.circuit("peek /one/c")
        .status(1)
        .stderr(format!(
            "circuit: peek /one/c: the container {name} was removed by somebody else: \
             `circuit scrub` forgets it\n"
        ))
        .run();
    one.circuit("scrub /one/c").run();
    one.circuit("peek /one/c").stdout("null\n").run();
    // A container that somebody else stopped has ended as any other.
    make(&one, "/one/c", &engine.sh("sleep 1000"));
    engine.docker(&["kill", "--signal", "KILL", &name]);
    assert_eq!(wait(&one, "/one/c")["Exit"], "signal: killed");
    assert_eq!(one.peek("/one/c")["State"]["ExitCode"], 137);
}

#[test]
fn a_server_that_stops_leaves_its_containers_running() {
    let Some(engine) = Engine::of_machine() else {
        return;
    };
    let home = Home::new();
    for kill in [false, true] {
        let mut one = engine.server(&home, "-name one");
        make(&one, "/one/c", &engine.sh("sleep 1000"));
        let name = format!("circuit-{}-c", one.id());
        match kill {
            true => one.kill(),
            false => drop(one.stop()),
        }
        let running = ["inspect", "-f", "{{.State.Running}}", &name];
        assert_eq!(engine.docker(&running), "true\n");
        let label = format!("label=circuit.server={}", one.id());
        let named = engine.docker(&["ps", "--filter", &label, "--format", "{{.Names}}"]);
        assert_eq!(named, format!("{name}\n"));
    }
}

#[test]
fn an_engine_that_stops_in_the_middle_is_told_and_waited_for() {
    if Engine::of_machine().is_none() {
        return;
    }
    let Some(mut daemon) = Daemon::start(&[]) else {
        return;
    };
    let Some(engine) = Engine::of(daemon.host()) else {
        return;
    };
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    let script = "trap exit TERM; echo said; while :; do sleep 0.1; done";
    make(&one, "/one/c", &engine.sh(script));
    let reader = one.circuit("stdout /one/c").spawn();
    reader.prints("said\n");
    let mut waiting = one.circuit("waitall").stdin("/one/c\n").spawn();
    one.is_executing(&["wait"]);
    daemon.kill();
    let lost = format!("the Docker Engine at {} does not answer: ", daemon.socket());
    let cut = reader.finish();
    assert_eq!(cut.stdout(), "said\n");
    assert!(
        cut.stderr().starts_with("circuit: stdout /one/c: "),
        "{cut}"
    );
    assert!(cut.stderr().contains(&lost), "{cut}");
    assert!(
        cut.stderr()
            .ends_with("some of the stream may be missing\n"),
        "{cut}"
    );
    for command in ["peek", "scrub", "signal TERM"] {
        let output = one
            .circuit(format!("{command} /one/c"))
            .status(1)
            .any_stderr()
            .run();
        assert!(output.stderr().contains(&lost), "{output}");
    }
    let output = one
        .circuit("mkdkr /one/d")
        .stdin(engine.sh("true").to_string())
        .status(1)
        .any_stderr()
        .run();
    assert!(output.stderr().contains(&lost), "{output}");
    one.circuit("peek /one/d").stdout("null\n").run();
    assert!(
        waiting.is_running(),
        "nobody knows that the container has ended"
    );
    // An Engine that comes back ends containers that it finds running.
    assert!(daemon.run(), "dockerd starts again: {}", daemon.log());
    let waited = waiting.finish();
    assert!(waited.stdout().starts_with("/one/c\t"), "{waited}");
    assert_eq!(one.peek("/one/c")["State"]["Running"], false);
    one.circuit("scrub /one/c").run();
    assert!(engine.containers().is_empty());
    drop(one);
    drop(engine);
}

#[test]
fn a_container_that_outlives_its_engine_goes_on() {
    let Some(mut daemon) = Daemon::start(&["--live-restore"]) else {
        return;
    };
    let Some(engine) = Engine::of(daemon.host()) else {
        return;
    };
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    let script = "echo begun; read x; echo got $x; echo err >&2; exit 7";
    make(&one, "/one/c", &engine.sh(script));
    let reader = one.circuit("stdout /one/c").spawn();
    reader.prints("begun\n");
    let mut waiting = one.circuit("waitall").stdin("/one/c\n").spawn();
    one.is_executing(&["wait"]);
    daemon.kill();
    let cut = reader.finish();
    assert_eq!(cut.stdout(), "begun\n");
    assert!(
        cut.stderr()
            .ends_with("some of the stream may be missing\n"),
        "{cut}"
    );
    assert!(daemon.run(), "dockerd starts again: {}", daemon.log());
    assert_eq!(one.peek("/one/c")["State"]["Running"], true);
    assert!(waiting.is_running());
    let reader = eventually("its stdout goes on", || {
        let reader = one.circuit("stdout /one/c").spawn();
        let failed = reader.stdout().wait_for_end(Duration::from_millis(200));
        (!failed).then_some(reader)
    });
    // No reader of its stderr has heard yet that some of it may be missing.
    let told = one.circuit("stderr /one/c").status(1).any_stderr().run();
    assert!(told.stderr().contains("may be missing\n"), "{told}");
    let stderr = one.circuit("stderr /one/c").spawn();
    one.is_executing(&["stdout", "stderr"]);
    one.circuit("stdin /one/c").stdin("it\n").run();
    assert_eq!(reader.finish().stdout(), "got it\n");
    assert_eq!(stderr.finish().stdout(), "err\n");
    assert_eq!(waiting.finish().stdout(), "/one/c\texit status 7\n");
    one.circuit("scrub /one/c").run();
    assert!(engine.containers().is_empty());
}
