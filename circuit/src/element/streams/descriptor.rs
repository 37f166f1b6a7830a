//! A descriptor that tokio watches from the first time that somebody waits for it.
//!
//! Most processes come and go without a reader or writer: if tokio watched their pipes all the same,
//! the end of each of them would wake the server.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

use crate::runtime::descriptors::Taken;
use crate::runtime::drain::Source;

/// A non-blocking descriptor.
#[derive(Debug)]
pub struct Descriptor {
    /// `None` if the runtime could not watch it. Before `fd`, which it refers to.
    watched: OnceLock<Option<AsyncFd<Arc<Open>>>>,
    fd: Arc<Open>,
}

/// An open descriptor, which is counted until it is closed.
#[derive(Debug)]
struct Open {
    fd: OwnedFd,
    _taken: Taken,
}

/// Tells whether a descriptor was ready after all.
pub(in crate::element) struct Ready<'a>(AsyncFdReadyGuard<'a, Arc<Open>>);

impl Ready<'_> {
    /// The descriptor was not ready: the next who waits for it does wait.
    pub(in crate::element) fn clear_ready(&mut self) {
        self.0.clear_ready();
    }
}

impl Descriptor {
    /// Takes a descriptor over that was just made, without flags, and makes it non-blocking. `taken`
    /// is its place among the descriptors that the process may have.
    pub fn new(fd: OwnedFd, taken: Taken) -> io::Result<Arc<Descriptor>> {
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        let open = Open { fd, _taken: taken };
        Ok(Arc::new(Descriptor {
            watched: OnceLock::new(),
            fd: Arc::new(open),
        }))
    }

    /// The descriptor without the runtime's watch, which ends with the last clone of `self`.
    pub(super) fn unwatched(&self) -> Source {
        self.fd.clone()
    }

    /// Resolves when it can be read; fails if that cannot be known.
    pub(in crate::element) async fn readable(&self) -> io::Result<Ready<'_>> {
        self.watched()?.readable().await.map(Ready)
    }

    /// Resolves when it can be written; fails if that cannot be known.
    pub(super) async fn writable(&self) -> io::Result<Ready<'_>> {
        self.watched()?.writable().await.map(Ready)
    }

    /// Has the runtime watch it from now on; fails if it cannot.
    pub fn watch(&self) -> io::Result<()> {
        self.watched().map(drop)
    }

    #[allow(unsafe_code)]
    fn watched(&self) -> io::Result<&AsyncFd<Arc<Open>>> {
        let watch = || {
            let interest = Interest::READABLE | Interest::WRITABLE;
            // SAFETY: an `Open` is one descriptor, the same for as long as it lives, and the `Arc`
            // keeps it open until it was deregistered.
            unsafe { AsyncFd::register_with_interest(self.fd.clone(), interest) }.ok()
        };
        self.watched
            .get_or_init(watch)
            .as_ref()
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.fd.as_fd()
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Open {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
