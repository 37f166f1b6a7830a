//! A process from its start to its end: `peek`, `wait`, `waitall`, `signal`, and a process whose
//! element was scrubbed.

mod inherited;
mod retained;

use std::fs;
use std::path::Path;

use circuit_client::Code;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::support::{Home, Server, eventually, lives, sh};

fn wait(server: &Server, path: &str) -> Value {
    server
        .circuit(format!("wait {path}"))
        .any_stdout()
        .run()
        .json()
}

fn pid(status: &Value) -> i64 {
    status["Pid"].as_i64().unwrap()
}

/// The text with what differs from run to run replaced.
fn masked(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| match line.trim().split(':').next() {
            Some(r#""Pid""#) => "\t\"Pid\": PID,\n".to_owned(),
            Some(r#""Started""#) => "\t\"Started\": TIME,\n".to_owned(),
            Some(r#""Ended""#) if line.contains("Z\"") => "\t\"Ended\": TIME,\n".to_owned(),
            _ => format!("{line}\n"),
        });
    lines.collect()
}

#[test]
fn the_status_is_in_the_references_form() {
    let home = Home::new();
    let one = home.start("one");
    let command = json!({
        "Path": "/bin/sh",
        "Args": ["-c", "exit 3"],
        "Env": ["A=b"],
        "Dir": "/",
        "Stderr": "discard",
    });
    one.make("/one/p", command.to_string());
    let waited = one.circuit("wait /one/p").any_stdout().run();
    let expected = "{
\t\"Cmd\": {
\t\t\"Env\": [
\t\t\t\"A=b\"
\t\t],
\t\t\"Dir\": \"/\",
\t\t\"Path\": \"/bin/sh\",
\t\t\"Args\": [
\t\t\t\"-c\",
\t\t\t\"exit 3\"
\t\t],
\t\t\"Scrub\": false,
\t\t\"Stdout\": \"pipe\",
\t\t\"Stderr\": \"discard\",
\t\t\"Terminal\": null,
\t\t\"Hangup\": false,
\t\t\"AddEnv\": []
\t},
\t\"Exit\": \"exit status 3\",
\t\"Phase\": \"exited\",
\t\"Code\": 3,
\t\"Signal\": null,
\t\"SignalNumber\": null,
\t\"Pid\": PID,
\t\"Started\": TIME,
\t\"Ended\": TIME,
\t\"Blocked\": null,
\t\"Stdin\": {
\t\t\"Open\": false,
\t\t\"Writer\": false
\t},
\t\"Stdout\": {
\t\t\"Ended\": true,
\t\t\"Reader\": false,
\t\t\"Held\": 0
\t},
\t\"Stderr\": {
\t\t\"Ended\": true,
\t\t\"Reader\": false,
\t\t\"Held\": 0
\t}
}
";
    assert_eq!(masked(waited.stdout()), expected);
    let peeked = one.circuit("peek /one/p").any_stdout().run();
    assert_eq!(peeked.stdout(), waited.stdout());
}

#[test]
fn how_it_ended_is_told_in_the_references_words() {
    let home = Home::new();
    let one = home.start("one");
    let check = |script: &str, expected: Value| {
        one.make("/one/p", sh(script));
        let status = wait(&one, "/one/p");
        let told = json!([
            status["Exit"],
            status["Phase"],
            status["Code"],
            status["Signal"],
            status["SignalNumber"]
        ]);
        assert_eq!(told, expected, "{script}");
        let number = format!("/proc/{}", pid(&status));
        assert!(!Path::new(&number).exists(), "it is reaped");
        one.circuit("scrub /one/p").run();
    };
    check("exit 0", json!([null, "exited", 0, null, null]));
    check("exit 1", json!(["exit status 1", "exited", 1, null, null]));
    check(
        "exit 255",
        json!(["exit status 255", "exited", 255, null, null]),
    );
    check(
        "kill $$",
        json!(["signal: terminated", "signaled", null, "SIGTERM", 15]),
    );
    check(
        "kill -9 $$",
        json!(["signal: killed", "signaled", null, "SIGKILL", 9]),
    );
    check(
        "kill -40 $$",
        json!(["signal: signal 40", "signaled", null, "SIG40", 40]),
    );
}

#[test]
fn everybody_who_waits_is_answered() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", sh("read x; exit 5"));
    let waiters: Vec<_> = (0..4).map(|_| one.circuit("wait /one/p").spawn()).collect();
    eventually("all wait", || {
        let stacks = one.circuit("stk /one").any_stdout().run();
        (stacks.stdout().matches("  wait ").count() == 4).then_some(())
    });
    one.circuit("stdin /one/p").run();
    for waiter in waiters {
        assert_eq!(waiter.finish().json()["Code"], 5);
    }
    assert_eq!(wait(&one, "/one/p")["Code"], 5, "and who comes later");
}

