//! This process's stdin, stdout and stderr. Another program that shares one of them may have made
//! it non-blocking: then a command waits for it with poll(2), and leaves the flag as it is.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::JoinHandle;

/// The most that is read at once.
const READ: usize = 64 << 10;

/// Reads a descriptor, or writes to it. Each call waits until the descriptor is ready.
#[derive(Debug)]
pub(super) struct Descriptor(BorrowedFd<'static>);

impl Descriptor {
    /// Standard output.
    pub(super) fn stdout() -> Descriptor {
        Descriptor(rustix::stdio::stdout())
    }

    /// Standard error.
    pub(super) fn stderr() -> Descriptor {
        Descriptor(rustix::stdio::stderr())
    }

    fn wait(&self, ready: PollFlags) -> io::Result<()> {
        let mut polled = [PollFd::new(&self.0, ready)];
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Read for Descriptor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(self.0, &mut *buffer) {
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(Errno::INTR) => (),
                // A stdin that is not open for reading has nothing to read.
                Err(Errno::BADF) => return Ok(0),
                read => return Ok(read?),
            }
        }
    }
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => (),
                // An output that is not open for writing is as good as /dev/null.
                Err(Errno::BADF) => return Ok(bytes.len()),
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard input, which a thread reads only when somebody polls for bytes.
pub(super) fn stdin() -> Stdin {
    Stdin {
        read: Bytes::new(),
        reading: None,
    }
}

/// See [`stdin`].
#[derive(Debug)]
pub(super) struct Stdin {
    /// The bytes that were read, and that nobody has taken yet.
    read: Bytes,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl AsyncRead for Stdin {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            let reading = self
                .reading
                .get_or_insert_with(|| tokio::task::spawn_blocking(read_piece));
            let read = ready!(Pin::new(reading).poll(cx));
            self.reading = None;
            self.read = read.map_err(io::Error::other)??;
        }
        let count = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..count]);
        self.read.advance(count);
        Poll::Ready(Ok(()))
    }
}

fn read_piece() -> io::Result<Bytes> {
    let mut piece = vec![0; READ];
    let count = Descriptor(rustix::stdio::stdin()).read(&mut piece)?;
    piece.truncate(count);
    Ok(piece.into())
}
