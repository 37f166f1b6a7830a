//! The three streams of a process or a container, and how long they last.
//!
//! Each stream is a pipe of the kernel's, of which an [`Input`] or [`Output`] holds one end. Neither
//! knows whether a process or the connection to an Engine has the other end.

mod descriptor;
mod input;
mod output;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use rustix::pipe::PipeFlags;
use tokio::sync::watch;

pub use descriptor::Descriptor;
pub use input::{Input, Sink, Writing};
pub use output::{Output, Reading};

use super::process::rfc3339;

/// How many bytes are held for a reader who comes late. docs/design.md, "Process".
const HELD: usize = 32 << 10;

/// An element that has the three streams.
pub trait Attachable: Send + Sync {
    /// The three streams.
    fn streams(&self) -> &Streams;

    /// Reacts to the disappearance of a caller who was attached to one of the streams: of a reader,
    /// or of a writer before the element's end.
    fn attached_gone(&self);
}

/// The streams of one element.
#[derive(Debug)]
pub struct Streams {
    /// The element's stdin.
    pub stdin: Arc<Input>,
    /// The element's stdout.
    pub stdout: Arc<Output>,
    /// The element's stderr.
    pub stderr: Arc<Output>,
    course: watch::Sender<Course>,
    /// Each caller who waits for the end holds a clone, so that the number of clones counts them.
    waiters: Arc<()>,
}

/// The course of an element, of which callers wait for the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// The element runs.
    Running,
    /// The element has ended.
    Ended,
    /// The element was scrubbed, before or after its end.
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

    /// The name of the output on which the element blocks because nobody reads it.
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

    /// Takes the rest of the outputs over, as the element has ended. Returns whether no pipe is left
    /// open.
    pub fn settle(&self) -> bool {
        let outputs = [&self.stdout, &self.stderr];
        outputs.map(|output| output.settle()) == [true, true]
    }

    /// Has writers fail and tells those who wait, as the element has ended.
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

    /// Tells those who wait that the element was scrubbed, and has its further output drained.
    pub fn scrub(&self) {
        self.course.send_replace(Course::Scrubbed);
        self.stdin.abandon();
        self.stdout.discard();
        self.stderr.discard();
    }

    /// Whether any caller reads, writes or waits.
    pub fn attached(&self) -> bool {
        self.stdin.status().writer
            || self.stdout.status().reader
            || self.stderr.status().reader
            || Arc::strong_count(&self.waiters) > 1
    }

    /// Counts the caller as one who waits, for as long as it holds the result.
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

    /// Closes stdin, and discards each output that has no reader now.
    pub fn close_unattached(&self) {
        self.stdin.abandon();
        for output in [&self.stdout, &self.stderr] {
            if !output.status().reader {
                output.discard();
            }
        }
    }
}

/// The caller who is attached to a stream, or was, and since when or until when.
#[derive(Debug, Clone)]
struct Attached {
    who: Arc<str>,
    time: SystemTime,
}

impl Attached {
    /// A caller, now.
    fn now(who: &Arc<str>) -> Attached {
        Attached {
            who: who.clone(),
            time: SystemTime::now(),
        }
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, since {}", self.who, rfc3339(self.time))
    }
}

/// The reading and the writing end of a pipe that holds as much as a late reader is promised.
pub fn held_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Before anybody writes: a pipe that holds more cannot be cut. A user who has very many pipes
    // gets smaller ones (fs.pipe-user-pages-soft, pipe(7)), which hold less.
    let _ = rustix::pipe::fcntl_setpipe_size(&read, HELD);
    Ok((read, write))
}
