//! The contract, and any order of events.
//!
//! Futures are polled by hand: a thing that waits is seen to wait.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

/// The outcome of a future that does not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match poll(future) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn waits<T>(future: impl Future<Output = T>) -> bool {
    poll(future).is_pending()
}

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn channel(capacity: u64) -> Arc<Channel> {
    Channel::new(capacity).unwrap()
}

/// Sends as far as it goes without a receiver.
fn sent(channel: &Arc<Channel>, text: &str) -> Sending {
    let sending = channel.send().unwrap();
    if !waits(sending.placed()) {
        now(sending.push(text.to_owned().into())).unwrap();
        sending.end();
    }
    sending
}

fn read(receiving: &Receiving) -> String {
    let mut text = Vec::new();
    while let Some(pieces) = now(receiving.pull()).unwrap() {
        text.extend_from_slice(&joined(pieces));
    }
    String::from_utf8(text).unwrap()
}

fn received(channel: &Arc<Channel>) -> String {
    let receiving = channel.receive();
    let text = read(&receiving);
    receiving.commit().unwrap();
    text
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    result.unwrap_err().code
}

#[test]
fn a_buffered_message_is_stored_without_a_receiver() {
    let channel = channel(2);
    let (a, b) = (sent(&channel, "a"), sent(&channel, "b"));
    now(a.stored()).unwrap();
    now(b.stored()).unwrap();
    let c = channel.send().unwrap();
    assert!(waits(c.placed()), "two slots, and a third message");
    drop((a, b));
    assert_eq!(received(&channel), "a");
    now(c.placed()).unwrap();
    now(c.push("c".into())).unwrap();
    c.end();
    now(c.stored()).unwrap();
    assert_eq!(received(&channel), "b");
    assert_eq!(received(&channel), "c");
    let status = channel.status();
    assert_eq!((status.num_send, status.num_recv, status.held), (3, 3, 0));
}

#[test]
fn without_capacity_a_send_waits_for_its_receiver_to_commit() {
    let channel = channel(0);
    let sending = channel.send().unwrap();
    assert!(waits(sending.placed()));
    let receiving = channel.receive();
    now(sending.placed()).unwrap();
    now(sending.push("x".into())).unwrap();
    sending.end();
    assert!(waits(sending.stored()));
    assert_eq!(read(&receiving), "x");
    assert!(waits(sending.stored()), "read is not committed");
    receiving.commit().unwrap();
    now(sending.stored()).unwrap();
}

/// A receiver that waits for so long.
fn receiving_within(channel: &Arc<Channel>, milliseconds: u64) -> Receiving {
    let mut receiving = channel.receive();
    receiving.wait_for(Duration::from_millis(milliseconds));
    receiving
}

#[tokio::test]
async fn a_receiver_waits_no_longer_than_its_time() {
    let channel = channel(1);
    let receiving = receiving_within(&channel, 20);
    let begun = Instant::now();
    assert_eq!(code(receiving.pull().await), Code::Empty);
    assert!(begun.elapsed() >= Duration::from_millis(20));
    // A message that comes between the end of the time and the receiver's going is another's.
    let sending = sent(&channel, "a");
    drop(receiving);
    now(sending.stored()).unwrap();
    let receiving = receiving_within(&channel, 0);
    assert_eq!(read(&receiving), "a");
    receiving.commit().unwrap();
    let receiving = receiving_within(&channel, 0);
    assert_eq!(code(receiving.pull().await), Code::Empty);
    drop(receiving);
    assert_eq!(channel.status().receivers, 0);
}

#[tokio::test]
async fn a_message_that_is_a_receivers_own_in_time_is_waited_for() {
    let channel = channel(0);
    let (first, second) = (channel.send().unwrap(), channel.send().unwrap());
    let receiving = receiving_within(&channel, 0);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(waits(receiving.pull()));
    now(first.push("x".into())).unwrap();
    first.end();
    assert_eq!(read(&receiving), "x");
    receiving.commit().unwrap();
    // One whose sender goes away before it has said anything is none.
    let receiving = receiving_within(&channel, 0);
    assert!(waits(receiving.pull()));
    drop(second);
    assert_eq!(code(receiving.pull().await), Code::Empty);
}

