//! The three streams of a process or a container, and how long they last.
//!
//! Each is a pipe of the kernel's, whose one end an [`Input`] or [`Output`] holds; who has the
//! other, the process itself or the connection to an Engine, they do not know.

mod descriptor;
mod input;
mod output;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::pipe::PipeFlags;
use tokio::sync::watch;

pub use descriptor::Descriptor;
pub use input::{Input, Sink, Writing};
pub use output::{Output, Reading};

/// How much is held for a reader who comes late. docs/design.md, "Process".
const HELD: usize = 32 << 10;

/// An element that has the three streams.
pub trait Attachable: Send + Sync {
    /// They.
    fn streams(&self) -> &Streams;

    /// Whoever was attached to one of the streams disappeared: as a reader, or as a writer before
    /// the element's end.
    fn attached_gone(&self);
}

/// The streams of one element.
#[derive(Debug)]
pub struct Streams {
    /// Its stdin.
    pub stdin: Arc<Input>,
    /// Its stdout.
    pub stdout: Arc<Output>,
    /// Its stderr.
    pub stderr: Arc<Output>,
    course: watch::Sender<Course>,
    /// Those who wait for the end hold it too.
    waiters: Arc<()>,
}

/// How far an element has come, for those who wait for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It runs.
    Running,
    /// It has ended.
    Ended,
    /// It was scrubbed, before or after its end.
    Scrubbed,
}

impl Streams {
    /// The streams of an element that runs.
    pub fn new(stdin: Arc<Input>, stdout: Arc<Output>, stderr: Arc<Output>) -> Streams {
        Streams {
            stdin,
            stdout,
            stderr,
            course: watch::Sender::new(Course::Running),
            waiters: Arc::new(()),
        }
    }

    /// On which output the element blocks, as nobody reads it.
    pub fn blocked(&self) -> Option<String> {
        let outputs = [("stdout", &self.stdout), ("stderr", &self.stderr)];
        let blocked = outputs.into_iter().find(|(_, output)| output.blocks());
        blocked.map(|(name, _)| name.to_owned())
    }

    /// Waits until the element has ended or is scrubbed, and says which.
    pub async fn over(&self) -> Course {
        let mut course = self.course.subscribe();
        let over = course.wait_for(|now| *now != Course::Running).await;
        // The sender lives in `self`, so the watch cannot end before it tells.
        over.map_or(Course::Ended, |now| *now)
    }

    /// Resolves when the element is scrubbed.
    pub async fn scrubbed(&self) {
        let mut course = self.course.subscribe();
        let _ = course.wait_for(|now| *now == Course::Scrubbed).await;
    }

    /// Resolves when no reader is attached.
    pub async fn unread(&self) {
        self.stdout.unread().await;
        self.stderr.unread().await;
    }

    /// The element has ended: takes over what is left of its outputs. Whether nothing is left open.
    pub fn settle(&self) -> bool {
        let outputs = [&self.stdout, &self.stderr];
        outputs.map(|output| output.settle()) == [true, true]
    }

    /// The element has ended: whoever writes fails, and whoever waits is told.
    pub fn end(&self) {
        self.stdin.abandon();
        self.course.send_if_modified(|now| {
            let first = *now == Course::Running;
            if first {
                *now = Course::Ended;
            }
            first
        });
    }

    /// The element was scrubbed: whoever waits is told, and what it still says is drained.
    pub fn scrub(&self) {
        self.course.send_replace(Course::Scrubbed);
        self.stdin.abandon();
        self.stdout.discard();
        self.stderr.discard();
    }

    /// Whether anybody reads, writes or waits.
    pub fn attached(&self) -> bool {
        self.stdin.status().writer
            || self.stdout.status().reader
            || self.stderr.status().reader
            || Arc::strong_count(&self.waiters) > 1
    }

    /// Counts as one who waits, for as long as what is returned is held.
    pub fn attend(&self) -> Arc<()> {
        self.waiters.clone()
    }

    /// Whether the element has ended, or was scrubbed.
    pub fn is_over(&self) -> bool {
        *self.course.borrow() != Course::Running
    }

    /// Whether the element was scrubbed.
    pub fn is_scrubbed(&self) -> bool {
        *self.course.borrow() == Course::Scrubbed
    }

    /// Nobody will write any more, nor read what nobody reads now.
    pub fn close_unattached(&self) {
        self.stdin.abandon();
        for output in [&self.stdout, &self.stderr] {
            if !output.status().reader {
                output.discard();
            }
        }
    }
}

/// A pipe that holds no more than a late reader is promised: its reading and its writing end.
pub fn held_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Before anybody writes: a pipe that holds more cannot be cut. A user who has very many pipes
    // gets smaller ones (fs.pipe-user-pages-soft, pipe(7)), which hold less.
    let _ = rustix::pipe::fcntl_setpipe_size(&read, HELD);
    Ok((read, write))
}
