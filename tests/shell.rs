//! The command line as a shell's user and scripts meet it: exit statuses, names, hints, terminals.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Home, Terminal, sh, who};

#[test]
fn run_exits_as_a_shell_does_if_there_is_no_such_program() {
    let home = Home::new();
    let one = home.start("one");
    home.write("text", "not a program\n");
    let text = home.file("text").display().to_string();
    let check = |line: &str, status: i32| {
        one.circuit(line).status(status).any_stderr().run();
    };
    check("run one -- /no/such", 127);
    check("run one -- no-such-program", 127);
    check(&format!("run one -- {text}"), 126);
    check("run one -- /tmp", 126);
    check("run two -- true", 255);
    one.make("/one/taken", r#"{"Path": "cat"}"#);
    check("run one/taken -- true", 255);
    let mut lost = home.start("lost");
    let run = lost
        .circuit("run lost -- sh -c")
        .arg("echo ready; exec cat")
        .stdin_open()
        .spawn();
    run.prints("ready\n");
    lost.kill();
    assert_eq!(run.finish().status.code(), Some(255));
}

#[test]
fn wait_and_waitall_exit_as_the_processes_did_if_asked_to() {
    let home = Home::new();
    let one = home.start("one");
    for (name, script) in [
        ("ok", "exit 0"),
        ("bad", "exit 3"),
        ("killed", "kill -TERM $$"),
    ] {
        one.make(&format!("/one/{name}"), sh(script));
    }
    let check = |line: &str, stdin: &str, status: i32| {
        one.circuit(line)
            .stdin(stdin)
            .status(status)
            .any_stdout()
            .run();
    };
    check("wait /one/bad", "", 0);
    check("wait -status /one/ok", "", 0);
    check("wait -status /one/bad", "", 3);
    check("wait -status /one/killed", "", 128 + 15);
    check("waitall", "/one/ok\n/one/bad\n", 0);
    check("waitall -status", "/one/ok\n", 0);
    check("waitall -status", "/one/ok\n/one/bad\n/one/ok\n", 3);
    check("waitall -status", "/one/killed\n", 128 + 15);
    // The first that failed, whatever its place in the list.
    one.make("/one/late", sh("read line; exit 4"));
    let both = one
        .circuit("waitall -status")
        .stdin("/one/late\n/one/bad\n")
        .spawn();
    both.shows("/one/bad\texit status 3\n");
    one.circuit("stdin /one/late").stdin("\n").run();
    assert_eq!(both.finish().status.code(), Some(3));
}

#[test]
fn a_servers_name_needs_no_slash() {
    let home = Home::new();
    let mut one = home.start("one");
    let id = one.id();
    one.make("one/a", sh("cat; exit 3"));
    for line in ["ls one", "ls one/", "ls one/..."] {
        one.circuit(line).stdout("/one/a\n").run();
    }
    one.circuit(format!("ls {id}"))
        .stdout(format!("/{id}/a\n"))
        .run();
    one.circuit("ls ...")
        .stdout(format!("/{id}\n/{id}/a\n"))
        .run();
    one.circuit("peek one/nothing").stdout("null\n").run();
    one.circuit("stdin one/a").stdin("x\n").run();
    one.circuit("stdout one/a").stdout("x\n").run();
    one.circuit("waitall")
        .stdin("one/a\n")
        .stdout("/one/a\texit status 3\n")
        .run();
    one.circuit("scrub one/a").run();
    one.circuit("mkchan one/c 0").run();
    one.circuit("close one/c").run();
    one.circuit("mk@join one/j").run();
    one.circuit("recv one/j").stdout(format!("/{id}")).run();
    one.circuit("stk one").any_stdout().run();
    one.circuit("peek one").any_stdout().run();
    one.circuit("suicide one").run();
    assert_eq!(one.exit_status().code(), Some(0));
}

#[test]
fn an_interactive_run_brings_the_terminals_name_the_language_and_the_size() {
    let home = Home::new();
    let one = home.start("one");
    let terminal = Terminal::new(33, 77);
    let script = "echo [$TERM,$COLORTERM,$LANG,$LC_TIME,$SECRET,${HOME:+home}]; stty size";
    let run = one
        .circuit("run -i one -- sh -c")
        .arg(script)
        .env("TERM", "vt52")
        .env("COLORTERM", "truecolor")
        .env("LANG", "de_DE.UTF-8")
        .env("LC_TIME", "C")
        .env("SECRET", "kept")
        .spawn_on(&terminal);
    run.shows("[vt52,truecolor,de_DE.UTF-8,C,,home]\r\n33 77\r\n");
    assert_eq!(run.finish().status.code(), Some(0));
    // Without a terminal the environment is the server's.
    one.circuit("run one -- sh -c")
        .arg("echo [$COLORTERM]")
        .env("COLORTERM", "truecolor")
        .stdout("[]\n")
        .run();
}

#[test]
fn run_reads_nothing_with_n() {
    let home = Home::new();
    let one = home.start("one");
    let mut run = one.circuit("run -n one -- cat").stdin_open().spawn();
    assert_eq!(run.exit_status().code(), Some(0));
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"kept\n").unwrap();
    drop(writer);
    let null = Stdio::null;
    let run =
        one.circuit("run -n one -- cat")
            .spawn_with(reader.try_clone().unwrap(), null(), null());
    assert_eq!(run.finish().status.code(), Some(0));
    let mut left = String::new();
    reader.read_to_string(&mut left).unwrap();
    assert_eq!(left, "kept\n", "it is the next command's");
    one.circuit("run -n -i one -- true")
        .status(2)
        .any_stderr()
        .run();
}

