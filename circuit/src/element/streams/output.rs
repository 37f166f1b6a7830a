//! A process's stdout or stderr: a pipe with one reader at a time.
//!
//! The kernel's pipe itself, cut to 32 KiB, holds the output for a reader who comes late: no byte is
//! copied and no task runs until somebody reads. A chunk that was read but not handed on stays here
//! for the next reader.
//!
//! **Invariant:** every byte is handed to a reader once, in order, unless the output was discarded.
//!
//! **Cancellation:** a dropped [`Reading`] gives its place and its unfinished chunk back.

use parking_lot::{Mutex, MutexGuard};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use bytes::Bytes;
use circuit_proto::element::streams::Output as OutputStatus;
use circuit_proto::{Code, Error};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::watch;

use super::descriptor::Descriptor;
use super::{Attached, HELD};
use crate::element::process::rfc3339;
use crate::runtime::budget::Budget;
use crate::runtime::drain::Drains;

/// The length of the longest write that a pipe takes in one piece (POSIX's `PIPE_BUF`, on Linux). Where
/// the kernel cannot be asked, a pipe with less room than this counts as full.
const PIPE_BUF: u64 = 4096;

/// How many bytes are read before the other tasks of the thread have their turn. Chosen, not
/// measured: a millisecond's worth of copying and encrypting.
const TURN: usize = 256 << 10;

/// The least cost of a read, in bytes that could be read as well: one of a few bytes is a wake-up
/// and three system calls too.
const LEAST_WORK: usize = 4096;

/// The most that is read at once, and how much a pipe holds from which much is read, in bytes. Measured with
/// `scripts/bench stdout`: with 32 KiB the process and the server wait for each other at each chunk.
const BULK: usize = 128 << 10;

/// After how many reads of all that a pipe holds in a row it is made to hold more. Chosen, not measured.
const FULL_READS: u32 = 4;

/// One of a process's outputs.
#[derive(Debug)]
pub struct Output {
    state: Mutex<State>,
    /// Where the output goes when nobody will read it any more.
    drains: Drains,
    /// Whether a reader is attached, for those who wait for it to go.
    attached: watch::Sender<bool>,
}

#[derive(Debug)]
struct State {
    /// The reading end; `None` once it has ended, or if the output goes elsewhere.
    source: Option<Arc<Descriptor>>,
    /// A chunk that was read and not yet handed on.
    pending: Bytes,
    reader: Option<Attached>,
    /// The reader that read the output to its end, and when; or discarded the rest.
    read: Option<Attached>,
    /// The process has exited: when nobody reads, what is left is taken over.
    settles: bool,
    /// Nobody will read any more.
    discarded: bool,
    /// Why what is behind the last byte may be missing, and whether a reader knows.
    failure: Option<(Error, bool)>,
    /// The reading end of what follows behind that.
    next: Option<Arc<Descriptor>>,
    /// What makes much output fast. Here, as a request in flight is to be small.
    bulk: Bulk,
}

/// The means of a reader for whom much comes.
#[derive(Debug, Default)]
struct Bulk {
    /// Room for the next read: fresh memory costs as much as copying into it.
    spare: Vec<u8>,
    /// How many reads in a row have taken all that the pipe holds.
    full: u32,
    /// The pipe was made to hold more.
    widened: bool,
}

/// The one reader's hold on an output.
#[derive(Debug)]
pub struct Reading {
    output: Arc<Output>,
    turn: Budget,
}

impl Output {
    /// The output that comes out of this end; `None` for one that goes elsewhere. `drains` empties it
    /// once nobody will read it any more.
    pub fn new(source: Option<Arc<Descriptor>>, drains: &Drains) -> Arc<Output> {
        let state = State {
            source,
            pending: Bytes::new(),
            reader: None,
            read: None,
            settles: false,
            discarded: false,
            failure: None,
            next: None,
            bulk: Bulk::default(),
        };
        Arc::new(Output {
            state: Mutex::new(state),
            drains: drains.clone(),
            attached: watch::Sender::new(false),
        })
    }

    /// The state, as `peek` prints it.
    pub fn status(&self) -> OutputStatus {
        let state = self.lock();
        OutputStatus {
            ended: state.has_ended(),
            reader: state.reader.is_some(),
            held: state.pending.len() as u64 + state.in_pipe(),
        }
    }

