//! The body of a fuzz target: operations on a [`Queue`], against what its users are promised.
//!
//! Every byte of a message tells where in which message it stands, so that a receiver's bytes show
//! whose they are and whether one is missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::Unstructured;
use bytes::Bytes;
use circuit_proto::element::channel::HELD;
use tokio::sync::Notify;

use super::queue::{Claim, Fate, Match, Pulled, Queue, Ticket};

/// How many senders or receivers there may be at a time. Chosen, not measured.
const MOST: usize = 64;

/// A message, as its sender knows it.
struct Sent {
    ticket: Arc<Ticket>,
    /// How many bytes the queue took.
    pushed: usize,
    ended: bool,
    /// Whether the sender has gone.
    gone: bool,
}

/// A receiver, and what it has of its message.
struct Receiver {
    claim: Arc<Claim>,
    message: Option<u64>,
    pulled: usize,
}

#[derive(Default)]
struct Model {
    sent: BTreeMap<u64, Sent>,
    receivers: Vec<Receiver>,
    /// The messages that were received for good.
    received: Vec<u64>,
    closed: bool,
    aborted: bool,
}

/// Runs the operations of an input.
pub(crate) fn queue(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let capacity = small(&mut script) % 5;
    let mut queue = Queue::new(capacity.into());
    let mut model = Model::default();
    while !script.is_empty() {
        model.step(&mut queue, &mut script);
        model.check(&queue, capacity.into());
    }
    model.finish(&mut queue, capacity.into());
}

/// The next number of the input; zero behind its end.
fn small(script: &mut Unstructured<'_>) -> u8 {
    script.arbitrary().unwrap_or_default()
}

fn number(script: &mut Unstructured<'_>) -> u16 {
    script.arbitrary().unwrap_or_default()
}

/// The byte of a message at a place.
fn byte(number: u64, at: usize) -> u8 {
    (number.wrapping_mul(151) ^ (at as u64).wrapping_mul(31) ^ (at as u64 >> 8)) as u8
}

fn bytes(number: u64, from: usize, count: usize) -> Bytes {
    (from..from + count).map(|at| byte(number, at)).collect()
}

impl Model {
    fn step(&mut self, queue: &mut Queue, script: &mut Unstructured<'_>) {
        let operation = small(script);
        let open = self.sent.iter().filter(|(_, sent)| !sent.gone);
        let open: Vec<u64> = open.map(|(number, _)| *number).collect();
        match operation % 10 {
            0 if open.len() < MOST => self.send(queue, None),
            1 if open.len() < MOST => self.send(queue, Some(usize::from(number(script)) % HELD)),
            2 => {
                let count = usize::from(number(script));
                let Some(&number) = open.get(usize::from(small(script)) % open.len().max(1)) else {
                    return;
                };
                self.push(queue, number, count);
            }
            3 => {
                let Some(&number) = open.get(usize::from(small(script)) % open.len().max(1)) else {
                    return;
                };
                queue.end(number);
                let sent = self.sent.get_mut(&number).expect("it is open");
                sent.ended = true;
            }
            4 => {
                let Some(&number) = open.get(usize::from(small(script)) % open.len().max(1)) else {
                    return;
                };
                queue.unattend(number);
                self.sent.get_mut(&number).expect("it is open").gone = true;
            }
            5 if self.receivers.len() < MOST => {
                let claim = queue.receive();
                self.receivers.push(Receiver::new(claim));
            }
            6 if self.receivers.len() < MOST => {
                if let Some(claim) = queue.receive_ready(number(script).into()) {
                    assert!(matches!(claim.state(), Match::Message(_)));
                    self.receivers.push(Receiver::new(claim));
                }
            }
            7 => {
                let (at, most) = (usize::from(small(script)), number(script));
                if !self.receivers.is_empty() {
                    let at = at % self.receivers.len();
                    self.pull(queue, at, most.into());
                }
            }
            8 => {
                let (at, commits) = (usize::from(small(script)), small(script).is_multiple_of(2));
                if self.receivers.is_empty() {
                    return;
                }
                let at = at % self.receivers.len();
                match commits {
                    true => {
                        self.commit(queue, at);
                    }
                    false => {
                        let receiver = self.receivers.swap_remove(at);
                        queue.give_up(&receiver.claim);
                        assert!(!matches!(
                            receiver.claim.state(),
                            Match::Waits | Match::Message(_)
                        ));
                    }
                }
            }
            9 => match small(script) {
                // This is rare, as nothing happens after it.
                0 => {
                    queue.abort();
                    self.aborted = true;
                }
                1..=40 => {
                    assert_eq!(queue.close(), !self.closed);
                    self.closed = true;
                }
                _ => (),
            },
            _ => (),
        }
    }

