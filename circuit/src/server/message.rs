//! Messages of channels and subscriptions over a caller's stream: one, or many.
//!
//! What the caller is told rests on the element alone: [`Sending`] and [`Receiving`] decide, this
//! file carries the words. See [`circuit_proto::element::channel`] for those.
//!
//! **Cancellation:** a caller that goes away takes its sends and receives along; what was stored or
//! acknowledged stays so.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use circuit_proto::codec::{self, MAX_CHUNK};
use circuit_proto::element::channel::{Delivery, Demand, HELD, RECORD_HEADER, Record};
use circuit_proto::request::{End, Reply, Value};
use circuit_proto::{Code, Error};

use super::call::{Call, Gone};
use crate::element::channel::{Channel, Receiving, Sending, Train, joined};

/// What says that a message has its place.
const PLACED: Bytes = Bytes::from_static(&[1]);

/// How many messages are under way at once on a stream of many, and how much of a sender's is taken
/// before it is stored. Chosen: what a connection brings in a few milliseconds, and small beside
/// its window.
const UNDER_WAY: usize = 4096;
const BYTES_UNDER_WAY: usize = 256 << 10;

/// How many bytes are handed over at one demand, but for the last message's. Chosen: a few chunks.
const BATCH: usize = 256 << 10;

impl Call {
    /// Takes one message from the caller.
    pub(super) async fn send_message(mut self, channel: &Arc<Channel>) {
        let sending = match channel.send() {
            Ok(sending) => sending,
            Err(error) => return self.refuse(error).await,
        };
        let abandoned = self.send.abandoned();
        let taken = tokio::select! {
            taken = self.take_message(&sending) => taken,
            () = abandoned => return,
        };
        drop(sending);
        if let Ok(end) = taken {
            self.close(end).await;
        }
    }

    async fn take_message(&mut self, sending: &Sending) -> Result<End, Gone> {
        self.send.frame(&Reply::Ok(Value::default())).await?;
        if let Err(error) = sending.placed().await {
            return Ok(Err(error));
        }
        self.send.data(PLACED).await?;
        loop {
            let data = tokio::select! {
                data = self.recv.data() => data?,
                error = sending.failed() => return Ok(Err(error)),
            };
            let Some(bytes) = data else { break };
            if let Err(error) = sending.push(bytes).await {
                return Ok(Err(error));
            }
        }
        sending.end();
        Ok(sending.stored().await)
    }

    /// Gives one message to the caller.
    pub(super) async fn receive_message(mut self, channel: &Arc<Channel>) {
        let receiving = channel.receive();
        let abandoned = self.send.abandoned();
        let given = tokio::select! {
            given = self.give_message(&receiving) => given,
            () = abandoned => return,
        };
        match given {
            Err(Gone) => (),
            Ok(Err(error)) => {
                drop(receiving);
                self.close(Err(error)).await;
            }
            Ok(Ok(())) => {
                let done: End = receiving.commit();
                self.operation.log(done.as_ref().err());
                if self.send.frame(&done).await.is_ok() {
                    self.send.finish();
                }
            }
        }
    }

