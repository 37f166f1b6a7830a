//! Standard input, output and error that another program left non-blocking: they are waited for.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::process::Stdio;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::support::{Home, sh};

/// Sets the flag that another program left behind.
fn make_non_blocking(descriptor: impl AsFd) {
    let flags = fcntl_getfl(&descriptor).unwrap();
    fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK).unwrap();
}

fn is_non_blocking(descriptor: impl AsFd) -> bool {
    fcntl_getfl(&descriptor).unwrap().contains(OFlags::NONBLOCK)
}

/// A pipe whose writer's end does not block. Its reader does not read before the pipe is full.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    make_non_blocking(&writer);
    (reader, writer)
}

/// Waits until no byte fits the pipe, which its writer shares with the test.
fn until_full(writer: &PipeWriter) {
    use rustix::event::{PollFd, PollFlags, poll};
    let full = || {
        let mut polled = [PollFd::new(writer, PollFlags::OUT)];
        poll(&mut polled, Some(&rustix::time::Timespec::default())).unwrap();
        (!polled[0].revents().contains(PollFlags::OUT)).then_some(())
    };
    crate::support::eventually("a full pipe", full);
}

#[test]
fn a_stdout_that_does_not_block_is_waited_for() {
    let home = Home::new();
    let one = home.start("one");
    let numbers: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    one.circuit("mkchan /one/c 1").run();
    for line in ["run one -- seq 200000", "stdout /one/p", "recv /one/c"] {
        if line == "stdout /one/p" {
            one.make("/one/p", sh("seq 200000"));
        }
        let send = (line == "recv /one/c")
            .then(|| one.circuit("send /one/c").stdin(numbers.clone()).spawn());
        let (mut reader, writer) = full_pipe();
        let running = one.circuit(line).spawn_into(writer.try_clone().unwrap());
        until_full(&writer);
        assert!(is_non_blocking(&writer), "the flag is others' too");
        drop(writer);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        let end = running.finish();
        assert_eq!((end.status.code(), end.stderr()), (Some(0), ""), "{line}");
        assert!(read == numbers, "{line}: {} bytes", read.len());
        if let Some(send) = send {
            assert_eq!(send.finish().status.code(), Some(0));
        }
    }
}

#[test]
fn a_listing_into_a_pipe_that_is_full_and_does_not_block_is_waited_for() {
    let home = Home::new();
    let one = home.start("one");
    for line in ["ls /", "peek /one", "help", "completions bash", "stk /one"] {
        let (mut reader, mut writer) = full_pipe();
        let filled = [b'x'; 4096];
        let mut before = 0;
        while let Ok(count) = writer.write(&filled) {
            before += count;
        }
        let command = match line {
            "help" | "completions bash" => home.circuit(line),
            _ => one.circuit(line),
        };
        let mut running = command.spawn_into(writer);
        // The command that does not wait has ended by then; the one that waits passes at any time.
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(running.is_running(), "{line}: did not wait");
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        let end = running.finish();
        assert_eq!((end.status.code(), end.stderr()), (Some(0), ""), "{line}");
        assert!(read.len() > before, "{line}");
    }
}

#[test]
fn a_stderr_that_does_not_block_is_waited_for() {
    let home = Home::new();
    let one = home.start("one");
    let (mut reader, writer) = full_pipe();
    let run = one
        .circuit("run one -- sh -c")
        .arg("seq 200000 >&2")
        .spawn_with(Stdio::null(), Stdio::null(), writer.try_clone().unwrap());
    until_full(&writer);
    drop(writer);
    let mut read = String::new();
    reader.read_to_string(&mut read).unwrap();
    assert_eq!(run.finish().status.code(), Some(0));
    assert!(read.ends_with("\n199999\n200000\n"));
}

#[test]
fn a_stdin_that_does_not_block_is_waited_for() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("mkchan /one/c 1").run();
    one.circuit("mkchan /one/d 1").run();
    one.make("/one/cat", r#"{"Path": "cat"}"#);
    one.make("/one/done", r#"{"Path": "true"}"#);
    for (line, text) in [
        ("run one -- cat", "hello\n"),
        ("stdin /one/cat", "hello\n"),
        ("send /one/c", "hello\n"),
        ("send -lines /one/d", "hello\n"),
        ("waitall", "/one/done\n"),
        ("mkproc /one/p", r#"{"Path": "true"}"#),
    ] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        make_non_blocking(&reader);
        let mut running =
            one.circuit(line)
                .spawn_with(reader.try_clone().unwrap(), Stdio::null(), Stdio::null());
        // The command that does not wait has ended by then; the one that waits passes at any time.
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(running.is_running(), "{line}: did not wait");
        assert!(is_non_blocking(&reader), "the flag is others' too");
        writer.write_all(text.as_bytes()).unwrap();
        drop((reader, writer));
        assert_eq!(running.finish().status.code(), Some(0), "{line}");
    }
    one.circuit("recv /one/c").stdout("hello\n").run();
    one.circuit("recv -lines /one/d").stdout("hello\n").run();
    one.circuit("stdout /one/cat").stdout("hello\n").run();
}
