//! A channel: Go's, spanning hosts. A message is a byte pipe of any length.
//!
//! [`Sending`] and [`Receiving`] are the two sides of one message, [`Pipeline`] has the messages of
//! a sender of many; `server/ops/channel.rs` connects them to a caller's stream. This file knows
//! nothing of streams and peers. [`queue`] holds the messages and decides whose turn it is.
//!
//! **Invariants:** a message is committed by one receiver at most. A sender that was told *stored*
//! has its message committed, or it is in the channel. Nobody's disappearance loses a message that
//! the channel holds whole, or blocks anybody else.
//!
//! **Cancellation:** a [`Sending`] or [`Receiving`] that is dropped says that its sender or receiver
//! is gone. Dropping a future of theirs changes nothing.

mod buffer;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod queue;
#[cfg(test)]
mod tests;

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use circuit_proto::codec::MAX_CHUNK;
use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::channel::{HELD, MAX_CAPACITY, Status};
use circuit_proto::{Code, ElementKind, Error};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Lifecycle;
use queue::{Claim, Fate, Match, Pulled, Queue, Refused, Ticket};

/// A channel.
#[derive(Debug)]
pub struct Channel {
    queue: Mutex<Queue>,
    /// Tells its maker that it was scrubbed, if the maker waits for that.
    scrubbed: Notify,
    /// The word for it in errors: elements that are channels inside have their own.
    what: &'static str,
}

impl Channel {
    /// An empty channel that holds so many messages for receivers to come. Unused capacity takes no
    /// memory.
    pub fn new(capacity: u64) -> Result<Arc<Channel>, Error> {
        Channel::called("channel", capacity)
    }

    /// An empty channel that errors call by another word, for elements that are channels inside.
    pub fn called(what: &'static str, capacity: u64) -> Result<Arc<Channel>, Error> {
        if capacity > MAX_CAPACITY {
            let message = format!("a capacity of {capacity}: at most {MAX_CAPACITY}");
            return Err(Error::new(Code::InvalidArgument, message));
        }
        Ok(Arc::new(Channel {
            queue: Mutex::new(Queue::new(capacity)),
            scrubbed: Notify::new(),
            what,
        }))
    }

    /// Its status, for `peek`.
    pub fn status(&self) -> Status {
        self.lock().status()
    }

    /// How many messages no receiver has.
    pub fn pending(&self) -> usize {
        self.lock().unmatched()
    }

    /// Closes the channel: it takes no more messages, and those that it has are still received.
    /// Closing it twice is an error.
    pub fn close(&self) -> Result<(), Error> {
        match self.lock().close() {
            true => Ok(()),
            false => Err(Error::new(Code::Closed, "closed already")),
        }
    }

    /// Drops all messages, and fails all senders and receivers with `Aborted`.
    pub fn scrub(&self) {
        self.lock().abort();
        self.scrubbed.notify_waiters();
    }

    /// Brings a message, of which nothing has come yet. Fails once the channel is closed.
    pub fn send(self: &Arc<Self>) -> Result<Sending, Error> {
        let ticket = Ticket::new(Arc::new(Notify::new()));
        let sent = self.lock().send(ticket.clone(), None);
        let number = sent.map_err(|why| self.refused(why))?;
        Ok(Sending {
            channel: self.clone(),
            ticket,
            number,
        })
    }

    /// Puts a short message into a slot. If none is free, the oldest message that no receiver has
    /// is dropped. Returns how many messages were dropped.
    pub fn offer(&self, bytes: Bytes) -> u64 {
        let mut queue = self.lock();
        let mut dropped = 0;
        while queue.is_full() {
            dropped += 1;
            if !queue.drop_oldest() {
                // Receivers have all messages, and may give them back: the new one is dropped.
                return dropped;
            }
        }
        let ticket = Ticket::new(Arc::new(Notify::new()));
        // A channel that was scrubbed needs no more messages.
        if let Ok(number) = queue.send(ticket, Some(bytes)) {
            queue.unattend(number);
        }
        dropped
    }

    /// Gets in line for a message.
    pub fn receive(self: &Arc<Self>) -> Receiving {
        let claim = self.lock().receive();
        Receiving::new(self, claim)
    }

    /// The next message, if all of it is here and no longer than `limit`.
    pub fn receive_ready(self: &Arc<Self>, limit: usize) -> Option<Receiving> {
        let claim = self.lock().receive_ready(limit)?;
        Some(Receiving::new(self, claim))
    }

    fn refused(&self, refused: Refused) -> Error {
        match refused {
            Refused::Closed => self.closed(),
            Refused::Aborted => self.aborted(),
        }
    }

    fn failure(&self, fate: Fate) -> Option<Error> {
        match fate {
            Fate::Waits | Fate::Placed | Fate::Stored => None,
            Fate::Lost => Some(lost("receiver")),
            Fate::Aborted => Some(self.aborted()),
        }
    }