#[test]
fn listings_for_programs_are_json() {
    let home = Home::new();
    let one = home.start("one");
    let id = one.id();
    one.make("/one/a/b", sh("exit 3"));
    let servers = one.circuit("ls -json").any_stdout().run().json();
    assert_eq!(
        servers,
        serde_json::json!([{
            "Path": format!("/{id}"), "Kind": "server", "Name": "one",
            "Url": one.url().to_string(), "State": "alive",
        }])
    );
    let below = one.circuit("ls -json one/...").any_stdout().run().json();
    assert_eq!(
        below,
        serde_json::json!([{"Path": "/one/a", "Kind": null}, {"Path": "/one/a/b", "Kind": "proc"}])
    );
    let nothing = one
        .circuit("ls -json one/nothing")
        .any_stdout()
        .run()
        .json();
    assert_eq!(nothing, serde_json::json!([]));
    // A line appears for each process as it exits.
    let waited = one
        .circuit("waitall -json")
        .stdin("/one/a/b\n")
        .any_stdout()
        .run();
    assert_eq!(waited.stdout().lines().count(), 1);
    assert_eq!(
        waited.json(),
        serde_json::json!({"Path": "/one/a/b", "Exit": "exit status 3", "Status": 3})
    );
}

#[test]
fn ls_can_show_servers_by_name() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/a", sh("exit 0"));
    one.circuit("ls -names").stdout("/one\n").run();
    one.circuit("ls -names /...").stdout("/one\n/one/a\n").run();
    one.circuit(format!("ls -names /{}", one.id()))
        .stdout("/one/a\n")
        .run();
}

#[test]
fn peek_tells_scripts_that_there_is_nothing() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("peek /one/a").stdout("null\n").run();
    one.circuit("peek -e /one/a")
        .stdout("null\n")
        .status(1)
        .run();
    one.circuit("peek -e /one").any_stdout().run();
}