#[test]
fn a_slot_is_taken_until_its_message_is_committed() {
    let channel = channel(1);
    let a = sent(&channel, "a");
    let receiving = channel.receive();
    assert_eq!(read(&receiving), "a");
    let b = channel.send().unwrap();
    assert!(waits(b.placed()));
    receiving.commit().unwrap();
    now(b.placed()).unwrap();
    drop((a, b));
}

#[test]
fn of_a_long_message_a_slot_holds_its_share() {
    let channel = channel(1);
    let sending = channel.send().unwrap();
    now(sending.placed()).unwrap();
    now(sending.push(vec![1; HELD].into())).unwrap();
    assert!(waits(sending.push(vec![2; 1].into())), "32 KiB are held");
    let receiving = channel.receive();
    let mut length = 0;
    while let Poll::Ready(bytes) = poll(receiving.pull()) {
        length += joined(bytes.unwrap().unwrap()).len();
    }
    assert_eq!(length, HELD);
    now(sending.push(vec![2; 1].into())).unwrap();
    sending.end();
    assert!(waits(sending.stored()), "no slot holds all of it");
    assert_eq!(joined(now(receiving.pull()).unwrap().unwrap()), vec![2; 1]);
    assert_eq!(now(receiving.pull()).unwrap(), None);
    receiving.commit().unwrap();
    now(sending.stored()).unwrap();
}

#[test]
fn a_receiver_that_goes_away_leaves_its_message_at_the_head() {
    let channel = channel(3);
    let _sent = ["a", "b", "c"].map(|text| sent(&channel, text));
    let (first, second) = (channel.receive(), channel.receive());
    assert_eq!((read(&first), read(&second)), ("a".into(), "b".into()));
    // In whatever order they go, their messages come back in theirs.
    drop(first);
    drop(second);
    assert_eq!(received(&channel), "a");
    assert_eq!(received(&channel), "b");
    assert_eq!(received(&channel), "c");
    assert_eq!(channel.status().num_recv, 3);
}

#[test]
fn a_waiting_receiver_gets_what_another_left() {
    let channel = channel(0);
    let (first, second) = (channel.receive(), channel.receive());
    let sending = sent(&channel, "a");
    assert!(waits(second.matched()));
    assert_eq!(joined(now(first.pull()).unwrap().unwrap()), "a");
    drop(first);
    assert_eq!(read(&second), "a");
    second.commit().unwrap();
    now(sending.stored()).unwrap();
}

#[test]
fn a_receiver_lost_in_the_middle_of_a_long_message_fails_its_sender() {
    let channel = channel(1);
    let sending = channel.send().unwrap();
    now(sending.push(vec![0; HELD].into())).unwrap();
    let receiving = channel.receive();
    while let Poll::Ready(bytes) = poll(receiving.pull()) {
        bytes.unwrap();
    }
    now(sending.push(vec![0; 10].into())).unwrap();
    drop(receiving);
    assert_eq!(code(now(sending.push(vec![0; 1].into()))), Code::Aborted);
    assert_eq!(code(now(sending.stored())), Code::Aborted);
    // The slot is free again.
    now(sent(&channel, "next").stored()).unwrap();
}