#[test]
fn waiters_learn_that_the_element_was_scrubbed() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let waiter = one.circuit("wait /one/p").spawn();
    eventually("it waits", || {
        let stacks = one.circuit("stk /one").any_stdout().run();
        stacks.stdout().contains("  wait ").then_some(())
    });
    one.circuit("scrub /one/p").run();
    let end = waiter.finish();
    assert_eq!(
        (end.status.code(), end.stderr()),
        (Some(1), "circuit: wait /one/p: the element was scrubbed\n")
    );
}

#[test]
fn waitall_tells_of_each_as_it_exits() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("waitall").run();
    one.make("/one/ok", sh("exit 0"));
    one.make("/one/bad", sh("read x; exit 2"));
    one.make("/one/killed", sh("read x; kill -9 $$"));
    let mut all = one.circuit("waitall").stdin_open().spawn();
    all.write("/one/killed\n\n  /one/bad  \n/one/ok\n");
    all.close_stdin();
    all.prints("/one/ok\tok\n");
    one.circuit("stdin /one/bad").run();
    all.prints("/one/ok\tok\n/one/bad\texit status 2\n");
    one.circuit("stdin /one/killed").run();
    all.prints("/one/ok\tok\n/one/bad\texit status 2\n/one/killed\tsignal: killed\n");
    assert_eq!(all.finish().status.code(), Some(0));
    one.circuit("waitall")
        .stdin("/one/nothing\n/one/ok\n")
        .status(1)
        .stdout("/one/ok\tok\n")
        .stderr("circuit: waitall /one/nothing: nothing there\n")
        .run();
    one.circuit("waitall")
        .stdin("/one/ok\nok\n")
        .status(1)
        .stdout("/one/ok\tok\n")
        .stderr("circuit: waitall /ok: no server is named ok\n")
        .run();
}

#[test]
fn signals_have_names_and_numbers() {
    let home = Home::new();
    let one = home.start("one");
    for signal in ["TERM", "SIGTERM", "sigterm", "term", "15", "-15"] {
        one.make("/one/p", r#"{"Path": "cat"}"#);
        one.circuit(format!("signal {signal} /one/p")).run();
        assert_eq!(
            wait(&one, "/one/p")["Exit"],
            "signal: terminated",
            "{signal}"
        );
        one.circuit("scrub /one/p").run();
    }
    one.make("/one/p", r#"{"Path": "cat"}"#);
    for signal in ["FOO", "0", "--1", "1000"] {
        one.circuit("signal")
            .arg("--")
            .arg(signal)
            .arg("/one/p")
            .status(2)
            .stderr(format!(
                "circuit: invalid value '{signal}' for '<SIGNAL>': not a signal: a name such as \
                 TERM, or its number\n"
            ))
            .run();
    }
    one.circuit("signal KILL /one/p").run();
    wait(&one, "/one/p");
    one.circuit("signal KILL /one/p")
        .status(1)
        .stderr("circuit: signal /one/p: the process has exited\n")
        .run();
}

/// The tool refuses it by itself; a program's own word comes to the server.
#[tokio::test]
async fn a_server_refuses_what_is_no_signal() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let client = one.client(&home).await;
    let process = client.walk("/one/p").unwrap().proc();
    let long = "X".repeat(100_000);
    for signal in ["FOO", "0", "-9", "1000", long.as_str()] {
        let error = process.signal(signal).await.unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{error}");
        let said = error.to_string();
        assert!(said.starts_with("/one/p: no such signal: \""), "{said}");
        assert!(one.log().len() < 10_000, "what is logged of it is bounded");
    }
    client.close().await;
}

#[test]
fn a_signal_is_for_the_process_and_with_group_for_its_children_too() {
    let home = Home::new();
    let one = home.start("one");
    // The child's own number is on stdout; it ends with its signal or never.
    let script = "trap 'exit 0' USR1; tail -f /dev/null & echo $!; wait $!; wait $!";
    let children = ["", "-group"].map(|flag| {
        let path = format!("/one/p{flag}");
        one.make(&path, sh(script));
        let reader = one.circuit(format!("stdout {path}")).spawn();
        let line = reader.stdout().wait_for(crate::support::DEADLINE, |shown| {
            shown.contains('\n').then(|| shown.trim().to_owned())
        });
        one.circuit(format!("signal {flag} USR1 {path}")).run();
        wait(&one, &path);
        line.unwrap().parse().unwrap()
    });
    eventually("the group is gone", || (!lives(children[1])).then_some(()));
    assert!(lives(children[0]), "only the process was meant");
}

#[test]
fn stops_and_continuations_show() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    assert_eq!(one.peek("/one/p")["Phase"], "running");
    one.circuit("signal STOP /one/p").run();
    one.until("/one/p", |status| status["Phase"] == "stopped");
    one.circuit("signal CONT /one/p").run();
    one.until("/one/p", |status| status["Phase"] == "continued");
    one.circuit("stdin /one/p").run();
    assert_eq!(wait(&one, "/one/p")["Phase"], "exited");
}

