//! One request that this server executes: the anchor and element that it is for, and the ways in
//! which it is answered.
//!
//! **Cancellation:** a caller that goes away ends what was done for it; what it held is free.

use std::pin::Pin;
use std::sync::Arc;

use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError};
use circuit_proto::codec::{self, MAX_CHUNK};
use circuit_proto::request::{End, Reply, Value};
use circuit_proto::{Code, Error, Path};
use serde::Serialize;

use super::Server;
use super::operations::Operation;
use crate::anchor::{Occupied, Reservation};
use crate::element::{Element, Kind};

/// A request that this server executes.
pub(super) struct Call {
    pub(super) server: Arc<Server>,
    pub(super) path: Path,
    pub(super) operation: Operation,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
}

/// A caller that went away: nobody is left to be told.
pub(super) struct Gone;

impl From<StreamError> for Gone {
    fn from(_: StreamError) -> Gone {
        Gone
    }
}

/// The anchor and its element.
impl Call {
    /// The anchor's names below its server's own anchor.
    pub(super) fn names(&self) -> &[String] {
        self.path.below_server()
    }

    /// The element that the anchor holds now.
    pub(super) fn element(&self) -> Option<Element> {
        self.server.tree.get(self.names())
    }

    /// The element that the anchor holds now, if it is of this kind.
    pub(super) fn element_of<K: Kind>(&self) -> Result<Arc<K>, Error> {
        let element = self.element();
        match element.as_ref().and_then(K::of) {
            Some(element) => Ok(element.clone()),
            None => Err(self.wrong_kind(element)),
        }
    }

    /// The error of an element that does not take the operation, or is not there.
    pub(super) fn wrong_kind(&self, element: Option<Element>) -> Error {
        match element {
            None => nothing_there(),
            Some(element) => {
                let (kind, what) = (element.kind(), self.operation.what());
                Error::new(Code::WrongKind, format!("a {kind} does not take {what}"))
            }
        }
    }

    /// Makes an element that is there at once.
    pub(super) fn make<K: Kind>(
        &mut self,
        make: impl FnOnce() -> Result<Arc<K>, Error>,
    ) -> Result<Arc<K>, Error> {
        let (tree, names) = (&self.server.tree, self.path.below_server());
        let make = || {
            let place = tree.reserve(names);
            let place = place.map_err(|why| occupied(&why, tree.get(names)))?;
            let element = make()?;
            place.commit(element.clone().into_element());
            Ok(element)
        };
        self.operation.in_order(make, |_| true)
    }

    /// Keeps the anchor for an element that is about to be made. A loser is logged at once, a
    /// winner when its element is there.
    pub(super) fn reserve(&mut self) -> Result<Reservation<Element>, Error> {
        let (tree, names) = (&self.server.tree, self.path.below_server());
        let reserve = || {
            let place = tree.reserve(names);
            place.map_err(|why| occupied(&why, tree.get(names)))
        };
        self.operation.in_order(reserve, Result::is_err)
    }

    /// As [`reserve`](Call::reserve), for an element that alone decides what is below it.
    pub(super) fn reserve_closed(&mut self) -> Result<Reservation<Element>, Error> {
        let (tree, names) = (&self.server.tree, self.path.below_server());
        let reserve = || {
            let place = tree.reserve_closed(names);
            place.map_err(|why| occupied(&why, tree.get(names)))
        };
        self.operation.in_order(reserve, Result::is_err)
    }

    /// Puts an element into the place that was kept for it.
    pub(super) fn commit<K: Kind>(&mut self, place: Reservation<Element>, element: &Arc<K>) {
        let element = element.clone().into_element();
        let committed = || {
            place.commit(element);
            Ok(())
        };
        // This does not fail.
        let _ = self.operation.in_order(committed, |_| true);
    }

    /// Does something that changes the element, and logs it in the order in which changes took
    /// effect.
    pub(super) fn in_order<T>(
        &mut self,
        change: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.operation.in_order(change, |_| true)
    }
}

