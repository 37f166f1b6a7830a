//! `run`: a process elsewhere as if it ran here.

use std::net::UdpSocket;

use rustix::process::Signal;

use crate::support::{Home, Over, Server, Terminal, eventually, eventually_within, lives, over};

/// Waits until the server holds nothing.
fn its_element_is_gone(one: &Server) {
    eventually("its element is gone", || {
        one.ls("/one").is_empty().then_some(())
    });
}

#[test]
fn it_exits_as_the_process_did_and_leaves_nothing() {
    let home = Home::new();
    let one = home.start("one");
    let check = |script: &str, status: i32| {
        one.circuit("run one -- sh -c")
            .arg(script)
            .status(status)
            .run();
    };
    check("exit 0", 0);
    check("exit 3", 3);
    check("exit 255", 255);
    check("kill -TERM $$", 128 + 15);
    check("kill -KILL $$", 128 + 9);
    assert!(one.ls("/one").is_empty());
}

#[test]
fn all_three_streams_are_attached() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("run one -- sh -c")
        .arg("cat; echo err >&2; exit 7")
        .stdin("in\n")
        .stdout("in\n")
        .stderr("err\n")
        .status(7)
        .run();
    let data = "0123456789".repeat(300_000);
    one.circuit("run one -- cat")
        .stdin(data.clone())
        .stdout(data)
        .run();
    // A process that reads nothing is no failure.
    one.circuit("run one -- true")
        .stdin("x".repeat(1_000_000))
        .run();
}

#[test]
fn it_runs_where_it_is_told() {
    let home = Home::new();
    let one = home.start("one");
    let id = one.id();
    for place in ["one", "/one", &id, &format!("/{id}"), "one/a", "/one/a/b"] {
        one.circuit(format!("run {place} -- true")).run();
    }
    one.make("/one/taken", r#"{"Path": "cat"}"#);
    one.circuit("run one/taken -- true")
        .status(255)
        .stderr(
            "circuit: run /one/taken: occupied by a proc\n\
             hint: `circuit peek` shows what is there, `circuit scrub` removes it\n",
        )
        .run();
    one.circuit("run / -- true")
        .status(2)
        .stderr("circuit: run: the root holds no process: name a server, as in /X…/name\n")
        .run();
    one.circuit("run two -- true")
        .status(255)
        .any_stderr()
        .run();
    one.circuit("run one/a -- /no/such")
        .status(127)
        .stderr(format!(
            "circuit: run /one/a: no such file or directory: /no/such (exec on one at {})\n",
            one.address()
        ))
        .run();
    assert_eq!(one.ls("/one").len(), 1, "only what was there before");
}

#[test]
fn arguments_behind_two_dashes_are_the_commands() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("run one -- printf %s, -name --name -d -discover -- -x=y")
        .stdout("-name,--name,-d,-discover,--,-x=y,")
        .run();
    one.circuit("run one")
        .status(2)
        .stderr(
            "circuit: the following required arguments were not provided: <COMMAND>...\n\
             hint: -- <COMMAND>...: the command and its arguments\n",
        )
        .run();
    one.circuit("run one ls")
        .status(2)
        .stderr(
            "circuit: unexpected argument 'ls' found\n\
             hint: -- goes before the command and its arguments\n",
        )
        .run();
}

#[test]
fn signals_are_passed_on() {
    let home = Home::new();
    let one = home.start("one");
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
    ] {
        let script = format!(
            "trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.01; done"
        );
        let run = one.circuit("run one -- sh -c").arg(script).spawn();
        run.prints("ready\n");
        run.signal(signal);
        let end = run.finish();
        assert_eq!(
            (end.status.code(), end.stdout()),
            (Some(9), &*format!("ready\ngot {name}\n"))
        );
    }
    let run = one
        .circuit("run one -- sh -c")
        .arg("echo ready; exec cat /dev/zero")
        .spawn();
    run.shows("ready\n");
    run.signal(Signal::TERM);
    assert_eq!(run.finish().status.code(), Some(128 + 15));
    assert!(one.ls("/one").is_empty());
}

