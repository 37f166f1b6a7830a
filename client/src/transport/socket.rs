//! Streams over a Unix socket, for clients and servers on one host.
//!
//! A [`Connection`] carries one stream at a time, and serves the next one when both directions of the
//! last have ended in order. The bytes are those of QUIC's streams: frames, chunks and ends. What
//! QUIC says beside the bytes is said like this:
//!
//! - *Finish*: a marker in the place of a header. The server's says whether the connection serves
//!   another stream: only if the server has read the client's marker by then.
//! - *Reset*: the connection ends. A direction without its marker was cut.
//! - *Stop*: the connection ends with its other direction.
//!
//! [`stream`](super::stream) calls this; [`dial`] makes connections of a client, and the server's
//! `local` those of a server.
//!
//! **Invariant:** what has arrived is read before the end of a connection is reported, so a peer that
//! ends a connection early can say why before.

pub mod dial;
pub mod file;
mod pool;

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;

pub use self::pool::Pool;
use super::stream::{RecvHalf, SendHalf, StreamError};

/// The end of a direction, in the place of a header: no frame or chunk is so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// The direction has finished. From a server: the connection serves another stream.
    Finish,
    /// The direction has finished, and the connection ends.
    FinishAndClose,
}

impl Marker {
    /// The marker that this header is, if it is one.
    pub(super) fn of(header: usize) -> Option<Marker> {
        match header {
            0xffff_ffff => Some(Marker::Finish),
            0xffff_fffe => Some(Marker::FinishAndClose),
            _ => None,
        }
    }

    fn bytes(self) -> Bytes {
        Bytes::from_static(match self {
            Marker::Finish => &[0xff, 0xff, 0xff, 0xff],
            Marker::FinishAndClose => &[0xff, 0xff, 0xff, 0xfe],
        })
    }
}

/// The least and the most room for one read, in bytes. Chosen, not measured: a request with its
/// answer, and what a socket's buffer holds by default.
const LEAST_READ: usize = 4 << 10;
const MOST_READ: usize = 256 << 10;

/// From how many bytes on a read is long. Chosen, not measured: as much as a chunk.
const LONG_READ: usize = 64 << 10;

/// How many pieces one write takes. Chosen, not measured: a chunk and its header are two.
const PIECES: usize = 32;

/// A connection over a Unix socket.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    side: Side,
    state: Mutex<State>,
    /// The direction that this end sends in has finished, and all of it is written.
    sent: AtomicBool,
    /// Tells those who wait for that.
    sending: Notify,
    /// The other direction has finished.
    heard: AtomicBool,
    /// The connection serves no further stream.
    broken: AtomicBool,
    /// The room for the next read, in bytes.
    room: AtomicUsize,
}

#[derive(Debug)]
enum Side {
    Client(dial::Place),
    Server,
}

#[derive(Debug, Default)]
struct State {
    /// What was read behind the marker of the last stream.
    unread: Bytes,
    /// What was finished and found no room to be written.
    tail: Vec<Bytes>,
    /// A long read, whose room is used again once nobody has any of it: fresh memory costs as much as
    /// copying into it.
    last: Bytes,
}

/// One stream of a connection. The connection goes back into the pool with the last of the halves.
#[derive(Debug)]
struct Stream {
    connection: Arc<Connection>,
    pool: Option<std::sync::Weak<Pool>>,
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct Sender(Arc<Stream>);

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Receiver {
    stream: Arc<Stream>,
    /// Room for the next read.
    spare: Vec<u8>,
}

impl Connection {
    /// The server's end of a connection.
    pub fn accepted(stream: UnixStream) -> Arc<Connection> {
        Connection::new(stream, Side::Server)
    }

    fn new(stream: UnixStream, side: Side) -> Arc<Connection> {
        Arc::new(Connection {
            stream,
            side,
            state: Mutex::default(),
            sent: AtomicBool::new(true),
            sending: Notify::new(),
            heard: AtomicBool::new(true),
            broken: AtomicBool::new(false),
            room: AtomicUsize::new(LEAST_READ),
        })
    }

    /// Reads what has arrived already, `most` bytes at most, so that the next stream need not wait for the
    /// system's word on it.
    pub fn read_ahead(&self, most: usize) {
        let mut read = Vec::with_capacity(most);
        let room = spare_capacity(&mut read);
        // What is not there yet, an end and an error, the stream finds out.
        let _ = rustix::net::recv(&self.stream, room, RecvFlags::DONTWAIT);
        self.state.lock().unread = read.into();
    }

    /// Begins the next stream. The last one must have [ended in order](Self::is_in_order).
    pub fn open(self: &Arc<Self>) -> (SendHalf, RecvHalf) {
        self.open_of(None)
    }

