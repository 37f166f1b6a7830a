//! Many messages on one stream: records in chunks, taken or given as fast as the channel goes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use circuit_proto::codec::{self, MAX_CHUNK};
use circuit_proto::element::channel::{Delivery, Demand, HELD, RECORD_HEADER, Record};
use circuit_proto::request::End;
use circuit_proto::{Code, Error};

use super::Form;
use crate::element::channel::{Channel, Pipeline, Receiving, joined};
use crate::server::call::{Call, Gone};

/// How many messages are under way at once on a stream of many, and how many bytes of a sender's
/// messages are taken before they are stored. Chosen, not measured: a connection brings as much in a
/// few milliseconds, and it is small beside the connection's window.
const UNDER_WAY: usize = 4096;
const BYTES_UNDER_WAY: usize = 256 << 10;

/// How many bytes are handed over at one demand, but for the last message's. Chosen, not measured: a
/// few chunks.
const BATCH: usize = 256 << 10;

/// The answer to an acknowledgement: what was acknowledged is committed.
const DONE: Bytes = Bytes::from_static(&[Delivery::Done as u8]);

/// The answer to a demand that came to its time.
const EMPTY: Bytes = Bytes::from_static(&[Delivery::Empty as u8]);

/// Takes messages from the caller until it ends.
pub(super) async fn send(call: &mut Call, channel: &Arc<Channel>) -> Result<(), Gone> {
    let mut pipeline = Pipeline::new(channel);
    let abandoned = call.send.abandoned();
    let taken = tokio::select! {
        taken = take(call, &mut pipeline) => taken,
        () = abandoned => Err(Gone),
    };
    drop(pipeline);
    call.end(taken?).await
}

async fn take(call: &mut Call, pipeline: &mut Pipeline) -> Result<End, Gone> {
    call.accept().await?;
    let mut incoming = Incoming::default();
    let mut stored: u64 = 0;
    // Set once no more messages are taken: the end that is sent when those taken are settled.
    let mut last: Option<End> = None;
    loop {
        let (count, failed) = pipeline.settled();
        if count > 0 {
            stored += count;
            call.server.runtime.counters.messages_sent.add(count);
            let count = Bytes::copy_from_slice(&stored.to_be_bytes());
            call.send.data(count).await?;
        }
        if failed.is_err() {
            return Ok(failed);
        }
        // After the settled messages have made room. A message that is settled at once wakes the
        // pipeline.
        if last.is_none()
            && let Err(error) = incoming.feed(pipeline)
        {
            last = Some(Err(error));
        }
        match &last {
            Some(end) if pipeline.is_empty() => return Ok(end.clone()),
            _ => (),
        }
        let takes = last.is_none() && incoming.is_empty();
        tokio::select! {
            () = pipeline.changed() => (),
            chunk = call.recv.whole_chunk(), if takes => match chunk? {
                Some(chunk) => incoming.chunk = chunk,
                // The batch ended in the middle of a message.
                None if incoming.more => return Err(Gone),
                None => last = Some(Ok(())),
            },
        }
    }
}

/// Gives messages to the caller, as many as it asks for, until it ends.
pub(in crate::server::ops) async fn receive(
    call: &mut Call,
    channel: &Arc<Channel>,
    form: Form,
) -> Result<(), Gone> {
    let abandoned = call.send.abandoned();
    let given = tokio::select! {
        given = give(call, channel, form) => given,
        () = abandoned => Err(Gone),
    };
    call.end(given?).await
}