#[test]
fn signals_of_a_terminal_end_the_programs_that_a_shell_runs() {
    let home = Home::new();
    let one = home.start("one");
    // The shell itself waits for its child before it heeds an interrupt.
    for (signal, status) in [(Signal::INT, 128 + 2), (Signal::TERM, 128 + 15)] {
        let script = "echo ready; sleep 100; true";
        let run = one.circuit("run /one/x -- sh -c").arg(script).spawn();
        run.shows("ready\n");
        run.signal(signal);
        assert_eq!(run.finish().status.code(), Some(status));
        one.circuit("peek /one/x").stdout("null\n").run();
    }
}

#[test]
fn a_signal_ends_it_while_nobody_answers() {
    let home = Home::new();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    let run = home
        .circuit(format!("run -d circuit://{address} one -- true"))
        .spawn();
    nobody.recv(&mut [0; 2048]).unwrap();
    run.signal(Signal::INT);
    let end = run.finish();
    assert_eq!((end.status.code(), end.stderr()), (Some(128 + 2), ""));
}

#[test]
fn a_signal_ends_it_when_only_a_child_of_its_process_holds_the_output() {
    let home = Home::new();
    let one = home.start("one");
    let run = one
        .circuit("run /one/p -- sh -c")
        .arg("sleep 1000 & echo $!; exit 4")
        .spawn();
    run.shows("\n");
    one.until("/one/p", |status| status["Phase"] == "exited");
    run.signal(Signal::INT);
    assert_eq!(run.finish().status.code(), Some(4));
    assert!(one.ls("/one").is_empty());
}

#[test]
fn killed_it_leaves_nothing_behind() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    // This holds through a forwarder too.
    for server in [&one, &two] {
        let run = server
            .circuit("run /one/p -- sh -c")
            .arg("echo ready; cat; sleep 1000")
            .stdin_open()
            .spawn();
        run.shows("ready\n");
        run.signal(Signal::KILL);
        let idle = std::time::Duration::from_secs(13);
        eventually_within(idle, "the process is gone, and its element", || {
            one.ls("/one").is_empty().then_some(())
        });
    }
    // One that ignores it goes on, and is forgotten at its end.
    let run = one
        .circuit("run /one/q -- sh -c")
        .arg("trap '' HUP; echo ready; cat; echo nobody hears; exec sleep 1000")
        .stdin_open()
        .spawn();
    run.shows("ready\n");
    run.signal(Signal::KILL);
    let idle = std::time::Duration::from_secs(13);
    eventually_within(idle, "its stdin is at its end", || {
        (one.peek("/one/q")["Stdin"]["Open"] == false).then_some(())
    });
    assert_eq!(one.peek("/one/q")["Phase"], "running");
    one.circuit("signal KILL /one/q").run();
    its_element_is_gone(&one);
}

#[test]
fn a_process_whose_output_nobody_reads_feels_a_broken_pipe() {
    let home = Home::new();
    let one = home.start("one");
    let into_nowhere = |script: &str| {
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let run = one.circuit("run one -- sh -c").arg(script);
        let end = run.spawn_into(write).finish();
        assert_eq!(end.stderr(), "");
        end.status.code()
    };
    assert_eq!(into_nowhere("exec yes"), Some(128 + 13));
    assert_eq!(into_nowhere("trap '' PIPE; seq 100000; exit 3"), Some(3));
    assert!(one.ls("/one").is_empty());
}

#[test]
fn an_element_that_somebody_scrubs_is_an_error() {
    let home = Home::new();
    let one = home.start("one");
    let run = one
        .circuit("run /one/p -- sh -c")
        .arg("echo ready; exec cat")
        .stdin_open()
        .spawn();
    run.prints("ready\n");
    one.circuit("scrub /one/p").run();
    let end = run.finish();
    assert_eq!(
        (end.status.code(), end.stderr()),
        (Some(255), "circuit: run /one/p: the element was scrubbed\n")
    );
}

