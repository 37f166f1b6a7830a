//! Senders and receivers that go away, at every point: nothing is lost, doubled or cut, and nobody
//! else is held up.
//!
//! A client goes away by a dropped future, by closing its connection, by `kill -9`, or by being stopped. In
//! the last two cases the server notices after the connection's idle time-out, ten seconds.

use std::time::Duration;

use circuit_client::{Chan, Client, Code, Error};
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::block_in_place;

use super::{fails, succeeds, until, waiting_receiver, waiting_sender};
use crate::support::{Home, Over, Running, Server, eventually, eventually_within, over};

/// How long a client that fell silent may hold something: QUIC's idle time-out, and what a busy
/// machine adds.
const SILENCE: Duration = Duration::from_secs(14);

/// More than a slot and all windows hold.
const LONG: usize = 8 << 20;

/// Runs a test with a channel of each capacity on server one, through it and through another.
async fn on_channels<T: Future<Output = ()>>(capacities: &[u64], test: impl Fn(Client, Chan) -> T) {
    let home = Home::new();
    let [one, two] = block_in_place(|| home.start_all(["one", "two"]));
    for (through, server) in [("one", &one), ("two", &two)] {
        for capacity in capacities {
            let client = server.client(&home).await;
            let path = format!("/one/{through}/{capacity}");
            let anchor = client.walk(&path).unwrap();
            let chan = anchor.make_chan(*capacity).await.unwrap();
            test(client, chan).await;
        }
    }
}

/// Waits until the channel's status is as it should be.
async fn is(chan: &Chan, holds: impl Fn(&circuit_client::channel::Status) -> bool) {
    let asked = async {
        loop {
            let status = chan.peek().await.unwrap();
            if holds(&status) {
                return;
            }
        }
    };
    let shown = tokio::time::timeout(SILENCE, asked).await;
    assert!(shown.is_ok(), "{:?}", chan.peek().await);
}

