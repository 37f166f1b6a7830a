//! Many messages on one stream.

use std::future::poll_fn;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use circuit_proto::codec::{self, MAX_CHUNK};
use circuit_proto::element::channel::{Delivery, Demand, Op, RECORD_HEADER, Record};
use circuit_proto::request;
use circuit_proto::{Code, Path};
use tokio::time::Instant;

use super::one::{milliseconds, too_large};
use crate::anchor::Anchor;
use crate::client::Client;
use crate::error::Error;
use crate::transport::stream::{RecvHalf, SendHalf, StreamError};

/// How much is gathered before it is sent. Chosen, not measured: half a chunk.
const GATHERED: usize = MAX_CHUNK / 2;

/// The longest piece of a message in a record.
const LONGEST_PIECE: usize = MAX_CHUNK - RECORD_HEADER;

/// The longest message that a [`Receiver`] takes unless told otherwise.
const LIMIT: usize = 16 << 20;

pub(super) async fn sender(anchor: &Anchor) -> Result<Sender, Error> {
    let (client, path) = (anchor.client(), anchor.path());
    let (send, recv) = client.open(path, &Op::SendMany.into()).await?;
    Ok(Sender {
        client: client.clone(),
        path: path.clone(),
        send,
        recv,
        gathered: BytesMut::new(),
        sent: 0,
        stored: 0,
    })
}

/// Sends many messages, in order, on one stream: each as a single send, with the same promise.
///
/// Dropped, it takes along what is not stored yet.
///
/// **Cancellation:** a dropped future of [`push`](Self::push) or [`flush`](Self::flush) changes
/// nothing; one of [`feed`](Self::feed) has fed its message.
#[derive(Debug)]
pub struct Sender {
    client: Client,
    path: Path,
    send: SendHalf,
    recv: RecvHalf,
    gathered: BytesMut,
    sent: u64,
    stored: u64,
}

impl Sender {
    /// Adds a message to what is gathered, which is sent when it is enough, or with
    /// [`push`](Self::push). Waits while the channel takes no more.
    ///
    /// ```no_run
    /// # async fn example(mut sender: circuit_client::Sender) -> Result<(), circuit_client::Error> {
    /// sender.feed(b"one").await?;
    /// sender.feed(b"two").await?;
    /// sender.flush().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn feed(&mut self, message: &[u8]) -> Result<(), Error> {
        self.sent += 1;
        let mut rest = message;
        loop {
            let (piece, later) = rest.split_at(rest.len().min(LONGEST_PIECE));
            let fits = self.gathered.len() + RECORD_HEADER + piece.len() <= MAX_CHUNK;
            if !fits {
                self.queue();
            }
            self.gathered
                .put_slice(&Record::header(piece.len(), !later.is_empty()));
            self.gathered.put_slice(piece);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        if self.gathered.len() >= GATHERED {
            self.push().await?;
        }
        Ok(())
    }

