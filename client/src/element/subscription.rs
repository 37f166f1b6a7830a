//! A queue of the servers that join, or of those that leave.

use bytes::Bytes;
use circuit_proto::Path;
use circuit_proto::element::subscription::{Op, Source};

use super::channel::Receives;
use super::{Handle, kind};
use crate::anchor::Anchor;
use crate::error::Error;

/// The longest message of a subscription: a path of one name.
const LONGEST: usize = 4096;

/// A handle to a subscription. Its messages are received as those of a channel.
pub type Subscription = Handle<kind::Subscription>;

impl Receives for kind::Subscription {}

impl Handle<kind::Subscription> {
    /// Waits for the next event: the path of a server. There is no deadline.
    ///
    /// Several receivers share the queue: each event goes to one of them.
    ///
    /// # Errors
    ///
    /// Those of [`Chan::recv`](crate::Chan::recv).
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
        let event: Bytes = self.recv_all(LONGEST).await?;
        let text = std::str::from_utf8(&event);
        let path = text.map_err(|error| Error::protocol(self.path(), error))?;
        Ok(path.parse()?)
    }
}

/// Subscriptions.
impl Anchor {
    /// Makes a subscription here that delivers the path of every server now in the circuit, then of
    /// each that joins.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let joins = anchor.make_on_join().await?;
    /// println!("{} is here", joins.next().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_on_join(&self) -> Result<Subscription, Error> {
        let source = Source::Join;
        self.make(Op::Make { source }).await
    }

    /// Makes a subscription here that delivers the path of each server that leaves from now on.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let leaves = anchor.make_on_leave().await?;
    /// println!("{} is gone", leaves.next().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_on_leave(&self) -> Result<Subscription, Error> {
        let source = Source::Leave;
        self.make(Op::Make { source }).await
    }

    /// A handle to the subscription that the anchor is known to hold.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// println!("{} events wait", anchor.subscription().peek().await?.pending);
    /// # Ok(())
    /// # }
    /// ```
    pub fn subscription(&self) -> Subscription {
        Handle::new(self.clone())
    }
}
