//! One message on a stream of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use circuit_proto::element::channel::Op;
use circuit_proto::request::{self, End};
use circuit_proto::{Code, Path};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::anchor::Anchor;
use crate::client::{Behind, Client};
use crate::error::Error;
use crate::stream::Writer;
use crate::transport::stream::{RecvHalf, SendHalf, StreamError};

/// Opens a message, and waits for its place.
pub(super) async fn send(anchor: &Anchor) -> Result<MessageWriter, Error> {
    let (client, path) = (anchor.client(), anchor.path());
    let (send, mut recv) = client.open(path, &Op::Send.into()).await?;
    match recv.data().await {
        Ok(Some(_placed)) => (),
        Ok(None) => {
            return Err(Error::protocol(
                path,
                "it ended a message that did not begin",
            ));
        }
        Err(error) => return Err(client.failed(path, error)),
    }
    let writer = Writer::new(client.clone(), path.clone(), send, recv);
    Ok(MessageWriter { writer })
}

/// Sends everything there is to say at once, then hears how it went.
pub(super) async fn send_all(anchor: &Anchor, message: Bytes) -> Result<(), Error> {
    let (client, path) = (anchor.client(), anchor.path());
    let (mut send, mut recv) = client
        .request(path, &Op::Send.into(), Behind::DataAtOnce)
        .await?;
    send.queue_data(message);
    let queued = send.queue_end(&Ok(()));
    queued.map_err(|error| Error::protocol(path, error))?;
    send.queue_finish();
    let sent = async {
        match std::future::poll_fn(|cx| send.poll_drain(cx)).await {
            Ok(()) => {
                send.finish();
                Ok(())
            }
            // The answer says why.
            Err(StreamError::Abandoned) => std::future::pending().await,
            Err(error) => Err(client.failed(path, error)),
        }
    };
    let answered = async {
        let accepted = client.accepted(path, &mut recv).await;
        accepted.map_err(Failed::Request)?;
        while recv.data().await.map_err(Failed::Message)?.is_some() {}
        Ok(())
    };
    tokio::pin!(answered);
    tokio::select! {
        biased;
        sent = sent => sent?,
        // Before all was sent it cannot have succeeded.
        answered = &mut answered => return answered.map_err(|failed| match failed {
            Failed::Request(error) => error,
            Failed::Message(error) => client.failed(path, error),
        }),
    }
    answered.await.map_err(|failed| match failed {
        // The message was right behind the request.
        Failed::Request(error @ (Error::CircuitGone { .. } | Error::TimedOut { .. })) => {
            let (path, reason) = (path.clone(), error.reason());
            Error::Unknown { path, reason }
        }
        Failed::Request(error) => error,
        Failed::Message(error) => client.failed_at_end(path, error),
    })
}

/// How far a send had come when it failed.
enum Failed {
    Request(Error),
    Message(StreamError),
}

/// Opens the next message, if there is one in time.
pub(super) async fn receive_within(
    anchor: &Anchor,
    time: Duration,
) -> Result<Option<MessageReader>, Error> {
    let wait = milliseconds(time);
    match receive(anchor, Op::ReceiveWithin { wait }).await {
        Err(error) if error.code() == Some(Code::Empty) => Ok(None),
        opened => opened.map(Some),
    }
}

/// As many whole milliseconds as it takes.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Opens the next message.
pub(in crate::element) async fn receive(
    anchor: &Anchor,
    op: impl Into<request::Op>,
) -> Result<MessageReader, Error> {
    let (client, path) = (anchor.client(), anchor.path());
    let (send, mut recv) = client.open(path, &op.into()).await?;
    // An error, such as that the channel is closed, is told here, not at the first read.
    let first = recv.data().await;
    let first = first.map_err(|error| client.failed(path, error))?;
    Ok(MessageReader {
        client: client.clone(),
        path: path.clone(),
        send,
        recv,
        stage: match first {
            Some(_) => Stage::Data,
            None => Stage::Read,
        },
        rest: first.unwrap_or_default(),
    })
}

/// Writes a message. Dropped before [`finish`](Self::finish), it takes the message along.
#[derive(Debug)]
pub struct MessageWriter {
    writer: Writer,
}

impl MessageWriter {
    /// Takes bytes, without copying them, and sends as many of them as the channel has room for;
    /// waits while the channel has no room for the bytes that were taken before. The rest goes
    /// with the next call of any method.
    ///
    /// **Cancellation:** a future that is dropped has taken none of the bytes: they may be sent
    /// again.
    ///
    /// ```no_run
    /// # async fn example(mut message: circuit_client::MessageWriter) -> Result<(), circuit_client::Error> {
    /// message.send("hello".into()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.writer.send(bytes).await
    }

    /// Waits until all bytes that were taken are on their way to the channel.
    ///
    /// ```no_run
    /// # async fn example(mut message: circuit_client::MessageWriter) -> Result<(), circuit_client::Error> {
    /// message.send("half of ".into()).await?;
    /// message.flush().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().await
    }

    /// Resolves when the message cannot be delivered any more: the channel was scrubbed, or the
    /// receiver or the connection is gone. Meanwhile the bytes that were taken are sent. A program
    /// waits for it while it has nothing to send.
    ///
    /// ```no_run
    /// # async fn example(mut message: circuit_client::MessageWriter) -> Result<(), circuit_client::Error> {
    /// let until = tokio::time::sleep(std::time::Duration::from_secs(1));
    /// tokio::select! {
    ///     error = message.failed() => return Err(error),
    ///     () = until => message.send("hello".into()).await?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn failed(&mut self) -> Error {
        self.writer.failed().await
    }

    /// Ends the message, and waits until the send has succeeded.
    ///
    /// ```no_run
    /// # async fn example(message: circuit_client::MessageWriter) -> Result<(), circuit_client::Error> {
    /// message.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn finish(self) -> Result<(), Error> {
        self.writer.finish().await
    }
}