#[test]
fn what_people_try_has_a_hint() {
    let home = Home::new();
    let check = |line: &str, hint: &str| {
        let output = home.circuit(line).status(2).any_stderr().run();
        let said = output.stderr();
        assert!(
            said.contains(&format!("\nhint: {hint}\n")),
            "{line}: {said}"
        );
        assert_eq!(said.lines().count(), 2, "{line}: {said}");
    };
    check(
        "exec one ls",
        "`circuit run SERVER -- COMMAND` executes a command",
    );
    check("ps", "`circuit ls -l /...` lists all processes");
    check("top", "`circuit ls -l /...` lists all processes");
    check("kill /one/a", "`circuit signal TERM PATH` sends a signal");
    check(
        "stop /one/a",
        "`circuit signal TERM PATH` ends a process, `circuit down PATH` a service, `circuit \
         suicide SERVER` a server",
    );
    check("rm /one/a", "`circuit scrub PATH` removes an element");
    check(
        "cp a b",
        "`circuit run SERVER -- sh -c 'cat > FILE' < FILE` copies a file",
    );
    for line in ["info", "inspect /one/a", "status"] {
        check(
            line,
            "`circuit peek PATH` prints the status of an element, `circuit peek SERVER` that of a \
             server",
        );
    }
    check("version", "`circuit -version` prints it");
    check("ls -lh", "flags of one letter are written one by one");
    check(
        "ls -d 127.0.0.1:7777",
        "write it as circuit://127.0.0.1:7777",
    );
    check(
        "signal /one/a TERM",
        "the signal comes first: circuit signal SIGNAL PATH",
    );
    check("ls -discoverr x", "a similar argument exists: '-discover'");
    let output = home.circuit("ls -d").status(2).any_stderr().run();
    assert_eq!(
        output.stderr(),
        "circuit: a value is required for '-d <URL>' but none was supplied\n"
    );
}

