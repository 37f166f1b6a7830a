//! One request that this server executes, and the ways in which it is answered: by a value, by data,
//! or by taking data.
//!
//! **Cancellation:** a caller that goes away ends what was done for it; what it held is free.

use std::sync::Arc;

use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError};
use circuit_proto::codec::{self, MAX_CHUNK};
use circuit_proto::element::anchor::Listed;
use circuit_proto::request::{End, Reply, Value};
use circuit_proto::{Code, Error};
use serde::Serialize;

use super::Server;
use super::operations::Operation;
use crate::element::streams::{Attachable, Reading, Writing};

/// A request that this server executes.
pub(super) struct Call {
    pub(super) server: Arc<Server>,
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

/// What became of an output's reader.
enum Given {
    /// It was told all, or wants no more of it: how that ended.
    All(End),
    /// It left the rest to the next.
    Left,
}

/// What the `End` of a reader says.
enum Parting {
    /// Nobody wants the rest: it is discarded.
    Close,
    /// The rest is the next reader's.
    Leave,
}

impl Parting {
    fn take(self, reading: &Reading) -> Given {
        match self {
            Parting::Close => {
                reading.discard();
                Given::All(Ok(()))
            }
            Parting::Leave => Given::Left,
        }
    }
}

/// Resolves when a reader parts in order. One that is gone says nothing.
async fn parting(recv: &mut RecvHalf) -> Parting {
    loop {
        match recv.data().await {
            // Readers send no data.
            Ok(Some(_)) => (),
            Ok(None) => return Parting::Close,
            Err(StreamError::Failed(_)) => return Parting::Leave,
            Err(StreamError::Abandoned | StreamError::Lost(_) | StreamError::Protocol(_)) => {
                std::future::pending().await
            }
        }
    }
}

impl Call {
    /// Hands an output to the caller, live, until it ends or either goes away.
    pub(super) async fn read(mut self, mut reading: Reading, element: &dyn Attachable) {
        let given = self.give(&mut reading, element).await;
        // The place is free before the caller hears of the end.
        drop(reading);
        match given {
            Ok(given) => {
                let end = match given {
                    Given::All(end) => end,
                    // It wanted to know no more, which is not to know the end.
                    Given::Left => {
                        element.attached_gone();
                        Ok(())
                    }
                };
                self.operation.log(end.as_ref().err());
                let _ = self.send.end(end).await;
            }
            Err(Gone) => element.attached_gone(),
        }
    }

    async fn give(
        &mut self,
        reading: &mut Reading,
        element: &dyn Attachable,
    ) -> Result<Given, Gone> {
        self.send.frame(&Reply::Ok(Value::default())).await?;
        let abandoned = self.send.abandoned();
        tokio::pin!(abandoned);
        let parting = parting(&mut self.recv);
        tokio::pin!(parting);
        loop {
            let chunk = tokio::select! {
                biased;
                () = element.streams().scrubbed() => return Ok(Given::All(Err(scrubbed()))),
                // Before more is handed to it.
                parting = &mut parting => return Ok(parting.take(reading)),
                chunk = reading.next() => chunk,
                () = &mut abandoned => return Err(Gone),
            };
            let chunk = match chunk {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Given::All(Ok(()))),
                Err(error) => return Ok(Given::All(Err(error))),
            };
            let sent = self.send.data(chunk);
            tokio::pin!(sent);
            let parting = tokio::select! {
                biased;
                sent = &mut sent => {
                    sent?;
                    reading.handed();
                    continue;
                }
                parting = &mut parting => parting,
            };
            // It reads what is under way, and then our end.
            if let Parting::Leave = parting {
                sent.await?;
                reading.handed();
            }
            return Ok(parting.take(reading));
        }
    }

    /// Takes an input from the caller until it ends or either goes away.
    pub(super) async fn write(mut self, mut writing: Writing, element: &dyn Attachable) {
        let taken = self.take(&mut writing, element).await;
        // The place is free before the caller hears of the end.
        drop(writing);
        match taken {
            Ok(end) => {
                self.operation.log(end.as_ref().err());
                let Call { send, recv, .. } = self;
                // Why first, then that no more is read: whichever arrives first, the caller learns
                // why.
                let _ = send.end(end).await;
                drop(recv);
            }
            // The stdin stays open for another writer, unless the element is to hang up. Of one
            // that has ended nobody expects an end of the data.
            Err(Gone) if !element.streams().is_over() => element.attached_gone(),
            Err(Gone) => (),
        }
    }

