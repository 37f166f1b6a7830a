//! The messages in a channel and the callers that wait at it: all state that changes under the
//! channel's lock.
//!
//! No future is here and nothing waits: a change wakes the callers that can go on, through the
//! [`Ticket`] of a message's sender or the [`Claim`] of a receiver.
//!
//! **Invariants:** while receivers wait, no message does. Messages are matched in the order of
//! their numbers, receivers in the order in which they came. At most `capacity` messages have a
//! slot. A message is in one of two maps, or settled for good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bytes::Bytes;
use circuit_proto::element::channel::Status;
use tokio::sync::Notify;

use super::buffer::MessageBuffer;

/// The state of a message, as its sender sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Fate {
    /// It waits for a place.
    Waits,
    /// It has a place.
    Placed,
    /// The send has succeeded.
    Stored,
    /// Its receiver went away in the middle.
    Lost,
    /// The channel was scrubbed.
    Aborted,
}

/// The sender's hold on its message: the state that the sender sees, and how to wake the sender.
#[derive(Debug)]
pub(super) struct Ticket {
    fate: AtomicU8,
    wake: Arc<Notify>,
}

impl Ticket {
    pub(super) fn new(wake: Arc<Notify>) -> Arc<Ticket> {
        Arc::new(Ticket {
            fate: AtomicU8::new(Fate::Waits as u8),
            wake,
        })
    }

    pub(super) fn fate(&self) -> Fate {
        match self.fate.load(Ordering::Acquire) {
            0 => Fate::Waits,
            1 => Fate::Placed,
            2 => Fate::Stored,
            3 => Fate::Lost,
            _ => Fate::Aborted,
        }
    }

    /// Waits for the next change.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    fn becomes(&self, fate: Fate) {
        self.fate.store(fate as u8, Ordering::Release);
        self.wake.notify_one();
    }
}

/// The state of a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// It has no message yet.
    Waits,
    /// It has the message of this number.
    Message(u64),
    /// The channel is closed, and no message is left.
    Closed,
    /// The channel was scrubbed.
    Aborted,
    /// The message was received for good, or the place was given up.
    Done,
}

/// A receiver's place in line, and then its message.
#[derive(Debug)]
pub(super) struct Claim {
    /// Receivers have their turn by this number.
    turn: u64,
    state: AtomicU64,
    wake: Notify,
}

const WAITS: u64 = u64::MAX;
const CLOSED: u64 = u64::MAX - 1;
const ABORTED: u64 = u64::MAX - 2;
const DONE: u64 = u64::MAX - 3;

impl Claim {
    pub(super) fn state(&self) -> Match {
        match self.state.load(Ordering::Acquire) {
            WAITS => Match::Waits,
            CLOSED => Match::Closed,
            ABORTED => Match::Aborted,
            DONE => Match::Done,
            number => Match::Message(number),
        }
    }

    /// Waits for the next change.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    fn becomes(&self, state: u64) {
        self.state.store(state, Ordering::Release);
        self.wake.notify_one();
    }
}

/// The answer to a receiver that asks for more of its message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pulled {
    /// The next bytes, in the pieces in which they came.
    Data(Vec<Bytes>),
    /// The sender said that this is all.
    End,
    /// More is to come.
    Pending,
    /// The sender went away in the middle.
    Lost,
    /// The channel was scrubbed.
    Aborted,
}

/// A message, whole or in the middle of coming and going.
#[derive(Debug)]
struct Message {
    ticket: Arc<Ticket>,
    /// Whether its sender is there still.
    attended: bool,
    slot: bool,
    placed: bool,
    buffer: MessageBuffer,
    /// Whether all of it has come.
    whole: bool,
    claim: Option<Arc<Claim>>,
}

impl Message {
    /// How many more bytes it takes now: none while its place is not decided.
    fn room(&self) -> usize {
        match self.placed {
            true => self.buffer.room(self.claim.is_some()),
            false => 0,
        }
    }

    fn wake_receiver(&self) {
        if let Some(claim) = &self.claim {
            claim.wake.notify_one();
        }
    }

    /// Whether the receiver has all of it.
    fn is_received(&self) -> bool {
        self.whole && self.buffer.is_handed()
    }
}

#[derive(Debug)]
pub(super) struct Queue {
    capacity: u64,
    closed: bool,
    aborted: bool,
    next: u64,
    /// Messages that no receiver has, by number.
    unmatched: BTreeMap<u64, Message>,
    /// The numbers of those messages in `unmatched` that have no slot.
    waiting: BTreeSet<u64>,
    /// Messages that a receiver has.
    matched: BTreeMap<u64, Message>,
    /// Receivers without a message, by turn.
    receivers: BTreeMap<u64, Arc<Claim>>,
    next_turn: u64,
    slots: u64,
    num_send: u64,
    num_recv: u64,
}

/// The reason why the channel takes no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Closed,
    Aborted,
}