#[test]
fn a_scrubbed_process_goes_on_and_its_output_never_blocks_it() {
    let home = Home::new();
    let one = home.start("one");
    one.make(
        "/one/p",
        sh("head -c 1000000 /dev/zero; echo done > mark; exec sleep 600"),
    );
    let status = one.until("/one/p", |status| status["Blocked"] == "stdout");
    one.circuit("scrub /one/p").run();
    one.circuit("peek /one/p").stdout("null\n").run();
    eventually("it gets to its end", || fs::read(home.file("mark")).ok());
    assert!(lives(pid(&status)));
    // Its place is free for another.
    one.make("/one/p", sh("exit 0"));
}

#[test]
fn an_element_forgets_itself_once_it_is_over() {
    let home = Home::new();
    let one = home.start("one");
    let gone = |path: &str| {
        eventually("it is forgotten", || one.peek(path).is_null().then_some(()));
    };
    one.make("/one/a", r#"{"Path": "true", "Scrub": true}"#);
    gone("/one/a");
    one.circuit("mkproc -scrub /one/b")
        .stdin(r#"{"Path": "true"}"#)
        .run();
    gone("/one/b");
    // A reader that is attached has its end first.
    one.circuit("mkproc --scrub /one/c")
        .stdin(sh("read x; head -c 3000000 /dev/zero; exit 1"))
        .run();
    let reader = one.circuit("stdout /one/c").spawn();
    one.until("/one/c", |status| status["Stdout"]["Reader"] == true);
    let waiter = one.circuit("wait /one/c").spawn();
    eventually("it waits", || {
        let stacks = one.circuit("stk /one").any_stdout().run();
        stacks.stdout().contains("  wait ").then_some(())
    });
    one.circuit("stdin /one/c").run();
    let read = reader.finish();
    assert_eq!(
        (read.stdout.len(), read.status.code(), read.stderr()),
        (3_000_000, Some(0), "")
    );
    assert_eq!(waiter.finish().json()["Code"], 1);
    gone("/one/c");
}

#[test]
fn an_exit_is_an_exit_whoever_else_holds_the_pipes() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", sh("echo out; tail -f /dev/null & exit 2"));
    let status = wait(&one, "/one/p");
    assert_eq!(
        (&status["Code"], &status["Stdout"]["Ended"]),
        (&json!(2), &json!(false))
    );
    let reader = one.circuit("stdout /one/p").spawn();
    reader.prints("out\n");
    // The shell's child is of its group still.
    let group = Pid::from_raw(i32::try_from(pid(&status)).unwrap()).unwrap();
    rustix::process::kill_process_group(group, Signal::KILL).unwrap();
    assert_eq!(reader.finish().status.code(), Some(0));
}

#[test]
fn the_children_of_a_server_that_ends_go_on() {
    let home = Home::new();
    let mut one = home.start("one");
    one.make("/one/p", sh("exec sleep 600"));
    let child = pid(&one.peek("/one/p"));
    one.stop();
    assert!(lives(child));
}

#[test]
fn an_error_quotes_a_bounded_part_of_the_input() {
    let home = Home::new();
    let one = home.start("one");
    let end = one
        .circuit("mkdns /one/names")
        .arg("X".repeat(100_000))
        .status(1)
        .any_stderr()
        .run();
    let line = end.stderr();
    assert!(
        line.starts_with("circuit: mkdns /one/names: ") && line.contains("XXX"),
        "{line}"
    );
    assert!(line.len() < 1200, "{} bytes", line.len());
    assert!(one.log().len() < 10_000, "and so is what is logged of it");
    let huge = format!(r#"{{"Path": "true", "Args": ["{}"]}}"#, "x".repeat(600_000));
    one.circuit("mkproc /one/q")
        .stdin(huge)
        .status(1)
        .stderr("circuit: mkproc /one/q: the command is longer than 512 KiB\n")
        .run();
}

#[test]
fn the_end_of_stdin_is_one_on_a_terminal_too() {
    let home = Home::new();
    let one = home.start("one");
    let cat = r#"{"Path": "cat", "Terminal": {"Rows": 24, "Columns": 80}}"#;
    for (n, input) in ["", "a line\n", "no line end"].into_iter().enumerate() {
        one.make(&format!("/one/{n}"), cat);
        one.circuit(format!("stdin /one/{n}")).stdin(input).run();
        let status = one.circuit(format!("wait /one/{n}")).any_stdout().run();
        assert_eq!(status.json()["Code"], 0, "{input:?}");
    }
}

#[test]
fn signals_by_number_are_all_that_there_are() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "sleep", "Args": ["1000"]}"#);
    one.circuit("signal 40 /one/p").run();
    let status = one.circuit("wait /one/p").any_stdout().run().json();
    assert_eq!(
        (&status["Signal"], &status["SignalNumber"]),
        (&"SIG40".into(), &40.into())
    );
}

