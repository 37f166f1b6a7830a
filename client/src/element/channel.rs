//! A channel on some host: Go's, spanning hosts.

mod many;
mod one;

use bytes::Bytes;
use circuit_proto::element::channel::Op;
use circuit_proto::element::channel::Status;
use circuit_proto::{ElementKind, Path};

pub use many::{Receiver, Sender};
pub use one::{MessageReader, MessageWriter};

use crate::anchor::Anchor;
use crate::error::Error;

/// A handle to a channel. Dropping it changes nothing for the channel.
///
/// A message is a byte pipe of any length. What was sent is received by exactly one receiver:
///
/// - a send succeeds once a slot of the channel holds the whole message, or once its receiver has
///   said that it has all of it (capacity 0, and messages longer than 32 KiB);
/// - a receive succeeds once the channel has taken note that the receiver has all of the message;
///   a receiver that goes away before leaves it to the next;
/// - who loses the connection in between gets [`Error::Unknown`]: it may have happened, or not.
#[derive(Debug, Clone)]
pub struct Chan {
    anchor: Anchor,
}

impl Chan {
    pub(crate) fn new(anchor: Anchor) -> Chan {
        Chan { anchor }
    }

    /// The element's path.
    pub fn path(&self) -> &Path {
        self.anchor.path()
    }

    /// Its status now.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), circuit_client::Error> {
    /// let status = chan.peek().await?;
    /// println!("{} of {} slots are taken", status.held, status.cap);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn peek(&self) -> Result<Status, Error> {
        match self.anchor.peek().await? {
            Some(circuit_proto::element::Status::Channel(status)) => Ok(status),
            other => Err(super::not_a(ElementKind::Channel, self.path(), other)),
        }
    }

    /// Waits until there is a place for a message, a slot or a receiver, and gives a writer for
    /// it. There is no deadline. The send succeeds with [`MessageWriter::finish`] (or `shutdown`);
    /// a writer that is dropped before takes its message along.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::Code::Closed) once the channel is closed,
    /// [`Aborted`](crate::Code::Aborted) if it is scrubbed meanwhile, or if the receiver goes away
    /// in the middle of a message that no slot holds.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncWriteExt;
    /// let mut message = chan.send().await?;
    /// message.write_all(b"hello").await?;
    /// message.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&self) -> Result<MessageWriter, Error> {
        one::send(&self.anchor).await
    }

    /// Sends a whole message in one round trip, if there is a place for it; else waits for one.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), circuit_client::Error> {
    /// chan.send_all("hello").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send_all(&self, message: impl Into<Bytes>) -> Result<(), Error> {
        one::send_all(&self.anchor, message.into()).await
    }

    /// Waits for a message, and gives a reader of it. There is no deadline. The receive succeeds
    /// when the reader has come to its end; a reader that is dropped before leaves the message to
    /// another receiver.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::Code::Closed) once the channel is closed and empty,
    /// [`Aborted`](crate::Code::Aborted) if it is scrubbed meanwhile, or if the sender goes away in
    /// the middle.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncReadExt;
    /// let mut text = String::new();
    /// chan.recv().await?.read_to_string(&mut text).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv(&self) -> Result<MessageReader, Error> {
        receive(&self.anchor).await
    }

    /// Receives a whole message of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`TooLarge`](crate::Code::TooLarge) if it is longer: it is left to another receiver, unless
    /// it is longer than 32 KiB and its beginning is gone.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), circuit_client::Error> {
    /// let message = chan.recv_all(1 << 20).await?;
    /// println!("{} bytes", message.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv_all(&self, limit: usize) -> Result<Bytes, Error> {
        self.recv().await?.read_all(limit).await
    }

    /// Sends many messages on one stream, many of them in flight.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), circuit_client::Error> {
    /// let mut sender = chan.sender().await?;
    /// for n in 0..1_000_000 {
    ///     sender.feed(n.to_string().as_bytes()).await?;
    /// }
    /// sender.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn sender(&self) -> Result<Sender, Error> {
        many::sender(&self.anchor).await
    }

    /// Receives many messages on one stream.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), circuit_client::Error> {
    /// let mut receiver = chan.receiver().await?;
    /// loop {
    ///     for message in receiver.recv_many(1000).await? {
    ///         println!("{} bytes", message.len());
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn receiver(&self) -> Result<Receiver, Error> {
        receiver(&self.anchor).await
    }

    /// Closes the channel: it takes no more messages. Those that are there, or wait for a place,
    /// are received still; then receivers get [`Closed`](crate::Code::Closed).
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::Code::Closed) if it is closed already.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), circuit_client::Error> {
    /// chan.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(&self) -> Result<(), Error> {
        self.anchor.call(Op::Close).await
    }

    /// Removes the channel, and what is in it. Who sends or receives is told
    /// [`Aborted`](crate::Code::Aborted).
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), circuit_client::Error> {
    /// chan.scrub().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scrub(&self) -> Result<(), Error> {
        self.anchor.scrub().await
    }
}

pub(super) async fn receive(anchor: &Anchor) -> Result<MessageReader, Error> {
    one::receive(anchor).await
}

pub(super) async fn receiver(anchor: &Anchor) -> Result<Receiver, Error> {
    many::receiver(anchor).await
}
