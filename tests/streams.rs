//! `stdin`, `stdout` and `stderr`: live, one at a time, and nothing lost.

use std::task::Poll;

use bytes::Bytes;
use circuit_client::{Cmd, Code};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Home, Server, eventually, sh, who};

/// A process that repeats each line, and ends with its stdin.
const ECHO: &str = "while read line; do echo \"$line\"; done";

fn has_reader(server: &Server, path: &str) {
    server.until(path, |status| status["Stdout"]["Reader"] == true);
}

#[test]
fn output_is_live() {
    let home = Home::new();
    let one = home.start("one");
    one.make(
        "/one/p",
        sh("echo one; echo bad >&2; read x; echo \"two $x\""),
    );
    let stdout = one.circuit("stdout /one/p").spawn();
    let stderr = one.circuit("stderr /one/p").spawn();
    stdout.prints("one\n");
    stderr.prints("bad\n");
    one.circuit("stdin /one/p").stdin("three\n").run();
    assert_eq!(stdout.finish().stdout(), "one\ntwo three\n");
    assert_eq!(stderr.finish().stdout(), "bad\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_reader_goes_on_where_the_last_one_stopped() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", sh(ECHO));
    let client = one.client(&home).await;
    let process = client.walk("/one/p").unwrap().proc();
    let mut stdin = process.stdin().await.unwrap();
    let mut line = [0; 6];
    for text in ["first\n", "again\n"] {
        let mut reader = process.stdout().await.unwrap();
        stdin.write_all(text.as_bytes()).await.unwrap();
        stdin.flush().await.unwrap();
        reader.read_exact(&mut line).await.unwrap();
        assert_eq!(line, text.as_bytes());
        drop(reader);
        has_no_reader(&one).await;
    }
    stdin.write_all(b"third\n").await.unwrap();
    stdin.finish().await.unwrap();
    let mut rest = String::new();
    let mut reader = process.stdout().await.unwrap();
    reader.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "third\n");
}

async fn has_no_reader(server: &Server) {
    tokio::task::block_in_place(|| {
        server.until("/one/p", |status| status["Stdout"]["Reader"] == false)
    });
}

#[test]
fn a_second_reader_is_refused() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let first = one.circuit("stdout /one/p").spawn();
    has_reader(&one, "/one/p");
    one.circuit("stdout /one/p").status(1).any_stderr().run();
    one.circuit("stdin /one/p").stdin("still\n").run();
    assert_eq!(first.finish().stdout(), "still\n");
}

#[test]
fn a_late_reader_misses_nothing_even_after_the_exit() {
    let home = Home::new();
    let one = home.start("one");
    let script = "head -c 20000 /dev/zero | tr '\\0' a; echo err >&2; exit 3";
    one.make("/one/p", sh(script));
    let status = one.circuit("wait /one/p").any_stdout().run().json();
    assert_eq!(
        status["Stdout"],
        json!({"Ended": false, "Reader": false, "Held": 20000})
    );
    one.circuit("stdout /one/p").stdout("a".repeat(20000)).run();
    one.circuit("stderr /one/p").stdout("err\n").run();
    // Read once, it is gone.
    one.circuit("stdout /one/p").status(1).any_stderr().run();
    assert_eq!(
        one.peek("/one/p")["Stdout"],
        json!({"Ended": true, "Reader": false, "Held": 0})
    );
}