    /// Until the caller says that it has all of it.
    async fn give_message(&mut self, receiving: &Receiving) -> Result<End, Gone> {
        self.send.frame(&Reply::Ok(Value::default())).await?;
        loop {
            match receiving.pull().await {
                Ok(Some(pieces)) => self.send.chunk(pieces).await?,
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
        self.send.send_end(&Ok(())).await?;
        match self.recv.data().await? {
            None => Ok(Ok(())),
            Some(_) => Err(Gone),
        }
    }

    /// Takes messages from the caller until it ends.
    pub(super) async fn send_messages(mut self, channel: &Arc<Channel>) {
        let mut train = Train::new(channel);
        let abandoned = self.send.abandoned();
        let taken = tokio::select! {
            taken = self.take_messages(&mut train) => taken,
            () = abandoned => return,
        };
        drop(train);
        if let Ok(end) = taken {
            self.close(end).await;
        }
    }

    async fn take_messages(&mut self, train: &mut Train) -> Result<End, Gone> {
        self.send.frame(&Reply::Ok(Value::default())).await?;
        let mut incoming = Incoming::default();
        let mut stored: u64 = 0;
        // Set once no more is taken: how it ends when all that was taken is settled.
        let mut last: Option<End> = None;
        loop {
            let (count, failed) = train.settled();
            if count > 0 {
                stored += count;
                let count = Bytes::copy_from_slice(&stored.to_be_bytes());
                self.send.data(count).await?;
            }
            if failed.is_err() {
                return Ok(failed);
            }
            // After those that are settled have made room. What this settles at once wakes the
            // train.
            if last.is_none()
                && let Err(error) = incoming.feed(train)
            {
                last = Some(Err(error));
            }
            match &last {
                Some(end) if train.is_empty() => return Ok(end.clone()),
                _ => (),
            }
            let takes = last.is_none() && incoming.is_empty();
            tokio::select! {
                () = train.changed() => (),
                chunk = self.recv.whole_chunk(), if takes => match chunk? {
                    Some(chunk) => incoming.chunk = chunk,
                    // In the middle of a message.
                    None if incoming.more => return Err(Gone),
                    None => last = Some(Ok(())),
                },
            }
        }
    }

    /// Gives messages to the caller, as many as it asks for, until it ends.
    pub(super) async fn receive_messages(mut self, channel: &Arc<Channel>) {
        let abandoned = self.send.abandoned();
        let given = tokio::select! {
            given = self.give_messages(channel) => given,
            () = abandoned => return,
        };
        if let Ok(end) = given {
            self.close(end).await;
        }
    }

    async fn give_messages(&mut self, channel: &Arc<Channel>) -> Result<End, Gone> {
        self.send.frame(&Reply::Ok(Value::default())).await?;
        let mut given: Vec<Receiving> = Vec::new();
        loop {
            let Some(chunk) = self.recv.whole_chunk().await? else {
                return Ok(Ok(()));
            };
            match codec::decode(&chunk) {
                Ok(Demand::Want(count)) if given.is_empty() && count > 0 => {
                    let count = UNDER_WAY.min(count as usize);
                    if let Err(error) = self.give_batch(channel, count, &mut given).await? {
                        return Ok(Err(error));
                    }
                }
                Ok(Demand::Ack) if !given.is_empty() => {
                    for receiving in given.drain(..) {
                        if let Err(error) = receiving.commit() {
                            return Ok(Err(error));
                        }
                    }
                    self.send.data(DONE).await?;
                }
                _ => {
                    let message = "a demand out of turn";
                    return Ok(Err(Error::new(Code::InvalidArgument, message)));
                }
            }
        }
    }

    /// One message as soon as there is one, and with it what else is there.
    async fn give_batch(
        &mut self,
        channel: &Arc<Channel>,
        count: usize,
        given: &mut Vec<Receiving>,
    ) -> Result<End, Gone> {
        let first = channel.receive();
        let mut chunk = Outgoing::new();
        let mut piece = match first.pull().await {
            Ok(pieces) => joined(pieces.unwrap_or_default()),
            Err(error) => return Ok(Err(error)),
        };
        loop {
            match first.pull().await {
                Ok(Some(next)) => {
                    self.pass(&mut chunk, &piece, true).await?;
                    piece = joined(next);
                }
                Ok(None) => break,
                Err(error) => return Ok(Err(error)),
            }
        }
        self.pass(&mut chunk, &piece, false).await?;
        let mut bytes = piece.len();
        given.push(first);
        while given.len() < count
            && bytes < BATCH
            && let Some(next) = channel.receive_ready(HELD)
        {
            // Only one that is scrubbed just now is not.
            let Some(whole) = next.take_whole() else {
                break;
            };
            // Held with the others, so that all go back in order if this one disappears.
            given.push(next);
            self.pass(&mut chunk, &whole, false).await?;
            bytes += whole.len();
        }
        self.send.data(chunk.take(Delivery::Last)).await?;
        Ok(Ok(()))
    }

    /// Adds a piece of a message to a chunk, and sends the chunk first if it is full.
    async fn pass(&mut self, chunk: &mut Outgoing, piece: &[u8], more: bool) -> Result<(), Gone> {
        let mut rest = piece;
        loop {
            if !chunk.fits(rest.len()) && !chunk.is_empty() {
                self.send.data(chunk.take(Delivery::Part)).await?;
            }
            let (now, later) = rest.split_at(rest.len().min(Outgoing::LONGEST));
            chunk.add(now, more || !later.is_empty());
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        if more {
            // Live: what comes is passed on at once.
            self.send.data(chunk.take(Delivery::Part)).await?;
        }
        Ok(())
    }

    /// Ends the call as the element says, and logs it.
    async fn close(mut self, end: End) {
        self.operation.log(end.as_ref().err());
        let Call { send, recv, .. } = self;
        // Why first, then that no more is read: whichever arrives first, the caller learns why.
        let _ = send.end(end).await;
        drop(recv);
    }
}

/// What commits what was acknowledged.
const DONE: Bytes = Bytes::from_static(&[Delivery::Done as u8]);

/// A chunk of records from a caller, as far as it was not taken yet.
#[derive(Default)]
struct Incoming {
    chunk: Bytes,
    /// What is left of a record that was not taken whole.
    piece: Option<Bytes>,
    /// Whether more of the last record's message follows.
    more: bool,
}

impl Incoming {
    fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.piece.is_none()
    }

    /// Gives the channel what it takes now. Fails if it takes no more messages.
    fn feed(&mut self, train: &mut Train) -> Result<(), Error> {
        loop {
            if let Some(piece) = &mut self.piece {
                if !train.send(piece, self.more)? {
                    return Ok(());
                }
                self.piece = None;
            }
            if self.chunk.is_empty() || train.len() >= UNDER_WAY || train.bytes() >= BYTES_UNDER_WAY
            {
                return Ok(());
            }
            let Some((record, _)) = Record::split(&self.chunk) else {
                let message = "a malformed chunk of messages";
                return Err(Error::new(Code::InvalidArgument, message));
            };
            let (length, more) = (record.bytes.len(), record.more);
            self.chunk.advance(RECORD_HEADER);
            self.piece = Some(self.chunk.split_to(length));
            self.more = more;
        }
    }
}

/// A chunk of records for a caller.
struct Outgoing {
    bytes: BytesMut,
}

impl Outgoing {
    /// The longest piece that fits.
    const LONGEST: usize = MAX_CHUNK - 1 - RECORD_HEADER;

    fn new() -> Outgoing {
        Outgoing {
            bytes: BytesMut::from(&[0][..]),
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.len() == 1
    }

    fn fits(&self, length: usize) -> bool {
        self.bytes.len() + RECORD_HEADER + length <= MAX_CHUNK
    }

    fn add(&mut self, piece: &[u8], more: bool) {
        self.bytes
            .extend_from_slice(&Record::header(piece.len(), more));
        self.bytes.extend_from_slice(piece);
    }

    /// The chunk, and a new one in its place.
    fn take(&mut self, delivery: Delivery) -> Bytes {
        self.bytes[0] = delivery as u8;
        std::mem::replace(&mut self.bytes, BytesMut::from(&[0][..])).freeze()
    }
}