    fn closed(&self) -> Error {
        Error::new(Code::Closed, format!("the {} is closed", self.what))
    }

    fn aborted(&self) -> Error {
        Error::new(Code::Aborted, format!("the {} was scrubbed", self.what))
    }

    fn empty(&self) -> Error {
        Error::new(Code::Empty, format!("the {} has no message", self.what))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

impl Lifecycle for Channel {
    fn kind(&self) -> ElementKind {
        ElementKind::Channel
    }

    async fn status(&self) -> Result<AnyStatus, Error> {
        Ok(AnyStatus::Channel(self.status()))
    }

    async fn scrubbed(&self) {
        self.scrub();
    }

    async fn aborted(&self) -> Error {
        let mut scrubbed = std::pin::pin!(self.scrubbed.notified());
        // Before it is looked at: a scrub in between is heard of.
        scrubbed.as_mut().enable();
        if !self.status().aborted {
            scrubbed.await;
        }
        Channel::aborted(self)
    }
}

/// Joins pieces into one, which copies them if there are several.
pub fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    match pieces.len() {
        1 => pieces.pop().unwrap_or_default(),
        _ => pieces.concat().into(),
    }
}

fn lost(who: &str) -> Error {
    let message = format!("the {who} went away in the middle of the message");
    Error::new(Code::Aborted, message)
}

/// A message on its way in. If it is dropped, its sender is gone.
#[derive(Debug)]
pub struct Sending {
    channel: Arc<Channel>,
    ticket: Arc<Ticket>,
    number: u64,
}

impl Sending {
    /// Resolves when the message has a place: a slot, or a receiver.
    pub async fn placed(&self) -> Result<(), Error> {
        self.until(|fate| fate != Fate::Waits).await
    }

    /// Adds to the message. Waits while its slot is full and nobody receives it.
    pub async fn push(&self, mut bytes: Bytes) -> Result<(), Error> {
        loop {
            let there = self.channel.lock().push(self.number, &mut bytes);
            match self.failure() {
                Some(error) => return Err(error),
                None if !there => return Err(self.channel.aborted()),
                None if bytes.is_empty() => return Ok(()),
                None => self.ticket.changed().await,
            }
        }
    }

    /// All of the message has come.
    pub fn end(&self) {
        self.channel.lock().end(self.number);
    }

    /// Resolves when the send has succeeded: a slot holds the whole message, or a receiver has
    /// committed it.
    pub async fn stored(&self) -> Result<(), Error> {
        self.until(|fate| fate == Fate::Stored).await
    }

    /// Resolves when the message cannot be delivered any more.
    pub async fn failed(&self) -> Error {
        match self.until(|_| false).await {
            Err(error) => error,
            // `until` ends by a failure only, as nothing is reached.
            Ok(()) => std::future::pending().await,
        }
    }

    async fn until(&self, reached: impl Fn(Fate) -> bool) -> Result<(), Error> {
        loop {
            match self.failure() {
                Some(error) => return Err(error),
                None if reached(self.ticket.fate()) => return Ok(()),
                None => self.ticket.changed().await,
            }
        }
    }

    fn failure(&self) -> Option<Error> {
        self.channel.failure(self.ticket.fate())
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.channel.lock().unattend(self.number);
    }
}

/// The messages of one sender that are on their way in, in order. If it is dropped, the sender is
/// gone.
#[derive(Debug)]
pub struct Pipeline {
    channel: Arc<Channel>,
    wake: Arc<Notify>,
    under_way: VecDeque<InFlight>,
    bytes: usize,
    /// Whether more of the last message is to come.
    open: bool,
}

#[derive(Debug)]
struct InFlight {
    number: u64,
    ticket: Arc<Ticket>,
    length: usize,
    is_short: bool,
}

impl InFlight {
    fn may_fail(&self) -> bool {
        !self.is_short && self.ticket.fate() != Fate::Stored
    }
}

impl Pipeline {
    /// A sender of many messages, who has sent none.
    pub fn new(channel: &Arc<Channel>) -> Pipeline {
        Pipeline {
            channel: channel.clone(),
            wake: Arc::new(Notify::new()),
            under_way: VecDeque::new(),
            bytes: 0,
            open: false,
        }
    }