impl Queue {
    pub(super) fn new(capacity: u64) -> Queue {
        Queue {
            capacity,
            closed: false,
            aborted: false,
            next: 0,
            unmatched: BTreeMap::new(),
            waiting: BTreeSet::new(),
            matched: BTreeMap::new(),
            receivers: BTreeMap::new(),
            next_turn: 0,
            slots: 0,
            num_send: 0,
            num_recv: 0,
        }
    }

    pub(super) fn status(&self) -> Status {
        Status {
            cap: self.capacity,
            closed: self.closed,
            aborted: self.aborted,
            num_send: self.num_send,
            num_recv: self.num_recv,
            held: self.slots,
            senders: self.waiting.len() as u64,
            receivers: self.receivers.len() as u64,
        }
    }

    /// How many messages no receiver has.
    pub(super) fn unmatched(&self) -> usize {
        self.unmatched.len()
    }

    /// Takes a message in line: none of it, or all of it, which then fits a slot. Returns its
    /// number.
    pub(super) fn send(
        &mut self,
        ticket: Arc<Ticket>,
        whole: Option<Bytes>,
    ) -> Result<u64, Refused> {
        match (self.aborted, self.closed) {
            (true, _) => return Err(Refused::Aborted),
            (_, true) => return Err(Refused::Closed),
            (false, false) => (),
        }
        let number = self.next;
        self.next += 1;
        let message = Message {
            ticket,
            attended: true,
            slot: false,
            placed: false,
            whole: whole.is_some(),
            buffer: MessageBuffer::new(whole.map_or(Vec::new(), |bytes| bytes.to_vec())),
            claim: None,
        };
        self.unmatched.insert(number, message);
        self.waiting.insert(number);
        self.settle();
        Ok(number)
    }

    /// Adds to a message as many bytes as it takes now, and leaves the rest. `false` if the message
    /// is settled; its ticket says how.
    pub(super) fn push(&mut self, number: u64, bytes: &mut Bytes) -> bool {
        let Some(message) = self.message(number) else {
            return false;
        };
        let room = message.room();
        if room == 0 || bytes.is_empty() {
            return true;
        }
        let fitted = !message.buffer.has_outgrown();
        message.buffer.add(bytes.split_to(bytes.len().min(room)));
        let outgrew = fitted && message.buffer.has_outgrown();
        message.wake_receiver();
        if outgrew && self.closed {
            // A message that outgrew its slot does not come back: receivers that wait for that
            // need wait no longer.
            self.settle();
        }
        true
    }

    /// All of the message has come.
    pub(super) fn end(&mut self, number: u64) {
        let Some(message) = self.message(number) else {
            return;
        };
        message.whole = true;
        if message.slot && !message.buffer.has_outgrown() {
            message.ticket.becomes(Fate::Stored);
        }
        message.wake_receiver();
    }

    /// The sender of a message is gone, or has no interest in it any more.
    pub(super) fn unattend(&mut self, number: u64) {
        if let Some(message) = self.matched.get_mut(&number) {
            message.attended = false;
            match (message.whole, message.buffer.is_begun()) {
                (true, _) => (),
                (false, true) => message.wake_receiver(),
                // The receiver has seen nothing of the message, and waits for another.
                (false, false) => {
                    if let Some(mut message) = self.matched.remove(&number) {
                        self.vanish(number, &message);
                        if let Some(claim) = message.claim.take() {
                            claim.becomes(WAITS);
                            self.receivers.insert(claim.turn, claim);
                        }
                    }
                    self.settle();
                }
            }
        } else if let Some(message) = self.unmatched.get_mut(&number) {
            message.attended = false;
            if !(message.slot && message.whole) {
                if let Some(message) = self.unmatched.remove(&number) {
                    self.vanish(number, &message);
                }
                self.settle();
            }
        }
    }

    /// A place in line for a receiver.
    pub(super) fn receive(&mut self) -> Arc<Claim> {
        let claim = self.claim();
        if self.aborted {
            claim.becomes(ABORTED);
        } else {
            self.receivers.insert(claim.turn, claim.clone());
        }
        self.settle();
        claim
    }

    fn claim(&mut self) -> Arc<Claim> {
        let turn = self.next_turn;
        self.next_turn += 1;
        Arc::new(Claim {
            turn,
            state: AtomicU64::new(WAITS),
            wake: Notify::new(),
        })
    }

    /// The next message, if it is there as a whole and no longer than `limit`; nobody waits.
    pub(super) fn receive_ready(&mut self, limit: usize) -> Option<Arc<Claim>> {
        let (&number, message) = self.unmatched.first_key_value()?;
        if !message.whole || message.buffer.len() > limit {
            return None;
        }
        let claim = self.claim();
        self.give(number, claim.clone());
        Some(claim)
    }

    /// The next bytes of a receiver's message, at most `most` of them unless one piece is longer.
    pub(super) fn pull(&mut self, number: u64, most: usize) -> Pulled {
        let Some(message) = self.matched.get_mut(&number) else {
            return Pulled::Aborted;
        };
        let pieces = message.buffer.hand(most);
        if !pieces.is_empty() {
            if !message.whole {
                // There may be room for more.
                message.ticket.wake.notify_one();
            }
            return Pulled::Data(pieces);
        }
        match (message.whole, message.attended) {
            (true, _) => Pulled::End,
            (false, true) => Pulled::Pending,
            (false, false) => Pulled::Lost,
        }
    }