#[test]
fn a_server_that_leaves_is_an_error() {
    let home = Home::new();
    let mut one = home.start("one");
    let run = one
        .circuit("run /one/p -- sh -c")
        .arg("echo ready; exec cat")
        .stdin_open()
        .spawn();
    run.prints("ready\n");
    one.stop();
    let end = run.finish();
    assert_eq!(
        (end.status.code(), end.stderr()),
        (
            Some(255),
            &*format!(
                "circuit: run /one/p: the server that was dialled, one at {}, left the circuit\n",
                one.address()
            )
        )
    );
}

#[test]
fn interactive_needs_a_terminal() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("run -i one -- true")
        .status(2)
        .stderr("circuit: run: -i needs a terminal on stdin\n")
        .run();
    assert!(one.ls("/one").is_empty());
}

#[test]
fn interactive_is_this_terminal_while_it_lasts() {
    let home = Home::new();
    let one = home.start("one");
    let mut terminal = Terminal::new(33, 99);
    let script = "stty size; read line; echo \"got $line\"; exit 5";
    let mut run = one
        .circuit("run -i one -- sh -c")
        .arg(script)
        .spawn_on(&terminal);
    run.shows("33 99\r\n");
    assert!(terminal.is_raw());
    terminal.types("hello\r");
    run.shows("got hello\r\n");
    assert_eq!(run.exit_status().code(), Some(5));
    assert!(!terminal.is_raw(), "as it was before");
}

#[test]
fn interactive_has_this_terminals_name_and_language() {
    let home = Home::new();
    let one = home.start("one");
    let terminal = Terminal::new(24, 80);
    let script = "echo \"$TERM $LC_TIME ${SECRET-none} ${PATH:+path}\"; read line";
    let mut run = one
        .circuit("run -i /one/p -- sh -c")
        .arg(script)
        .env("TERM", "vt52")
        .env("LC_TIME", "C.UTF-8")
        .env("SECRET", "x")
        .spawn_on(&terminal);
    run.shows("vt52 C.UTF-8 none path\r\n");
    let cmd = one.peek("/one/p")["Cmd"].clone();
    assert_eq!(cmd["Path"], "sh", "the command is what was given");
    let added = cmd["AddEnv"].as_array().unwrap();
    assert!(added.contains(&"TERM=vt52".into()), "{added:?}");
    run.signal(Signal::TERM);
    run.exit_status();
}

#[test]
fn interactive_keys_and_sizes_reach_the_process() {
    let home = Home::new();
    let one = home.start("one");
    let mut terminal = Terminal::new(24, 80);
    let script = "trap 'stty size' WINCH; trap 'echo interrupted; exit 6' INT; echo ready; \
                  while :; do sleep 0.01; done";
    let mut run = one
        .circuit("run -i one -- sh -c")
        .arg(script)
        .spawn_on(&terminal);
    run.shows("ready");
    terminal.resize(50, 132);
    run.signal(Signal::WINCH);
    run.shows("50 132\r\n");
    terminal.types("\x03");
    run.shows("interrupted");
    assert_eq!(run.exit_status().code(), Some(6));
    assert!(!terminal.is_raw());
}

#[test]
fn interactive_restores_the_terminal_when_a_signal_ends_it() {
    let home = Home::new();
    let one = home.start("one");
    let terminal = Terminal::new(24, 80);
    let mut run = one
        .circuit("run -i one -- sh -c")
        .arg("echo ready; exec cat")
        .spawn_on(&terminal);
    run.shows("ready");
    assert!(terminal.is_raw());
    run.signal(Signal::TERM);
    assert_eq!(run.exit_status().code(), Some(128 + 15));
    assert!(!terminal.is_raw());
}

