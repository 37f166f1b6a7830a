//! Requests that one server forwards to another give the same results as direct ones.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Home, Server, eventually, eventually_within, sh};

#[test]
fn every_command_reaches_every_server() {
    let home = Home::new();
    let [one, two, three] = home.start_all(["one", "two", "three"]);
    for (via, to) in [
        (&one, "two"),
        (&two, "three"),
        (&three, "one"),
        (&one, "three"),
    ] {
        let path = format!("/{to}/a/p");
        via.make(&path, sh("read x; echo \"out $x\"; echo err >&2; exit 3"));
        via.circuit(format!("mkproc {path}"))
            .stdin(sh(""))
            .status(1)
            .stderr(format!(
                "circuit: mkproc {path}: occupied by a proc\n\
                 hint: `circuit peek` shows what is there, `circuit scrub` removes it\n"
            ))
            .run();
        assert_eq!(via.peek(&path)["Phase"], "running");
        via.circuit(format!("ls /{to}/..."))
            .stdout(format!("/{to}/a\n{path}\n"))
            .run();
        via.circuit(format!("stdin {path}")).stdin("in\n").run();
        via.circuit(format!("stdout {path}"))
            .stdout("out in\n")
            .run();
        via.circuit(format!("stderr {path}")).stdout("err\n").run();
        let status = via
            .circuit(format!("wait {path}"))
            .any_stdout()
            .run()
            .json();
        assert_eq!(status["Exit"], "exit status 3");
        via.circuit(format!("signal TERM {path}"))
            .status(1)
            .stderr(format!("circuit: signal {path}: the process has exited\n"))
            .run();
        via.circuit(format!("scrub {path}")).run();
        via.circuit(format!("wait {path}"))
            .status(1)
            .stderr(format!("circuit: wait {path}: nothing there\n"))
            .run();
        via.circuit(format!("stdin {path}"))
            .status(1)
            .stderr(format!("circuit: stdin {path}: nothing there\n"))
            .run();
        via.circuit(format!("run {to} -- sh -c"))
            .arg("cat; exit 4")
            .stdin("through")
            .stdout("through")
            .status(4)
            .run();
        let stacks = via.circuit(format!("stk /{to}")).any_stdout().run();
        assert!(
            stacks.stdout().starts_with("operations in flight: 1\n"),
            "{stacks}"
        );
    }
}

#[test]
fn waiters_and_readers_learn_of_a_scrub_across_servers() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    one.make("/two/p", r#"{"Path": "cat"}"#);
    let waiter = one.circuit("wait /two/p").spawn();
    let reader = one.circuit("stdout /two/p").spawn();
    two.until("/two/p", |status| status["Stdout"]["Reader"] == true);
    two.logs("what=\"mkproc\"");
    eventually("it waits", || {
        let stacks = two.circuit("stk /two").any_stdout().run();
        stacks.stdout().contains("  wait ").then_some(())
    });
    two.circuit("scrub /two/p").run();
    for (command, running) in [("wait", waiter), ("stdout", reader)] {
        let end = running.finish();
        assert_eq!(
            (end.status.code(), end.stderr()),
            (
                Some(1),
                &*format!("circuit: {command} /two/p: the element was scrubbed\n")
            )
        );
    }
}

