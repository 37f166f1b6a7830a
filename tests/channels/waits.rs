//! Receivers that wait for a time, or not at all: `recv -wait`, `recv -try`, and the client's
//! `recv_within` and `batch_within`.

use std::time::{Duration, Instant};

use circuit_client::Code;

use super::{here_and_through_another, status, succeeds, until, waiting_sender};
use crate::support::Home;

#[test]
fn an_empty_channel_has_a_status_of_its_own() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 10").run();
        let check = |flags: &str, code: i32, stderr: &str| {
            let receive = server.circuit(format!("recv {flags} /one/c"));
            receive.status(code).stderr(stderr).run();
        };
        let nothing = "circuit: recv /one/c: no message is there\n";
        check("-try", 3, nothing);
        check("-try -follow", 3, nothing);
        check("-wait 0", 3, nothing);
        let late = "circuit: recv /one/c: no message came in 0.1 s\n";
        check("-wait 0.1", 3, late);
        check("-wait=0.1 -lines", 3, late);
        let none = format!("{late}hint: 0 of 2 messages were received\n");
        check("-wait 0.1 -count 2", 3, &none);
        server
            .circuit("send -lines /one/c")
            .stdin("a\nb\nc\n")
            .run();
        server.circuit("recv -try /one/c").stdout("a").run();
        server.circuit("recv -wait 9 /one/c").stdout("b").run();
        let follow = server.circuit("recv -lines -follow -try /one/c");
        follow.stdout("c\n").stderr(nothing).status(3).run();
        server.circuit("send /one/c").stdin("d").run();
        let two = server.circuit("recv -lines -count 2 -wait 0.1 /one/c");
        let one = format!("{late}hint: 1 of 2 messages were received\n");
        two.stdout("d\n").stderr(one).status(3).run();
        // Nobody waits any more.
        let counters = serde_json::json!({"NumSend": 4, "NumRecv": 4});
        assert_eq!(server.peek("/one/c"), status(10, counters));
        server.circuit("close /one/c").run();
        let closed = "circuit: recv /one/c: the channel is closed\n";
        check("-try", 1, closed);
        check("-wait 9", 1, closed);
        server.circuit("scrub /one/c").run();
        check("-try", 1, "circuit: recv /one/c: nothing there\n");
        server.circuit("mk@leave /one/leaves").run();
        let leaves = server.circuit("recv -try /one/leaves");
        let nothing = "circuit: recv /one/leaves: no message is there\n";
        leaves.stderr(nothing).status(3).run();
    });
}

#[test]
fn a_time_that_makes_no_sense_is_refused() {
    let home = Home::new();
    for flags in [
        "-wait -1",
        "-wait x",
        "-wait NaN",
        "-wait 1e10",
        "-wait 1 -try",
    ] {
        let line = format!("recv {flags} /one/c");
        home.circuit(line).status(2).any_stderr().run();
    }
}

#[test]
fn who_does_not_wait_has_the_message_of_a_sender_that_waits() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 0").run();
        let sender = waiting_sender(server, "/one/c", "hello", 1);
        server.circuit("recv -try /one/c").stdout("hello").run();
        succeeds(sender);
        let long = "x".repeat(100_000);
        let sender = waiting_sender(server, "/one/c", &long, 1);
        let many = server.circuit("recv -try -count 1 /one/c");
        many.stdout(long.as_str()).run();
        succeeds(sender);
    });
}

#[test]
fn a_message_that_has_its_receiver_in_time_is_waited_for() {
    here_and_through_another(|server| {
        for flags in ["", "-lines"] {
            server.circuit("mkchan /one/c 0").run();
            let mut sender = server.circuit("send /one/c").stdin_open().spawn();
            until(server, "/one/c", "Senders", 1);
            let receiver = server.circuit(format!("recv {flags} -wait 0.2 /one/c"));
            let mut receiver = receiver.spawn();
            until(server, "/one/c", "NumSend", 1);
            std::thread::sleep(Duration::from_millis(400));
            assert!(receiver.is_running());
            sender.write("hello");
            sender.close_stdin();
            succeeds(sender);
            assert_eq!(succeeds(receiver).trim_end(), "hello");
            // One that goes away before it has said anything is none.
            let mut sender = server.circuit("send /one/c").stdin_open().spawn();
            until(server, "/one/c", "Senders", 1);
            let receiver = server.circuit(format!("recv {flags} -wait 0.2 /one/c"));
            let receiver = receiver.spawn();
            until(server, "/one/c", "NumSend", 2);
            sender.kill();
            assert_eq!(receiver.finish().status.code(), Some(3));
            server.circuit("scrub /one/c").run();
        }
    });
}

#[test]
fn a_lost_server_is_not_an_empty_channel() {
    let home = Home::new();
    let [one, mut two] = home.start_all(["one", "two"]);
    one.circuit("mkchan /two/c 0").run();
    let receiver = one.circuit("recv -wait 60 /two/c").spawn();
    until(&one, "/two/c", "Receivers", 1);
    two.kill();
    let lost = receiver.finish();
    assert_eq!(lost.status.code(), Some(1), "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_takes_up_the_wait_of_a_call_that_was_dropped() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let chan = client.walk("/one/c").unwrap().make_chan(10).await.unwrap();
    assert!(chan.try_recv().await.unwrap().is_none());
    let mut receiver = chan.receiver().await.unwrap();
    let moment = Duration::from_millis(50);
    // Without a time, then with one; with a short one, then with a longer one, or without.
    let dropped = tokio::time::timeout(moment, receiver.batch(10)).await;
    assert!(dropped.is_err());
    assert!(receiver.batch_within(10, moment).await.unwrap().is_empty());
    let waits = receiver.batch_within(10, 2 * moment);
    assert!(tokio::time::timeout(moment, waits).await.is_err());
    let begun = Instant::now();
    let batch = receiver.batch_within(10, 4 * moment).await.unwrap();
    assert!(batch.is_empty() && begun.elapsed() >= 4 * moment);
    let waits = receiver.batch_within(10, 2 * moment);
    assert!(tokio::time::timeout(moment, waits).await.is_err());
    let waits = tokio::time::timeout(4 * moment, receiver.batch(10)).await;
    assert!(
        waits.is_err(),
        "the end of another call's time is not its own"
    );
    chan.send_all("a").await.unwrap();
    let messages = receiver.recv_many_within(10, Duration::ZERO).await;
    let messages = messages.unwrap();
    // The message may come just behind the end of the time.
    let messages = match messages.is_empty() {
        true => receiver.recv_many(10).await.unwrap(),
        false => messages,
    };
    assert_eq!(messages, ["a"]);
    let messages = receiver.recv_many_within(10, Duration::MAX);
    let (messages, sent) = tokio::join!(messages, chan.send_all("b"));
    sent.unwrap();
    assert_eq!(messages.unwrap(), ["b"]);
    chan.close().await.unwrap();
    let closed = receiver.recv_many_within(10, Duration::ZERO).await;
    assert_eq!(closed.unwrap_err().code(), Some(Code::Closed));
}
