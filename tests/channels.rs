//! Channels: the commands `mkchan`, `send`, `recv` and `close`, and in which order they wait for
//! each other. [`losses`] has clients that go away.
//!
//! A test sees in the channel's status that a command waits, and never guesses it from the time
//! that passes.

pub(crate) mod check;
mod clients;
pub(crate) mod history;
mod killed;
mod losses;
mod many;
mod model;
pub(crate) mod random;
mod soak;
mod waits;

use serde_json::{Value, json};

use crate::support::{Home, Running, Server};

/// A status, with the counters that matter to a test and zero for the rest.
fn status(capacity: u64, counters: Value) -> Value {
    let mut status = json!({
        "Cap": capacity, "Closed": false, "Aborted": false, "NumSend": 0, "NumRecv": 0, "Held": 0,
        "Senders": 0, "Receivers": 0,
    });
    for (name, value) in counters.as_object().unwrap() {
        status[name] = value.clone();
    }
    status
}

/// Waits until a counter of the channel is as it should be.
fn until(server: &Server, path: &str, counter: &str, count: u64) {
    server.until(path, |status| status[counter] == count);
}

/// A sender, once it waits at the channel as the last of so many.
fn waiting_sender(server: &Server, path: &str, message: &str, senders: u64) -> Running {
    let sender = server.circuit(format!("send {path}")).stdin(message);
    let sender = sender.spawn();
    until(server, path, "Senders", senders);
    sender
}

/// A receiver, once it waits at the channel as the last of so many.
fn waiting_receiver(server: &Server, path: &str, receivers: u64) -> Running {
    let receiver = server.circuit(format!("recv {path}")).spawn();
    until(server, path, "Receivers", receivers);
    receiver
}

fn succeeds(running: Running) -> String {
    let output = running.finish();
    assert!(
        output.status.success() && output.stderr().is_empty(),
        "{output}"
    );
    output.stdout().to_owned()
}

/// Checks that a command fails with these words.
fn fails(running: Running, stderr: &str) {
    let output = running.finish();
    assert_eq!(
        (output.status.code(), output.stderr()),
        (Some(1), stderr),
        "{output}"
    );
}

/// Runs a test against the server that hosts the channels, and through another one.
fn here_and_through_another(test: impl Fn(&Server)) {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    for through in [&one, &two] {
        test(through);
        let left = one.circuit("ls /one/...").any_stdout().run();
        for path in left.stdout().lines() {
            one.circuit(format!("scrub {path}"))
                .any_stderr()
                .unchecked();
        }
    }
}

#[test]
fn a_message_is_made_sent_seen_and_received_as_in_the_reference() {
    here_and_through_another(|server| {
        let path = "/one/this/is/charlie";
        server.circuit(format!("mkchan {path} 3")).run();
        let peek = |sent: u64, received: u64, held: u64| {
            let expected = format!(
                "{{\n\t\"Cap\": 3,\n\t\"Closed\": false,\n\t\"Aborted\": false,\n\t\
                 \"NumSend\": {sent},\n\t\"NumRecv\": {received},\n\t\"Held\": {held},\n\t\
                 \"Senders\": 0,\n\t\"Receivers\": 0\n}}\n"
            );
            server
                .circuit(format!("peek {path}"))
                .stdout(expected)
                .run();
        };
        peek(0, 0, 0);
        server
            .circuit(format!("send {path}"))
            .stdin("hello\n")
            .run();
        peek(1, 0, 1);
        let receive = || server.circuit(format!("recv {path}"));
        receive().stdout("hello\n").run();
        peek(1, 1, 0);
        server.circuit(format!("send {path}")).run();
        peek(2, 1, 1);
        receive().run();
        let id = server.ls("-l /one").join("\n");
        assert!(id.contains('·'), "{id}");
        server
            .circuit("ls -l /one/this/is")
            .stdout("chan    /one/this/is/charlie\n")
            .run();
        server.circuit(format!("scrub {path}")).run();
        server
            .circuit(format!("peek {path}"))
            .stdout("null\n")
            .run();
    });
}

#[test]
fn messages_of_any_length_and_content_come_as_they_were_sent() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 1").run();
        let bytes: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
        for length in [
            0,
            1,
            32 << 10,
            (32 << 10) + 1,
            64 << 10,
            1 << 20,
            20_000_000,
        ] {
            let sender = server
                .circuit("send /one/c")
                .stdin(&bytes[..length])
                .spawn();
            let received = server.circuit("recv /one/c").any_stdout().run();
            assert!(received.stdout == bytes[..length], "{length} bytes");
            succeeds(sender);
        }
    });
}

