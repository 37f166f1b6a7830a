//! Many messages on one stream: `send -lines`, `recv -count`, `recv -follow`, and the client's
//! `Sender` and `Receiver`.

use std::time::Duration;

use circuit_client::{Code, Error};

use super::{fails, here_and_through_another, status, succeeds, until};
use crate::support::Home;

#[test]
fn every_line_is_a_message() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 10").run();
        let lines = server.circuit("send -lines /one/c");
        lines.stdin("one\n\nthree\r\nwithout an end").run();
        for message in ["one", "", "three\r", "without an end"] {
            server.circuit("recv /one/c").stdout(message).run();
        }
        server.circuit("send -lines /one/c").run();
        let counters = serde_json::json!({"NumSend": 4, "NumRecv": 4});
        assert_eq!(server.peek("/one/c"), status(10, counters));
    });
}

#[test]
fn a_line_is_on_its_way_before_the_next_is_read() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 0").run();
        let mut sender = server.circuit("send -lines /one/c").stdin_open().spawn();
        let receiver = server.circuit("recv -follow -lines /one/c").spawn();
        let mut shown = String::new();
        for n in 0..20 {
            let line = format!("line {n}\n");
            shown += &line;
            sender.write(&line);
            receiver.prints(&shown);
        }
        sender.close_stdin();
        succeeds(sender);
        server.circuit("close /one/c").run();
        assert_eq!(succeeds(receiver), shown);
    });
}

#[test]
fn so_many_are_received_as_were_asked_for() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 10").run();
        server
            .circuit("send -lines /one/c")
            .stdin("a\nb\nc\nd\ne\n")
            .run();
        server.circuit("recv -count 0 /one/c").run();
        server.circuit("recv -count 2 /one/c").stdout("ab").run();
        server.circuit("recv -lines /one/c").stdout("c\n").run();
        let receiver = server.circuit("recv -lines -count 4 /one/c").spawn();
        receiver.prints("d\ne\n");
        until(server, "/one/c", "Receivers", 1);
        server.circuit("send /one/c").stdin("f").run();
        receiver.prints("d\ne\nf\n");
        server.circuit("close /one/c").run();
        fails(
            receiver,
            "circuit: recv /one/c: the channel is closed\n\
             hint: 3 of 4 messages were received\n",
        );
    });
}

#[test]
fn a_receiver_whose_reader_has_gone_takes_nothing_more() {
    here_and_through_another(|server| {
        server.circuit("mkchan /one/c 10").run();
        server.circuit("send -lines /one/c").stdin("a\nb\n").run();
        for flags in ["", "-follow -lines"] {
            let (read, write) = std::io::pipe().unwrap();
            drop(read);
            let receiver = server.circuit(format!("recv {flags} /one/c"));
            let closed = receiver.spawn_into(write).finish();
            assert_eq!((closed.status.code(), closed.stderr()), (Some(0), ""));
        }
        server
            .circuit("recv -lines -count 2 /one/c")
            .stdout("a\nb\n")
            .run();
    });
}