#[test]
fn a_sender_lost_in_the_middle_fails_its_receiver_or_leaves_nothing() {
    let channel = channel(2);
    let sending = channel.send().unwrap();
    now(sending.push("half".into())).unwrap();
    drop(sending);
    assert_eq!(channel.status().num_send, 0, "it vanished uncounted");
    let receiving = channel.receive();
    let sending = channel.send().unwrap();
    now(sending.push("half".into())).unwrap();
    assert_eq!(joined(now(receiving.pull()).unwrap().unwrap()), "half");
    assert!(waits(receiving.pull()));
    drop(sending);
    assert_eq!(code(now(receiving.pull())), Code::Aborted);
    drop(receiving);
    assert_eq!(channel.status().held, 0);
    // And a stored message does not need its sender.
    drop(sent(&channel, "whole"));
    assert_eq!(received(&channel), "whole");
}

#[test]
fn a_sender_that_goes_while_it_waits_is_as_if_it_had_not_come() {
    let channel = channel(1);
    let _a = sent(&channel, "a");
    let b = channel.send().unwrap();
    let c = channel.send().unwrap();
    drop(b);
    assert_eq!(received(&channel), "a");
    now(c.placed()).unwrap();
    assert_eq!(channel.status().senders, 0);
}

#[test]
fn closing_refuses_what_comes_and_delivers_what_is_there() {
    let channel = channel(1);
    let _a = sent(&channel, "a");
    let waiting = channel.send().unwrap();
    channel.close().unwrap();
    assert_eq!(code(channel.send()), Code::Closed);
    assert_eq!(code(channel.close()), Code::Closed);
    let first = channel.receive();
    assert_eq!(read(&first), "a");
    first.commit().unwrap();
    now(waiting.push("b".into())).unwrap();
    waiting.end();
    let second = channel.receive();
    assert_eq!(read(&second), "b");
    let third = channel.receive();
    assert!(waits(third.matched()), "the second may still leave its own");
    second.commit().unwrap();
    assert_eq!(code(now(third.matched())), Code::Closed);
    assert_eq!(code(now(channel.receive().matched())), Code::Closed);
}

#[test]
fn scrubbing_aborts_everybody() {
    let channel = channel(0);
    let (receiving, idle) = (channel.receive(), channel.receive());
    let sending = sent(&channel, "a");
    assert_eq!(read(&receiving), "a");
    channel.scrub();
    assert_eq!(code(receiving.commit()), Code::Aborted);
    assert_eq!(code(now(idle.matched())), Code::Aborted);
    assert_eq!(code(now(sending.stored())), Code::Aborted);
    assert_eq!(code(channel.send()), Code::Aborted);
    assert_eq!(code(now(channel.receive().matched())), Code::Aborted);
}

#[test]
fn a_capacity_costs_nothing_until_it_is_used_and_has_a_limit() {
    assert_eq!(channel(1_000_000).status().cap, 1_000_000);
    assert_eq!(code(Channel::new(MAX_CAPACITY + 1)), Code::InvalidArgument);
}

#[test]
fn what_is_offered_drops_the_oldest() {
    let channel = channel(2);
    for text in ["a", "b", "c"] {
        channel.offer(text.into());
    }
    let first = channel.receive();
    assert_eq!(read(&first), "b");
    assert_eq!(channel.offer("d".into()), 1, "c was the oldest to be had");
    let second = channel.receive();
    assert_eq!(
        channel.offer("e".into()),
        1,
        "all are under way: the new one"
    );
    drop(first);
    assert_eq!(received(&channel), "b");
    assert_eq!(read(&second), "d");
}

#[test]
fn a_train_stores_in_order_and_tells_how_far() {
    let channel = channel(2);
    let mut pipeline = Pipeline::new(&channel);
    for text in ["a", "b", "c"] {
        assert!(pipeline.send(&mut text.into(), false).unwrap());
    }
    assert_eq!(pipeline.settled(), (2, Ok(())));
    let mut rest: Bytes = "lo".into();
    assert!(
        !pipeline.send(&mut rest, true).unwrap(),
        "it has no place yet"
    );
    assert_eq!(received(&channel), "a");
    assert_eq!(received(&channel), "b");
    assert!(pipeline.send(&mut rest, true).unwrap());
    assert!(pipeline.send(&mut "ng".into(), false).unwrap());
    assert_eq!(received(&channel), "c");
    assert_eq!(pipeline.settled(), (2, Ok(())));
    assert_eq!(received(&channel), "long");
    assert!(pipeline.is_empty());
    channel.close().unwrap();
    assert_eq!(code(pipeline.send(&mut "d".into(), false)), Code::Closed);
}