    fn open_of(self: &Arc<Self>, pool: Option<std::sync::Weak<Pool>>) -> (SendHalf, RecvHalf) {
        self.sent.store(false, Ordering::Release);
        self.heard.store(false, Ordering::Release);
        let connection = self.clone();
        let stream = Arc::new(Stream { connection, pool });
        let unread = std::mem::take(&mut self.state.lock().unread);
        let receiver = Receiver {
            stream: stream.clone(),
            spare: Vec::new(),
        };
        (
            SendHalf::new(Sender(stream)),
            RecvHalf::with(receiver, unread),
        )
    }

    /// Whether both directions of the last stream have ended in order, so that another may follow.
    pub fn is_in_order(&self) -> bool {
        self.sent.load(Ordering::Acquire)
            && self.heard.load(Ordering::Acquire)
            && !self.broken.load(Ordering::Acquire)
    }

    /// Writes what was finished and found no room; ends the connection if that fails.
    pub async fn flush(&self) {
        loop {
            let mut tail = std::mem::take(&mut self.state.lock().tail);
            if tail.is_empty() {
                return;
            }
            match self.write(&mut tail) {
                Ok(whole) => drop(tail.drain(..whole)),
                Err(Errno::AGAIN | Errno::INTR) => (),
                Err(_) => return self.end(Shutdown::Both),
            }
            if tail.is_empty() {
                return self.written();
            }
            self.state.lock().tail = tail;
            if self.stream.writable().await.is_err() {
                return self.end(Shutdown::Both);
            }
            self.forget_writable();
        }
    }

    /// Resolves when the other end is gone.
    pub async fn gone(&self) {
        // Priority data is not used here, so that only the end of the connection is such an event.
        // An error is an end as well.
        let _ = self.stream.ready(Interest::PRIORITY).await;
    }

    /// Whether the other end has closed the connection, or said something unasked.
    pub(self) fn is_stale(&self) -> bool {
        let mut byte = [0];
        let looked = rustix::net::recv(
            &self.stream,
            &mut byte,
            RecvFlags::PEEK | RecvFlags::DONTWAIT,
        );
        !matches!(looked, Err(Errno::AGAIN))
    }

    fn end(&self, how: Shutdown) {
        self.broken.store(true, Ordering::Release);
        // Fails only if the other end is gone.
        let _ = rustix::net::shutdown(&self.stream, how);
    }

    fn written(&self) {
        self.sent.store(true, Ordering::Release);
        self.sending.notify_waiters();
    }

    /// The marker for the end of the direction that this end sends in.
    fn marker(&self) -> Marker {
        match self.side {
            Side::Client(_) => Marker::Finish,
            Side::Server if self.heard.load(Ordering::Acquire) => Marker::Finish,
            Side::Server => {
                self.broken.store(true, Ordering::Release);
                Marker::FinishAndClose
            }
        }
    }

    /// Writes once; gives the number of pieces that were written whole, and cuts what was written off
    /// the next one.
    fn write(&self, pieces: &mut [Bytes]) -> Result<usize, Errno> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = pieces.len().min(PIECES);
        for (slice, piece) in slices.iter_mut().zip(pieces.iter()) {
            *slice = IoSlice::new(piece);
        }
        let mut written = rustix::net::sendmsg(
            &self.stream,
            &slices[..count],
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )?;
        let mut whole = 0;
        for piece in pieces.iter_mut() {
            if written < piece.len() {
                drop(piece.split_to(written));
                break;
            }
            written -= piece.len();
            whole += 1;
        }
        Ok(whole)
    }