    /// Whether a process that writes now has to wait, as nobody reads fast enough.
    pub fn blocks(&self) -> bool {
        let state = self.lock();
        !state.discarded && state.is_full()
    }

    /// Becomes the reader, under this name. Fails with `Busy` while there is another, and with
    /// `Closed` if another has read all of it.
    pub fn attach(self: &Arc<Self>, who: &Arc<str>) -> Result<Reading, Error> {
        let mut state = self.lock();
        if let Some(reader) = &state.reader {
            let message = format!("somebody else is reading it: {reader}");
            return Err(Error::new(Code::Busy, message));
        }
        if let Some(Attached { who, time }) = &state.read
            && state.has_ended()
        {
            let message = format!("it was read already: by {who}, until {}", rfc3339(*time));
            return Err(Error::new(Code::Closed, message));
        }
        state.reader = Some(Attached::now(who));
        self.attached.send_replace(true);
        Ok(Reading {
            output: self.clone(),
            turn: Budget::new(TURN),
        })
    }

    /// Resolves when no reader is attached.
    pub async fn unread(&self) {
        // The sender lives in `self`, so the watch cannot end before it tells.
        let _ = self
            .attached
            .subscribe()
            .wait_for(|attached| !attached)
            .await;
    }

    /// Has all further output drained, as nobody will read it: the process waits for no reader.
    pub fn discard(&self) {
        let sources = {
            let mut state = self.lock();
            state.pending = Bytes::new();
            state.discarded = true;
            [state.source.take(), state.next.take()]
        };
        for source in sources.into_iter().flatten() {
            self.drains.add(source.unwatched());
        }
    }

    /// Has readers fail behind the last byte, as the source of the output was lost before its end.
    pub fn fail(&self, failure: Error) {
        self.lock().failure = Some((failure, false));
    }

    /// Lets the output go on after its failure: the bytes that come out of this end are for the readers
    /// after the one who was told of the failure.
    pub fn resume(&self, source: Arc<Descriptor>) {
        let mut state = self.lock();
        if state.discarded {
            self.drains.add(source.unwatched());
        } else if state.failure.take_if(|(_, told)| *told).is_some() {
            state.source = Some(source);
        } else {
            state.next = Some(source);
        }
    }