#[test]
fn a_process_that_waits_for_its_reader_is_seen_whatever_the_size_of_its_writes() {
    let home = Home::new();
    let one = home.start("one");
    let writes = |size: u32, count: u32| {
        let script =
            format!("dd if=/dev/zero status=none bs={size} count={count}; exec sleep 1000");
        one.make("/one/p", sh(&script));
    };
    let blocked = |status: &Value| status["Blocked"] == "stdout";
    // Of which a page holds one, so that half of the pipe stays empty.
    for size in [1, 700, 2100, 4096, 100_000] {
        writes(size, 40_000 / size.min(4000) + 1);
        one.until("/one/p", blocked);
        let held = one.circuit("stdout /one/p").spawn();
        one.until("/one/p", |status| !blocked(status));
        drop(held);
        one.circuit("signal -group KILL /one/p").run();
        one.circuit("scrub /one/p").run();
    }
    writes(20_000, 1);
    one.until("/one/p", |status| status["Stdout"]["Held"] == 20_000);
    assert_eq!(one.peek("/one/p")["Blocked"], Value::Null);
    one.circuit("signal -group KILL /one/p").run();
}

#[test]
fn many_make_one_new_file_for_their_outputs() {
    let home = Home::new();
    let one = home.start("one");
    for round in 0..20 {
        let log = home.file(&format!("{round}.log"));
        let command = |program: &str| {
            json!({"Path": program, "Args": ["-c", "echo said"], "Stdout": log}).to_string()
        };
        let makers: Vec<_> = (0..6)
            .map(|i| {
                // Two of them come to nothing, and take no file along.
                let program = ["sh", "/no/such"][usize::from(i % 3 == 2)];
                let path = format!("/one/{round}/{i}");
                let maker = one
                    .circuit(format!("mkproc {path}"))
                    .stdin(command(program));
                (program, path, maker.spawn())
            })
            .collect();
        for (program, path, maker) in makers {
            let made = maker.finish();
            assert_eq!(made.status.success(), program == "sh", "{made}");
            if made.status.success() {
                wait(&one, &path);
            }
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "said\n".repeat(4));
    }
}

#[test]
fn the_common_command_needs_no_json() {
    let home = Home::new();
    let one = home.start("one");
    let made = one
        .circuit("mkproc /one/p -- sh -c")
        .arg("echo \"$0\"; exit 4");
    // Nothing ends this stdin: it is not read.
    let making = made.arg("a word").stdin_open().spawn();
    assert!(making.finish().status.success());
    one.circuit("stdout /one/p").stdout("a word\n").run();
    let status = wait(&one, "/one/p");
    assert_eq!(status["Code"], 4);
    assert_eq!(status["Cmd"]["Path"], "sh");
    one.circuit("mkproc -scrub /one/q -- sleep 1000").run();
    assert_eq!(one.peek("/one/q")["Cmd"]["Scrub"], true);
}

#[test]
fn a_signal_to_the_tree_reaches_those_who_have_left_their_parents() {
    let home = Home::new();
    let one = home.start("one");
    let here = home.path().display();
    // The one forks twice, the other begins a session; both lose their parent.
    let script = format!(
        "cd {here}; (setsid sh -c 'echo $$ > session; exec sleep 1000' &); \
         (sh -c '(sh -c \"echo \\$\\$ > double; exec sleep 1000\" &)' &); \
         echo $$ > main; exec sleep 1000"
    );
    one.make("/one/p", sh(&script));
    let all = ["main", "session", "double"].map(|name| {
        eventually(name, || {
            fs::read_to_string(home.file(name))
                .ok()?
                .trim()
                .parse()
                .ok()
        })
    });
    one.circuit("signal TERM /one/p").run();
    eventually("the main one has gone", || (!lives(all[0])).then_some(()));
    assert!(lives(all[1]) && lives(all[2]));
    one.circuit("signal -tree TERM /one/p").run();
    eventually("all have gone", || {
        (!lives(all[1]) && !lives(all[2])).then_some(())
    });
}
