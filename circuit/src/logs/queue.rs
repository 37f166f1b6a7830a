//! The output that was read from pipes and waits for the writer.
//!
//! **Invariants:**
//! - At most [`SLOT`] bytes of a slot wait, and [`ALL`] bytes of all. Where there would be more, those
//!   that have waited longest are dropped, of the same slot or of all.
//! - In the place of dropped bytes waits a record that counts them: at most [`GAPS`] for a slot.
//! - The records of a log are handed out in the order in which they came.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::Source;
use super::log::Inner;
use super::record::{Head, Kind};

/// How many bytes of one slot may wait.
pub(super) const SLOT: usize = 1 << 20;

/// How many bytes of all slots may wait.
pub(super) const ALL: usize = 64 << 20;

/// How long the intake leaves a pipe alone whose slot has no room, before it reads on and the oldest
/// bytes are dropped. Chosen, not measured: a disk that takes 5 MB/s loses nothing of one child, nor
/// does a fast one when the writer gets no processor for a while; and nobody minds a child that stands
/// still for so long, once, when the disk hangs.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// What a chunk costs beside its bytes, about.
const OVERHEAD: usize = 192;

/// How many records of dropped bytes wait for a slot at most; more are added up.
const GAPS: usize = 8;

/// How many bytes are handed out at once, about.
const BATCH: usize = 1 << 20;

/// How soon the writer tries again to write what it owes after an error, if nothing else comes.
const RETRY: Duration = Duration::from_secs(1);

/// How many buffers are kept for the next reads. Chosen, not measured: those of one slot.
const SPARE: usize = 4;

/// How long the last bytes of a server may take to be written. Chosen, not measured: a moment, as
/// whoever stops a server waits for it.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// The bytes that wait, and the work of the writer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer, and at the end whoever waits for it.
    wake: Condvar,
    /// The intake wants to know when there is room.
    pub(super) wanted: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// By the id of their log.
    logs: BTreeMap<u64, Waiting>,
    /// The logs that have something to write, each once, in turn.
    ready: VecDeque<u64>,
    /// All chunks that may be dropped, by their number: whose they are.
    order: BTreeMap<u64, u64>,
    /// The number of the last chunk.
    last: u64,
    bytes: usize,
    /// When the writer tries again after an error.
    retry: Option<Instant>,
    spare: Vec<Vec<u8>>,
    /// The writer waits to be woken.
    asleep: bool,
    /// Nothing more will come.
    ended: bool,
    /// The writer is gone.
    finished: bool,
}

/// What waits of one log.
#[derive(Debug)]
struct Waiting {
    log: Arc<Inner>,
    chunks: BTreeMap<u64, Chunk>,
    slots: BTreeMap<u16, Slot>,
    /// Whether it is in `ready`.
    is_ready: bool,
}

/// What waits of one slot.
#[derive(Debug, Default)]
struct Slot {
    bytes: usize,
    /// The chunks that may be dropped, the oldest first.
    order: VecDeque<u64>,
    /// The chunks that count dropped bytes.
    gaps: BTreeMap<Source, u64>,
}

/// A record to be.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) head: Head,
    pub(super) bytes: Vec<u8>,
    /// What is to be done when nothing of the pipe is left here.
    pub(super) tail: Option<Tail>,
}

/// Chunks with their numbers.
pub(super) type Chunks = Vec<(u64, Chunk)>;

/// The end of a pipe.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) path: PathBuf,
    pub(super) tell: oneshot::Sender<()>,
}

/// Work of the writer beside writing.
#[derive(Debug)]
pub(super) enum Job {
    /// Looks at the directory of a log.
    Load(Arc<Inner>),
    /// Removes a pipe.
    Tail(Tail),
    /// Removes a log.
    Forget(Arc<Inner>, oneshot::Sender<()>),
}

/// What the writer is to do next.
#[derive(Debug)]
pub(super) enum Work {
    Job(Job),
    /// Write these chunks.
    Write(Arc<Inner>, Chunks),
    End,
}

impl Chunk {
    fn cost(&self) -> usize {
        self.bytes.capacity() + OVERHEAD
    }
}

impl Queue {
    /// Has the writer look at the directory of a log.
    pub(super) fn load(&self, log: Arc<Inner>) {
        self.job(Job::Load(log));
    }

    /// Throws away what waits of a log, and has the writer remove it.
    pub(super) fn forget(&self, log: Arc<Inner>, tell: oneshot::Sender<()>) {
        let mut state = self.state.lock();
        state.throw_away(log.id);
        state.jobs.push_back(Job::Forget(log, tell));
        self.wake(&mut state);
    }

    fn job(&self, job: Job) {
        let mut state = self.state.lock();
        state.jobs.push_back(job);
        self.wake(&mut state);
    }