#[test]
fn thirty_two_kilobytes_are_held_then_the_process_waits() {
    let home = Home::new();
    let one = home.start("one");
    for (output, redirect) in [("stdout", ""), ("stderr", ">&2")] {
        let path = format!("/one/{output}");
        let field = if output == "stdout" {
            "Stdout"
        } else {
            "Stderr"
        };
        one.make(&path, sh(&format!("head -c 1000000 /dev/zero {redirect}")));
        let status = one.until(&path, |status| status["Blocked"] == output);
        assert_eq!(status["Phase"], "running");
        assert_eq!(status[field]["Held"], 32 << 10);
        let read = one.circuit(format!("{output} {path}")).any_stdout().run();
        assert_eq!(read.stdout.len(), 1_000_000);
        let end = one
            .circuit(format!("wait {path}"))
            .any_stdout()
            .run()
            .json();
        assert_eq!(
            (&end["Exit"], &end["Blocked"]),
            (&json!(null), &json!(null))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_is_fast_enough_to_have_more_held() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let mut makers = tokio::task::JoinSet::new();
    for number in 0..60 {
        let anchor = client.walk(&format!("/one/{number}")).unwrap();
        let cmd = circuit_client::Cmd::new("yes");
        makers.spawn(async move { anchor.make_proc(cmd).await.unwrap() });
    }
    for process in makers.join_all().await {
        let held = loop {
            let status = process.peek().await.unwrap();
            if status.blocked.is_some() {
                break status.stdout.held;
            }
        };
        assert_eq!(held, 32 << 10);
    }
}

#[test]
fn megabytes_pass_whole() {
    let home = Home::new();
    let one = home.start("one");
    let data: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let reader = one.circuit("stdout /one/p").spawn();
    one.circuit("stdin /one/p").stdin(data.clone()).run();
    assert!(reader.finish().stdout == data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_closes_for_good_never_blocks_the_process() {
    let home = Home::new();
    let one = home.start("one");
    one.make(
        "/one/p",
        sh("echo begun; head -c 10000000 /dev/zero; exit 4"),
    );
    let client = one.client(&home).await;
    let process = client.walk("/one/p").unwrap().proc();
    let mut reader = process.stdout().await.unwrap();
    let mut line = [0; 6];
    reader.read_exact(&mut line).await.unwrap();
    reader.close().await.unwrap();
    assert_eq!(process.wait().await.unwrap().code, Some(4));
    // Nothing is left for another.
    let closed = process.stdout().await.unwrap_err();
    assert_eq!(closed.code(), Some(Code::Closed));
}

#[test]
fn a_reader_whose_own_reader_has_gone_leaves_the_process_alone() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", sh("yes | head -c 5000000; echo; echo end"));
    let (read, write) = std::io::pipe().unwrap();
    drop(read);
    let closed = one.circuit("stdout /one/p").spawn_into(write).finish();
    assert_eq!((closed.status.code(), closed.stderr()), (Some(0), ""));
    let rest = eventually("the place is free", || {
        let output = one
            .circuit("stdout /one/p")
            .any_stdout()
            .any_stderr()
            .unchecked();
        output.status.success().then_some(output)
    });
    assert!(rest.stdout().ends_with("\nend\n"));
}

#[test]
fn the_end_of_stdin_closes_the_processs_stdin() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "wc", "Args": ["-c"]}"#);
    one.circuit("stdin /one/p").stdin("x".repeat(300_000)).run();
    one.circuit("stdout /one/p").stdout("300000\n").run();
    // As in the reference, there is no stdin, and so no wait.
    one.make("/one/q", r#"{"Path": "cat"}"#);
    one.circuit("stdin /one/q").run();
    let status = one.circuit("wait /one/q").any_stdout().run().json();
    assert_eq!(
        (&status["Exit"], &status["Stdin"]["Open"]),
        (&json!(null), &json!(false))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_disappears_closes_nothing() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let client = one.client(&home).await;
    let process = client.walk("/one/p").unwrap().proc();
    let mut reader = process.stdout().await.unwrap();
    let mut text = [0; 5];
    for _ in 0..2 {
        let mut writer = process.stdin().await.unwrap();
        writer.write_all(b"half-").await.unwrap();
        writer.flush().await.unwrap();
        reader.read_exact(&mut text).await.unwrap();
        drop(writer);
        tokio::task::block_in_place(|| {
            one.until("/one/p", |status| {
                status["Stdin"] == json!({"Open": true, "Writer": false})
            })
        });
    }
    // The whole connection is cut, not only the stream.
    let writer = one
        .client(&home)
        .await
        .walk("/one/p")
        .unwrap()
        .proc()
        .stdin()
        .await;
    drop(writer);
    tokio::task::block_in_place(|| {
        one.until("/one/p", |status| status["Stdin"]["Writer"] == false)
    });
    process.stdin().await.unwrap().finish().await.unwrap();
    assert_eq!(process.wait().await.unwrap().code, Some(0));
}

#[test]
fn a_second_writer_is_refused() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let mut first = one.circuit("stdin /one/p").stdin_open().spawn();
    first.write("one ");
    one.until("/one/p", |status| status["Stdin"]["Writer"] == true);
    let second = one.circuit("stdin /one/p").stdin("two ");
    let second = second.status(1).any_stderr().run();
    let begins = format!(
        "circuit: stdin /one/p: somebody else is writing to it: {}",
        who()
    );
    let said = second.stderr();
    assert!(
        said.starts_with(&begins) && said.contains(", since 2"),
        "{said}"
    );
    first.write("three");
    first.close_stdin();
    assert!(first.finish().status.success());
    one.circuit("stdout /one/p").stdout("one three").run();
}

#[test]
fn bytes_for_a_process_that_does_not_read_are_an_error_and_none_are_not() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/gone", sh("exit 0"));
    one.circuit("wait /one/gone").any_stdout().run();
    one.make("/one/deaf", sh("exec 0<&-; echo deaf; exec cat /dev/zero"));
    let deaf = one.circuit("stdout /one/deaf").spawn();
    deaf.shows("deaf");
    for path in ["/one/gone", "/one/deaf"] {
        one.circuit(format!("stdin {path}")).run();
        one.circuit(format!("stdin {path}"))
            .stdin("bytes")
            .status(1)
            .stderr(format!(
                "circuit: stdin {path}: the process does not read its stdin any more\n"
            ))
            .run();
    }
    one.circuit("signal KILL /one/deaf").run();
}

#[test]
fn a_writer_learns_of_the_exit_in_the_middle() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", sh("head -c 1 >/dev/null; exit 0"));
    one.circuit("stdin /one/p")
        .stdin(vec![b'x'; 5_000_000])
        .status(1)
        .stderr("circuit: stdin /one/p: the process does not read its stdin any more\n")
        .run();
}