/// One event in the life of a channel.
#[derive(Debug, Clone)]
enum Step {
    Send { length: usize },
    Push(usize),
    End(usize),
    DropSender(usize),
    Receive,
    Pull(usize),
    Commit(usize),
    DropReceiver(usize),
    Close,
    Scrub,
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0usize..8;
    prop_oneof![
        6 => prop_oneof![Just(0), Just(1), Just(100), Just(HELD), Just(HELD + 1), Just(100_000)]
            .prop_map(|length| Step::Send { length }),
        12 => index.clone().prop_map(Step::Push),
        6 => index.clone().prop_map(Step::End),
        1 => index.clone().prop_map(Step::DropSender),
        6 => Just(Step::Receive),
        12 => index.clone().prop_map(Step::Pull),
        6 => index.clone().prop_map(Step::Commit),
        2 => index.prop_map(Step::DropReceiver),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let last = prop_oneof![
        8 => Just(None),
        2 => Just(Some(Step::Close)),
        1 => Just(Some(Step::Scrub)),
    ];
    (
        proptest::collection::vec(step(), 0..80),
        last,
        proptest::collection::vec(step(), 0..20),
    )
        .prop_map(|(before, event, after)| before.into_iter().chain(event).chain(after).collect())
}

/// A sender, and what it has said so far. Byte `n` of message `m` is `m + n`.
struct Sent {
    sending: Sending,
    message: usize,
    length: usize,
    pushed: usize,
    ended: bool,
}

fn bytes(message: usize, from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|n| (message + n) as u8).collect()
}

struct Received {
    receiving: Receiving,
    bytes: Vec<u8>,
    ended: bool,
}

