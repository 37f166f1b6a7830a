//! Lives of one server that only their count tells apart: in a container every server is process 1,
//! and comes back at whatever address it is given.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Home, Server, eventually, eventually_within, sh, skipped};

/// Runs the binary as process 1 of a PID namespace, which ends with the process that waits for it.
const CONTAINED: &str = r#"
    [ "$(id -u)" = 0 ] || set -- --user --map-root-user -- "$0" "$@"
    [ "$1" = --user ] || set -- -- "$0" "$@"
    exec unshare --pid --fork --kill-child "$@"
"#;

/// The same, with the processes of the namespace below /proc, as containers have it.
const CONTAINED_WITH_PROC: &str = r#"
    [ "$(id -u)" = 0 ] || set -- --user --map-root-user -- "$0" "$@"
    [ "$1" = --user ] || set -- -- "$0" "$@"
    exec unshare --pid --fork --kill-child --mount-proc "$@"
"#;

/// Whether PID namespaces can be made here; says so if not.
fn can_contain() -> bool {
    can_run(CONTAINED)
}

fn can_run(script: &str) -> bool {
    let home = Home::new();
    let tried = home.circuit_under(script, "help");
    let works = tried.any_stdout().any_stderr().unchecked().status.success();
    if !works {
        skipped("PID namespaces and unshare (util-linux)");
    }
    works
}

/// Starts a server that is process 1 where it runs.
fn contained(home: &Home, line: &str) -> Server {
    contained_by(CONTAINED, home, line)
}

fn contained_by(script: &str, home: &Home, line: &str) -> Server {
    let server = home.circuit_under(script, line).serve();
    assert_eq!(server.url().server.unwrap().pid, 1);
    server
}

/// Kills a contained server, and waits until it has gone with all that it held.
fn kill(server: &mut Server) {
    let child = first_process(server);
    kill_process(child, Signal::KILL).unwrap();
    server.exit_status();
}

#[test]
fn what_went_through_the_life_before_fails_at_once_wherever_the_next_one_is() {
    if !can_contain() {
        return;
    }
    for elsewhere in [false, true] {
        let home = Home::new();
        let one = home.start("one");
        let start = format!("start -name two -var two -j {}", one.url());
        let mut two = contained(&home, &start);
        Server::see_each_other(&[&one, &two]);
        one.make("/two/p", sh("echo begun; exec cat"));
        one.make("/one/p", sh("echo begun; exec cat"));
        let there = one.circuit("stdout /two/p").spawn();
        let back = home
            .circuit(format!("stdout -d {} /one/p", two.url()))
            .spawn();
        there.prints("begun\n");
        back.prints("begun\n");
        let address = two.address();
        kill(&mut two);
        let at = match elsewhere {
            true => "127.0.0.2".to_owned(),
            false => address.to_string(),
        };
        let two = contained(&home, &format!("{start} -a {at}"));
        assert_eq!(two.address() != address, elsewhere);
        // Far sooner than the ten seconds after which a silent connection is given up.
        let soon = Duration::from_secs(4);
        eventually_within(soon, "the reader through the life before is told", || {
            let lost = format!("lost the server two at {address}: it was restarted\n");
            there.stderr().text().ends_with(&lost).then_some(())
        });
        eventually_within(soon, "the life before keeps nobody out", || {
            (one.peek("/one/p")["Stdout"]["Reader"] == false).then_some(())
        });
        Server::see_each_other(&[&one, &two]);
        assert_eq!(one.peek("/two")["Addr"], two.url().to_string());
        one.circuit("peek /two/p").stdout("null\n").run();
    }
}

#[test]
fn a_join_is_done_once_the_life_that_answers_is_in_the_circuit() {
    if !can_contain() {
        return;
    }
    for elsewhere in [false, true] {
        let home = Home::new();
        let one = home.start("one");
        let mut two = contained(&home, "start -name two -var two");
        one.circuit(format!("join /one {}", two.url())).run();
        Server::see_each_other(&[&one, &two]);
        let at = match elsewhere {
            true => "127.0.0.2".to_owned(),
            false => two.address().to_string(),
        };
        kill(&mut two);
        let two = contained(&home, &format!("start -name two -var two -a {at}"));
        // So soon that the life before is still in the view.
        one.circuit(format!("join /one {}", two.url())).run();
        let knows = |server: &Server, other: &Server| {
            let path = format!("/{}", other.id());
            server.ls("/").contains(&path)
        };
        assert!(knows(&two, &one), "{}", two.log());
        assert_eq!(one.peek("/two")["Addr"], two.url().to_string());
        // A join of a member changes nothing.
        let links = |server: &Server| server.log().matches("linked by").count();
        let before = (links(&one), links(&two));
        one.circuit(format!("join /one {}", two.url())).run();
        assert_eq!((links(&one), links(&two)), before);
        eventually("both see both", || {
            (knows(&one, &two) && knows(&two, &one)).then_some(())
        });
    }
}

/// The process that is process 1 where it runs.
fn first_process(server: &Server) -> Pid {
    let parent = server.pid();
    let children = Path::new("/proc").join(format!("{parent}/task/{parent}/children"));
    let children = std::fs::read_to_string(children).unwrap();
    let child = children.split_whitespace().next().unwrap();
    Pid::from_raw(child.parse().unwrap()).unwrap()
}

#[test]
fn process_1_stops_its_services_as_they_say_and_a_second_signal_ends_it_at_once() {
    if !can_run(CONTAINED_WITH_PROC) {
        return;
    }
    for heeds in [true, false] {
        let home = Home::new();
        let mut one = contained_by(CONTAINED_WITH_PROC, &home, "start -name one -var var");
        let here = home.path().display();
        let last = if heeds { "exit 0" } else { ":" };
        let script = format!(
            "trap 'echo told > {here}/told; {last}' TERM; echo begun; while :; do sleep 0.02; done"
        );
        let definition = serde_json::json!({
            "Path": "/bin/sh",
            "Args": ["-c", script],
            "Ready": { "Up": 0.05 },
            "Stop": { "Seconds": 1000 },
        });
        one.circuit("mksvc /one/a")
            .stdin(definition.to_string())
            .run();
        let logs = one.circuit("logs -follow /one/a").spawn();
        logs.prints("begun\n");
        kill_process(first_process(&one), Signal::TERM).unwrap();
        eventually("the service is told", || {
            home.file("told").exists().then_some(())
        });
        if !heeds {
            kill_process(first_process(&one), Signal::TERM).unwrap();
        }
        assert_eq!(one.exit_status().success(), heeds);
    }
}