/// Elements that are bound to the stream of the request that made them.
impl Call {
    /// Answers the maker of a bound element, and ends the element when the stream ends, in order or
    /// not. It is boxed, as every request would carry it along.
    pub(super) fn bind<'a, K: Kind>(
        &'a mut self,
        made: Result<Arc<K>, Error>,
    ) -> Pin<Box<dyn Future<Output = Result<(), Gone>> + Send + 'a>> {
        Box::pin(async move {
            let element = match made {
                Ok(element) => element,
                Err(error) => return self.refuse(error).await,
            };
            let held = self.hold(&*element).await;
            if let Ok(Ok(())) | Err(Gone) = held {
                element.unbind().await;
                self.remove(&element).await;
            }
            self.end(held?).await
        })
    }

    /// Lasts until the maker of an element has ended its stream or is gone, or the element has been
    /// scrubbed.
    async fn hold<K: Kind>(&mut self, element: &K) -> Result<End, Gone> {
        self.accept().await?;
        let abandoned = self.send.abandoned();
        tokio::select! {
            biased;
            aborted = element.aborted() => Ok(Err(aborted)),
            end = end_of(&mut self.recv) => end,
            () = abandoned => Err(Gone),
        }
    }

    /// Removes an element whose maker is gone, and logs that as the scrub that it is.
    pub(super) async fn remove<K: Kind>(&mut self, element: &Arc<K>) {
        let (server, who) = (self.server.clone(), self.operation.who().clone());
        let mut removal = server.operations.begin(who, "scrub", self.path.clone());
        let held = element.clone().into_element();
        let same = |found: &Element| found.is(&held);
        let names = self.path.below_server();
        let remove = || server.tree.remove_if(names, same).ok_or_else(nothing_there);
        if removal.in_order(remove, |_| true).is_ok() {
            element.scrubbed().await;
        }
    }
}

/// Resolves when the caller ends its direction in order. A caller that is lost is gone.
async fn end_of(recv: &mut RecvHalf) -> Result<End, Gone> {
    loop {
        match recv.data().await {
            // There is no data to send.
            Ok(Some(_)) => (),
            Ok(None) | Err(StreamError::Failed(_)) => return Ok(Ok(())),
            Err(StreamError::Abandoned | StreamError::Lost(_) | StreamError::Protocol(_)) => {
                return Err(Gone);
            }
        }
    }
}

/// The answer.
impl Call {
    /// Waits for something, until the caller goes away. It is pinned by the caller of this, as a
    /// future that is passed by value has its place in a request twice.
    pub(super) async fn unless_gone<T>(
        &self,
        wait: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Gone> {
        tokio::select! {
            biased;
            done = wait => Ok(done),
            () = self.send.abandoned() => Err(Gone),
        }
    }

    /// Answers with a value or an error, which is all.
    pub(super) async fn answer<T: Serialize>(
        &mut self,
        result: Result<T, Error>,
    ) -> Result<(), Gone> {
        let too_large = |error: codec::CodecError| Error::new(Code::TooLarge, error.to_string());
        let reply: Reply = result
            .and_then(|value| codec::encode(&value).map(Value).map_err(too_large))
            .map_err(shortened);
        self.operation.log(reply.as_ref().err());
        match self.send.last_frame(&reply).await {
            Err(StreamError::Protocol(codec)) => {
                self.send.last_frame(&Reply::Err(too_large(codec))).await?;
            }
            sent => sent?,
        }
        Ok(())
    }

    /// Answers with an error.
    pub(super) async fn refuse(&mut self, error: Error) -> Result<(), Gone> {
        self.answer::<()>(Err(error)).await
    }

    /// Begins an answer of data, which goes with what is put into the queue behind it.
    pub(super) fn queue_accept(&mut self) -> Result<(), Gone> {
        Ok(self.send.queue_frame(&Reply::Ok(Value::default()))?)
    }

    /// Begins an answer of data.
    pub(super) async fn accept(&mut self) -> Result<(), Gone> {
        Ok(self.send.frame(&Reply::Ok(Value::default())).await?)
    }

    /// Ends an answer of data, and logs how it went.
    pub(super) async fn end(&mut self, end: End) -> Result<(), Gone> {
        self.operation.log(end.as_ref().err());
        // Before the other half is dropped, which says that no more is read: whichever the caller
        // hears first, it learns why.
        Ok(self.send.end(&end).await?)
    }

    /// Answers with text.
    pub(super) async fn text(&mut self, text: String) -> Result<(), Gone> {
        self.operation.log(None);
        self.accept().await?;
        self.send.data(text.into()).await?;
        self.end(Ok(())).await
    }

    /// Answers with a listing: `fill` adds entries until the chunks are full, and says whether it has
    /// come to the end.
    pub(super) async fn list(
        &mut self,
        mut fill: impl FnMut(&mut Chunks) -> bool,
    ) -> Result<(), Gone> {
        self.operation.log(None);
        self.accept().await?;
        let mut chunks = Chunks::default();
        loop {
            let ended = fill(&mut chunks);
            for full in chunks.full.drain(..) {
                self.send.data(full.into()).await?;
            }
            if ended {
                break;
            }
        }
        self.send.data(chunks.bytes.into()).await?;
        self.end(Ok(())).await
    }
}

/// Encodes values one behind the other, into chunks that hold whole ones. Each value is encoded
/// once.
#[derive(Default)]
pub(super) struct Chunks {
    /// Full chunks, in order.
    full: Vec<Vec<u8>>,
    /// The values behind the last full chunk.
    bytes: Vec<u8>,
}

impl Chunks {
    /// Adds a value that is shorter than a chunk.
    pub(super) fn add<T: Serialize>(&mut self, value: &T) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(MAX_CHUNK);
        }
        let before = self.bytes.len();
        // A path, or a server's name and URL, is far shorter than a frame: this does not fail.
        let added = codec::append(&mut self.bytes, value);
        if added.is_err() {
            self.bytes.truncate(before);
        }
        if self.bytes.len() > MAX_CHUNK && before > 0 {
            let next = self.bytes.split_off(before);
            self.full.push(std::mem::replace(&mut self.bytes, next));
        }
    }

    /// Whether there is a chunk to send.
    pub(super) fn is_full(&self) -> bool {
        !self.full.is_empty()
    }
}

