//! The operation log: every operation, in order, and no secret.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Home, Server, eventually, sh, who};

/// The operations in a text log: what, path, outcome.
fn operations(server: &Server) -> Vec<(String, String, String)> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains(" operation: "));
    lines
        .map(|line| {
            let between = |from: &str, to: &str| {
                let (_, rest) = line.split_once(from).unwrap();
                let (found, _) = rest.split_once(to).unwrap();
                found.to_owned()
            };
            let who = who();
            let quote = if who.contains(' ') { "\"" } else { "" };
            let begins = format!("Z  INFO operation: who={quote}{who}");
            assert!(line.contains(&begins), "{line}");
            let micros = line.rsplit_once(" micros=").unwrap().1;
            assert!(micros.parse::<u64>().is_ok(), "{line}");
            (
                between(" what=\"", "\" "),
                between(" path=", " outcome="),
                between(" outcome=", " micros="),
            )
        })
        .collect()
}

fn own(operation: &str, path: &str, outcome: &str) -> (String, String, String) {
    (operation.into(), path.into(), outcome.into())
}

#[test]
fn one_line_per_operation_in_their_order() {
    let home = Home::new();
    let one = home.start("one");
    let id = one.id();
    let path = format!("/{id}/p");
    let run = |line: &str| drop(one.circuit(line).any_stdout().any_stderr().unchecked());
    one.make("/one/p", sh("cat; exit 1"));
    one.circuit("mkproc /one/p")
        .stdin(sh(""))
        .status(1)
        .any_stderr()
        .run();
    run("peek /one/p");
    one.circuit("stdin /one/p").stdin("x").run();
    run("stdout /one/p");
    run("wait /one/p");
    run("signal KILL /one/p");
    run("ls /...");
    run("scrub /one/p");
    run("scrub /one/p");
    run("peek /two/p");
    let expected = [
        own("mkproc", &path, "ok"),
        own("mkproc", &path, "Occupied: occupied by a proc"),
        own("peek", &path, "ok"),
        own("stdin", &path, "ok"),
        own("stdout", &path, "ok"),
        own("wait", &path, "ok"),
        own("signal", &path, "Closed: the process has exited"),
        own("ls", "/", "ok"),
        own("ls", &format!("/{id}"), "ok"),
        own("scrub", &path, "ok"),
        own("scrub", &path, "NoSuchElement: nothing there"),
        own("peek", "/two/p", "NoSuchServer: no server is named two"),
    ];
    eventually("all is logged", || {
        (operations(&one).len() >= expected.len()).then_some(())
    });
    assert_eq!(operations(&one), expected);
}

