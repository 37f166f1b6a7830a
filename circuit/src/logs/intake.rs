//! The thread that reads all pipes, and never waits for the disk.
//!
//! **Invariants:** a pipe that says nothing costs nothing. Each pipe that has something is read once in
//! a round, [`READ`] bytes at most. A round that found little is followed by a pause of [`GATHER`], so
//! that children that write line by line wake the thread a thousand times a second at most.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::log::Inner;
use super::pipe::{AT_REST, Pipe};
use super::queue::{Chunk, Queue, Tail};
use super::record::{Head, Kind, MOST};
use super::{Source, now};
use crate::runtime::descriptors::Taken;

/// How many pipes are read in a round.
const AT_ONCE: usize = 64;

/// How many bytes are read of a pipe at a time.
pub(super) const READ: usize = 128 << 10;

/// A record holds what is read at a time.
const _: () = assert!(READ <= MOST);

/// How many bytes a pipe holds while its child writes much: the most that a user may ask for who is not
/// root, unless the host is set up otherwise. The gain was not measured.
const BUSY: usize = 1 << 20;

/// How long the thread pauses after a round that found less than [`LITTLE`]. Chosen, not measured.
const GATHER: Duration = Duration::from_millis(1);

/// Half of what a pipe holds at rest.
const LITTLE: usize = AT_REST / 2;

/// For how long a child has written little before its pipe is made small again. Chosen, not measured.
const CALM: Duration = Duration::from_secs(1);

/// How much is read of a pipe after its end, should somebody still write.
const REST: usize = 2 * BUSY;

/// The number of what wakes the thread, which no pipe has.
const WAKE: u64 = 0;

/// The pipes that are read.
#[derive(Debug)]
pub(super) struct Intake {
    epoll: OwnedFd,
    /// Wakes the thread. Here, as it would leave the epoll when it is closed.
    wake: OwnedFd,
    queue: Arc<Queue>,
    /// How long a pipe is left alone whose bytes find no room.
    patience: Duration,
    /// How many bytes all pipes may hold together.
    bound: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    pipes: BTreeMap<u64, Open>,
    /// Pipes that are left alone for a while.
    resting: Vec<u64>,
    /// Pipes that are larger than at rest.
    busy: Vec<u64>,
    /// Pipes that are read to their end.
    ends: Vec<Ending>,
    /// How many bytes all pipes hold together.
    size: usize,
    /// The thread is to end.
    stopped: bool,
}

/// A pipe that is read to its end.
#[derive(Debug)]
struct Ending {
    number: u64,
    tell: oneshot::Sender<()>,
    /// How much may still be read of it.
    rest: usize,
}

/// A pipe that is read.
#[derive(Debug)]
struct Open {
    fd: OwnedFd,
    path: PathBuf,
    log: Arc<Inner>,
    source: Source,
    /// How many bytes it holds.
    size: usize,
    /// Whether what comes next begins a line. After a former life it may be the rest of one, and is
    /// shown as a line rather than not at all.
    begins: bool,
    /// When its child last wrote much.
    busy: Option<Instant>,
    lag: Lag,
    _taken: Taken,
}

/// Whether a pipe's bytes find room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lag {
    None,
    /// It is left alone until there is room, or until this time.
    Until(Instant),
    /// It was left alone for long enough.
    Over,
}