#[test]
fn with_capacity_0_a_send_waits_for_its_receiver_and_a_receiver_for_its_send() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 0").run();
        let mut sender = waiting_sender(server, "/one/c", "first", 1);
        assert!(sender.is_running());
        server.circuit("recv /one/c").stdout("first").run();
        succeeds(sender);

        let mut receiver = waiting_receiver(server, "/one/c", 1);
        assert!(receiver.is_running());
        server.circuit("send /one/c").stdin("second").run();
        assert_eq!(succeeds(receiver), "second");
        let now = server.peek("/one/c");
        assert_eq!(now, status(0, json!({"NumSend": 2, "NumRecv": 2})));
    });
}

#[test]
fn a_full_channel_has_senders_wait_and_senders_receivers_and_messages_keep_their_order() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 2").run();
        for message in ["a", "b"] {
            server.circuit("send /one/c").stdin(message).run();
        }
        let waiting = ["c", "d", "e"];
        let senders: Vec<Running> = (1..)
            .zip(waiting)
            .map(|(count, message)| waiting_sender(server, "/one/c", message, count))
            .collect();
        let full = json!({"NumSend": 2, "Held": 2, "Senders": 3});
        assert_eq!(server.peek("/one/c"), status(2, full));
        for message in ["a", "b", "c", "d", "e"] {
            server.circuit("recv /one/c").stdout(message).run();
        }
        for sender in senders {
            succeeds(sender);
        }
        let receivers: Vec<Running> = (1..=3)
            .map(|count| waiting_receiver(server, "/one/c", count))
            .collect();
        for (receiver, message) in receivers.into_iter().zip(["f", "g", "h"]) {
            server.circuit("send /one/c").stdin(message).run();
            assert_eq!(succeeds(receiver), message);
        }
    });
}

#[test]
fn of_a_longer_message_32_kib_are_held_and_its_sender_waits_on_the_rest() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 2").run();
        let long = "x".repeat((32 << 10) + 1);
        let mut sender = server.circuit("send /one/c").stdin(&*long).spawn();
        until(server, "/one/c", "Held", 1);
        // A message that fits is stored at once and its sender is free, though the other came first.
        let fits = "y".repeat(32 << 10);
        server.circuit("send /one/c").stdin(&*fits).run();
        assert!(sender.is_running());
        server.circuit("recv /one/c").stdout(&*long).run();
        succeeds(sender);
        server.circuit("recv /one/c").stdout(fits).run();
    });
}

#[test]
fn a_message_is_live_its_bytes_come_as_they_are_sent() {
    here_and_through_another(|server| {
        for capacity in [0, 1] {
            let path = format!("/one/live/{capacity}");
            server.circuit(format!("mkchan {path} {capacity}")).run();
            let mut sender = server.circuit(format!("send {path}")).stdin_open().spawn();
            let waiting = if capacity == 0 { "Senders" } else { "Held" };
            until(server, &path, waiting, 1);
            let receiver = server.circuit(format!("recv {path}")).spawn();
            until(server, &path, "NumSend", 1);
            sender.write("one ");
            receiver.prints("one ");
            sender.write("two");
            receiver.prints("one two");
            assert_eq!(server.peek(&path)["NumRecv"], 0);
            sender.close_stdin();
            succeeds(sender);
            assert_eq!(succeeds(receiver), "one two");
        }
    });
}

#[test]
fn close_refuses_what_comes_later_and_lets_through_what_was_there() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 1").run();
        server.circuit("send /one/c").stdin("held").run();
        let waiting = waiting_sender(server, "/one/c", "waiting", 1);
        server.circuit("close /one/c").run();
        let closed = json!({"Closed": true, "NumSend": 1, "Held": 1, "Senders": 1});
        assert_eq!(server.peek("/one/c"), status(1, closed));
        let refused = |line: &str, stderr: &str| {
            let line = server.circuit(line).stdin("late\n").status(1);
            line.stderr(stderr).run();
        };
        refused(
            "send /one/c",
            "circuit: send /one/c: the channel is closed\n",
        );
        refused(
            "send -lines /one/c",
            "circuit: send /one/c: the channel is closed\n\
             hint: 0 of the first 1 lines were sent\n",
        );
        refused("close /one/c", "circuit: close /one/c: closed already\n");
        server.circuit("recv /one/c").stdout("held").run();
        server.circuit("recv /one/c").stdout("waiting").run();
        succeeds(waiting);
        refused(
            "recv /one/c",
            "circuit: recv /one/c: the channel is closed\n",
        );
        server.circuit("recv -lines -follow /one/c").run();
        // An empty channel has those go who wait.
        server.circuit("mkchan /one/d 1").run();
        let receiver = waiting_receiver(server, "/one/d", 1);
        server.circuit("close /one/d").run();
        fails(receiver, "circuit: recv /one/d: the channel is closed\n");
    });
}