#[test]
fn fifty_megabytes_pass_whole_in_both_directions() {
    let home = Home::new();
    let [one, _two] = home.start_all(["one", "two"]);
    let data: Vec<u8> = (0..50_000_000_u32).map(|n| (n % 251) as u8).collect();
    one.make("/two/p", r#"{"Path": "cat"}"#);
    let reader = one.circuit("stdout /two/p").spawn();
    one.circuit("stdin /two/p").stdin(data.clone()).run();
    let read = reader.finish();
    assert_eq!((read.status.code(), read.stderr()), (Some(0), ""));
    assert!(read.stdout == data, "{} bytes", read.stdout.len());
}

/// How many bytes a process has written.
fn written(pid: u64) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_reader_that_does_not_read_slows_the_process_down_to_a_stop() {
    let home = Home::new();
    let [one, _two] = home.start_all(["one", "two"]);
    one.make("/two/p", r#"{"Path": "yes"}"#);
    let pid = one.peek("/two/p")["Pid"].as_u64().unwrap();
    let (mut read, write) = std::io::pipe().unwrap();
    let _reader = one.circuit("stdout /two/p").spawn_into(write);
    let mut first = [0; 2];
    read.read_exact(&mut first).unwrap();
    // It has stopped once it has written nothing for a while.
    let mut last = (written(pid), Instant::now());
    let total = eventually("it stops", || {
        let now = written(pid);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(500)).then_some(now)
    });
    assert!(total < 32 << 20, "{total} bytes are on the way");
    // Others pass all the same, and so does the rest once it is wanted.
    one.circuit("run two -- echo fine").stdout("fine\n").run();
    let mut rest = vec![0; 40 << 20];
    read.read_exact(&mut rest).unwrap();
    assert!(rest.chunks(2).all(|line| line == b"y\n"));
}

#[test]
fn a_server_that_dies_in_the_middle_is_unreachable() {
    let home = Home::new();
    let [one, mut two] = home.start_all(["one", "two"]);
    one.make("/two/p", sh("echo begun; exec cat"));
    let reader = one.circuit("stdout /two/p").spawn();
    let waiter = one.circuit("wait /two/p").spawn();
    let mut writer = one.circuit("stdin /two/p").stdin_open().spawn();
    let run = one
        .circuit("run two -- sh -c")
        .arg("echo begun; exec cat")
        .stdin_open()
        .spawn();
    reader.prints("begun\n");
    run.prints("begun\n");
    writer.write("x");
    reader.prints("begun\nx");
    two.kill();
    let begin = Instant::now();
    let lost = format!(
        "lost the server two at {}: it is no longer in the circuit\n",
        two.address()
    );
    for (command, running) in [("stdout", reader), ("wait", waiter)] {
        let end = running.finish();
        assert_eq!(
            (end.status.code(), end.stderr()),
            (Some(1), &*format!("circuit: {command} /two/p: {lost}"))
        );
    }
    let end = run.finish();
    assert_eq!(end.status.code(), Some(255));
    assert!(end.stderr().ends_with(&lost), "{}", end.stderr());
    // It has nothing to write, and hears of it all the same.
    writer.exit_status();
    let end = writer.finish();
    assert_eq!(
        (end.status.code(), end.stderr()),
        (Some(1), &*format!("circuit: stdin /two/p: {lost}"))
    );
    assert!(
        begin.elapsed() < Duration::from_secs(13),
        "{:?}",
        begin.elapsed()
    );
    Server::see_each_other(&[&one]);
    one.circuit("peek /two/p")
        .status(1)
        .stderr(format!(
            "circuit: peek /two/p: no server is named two: one at {} has lost all its links, and \
             cannot know who is alive\n\
             hint: `circuit ls -l /` lists the servers\n",
            one.address()
        ))
        .run();
}

#[test]
fn a_server_that_leaves_in_the_middle_says_so() {
    let home = Home::new();
    let [one, mut two] = home.start_all(["one", "two"]);
    one.make("/two/p", sh("echo begun; exec cat"));
    let reader = one.circuit("stdout /two/p").spawn();
    reader.prints("begun\n");
    two.stop();
    let end = reader.finish();
    assert_eq!(
        (end.status.code(), end.stderr()),
        (
            Some(1),
            &*format!(
                "circuit: stdout /two/p: lost the server two at {}: it left the circuit\n",
                two.address()
            )
        )
    );
}

/// Two servers, and how the second was started: again, it is the same.
fn with_one_that_comes_back(home: &Home) -> (Server, Server, String) {
    let one = home.start("one");
    let start = format!("start -name two -var two -j {}", one.url());
    let two = home.circuit(&start).serve();
    Server::see_each_other(&[&one, &two]);
    (one, two, start)
}

#[test]
fn a_server_that_comes_back_as_itself_says_that_the_old_streams_are_gone() {
    let home = Home::new();
    let (one, mut two, start) = with_one_that_comes_back(&home);
    one.make("/two/p", sh("echo begun; exec cat"));
    let reader = one.circuit("stdout /two/p").spawn();
    reader.prints("begun\n");
    two.kill();
    let address = two.address();
    let _again = home.circuit(format!("{start} -a {address}")).serve();
    let begin = Instant::now();
    let end = reader.finish();
    assert_eq!(
        (end.status.code(), end.stderr()),
        (
            Some(1),
            &*format!(
                "circuit: stdout /two/p: lost the server two at {address}: it was restarted\n"
            )
        )
    );
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    eventually("the new one is reached", || {
        let output = one
            .circuit("peek /two/p")
            .any_stdout()
            .any_stderr()
            .unchecked();
        (output.stdout() == "null\n").then_some(())
    });
}

/// Waits until a server suspects another.
fn suspects(server: &Server, other: &Server) {
    let line = |line: &String| line.contains(&other.id()) && line.ends_with("  suspected");
    eventually("it is suspected", || {
        server.ls_long("/").iter().any(line).then_some(())
    });
}

#[test]
fn all_who_ask_a_silent_server_at_once_learn_of_it_at_once() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    two.signal(Signal::STOP);
    suspects(&one, &two);
    let asking: Vec<_> = (0..4).map(|_| one.circuit("peek /two").spawn()).collect();
    for asked in asking {
        let end = asked.finish();
        assert_eq!(end.status.code(), Some(1));
        // Not the caller's own deadline of five seconds, which tells nothing.
        assert_eq!(
            end.stderr(),
            format!(
                "circuit: peek /two: cannot reach the server two: no answer from {} within 3 s\n\
                 hint: the circuit suspects that this server has failed\n",
                two.address()
            )
        );
    }
    two.signal(Signal::CONT);
}

