//! Standard input, for commands that read it as bytes come.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::event::PollFlags;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::JoinHandle;

use crate::descriptor::Descriptor;

/// The most that is read at once.
const READ: usize = 64 << 10;

/// How often a command in the background checks whether it is in the foreground. Chosen, not measured:
/// a person who brings it there hardly notices.
const FOREGROUND_LOOK: Duration = Duration::from_millis(200);

/// Standard input, which a thread reads only when somebody polls for bytes.
pub(super) fn open() -> Stdin {
    Stdin {
        read: Bytes::new(),
        reading: None,
        read_piece,
    }
}

/// [`open`], which leaves a terminal to others while this process is in the background: there the
/// system stops whoever reads it (SIGTTIN).
pub(super) fn open_in_foreground() -> Stdin {
    Stdin {
        read_piece: || {
            until_in_foreground()?;
            read_piece()
        },
        ..open()
    }
}

/// Waits until there is something to read on stdin, and this process may read it.
fn until_in_foreground() -> io::Result<()> {
    let stdin = rustix::stdio::stdin();
    if !rustix::termios::isatty(stdin) {
        return Ok(());
    }
    loop {
        Descriptor::stdin().wait(PollFlags::IN)?;
        match rustix::termios::tcgetpgrp(stdin) {
            Ok(group) if group != rustix::process::getpgrp() => {
                std::thread::sleep(FOREGROUND_LOOK);
            }
            // A terminal that is not this process's own is anybody's.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

/// See [`open`].
#[derive(Debug)]
pub(super) struct Stdin {
    /// The bytes that were read, and that nobody has taken yet.
    read: Bytes,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    read_piece: fn() -> io::Result<Bytes>,
}

impl AsyncRead for Stdin {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            let read_piece = self.read_piece;
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
    let count = Descriptor::stdin().read(&mut piece)?;
    piece.truncate(count);
    Ok(piece.into())
}