#[test]
fn no_payload_and_no_argument() {
    let home = Home::new();
    let one = home.circuit("start -name one -log json").serve();
    let secret = "s3cret";
    let command = |path: &str, env: &str| {
        serde_json::json!({"Path": path, "Args": [secret], "Env": [env]}).to_string()
    };
    let run = |line: &str, stdin: &str| {
        drop(
            one.circuit(line)
                .stdin(stdin)
                .any_stdout()
                .any_stderr()
                .unchecked(),
        );
    };
    run("mkproc /one/a", &command("echo", "A=s3cret"));
    run("mkproc /one/b", &command("/no/such", "A=s3cret"));
    run("mkproc /one/c", &command("echo", secret));
    run("mkproc /one/d", r#"{"Path": "cat"}"#);
    run("mkproc /one/e", r#"{"Path": "echo s3cret"}"#);
    run("mkproc /one/f", r#"{"Path": "echo", "Dir": "/s3cret"}"#);
    run(
        "mkproc /one/g",
        r#"{"Path": "echo", "Stdout": "/s3cret/x"}"#,
    );
    run("signal s3cret /one/d", "");
    run("stdin /one/d", secret);
    run("stdout /one/d", "");
    run("stdout /one/a", "");
    run("wait /one/a", "");
    run("peek /one/a", "");
    run("scrub /one/a", "");
    one.logs("\"what\":\"scrub\"");
    assert!(!one.log().contains(secret), "{}", one.log());
    assert!(!one.log().contains(&home.key().to_text()));
}

#[test]
fn the_json_form_has_every_field_in_the_order_that_the_documentation_shows() {
    let home = Home::new();
    let one = home.circuit("start -name one -log json").serve();
    one.circuit("scrub /one/p").status(1).any_stderr().run();
    let line = one.logs("\"operation\"");
    let shown = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md"));
    let shown = shown.unwrap();
    let shown = shown.lines().find(|line| line.starts_with('{')).unwrap();
    let names = |line: &str| -> Vec<String> {
        let fields = line
            .split(['{', ','])
            .filter_map(|field| field.split_once(':'));
        fields.map(|(name, _)| name.to_owned()).collect()
    };
    assert_eq!(names(&line), names(shown));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["target"], "operation");
    assert_eq!(line["what"], "scrub");
    assert_eq!(line["path"], format!("/{}/p", one.id()));
    assert_eq!(line["outcome"], "NoSuchElement: nothing there");
    assert!(line["who"].as_str().unwrap().starts_with(&who()), "{line}");
    assert!(
        line["micros"].is_u64() && line["timestamp"].is_string(),
        "{line}"
    );
}

#[test]
fn a_forwarded_operation_is_logged_where_it_is_executed_with_its_origin() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    one.make("/two/p", sh("exit 0"));
    let line = two.logs("what=\"mkproc\"");
    let via = format!(" via {}\" what=", one.id());
    assert!(
        line.contains(&format!("who=\"{}", who())) && line.contains(&via),
        "{line}"
    );
    assert!(!one.log().contains("mkproc"), "{}", one.log());
    // A server that does not know the name says so itself.
    one.circuit("peek /three").status(1).any_stderr().run();
    one.logs("NoSuchServer: no server is named three");
}

#[test]
fn a_caller_that_goes_away_is_logged() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = one.client(&home).await;
        let reader = client
            .walk("/one/p")
            .unwrap()
            .proc()
            .stdout()
            .await
            .unwrap();
        drop(reader);
        client.close().await;
    });
    let line = one.logs("what=\"stdout\"");
    assert!(
        line.contains("outcome=Aborted: cut off: the caller or this server went away"),
        "{line}"
    );
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_the_server_nor_its_end() {
    let home = Home::new();
    let (unread, stderr) = std::io::pipe().unwrap();
    let mut command = home.clean(Command::new(env!("CARGO_BIN_EXE_circuit")));
    command.args(["start", "-name", "one"]).stderr(stderr);
    let mut server = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut url = String::new();
    let stdout = server.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut url).unwrap();
    // Two of these fill the pipe, which holds 64 KiB.
    let long = format!("/one/{}", ["a"; 60].map(|name| name.repeat(250)).join("/"));
    for _ in 0..8 {
        home.circuit("peek").arg(&long).stdout("null\n").run();
    }
    let pid = Pid::from_child(&server);
    kill_process(pid, Signal::TERM).unwrap();
    let status = eventually("it ends", || server.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    drop(unread);
}

#[test]
fn a_stderr_that_does_not_block_is_waited_for() {
    let home = Home::new();
    let (mut read, write) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&write).unwrap();
    fcntl_setfl(&write, flags | OFlags::NONBLOCK).unwrap();
    let (printed, print) = std::io::pipe().unwrap();
    let server = home.circuit("start -name one");
    let server = server.spawn_with(Stdio::null(), print, write);
    let mut url = String::new();
    BufReader::new(printed).read_line(&mut url).unwrap();
    let long = format!("/one/{}", ["a"; 20].map(|name| name.repeat(250)).join("/"));
    // The pipe holds a dozen lines of them.
    for _ in 0..30 {
        let peek = home
            .circuit(format!("peek -d {}", url.trim_end()))
            .arg(&long);
        peek.stdout("null\n").run();
    }
    server.signal(Signal::TERM);
    let mut log = String::new();
    read.read_to_string(&mut log).unwrap();
    assert_eq!(log.matches(&long["/one".len()..]).count(), 30, "{log}");
    assert!(!log.contains("dropped"), "{log}");
    assert_eq!(server.finish().status.code(), Some(0));
}