async fn give(call: &mut Call, channel: &Arc<Channel>, form: Form) -> Result<End, Gone> {
    call.accept().await?;
    // The place in line of what is wanted, and how many messages are.
    let mut wanted: Option<(Receiving, usize)> = None;
    let mut given: Vec<Receiving> = Vec::new();
    loop {
        let chunk = tokio::select! {
            biased;
            begun = begun(wanted.as_ref(), form) => {
                let Some((first, count)) = wanted.take() else {
                    continue;
                };
                match begun {
                    Ok(piece) => {
                        let batch = give_batch(call, channel, form, first, piece, count, &mut given);
                        if let Err(error) = batch.await? {
                            return Ok(Err(error));
                        }
                    }
                    Err(error) if error.code == Code::Empty => call.send.data(EMPTY).await?,
                    Err(error) => return Ok(Err(error)),
                }
                continue;
            }
            chunk = call.recv.whole_chunk() => chunk?,
        };
        let Some(chunk) = chunk else {
            return Ok(Ok(()));
        };
        match codec::decode(&chunk) {
            Ok(Demand::Want(count)) if wanted.is_none() && given.is_empty() && count > 0 => {
                wanted = Some((channel.receive(), UNDER_WAY.min(count as usize)));
            }
            Ok(Demand::Within(wait)) => {
                if let Some((first, _)) = &mut wanted {
                    first.wait_for(Duration::from_millis(wait));
                }
            }
            Ok(Demand::Ack) if !given.is_empty() => {
                for receiving in given.drain(..) {
                    if let Err(error) = receiving.commit() {
                        return Ok(Err(error));
                    }
                    call.server.runtime.counters.messages_received.one();
                }
                call.send.data(DONE).await?;
            }
            _ => {
                let message = "a demand out of turn";
                return Ok(Err(Error::new(Code::InvalidArgument, message)));
            }
        }
    }
}

/// The first piece of what is wanted. While nothing is, it does not resolve.
async fn begun(wanted: Option<&(Receiving, usize)>, form: Form) -> Result<Bytes, Error> {
    match wanted {
        Some((first, _)) => Ok(joined(form.of(first.pull().await?.unwrap_or_default()))),
        None => std::future::pending().await,
    }
}

/// Gives a message that has begun, and with it those that are there already.
async fn give_batch(
    call: &mut Call,
    channel: &Arc<Channel>,
    form: Form,
    first: Receiving,
    mut piece: Bytes,
    count: usize,
    given: &mut Vec<Receiving>,
) -> Result<End, Gone> {
    let mut chunk = Outgoing::new();
    loop {
        match first.pull().await {
            Ok(Some(next)) => {
                pass(call, &mut chunk, &piece, true).await?;
                piece = joined(form.of(next));
            }
            Ok(None) => break,
            Err(error) => return Ok(Err(error)),
        }
    }
    pass(call, &mut chunk, &piece, false).await?;
    let mut bytes = piece.len();
    given.push(first);
    while given.len() < count
        && bytes < BATCH
        && let Some(next) = channel.receive_ready(HELD)
    {
        // It is there as a whole, unless the channel was scrubbed just now.
        let Some(whole) = next.take_whole() else {
            break;
        };
        let whole = joined(form.of(vec![whole]));
        // Held with the others, so that all go back in order if the receiver disappears.
        given.push(next);
        pass(call, &mut chunk, &whole, false).await?;
        bytes += whole.len();
    }
    call.send.data(chunk.take(Delivery::Last)).await?;
    Ok(Ok(()))
}

/// Adds a piece of a message to a chunk, and sends the chunk first if it is full.
async fn pass(call: &mut Call, chunk: &mut Outgoing, piece: &[u8], more: bool) -> Result<(), Gone> {
    let mut rest = piece;
    loop {
        if !chunk.fits(rest.len()) && !chunk.is_empty() {
            call.send.data(chunk.take(Delivery::Part)).await?;
        }
        let (now, later) = rest.split_at(rest.len().min(Outgoing::LONGEST));
        chunk.add(now, more || !later.is_empty());
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    if more {
        // A message that is still coming is passed on as it comes.
        call.send.data(chunk.take(Delivery::Part)).await?;
    }
    Ok(())
}

/// The rest of a chunk of records from a caller, of which the channel took the beginning.
#[derive(Default)]
struct Incoming {
    chunk: Bytes,
    /// The rest of a record of which a part was taken.
    piece: Option<Bytes>,
    /// Whether more of the last record's message follows.
    more: bool,
}

impl Incoming {
    fn is_empty(&self) -> bool {
        self.chunk.is_empty() && self.piece.is_none()
    }

    /// Gives the channel as much as it takes now. Fails if it takes no more messages.
    fn feed(&mut self, pipeline: &mut Pipeline) -> Result<(), Error> {
        loop {
            if let Some(piece) = &mut self.piece {
                if !pipeline.send(piece, self.more)? {
                    return Ok(());
                }
                self.piece = None;
            }
            if self.chunk.is_empty()
                || pipeline.len() >= UNDER_WAY
                || pipeline.bytes() >= BYTES_UNDER_WAY
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