    /// Sends a message at once.
    ///
    /// ```no_run
    /// # async fn example(mut sender: circuit_client::Sender) -> Result<(), circuit_client::Error> {
    /// sender.send(b"hello").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        self.feed(message).await?;
        self.push().await
    }

    /// Puts what is gathered on its way.
    ///
    /// ```no_run
    /// # async fn example(mut sender: circuit_client::Sender) -> Result<(), circuit_client::Error> {
    /// sender.push().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn push(&mut self) -> Result<(), Error> {
        self.queue();
        loop {
            tokio::select! {
                biased;
                // All that the channel has said, first: what nobody hears would hold it up.
                count = self.recv.whole_chunk() => self.count(count)?,
                drained = poll_fn(|cx| self.send.poll_drain(cx)) => match drained {
                    Ok(()) => return Ok(()),
                    // The next frame says why.
                    Err(StreamError::Abandoned) => return Err(self.failed().await),
                    Err(error) => return Err(self.fail(error)),
                },
            }
        }
    }

    /// Resolves when the channel takes no more of these messages, for those who have nothing to
    /// send yet.
    ///
    /// ```no_run
    /// # async fn example(mut sender: circuit_client::Sender) -> Result<(), circuit_client::Error> {
    /// let until = tokio::time::sleep(std::time::Duration::from_secs(1));
    /// tokio::select! {
    ///     error = sender.failed() => return Err(error),
    ///     () = until => sender.send(b"hello").await?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn failed(&mut self) -> Error {
        loop {
            if let Err(error) = self.hear().await {
                return error;
            }
        }
    }

    /// Waits until all messages so far are stored.
    ///
    /// # Errors
    ///
    /// Those of [`Chan::send`](crate::Chan::send); [`stored`](Self::stored) then tells how many
    /// sends succeeded: the first so many. With [`Error::Unknown`], and if the channel was scrubbed,
    /// others may have been received; else none was sent behind them.
    ///
    /// ```no_run
    /// # async fn example(mut sender: circuit_client::Sender) -> Result<(), circuit_client::Error> {
    /// if let Err(error) = sender.flush().await {
    ///     println!("{} of {} were sent: {error}", sender.stored(), sender.sent());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.push().await?;
        while self.stored < self.sent {
            self.hear().await?;
        }
        Ok(())
    }

    /// Waits until all messages are stored, and ends.
    ///
    /// ```no_run
    /// # async fn example(sender: circuit_client::Sender) -> Result<(), circuit_client::Error> {
    /// sender.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn finish(mut self) -> Result<(), Error> {
        self.flush().await?;
        let Sender {
            mut send, mut recv, ..
        } = self;
        // All is stored: nothing that happens now can take that back.
        if send.end(&Ok(())).await.is_ok() {
            let _ = recv.whole_chunk().await;
        }
        Ok(())
    }

    /// How many messages were fed.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How many of them are known to be stored: the first so many.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    fn queue(&mut self) {
        if !self.gathered.is_empty() {
            self.send.queue_data(self.gathered.split().freeze());
        }
    }

    async fn hear(&mut self) -> Result<(), Error> {
        let count = self.recv.whole_chunk().await;
        self.count(count)
    }

    /// Takes note of how many messages are stored, or of the end.
    fn count(&mut self, count: Result<Option<Bytes>, StreamError>) -> Result<(), Error> {
        let count = match count {
            Ok(Some(count)) => count,
            Ok(None) => return Err(self.fail(StreamError::Abandoned)),
            Err(error) => return Err(self.fail(error)),
        };
        let count = count.first_chunk().copied().map(u64::from_be_bytes);
        match count.filter(|count| (self.stored..=self.sent).contains(count)) {
            Some(count) => self.stored = count,
            None => return Err(Error::protocol(&self.path, "it counted wrong")),
        }
        Ok(())
    }

    fn fail(&self, error: StreamError) -> Error {
        self.client.failed_at_end(&self.path, error)
    }
}

pub(in crate::element) async fn receiver(
    anchor: &Anchor,
    op: impl Into<request::Op>,
) -> Result<Receiver, Error> {
    let (client, path) = (anchor.client(), anchor.path());
    let (send, recv) = client.open(path, &op.into()).await?;
    Ok(Receiver {
        client: client.clone(),
        path: path.clone(),
        send,
        recv,
        limit: LIMIT,
        stage: Stage::Idle,
        batch: Vec::new(),
        partial: BytesMut::new(),
    })
}

/// Where an exchange stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is asked for.
    Idle,
    /// Messages were asked for.
    Wanted,
    /// They are here.
    Received,
    /// The channel was told so.
    Acknowledged,
    /// A message was not taken: no more is, so that all of these are left to other receivers.
    Failed,
}

/// Receives many messages, in order, on one stream: each as a single receive, with the same
/// promise.
///
/// [`recv_many`](Self::recv_many) is all that most need. [`batch`](Self::batch) and
/// [`commit`](Self::commit) are its two halves, for those who have to do something with the
/// messages before they are gone from the channel. Dropped, it leaves what was not committed to
/// other receivers.
///
/// **Cancellation:** a call whose future was dropped is taken up by the next.
#[derive(Debug)]
pub struct Receiver {
    client: Client,
    path: Path,
    send: SendHalf,
    recv: RecvHalf,
    limit: usize,
    stage: Stage,
    batch: Vec<Bytes>,
    partial: BytesMut,
}

