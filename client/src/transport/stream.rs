//! Streams that tell a cut from an end.
//!
//! A QUIC stream ends the same way whether its sender finished or its sender's task was dropped:
//! a dropped `quinn::SendStream` *finishes*. These wrappers reset on drop, and put an explicit
//! `End` behind the data, so that a truncated stream is always an error.
//!
//! Everything is a length-prefixed item: frames (at most 1 MiB) and chunks (at most 64 KiB), see
//! [`circuit_proto::request`].
//!
//! **Cancellation:** every method may be dropped and called again; what was read stays buffered,
//! what was queued stays queued. Dropping a half abandons its direction.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use circuit_proto::codec::{self, CodecError, HEADER, MAX_CHUNK, MAX_FRAME};
use circuit_proto::request::End;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::backend::Fate;
pub use self::backend::{Receiving, Sending};
use super::buffer::Buffer;
use super::lost::Lost;

mod backend;
pub mod memory;
#[cfg(test)]
mod tests;

/// Why a stream gives or takes nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The other side said in order that it failed.
    #[error("{0}")]
    Failed(circuit_proto::Error),
    /// The other side went away in the middle, or let go of the stream.
    #[error("the other side abandoned the stream")]
    Abandoned,
    /// The connection is lost.
    #[error("the connection is lost: {0}")]
    Lost(Lost),
    /// The other side broke the protocol.
    #[error(transparent)]
    Protocol(#[from] CodecError),
}

/// The sending half of a stream. Dropped before [`finish`](Self::finish), it resets.
#[derive(Debug)]
pub struct SendHalf {
    inner: Sending,
    queued: VecDeque<Bytes>,
    /// The transport's marker is in the queue, or was.
    marked: bool,
    finished: bool,
}

impl SendHalf {
    /// Wraps a stream that nothing was written to.
    pub fn new(inner: impl Into<Sending>) -> SendHalf {
        SendHalf {
            inner: inner.into(),
            queued: VecDeque::new(),
            marked: false,
            finished: false,
        }
    }

    /// Sends a value in a frame of its own.
    pub async fn frame<T: Serialize>(&mut self, value: &T) -> Result<(), StreamError> {
        self.queued.push_back(codec::frame(value)?.into());
        self.drain().await
    }

    /// Sends bytes in a frame of their own: at most [`MAX_FRAME`].
    pub async fn raw_frame(&mut self, body: Bytes) -> Result<(), StreamError> {
        if body.len() > MAX_FRAME {
            return Err(CodecError::TooLarge(body.len()).into());
        }
        self.queue(body);
        self.drain().await
    }

    /// Sends bytes in a frame of their own, and finishes.
    pub async fn last_raw_frame(&mut self, body: Bytes) -> Result<(), StreamError> {
        if body.len() > MAX_FRAME {
            return Err(CodecError::TooLarge(body.len()).into());
        }
        self.queue(body);
        self.drain_and_finish().await
    }

    /// Sends data, in as many chunks as it takes.
    pub async fn data(&mut self, data: Bytes) -> Result<(), StreamError> {
        self.queue_data(data);
        self.drain().await
    }

    /// Sends data that is in several pieces, of [`MAX_CHUNK`] bytes in all at most, as one chunk.
    pub async fn chunk(&mut self, pieces: Vec<Bytes>) -> Result<(), StreamError> {
        self.queue_chunk(pieces);
        self.drain().await
    }

    /// Puts data that is in several pieces into the queue, as [`chunk`](Self::chunk) sends them.
    pub fn queue_chunk(&mut self, pieces: Vec<Bytes>) {
        let length: usize = pieces.iter().map(Bytes::len).sum();
        if length > MAX_CHUNK {
            for piece in pieces {
                self.queue_data(piece);
            }
        } else if length > 0 {
            self.queue_header(length);
            self.queued.extend(pieces);
        }
    }

    /// Sends a value in a frame of its own, and finishes.
    pub async fn last_frame<T: Serialize>(&mut self, value: &T) -> Result<(), StreamError> {
        self.queued.push_back(codec::frame(value)?.into());
        self.drain_and_finish().await
    }

    /// Ends the direction: says how, and finishes.
    pub async fn end(&mut self, how: &End) -> Result<(), StreamError> {
        self.queue_end(how)?;
        self.drain_and_finish().await
    }

    /// Says how the direction ended, without finishing: frames may follow.
    pub async fn send_end(&mut self, how: &End) -> Result<(), StreamError> {
        self.queue_end(how)?;
        self.drain().await
    }

