//! Empties the outputs that nobody will read any more, so that the processes that write them go on.
//!
//! One thread does so for all outputs of a server, away from the network thread. It takes a few
//! outputs at a time, reads each once, and pauses: however much the processes write, the cost is
//! bounded, and a process that writes more than its share blocks in between. An output that says
//! nothing costs nothing.
//!
//! **Invariant:** in each [`PAUSE`] the thread wakes once at most, and reads at most [`AT_ONCE`]
//! times, [`LONGEST_READ`] bytes each.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::task::Alarm;

/// How many outputs are read before the thread pauses.
const AT_ONCE: usize = 16;

/// How long the thread pauses after it has read. Chosen together with [`AT_ONCE`] and measured: 16
/// pipes of 32 KiB, read a hundred times a second, cost about 1 % of a core beyond an idle server
/// (`yes` in three processes, scrubbed; `/proc/PID/stat`). One process alone may still write 3 MB/s.
const PAUSE: Duration = Duration::from_millis(10);

/// How much is read of one output at a time: more than a pipe of ours holds.
const LONGEST_READ: usize = 64 << 10;

/// The number of what ends the thread, which no output has.
const END: u64 = 0;

/// A descriptor that can be read without blocking, and what is to be freed with it.
pub type Source = Arc<dyn AsFd + Send + Sync>;

/// The outputs that are being emptied. Clones share them. When the last one is dropped, the thread
/// ends, and what is left of the outputs is closed.
#[derive(Debug, Clone)]
pub struct Drains(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    epoll: OwnedFd,
    /// Ends the thread once it can be read. Here, as it would leave the epoll when it is closed.
    end: OwnedFd,
    sources: Mutex<Sources>,
}

#[derive(Default)]
struct Sources {
    last: u64,
    open: BTreeMap<u64, Source>,
}

/// The result of one round of the thread.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    reads: usize,
    bytes: usize,
    ended: bool,
}

impl Drains {
    /// Starts the thread.
    pub fn start(alarm: &Alarm) -> io::Result<Drains> {
        let shared = Arc::new(Shared::new()?);
        let draining = shared.clone();
        alarm.thread("drain", move || draining.run())?;
        Ok(Drains(Arc::new(Handle { shared })))
    }

    /// Empties an output until it has ended. One that cannot be watched is closed at once, so that
    /// its writer fails instead of waiting for ever.
    pub fn add(&self, source: Source) {
        self.0.shared.add(source);
    }

    /// How many outputs are being emptied.
    pub fn len(&self) -> usize {
        self.0.shared.sources.lock().open.len()
    }

    /// Whether no output is being emptied.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Fails only if it is full, and then the thread has the news already.
        let _ = rustix::io::write(&self.shared.end, &1_u64.to_ne_bytes());
    }
}

