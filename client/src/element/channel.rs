//! A channel on some host: Go's, spanning hosts.

mod many;
mod one;

use std::time::Duration;

use bytes::Bytes;
use circuit_proto::element::channel::Op;

pub(super) use many::receiver;
pub use many::{Receiver, Sender};
pub(super) use one::receive;
pub use one::{MessageReader, MessageWriter};

use super::{Bound, Handle, Kind, kind};
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
pub type Chan = Handle<kind::Channel>;

/// A kind of element from which messages are received: a channel or a subscription.
pub trait Receives: Kind {}

impl Receives for kind::Channel {}

impl Handle<kind::Channel> {
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
        one::send(self.anchor()).await
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
        one::send_all(self.anchor(), message.into()).await
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
        many::sender(self.anchor()).await
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
        self.call(Op::Close).await
    }
}

impl<K: Receives> Handle<K> {
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
        one::receive(self.anchor(), Op::Receive).await
    }

    /// Receives as [`recv`](Self::recv) does, if a message is there within this time; `None` if
    /// not. The channel keeps the time, so that no message is lost as it ends.
    ///
    /// A message that has its receiver in time is waited for, however long it takes to come.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), circuit_client::Error> {
    /// use std::time::Duration;
    /// match chan.recv_within(Duration::from_secs(10)).await? {
    ///     Some(message) => println!("{} bytes", message.read_all(1 << 20).await?.len()),
    ///     None => println!("nothing came"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv_within(&self, time: Duration) -> Result<Option<MessageReader>, Error> {
        one::receive_within(self.anchor(), time).await
    }

    /// Receives a message that is there; `None` if there is none.
    ///
    /// ```no_run
    /// # async fn example(chan: circuit_client::Chan) -> Result<(), circuit_client::Error> {
    /// while let Some(message) = chan.try_recv().await? {
    ///     println!("{} bytes", message.read_all(1 << 20).await?.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_recv(&self) -> Result<Option<MessageReader>, Error> {
        self.recv_within(Duration::ZERO).await
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
        many::receiver(self.anchor(), Op::ReceiveMany).await
    }
}

/// Channels.
impl Anchor {
    /// Makes a channel here, which holds `capacity` messages for receivers to come; with 0, a send
    /// waits for its receiver.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element,
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for a capacity above 2^24.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let chan = anchor.make_chan(3).await?;
    /// chan.send_all("hello").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_chan(&self, capacity: u64) -> Result<Chan, Error> {
        self.make(Op::Make { capacity }).await
    }

    /// Makes a channel here as [`make_chan`](Anchor::make_chan) does, which goes when the handle does:
    /// see [`Bound`].
    pub async fn make_bound_chan(&self, capacity: u64) -> Result<Bound<kind::Channel>, Error> {
        Bound::make(self, Op::MakeBound { capacity }).await
    }

    /// A handle to the channel that the anchor is known to hold.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let message = anchor.chan().recv_all(1 << 20).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn chan(&self) -> Chan {
        Handle::new(self.clone())
    }
}