    /// The process has exited: what it left is taken over, and the pipe closed if nobody else
    /// writes to it, so that an exited process costs no descriptors. Whether it is closed, or
    /// somebody reads it to its end.
    pub fn settle(&self) -> bool {
        let mut state = self.lock();
        state.settles = true;
        state.settle()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// Whether nothing is left to read, and nothing will be.
    fn has_ended(&self) -> bool {
        self.source.is_none() && self.next.is_none() && self.pending.is_empty()
    }

    /// See [`Output::settle`].
    fn settle(&mut self) -> bool {
        let Some(source) = self.source.clone() else {
            return true;
        };
        if self.reader.is_some() {
            // The reader comes to the end of the pipe, or leaves the rest.
            return true;
        }
        let mut left = Vec::from(std::mem::take(&mut self.pending));
        loop {
            match read(&source, &mut Vec::new()) {
                Ok(bytes) if bytes.is_empty() => {
                    self.source = None;
                    break;
                }
                Ok(bytes) => left.extend_from_slice(&bytes),
                Err(Errno::INTR) => (),
                // Somebody else holds the writing end, a child of the process: it stays open.
                Err(Errno::AGAIN) => break,
                // A terminal whose last user has gone gives EIO: nothing else is left to read.
                Err(_) => {
                    self.source = None;
                    break;
                }
            }
            if left.len() >= BULK {
                break;
            }
        }
        self.pending = left.into();
        self.source.is_none()
    }

    /// The answer to a reader behind the last byte.
    fn at_end<T>(&mut self) -> Result<Option<T>, Error> {
        let Some((failure, told)) = &mut self.failure else {
            return Ok(None);
        };
        *told = true;
        let failure = failure.clone();
        if let Some(next) = self.next.take() {
            (self.source, self.failure) = (Some(next), None);
        }
        Err(failure)
    }

    /// Whether whoever writes a page now has to wait. Bytes do not tell: a write of less than a page
    /// begins a new one if the last has no room for all of it.
    fn is_full(&self) -> bool {
        let Some(source) = &self.source else {
            return false;
        };
        match writable(source) {
            Some(writable) => !writable,
            // The source is a terminal, or there is no /proc.
            None => self.in_pipe() + PIPE_BUF > HELD as u64,
        }
    }

    fn in_pipe(&self) -> u64 {
        let source = self.source.as_ref();
        source
            .and_then(|source| rustix::io::ioctl_fionread(source).ok())
            .unwrap_or(0)
    }
}

impl Bulk {
    /// Takes note of a read of so many bytes: a pipe from which much comes is made to hold more.
    fn has_read(&mut self, source: &Descriptor, bytes: usize) {
        self.full = match bytes >= HELD {
            true => self.full.saturating_add(1),
            false => 0,
        };
        if self.full >= FULL_READS && !self.widened {
            self.widened = true;
            // A user who has very many pipes is refused: then it holds as much as before.
            let _ = rustix::pipe::fcntl_setpipe_size(source, BULK);
        }
    }
}

impl Reading {
    /// The next chunk, as soon as there is any data; `None` at the end. It stays the output's
    /// until [`handed`](Self::handed). Fails if the system cannot say when there is data.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let waiting = self.output.lock().pending.clone();
            if !waiting.is_empty() {
                // The budget is spent before the bytes are taken out of the pipe, so that a reader
                // who goes away while it yields loses none.
                self.turn.spend(waiting.len().max(LEAST_WORK)).await;
                return Ok(Some(waiting));
            }
            let source = {
                let mut state = self.output.lock();
                match &state.source {
                    Some(source) => source.clone(),
                    None => return state.at_end(),
                }
            };
            let mut ready = source.readable().await.map_err(|error| {
                let message = format!("the output cannot be watched: {error}");
                Error::new(Code::Internal, message)
            })?;
            let mut state = self.output.lock();
            let mut spare = std::mem::take(&mut state.bulk.spare);
            let read = read(&source, &mut spare);
            state.bulk.spare = spare;
            match read {
                Ok(bytes) if bytes.is_empty() => {
                    state.source = None;
                    return state.at_end();
                }
                // The next turn of the loop hands it out.
                Ok(bytes) => {
                    state.bulk.has_read(&source, bytes.len());
                    state.pending = bytes.into();
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => (),
                // A terminal whose last user has gone gives EIO; nothing else is left to read.
                Err(_) => {
                    state.source = None;
                    return state.at_end();
                }
            }
        }
    }

    /// The chunk that [`next`](Self::next) gave has been handed on.
    pub fn handed(&mut self) {
        let mut state = self.output.lock();
        let handed = std::mem::take(&mut state.pending);
        if handed.len() >= HELD
            && let Ok(handed) = handed.try_into_mut()
        {
            let mut spare = Vec::from(handed);
            spare.clear();
            state.bulk.spare = spare;
        }
    }

    /// The reader wants no more of it, and nobody else will.
    pub fn discard(&self) {
        self.output.discard();
    }

    /// The reader has all that it wants: nothing is left for another.
    pub fn finish(&self) {
        let mut state = self.output.lock();
        let who = state.reader.as_ref().map(|reader| reader.who.clone());
        state.read = who.map(|who| Attached::now(&who));
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        {
            let mut state = self.output.lock();
            state.reader = None;
            let bulk = std::mem::take(&mut state.bulk);
            if let Some(source) = &state.source
                && bulk.widened
            {
                // A late reader is promised so much. A pipe that holds more now stays as it is.
                let _ = rustix::pipe::fcntl_setpipe_size(source, HELD);
            }
            if state.settles {
                state.settle();
            }
        }
        self.output.attached.send_replace(false);
    }
}

/// Whether a pipe takes another page; `None` if that cannot be asked, or it is none.
fn writable(source: &Descriptor) -> Option<bool> {
    rustix::pipe::fcntl_getpipe_size(source).ok()?;
    // This opens the pipe's other end for a moment.
    let path = format!("/proc/self/fd/{}", source.as_fd().as_raw_fd());
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let end = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let mut asked = [PollFd::new(&end, PollFlags::OUT)];
    rustix::event::poll(&mut asked, Some(&Timespec::default())).ok()?;
    Some(asked[0].revents().contains(PollFlags::OUT))
}

