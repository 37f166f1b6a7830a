//! The two halves of a stream as a transport gives them: bytes, a finish, a reset, a stop.
//!
//! [`SendHalf`](super::SendHalf) and [`RecvHalf`](super::RecvHalf) stand on these, and nobody above
//! those two knows which transport carries a stream. A further transport is a variant of each enum.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn::{ReadError, VarInt, WriteError};

use super::{StreamError, memory};
use crate::transport::lost::Lost;
use crate::transport::socket;
use crate::transport::tether::Hold;

/// The code of a reset or a stop: the user of the stream went away.
const ABANDONED: VarInt = VarInt::from_u32(1);

/// The sending half of a stream.
#[derive(Debug)]
pub enum Sending {
    /// Of a QUIC connection.
    Quic(quinn::SendStream),
    /// Of a connection over a Unix socket.
    Socket(socket::Sender),
    /// Between two ends in one process.
    Memory(memory::Sender),
}

/// The receiving half of a stream.
#[derive(Debug)]
pub enum Receiving {
    /// Of a QUIC connection.
    Quic(quinn::RecvStream),
    /// Of a client's QUIC connection, and what the client holds for as long as this is there.
    Held(Box<(quinn::RecvStream, Hold)>),
    /// Of a connection over a Unix socket.
    Socket(socket::Receiver),
    /// Between two ends in one process.
    Memory(memory::Receiver),
}

/// How a sending half ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The other side has received all of it.
    Received,
    /// The other side asked to stop, or the connection is lost.
    Abandoned,
}

impl Sending {
    /// Sends as much as the other side takes now, at least something; gives the number of pieces
    /// that were taken whole. Of the piece behind them the part that was taken is cut off.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>> {
        match self {
            Sending::Quic(stream) => {
                let written = ready!(pin!(stream.write_chunks(pieces)).poll(cx))?;
                Poll::Ready(Ok(written.chunks))
            }
            Sending::Socket(sender) => sender.poll_write(cx, pieces),
            Sending::Memory(sender) => sender.poll_write(cx, pieces),
        }
    }

    /// The bytes behind all others that end the stream in order, if this transport has such.
    pub(super) fn marker(&self) -> Option<Bytes> {
        match self {
            Sending::Socket(sender) => Some(sender.marker()),
            Sending::Quic(_) | Sending::Memory(_) => None,
        }
    }

    /// Ends the stream in order: what was written is still delivered. `rest` is the end of it that
    /// was not written, for lack of room; only a transport that has a [`marker`](Self::marker)
    /// takes any.
    pub(super) fn finish(&mut self, rest: impl Iterator<Item = Bytes>) {
        match self {
            // Fails only on a stream that was reset or finished before, and then says nothing new.
            Sending::Quic(stream) => drop(stream.finish()),
            Sending::Socket(sender) => sender.finished(rest),
            Sending::Memory(sender) => sender.finish(),
        }
    }

    /// Abandons the stream: what was not delivered yet never is.
    pub(super) fn reset(&mut self) {
        match self {
            Sending::Quic(stream) => drop(stream.reset(ABANDONED)),
            Sending::Socket(sender) => sender.reset(),
            Sending::Memory(sender) => sender.reset(),
        }
    }

    /// Resolves when nothing more can become of the stream. It is boxed, as a request holds several
    /// of these, and a future that another one awaits has its place in that one twice.
    pub(super) fn fate(&self) -> Pin<Box<dyn Future<Output = Fate> + Send>> {
        let fate = |is_received| match is_received {
            true => Fate::Received,
            false => Fate::Abandoned,
        };
        match self {
            Sending::Quic(stream) => {
                let stopped = stream.stopped();
                Box::pin(async move { fate(matches!(stopped.await, Ok(None))) })
            }
            Sending::Socket(sender) => {
                let written = sender.fate();
                Box::pin(async move { fate(written.await) })
            }
            Sending::Memory(sender) => Box::pin(sender.fate()),
        }
    }
}

impl Receiving {
    /// Takes what has arrived, in as many pieces as fit; gives their number, `None` at the finish.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, StreamError>> {
        let mut read = |stream: &mut quinn::RecvStream| -> Poll<Result<_, StreamError>> {
            let read = ready!(pin!(stream.read_chunks(pieces)).poll(cx))?;
            Poll::Ready(Ok(read))
        };
        match self {
            Receiving::Quic(stream) => read(stream),
            Receiving::Held(held) => read(&mut held.0),
            Receiving::Socket(receiver) => receiver.poll_read(cx, pieces),
            Receiving::Memory(receiver) => receiver.poll_read(cx, pieces),
        }
    }

    /// The marker that this header is, if it is one and this transport has such.
    pub(super) fn marker(&self, header: usize) -> Option<socket::Marker> {
        match self {
            Receiving::Socket(_) => socket::Marker::of(header),
            Receiving::Quic(_) | Receiving::Held(_) | Receiving::Memory(_) => None,
        }
    }

    /// Notes that the marker was read, and keeps what came behind it.
    pub(super) fn finished(&mut self, marker: socket::Marker, behind: Bytes) {
        match self {
            Receiving::Socket(receiver) => receiver.finished(marker, behind),
            Receiving::Quic(_) | Receiving::Held(_) | Receiving::Memory(_) => (),
        }
    }

    /// Asks the other side to send no more.
    pub(super) fn stop(&mut self) {
        match self {
            // Fails only on a stream that has ended.
            Receiving::Quic(stream) => drop(stream.stop(ABANDONED)),
            Receiving::Held(held) => drop(held.0.stop(ABANDONED)),
            Receiving::Socket(receiver) => receiver.stop(),
            Receiving::Memory(receiver) => receiver.stop(),
        }
    }
}

impl From<quinn::SendStream> for Sending {
    fn from(stream: quinn::SendStream) -> Sending {
        Sending::Quic(stream)
    }
}

impl From<socket::Sender> for Sending {
    fn from(sender: socket::Sender) -> Sending {
        Sending::Socket(sender)
    }
}

impl From<memory::Sender> for Sending {
    fn from(sender: memory::Sender) -> Sending {
        Sending::Memory(sender)
    }
}

impl From<quinn::RecvStream> for Receiving {
    fn from(stream: quinn::RecvStream) -> Receiving {
        Receiving::Quic(stream)
    }
}

impl From<(quinn::RecvStream, Hold)> for Receiving {
    fn from(held: (quinn::RecvStream, Hold)) -> Receiving {
        Receiving::Held(Box::new(held))
    }
}

impl From<socket::Receiver> for Receiving {
    fn from(receiver: socket::Receiver) -> Receiving {
        Receiving::Socket(receiver)
    }
}

impl From<memory::Receiver> for Receiving {
    fn from(receiver: memory::Receiver) -> Receiving {
        Receiving::Memory(receiver)
    }
}

impl From<WriteError> for StreamError {
    fn from(error: WriteError) -> StreamError {
        match error {
            WriteError::ConnectionLost(lost) => StreamError::Lost(lost.into()),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                StreamError::Abandoned
            }
        }
    }
}

impl From<ReadError> for StreamError {
    fn from(error: ReadError) -> StreamError {
        match error {
            ReadError::ConnectionLost(lost) => StreamError::Lost(lost.into()),
            ReadError::Reset(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => StreamError::Abandoned,
        }
    }
}

impl From<quinn::ConnectionError> for StreamError {
    fn from(error: quinn::ConnectionError) -> StreamError {
        StreamError::Lost(Lost::from(error))
    }
}
