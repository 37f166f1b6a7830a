//! Gives callers the data of an element as `AsyncRead` and `AsyncWrite`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use circuit_proto::{Code, Path};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client::Client;
use crate::error::Error;
use crate::transport::stream::{RecvHalf, SendHalf, StreamError};

/// Reads what an element produces, live.
///
/// Dropping it leaves the rest to the next reader, but for what is on its way by then, which is
/// lost; [`leave`](Self::leave) loses nothing. [`close`](Self::close) has the rest discarded.
///
/// **Cancellation:** no data is lost by dropping a future of [`chunk`](Self::chunk).
#[derive(Debug)]
pub struct Reader {
    client: Client,
    path: Path,
    send: SendHalf,
    recv: RecvHalf,
    rest: Bytes,
}

impl Reader {
    pub(crate) fn new(client: Client, path: Path, send: SendHalf, recv: RecvHalf) -> Reader {
        Reader {
            client,
            path,
            send,
            recv,
            rest: Bytes::new(),
        }
    }

    /// The next bytes, without copying them; `None` at the end.
    ///
    /// ```no_run
    /// # async fn example(mut reader: circuit_client::Reader) -> Result<(), circuit_client::Error> {
    /// while let Some(bytes) = reader.chunk().await? {
    ///     println!("{} bytes", bytes.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        self.recv
            .data()
            .await
            .map_err(|error| self.client.failed(&self.path, error))
    }

    /// Receives a whole chunk, where chunks are values; `None` after the end. Not after
    /// [`chunk`](Self::chunk).
    pub(crate) async fn whole_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.recv
            .whole_chunk()
            .await
            .map_err(|error| self.client.failed(&self.path, error))
    }

    /// Leaves the rest to the next reader: nothing more is handed to this one. What is on its way
    /// is still to be read, up to the end; then the next may come.
    ///
    /// ```no_run
    /// # async fn example(mut reader: circuit_client::Reader) -> Result<(), circuit_client::Error> {
    /// reader.leave().await?;
    /// while let Some(bytes) = reader.chunk().await? {
    ///     println!("{} bytes, which nobody else gets", bytes.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn leave(&mut self) -> Result<(), Error> {
        let left = circuit_proto::Error::new(Code::Aborted, "the reader left");
        match self.send.send_end(&Err(left)).await {
            // The next frame says how the stream ended.
            Ok(()) | Err(StreamError::Abandoned) => Ok(()),
            Err(error) => Err(self.client.failed(&self.path, error)),
        }
    }

    /// Closes for good: what the element produces from now on is discarded, so that it never
    /// blocks for want of a reader.
    ///
    /// ```no_run
    /// # async fn example(reader: circuit_client::Reader) -> Result<(), circuit_client::Error> {
    /// reader.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(self) -> Result<(), Error> {
        let Reader {
            client,
            path,
            mut send,
            mut recv,
            ..
        } = self;
        match send.end(&Ok(())).await {
            // The next frame says how the stream ended.
            Ok(()) | Err(StreamError::Abandoned) => (),
            Err(error) => return Err(client.failed(&path, error)),
        }
        loop {
            match recv.data().await {
                Ok(Some(_)) => (),
                Ok(None) => return Ok(()),
                Err(error) => return Err(client.failed(&path, error)),
            }
        }
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Ok(Some(bytes)) => self.rest = bytes,
                Ok(None) => return Poll::Ready(Ok(())),
                Err(error) => {
                    return Poll::Ready(Err(self.client.failed(&self.path, error).into()));
                }
            }
        }
        let count = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest.split_to(count));
        Poll::Ready(Ok(()))
    }
}

/// Writes to an element.
///
/// [`finish`](Self::finish), or `shutdown` of `AsyncWriteExt`, ends the data and waits until the
/// element has all of it. Dropping the writer before is no end: the element knows that more was
/// to come.
#[derive(Debug)]
pub struct Writer {
    client: Client,
    path: Path,
    send: SendHalf,
    recv: RecvHalf,
    ended: bool,
}