    /// Ends the stream in order. What was sent is delivered still.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.queue_finish();
        if self.marked {
            // What finds no room now is written later; who reads no more needs none of it.
            let _ = self.poll_drain(&mut Context::from_waker(Waker::noop()));
        }
        self.inner.finish(self.queued.drain(..));
    }

    async fn drain_and_finish(&mut self) -> Result<(), StreamError> {
        // Written together with what is queued.
        self.queue_finish();
        self.drain().await?;
        self.finished = true;
        self.inner.finish(std::iter::empty());
        Ok(())
    }

    /// Resolves when the other side lets go of the stream, or the connection is lost.
    pub fn abandoned(&self) -> impl Future<Output = ()> + Send + 'static {
        let fate = self.inner.fate();
        async move {
            if let Fate::Received = fate.await {
                // All was received in order: nobody lets go of anything.
                std::future::pending().await
            }
        }
    }

    /// Resolves when the other side has received all of a stream that was finished, or never will.
    pub fn received(&self) -> impl Future<Output = ()> + Send + 'static {
        let fate = self.inner.fate();
        async move {
            // However it went, there is nothing more to wait for.
            let _ = fate.await;
        }
    }

    /// Puts a value in a frame of its own into the queue.
    pub fn queue_frame<T: Serialize>(&mut self, value: &T) -> Result<(), StreamError> {
        self.queued.push_back(codec::frame(value)?.into());
        Ok(())
    }

    /// Has the next drain also say that nothing follows, if the transport has a word for that. Call
    /// [`finish`](Self::finish) when it is drained.
    pub fn queue_finish(&mut self) {
        if !self.marked
            && let Some(marker) = self.inner.marker()
        {
            self.queued.push_back(marker);
            self.marked = true;
        }
    }

    /// Waits for something. What is queued is sent meanwhile; if there is nothing to wait for, it stays
    /// queued, and goes together with what comes next. It is pinned by the caller, as a future that is
    /// passed by value has its place in the caller's twice.
    pub async fn unless_ready<T>(
        &mut self,
        mut what: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, StreamError> {
        tokio::select! {
            biased;
            done = &mut what => return Ok(done),
            sent = self.drain() => sent?,
        }
        Ok(what.await)
    }

    /// Puts data into the queue, in chunks, for [`poll_drain`](Self::poll_drain) to send.
    pub fn queue_data(&mut self, mut data: Bytes) {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(MAX_CHUNK));
            self.queue(chunk);
        }
    }

    /// Puts the end of the data into the queue.
    pub fn queue_end(&mut self, how: &End) -> Result<(), StreamError> {
        self.queued.push_back(Bytes::from_static(&[0; HEADER]));
        self.queued.push_back(codec::frame(how)?.into());
        Ok(())
    }

    fn queue(&mut self, body: Bytes) {
        self.queue_header(body.len());
        self.queued.push_back(body);
    }

    fn queue_header(&mut self, length: usize) {
        // The length fits: frames and chunks are bounded far below 4 GiB.
        let header = (length as u32).to_be_bytes();
        self.queued.push_back(Bytes::copy_from_slice(&header));
    }

    /// Sends what is queued, as far as the other side takes it.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.queued.is_empty() {
            let pieces = self.queued.make_contiguous();
            let written = ready!(self.inner.poll_write(cx, pieces))?;
            self.queued.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    async fn drain(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_drain(cx)).await
    }
}

impl Drop for SendHalf {
    fn drop(&mut self) {
        if !self.finished {
            self.inner.reset();
        }
    }
}

/// The receiving half of a stream. Dropped before its end, it asks the other side to stop.
#[derive(Debug)]
pub struct RecvHalf {
    inner: Receiving,
    buffer: Buffer,
    data: Data,
    /// The direction has finished.
    finished: bool,
}

/// How far the data of a direction has been read.
#[derive(Debug)]
enum Data {
    /// A chunk's header comes next.
    Header,
    /// So many bytes of the chunk are left.
    Chunk(usize),
    /// The `End` comes next.
    End,
    /// It has been read.
    Ended,
}

/// How many packets' worth of data are taken from QUIC at once. Chosen, not measured: 32 of
/// Ethernet's size are about a chunk.
const PIECES: usize = 32;

impl RecvHalf {
    /// Wraps a stream that nothing was read from.
    pub fn new(inner: impl Into<Receiving>) -> RecvHalf {
        RecvHalf {
            inner: inner.into(),
            buffer: Buffer::default(),
            data: Data::Header,
            finished: false,
        }
    }

    /// Wraps a stream of which these bytes were read already.
    pub(super) fn with(inner: impl Into<Receiving>, read: Bytes) -> RecvHalf {
        let mut half = RecvHalf::new(inner);
        half.buffer.push(read);
        half
    }

    /// Receives a value in a frame of its own.
    pub async fn frame<T: DeserializeOwned>(&mut self) -> Result<T, StreamError> {
        Ok(codec::decode(&self.raw_frame(MAX_FRAME).await?)?)
    }

    /// [`frame`](Self::frame) for those who poll.
    pub fn poll_frame<T: DeserializeOwned>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, StreamError>> {
        let body = ready!(self.poll_item(cx, MAX_FRAME))?;
        Poll::Ready(Ok(codec::decode(&body)?))
    }

    /// Receives a frame's bytes: at most `limit` of them.
    pub async fn raw_frame(&mut self, limit: usize) -> Result<Bytes, StreamError> {
        poll_fn(|cx| self.poll_item(cx, limit)).await
    }