#[test]
fn scrub_aborts_everybody_at_once() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/s 0").run();
        server.circuit("mkchan /one/r 0").run();
        server.circuit("mkchan /one/m 0").run();
        let sender = waiting_sender(server, "/one/s", "never", 1);
        let mut idle = server.circuit("send /one/s").stdin_open().spawn();
        let mut lines = server.circuit("send -lines /one/s").stdin_open().spawn();
        lines.write("never\n");
        until(server, "/one/s", "Senders", 3);
        let receiver = waiting_receiver(server, "/one/r", 1);
        let follower = server.circuit("recv -follow /one/r").spawn();
        until(server, "/one/r", "Receivers", 2);
        let mut half_sent = server.circuit("send /one/m").stdin_open().spawn();
        let half_received = server.circuit("recv /one/m").spawn();
        half_sent.write("half");
        half_received.prints("half");
        for name in ["s", "r", "m"] {
            server.circuit(format!("scrub /one/{name}")).run();
        }
        let aborted = |what: &str| format!("circuit: {what}: the channel was scrubbed\n");
        fails(sender, &aborted("send /one/s"));
        // Those who have nothing to say are told as well.
        idle.exit_status();
        fails(idle, &aborted("send /one/s"));
        lines.exit_status();
        let hint = "hint: 0 of the first 1 lines were sent\n";
        fails(lines, &(aborted("send /one/s") + hint));
        fails(receiver, &aborted("recv /one/r"));
        fails(follower, &aborted("recv /one/r"));
        half_sent.exit_status();
        fails(half_sent, &aborted("send /one/m"));
        fails(half_received, &aborted("recv /one/m"));
        let gone = server.circuit("send /one/s").status(1);
        gone.stderr("circuit: send /one/s: nothing there\n").run();
    });
}

#[test]
fn senseless_operations_are_refused_in_one_line() {
    here_and_through_another(|server| {
        let refused = |line: &str, status: i32, stderr: &str| {
            server.circuit(line).status(status).stderr(stderr).run();
        };
        for wrong in ["-1", "many", "1.5", "16777217", "99999999999999999999"] {
            let stderr = format!(
                "circuit: invalid value '{wrong}' for '<CAPACITY>': \
                 not a number of messages from 0 to 16777216\n"
            );
            let line = format!("mkchan /one/c {wrong}");
            let output = server.circuit(line).unchecked();
            assert_eq!(output.status.code(), Some(2), "{output}");
            assert!(output.stderr().starts_with(&stderr), "{output}");
        }
        server.circuit("peek /one/c").stdout("null\n").run();
        server.circuit("mkchan /one/c 16777216").run();
        refused(
            "mkchan /one/c 1",
            1,
            "circuit: mkchan /one/c: occupied by a chan\n\
             hint: `circuit peek` shows what is there, `circuit scrub` removes it\n",
        );
        server.make("/one/p", r#"{"Path": "true"}"#);
        for command in ["send", "recv", "close"] {
            let none = format!("circuit: {command} /one/none: nothing there\n");
            refused(&format!("{command} /one/none"), 1, &none);
            let proc = format!("circuit: {command} /one/p: a proc does not take {command}\n");
            refused(&format!("{command} /one/p"), 1, &proc);
        }
        let stdin = "circuit: stdin /one/c: a chan does not take stdin\n";
        refused("stdin /one/c", 1, stdin);
        server.circuit("mk@join /one/joins").run();
        for (command, kind) in [("send", "@join"), ("close", "@join")] {
            let line = format!("{command} /one/joins");
            let stderr = format!("circuit: {line}: a {kind} does not take {command}\n");
            refused(&line, 1, &stderr);
        }
        let both = server.circuit("recv -count 2 -follow /one/c").unchecked();
        assert_eq!(both.status.code(), Some(2), "{both}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capacity_costs_nothing_until_it_is_used_and_then_what_it_holds() {
    let home = Home::new();
    let one = home.start("one");
    let resident = || -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", one.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
        kilobytes.parse::<usize>().unwrap() << 10
    };
    let client = one.client(&home).await;
    client.servers().await.unwrap();
    let before = resident();
    for n in 0..20 {
        let anchor = client.walk(&format!("/one/{n}")).unwrap();
        anchor.make_chan(1_000_000).await.unwrap();
    }
    let made = resident();
    assert!(made < before + (2 << 20), "{before} became {made}");
    // However small the pieces in which a message comes: 100 times 2,000 bytes, one at a time.
    let chan = client.walk("/one/0").unwrap().chan();
    for _ in 0..100 {
        let mut message = chan.send().await.unwrap();
        for _ in 0..2000 {
            message.send("x".into()).await.unwrap();
        }
        message.finish().await.unwrap();
    }
    assert_eq!(chan.peek().await.unwrap().held, 100);
    let held = resident().saturating_sub(made);
    assert!(held < 4 << 20, "{held} bytes");
}