#[test]
fn the_address_in_the_environment_is_named() {
    let home = Home::new();
    home.circuit("ls")
        .env("CIRCUIT", "circuit://127.0.0.1:7777")
        .status(255)
        .stderr(
            "circuit: ls: cannot read the file circuit://127.0.0.1:7777 that CIRCUIT names: no such \
             file or directory\n\
             hint: CIRCUIT names a file that holds a URL; use -d circuit://127.0.0.1:7777\n",
        )
        .run();
    let mut gone = home.start("gone");
    let url = gone.url().to_string();
    gone.stop();
    let file = home.write("stale", &url);
    let output = home
        .circuit("ls")
        .env("CIRCUIT", &file)
        .status(255)
        .any_stderr()
        .run();
    let from = format!(
        "hint: the address is from the file {} that CIRCUIT names\n",
        file.display()
    );
    assert!(output.stderr().ends_with(&from), "{}", output.stderr());
    home.circuit("ls")
        .env("CIRCUIT_DISCOVER", "239.1.2.3:9")
        .status(255)
        .stderr(
            "circuit: ls: no server answered on the multicast group 239.1.2.3:9\n\
             hint: the address is from CIRCUIT_DISCOVER\n",
        )
        .run();
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_url_or_key() {
    let home = Home::new();
    let one = home.start("one");
    let url = home.write("url", &format!("\u{feff}{}\r\n", one.url()));
    home.circuit("ls")
        .env("CIRCUIT", url)
        .stdout(format!("/{}\n", one.id()))
        .run();
    home.circuit("keygen plain").run();
    let key = fs::read_to_string(home.file("plain")).unwrap();
    let marked = home.write("marked", &format!("\u{feff}{key}"));
    rustix::fs::chmod(&marked, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let plain = home.file("plain").display().to_string();
    let closed = home
        .circuit(format!("start -a 127.0.0.1:0 -name closed -hmac {plain}"))
        .serve();
    home.circuit(format!("ls -d {} -hmac {}", closed.url(), marked.display()))
        .stdout(format!("/{}\n", closed.id()))
        .run();
}

#[test]
fn a_hangup_ends_a_reader_in_order() {
    let home = Home::new();
    let one = home.start("one");
    one.make(
        "/one/p",
        sh("echo first; read line; echo second; read line"),
    );
    // The tests themselves may run below nohup(1).
    let heard = r#"exec env --default-signal=HUP "$0" "$@""#;
    let command = |line: &str| home.circuit_under(heard, &format!("{line} -d {}", one.url()));
    let reader = command("stdout /one/p").spawn();
    reader.shows("first\n");
    reader.signal(Signal::HUP);
    assert_eq!(reader.finish().status.code(), Some(128 + 1));
    one.circuit("stdin /one/p").stdin("\n").run();
    one.circuit("stdout /one/p").stdout("second\n").run();
    one.circuit("mkchan /one/c 0").run();
    let recv = command("recv /one/c").spawn();
    one.is_executing(&["recv"]);
    recv.signal(Signal::HUP);
    assert_eq!(recv.finish().status.code(), Some(128 + 1));
}

#[test]
fn a_run_in_the_background_leaves_the_terminal_to_the_shell() {
    let home = Home::new();
    let one = home.start("one");
    let mut terminal = Terminal::new(24, 80);
    // A shell with job control, whose terminal the run does not have.
    let script = r#"exec setsid --ctty sh -mc '
        "$0" "$@" & echo begun; read line; echo "read $line"; wait; echo "over: $?"; fg; echo gone
    ' "$0" "$@""#;
    let line = format!("run one -d {} -- cat", one.url());
    let shell = home.circuit_under(script, &line).spawn_on(&terminal);
    shell.shows("begun\r\n");
    one.is_executing(&["run"]);
    terminal.types("hello\n");
    shell.shows("read hello\r\n");
    let cat = one.ls("/one/...").join("");
    one.circuit(format!("signal TERM {cat}")).run();
    shell.shows("over: ");
    assert!(shell.stdout().text().contains("over: 0\r\n"));
}

#[test]
fn a_run_that_comes_to_the_foreground_reads_the_terminal() {
    let home = Home::new();
    let one = home.start("one");
    let mut terminal = Terminal::new(24, 80);
    let script = r#"exec setsid --ctty bash -mc '
        "$0" "$@" & read line; echo "read $line"; fg; echo "over: $?"
    ' "$0" "$@""#;
    let line = format!("run one -d {} -- cat", one.url());
    let shell = home.circuit_under(script, &line).spawn_on(&terminal);
    one.is_executing(&["run"]);
    terminal.types("first\n");
    shell.shows("read first\r\n");
    // `fg` prints the command.
    shell.shows("\"$0\" \"$@\"\r\n");
    terminal.types("second\n");
    shell.shows("second\r\nsecond\r\n");
    terminal.types("\u{4}");
    shell.shows("over: 0\r\n");
}

#[test]
fn an_output_that_was_read_already_says_so() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", sh("echo hello"));
    one.circuit("wait /one/p").any_stdout().run();
    one.circuit("stdout /one/p").stdout("hello\n").run();
    let again = one.circuit("stdout /one/p").status(1).any_stderr().run();
    let begins = format!("circuit: stdout /one/p: it was read already: by {}", who());
    let said = again.stderr();
    assert!(
        said.starts_with(&begins) && said.contains(", until 2"),
        "{said}"
    );
    // Nothing is something to be read, too.
    one.circuit("stderr /one/p").run();
    one.circuit("stderr /one/p").status(1).any_stderr().run();
    // One that leaves the rest has not read all.
    one.make("/one/q", sh("echo hello; exec cat"));
    let reader = one.circuit("stdout /one/q").spawn();
    reader.shows("hello\n");
    reader.signal(Signal::INT);
    assert_eq!(reader.finish().status.code(), Some(130));
    one.circuit("stdin /one/q").stdin("bye\n").run();
    one.circuit("stdout /one/q").stdout("bye\n").run();
}

#[test]
fn texts_that_are_not_utf_8_pass_as_they_are() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let home = Home::new();
    let one = home.start("one");
    let odd = OsStr::from_bytes(b"od\xff\xfed");
    let dir = home.file("").join(odd);
    fs::create_dir(&dir).unwrap();
    let program = dir.join(OsStr::from_bytes(b"prog\xff"));
    fs::write(&program, "#!/bin/sh\nprintf '%s|' \"$@\" \"$ODD\"; pwd\n").unwrap();
    rustix::fs::chmod(&program, rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
    // On the command line, with what it prints as its own bytes tell.
    let run = one.circuit("run one -- sh -c");
    let script = r#"printf %s "$1" | od -An -tx1"#;
    run.arg(script)
        .arg("sh")
        .arg(odd)
        .stdout(" 6f 64 ff fe 64\n")
        .run();
    one.circuit("run one --")
        .arg(&program)
        .arg("x")
        .any_stdout()
        .run();
    // In JSON, all of them.
    let base64 = |bytes: &[u8]| {
        let text = circuit_client::OsText::from_bytes(bytes.to_vec());
        serde_json::to_value(text).unwrap()
    };
    assert_eq!(base64(b"x\xff"), serde_json::json!({"Base64": "eP8="}));
    let output = dir.join(OsStr::from_bytes(b"out\xff"));
    let cmd = serde_json::json!({
        "Path": base64(program.as_os_str().as_bytes()),
        "Args": ["plain", base64(odd.as_bytes())],
        "Env": ["A=b", base64(b"ODD=\xff"), "PATH=/usr/bin:/bin"],
        "Dir": base64(dir.as_os_str().as_bytes()),
        "Stdout": base64(output.as_os_str().as_bytes()),
    });
    one.make("/one/odd", cmd.to_string());
    let ended = one.circuit("wait /one/odd").any_stdout().run().json();
    assert_eq!(ended["Exit"], serde_json::Value::Null, "{ended}");
    let mut expected = b"plain|od\xff\xfed|\xff|".to_vec();
    expected.extend_from_slice(dir.as_os_str().as_bytes());
    expected.push(b'\n');
    assert_eq!(fs::read(&output).unwrap(), expected);
    let shown = one.peek("/one/odd")["Cmd"].clone();
    for (field, value) in cmd.as_object().unwrap() {
        assert_eq!(shown[field], *value, "{field}");
    }
    // What peek shows makes the same again.
    fs::remove_file(&output).unwrap();
    one.make("/one/again", shown.to_string());
    one.circuit("wait /one/again").any_stdout().run();
    assert_eq!(fs::read(&output).unwrap(), expected);
    for (wrong, why) in [
        (r#"{"Base64": "?"}"#, "the text of Base64 is not base64"),
        (
            r#"{"Base65": "eA=="}"#,
            r#"an object is not {"Base64": "…"}"#,
        ),
        ("{}", r#"an object is not {"Base64": "…"}"#),
        (
            "3",
            r#"invalid type: integer `3`, expected a string or {"Base64": "…"}"#,
        ),
    ] {
        let made = one
            .circuit("mkproc /one/bad")
            .stdin(format!("{{Path: 'a', Dir: {wrong}}}"));
        let said = made.status(1).any_stderr().run();
        let begins = format!("circuit: mkproc: the field Dir is wrong: {why}");
        assert!(said.stderr().starts_with(&begins), "{said}");
    }
    let command = one.circuit("mkproc /one/bad").stdin(b"{Path: 'a\xff'}");
    command
        .status(1)
        .stderr(
            "circuit: mkproc: the command is not UTF-8 behind byte 9\n\
             hint: write a text that is not UTF-8 as {\"Base64\": \"…\"}\n",
        )
        .run();
    one.circuit("mkproc /one/zero")
        .stdin(r#"{Path: "a", Args: [{base64: "eAB4"}]}"#)
        .status(1)
        .stderr("circuit: mkproc /one/zero: the command holds a zero byte\n")
        .run();
}
