//! A queue of the servers that join, or of those that leave.

use std::collections::VecDeque;

use bytes::Bytes;
use circuit_proto::element::subscription::{Event, Op, Source};
use circuit_proto::{Path, codec};

use super::channel::{self, Receiver, Receives};
use super::{Bound, Handle, kind};
use crate::anchor::Anchor;
use crate::error::Error;

/// The longest event, in bytes: a name and a URL are far shorter.
const LONGEST: usize = 4096;

/// A handle to a subscription. [`next`](Handle::next) and [`events`](Handle::events) give its events;
/// the methods of a channel's receivers give the path of each event's server, as bytes.
pub type Subscription = Handle<kind::Subscription>;

impl Receives for kind::Subscription {}

impl Handle<kind::Subscription> {
    /// Waits for the next event. There is no deadline.
    ///
    /// Several receivers share the queue: each event goes to one of them. A future that is dropped
    /// may have received an event, which is lost then: [`events`](Self::events) loses none.
    ///
    /// # Errors
    ///
    /// Those of [`Chan::recv`](crate::Chan::recv).
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let joins = anchor.walk("watch/join")?.make_on_join().await?;
    /// loop {
    ///     let server = joins.next().await?;
    ///     println!("{} ({}) is in the circuit", server.name, server.id);
    /// }
    /// # }
    /// ```
    pub async fn next(&self) -> Result<Event, Error> {
        let event = channel::receive(self.anchor(), Op::Receive).await?;
        decoded(self.path(), &event.read_all(LONGEST).await?)
    }

    /// Receives events one after the other, on one stream.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let leaves = anchor.walk("watch/leave")?.make_on_leave().await?;
    /// let mut events = leaves.events().await?;
    /// loop {
    ///     println!("{} left", events.next().await?.name);
    /// }
    /// # }
    /// ```
    pub async fn events(&self) -> Result<Events, Error> {
        let receiver = channel::receiver(self.anchor(), Op::ReceiveMany).await?;
        Ok(Events {
            path: self.path().clone(),
            receiver: receiver.with_limit(LONGEST),
            received: VecDeque::new(),
        })
    }
}

/// How many events are received at once. Chosen, not measured: a few packets of them.
const AT_ONCE: u32 = 64;

/// Receives the events of a subscription. Those that were received and not yet given are lost when
/// it is dropped: at most 63.
///
/// **Cancellation:** a call whose future was dropped is taken up by the next.
#[derive(Debug)]
pub struct Events {
    path: Path,
    receiver: Receiver,
    received: VecDeque<Bytes>,
}

impl Events {
    /// Waits for the next event. There is no deadline.
    ///
    /// # Errors
    ///
    /// Those of [`Chan::recv`](crate::Chan::recv).
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.received.pop_front() {
                Some(event) => return decoded(&self.path, &event),
                None => self.received = self.receiver.recv_many(AT_ONCE).await?.into(),
            }
        }
    }
}

fn decoded(path: &Path, event: &[u8]) -> Result<Event, Error> {
    codec::decode(event).map_err(|error| Error::protocol(path, error))
}

/// Subscriptions.
impl Anchor {
    /// Makes a subscription here that delivers what happens to the services of this anchor's server from now
    /// on. Its events are JSON objects, which [`recv`](Handle::recv) gives as messages.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let events = anchor.make_on_service().await?;
    /// let event = events.recv().await?.read_all(65536).await?;
    /// println!("{}", String::from_utf8_lossy(&event));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_on_service(&self) -> Result<Subscription, Error> {
        let source = Source::Service;
        self.make(Op::Make { source }).await
    }

    /// Makes a subscription here that delivers every server now in the circuit, then each that joins.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let joins = anchor.make_on_join().await?;
    /// println!("{} is here", joins.next().await?.name);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_on_join(&self) -> Result<Subscription, Error> {
        let source = Source::Join;
        self.make(Op::Make { source }).await
    }

    /// Makes a subscription here that delivers each server that leaves from now on.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let leaves = anchor.make_on_leave().await?;
    /// println!("{} is gone", leaves.next().await?.name);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_on_leave(&self) -> Result<Subscription, Error> {
        let source = Source::Leave;
        self.make(Op::Make { source }).await
    }

    /// Makes a subscription here as [`make_on_join`](Anchor::make_on_join) does, which goes when the
    /// handle does: see [`Bound`].
    pub async fn make_bound_on_join(&self) -> Result<Bound<kind::Subscription>, Error> {
        let source = Source::Join;
        Bound::make(self, Op::MakeBound { source }).await
    }

    /// Makes a subscription here as [`make_on_leave`](Anchor::make_on_leave) does, which goes when the
    /// handle does: see [`Bound`].
    pub async fn make_bound_on_leave(&self) -> Result<Bound<kind::Subscription>, Error> {
        let source = Source::Leave;
        Bound::make(self, Op::MakeBound { source }).await
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