    async fn take(&mut self, writing: &mut Writing, element: &dyn Attachable) -> Result<End, Gone> {
        self.send.frame(&Reply::Ok(Value::default())).await?;
        let abandoned = self.send.abandoned();
        tokio::pin!(abandoned);
        loop {
            let data = tokio::select! {
                data = self.recv.data() => data?,
                () = element.streams().scrubbed() => return Ok(Err(scrubbed())),
                () = &mut abandoned => return Err(Gone),
            };
            // What follows may wait for the process, which may exit, be scrubbed or lose its writer.
            let done = async {
                match data {
                    Some(data) => writing.write(&data).await.map(|()| false),
                    None => writing.end().await.map(|()| true),
                }
            };
            let done = tokio::select! {
                biased;
                done = done => done,
                () = element.streams().scrubbed() => Err(scrubbed()),
                _ = element.streams().over() => Err(Writing::closed()),
                () = &mut abandoned => return Err(Gone),
            };
            match done {
                Ok(false) => (),
                Ok(true) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    pub(super) async fn list(mut self, entries: Vec<Listed>) {
        self.operation.log(None);
        if self.send.frame(&Reply::Ok(Value::default())).await.is_err() {
            return;
        }
        let mut chunks = Chunks::default();
        for entry in &entries {
            // An entry is a path or a server's name and URL, which are far shorter than a frame.
            let full = chunks.add(entry).unwrap_or_default();
            if let Some(full) = full
                && self.send.data(full.into()).await.is_err()
            {
                return;
            }
        }
        if let Some(last) = chunks.last()
            && self.send.data(last.into()).await.is_err()
        {
            return;
        }
        let _ = self.send.end(Ok(())).await;
    }

    pub(super) async fn text(mut self, text: String) {
        self.operation.log(None);
        if self.send.frame(&Reply::Ok(Value::default())).await.is_ok()
            && self.send.data(text.into()).await.is_ok()
        {
            let _ = self.send.end(Ok(())).await;
        }
    }

    pub(super) async fn answer<T: Serialize>(mut self, result: Result<T, Error>) {
        let too_large = |error: codec::CodecError| Error::new(Code::TooLarge, error.to_string());
        let reply: Reply = result
            .and_then(|value| codec::encode(&value).map(Value).map_err(too_large))
            .map_err(shortened);
        self.operation.log(reply.as_ref().err());
        // A caller that is gone needs no answer.
        if let Err(StreamError::Protocol(codec)) = self.send.frame(&reply).await {
            let _ = self.send.frame(&Reply::Err(too_large(codec))).await;
        }
        self.send.finish();
    }

    pub(super) async fn refuse(self, error: Error) {
        self.answer::<()>(Err(error)).await;
    }
}

/// Encodes values one behind the other, into chunks that hold whole ones. Each value is encoded
/// once.
#[derive(Default)]
struct Chunks {
    bytes: Vec<u8>,
}

impl Chunks {
    /// Adds a value. Returns the chunk before it, if the value did not fit into that.
    fn add<T: Serialize>(&mut self, value: &T) -> Result<Option<Vec<u8>>, codec::CodecError> {
        let before = self.bytes.len();
        codec::append(&mut self.bytes, value)?;
        if self.bytes.len() <= MAX_CHUNK || before == 0 {
            return Ok(None);
        }
        let next = self.bytes.split_off(before);
        Ok(Some(std::mem::replace(&mut self.bytes, next)))
    }

    /// The values behind the last full chunk, if there are any.
    fn last(self) -> Option<Vec<u8>> {
        (!self.bytes.is_empty()).then_some(self.bytes)
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

fn scrubbed() -> Error {
    Error::new(Code::Aborted, "the element was scrubbed")
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
            all.extend(chunks.add(entry).unwrap());
        }
        all.extend(chunks.last());
        assert_eq!(encoded.get(), 1000);
        assert!(all.iter().all(|chunk| chunk.len() <= MAX_CHUNK));
        let read = all
            .iter()
            .flat_map(|chunk| codec::decode_all::<String>(chunk).unwrap());
        assert!(read.eq(entries.iter().map(|entry| entry.0.clone())));
    }
}