impl AsyncWrite for MessageWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

/// How far a message was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its data comes.
    Data,
    /// All of it was read.
    Read,
    /// The channel was told so.
    Acknowledged,
    /// The channel took note.
    Done,
}

/// Reads a message.
///
/// As `AsyncRead` it comes to its end only once the channel has taken note that all was received.
/// With [`chunk`](Self::chunk) and [`accept`](Self::accept) a program says itself when. Dropped
/// before, it leaves the message to another receiver.
///
/// **Cancellation:** no data is lost by dropping a future of these.
#[derive(Debug)]
pub struct MessageReader {
    client: Client,
    path: Path,
    send: SendHalf,
    recv: RecvHalf,
    stage: Stage,
    rest: Bytes,
}

impl MessageReader {
    /// The next bytes, without copying them; `None` at the end of the message, which is then still
    /// to be [accepted](Self::accept).
    ///
    /// ```no_run
    /// # async fn example(mut message: circuit_client::MessageReader) -> Result<(), circuit_client::Error> {
    /// while let Some(bytes) = message.chunk().await? {
    ///     println!("{} bytes", bytes.len());
    /// }
    /// message.accept().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// Says that all of the message was received, and waits until the channel has taken note:
    /// then it is received for good. What was not read is discarded.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] if the connection is lost before the channel's answer.
    ///
    /// ```no_run
    /// # async fn example(message: circuit_client::MessageReader) -> Result<(), circuit_client::Error> {
    /// message.accept().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn accept(mut self) -> Result<(), Error> {
        while self.chunk().await?.is_some() {}
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Receives all of the message, which is at most `limit` bytes long, and accepts it.
    ///
    /// # Errors
    ///
    /// [`TooLarge`](crate::Code::TooLarge) if it is longer.
    ///
    /// ```no_run
    /// # async fn example(message: circuit_client::MessageReader) -> Result<(), circuit_client::Error> {
    /// println!("{} bytes", message.read_all(1 << 20).await?.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn read_all(mut self, limit: usize) -> Result<Bytes, Error> {
        let mut whole = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(bytes) = self.chunk().await? {
            if whole.len() + joined.len() + bytes.len() > limit {
                return Err(too_large(&self.path, limit));
            }
            // A short message comes in one piece, which need not be copied.
            match whole.is_empty() && joined.is_empty() {
                true => whole = bytes,
                false => {
                    joined.extend_from_slice(&std::mem::take(&mut whole));
                    joined.extend_from_slice(&bytes);
                }
            }
        }
        self.accept().await?;
        Ok(match joined.is_empty() {
            true => whole,
            false => joined.freeze(),
        })
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        if self.stage != Stage::Data {
            return Poll::Ready(Ok(None));
        }
        match ready!(self.recv.poll_data(cx)) {
            Ok(Some(bytes)) => Poll::Ready(Ok(Some(bytes))),
            Ok(None) => {
                self.stage = Stage::Read;
                Poll::Ready(Ok(None))
            }
            Err(error) => Poll::Ready(Err(self.client.failed(&self.path, error))),
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.stage == Stage::Read {
            let queued = self.send.queue_end(&Ok(()));
            queued.map_err(|error| Error::protocol(&self.path, error))?;
            self.send.queue_finish();
            self.stage = Stage::Acknowledged;
        }
        if self.stage == Stage::Acknowledged {
            let lost = |error| self.client.failed_at_end(&self.path, error);
            match ready!(self.send.poll_drain(cx)) {
                Ok(()) => self.send.finish(),
                // The next frame says why.
                Err(StreamError::Abandoned) => (),
                Err(error) => return Poll::Ready(Err(lost(error))),
            }
            let done: End = ready!(self.recv.poll_frame(cx)).map_err(lost)?;
            done.map_err(|error| Error::from_reply(&self.path, error))?;
            self.stage = Stage::Done;
        }
        Poll::Ready(Ok(()))
    }
}

pub(super) fn too_large(path: &Path, limit: usize) -> Error {
    let message = format!("a message of more than {limit} bytes");
    Error::Refused {
        path: path.clone(),
        error: circuit_proto::Error::new(Code::TooLarge, message),
    }
}

impl AsyncRead for MessageReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_chunk(cx))? {
            Some(mut bytes) => {
                let count = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes.split_to(count));
                self.rest = bytes;
                Poll::Ready(Ok(()))
            }
            None => self.poll_accept(cx).map_err(io::Error::from),
        }
    }
}
