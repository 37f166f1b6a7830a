//! A descriptor that the runtime watches from the first time that somebody waits for it.
//!
//! Most processes come and go without anybody reading or writing: watching their pipes all the
//! same would wake the server at every end of every one of them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// A non-blocking descriptor.
#[derive(Debug)]
pub struct Descriptor {
    /// `None` if the runtime could not watch it. Before `fd`, which it refers to.
    watched: OnceLock<Option<AsyncFd<Arc<OwnedFd>>>>,
    fd: Arc<OwnedFd>,
}

/// Tells whether a descriptor was ready after all.
pub(super) type Ready<'a> = AsyncFdReadyGuard<'a, Arc<OwnedFd>>;

impl Descriptor {
    /// Takes a descriptor over that was just made, without flags, and makes it non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Arc<Descriptor>> {
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Ok(Arc::new(Descriptor {
            watched: OnceLock::new(),
            fd: Arc::new(fd),
        }))
    }

    /// Resolves when it can be read; fails if that cannot be known.
    pub async fn readable(&self) -> io::Result<Ready<'_>> {
        self.watched()?.readable().await
    }

    /// Resolves when it can be written; fails if that cannot be known.
    pub async fn writable(&self) -> io::Result<Ready<'_>> {
        self.watched()?.writable().await
    }

    /// Has the runtime watch it from now on; fails if it cannot.
    pub fn watch(&self) -> io::Result<()> {
        self.watched().map(drop)
    }

    #[allow(unsafe_code)]
    fn watched(&self) -> io::Result<&AsyncFd<Arc<OwnedFd>>> {
        let watch = || {
            let interest = Interest::READABLE | Interest::WRITABLE;
            // SAFETY: an `OwnedFd` is one descriptor, the same for as long as it lives, and the
            // `Arc` keeps it open until it was deregistered.
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
        self.fd.as_fd()
    }
}