/// The longest message of an error, in bytes: it may quote what the caller sent, and is logged.
const LONGEST_MESSAGE: usize = 1024;

fn shortened(mut error: Error) -> Error {
    if error.message.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE)
            .rev()
            .find(|end| error.message.is_char_boundary(*end));
        error.message.truncate(end.unwrap_or(0));
        error.message.push('…');
    }
    error
}

/// The error of an anchor that holds no element.
pub(super) fn nothing_there() -> Error {
    Error::new(Code::NoSuchElement, "nothing there")
}

fn occupied(why: &Occupied, holder: Option<Element>) -> Error {
    let message = match (why, holder) {
        (Occupied::Held, Some(element)) => format!("occupied by a {}", element.kind()),
        (Occupied::Held, None) => "occupied: somebody else is making an element there".to_owned(),
        (Occupied::Leads, _) => "occupied: there are elements below it".to_owned(),
        (Occupied::Within(names), _) => {
            format!("occupied: it is below a service, {}", names.join("/"))
        }
    };
    Error::new(Code::Occupied, message)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde::Serializer;

    use super::*;

    /// A path of so many bytes, which counts how often it is encoded.
    struct Long<'a>(String, &'a Cell<usize>);

    impl Serialize for Long<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.1.set(self.1.get() + 1);
            self.0.serialize(serializer)
        }
    }

    #[test]
    fn each_entry_of_a_listing_is_encoded_once() {
        let encoded = Cell::new(0);
        // As long as the longest path: 64 names of 255 bytes.
        let long = |n: usize| Long(format!("{n:016384}"), &encoded);
        let entries: Vec<_> = (0..1000).map(long).collect();
        let (mut chunks, mut all) = (Chunks::default(), Vec::new());
        for entry in &entries {
            chunks.add(entry);
            all.append(&mut chunks.full);
        }
        all.push(chunks.bytes);
        assert_eq!(encoded.get(), 1000);
        assert!(all.iter().all(|chunk| chunk.len() <= MAX_CHUNK));
        let read = all
            .iter()
            .flat_map(|chunk| codec::decode_all::<String>(chunk).unwrap());
        assert!(read.eq(entries.iter().map(|entry| entry.0.clone())));
    }
}