    /// Receives a whole chunk; `None` after the orderly end of the data. For chunks that are values,
    /// as those of a listing.
    pub async fn whole_chunk(&mut self) -> Result<Option<Bytes>, StreamError> {
        poll_fn(|cx| self.poll_whole_chunk(cx)).await
    }

    /// [`whole_chunk`](Self::whole_chunk) for those who poll.
    pub fn poll_whole_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        if let Data::Header = self.data {
            let chunk = ready!(self.poll_item(cx, MAX_CHUNK))?;
            if !chunk.is_empty() {
                return Poll::Ready(Ok(Some(chunk)));
            }
            self.data = Data::End;
        }
        // The end is left, or the rest of a chunk that was begun.
        self.poll_data(cx)
    }

    /// Whether the direction has finished: `false` if there is more.
    pub async fn at_finish(&mut self) -> Result<bool, StreamError> {
        poll_fn(|cx| Poll::Ready(Ok(ready!(self.poll_header(cx))?.is_none()))).await
    }

    /// Whether something of the next item has arrived.
    pub fn has_begun(&self) -> bool {
        self.buffer.len() > 0
    }

    /// Receives data as it comes; `None` after its orderly end.
    pub async fn data(&mut self) -> Result<Option<Bytes>, StreamError> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// [`data`](Self::data) for those who poll.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        loop {
            match self.data {
                Data::Header => {
                    self.data = match ready!(self.poll_header(cx))? {
                        None => return Poll::Ready(Err(StreamError::Abandoned)),
                        Some(0) => Data::End,
                        Some(n) if n <= MAX_CHUNK => Data::Chunk(n),
                        Some(n) => return Poll::Ready(Err(CodecError::TooLarge(n).into())),
                    };
                    self.buffer.take_header();
                }
                Data::Chunk(left) => {
                    ready!(self.poll_fill(cx, 1))?;
                    let piece = self.buffer.take_piece(left);
                    self.data = match left - piece.len() {
                        0 => Data::Header,
                        left => Data::Chunk(left),
                    };
                    return Poll::Ready(Ok(Some(piece)));
                }
                Data::End => {
                    let body = ready!(self.poll_item(cx, MAX_FRAME))?;
                    self.data = Data::Ended;
                    codec::decode::<End>(&body)?.map_err(StreamError::Failed)?;
                }
                Data::Ended => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// A header and the bytes that it announces.
    fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        limit: usize,
    ) -> Poll<Result<Bytes, StreamError>> {
        let Some(length) = ready!(self.poll_header(cx))? else {
            return Poll::Ready(Err(StreamError::Abandoned));
        };
        if length > limit {
            return Poll::Ready(Err(CodecError::TooLarge(length).into()));
        }
        ready!(self.poll_fill(cx, HEADER + length))?;
        self.buffer.take_header();
        let item = self.buffer.take_exactly(length);
        self.see_marker();
        Poll::Ready(Ok(item))
    }

    /// The header that comes next, which stays in the buffer; `None` if the stream has finished.
    fn poll_header(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, StreamError>> {
        loop {
            self.see_marker();
            if self.buffer.len() >= HEADER {
                return Poll::Ready(Ok(Some(self.buffer.header())));
            }
            if !ready!(self.poll_more(cx))? {
                return Poll::Ready(match self.buffer.len() {
                    0 => Ok(None),
                    _ => Err(StreamError::Abandoned),
                });
            }
        }
    }

    /// Finishes the stream if the transport's marker for that is in the place of the next header.
    fn see_marker(&mut self) {
        if !self.finished
            && self.buffer.len() >= HEADER
            && let Some(marker) = self.inner.marker(self.buffer.header())
        {
            self.buffer.take_header();
            let behind = self.buffer.take_exactly(self.buffer.len());
            self.inner.finished(marker, behind);
            self.finished = true;
        }
    }

    /// Reads until so many bytes are buffered.
    fn poll_fill(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<(), StreamError>> {
        while self.buffer.len() < wanted {
            if !ready!(self.poll_more(cx))? {
                return Poll::Ready(Err(StreamError::Abandoned));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Buffers what has arrived; `false` if the stream has finished.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        if self.finished {
            return Poll::Ready(Ok(false));
        }
        let mut pieces: [Bytes; PIECES] = Default::default();
        let Some(count) = ready!(self.inner.poll_read(cx, &mut pieces))? else {
            self.finished = true;
            return Poll::Ready(Ok(false));
        };
        for piece in pieces.into_iter().take(count) {
            self.buffer.push(piece);
        }
        Poll::Ready(Ok(true))
    }
}

impl Drop for RecvHalf {
    fn drop(&mut self) {
        // A stream whose finish has arrived, and only was not read, is not to be stopped: that
        // would cost a packet each way for every request.
        let mut cx = Context::from_waker(Waker::noop());
        let finished = match self.data {
            Data::Chunk(_) => false,
            // What is left behind an `End` may be a frame that nobody reads.
            Data::Header | Data::End | Data::Ended => {
                matches!(self.poll_header(&mut cx), Poll::Ready(Ok(None)))
            }
        };
        if !finished {
            self.inner.stop();
        }
    }
}