    /// Adds a chunk behind the others, and drops older ones if there are too many.
    pub(super) fn push(&self, log: &Arc<Inner>, chunk: Chunk) {
        let mut state = self.state.lock();
        state.push(log, chunk);
        self.wake(&mut state);
    }

    /// Whether so many bytes of a slot find room without anything being dropped.
    pub(super) fn has_room(&self, log: &Inner, slot: u16, bytes: usize) -> bool {
        let state = self.state.lock();
        let waiting = state.logs.get(&log.id);
        let waiting = waiting.and_then(|waiting| waiting.slots.get(&slot));
        let used = waiting.map_or(0, |slot| slot.bytes);
        used + bytes + OVERHEAD <= SLOT && state.bytes + bytes + OVERHEAD <= ALL
    }

    /// A buffer of this capacity, empty.
    pub(super) fn buffer(&self, capacity: usize) -> Vec<u8> {
        let spare = self.state.lock().spare.pop();
        let spare = spare.filter(|spare| spare.capacity() == capacity);
        spare.unwrap_or_else(|| Vec::with_capacity(capacity))
    }

    /// Takes buffers of written chunks back, if they are large.
    pub(super) fn give_back(&self, chunks: Chunks, capacity: usize) {
        let large = chunks.into_iter().map(|(_, chunk)| chunk.bytes);
        let large = large.filter(|bytes| bytes.capacity() == capacity);
        let mut state = self.state.lock();
        for mut bytes in large {
            if state.spare.len() < SPARE {
                bytes.clear();
                state.spare.push(bytes);
            }
        }
    }

    /// The writer's next work, as soon as there is some. A log has its turn after all others.
    pub(super) fn next(&self) -> Work {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Work::Job(job);
            }
            if state.retry.is_some_and(|at| at <= Instant::now()) {
                state.retry = None;
                state.all_ready();
            }
            if let Some((log, chunks)) = state.take() {
                return Work::Write(log, chunks);
            }
            if state.ended {
                return Work::End;
            }
            state.asleep = true;
            match state.retry {
                Some(at) => {
                    self.wake.wait_until(&mut state, at);
                }
                None => self.wake.wait(&mut state),
            }
            state.asleep = false;
        }
    }

    /// These chunks could not be written: their bytes are dropped, so many of each, and a record in
    /// their place waits.
    pub(super) fn failed(&self, log: &Arc<Inner>, lost: Vec<(u64, Head, u64)>) {
        let mut state = self.state.lock();
        if log.is_forgotten() {
            return;
        }
        for (number, head, bytes) in lost {
            state.gap(log, number, head, bytes);
        }
        let retry = Instant::now() + RETRY;
        state.retry.get_or_insert(retry);
    }

    /// Ends the writer once everything is written, and waits for that, for a moment.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock();
        state.ended = true;
        self.wake.notify_all();
        let unfinished = |state: &mut State| !state.finished;
        self.wake.wait_while_for(&mut state, unfinished, LAST_BYTES);
    }

    /// The writer is gone: nothing waits any more.
    pub(super) fn finished(&self) {
        let mut state = self.state.lock();
        *state = State {
            ended: true,
            finished: true,
            ..State::default()
        };
        self.wake.notify_all();
    }

    fn wake(&self, state: &mut State) {
        if state.finished {
            // Whoever waits for a job is told by its being dropped.
            state.jobs.clear();
        } else if state.asleep {
            state.asleep = false;
            self.wake.notify_all();
        }
    }
}

impl State {
    fn waiting(&mut self, log: &Arc<Inner>) -> &mut Waiting {
        self.logs.entry(log.id).or_insert_with(|| Waiting {
            log: log.clone(),
            chunks: BTreeMap::new(),
            slots: BTreeMap::new(),
            is_ready: false,
        })
    }

    fn push(&mut self, log: &Arc<Inner>, chunk: Chunk) {
        if self.finished || log.is_forgotten() {
            self.jobs.extend(chunk.tail.map(Job::Tail));
            return;
        }
        self.last += 1;
        let number = self.last;
        let (cost, slot) = (chunk.cost(), chunk.head.source.slot);
        while self.slot_bytes(log.id, slot) + cost > SLOT {
            let oldest = self.logs.get(&log.id).and_then(|waiting| {
                let slot = waiting.slots.get(&slot)?;
                slot.order.front().copied()
            });
            match oldest {
                Some(oldest) => self.drop_chunk(oldest),
                None => break,
            }
        }
        while self.bytes + cost > ALL {
            match self.order.first_key_value() {
                Some((oldest, _)) => self.drop_chunk(*oldest),
                None => break,
            }
        }
        self.bytes += cost;
        self.order.insert(number, log.id);
        let waiting = self.waiting(log);
        let in_slot = waiting.slots.entry(slot).or_default();
        in_slot.bytes += cost;
        in_slot.order.push_back(number);
        waiting.chunks.insert(number, chunk);
        self.ready(log.id);
    }