/// Reads what there is, once; nothing at the end. Uses the spare buffer if that is large.
fn read(source: &Descriptor, spare: &mut Vec<u8>) -> Result<Vec<u8>, Errno> {
    let mut buffer = std::mem::take(spare);
    if buffer.capacity() < BULK {
        // As large as what waits: a line of output does not hold a large buffer.
        let waiting = rustix::io::ioctl_fionread(source).unwrap_or(0) as usize;
        if buffer.capacity() < waiting || buffer.capacity() == 0 {
            buffer = Vec::with_capacity(waiting.clamp(64, BULK));
        }
    }
    match rustix::io::read(source, spare_capacity(&mut buffer)) {
        Ok(_) => Ok(buffer),
        Err(errno) => {
            *spare = buffer;
            Err(errno)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::streams::held_pipe;
    use crate::runtime::Runtime;
    use crate::runtime::descriptors::User;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;
    use std::time::Duration;

    fn output(runtime: &Runtime, fd: OwnedFd) -> Arc<Output> {
        let taken = runtime.descriptors.take(User::Processes, 1).unwrap();
        let source = Descriptor::new(fd, taken).unwrap();
        Output::new(Some(source), &runtime.drains)
    }

    /// A descriptor that can be read for ever.
    fn endless() -> OwnedFd {
        eventfd(u32::MAX, EventfdFlags::SEMAPHORE).unwrap()
    }

    /// Whether the other tasks of a network thread have their turn beside this one.
    fn others_have_their_turn<F>(task: impl FnOnce(Arc<Output>) -> F + Send + 'static) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let network = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            network.unwrap().block_on(async {
                let runtime = Runtime::alone();
                tokio::spawn(task(output(&runtime, endless())));
                for _ in 0..1000 {
                    tokio::task::yield_now().await;
                }
            });
            // Nobody waits any more if it came too late.
            let _ = tell.send(());
        });
        told.recv_timeout(Duration::from_secs(20)).is_ok()
    }

    #[test]
    fn a_forgotten_output_that_never_runs_dry_leaves_the_thread_to_others() {
        let forgotten = |output: Arc<Output>| async move { output.discard() };
        assert!(others_have_their_turn(forgotten));
    }

    #[test]
    fn a_reader_that_is_always_ready_leaves_the_thread_to_others() {
        let read = |output: Arc<Output>| async move {
            let mut reading = output.attach(&"a test".into()).unwrap();
            while let Ok(Some(_)) = reading.next().await {
                reading.handed();
            }
        };
        assert!(others_have_their_turn(read));
    }

    #[tokio::test]
    async fn a_forgotten_output_is_emptied_and_closed_at_its_end() {
        let runtime = Runtime::alone();
        let (read, write) = held_pipe().unwrap();
        let output = output(&runtime, read);
        output.discard();
        // Far more than the pipe holds, by a writer that blocks at it.
        let writer = tokio::task::spawn_blocking(move || {
            let page = [0; 4096];
            (0..64).all(|_| rustix::io::write(&write, &page).is_ok())
        });
        assert!(writer.await.unwrap());
        while runtime.descriptors.used_by(User::Processes) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(runtime.drains.is_empty());
    }

    #[tokio::test]
    async fn an_exited_process_costs_no_descriptor_once_its_reader_is_gone() {
        let (read, write) = held_pipe().unwrap();
        let runtime = Runtime::alone();
        let output = output(&runtime, read);
        let reading = output.attach(&"a test".into()).unwrap();
        rustix::io::write(&write, b"the rest").unwrap();
        drop(write);
        assert!(output.settle());
        assert!(output.lock().source.is_some());
        drop(reading);
        assert!(output.lock().source.is_none());
        let mut next = output.attach(&"a test".into()).unwrap();
        assert_eq!(next.next().await.unwrap().unwrap(), "the rest");
        next.handed();
        assert_eq!(next.next().await.unwrap(), None);
    }
}