#[test]
fn interactive_restores_the_terminal_when_the_server_dies() {
    let home = Home::new();
    let mut one = home.start("one");
    let terminal = Terminal::new(24, 80);
    let mut run = one
        .circuit("run -i one -- sh -c")
        .arg("echo ready; exec cat")
        .spawn_on(&terminal);
    run.shows("ready");
    assert!(terminal.is_raw());
    one.kill();
    let idle = std::time::Duration::from_secs(13);
    eventually_within(idle, "it notices", || (!run.is_running()).then_some(()));
    assert_eq!(run.exit_status().code(), Some(255));
    assert!(!terminal.is_raw());
    run.shows(match over() {
        Over::Network => "it no longer answers",
        Over::Socket => "its process has ended",
    });
}

#[test]
fn failures_to_read_or_write_here_are_said() {
    let home = Home::new();
    let one = home.start("one");
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let end = one
        .circuit("run /one/p -- echo hi")
        .spawn_into(full)
        .finish();
    assert_eq!(end.status.code(), Some(255));
    assert_eq!(
        end.stderr(),
        "circuit: run: cannot write to stdout: no space left on device\n"
    );
}

#[test]
fn killed_it_leaves_nothing_behind_whatever_the_process_did_with_its_streams() {
    let home = Home::new();
    let one = home.start("one");
    let idle = std::time::Duration::from_secs(25);
    // It has closed them all; it has left them to a child and exited.
    for script in [
        "echo $$; exec </dev/null >/dev/null 2>&1; exec sleep 1000",
        "sleep 1000 & echo $!",
    ] {
        let run = one.circuit("run /one/p -- sh -c").arg(script).spawn();
        run.shows("\n");
        let pid = run.stdout().text().trim().parse().unwrap();
        run.signal(Signal::KILL);
        eventually_within(idle, "the process is gone", || (!lives(pid)).then_some(()));
        eventually_within(idle, "its element is gone", || {
            one.ls("/one").is_empty().then_some(())
        });
    }
    // Its maker went before it attached.
    let sleep = r#"{"Path": "sleep", "Args": ["1000"], "Hangup": true}"#;
    one.make("/one/p", sleep);
    let pid = one.peek("/one/p")["Pid"].as_i64().unwrap();
    eventually_within(idle, "the process is gone", || (!lives(pid)).then_some(()));
    its_element_is_gone(&one);
}

#[test]
fn an_onlooker_that_leaves_ends_nothing() {
    let home = Home::new();
    let one = home.start("one");
    let mut run = one
        .circuit("run /one/p -- sh -c")
        .arg("echo $$; read x; exit 5")
        .stdin_open()
        .spawn();
    run.shows("\n");
    let pid = run.stdout().text().trim().parse().unwrap();
    let waits = |count| {
        eventually(&format!("{count} wait"), || {
            let waits = one.executed().into_iter().filter(|name| name == "wait");
            (waits.count() == count).then_some(())
        });
    };
    let onlooker = one.circuit("wait /one/p").spawn();
    waits(1);
    onlooker.signal(Signal::INT);
    onlooker.finish();
    waits(0);
    assert!(lives(pid));
    run.write("\n");
    assert_eq!(run.finish().status.code(), Some(5));
}

#[test]
fn a_run_that_ends_in_order_leaves_what_went_into_the_background_alone() {
    let home = Home::new();
    let one = home.start("one");
    let script = "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!";
    let run = one.circuit("run one -- sh -c").arg(script).stdin_open();
    let end = run.spawn().finish();
    let pid = end.stdout().trim().parse().unwrap();
    assert!(one.ls("/one").is_empty());
    assert!(lives(pid));
}

#[test]
fn output_that_cannot_be_written_here_ends_the_process_there() {
    let home = Home::new();
    let one = home.start("one");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let end = one
        .circuit("run /one/p -- seq 1000000")
        .spawn_into(full.unwrap())
        .finish();
    assert_eq!(end.status.code(), Some(255));
    eventually("nothing is left", || {
        one.ls("/one").is_empty().then_some(())
    });
}