impl Receiver {
    /// The same with another limit to the length of a message (16 MiB unless told). A longer one
    /// is an error, and ends the receiver.
    pub fn with_limit(self, limit: usize) -> Receiver {
        Receiver { limit, ..self }
    }

    /// Waits for a message, and receives it together with what else is there: at most `most`.
    /// There is no deadline.
    ///
    /// # Errors
    ///
    /// Those of [`Chan::recv`](crate::Chan::recv).
    ///
    /// ```no_run
    /// # async fn example(mut receiver: circuit_client::Receiver) -> Result<(), circuit_client::Error> {
    /// for message in receiver.recv_many(100).await? {
    ///     println!("{} bytes", message.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv_many(&mut self, most: u32) -> Result<Vec<Bytes>, Error> {
        self.receive(most, None).await
    }

    /// Receives as [`recv_many`](Self::recv_many) does, if a message is there within this time; no
    /// messages if not. The channel keeps the time, so that no message is lost as it ends.
    ///
    /// ```no_run
    /// # async fn example(mut receiver: circuit_client::Receiver) -> Result<(), circuit_client::Error> {
    /// use std::time::Duration;
    /// let messages = receiver.recv_many_within(100, Duration::from_secs(10)).await?;
    /// if messages.is_empty() {
    ///     println!("nothing came");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv_many_within(
        &mut self,
        most: u32,
        time: Duration,
    ) -> Result<Vec<Bytes>, Error> {
        self.receive(most, Some(time)).await
    }

    async fn receive(&mut self, most: u32, time: Option<Duration>) -> Result<Vec<Bytes>, Error> {
        // A call that was dropped may have acknowledged messages that it did not return.
        if self.stage != Stage::Acknowledged {
            self.wait(most, time).await?;
        }
        self.commit().await?;
        Ok(std::mem::take(&mut self.batch))
    }

    /// Waits for messages as [`recv_many`](Self::recv_many) does, without saying that they are
    /// received: that is for [`commit`](Self::commit) to do, before the next batch.
    ///
    /// ```no_run
    /// # async fn example(mut receiver: circuit_client::Receiver) -> Result<(), circuit_client::Error> {
    /// for message in receiver.batch(100).await? {
    ///     println!("{} bytes", message.len());
    /// }
    /// receiver.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn batch(&mut self, most: u32) -> Result<&[Bytes], Error> {
        self.wait(most, None).await?;
        Ok(&self.batch)
    }

    /// Waits for messages as [`recv_many_within`](Self::recv_many_within) does, without saying that
    /// they are received: that is for [`commit`](Self::commit) to do, before the next batch.
    ///
    /// ```no_run
    /// # async fn example(mut receiver: circuit_client::Receiver) -> Result<(), circuit_client::Error> {
    /// use std::time::Duration;
    /// for message in receiver.batch_within(100, Duration::ZERO).await? {
    ///     println!("{} bytes", message.len());
    /// }
    /// receiver.commit().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn batch_within(&mut self, most: u32, time: Duration) -> Result<&[Bytes], Error> {
        self.wait(most, Some(time)).await?;
        Ok(&self.batch)
    }

    /// Waits for a batch, which is empty only if the time ends before.
    async fn wait(&mut self, most: u32, time: Option<Duration>) -> Result<(), Error> {
        match self.stage {
            Stage::Acknowledged => self.commit().await?,
            Stage::Failed => return Err(too_large(&self.path, self.limit)),
            Stage::Idle | Stage::Wanted | Stage::Received => (),
        }
        let now = Instant::now();
        let until = time.and_then(|time| now.checked_add(time));
        let mut left = until.map(|until| until - now);
        loop {
            if self.stage == Stage::Idle {
                self.batch.clear();
                self.demand(Demand::Want(most.max(1)))?;
                self.stage = Stage::Wanted;
            }
            if let (Stage::Wanted, Some(left)) = (self.stage, left) {
                self.demand(Demand::Within(milliseconds(left)))?;
            }
            while self.stage == Stage::Wanted {
                match self.delivery(false).await? {
                    (Delivery::Part, records) => self.take(records)?,
                    (Delivery::Last, records) => {
                        self.take(records)?;
                        self.stage = Stage::Received;
                    }
                    (Delivery::Empty, _) => self.stage = Stage::Idle,
                    (Delivery::Done, _) => return Err(self.broken()),
                }
            }
            left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // The time of a call whose future was dropped may have been shorter.
            if self.stage == Stage::Received || left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
        }
    }

    /// Says that the messages of the last batch are received, and waits until the channel has
    /// taken note.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] if the connection is lost before the channel's answer.
    pub async fn commit(&mut self) -> Result<(), Error> {
        if self.stage == Stage::Received {
            self.demand(Demand::Ack)?;
            self.stage = Stage::Acknowledged;
        }
        if self.stage == Stage::Acknowledged {
            match self.delivery(true).await? {
                (Delivery::Done, _) => self.stage = Stage::Idle,
                _ => return Err(self.broken()),
            }
        }
        Ok(())
    }

    /// Ends in order, as whoever looks at the server's log sees. What was not committed is left to
    /// other receivers.
    ///
    /// ```no_run
    /// # async fn example(receiver: circuit_client::Receiver) -> Result<(), circuit_client::Error> {
    /// receiver.finish().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn finish(self) {
        let idle = matches!(self.stage, Stage::Idle | Stage::Received);
        let Receiver {
            mut send, mut recv, ..
        } = self;
        // Nothing that happens now changes anything, and in the middle of an exchange the other
        // side does not listen.
        if idle && send.end(&Ok(())).await.is_ok() {
            let _ = recv.whole_chunk().await;
        }
    }

    fn demand(&mut self, demand: Demand) -> Result<(), Error> {
        let demand = codec::encode(&demand).map_err(|e| Error::protocol(&self.path, e))?;
        self.send.queue_data(demand.into());
        Ok(())
    }

    /// The channel's next word; `acknowledged` says whether a loss leaves the outcome unknown.
    async fn delivery(&mut self, acknowledged: bool) -> Result<(Delivery, Bytes), Error> {
        let mut chunk = match self.next_chunk().await {
            Ok(chunk) => chunk,
            Err(error) if acknowledged => {
                return Err(self.client.failed_at_end(&self.path, error));
            }
            Err(error) => return Err(self.client.failed(&self.path, error)),
        };
        match Delivery::of(chunk[0]) {
            Some(delivery) => Ok((delivery, chunk.split_off(1))),
            None => Err(self.broken()),
        }
    }

    /// A chunk of at least one byte.
    async fn next_chunk(&mut self) -> Result<Bytes, StreamError> {
        match poll_fn(|cx| self.send.poll_drain(cx)).await {
            // The next frame says why.
            Ok(()) | Err(StreamError::Abandoned) => (),
            Err(error) => return Err(error),
        }
        self.recv.whole_chunk().await?.ok_or(StreamError::Abandoned)
    }

    fn take(&mut self, records: Bytes) -> Result<(), Error> {
        let mut rest = &records[..];
        while !rest.is_empty() {
            let Some((record, later)) = Record::split(rest) else {
                return Err(self.broken());
            };
            rest = later;
            if self.partial.len() + record.bytes.len() > self.limit {
                // The next call must not receive the messages that came with it.
                self.stage = Stage::Failed;
                return Err(too_large(&self.path, self.limit));
            }
            match (record.more, self.partial.is_empty()) {
                (false, true) => self.batch.push(records.slice_ref(record.bytes)),
                (more, _) => {
                    self.partial.extend_from_slice(record.bytes);
                    if !more {
                        self.batch.push(self.partial.split().freeze());
                    }
                }
            }
        }
        Ok(())
    }

    fn broken(&self) -> Error {
        let error = circuit_proto::Error::new(Code::Internal, "a delivery out of turn");
        Error::protocol(&self.path, error)
    }
}