impl Intake {
    pub(super) fn new(queue: Arc<Queue>, patience: Duration) -> io::Result<Intake> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Intake {
            epoll,
            wake,
            queue,
            patience,
            bound: half_of_pipes(),
            state: Mutex::default(),
        })
    }

    /// Reads a pipe from now on.
    pub(super) fn add(
        self: &Arc<Self>,
        fd: OwnedFd,
        taken: Taken,
        path: PathBuf,
        log: &Arc<Inner>,
        source: Source,
    ) -> io::Result<Pipe> {
        let mut state = self.state.lock();
        if state.stopped {
            return Err(io::Error::other("the server ends"));
        }
        // Where all pipes would hold too much, this one holds a page.
        let size = match state.size + AT_REST <= self.bound {
            true => AT_REST,
            false => 1,
        };
        let resized = rustix::pipe::fcntl_setpipe_size(&fd, size);
        let size = match resized {
            Ok(size) => size,
            // There is more in it, as a former life made it larger; or its user may have no more.
            Err(_) => rustix::pipe::fcntl_getpipe_size(&fd)?,
        };
        state.last += 1;
        let number = state.last;
        let data = EventData::new_u64(number);
        epoll::add(&self.epoll, &fd, data, EventFlags::IN)?;
        state.size += size;
        let open = Open {
            fd,
            path,
            log: log.clone(),
            source,
            size,
            begins: true,
            busy: (size > AT_REST).then(Instant::now),
            lag: Lag::None,
            _taken: taken,
        };
        state.pipes.insert(number, open);
        if size > AT_REST {
            state.busy.push(number);
            self.wake();
        }
        Ok(Pipe::new(self.clone(), number))
    }

    /// Reads a pipe to its end, and has it removed.
    pub(super) fn end(&self, number: u64, tell: oneshot::Sender<()>) {
        let mut state = self.state.lock();
        if !state.stopped {
            let rest = REST;
            state.ends.push(Ending { number, tell, rest });
            self.wake();
        }
    }

    /// Reads a pipe no more, unless it is being read to its end.
    pub(super) fn leave(&self, number: u64) {
        let mut state = self.state.lock();
        if state.ends.iter().all(|ending| ending.number != number) {
            self.forget(&mut state, number);
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        self.wake();
    }

    /// Has the thread look at everything once more.
    pub(super) fn wake(&self) {
        // Fails only if it is full, and then the thread has the news already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// The thread.
    pub(super) fn run(&self) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(AT_ONCE);
        let mut buffer = self.queue.buffer(READ);
        let mut wait = None;
        loop {
            events.clear();
            let timeout = wait.map(timespec);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            let mut bytes = 0;
            let mut state = self.state.lock();
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        // Empties it; if that fails, it is empty.
                        let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
                    }
                    number => bytes += self.turn(&mut state, number, &mut buffer),
                }
                // Nobody waits for a whole round.
                MutexGuard::bump(&mut state);
            }
            if state.stopped {
                self.last_round(&mut state, &mut buffer);
                return Ok(());
            }
            let ending = self.read_ends(&mut state, &mut buffer);
            wait = match ending {
                true => Some(Duration::ZERO),
                false => self.look_after(&mut state),
            };
            drop(state);
            if (1..LITTLE).contains(&bytes) {
                std::thread::sleep(GATHER);
            }
        }
    }

    /// Reads a pipe once, or leaves it alone for a while if its bytes find no room. How many bytes.
    fn turn(&self, state: &mut State, number: u64, buffer: &mut Vec<u8>) -> usize {
        let Some(open) = state.pipes.get_mut(&number) else {
            return 0;
        };
        if self.queue.has_room(&open.log, open.source.slot, READ) {
            open.lag = Lag::None;
        } else if open.lag == Lag::None {
            // Once for a disk that hangs: dropping a chunk for another never leaves room for a read.
            open.lag = Lag::Until(Instant::now() + self.patience);
            self.watch(open, number, EventFlags::empty());
            state.resting.push(number);
            return 0;
        }
        buffer.clear();
        let Ok(count @ 1..) = rustix::io::read(&open.fd, spare_capacity(buffer)) else {
            return 0;
        };
        let bytes = match count >= READ / 2 {
            true => std::mem::replace(buffer, self.queue.buffer(READ)),
            false => buffer.as_slice().into(),
        };
        let kind = Kind::Output {
            begins: open.begins,
        };
        open.begins = bytes.last() == Some(&b'\n');
        self.push(open, kind, bytes, None);
        if count >= LITTLE {
            self.enlarge(state, number);
        }
        count
    }

    fn push(&self, open: &Open, kind: Kind, bytes: Vec<u8>, tail: Option<Tail>) {
        let head = Head {
            source: open.source,
            time: now(),
            kind,
        };
        let chunk = Chunk { head, bytes, tail };
        self.queue.push(&open.log, chunk);
    }

    /// Makes a pipe larger whose child writes much, unless all pipes would hold too much.
    fn enlarge(&self, state: &mut State, number: u64) {
        let Some(open) = state.pipes.get_mut(&number) else {
            return;
        };
        open.busy = Some(Instant::now());
        if open.size >= BUSY || state.size - open.size + BUSY > self.bound {
            return;
        }
        if let Ok(size) = rustix::pipe::fcntl_setpipe_size(&open.fd, BUSY) {
            state.size = state.size - open.size + size;
            open.size = size;
            state.busy.push(number);
        }
    }

    /// Reads the pipes on that are read to their end. Whether there is more of them to read at once.
    fn read_ends(&self, state: &mut State, buffer: &mut Vec<u8>) -> bool {
        let mut at_once = false;
        for mut ending in std::mem::take(&mut state.ends) {
            let resting = |open: &Open| matches!(open.lag, Lag::Until(_));
            if state.pipes.get(&ending.number).is_some_and(resting) {
                state.ends.push(ending);
                continue;
            }
            let count = self.turn(state, ending.number, buffer);
            ending.rest = ending.rest.saturating_sub(count);
            let rests = state.pipes.get(&ending.number).is_some_and(resting);
            if rests || (count > 0 && ending.rest > 0) {
                at_once |= !rests;
                state.ends.push(ending);
            } else {
                self.finish(state, ending);
            }
        }
        at_once
    }

    /// Has a pipe removed that is read to its end.
    fn finish(&self, state: &mut State, ending: Ending) {
        if let Some(open) = self.forget(state, ending.number) {
            let tail = Tail {
                path: open.path.clone(),
                tell: ending.tell,
            };
            self.push(&open, Kind::Ended, Vec::new(), Some(tail));
        }
    }

    /// Reads the pipes to their end that have come to it, and leaves all others.
    fn last_round(&self, state: &mut State, buffer: &mut Vec<u8>) {
        for mut ending in std::mem::take(&mut state.ends) {
            while ending.rest > 0 {
                if let Some(open) = state.pipes.get_mut(&ending.number) {
                    open.lag = Lag::Over;
                }
                match self.turn(state, ending.number, buffer) {
                    0 => break,
                    count => ending.rest = ending.rest.saturating_sub(count),
                }
            }
            self.finish(state, ending);
        }
        for number in state.pipes.keys().copied().collect::<Vec<_>>() {
            self.forget(state, number);
        }
    }

    fn forget(&self, state: &mut State, number: u64) -> Option<Open> {
        let open = state.pipes.remove(&number)?;
        state.size -= open.size;
        // It is in the epoll, or was never put there.
        let _ = epoll::delete(&self.epoll, &open.fd);
        Some(open)
    }

    /// Reads pipes again that were left alone, and makes those smaller again whose children write
    /// little. How long to wait for the next such work.
    fn look_after(&self, state: &mut State) -> Option<Duration> {
        if state.resting.is_empty() && state.busy.is_empty() {
            return None;
        }
        let State {
            pipes,
            resting,
            busy,
            size,
            ..
        } = state;
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        let mut wait_until = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        if !resting.is_empty() {
            // Before the room is looked at: if there is some later, the writer wakes this thread.
            self.queue.wanted.store(true, Ordering::SeqCst);
        }
        resting.retain(|number| {
            let Some(open) = pipes.get_mut(number) else {
                return false;
            };
            let room = self.queue.has_room(&open.log, open.source.slot, READ);
            open.lag = match open.lag {
                _ if room => Lag::None,
                Lag::Until(at) if at > now => {
                    wait_until(at);
                    return true;
                }
                _ => Lag::Over,
            };
            self.watch(open, *number, EventFlags::IN);
            false
        });
        busy.retain(|number| {
            let Some(open) = pipes.get_mut(number) else {
                return false;
            };
            let calm = open.busy.map_or(now, |busy| busy + CALM);
            if calm > now {
                wait_until(calm);
                return true;
            }
            match rustix::pipe::fcntl_setpipe_size(&open.fd, AT_REST) {
                Ok(small) => {
                    *size = *size - open.size + small;
                    open.size = small;
                    false
                }
                // There is more in it.
                Err(_) => {
                    wait_until(now + CALM);
                    true
                }
            }
        });
        next.map(|next| next.saturating_duration_since(now))
    }

    fn watch(&self, open: &Open, number: u64, flags: EventFlags) {
        // The pipe is in the epoll, so this fails only without memory; the pipe is then left as it is.
        let _ = epoll::modify(
            &self.epoll,
            open.fd.as_fd(),
            EventData::new_u64(number),
            flags,
        );
    }
}

fn timespec(wait: Duration) -> Timespec {
    Timespec {
        tv_sec: wait.as_secs() as i64,
        tv_nsec: i64::from(wait.subsec_nanos()),
    }
}

/// The size of a page. Where pages are larger, pipes of this many of them are smaller than they may be.
const PAGE: usize = 4096;

/// Half of what the pipes of this user may hold before the system makes them smaller.
fn half_of_pipes() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft");
    let pages = limit
        .ok()
        .and_then(|limit| limit.trim().parse::<usize>().ok());
    match pages {
        // There is no limit.
        Some(0) => usize::MAX / 2,
        // Without /proc it is what Linux begins with.
        pages => pages.unwrap_or(16384) * PAGE / 2,
    }
}