    fn slot_bytes(&self, log: u64, slot: u16) -> usize {
        let waiting = self.logs.get(&log);
        let slot = waiting.and_then(|waiting| waiting.slots.get(&slot));
        slot.map_or(0, |slot| slot.bytes)
    }

    /// Drops a chunk that may be dropped.
    fn drop_chunk(&mut self, number: u64) {
        let Some((log, chunk)) = self.remove(number) else {
            return;
        };
        self.jobs.extend(chunk.tail.map(Job::Tail));
        let bytes = chunk.bytes.len() as u64;
        if bytes > 0 {
            log.dropped.fetch_add(bytes, Ordering::Relaxed);
            self.gap(&log, number, chunk.head, bytes);
        }
    }

    /// Takes a chunk out that may be dropped.
    fn remove(&mut self, number: u64) -> Option<(Arc<Inner>, Chunk)> {
        let id = self.order.remove(&number)?;
        let waiting = self.logs.get_mut(&id)?;
        let chunk = waiting.chunks.remove(&number)?;
        let cost = chunk.cost();
        self.bytes -= cost;
        if let Some(slot) = waiting.slots.get_mut(&chunk.head.source.slot) {
            slot.bytes -= cost;
            // The oldest of all, or of its slot, is the oldest of its slot.
            slot.order.pop_front();
        }
        Some((waiting.log.clone(), chunk))
    }

    /// Has a record say that so many bytes are missing. It costs none of the room.
    fn gap(&mut self, log: &Arc<Inner>, number: u64, head: Head, bytes: u64) {
        let waiting = self.waiting(log);
        let slot = waiting.slots.entry(head.source.slot).or_default();
        let full = slot.gaps.len() >= GAPS;
        let last = slot.gaps.last_key_value().filter(|_| full);
        let found = slot.gaps.get(&head.source).or(last.map(|(_, last)| last));
        if let Some(gap) = found.and_then(|found| waiting.chunks.get_mut(found)) {
            if let Kind::Dropped(count) = &mut gap.head.kind {
                *count += bytes;
            }
            gap.head.time = gap.head.time.max(head.time);
            return;
        }
        slot.gaps.insert(head.source, number);
        let kind = Kind::Dropped(bytes);
        let chunk = Chunk {
            head: Head { kind, ..head },
            bytes: Vec::new(),
            tail: None,
        };
        waiting.chunks.insert(number, chunk);
    }

    fn ready(&mut self, log: u64) {
        if let Some(waiting) = self.logs.get_mut(&log)
            && !waiting.is_ready
        {
            waiting.is_ready = true;
            self.ready.push_back(log);
        }
    }

    fn all_ready(&mut self) {
        let logs: Vec<u64> = self.logs.keys().copied().collect();
        for log in logs {
            self.ready(log);
        }
    }

    /// Takes the oldest chunks of the log whose turn it is.
    fn take(&mut self) -> Option<(Arc<Inner>, Chunks)> {
        let id = self.ready.pop_front()?;
        let waiting = self.logs.get_mut(&id)?;
        waiting.is_ready = false;
        let log = waiting.log.clone();
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH
            && let Some((number, chunk)) = waiting.chunks.pop_first()
        {
            let cost = chunk.cost();
            let slot = waiting.slots.get_mut(&chunk.head.source.slot);
            if self.order.remove(&number).is_some() {
                self.bytes -= cost;
                if let Some(slot) = slot {
                    slot.bytes -= cost;
                    slot.order.pop_front();
                }
            } else if let Some(slot) = slot {
                slot.gaps.retain(|_, gap| *gap != number);
            }
            bytes += cost;
            chunks.push((number, chunk));
        }
        if waiting.chunks.is_empty() {
            self.logs.remove(&id);
        } else {
            self.ready(id);
        }
        Some((log, chunks))
    }

