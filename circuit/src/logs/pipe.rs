//! A pipe between a child's output and the log: a FIFO, which has a name, so that the next life of the
//! server finds it.
//!
//! Both ends are open for reading and writing: so the child never gets `SIGPIPE` or the end of a
//! file, whoever lives, and opening never waits. Each end is opened for itself, as the child's must
//! block and ours must not.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use tokio::sync::oneshot;

use super::intake::Intake;

/// How many bytes a pipe holds at rest.
pub(super) const AT_REST: usize = 16 << 10;

/// A pipe that is being read. Dropped, it is not read any more, and its file stays.
#[derive(Debug)]
pub struct Pipe {
    intake: Arc<Intake>,
    number: u64,
}

/// Resolves when all that was in a pipe is in the log, or dropped, and the file is gone. Need not be
/// waited for.
#[derive(Debug)]
pub struct Ended(oneshot::Receiver<()>);

impl Pipe {
    pub(super) fn new(intake: Arc<Intake>, number: u64) -> Pipe {
        Pipe { intake, number }
    }

    /// Nobody is left who writes: reads what is left in the pipe, and removes it.
    pub fn end(self) -> Ended {
        let (tell, told) = oneshot::channel();
        self.intake.end(self.number, tell);
        Ended(told)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.intake.leave(self.number);
    }
}

impl Future for Ended {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // An error: the server's logs have ended meanwhile.
        Pin::new(&mut self.0).poll(context).map(|_| ())
    }
}

/// Makes a FIFO; our end, and the child's.
pub(super) fn make(path: &Path, owner: Option<(Uid, Gid)>) -> io::Result<(OwnedFd, OwnedFd)> {
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0)?;
    let open = || {
        let ours = rustix::fs::open(path, OURS, Mode::empty())?;
        if let Some((user, group)) = owner {
            rustix::fs::fchown(&ours, Some(user), Some(group))?;
        }
        let childs = rustix::fs::open(path, CHILDS, Mode::empty())?;
        Ok((ours, childs))
    };
    open().inspect_err(|_| {
        // If this fails as well, the next life finds the pipe and removes it.
        let _ = std::fs::remove_file(path);
    })
}

/// Whether a disk cannot take another file.
pub(super) fn is_of_disk(error: &io::Error) -> bool {
    let of_disk = [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO];
    Errno::from_io_error(error).is_some_and(|errno| of_disk.contains(&errno))
}

/// Makes a pipe without a name, where a FIFO cannot be made: the disk may be full, and the child is to start all the
/// same. The next life of the server does not find it.
pub(super) fn nameless(owner: Option<(Uid, Gid)>) -> io::Result<(OwnedFd, OwnedFd)> {
    let (end, _other) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    if let Some((user, group)) = owner {
        rustix::fs::fchown(&end, Some(user), Some(group))?;
    }
    // Opened anew, each end is open for reading and writing.
    let path = format!("/proc/self/fd/{}", end.as_raw_fd());
    let open = |flags: OFlags| rustix::fs::open(&*path, flags - OFlags::NOFOLLOW, Mode::empty());
    Ok((open(OURS)?, open(CHILDS)?))
}

const CHILDS: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const OURS: OFlags = CHILDS.union(OFlags::NONBLOCK);

/// Our end of a FIFO that is there; `None` if it is not.
pub(super) fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    let ours = match rustix::fs::open(path, OURS, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let mode = rustix::fs::fstat(&ours)?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::Fifo {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a pipe"));
    }
    Ok(Some(ours))
}
