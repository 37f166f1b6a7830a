//! A queue of the servers that join, or of those that leave.

use bytes::Bytes;
use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::subscription::Status;
use circuit_proto::{ElementKind, Path};

use super::channel::{self, MessageReader, Receiver};
use crate::anchor::Anchor;
use crate::error::Error;

/// The longest message of a subscription: a path of one name.
const LONGEST: usize = 4096;

/// A handle to a subscription. Its messages are received as those of a channel.
#[derive(Debug, Clone)]
pub struct Subscription {
    anchor: Anchor,
}

impl Subscription {
    pub(crate) fn new(anchor: Anchor) -> Subscription {
        Subscription { anchor }
    }

    /// The element's path.
    pub fn path(&self) -> &Path {
        self.anchor.path()
    }

    /// Its status now.
    ///
    /// ```no_run
    /// # async fn example(joins: circuit_client::Subscription) -> Result<(), circuit_client::Error> {
    /// println!("{} events wait", joins.peek().await?.pending);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn peek(&self) -> Result<Status, Error> {
        match self.anchor.peek().await? {
            Some(AnyStatus::OnJoin(status) | AnyStatus::OnLeave(status)) => Ok(status),
            other => Err(super::not_a(ElementKind::OnJoin, self.path(), other)),
        }
    }

    /// Waits for the next event: the path of a server. There is no deadline.
    ///
    /// Several receivers share the queue: each event goes to one of them.
    ///
    /// # Errors
    ///
    /// As [`Chan::recv`](crate::Chan::recv).
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let joins = anchor.walk("watch/join")?.make_on_join().await?;
    /// loop {
    ///     println!("{} is in the circuit", joins.next().await?);
    /// }
    /// # }
    /// ```
    pub async fn next(&self) -> Result<Path, Error> {
        let event: Bytes = self.recv().await?.read_all(LONGEST).await?;
        let text = std::str::from_utf8(&event);
        let path = text.map_err(|error| Error::protocol(self.path(), error))?;
        Ok(path.parse()?)
    }

    /// Receives the next event as a message.
    ///
    /// ```no_run
    /// # async fn example(joins: circuit_client::Subscription) -> Result<(), circuit_client::Error> {
    /// let event = joins.recv().await?.read_all(4096).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn recv(&self) -> Result<MessageReader, Error> {
        channel::receive(&self.anchor).await
    }

    /// Receives many events on one stream.
    ///
    /// ```no_run
    /// # async fn example(joins: circuit_client::Subscription) -> Result<(), circuit_client::Error> {
    /// let mut events = joins.receiver().await?;
    /// for path in events.recv_many(100).await? {
    ///     println!("{}", String::from_utf8_lossy(&path));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn receiver(&self) -> Result<Receiver, Error> {
        channel::receiver(&self.anchor).await
    }

    /// Removes the element. Who waits for an event is told `Aborted`.
    ///
    /// ```no_run
    /// # async fn example(joins: circuit_client::Subscription) -> Result<(), circuit_client::Error> {
    /// joins.scrub().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scrub(&self) -> Result<(), Error> {
        self.anchor.scrub().await
    }
}