#[test]
fn a_hundred_thousand_lines_pass_in_order() {
    here_and_through_another(|server| {
        for capacity in [0, 5, 1_000_000] {
            let path = format!("/one/lines/{capacity}");
            server.circuit(format!("mkchan {path} {capacity}")).run();
            let lines: String = (0..100_000).map(|n| format!("{n}\n")).collect();
            let sender = server.circuit(format!("send -lines {path}"));
            let sender = sender.stdin(lines.as_str()).spawn();
            let receiver = server.circuit(format!("recv -lines -count 100000 {path}"));
            receiver.stdout(lines).run();
            succeeds(sender);
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_all_lengths_pass_whole_on_one_stream_and_on_many() {
    let home = Home::new();
    let [one, two] = tokio::task::block_in_place(|| home.start_all(["one", "two"]));
    for (name, server, capacity) in [("a", &one, 0), ("b", &two, 3), ("c", &two, 1000)] {
        let client = server.client(&home).await;
        let chan = client.walk(&format!("/one/{name}")).unwrap();
        let chan = chan.make_chan(capacity).await.unwrap();
        let lengths = [
            0,
            1,
            70_000,
            0,
            0,
            300_000,
            32 << 10,
            33 << 10,
            65_532,
            65_531,
            2,
        ];
        let message = move |n: usize| vec![n as u8; lengths[n % lengths.len()]];
        let producing = {
            let chan = chan.clone();
            tokio::spawn(async move {
                let mut sender = chan.sender().await?;
                for n in 0..200 {
                    sender.feed(&message(n)).await?;
                }
                sender.finish().await
            })
        };
        let mut receiver = chan.receiver().await.unwrap();
        let mut count = 0;
        while count < 200 {
            if count % 3 == 0 {
                // One message is received on a stream of its own in between.
                assert_eq!(chan.recv_all(1 << 20).await.unwrap(), message(count));
                count += 1;
                continue;
            }
            for got in receiver.recv_many(2).await.unwrap() {
                assert!(got == message(count), "message {count}");
                count += 1;
            }
        }
        producing.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_of_many_fails_no_later_one_was_sent() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let chan = client.walk("/one/c").unwrap().make_chan(10).await.unwrap();
    let mut sender = chan.sender().await.unwrap();
    sender.feed(b"before").await.unwrap();
    sender.feed(&vec![7; 8 << 20]).await.unwrap();
    sender.feed(b"behind").await.unwrap();
    let producing = tokio::spawn(async move {
        let error = sender.flush().await.unwrap_err();
        (error, sender.stored(), sender.sent())
    });
    assert_eq!(chan.recv_all(100).await.unwrap(), "before");
    let mut long = chan.recv().await.unwrap();
    let mut length = 0;
    while length < 1 << 20 {
        length += long.chunk().await.unwrap().unwrap().len();
    }
    drop(long);
    let (error, stored, sent) = producing.await.unwrap();
    assert_eq!((error.code(), stored, sent), (Some(Code::Aborted), 1, 3));
    let status = chan.peek().await.unwrap();
    assert_eq!((status.held, status.senders), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_producer_is_never_held_up_by_answers_that_it_has_not_asked_for() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let chan = client.walk("/one/c").unwrap().make_chan(1).await.unwrap();
    let mut sender = chan.sender().await.unwrap();
    let mut receiver = chan.receiver().await.unwrap();
    // An answer of twelve bytes each: more of them than a window holds.
    for n in 0..110_000_u32 {
        sender.send(&n.to_be_bytes()).await.unwrap();
        let got = receiver.recv_many(1).await.unwrap();
        assert_eq!(got, [n.to_be_bytes().to_vec()]);
    }
    assert!(sender.stored() > 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_dropped_at_any_time_skip_and_repeat_nothing() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let chan = client.walk("/one/c").unwrap().make_chan(10).await.unwrap();
    const MESSAGES: u32 = 3000;
    let mut sender = chan.sender().await.unwrap();
    let sending = async {
        for n in 0..MESSAGES {
            sender.feed(&n.to_be_bytes()).await.unwrap();
            while sender.stored() + 50 < sender.sent() {
                let moment = Duration::from_micros(u64::from(n % 300));
                let _ = tokio::time::timeout(moment, sender.flush()).await;
            }
        }
        sender.flush().await.unwrap();
    };
    let receiving = async {
        let mut receiver = chan.receiver().await.unwrap();
        let mut next = 0_u32;
        while next < MESSAGES {
            let moment = Duration::from_micros(u64::from(next % 400));
            let call = tokio::time::timeout(moment, receiver.recv_many(3)).await;
            for message in call.map_or(Vec::new(), Result::unwrap) {
                assert_eq!(message, next.to_be_bytes().to_vec());
                next += 1;
            }
        }
    };
    tokio::join!(sending, receiving);
    let status = chan.peek().await.unwrap();
    assert_eq!(status.num_recv, u64::from(MESSAGES));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_any_size_neither_stall_nor_skip() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    for (name, capacity) in [("a", 0), ("b", 100_000)] {
        let anchor = client.walk(&format!("/one/{name}")).unwrap();
        let chan = anchor.make_chan(capacity).await.unwrap();
        let producing = {
            let chan = chan.clone();
            tokio::spawn(async move {
                let mut sender = chan.sender().await?;
                // So short that many more than may be under way come at once.
                for n in 0..60_000_u32 {
                    sender.feed(&n.to_be_bytes()[2..]).await?;
                }
                sender.finish().await?;
                chan.close().await
            })
        };
        let mut receiver = chan.receiver().await.unwrap();
        let mut count = 0_u32;
        let end: Error = loop {
            match receiver.recv_many(100_000).await {
                Ok(batch) => {
                    for got in batch {
                        assert_eq!(got, count.to_be_bytes()[2..]);
                        count += 1;
                    }
                }
                Err(error) => break error,
            }
        };
        assert_eq!((end.code(), count), (Some(Code::Closed), 60_000));
        producing.await.unwrap().unwrap();
    }
}