impl Shared {
    fn new() -> io::Result<Shared> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &end, EventData::new_u64(END), EventFlags::IN)?;
        Ok(Shared {
            epoll,
            end,
            sources: Mutex::default(),
        })
    }

    fn add(&self, source: Source) {
        let mut sources = self.sources.lock();
        sources.last += 1;
        let number = sources.last;
        let data = EventData::new_u64(number);
        if epoll::add(&self.epoll, source.as_fd(), data, EventFlags::IN).is_ok() {
            sources.open.insert(number, source);
        }
    }

    fn run(&self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(LONGEST_READ);
        loop {
            if self.round(&mut buffer, None)?.ended {
                return Ok(());
            }
            // Writers that write meanwhile do not wake this thread.
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until something can be read, and reads from a few outputs, once each. Those that are
    /// left have their turn in the next round: epoll(7) hands them out in turn.
    fn round(&self, buffer: &mut Vec<u8>, wait: Option<&Timespec>) -> io::Result<Round> {
        let mut events: Vec<Event> = Vec::with_capacity(AT_ONCE);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), wait) {
            Err(Errno::INTR) => return Ok(Round::default()),
            result => result?,
        };
        let mut round = Round::default();
        for event in events {
            match event.data.u64() {
                END => round.ended = true,
                number => {
                    round.reads += 1;
                    round.bytes += self.read(number, buffer);
                }
            }
        }
        Ok(round)
    }

    /// Reads from an output, and forgets it if it has ended. How many bytes it gave.
    fn read(&self, number: u64, buffer: &mut Vec<u8>) -> usize {
        let Some(source) = self.sources.lock().open.get(&number).cloned() else {
            return 0;
        };
        buffer.clear();
        match rustix::io::read(source.as_fd(), spare_capacity(buffer)) {
            Ok(0) => (),
            Ok(count) => return count,
            Err(Errno::AGAIN | Errno::INTR) => return 0,
            // EIO of a terminal that its last user has left: nothing more will come.
            Err(_) => (),
        }
        // A copy of the descriptor may live on elsewhere, and would go on being reported.
        let _ = epoll::delete(&self.epoll, source.as_fd());
        self.sources.lock().open.remove(&number);
        0
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.sources.lock().open.len();
        f.debug_struct("Shared").field("open", &open).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::PipeFlags;

    /// A descriptor that gives eight bytes at each read and never runs dry.
    fn endless() -> Source {
        let flags = EventfdFlags::SEMAPHORE | EventfdFlags::NONBLOCK;
        Arc::new(eventfd(u32::MAX, flags).unwrap())
    }

    fn round(shared: &Shared) -> Round {
        let mut buffer = Vec::with_capacity(LONGEST_READ);
        let at_once = Timespec::default();
        shared.round(&mut buffer, Some(&at_once)).unwrap()
    }

    #[test]
    fn a_round_is_bounded_and_all_have_their_turn() {
        let shared = Shared::new().unwrap();
        for _ in 0..2 * AT_ONCE {
            shared.add(endless());
        }
        let (pipe, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).unwrap();
        let written = rustix::io::write(&writer, &vec![0; 1 << 20]).unwrap();
        shared.add(Arc::new(pipe));
        let mut bytes = 0;
        for _ in 0..3 {
            let round = round(&shared);
            assert_eq!(round.reads, AT_ONCE);
            assert!(round.bytes <= AT_ONCE * LONGEST_READ);
            bytes += round.bytes;
        }
        // Behind 32 others that never run dry, the pipe was read once in three rounds.
        assert_eq!(bytes, (3 * AT_ONCE - 1) * 8 + LONGEST_READ.min(written));
    }

    #[test]
    fn what_has_ended_is_forgotten_and_silence_costs_nothing() {
        let shared = Shared::new().unwrap();
        let (pipe, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).unwrap();
        let copy = pipe.try_clone().unwrap();
        shared.add(Arc::new(pipe));
        assert_eq!(round(&shared), Round::default());
        rustix::io::write(&writer, b"last words").unwrap();
        let expected = Round {
            reads: 1,
            bytes: 10,
            ended: false,
        };
        assert_eq!(round(&shared), expected);
        drop(writer);
        assert_eq!(round(&shared).reads, 1);
        assert_eq!(shared.sources.lock().open.len(), 0);
        assert_eq!(round(&shared), Round::default());
        drop(copy);
    }

    #[test]
    fn what_cannot_be_watched_is_closed() {
        let shared = Shared::new().unwrap();
        let file: Source = Arc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let alive = Arc::downgrade(&file);
        shared.add(file);
        assert!(alive.upgrade().is_none());
    }

    #[test]
    fn the_thread_ends_with_the_last_handle() {
        let (alarm, _failures) = Alarm::new();
        let drains = Drains::start(&alarm).unwrap();
        let (pipe, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        drains.add(Arc::new(pipe));
        drop(drains);
        // Waits until the reading end is closed.
        let mut asked = [rustix::event::PollFd::new(
            &writer,
            rustix::event::PollFlags::empty(),
        )];
        let wait = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        assert_eq!(rustix::event::poll(&mut asked, Some(&wait)), Ok(1));
    }
}
