//! A reader that is interrupted prints the data that it was handed, and the next reader continues
//! behind that.

use rustix::process::Signal;

use crate::support::{DEADLINE, Home, Running, Server, sh};

fn shows_anything(reader: &Running) {
    let anything = |shown: &str| (!shown.is_empty()).then_some(());
    let begun = reader.stdout().wait_for(DEADLINE, anything);
    assert!(begun.is_some(), "nothing is printed");
}

/// Reads numbered lines, without end, with readers that are interrupted one after the other, and
/// checks that together they printed each line once, and in order.
fn every_byte_is_printed_once(owner: &Server, asked: &Server, output: &str, script: &str) {
    let path = format!("/one/{output}");
    owner.make(&path, sh(script));
    let mut printed = Vec::new();
    for signal in [Signal::INT, Signal::TERM].repeat(8) {
        let reader = asked.circuit(format!("{output} {path}")).spawn();
        shows_anything(&reader);
        reader.signal(signal);
        let end = reader.finish();
        assert_eq!(
            (end.status.code(), end.stderr()),
            (Some(128 + signal.as_raw()), "")
        );
        printed.extend_from_slice(&end.stdout);
    }
    owner.circuit(format!("signal PIPE {path}")).run();
    let last = asked.circuit(format!("{output} {path}")).any_stdout().run();
    printed.extend_from_slice(&last.stdout);
    let mut lines = printed.split(|byte| *byte == b'\n').zip(1_u64..).peekable();
    while let Some((line, number)) = lines.next() {
        // The last may have been cut by the signal.
        let is_last = lines.peek().is_none();
        assert!(
            line == number.to_string().as_bytes() || is_last,
            "{output}: line {number} is {:?}",
            String::from_utf8_lossy(line)
        );
    }
}

#[test]
fn an_interrupted_reader_takes_nothing_along() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    for asked in [&one, &two] {
        every_byte_is_printed_once(&one, asked, "stdout", "exec seq 1 inf");
        every_byte_is_printed_once(&one, asked, "stderr", "exec seq 1 inf >&2");
        one.circuit("scrub /one/stdout").run();
        one.circuit("scrub /one/stderr").run();
    }
}

#[test]
fn an_interrupted_receiver_tells_the_channel_what_it_has_printed() {
    const LINES: usize = 50_000;
    let home = Home::new();
    let one = home.start("one");
    one.circuit(format!("mkchan /one/c {LINES}")).run();
    let lines: String = (0..LINES).map(|number| format!("{number}\n")).collect();
    one.circuit("send -lines /one/c").stdin(lines.clone()).run();
    let (mut printed, mut interrupted) = (String::new(), 0);
    while printed.len() < lines.len() {
        let receiver = one.circuit("recv -follow -lines /one/c").spawn();
        shows_anything(&receiver);
        receiver.signal(Signal::INT);
        let end = receiver.finish();
        assert_eq!((end.status.code(), end.stderr()), (Some(130), ""));
        printed.push_str(end.stdout());
        interrupted += 1;
    }
    assert!(interrupted > 2, "{interrupted}");
    assert!(printed == lines);
}

#[test]
fn an_interrupted_reader_that_cannot_print_gives_up() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", sh("exec yes"));
    let (_unread, write) = std::io::pipe().unwrap();
    let blocked = |options: &str| {
        let line = format!("stdout {options} /one/p");
        let reader = one.circuit(line).spawn_into(write.try_clone().unwrap());
        one.until("/one/p", |status| {
            status["Stdout"]["Reader"] == true && status["Blocked"] == "stdout"
        });
        reader
    };
    let reader = blocked("-timeout 0.5");
    reader.signal(Signal::INT);
    let end = reader.finish();
    let said = "circuit: stdout: interrupted, and what had come was not written in 0.5 s\n";
    assert_eq!((end.status.code(), end.stderr()), (Some(130), said));
    one.until("/one/p", |status| status["Stdout"]["Reader"] == false);
    // Two signals of a kind that come at once are one.
    let reader = blocked("-timeout 60");
    reader.signal(Signal::INT);
    reader.signal(Signal::TERM);
    let end = reader.finish();
    assert!(matches!(end.status.code(), Some(130 | 143)), "{end}");
    assert_eq!(end.stderr(), "");
}
