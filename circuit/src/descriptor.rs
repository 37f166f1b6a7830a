//! This process's stdin, stdout and stderr, for commands and for the server's log. Another program that
//! shares one of them may have made it non-blocking: then the caller waits for it with poll(2), and
//! leaves the flag as it is.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// Reads a descriptor, or writes to it. Each call waits until the descriptor is ready.
#[derive(Debug)]
pub(crate) struct Descriptor(BorrowedFd<'static>);

impl Descriptor {
    /// Standard input.
    pub(crate) fn stdin() -> Descriptor {
        Descriptor(rustix::stdio::stdin())
    }

    /// Standard output.
    pub(crate) fn stdout() -> Descriptor {
        Descriptor(rustix::stdio::stdout())
    }

    /// Standard error.
    pub(crate) fn stderr() -> Descriptor {
        Descriptor(rustix::stdio::stderr())
    }

    /// Waits until it is ready for this, or a signal comes.
    pub(crate) fn wait(&self, ready: PollFlags) -> io::Result<()> {
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