#[test]
fn scrub_ends_readers_and_writers_with_an_error() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let reader = one.circuit("stdout /one/p").spawn();
    let mut writer = one.circuit("stdin /one/p").stdin_open().spawn();
    has_reader(&one, "/one/p");
    one.until("/one/p", |status| status["Stdin"]["Writer"] == true);
    one.circuit("scrub /one/p").run();
    let reader = reader.finish();
    assert_eq!(
        (reader.status.code(), reader.stderr()),
        (
            Some(1),
            "circuit: stdout /one/p: the element was scrubbed\n"
        )
    );
    // It has nothing to write, and hears of it all the same.
    writer.exit_status();
    let writer = writer.finish();
    assert_eq!(
        (writer.status.code(), writer.stderr()),
        (Some(1), "circuit: stdin /one/p: the element was scrubbed\n")
    );
}

#[test]
fn a_server_that_stops_ends_streams_with_an_error() {
    let home = Home::new();
    let mut one = home.start("one");
    one.make("/one/p", sh("echo begun; exec cat"));
    let reader = one.circuit("stdout /one/p").spawn();
    reader.prints("begun\n");
    one.stop();
    let end = reader.finish();
    assert_eq!(
        (end.status.code(), end.stderr()),
        (
            Some(1),
            &*format!(
                "circuit: stdout /one/p: the server that was dialled, one at {}, left the circuit\n",
                one.address()
            )
        )
    );
}

#[test]
fn a_writer_is_not_held_up_by_what_outlives_the_process() {
    let home = Home::new();
    let one = home.start("one");
    // A child of the process keeps its stdin open, and never reads it.
    one.make("/one/p", sh("sleep 20 <&0 & exec sleep 0.5"));
    one.circuit("stdin /one/p")
        .stdin(vec![b'x'; 1 << 20])
        .status(1)
        .stderr("circuit: stdin /one/p: the process does not read its stdin any more\n")
        .run();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_has_ended_may_be_closed() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", sh("echo all"));
    let client = one.client(&home).await;
    let process = client.walk("/one/p").unwrap().proc();
    let mut reader = process.stdout().await.unwrap();
    while reader.chunk().await.unwrap().is_some() {}
    // The server has let go of the stream, as another request has been answered since.
    has_no_reader(&one).await;
    process.peek().await.unwrap();
    reader.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_whose_sending_is_given_up_and_tried_again_are_sent_once() {
    let home = Home::new();
    let one = tokio::task::block_in_place(|| home.start("one"));
    let go = home.file("go");
    // It reads nothing until it is told to, so that the writer comes to wait.
    let script = format!("until [ -e {} ]; do sleep 0.01; done; wc -c", go.display());
    let anchor = one.client(&home).await.walk("/one/p").unwrap();
    let cmd = Cmd {
        args: vec!["-c".into(), script.into()],
        ..Cmd::new("sh")
    };
    let process = anchor.make_proc(cmd).await.unwrap();
    let mut writer = process.stdin().await.unwrap();
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    let mut sent = 0;
    loop {
        let mut sending = std::pin::pin!(writer.send(piece.clone()));
        let polled = std::future::poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx)));
        match polled.await {
            Poll::Ready(taken) => taken.unwrap(),
            // It is dropped here.
            Poll::Pending => break,
        }
        sent += piece.len();
    }
    std::fs::write(&go, "").unwrap();
    writer.send(piece.clone()).await.unwrap();
    sent += piece.len();
    writer.finish().await.unwrap();
    let mut count = String::new();
    let mut stdout = process.stdout().await.unwrap();
    stdout.read_to_string(&mut count).await.unwrap();
    assert_eq!(count.trim(), sent.to_string());
}