proptest! {
    /// This holds for any order of events. Every committed message was sent, and is committed whole
    /// and once. A message whose sender heard that it is stored is committed or still there, and the
    /// sender of a committed message heard so. Memory keeps to its limit, and in the end all messages
    /// drain in order.
    #[test]
    fn nothing_is_lost_doubled_or_cut(capacity in 0u64..4, steps in steps()) {
        let channel = Channel::new(capacity).unwrap();
        let mut senders: Vec<Sent> = Vec::new();
        let mut receivers: Vec<Received> = Vec::new();
        let mut lengths: Vec<usize> = Vec::new();
        // Messages whose sender was told that the send succeeded, and those committed.
        let mut stored: Vec<bool> = Vec::new();
        let mut committed: Vec<usize> = Vec::new();
        let mut commits = 0;
        let (mut closed, mut scrubbed) = (false, false);
        // The message that a receiver's bytes are of: they begin with its number.
        let which = |bytes: &[u8], lengths: &[usize]| -> Vec<usize> {
            (0..lengths.len())
                .filter(|m| lengths[*m] == bytes.len() && self::bytes(*m, 0, bytes.len()) == bytes)
                .collect()
        };
        for step in steps {
            match step {
                Step::Send { length } => match channel.send() {
                    Ok(sending) => {
                        prop_assert!(!closed && !scrubbed);
                        let message = lengths.len();
                        lengths.push(length);
                        stored.push(false);
                        senders.push(Sent { sending, message, length, pushed: 0, ended: false });
                    }
                    Err(_) => prop_assert!(closed || scrubbed),
                },
                Step::Push(n) => if let Some(sent) = senders.get_mut(n) {
                    // As the server does: what is not taken now is offered again.
                    let to = sent.length.min(sent.pushed + 20_000);
                    let mut piece: Bytes = bytes(sent.message, sent.pushed, to).into();
                    let offered = piece.len();
                    channel.lock().push(sent.sending.number, &mut piece);
                    sent.pushed += offered - piece.len();
                },
                Step::End(n) => if let Some(sent) = senders.get_mut(n)
                    && sent.pushed == sent.length
                    && !waits(sent.sending.placed())
                {
                    sent.sending.end();
                    sent.ended = true;
                },
                Step::DropSender(n) => if n < senders.len() {
                    senders.remove(n);
                },
                Step::Receive => receivers.push(Received {
                    receiving: channel.receive(),
                    bytes: Vec::new(),
                    ended: false,
                }),
                Step::Pull(n) => if let Some(received) = receivers.get_mut(n) {
                    match poll(received.receiving.pull()) {
                        Poll::Ready(Ok(Some(bytes))) => received.bytes.extend_from_slice(&joined(bytes)),
                        Poll::Ready(Ok(None)) => received.ended = true,
                        Poll::Ready(Err(error)) => {
                            prop_assert!(matches!(error.code, Code::Closed | Code::Aborted));
                            receivers.remove(n);
                        }
                        Poll::Pending => (),
                    }
                },
                Step::Commit(n) => if receivers.get(n).is_some_and(|received| received.ended) {
                    let received = receivers.remove(n);
                    match received.receiving.commit() {
                        Ok(()) => {
                            commits += 1;
                            let found = which(&received.bytes, &lengths);
                            let new = found.iter().find(|m| !committed.contains(m));
                            let Some(new) = new else {
                                return Err(TestCaseError::fail("cut or doubled"));
                            };
                            committed.push(*new);
                        }
                        Err(_) => prop_assert!(scrubbed),
                    }
                },
                Step::DropReceiver(n) => if n < receivers.len() {
                    receivers.remove(n);
                },
                Step::Close => { closed = true; channel.close().unwrap(); }
                Step::Scrub => { scrubbed = true; channel.scrub(); }
            }
            for sent in &senders {
                if let Poll::Ready(Ok(())) = poll(sent.sending.stored()) {
                    prop_assert!(sent.ended);
                    stored[sent.message] = true;
                }
            }
            let status = channel.status();
            prop_assert!(status.held <= capacity);
            prop_assert_eq!(status.num_recv, commits);
            let waiting = channel.pending();
            prop_assert!(waiting == 0 || status.receivers == 0, "both wait");
        }
        if scrubbed {
            return Ok(());
        }
        // Everybody goes; what is left is what slots hold whole, in order, and the next to come
        // finds the channel working.
        receivers.clear();
        senders.clear();
        let mut left = Vec::new();
        while channel.pending() > 0 {
            let receiving = channel.receive();
            let mut bytes = Vec::new();
            while let Some(pieces) = now(receiving.pull()).unwrap() {
                bytes.extend_from_slice(&joined(pieces));
            }
            receiving.commit().unwrap();
            let found = which(&bytes, &lengths);
            let new = found.iter().find(|m| !committed.contains(m) && !left.contains(*m));
            let Some(new) = new else {
                return Err(TestCaseError::fail("cut or doubled"));
            };
            left.push(*new);
        }
        for (message, stored) in stored.iter().enumerate() {
            // Messages of the same length 256 apart look the same; fewer are sent here.
            prop_assert!(!stored || lengths[message] == 0 || committed.contains(&message) || left.contains(&message), "{} is lost", message);
        }
        prop_assert!(left.windows(2).all(|pair| pair[0] < pair[1] || lengths[pair[1]] == 0 || lengths[pair[0]] == 0), "out of order: {:?}", left);
        prop_assert_eq!(channel.status().held, 0);
        if !closed {
            let next = "the next";
            let receiving = channel.receive();
            drop(sent(&channel, next));
            prop_assert_eq!(now(receiving.pull()).unwrap().map(joined), Some(Bytes::from(next)));
        }
    }
}