impl Writer {
    pub(crate) fn new(client: Client, path: Path, send: SendHalf, recv: RecvHalf) -> Writer {
        Writer {
            client,
            path,
            send,
            recv,
            ended: false,
        }
    }

    /// Takes bytes, without copying them, and sends as many of them as the element has room for;
    /// waits while the element has no room for the bytes that were taken before.
    ///
    /// The rest goes with the next call of any method; [`flush`](Self::flush) waits for that.
    ///
    /// **Cancellation:** a future that is dropped has taken none of the bytes: they may be sent
    /// again.
    ///
    /// ```no_run
    /// # async fn example(mut writer: circuit_client::Writer) -> Result<(), circuit_client::Error> {
    /// writer.send("hello\n".into()).await?;
    /// writer.flush().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Error> {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await?;
        // Nothing waits between taking the bytes and returning.
        self.send.queue_data(bytes);
        std::future::poll_fn(|cx| match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }

    /// Waits until all bytes that were taken are on their way to the element.
    ///
    /// ```no_run
    /// # async fn example(mut writer: circuit_client::Writer) -> Result<(), circuit_client::Error> {
    /// writer.send("a question\n".into()).await?;
    /// writer.flush().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn flush(&mut self) -> Result<(), Error> {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await
    }

    /// Ends the data, and waits until the element has all of it.
    ///
    /// ```no_run
    /// # async fn example(writer: circuit_client::Writer) -> Result<(), circuit_client::Error> {
    /// writer.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn finish(mut self) -> Result<(), Error> {
        std::future::poll_fn(|cx| self.poll_finish(cx)).await
    }

    /// Resolves when the element takes no more, and says why: it was scrubbed, or its server is lost.
    /// Meanwhile the bytes that were taken are sent. A program waits for it while it has nothing to
    /// send.
    ///
    /// ```no_run
    /// # async fn example(mut writer: circuit_client::Writer) {
    /// eprintln!("{}", writer.failed().await);
    /// # }
    /// ```
    pub async fn failed(&mut self) -> Error {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                return Poll::Ready(error);
            }
            loop {
                return Poll::Ready(match ready!(self.recv.poll_data(cx)) {
                    Ok(Some(_)) => continue,
                    Ok(None) => self.client.failed(&self.path, StreamError::Abandoned),
                    Err(error) => self.client.failed(&self.path, error),
                });
            }
        })
        .await
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match ready!(self.send.poll_drain(cx)) {
            Ok(()) => Poll::Ready(Ok(())),
            // The element let go; why is on its way.
            Err(StreamError::Abandoned) => match ready!(self.recv.poll_data(cx)) {
                Ok(_) => Poll::Ready(Err(self.client.failed(&self.path, StreamError::Abandoned))),
                Err(error) => Poll::Ready(Err(self.client.failed(&self.path, error))),
            },
            Err(error) => Poll::Ready(Err(self.client.failed(&self.path, error))),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.ended {
            self.ended = true;
            self.send
                .queue_end(&Ok(()))
                .map_err(|error| self.client.failed(&self.path, error))?;
            self.send.queue_finish();
        }
        ready!(self.poll_drain(cx))?;
        self.send.finish();
        loop {
            match ready!(self.recv.poll_data(cx)) {
                Ok(Some(_)) => (),
                Ok(None) => return Poll::Ready(Ok(())),
                Err(error) => {
                    return Poll::Ready(Err(self.client.failed_at_end(&self.path, error)));
                }
            }
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let count = buf.len().min(circuit_proto::codec::MAX_CHUNK);
        self.send.queue_data(Bytes::copy_from_slice(&buf[..count]));
        // Bytes that do not go now go at the next call; `poll_flush` waits for them.
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx).map_err(io::Error::from)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx).map_err(io::Error::from)
    }
}