    /// Sends a message or a piece of one; `more` says whether another piece of it follows. Takes as
    /// many bytes as the channel takes without waiting, and leaves the rest: then the caller calls
    /// again, with the rest, after a change. `true` if all was taken.
    ///
    /// A message that is longer than a slot, and so may fail alone, is settled before the next
    /// begins: where one fails, none behind it was sent.
    ///
    /// Fails if the channel takes no more messages.
    pub fn send(&mut self, bytes: &mut Bytes, more: bool) -> Result<bool, Error> {
        if !self.open {
            if self.under_way.back().is_some_and(InFlight::may_fail) {
                return Ok(false);
            }
            let ticket = Ticket::new(self.wake.clone());
            let is_whole = !more && bytes.len() <= HELD;
            let whole = is_whole.then(|| std::mem::take(bytes));
            let length = whole.as_ref().map_or(0, Bytes::len);
            let sent = self.channel.lock().send(ticket.clone(), whole);
            self.under_way.push_back(InFlight {
                number: sent.map_err(|why| self.channel.refused(why))?,
                ticket,
                length,
                is_short: is_whole,
            });
            self.bytes += length;
            self.open = !is_whole;
        }
        if let (true, Some(last)) = (self.open, self.under_way.back()) {
            let mut queue = self.channel.lock();
            if !queue.push(last.number, bytes) {
                // The message is settled: its fate is told in its turn, and nobody needs the rest.
                bytes.clear();
            }
            if !bytes.is_empty() {
                return Ok(false);
            }
            if !more {
                queue.end(last.number);
                self.open = false;
            }
        }
        Ok(true)
    }

    /// How many messages are under way.
    pub fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Whether no message is under way.
    pub fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }

    /// How many bytes the short messages under way have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes out the messages at the front that are stored, and counts them. Fails if the message
    /// behind them failed.
    pub fn settled(&mut self) -> (u64, Result<(), Error>) {
        let mut count = 0;
        while let Some(first) = self.under_way.front() {
            match first.ticket.fate() {
                Fate::Stored => {
                    count += 1;
                    self.bytes -= first.length;
                    self.under_way.pop_front();
                }
                other => return (count, self.channel.failure(other).map_or(Ok(()), Err)),
            }
        }
        (count, Ok(()))
    }

    /// Resolves when a message has another fate, or when the channel takes more of one.
    pub async fn changed(&self) {
        self.wake.notified().await;
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let mut queue = self.channel.lock();
        // The last first, so that none gets a place that another one leaves only now.
        for message in self.under_way.drain(..).rev() {
            queue.unattend(message.number);
        }
    }
}

/// A message on its way out, or a place in line for one. If it is dropped before it is committed, its
/// receiver is gone.
#[derive(Debug)]
pub struct Receiving {
    channel: Arc<Channel>,
    claim: Arc<Claim>,
    /// When it waits no longer for a message.
    until: Option<Instant>,
}

impl Receiving {
    fn new(channel: &Arc<Channel>, claim: Arc<Claim>) -> Receiving {
        Receiving {
            channel: channel.clone(),
            claim,
            until: None,
        }
    }

    /// Has it wait for a message for so long from now, and fail with `Empty` then. A message that is
    /// its own by then is received, however long it takes to come.
    pub fn wait_for(&mut self, time: Duration) {
        self.until = Instant::now().checked_add(time);
    }

    /// Resolves when there is a message for this receiver.
    pub async fn matched(&self) -> Result<(), Error> {
        loop {
            match self.claim.state() {
                Match::Waits => match self.until {
                    None => self.claim.changed().await,
                    Some(until) => {
                        let changed = tokio::time::timeout_at(until, self.claim.changed()).await;
                        if changed.is_err() && self.claim.state() == Match::Waits {
                            return Err(self.channel.empty());
                        }
                    }
                },
                Match::Message(_) => return Ok(()),
                Match::Closed => return Err(self.channel.closed()),
                Match::Aborted | Match::Done => return Err(self.channel.aborted()),
            }
        }
    }

    /// The next bytes, a chunk of them at most; `None` at the end of the message.
    pub async fn pull(&self) -> Result<Option<Vec<Bytes>>, Error> {
        loop {
            self.matched().await?;
            match self.try_pull(MAX_CHUNK) {
                Pulled::Data(pieces) => return Ok(Some(pieces)),
                Pulled::End => return Ok(None),
                Pulled::Pending => self.claim.changed().await,
                Pulled::Lost => return Err(lost("sender")),
                Pulled::Aborted => return Err(self.channel.aborted()),
            }
        }
    }

    /// All of the message, if it is here: in one piece if it came in one.
    pub fn take_whole(&self) -> Option<Bytes> {
        let pieces = match self.try_pull(usize::MAX) {
            Pulled::Data(pieces) => pieces,
            Pulled::End => return Some(Bytes::new()),
            Pulled::Pending | Pulled::Lost | Pulled::Aborted => return None,
        };
        match self.try_pull(usize::MAX) {
            Pulled::End => Some(joined(pieces)),
            Pulled::Data(_) | Pulled::Pending | Pulled::Lost | Pulled::Aborted => None,
        }
    }

    /// The receiver has all of the message, and says so: it is received for good.
    pub fn commit(self) -> Result<(), Error> {
        match self.channel.lock().commit(&self.claim) {
            true => Ok(()),
            false => Err(self.channel.aborted()),
        }
    }

    fn try_pull(&self, most: usize) -> Pulled {
        match self.claim.state() {
            Match::Message(number) => self.channel.lock().pull(number, most),
            Match::Waits => Pulled::Pending,
            Match::Closed | Match::Aborted | Match::Done => Pulled::Aborted,
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.channel.lock().give_up(&self.claim);
    }
}