async fn received(chan: &Chan) -> Vec<u8> {
    let all = chan.recv_all(LONG).await;
    all.unwrap().to_vec()
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Option<Code> {
    result.unwrap_err().code()
}

/// Polls a future once, which must leave it waiting, then until the status is as it should be; and
/// drops it.
async fn begun_and_dropped<T: std::fmt::Debug>(
    future: impl Future<Output = T>,
    chan: &Chan,
    holds: impl Fn(&circuit_client::channel::Status) -> bool,
) {
    tokio::select! {
        result = future => panic!("it did not wait: {result:?}"),
        () = is(chan, holds) => (),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_while_queued_leaves_nothing_and_blocks_nobody() {
    on_channels(&[0], async |_, chan| {
        begun_and_dropped(chan.send(), &chan, |s| s.senders == 1).await;
        is(&chan, |s| s.senders == 0).await;
        begun_and_dropped(chan.send_all("dropped"), &chan, |s| s.senders == 1).await;
        is(&chan, |s| s.senders == 0).await;
        begun_and_dropped(chan.recv(), &chan, |s| s.receivers == 1).await;
        is(&chan, |s| s.receivers == 0).await;
        let mut receiver = chan.receiver().await.unwrap();
        begun_and_dropped(receiver.recv_many(9), &chan, |s| s.receivers == 1).await;
        drop(receiver);
        is(&chan, |s| s.receivers == 0).await;
        let mut sender = chan.sender().await.unwrap();
        sender.send(b"dropped").await.unwrap();
        is(&chan, |s| s.senders == 1).await;
        drop(sender);
        is(&chan, |s| s.senders == 0).await;
        let (sent, got) = tokio::join!(chan.send_all("next"), received(&chan));
        assert_eq!((sent.unwrap(), got), ((), b"next".to_vec()));
        let status = chan.peek().await.unwrap();
        assert_eq!((status.num_send, status.num_recv), (1, 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_goes_before_its_word_leaves_the_message_at_the_head() {
    on_channels(&[0, 2], async |_, chan| {
        let sending = {
            let chan = chan.clone();
            tokio::spawn(async move {
                chan.send_all("first").await.unwrap();
                chan.send_all("second").await.unwrap();
            })
        };
        // The message is matched, and no byte of it read.
        drop(chan.recv().await.unwrap());
        // The reader goes in the middle of a message, and at its end.
        let mut message = chan.recv().await.unwrap();
        assert_eq!(message.chunk().await.unwrap().unwrap(), "first");
        drop(message);
        let mut message = chan.recv().await.unwrap();
        assert_eq!(message.chunk().await.unwrap().unwrap(), "first");
        assert_eq!(message.chunk().await.unwrap(), None);
        drop(message);
        // The messages are received by the dozen.
        let mut receiver = chan.receiver().await.unwrap();
        assert_eq!(receiver.batch(9).await.unwrap()[0], "first");
        drop(receiver);
        // The message is too long for the receiver.
        assert_eq!(code(chan.recv_all(4).await), Some(Code::TooLarge));
        let mut receiver = chan.receiver().await.unwrap().with_limit(4);
        for _ in 0..2 {
            assert_eq!(code(receiver.recv_many(9).await), Some(Code::TooLarge));
        }
        drop(receiver);
        assert_eq!(chan.peek().await.unwrap().num_recv, 0);
        assert_eq!(received(&chan).await, b"first");
        assert_eq!(received(&chan).await, b"second");
        sending.await.unwrap();
        is(&chan, |s| (s.num_send, s.num_recv, s.held) == (2, 2, 0)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_long_message_the_other_side_learns_of_it() {
    on_channels(&[0, 1], async |_, chan| {
        // The receiver goes.
        let sending = {
            let chan = chan.clone();
            tokio::spawn(async move {
                let mut message = chan.send().await?;
                message.send(vec![7; LONG].into()).await?;
                message.finish().await
            })
        };
        let mut message = chan.recv().await.unwrap();
        let mut length = 0;
        while length <= 64 << 10 {
            length += message.chunk().await.unwrap().unwrap().len();
        }
        drop(message);
        let error = sending.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(Code::Aborted), "{error}");
        let text = error.to_string();
        assert!(text.ends_with("the receiver went away in the middle of the message"));

        // The sender goes; then it goes with nobody there.
        for length in [5, 64 << 10] {
            let receiving = {
                let chan = chan.clone();
                tokio::spawn(async move { chan.recv().await })
            };
            let mut sender = chan.send().await.unwrap();
            sender.send(vec![7; length].into()).await.unwrap();
            let mut message = receiving.await.unwrap().unwrap();
            let mut got = 0;
            while got < length {
                got += message.chunk().await.unwrap().unwrap().len();
            }
            drop(sender);
            let error = message.chunk().await.unwrap_err();
            assert_eq!(error.code(), Some(Code::Aborted), "{error}");
            let text = error.to_string();
            assert!(text.ends_with("the sender went away in the middle of the message"));
        }
        if chan.peek().await.unwrap().cap > 0 {
            let sent = chan.peek().await.unwrap().num_send;
            let mut sender = chan.send().await.unwrap();
            sender.send("half".into()).await.unwrap();
            is(&chan, |s| s.held == 1).await;
            drop(sender);
            is(&chan, |s| (s.held, s.num_send) == (0, sent)).await;
        }
        let (sent, got) = tokio::join!(chan.send_all("next"), received(&chan));
        assert_eq!((sent.unwrap(), got), ((), b"next".to_vec()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_goes_before_its_first_byte_leaves_its_receiver_waiting_in_its_turn() {
    on_channels(&[0, 1], async |_, chan| {
        let receivers: Vec<_> = {
            let mut receivers = Vec::new();
            for count in 1..=3 {
                let receiver = chan.clone();
                receivers.push(tokio::spawn(async move { received(&receiver).await }));
                is(&chan, |s| s.receivers == count).await;
            }
            receivers
        };
        let (first, second) = (chan.send().await.unwrap(), chan.send().await.unwrap());
        is(&chan, |s| (s.receivers, s.num_send) == (1, 2)).await;
        drop(first);
        is(&chan, |s| (s.receivers, s.num_send) == (2, 1)).await;
        drop(second);
        is(&chan, |s| (s.receivers, s.num_send) == (3, 0)).await;
        for (receiver, text) in receivers.into_iter().zip(["a", "b", "c"]) {
            chan.send_all(text).await.unwrap();
            assert_eq!(receiver.await.unwrap(), text.as_bytes());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_goes_after_its_last_byte_changes_nothing_for_its_receiver() {
    on_channels(&[0, 1], async |client, chan| {
        let receiving = {
            let chan = chan.clone();
            tokio::spawn(async move { chan.recv().await })
        };
        is(&chan, |s| s.receivers == 1).await;
        // All is said, and `Stored` is still to come: with capacity 0 the receiver has to speak.
        let sending = {
            let chan = chan.clone();
            tokio::spawn(async move { chan.send_all("whole").await })
        };
        let mut message = receiving.await.unwrap().unwrap();
        assert_eq!(message.chunk().await.unwrap().unwrap(), "whole");
        assert_eq!(message.chunk().await.unwrap(), None);
        sending.abort();
        assert!(sending.await.is_err() || chan.peek().await.unwrap().cap > 0);
        message.accept().await.unwrap();
        let status = chan.peek().await.unwrap();
        assert_eq!((status.num_send, status.num_recv, status.held), (1, 1, 0));
        drop(client);
    })
    .await;
}

/// A check that runs once a client is silent. It may wait for the server to notice.
type Aftermath = Box<dyn FnOnce(&Server)>;

/// A client in the middle of something.
type Point = fn(&Server, &str) -> (Running, Aftermath);

/// The points at which a client falls silent, each with a check of the consequences.
const POINTS: [(&str, Point); 8] = [
    ("queued-receiver", |server, path| {
        let receiver = waiting_receiver(server, path, 1);
        let path = path.to_owned();
        let after = move |server: &Server| {
            let sender = server.circuit(format!("send {path}")).stdin("kept").spawn();
            // Over the network it is not noticed yet: the message goes to it, and comes back.
            if over() == Over::Network {
                until(server, &path, "NumSend", 1);
            }
            finds(server, &path, "kept");
            succeeds(sender);
        };
        (receiver, Box::new(after))
    }),
    ("queued-sender", |server, path| {
        fill(server, path);
        let sender = waiting_sender(server, path, "never", 1);
        let behind = waiting_sender(server, path, "behind", 2);
        let path = path.to_owned();
        let after = move |server: &Server| {
            gone(server, &path, |status| status["Senders"] == 1);
            // The messages before it are there, and the sender behind it has the next place.
            for _ in 0..filled(server, &path) {
                server
                    .circuit(format!("recv {path}"))
                    .stdout("filler")
                    .run();
            }
            finds(server, &path, "behind");
            succeeds(behind);
        };
        (sender, Box::new(after))
    }),
    ("matched-receiver", |server, path| {
        let receiver = waiting_receiver(server, path, 1);
        let mut sender = server.circuit(format!("send {path}")).stdin_open().spawn();
        until(server, path, "NumSend", 1);
        let path = path.to_owned();
        let after = move |server: &Server| {
            sender.write("whole");
            sender.close_stdin();
            finds(server, &path, "whole");
            succeeds(sender);
        };
        (receiver, Box::new(after))
    }),
    ("matched-sender", |server, path| {
        let receiver = waiting_receiver(server, path, 1);
        let sender = server.circuit(format!("send {path}")).stdin_open().spawn();
        until(server, path, "NumSend", 1);
        let path = path.to_owned();
        let after = move |server: &Server| {
            gone(server, &path, |status| status["Receivers"] == 1);
            server.circuit(format!("send {path}")).stdin("next").run();
            assert_eq!(succeeds(receiver), "next");
        };
        (sender, Box::new(after))
    }),
    ("receiver-in-the-middle", |server, path| {
        let mut sender = server.circuit(format!("send {path}")).stdin_open().spawn();
        let receiver = server.circuit(format!("recv {path}")).spawn();
        sender.write("half");
        receiver.prints("half");
        let path = path.to_owned();
        let after = move |server: &Server| {
            sender.write(" and half");
            sender.close_stdin();
            finds(server, &path, "half and half");
            succeeds(sender);
        };
        (receiver, Box::new(after))
    }),
    ("sender-in-the-middle", |server, path| {
        let mut sender = server.circuit(format!("send {path}")).stdin_open().spawn();
        let receiver = server.circuit(format!("recv {path}")).spawn();
        sender.write("half");
        receiver.prints("half");
        let what = format!("circuit: recv {path}: the sender went away in the middle");
        let path = path.to_owned();
        let after = move |server: &Server| {
            let output = receiver.finish();
            assert_eq!(output.status.code(), Some(1), "{output}");
            assert!(output.stderr().starts_with(&what), "{output}");
            empty(server, &path);
        };
        (sender, Box::new(after))
    }),
    ("receiver-of-a-long-message", |server, path| {
        // More than is under way anywhere, so that its sender cannot have said all.
        let sender = server
            .circuit(format!("send {path}"))
            .stdin(vec![b'x'; 64 << 20]);
        let sender = sender.spawn();
        let (receiver, pipe) = blocked_receiver(server, path);
        let path = path.to_owned();
        let after = move |server: &Server| {
            let why = "the receiver went away in the middle of the message";
            fails(sender, &format!("circuit: send {path}: {why}\n"));
            empty(server, &path);
            drop(pipe);
        };
        (receiver, Box::new(after))
    }),
    ("receiver-that-has-not-written", |server, path| {
        let text = "x".repeat(32 << 10);
        let sender = server.circuit(format!("send {path}")).stdin(&*text).spawn();
        let (receiver, pipe) = blocked_receiver(server, path);
        let path = path.to_owned();
        let after = move |server: &Server| {
            finds(server, &path, &text);
            succeeds(sender);
            drop(pipe);
        };
        (receiver, Box::new(after))
    }),
];

/// Waits until the server has noticed.
fn gone(server: &Server, path: &str, noticed: impl Fn(&Value) -> bool) {
    eventually_within(SILENCE, "the server has noticed", || {
        noticed(&server.peek(path)).then_some(())
    });
}

/// Checks that a receiver gets this message, once it is back at the head.
fn finds(server: &Server, path: &str, text: &str) {
    let mut receiver = server.circuit(format!("recv {path}")).spawn();
    eventually_within(SILENCE, "the message is back at the head", || {
        (!receiver.is_running()).then_some(())
    });
    assert_eq!(succeeds(receiver), text);
    empty(server, path);
}

/// Takes the slots of a channel.
fn fill(server: &Server, path: &str) {
    for _ in 0..filled(server, path) {
        server.circuit(format!("send {path}")).stdin("filler").run();
    }
}

/// How many messages fill a channel.
fn filled(server: &Server, path: &str) -> u64 {
    server.peek(path)["Cap"].as_u64().unwrap()
}

/// Checks that nothing but fillers is in the channel, and that it works.
fn empty(server: &Server, path: &str) {
    while server.peek(path)["Held"] != 0 {
        server
            .circuit(format!("recv {path}"))
            .stdout("filler")
            .run();
    }
    let receiver = waiting_receiver(server, path, 1);
    server.circuit(format!("send {path}")).stdin("works").run();
    assert_eq!(succeeds(receiver), "works");
}

/// A receiver in the middle of a message, whose output nobody reads.
fn blocked_receiver(server: &Server, path: &str) -> (Running, std::io::PipeReader) {
    let (read, write) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
    let receiver = server.circuit(format!("recv {path}")).spawn_into(write);
    // The pipe holds less than any message here.
    eventually("it writes", || {
        (rustix::io::ioctl_fionread(&read).unwrap() > 0).then_some(())
    });
    (receiver, read)
}

/// Silences a client at each point at once, on channels of two capacities, and looks what comes of
/// it; then has those that were stopped go on.
fn silenced(through: usize, signal: Signal) {
    let home = Home::new();
    let server = &home.start_all(["one", "two"])[through];
    let mut silent = Vec::new();
    for (name, point) in POINTS {
        for capacity in [0, 2] {
            let path = format!("/one/{name}/{capacity}");
            server.circuit(format!("mkchan {path} {capacity}")).run();
            let (client, after) = point(server, &path);
            silent.push((path, client, after));
        }
    }
    for (_, client, _) in &silent {
        client.signal(signal);
    }
    let mut stopped = Vec::new();
    for (path, client, after) in silent {
        eprintln!("{signal:?}: {path}");
        after(server);
        // Those whose output nobody reads any more have nothing to say.
        if !path.contains("receiver-of") && !path.contains("receiver-that") {
            stopped.push(client);
        }
    }
    if signal == Signal::STOP {
        for client in stopped {
            client.signal(Signal::CONT);
            let output = client.finish();
            assert_eq!(output.status.code(), Some(1), "{output}");
            // Whichever it notices first: that time has passed, or that it is not known any more.
            let reasons = ["it no longer answers", "had not heard from us for too long"];
            let why = reasons
                .iter()
                .any(|reason| output.stderr().contains(reason));
            assert!(why, "{output}");
        }
    }
}

#[test]
fn clients_that_are_killed_at_any_point() {
    silenced(0, Signal::KILL);
}

#[test]
fn clients_that_are_killed_at_any_point_behind_another_server() {
    silenced(1, Signal::KILL);
}

#[test]
fn clients_that_are_stopped_at_any_point() {
    // On the same host one that is stopped is there still, and holds what it holds.
    if over() == Over::Network {
        silenced(0, Signal::STOP);
    }
}

#[test]
fn clients_that_are_stopped_at_any_point_behind_another_server() {
    if over() == Over::Network {
        silenced(1, Signal::STOP);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_said_all_and_hears_nothing_gets_unknown() {
    // On the same host a server that is stopped is there still, and is waited for.
    if over() == Over::Socket {
        return;
    }
    for through in [0, 1] {
        let home = Home::new();
        let mut servers = block_in_place(|| home.start_all(["one", "two"]));
        let client = servers[through].client(&home).await;
        let anchor = client.walk("/one/c").unwrap();
        let chan = anchor.make_chan(0).await.unwrap();
        let sending = {
            let chan = chan.clone();
            tokio::spawn(async move { chan.send_all("a").await })
        };
        let mut message = chan.recv().await.unwrap();
        while message.chunk().await.unwrap().is_some() {}
        // The host falls silent: what is said now is heard by nobody, or not answered.
        servers[0].signal(Signal::STOP);
        let accepted = message.accept().await;
        let sent = sending.await.unwrap();
        for error in [accepted.unwrap_err(), sent.unwrap_err()] {
            assert!(matches!(error, Error::Unknown { .. }), "{error:?}");
            assert_eq!(error.code(), Some(Code::Unknown));
            let text = error.to_string();
            assert!(text.ends_with("; it may have been done, or not"), "{text}");
        }
        servers[0].kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_loses_the_second_server_at_the_end_learns_which_it_was() {
    let home = Home::new();
    let [one, mut two] = block_in_place(|| home.start_all(["one", "two"]));
    let client = one.client(&home).await;
    let chan = client.walk("/two/c").unwrap().make_chan(1).await.unwrap();
    chan.send_all("message").await.unwrap();
    let mut message = chan.recv().await.unwrap();
    while message.chunk().await.unwrap().is_some() {}
    // It will not answer any more.
    two.signal(Signal::STOP);
    let accepted = tokio::spawn(message.accept());
    block_in_place(|| two.kill());
    let Err(Error::Unknown { reason, .. }) = accepted.await.unwrap() else {
        panic!("it knows");
    };
    let lost = format!("lost the server two at {}: ", two.address());
    assert!(reason.starts_with(&lost), "{reason}");
}