    /// Has the next wait for room to write wait for the system's word.
    fn forget_writable(&self) {
        let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = self.stream.try_io(Interest::WRITABLE, blocked);
    }

    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>> {
        loop {
            // Mostly there is room, whatever was known before.
            match self.write(pieces) {
                Ok(whole) => return Poll::Ready(Ok(whole)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => (),
                // What the peer said before is still to be read.
                Err(_) => return Poll::Ready(Err(StreamError::Abandoned)),
            }
            let mut written = None;
            if ready!(self.stream.poll_write_ready(cx)).is_err() {
                return Poll::Ready(Err(StreamError::Abandoned));
            }
            let tried = self.stream.try_io(Interest::WRITABLE, || {
                let result = self.write(pieces);
                if let Ok(whole) = result {
                    written = Some(whole);
                }
                Ok(result.map(drop)?)
            });
            match (written, tried) {
                (Some(whole), _) => return Poll::Ready(Ok(whole)),
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => (),
                (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => (),
                (None, _) => return Poll::Ready(Err(StreamError::Abandoned)),
            }
        }
    }

    /// Reads once; nothing at the end of the connection.
    fn poll_read(&self, cx: &mut Context<'_>, spare: &mut Vec<u8>) -> Poll<io::Result<Bytes>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let room = self.room.load(Ordering::Relaxed);
            spare.reserve_exact(room);
            let mut read = None;
            let tried = self.stream.try_io(Interest::READABLE, || {
                let (count, _) =
                    rustix::net::recv(&self.stream, spare_capacity(spare), RecvFlags::DONTWAIT)?;
                read = Some(count);
                // All that was there has been read: the next read waits for the system's word.
                match 0 < count && count < room {
                    true => Err(io::ErrorKind::WouldBlock.into()),
                    false => Ok(()),
                }
            });
            match (read, tried) {
                (Some(count), _) => {
                    // Bulk data wants more room, a request less.
                    let next = match count {
                        n if n >= room => (2 * room).min(MOST_READ),
                        n if n < room / 4 => (room / 2).max(LEAST_READ),
                        _ => room,
                    };
                    self.room.store(next, Ordering::Relaxed);
                    return Poll::Ready(Ok(std::mem::take(spare).into()));
                }
                (None, Err(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => (),
                    _ => return Poll::Ready(Err(error)),
                },
                // Nothing was read only if there is an error.
                (None, Ok(())) => (),
            }
        }
    }

    /// The error for the reader of a direction that was cut.
    fn cut(&self) -> StreamError {
        match &self.side {
            Side::Server => StreamError::Abandoned,
            Side::Client(place) => match place.lost() {
                Some(lost) => StreamError::Lost(lost),
                None => StreamError::Abandoned,
            },
        }
    }
}

impl Sender {
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>> {
        self.0.connection.poll_write(cx, pieces)
    }

    /// The bytes that end the direction in order, to be written behind all others.
    pub(super) fn marker(&self) -> Bytes {
        self.0.connection.marker().bytes()
    }

    /// Notes that the marker was written with all that came before it, but for the `rest`, which is
    /// for [`Connection::flush`].
    pub(super) fn finished(&mut self, rest: impl Iterator<Item = Bytes>) {
        let connection = &self.0.connection;
        let rest: Vec<Bytes> = rest.collect();
        if rest.is_empty() {
            connection.written();
        } else {
            connection.state.lock().tail = rest;
        }
    }

    pub(super) fn reset(&mut self) {
        self.0.connection.end(Shutdown::Write);
    }

    /// Resolves with `true` when all of the direction is written, `false` when the peer is gone.
    pub(super) fn fate(&self) -> impl Future<Output = bool> + Send + use<> {
        let connection = self.0.connection.clone();
        async move {
            let written = connection.sending.notified();
            tokio::pin!(written);
            written.as_mut().enable();
            if connection.sent.load(Ordering::Acquire) {
                return true;
            }
            tokio::select! {
                () = written => true,
                () = connection.gone() => connection.sent.load(Ordering::Acquire),
            }
        }
    }
}

impl Receiver {
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, StreamError>> {
        let connection = &self.stream.connection;
        if self.spare.capacity() == 0 {
            let last = std::mem::take(&mut connection.state.lock().last);
            if let Ok(last) = last.try_into_mut() {
                self.spare = last.into();
                self.spare.clear();
            }
        }
        match ready!(connection.poll_read(cx, &mut self.spare)) {
            Ok(bytes) if !bytes.is_empty() => {
                if bytes.len() >= LONG_READ {
                    connection.state.lock().last = bytes.clone();
                }
                pieces[0] = bytes;
                Poll::Ready(Ok(Some(1)))
            }
            Ok(_) | Err(_) => Poll::Ready(Err(connection.cut())),
        }
    }

    /// Notes that the peer's marker was read, and keeps what came behind it.
    pub(super) fn finished(&mut self, marker: Marker, behind: Bytes) {
        let connection = &self.stream.connection;
        if let (Side::Client(_), Marker::FinishAndClose) = (&connection.side, marker) {
            connection.broken.store(true, Ordering::Release);
        }
        connection.state.lock().unread = behind;
        connection.heard.store(true, Ordering::Release);
    }

    /// The connection ends with its other direction: closed for reading, it would look to this end
    /// as if the peer were gone.
    pub(super) fn stop(&mut self) {
        self.stream.connection.broken.store(true, Ordering::Release);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A connection that waits for its next stream holds no room.
        self.connection.state.lock().last = Bytes::new();
        let pool = self.pool.as_ref().and_then(std::sync::Weak::upgrade);
        match pool {
            Some(pool) if self.connection.is_in_order() => pool.put(self.connection.clone()),
            Some(pool) => pool.abandoned(),
            None => (),
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests;