    fn send(&mut self, queue: &mut Queue, whole: Option<usize>) {
        let ticket = Ticket::new(Arc::new(Notify::new()));
        let number = self.sent.len() as u64;
        let body = whole.map(|count| bytes(number, 0, count));
        match queue.send(ticket.clone(), body) {
            Ok(given) => {
                assert!(!self.closed && !self.aborted);
                assert_eq!(given, number);
                let sent = Sent {
                    ticket,
                    pushed: whole.unwrap_or(0),
                    ended: whole.is_some(),
                    gone: false,
                };
                self.sent.insert(number, sent);
            }
            Err(_) => assert!(self.closed || self.aborted),
        }
    }

    fn push(&mut self, queue: &mut Queue, number: u64, count: usize) {
        let sent = self.sent.get_mut(&number).expect("it is open");
        if sent.ended {
            return;
        }
        let mut more = bytes(number, sent.pushed, count);
        let taken = queue.push(number, &mut more);
        assert!(taken || more.len() == count);
        sent.pushed += count - more.len();
    }

    fn pull(&mut self, queue: &mut Queue, at: usize, most: usize) {
        let receiver = &mut self.receivers[at];
        let Match::Message(number) = receiver.claim.state() else {
            return;
        };
        if receiver.message != Some(number) {
            // Another message than before only if nothing was handed out of that.
            assert!(receiver.message.is_none() || receiver.pulled == 0);
            (receiver.message, receiver.pulled) = (Some(number), 0);
        }
        let sent = &self.sent[&number];
        match queue.pull(number, most) {
            Pulled::Data(pieces) => {
                for byte_here in pieces.iter().flatten() {
                    assert_eq!(*byte_here, byte(number, receiver.pulled));
                    receiver.pulled += 1;
                }
                assert!(receiver.pulled <= sent.pushed);
            }
            Pulled::End => assert!(sent.ended && (most == 0 || receiver.pulled == sent.pushed)),
            Pulled::Pending => assert!(!sent.ended && !sent.gone || most == 0),
            Pulled::Lost => assert!(sent.gone && !sent.ended || most == 0),
            Pulled::Aborted => assert!(self.aborted),
        }
    }

    /// Whether the message of a receiver is received for good.
    fn commit(&mut self, queue: &mut Queue, at: usize) -> bool {
        let receiver = &self.receivers[at];
        let before = receiver.claim.state();
        let committed = queue.commit(&receiver.claim);
        if committed {
            let Match::Message(number) = before else {
                panic!("{before:?} was committed");
            };
            let sent = &self.sent[&number];
            assert!(sent.ended, "the end was received");
            let pulled = match receiver.message == Some(number) {
                true => receiver.pulled,
                // An empty message needs no pulling.
                false => 0,
            };
            assert_eq!(pulled, sent.pushed, "all was received");
            assert_eq!(sent.ticket.fate(), Fate::Stored);
            assert!(!self.received.contains(&number), "it was received twice");
            self.received.push(number);
            self.receivers.swap_remove(at);
        }
        committed
    }

    fn check(&self, queue: &Queue, capacity: u64) {
        let status = queue.status();
        assert!(status.held <= capacity);
        assert!(status.num_recv <= status.num_send);
        assert_eq!(status.num_recv, self.received.len() as u64);
        assert_eq!((status.closed, status.aborted), (self.closed, self.aborted));
        assert!(status.senders as usize <= queue.unmatched());
        assert!(queue.unmatched() <= self.sent.len());
        assert!(status.receivers as usize <= self.receivers.len());
        if status.receivers > 0 {
            assert_eq!(queue.unmatched(), 0, "receivers wait, and a message does");
        }
        // A slot that is free while a message waits for one would be given to nobody.
        assert!(status.senders == 0 || status.held == capacity);
    }

    /// Everybody goes away. What was stored is there, once, in the order of sending, and nothing
    /// else but what others had received.
    fn finish(mut self, queue: &mut Queue, capacity: u64) {
        for receiver in std::mem::take(&mut self.receivers) {
            queue.give_up(&receiver.claim);
        }
        for (number, sent) in &mut self.sent {
            queue.unattend(*number);
            sent.gone = true;
        }
        self.check(queue, capacity);
        let before = self.received.len();
        while let Some(claim) = queue.receive_ready(usize::MAX) {
            self.receivers.push(Receiver::new(claim));
            self.pull(queue, 0, usize::MAX);
            assert!(self.commit(queue, 0));
        }
        assert_eq!(queue.unmatched(), 0);
        assert!(self.received[before..].is_sorted(), "the order of sending");
        assert_eq!(queue.status().held, 0);
        if !self.aborted {
            for (number, sent) in &self.sent {
                let stored = sent.ticket.fate() == Fate::Stored;
                assert_eq!(stored, self.received.contains(number), "message {number}");
            }
            assert_eq!(queue.status().num_recv, self.received.len() as u64);
        }
    }
}

impl Receiver {
    fn new(claim: Arc<Claim>) -> Receiver {
        Receiver {
            claim,
            message: None,
            pulled: 0,
        }
    }
}