    /// The receiver has all of its message: it is received for good. `false` if it has not, or the
    /// channel was scrubbed.
    pub(super) fn commit(&mut self, claim: &Claim) -> bool {
        let Match::Message(number) = claim.state() else {
            return false;
        };
        match self.matched.get(&number) {
            Some(message) if message.is_received() => (),
            _ => return false,
        }
        if let Some(message) = self.matched.remove(&number) {
            claim.becomes(DONE);
            self.num_recv += 1;
            self.slots -= u64::from(message.slot);
            message.ticket.becomes(Fate::Stored);
        }
        self.settle();
        true
    }

    /// A receiver is gone: its message goes back to its place in line, if another can have it.
    pub(super) fn give_up(&mut self, claim: &Arc<Claim>) {
        match claim.state() {
            Match::Waits => {
                self.receivers.remove(&claim.turn);
            }
            Match::Message(number) => {
                let Some(mut message) = self.matched.remove(&number) else {
                    return;
                };
                let has_sender = message.attended || message.slot && message.whole;
                if message.buffer.has_outgrown() || !has_sender {
                    // The message had its place, and so it counts, but no other receiver can have
                    // it.
                    self.slots -= u64::from(message.slot);
                    message.ticket.becomes(Fate::Lost);
                } else {
                    message.claim = None;
                    message.buffer.rewind();
                    if !message.slot {
                        self.waiting.insert(number);
                    }
                    self.unmatched.insert(number, message);
                }
            }
            Match::Closed | Match::Aborted | Match::Done => return,
        }
        claim.becomes(DONE);
        self.settle();
    }

    /// Whether all slots are taken.
    pub(super) fn is_full(&self) -> bool {
        self.slots >= self.capacity
    }

    /// Drops the oldest message that no receiver has; `false` if there is none.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let Some((number, message)) = self.unmatched.pop_first() else {
            return false;
        };
        self.vanish(number, &message);
        true
    }

    /// Takes no more messages. `false` if it took none already.
    pub(super) fn close(&mut self) -> bool {
        let closes = !self.closed;
        self.closed = true;
        self.settle();
        closes
    }

    /// Drops all messages, and tells all senders and receivers `Aborted`.
    pub(super) fn abort(&mut self) {
        self.aborted = true;
        let unmatched = std::mem::take(&mut self.unmatched).into_values();
        let matched = std::mem::take(&mut self.matched).into_values();
        for message in unmatched.chain(matched) {
            if message.ticket.fate() != Fate::Stored {
                message.ticket.becomes(Fate::Aborted);
            }
            if let Some(claim) = message.claim {
                claim.becomes(ABORTED);
            }
        }
        self.waiting.clear();
        self.slots = 0;
        for claim in std::mem::take(&mut self.receivers).into_values() {
            claim.becomes(ABORTED);
        }
    }

    fn message(&mut self, number: u64) -> Option<&mut Message> {
        match self.matched.get_mut(&number) {
            Some(message) => Some(message),
            None => self.unmatched.get_mut(&number),
        }
    }

    /// Forgets a message that nobody received, as if it had never been sent.
    fn vanish(&mut self, number: u64, message: &Message) {
        self.waiting.remove(&number);
        self.slots -= u64::from(message.slot);
        self.num_send -= u64::from(message.placed);
    }

    /// Gives free slots to waiting messages, and messages to waiting receivers, each in turn.
    fn settle(&mut self) {
        while self.slots < self.capacity {
            let Some(number) = self.waiting.pop_first() else {
                break;
            };
            let Some(message) = self.unmatched.get_mut(&number) else {
                continue;
            };
            message.slot = true;
            self.slots += 1;
            self.num_send += u64::from(!message.placed);
            message.placed = true;
            let fate = match message.whole && !message.buffer.has_outgrown() {
                true => Fate::Stored,
                false => Fate::Placed,
            };
            message.ticket.becomes(fate);
        }
        while let Some((&number, _)) = self.unmatched.first_key_value()
            && let Some((_, claim)) = self.receivers.pop_first()
        {
            self.give(number, claim);
        }
        // A message that a receiver may give back may still be received by another.
        if self.closed
            && !self.receivers.is_empty()
            && !self
                .matched
                .values()
                .any(|message| !message.buffer.has_outgrown())
        {
            for claim in std::mem::take(&mut self.receivers).into_values() {
                claim.becomes(CLOSED);
            }
        }
    }

    /// Gives an unmatched message to a receiver.
    fn give(&mut self, number: u64, claim: Arc<Claim>) {
        let Some(mut message) = self.unmatched.remove(&number) else {
            return;
        };
        self.waiting.remove(&number);
        if !message.placed {
            message.placed = true;
            self.num_send += 1;
            message.ticket.becomes(Fate::Placed);
        } else if !message.whole {
            // There may be room for more.
            message.ticket.wake.notify_one();
        }
        claim.becomes(number);
        message.claim = Some(claim);
        self.matched.insert(number, message);
    }
}