#[test]
fn a_listing_names_who_is_silent_and_prints_the_rest() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    one.make("/one/p", r#"{"Path": "cat"}"#);
    two.signal(Signal::STOP);
    suspects(&one, &two);
    let mut expected = [
        format!("/{}\n", one.id()),
        format!("/{}/p\n", one.id()),
        format!("/{}\n", two.id()),
    ];
    expected.sort();
    one.circuit("ls /...")
        .status(1)
        .stdout(expected.concat())
        .stderr(format!(
            "circuit: ls /{} (two): cannot reach the server two: no answer from {} within 3 s (suspected)\n",
            two.id(),
            two.address()
        ))
        .run();
    one.circuit("peek -timeout 0.5 /two")
        .status(1)
        .stderr(
            "circuit: peek /two: no answer within 0.5 s\n\
             hint: the circuit suspects that this server has failed\n",
        )
        .run();
    two.signal(Signal::CONT);
    Server::see_each_other(&[&one, &two]);
    one.circuit("peek /two/p").stdout("null\n").run();
}

#[test]
fn a_client_that_vanishes_frees_its_place_at_the_other_end() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    one.make("/two/p", r#"{"Path": "cat"}"#);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = one.client(&home).await;
        let process = client.walk("/two/p").unwrap().proc();
        let (reader, writer) = (
            process.stdout().await.unwrap(),
            process.stdin().await.unwrap(),
        );
        drop((reader, writer));
        client.close().await;
    });
    two.until("/two/p", |status| {
        status["Stdin"] == json!({"Open": true, "Writer": false})
            && status["Stdout"]["Reader"] == false
    });
    one.circuit("stdin /two/p").stdin("next").run();
    one.circuit("stdout /two/p").stdout("next").run();
}

#[test]
fn a_server_that_came_back_elsewhere_is_reached_there_at_once() {
    let home = Home::new();
    let one = home.start("one");
    let start = format!("start -a 127.0.0.1 -name two -var two -j {}", one.url());
    let mut two = home.circuit(&start).serve();
    Server::see_each_other(&[&one, &two]);
    one.circuit("peek /two/x").stdout("null\n").run();
    two.kill();
    let again = home.circuit(&start).serve();
    assert_ne!(two.address(), again.address());
    let address = again.address().to_string();
    eventually("its new life is in the view", || {
        let listed = one.circuit("ls -l /").any_stdout().run();
        listed.stdout().contains(&address).then_some(())
    });
    one.circuit("peek /two/x").stdout("null\n").run();
}

#[test]
fn a_reader_through_a_restarted_server_keeps_nobody_out() {
    let home = Home::new();
    let (one, mut two, start) = with_one_that_comes_back(&home);
    one.make("/one/p", sh("echo begun; exec cat"));
    let reader = home
        .circuit(format!("stdout -d {} /one/p", two.url()))
        .spawn();
    reader.prints("begun\n");
    // So soon that nobody misses it; and elsewhere, so that nobody says that it is another.
    two.kill();
    let two = home.circuit(format!("{start} -a 127.0.0.2")).serve();
    one.logs(&format!("joined: {} {}", two.id(), two.url()));
    // Far sooner than the ten seconds after which a silent connection is given up.
    eventually_within(Duration::from_secs(4), "the place is free", || {
        (one.peek("/one/p")["Stdout"]["Reader"] == false).then_some(())
    });
}

#[test]
fn a_server_that_is_back_elsewhere_is_not_taken_for_the_one_before() {
    let home = Home::new();
    let (one, mut two, start) = with_one_that_comes_back(&home);
    let path = format!("/{}/p", two.id());
    two.kill();
    // Server one dials an earlier life of the other, which does not answer.
    let before = one
        .circuit(format!("peek {path}"))
        .any_stdout()
        .any_stderr()
        .spawn();
    let two = home.circuit(format!("{start} -a 127.0.0.2")).serve();
    one.logs(&format!("joined: {} {}", two.id(), two.url()));
    one.circuit(format!("peek {path}")).stdout("null\n").run();
    drop(before);
}
