//! A subscription: a queue of the servers that join, or of those that leave.
//!
//! It is a [`Channel`] that the server itself sends to, so callers receive from it as from a
//! channel. It knows nothing of membership but the [notices](Watch) that it is given.
//!
//! **Invariant:** it holds at most [`HELD`] events; the oldest are dropped first, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::subscription::{Event, Source, Status};
use circuit_proto::membership::Notice;
use circuit_proto::{ElementKind, Error, codec};

use super::Lifecycle;
use super::channel::Channel;
use crate::peer::Watch;

/// How many events wait for a receiver at most. Chosen, not measured: more than a circuit may have
/// servers, at a few hundred bytes each.
const HELD: u64 = 1 << 17;

/// A queue of events.
#[derive(Debug)]
pub struct Subscription {
    source: Source,
    channel: Arc<Channel>,
    dropped: AtomicU64,
}

impl Subscription {
    /// An empty queue.
    pub fn new(source: Source) -> Result<Arc<Subscription>, Error> {
        Ok(Arc::new(Subscription {
            source,
            channel: Channel::called("subscription", HELD)?,
            dropped: AtomicU64::new(0),
        }))
    }

    /// The events that it delivers.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Takes an event of a service, as JSON.
    pub fn service_event(&self, event: String) {
        let dropped = self.channel.offer(event.into());
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
    }

    /// The channel that its events are received from. Its messages are encoded [`Event`]s, or
    /// JSON of services.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// The path of the server that an encoded event is about.
    pub fn path_in(event: &[u8]) -> Bytes {
        let event = codec::decode::<Event>(event);
        // Never empty: the events are this server's own.
        let path = event.map(|event| event.path().to_string());
        path.unwrap_or_default().into()
    }

    /// Its status, for `peek`.
    pub fn status(&self) -> Status {
        Status {
            source: self.source,
            pending: self.channel.pending() as u64,
            closed: self.channel.status().aborted,
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

impl Lifecycle for Subscription {
    fn kind(&self) -> ElementKind {
        match self.source {
            Source::Join => ElementKind::OnJoin,
            Source::Leave => ElementKind::OnLeave,
            Source::Service => ElementKind::OnService,
        }
    }

    async fn status(&self) -> Result<AnyStatus, Error> {
        Ok(match self.source {
            Source::Join => AnyStatus::OnJoin(self.status()),
            Source::Leave => AnyStatus::OnLeave(self.status()),
            Source::Service => AnyStatus::OnService(self.status()),
        })
    }

    async fn scrubbed(&self) {
        self.channel.scrub();
    }

    async fn aborted(&self) -> Error {
        Lifecycle::aborted(&*self.channel).await
    }
}

impl Watch for Subscription {
    fn notice(&self, notice: &Notice) {
        let (source, who) = match notice {
            Notice::Join(who) => (Source::Join, who),
            Notice::Leave(who) => (Source::Leave, who),
        };
        if source == self.source {
            let event = Event {
                id: who.fingerprint.id(),
                name: who.name.clone(),
                url: who.url.clone(),
            };
            // A record is far shorter than a frame: this does not fail.
            if let Ok(event) = codec::encode(&event) {
                let dropped = self.channel.offer(event.into());
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use circuit_proto::Fingerprint;
    use circuit_proto::membership::Record;

    use super::*;

    fn record(number: u64) -> Arc<Record> {
        let mut fingerprint = Fingerprint([0; 32]);
        fingerprint.0[..8].copy_from_slice(&number.to_be_bytes());
        Arc::new(Record {
            fingerprint,
            url: format!("circuit://127.0.0.1:1/1/{}", fingerprint.id().in_url())
                .parse()
                .unwrap(),
            name: String::new(),
            count: 0,
            instance: 0,
        })
    }

    #[test]
    fn memory_is_bounded_and_what_was_dropped_is_counted() {
        let subscription = Subscription::new(Source::Leave).unwrap();
        // A subscription to leaves does not hold joins.
        subscription.notice(&Notice::Join(record(0)));
        for number in 1..=HELD + 3 {
            subscription.notice(&Notice::Leave(record(number)));
        }
        let status = subscription.status();
        assert_eq!((status.pending, status.dropped), (HELD, 3));
        let first = subscription.channel().receive().take_whole().unwrap();
        let path = record(4).fingerprint.id().to_string().replace('X', "/X");
        assert_eq!(Subscription::path_in(&first), path);
    }
}