    /// Throws away what waits of a log.
    fn throw_away(&mut self, log: u64) {
        let Some(waiting) = self.logs.remove(&log) else {
            return;
        };
        self.ready.retain(|other| *other != log);
        for (number, chunk) in waiting.chunks {
            if self.order.remove(&number).is_some() {
                self.bytes -= chunk.cost();
            }
            self.jobs.extend(chunk.tail.map(Job::Tail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stream;
    use super::*;

    fn log(id: u64) -> Arc<Inner> {
        Arc::new(Inner::new(id, "x", PathBuf::new()))
    }

    fn push(queue: &Queue, log: &Arc<Inner>, slot: u16, instance: u64, bytes: usize) {
        let source = Source {
            slot,
            instance,
            stream: Stream::Stdout,
        };
        let kind = Kind::Output { begins: true };
        let time = instance;
        let chunk = Chunk {
            head: Head { source, time, kind },
            bytes: vec![0; bytes],
            tail: None,
        };
        queue.push(log, chunk);
    }

    /// The next chunks: slot, instance, and the bytes that they have or tell of.
    fn next(queue: &Queue) -> Vec<(u16, u64, Result<u64, u64>)> {
        let Work::Write(_, chunks) = queue.next() else {
            panic!("nothing to write")
        };
        let told = |(_, chunk): &(u64, Chunk)| {
            let Source { slot, instance, .. } = chunk.head.source;
            let bytes = match chunk.head.kind {
                Kind::Dropped(bytes) => Err(bytes),
                _ => Ok(chunk.bytes.len() as u64),
            };
            (slot, instance, bytes)
        };
        chunks.iter().map(told).collect()
    }

    const QUARTER: usize = SLOT / 4 - OVERHEAD;

    #[test]
    fn a_slot_drops_its_own_oldest_bytes_and_says_so_in_their_place() {
        let (queue, log) = (Queue::default(), log(1));
        push(&queue, &log, 2, 1, 100);
        for instance in [1, 1, 2, 3, 3, 3] {
            push(&queue, &log, 1, instance, QUARTER);
        }
        push(&queue, &log, 2, 1, 100);
        let quarter = QUARTER as u64;
        assert_eq!(log.dropped.load(Ordering::Relaxed), 2 * quarter);
        assert!(!queue.has_room(&log, 1, 1) && queue.has_room(&log, 2, QUARTER));
        let got = next(&queue);
        let expected = [
            (2, 1, Ok(100)),
            (1, 1, Err(2 * quarter)),
            (1, 2, Ok(quarter)),
            (1, 3, Ok(quarter)),
            (1, 3, Ok(quarter)),
            (1, 3, Ok(quarter)),
        ];
        assert_eq!(got, expected);
        assert_eq!(next(&queue), [(2, 1, Ok(100))]);
        let state = queue.state.lock();
        assert!(state.bytes == 0 && state.order.is_empty() && state.logs.is_empty());
    }

    #[test]
    fn all_slots_together_drop_the_oldest_bytes_of_all() {
        let queue = Queue::default();
        let logs = [log(1), log(2)];
        let count = ALL / (SLOT / 4) + 3;
        for number in 0..count {
            push(&queue, &logs[number % 2], number as u16, 0, QUARTER);
        }
        assert!(queue.state.lock().bytes <= ALL);
        let dropped = logs
            .each_ref()
            .map(|log| log.dropped.load(Ordering::Relaxed));
        let quarter = QUARTER as u64;
        assert_eq!(dropped, [2 * quarter, quarter]);
        assert_eq!(next(&queue)[0], (0, 0, Err(quarter)));
        assert_eq!(next(&queue)[0], (1, 0, Err(quarter)));
    }

    #[test]
    fn what_could_not_be_written_is_told_before_what_follows() {
        let (queue, log) = (Queue::default(), log(1));
        push(&queue, &log, 1, 1, 10);
        let Work::Write(_, chunks) = queue.next() else {
            panic!("nothing to write")
        };
        push(&queue, &log, 1, 1, 20);
        let lost = chunks
            .iter()
            .map(|(number, chunk)| (*number, chunk.head, 10));
        queue.failed(&log, lost.collect());
        assert_eq!(next(&queue), [(1, 1, Err(10)), (1, 1, Ok(20))]);
        // The records of what was dropped are bounded, whatever instances there were.
        for instance in 0..100 {
            push(&queue, &log, 1, instance, 1);
            let Work::Write(_, chunks) = queue.next() else {
                panic!("nothing to write")
            };
            let lost = chunks
                .into_iter()
                .map(|(number, chunk)| match chunk.head.kind {
                    Kind::Dropped(bytes) => (number, chunk.head, bytes),
                    _ => (number, chunk.head, 1),
                });
            queue.failed(&log, lost.collect());
        }
        push(&queue, &log, 1, 100, 1);
        let got = next(&queue);
        assert_eq!(got.len(), GAPS + 1);
        let missing = got.iter().map(|(.., bytes)| bytes.err().unwrap_or(0));
        assert_eq!(missing.sum::<u64>(), 100);
    }

    #[test]
    fn nothing_is_left_of_a_log_that_is_forgotten() {
        let (queue, log) = (Queue::default(), log(1));
        push(&queue, &log, 1, 1, 10);
        let (tell, _told) = oneshot::channel();
        log.forgotten.store(true, Ordering::Relaxed);
        queue.forget(log.clone(), tell);
        push(&queue, &log, 1, 1, 10);
        assert!(matches!(queue.next(), Work::Job(Job::Forget(..))));
        let state = queue.state.lock();
        assert!(state.bytes == 0 && state.logs.is_empty() && state.ready.is_empty());
    }
}
