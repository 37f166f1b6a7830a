//! The thread that writes segments, and removes what is to be removed: the only one that waits for a
//! disk which hangs.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::index::{Index, segment_path};
use super::intake::READ;
use super::log::Inner;
use super::queue::{Chunk, Job, PATIENCE, Queue, Tail, Work};
use super::record::{Format, HEADER, Head, Kind, MOST, SEGMENT_HEADER};
use super::{Shared, words};
use crate::runtime::task::Alarm;

/// How many segments the writer has open at most. Chosen, not measured: opening one again takes a few
/// microseconds, and a thousand logs that are at rest need no descriptors.
pub(super) const OPEN: usize = 32;

/// Into how many segments a log is divided.
const SEGMENTS: u64 = 8;

/// The shortest segment: there is room for a record in it.
const SHORTEST: u64 = 4096;

/// Payloads that are shorter are copied, as the system writes many small pieces slower.
const COPIED: usize = 4096;

/// Writes into files. Tests have one that fails or waits.
pub(super) trait Disk: Debug + Send + Sync {
    /// Writes these pieces at this place, or the first of their bytes.
    fn write(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize>;

    /// How long a pipe is left alone for this disk.
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// The operating system's.
#[derive(Debug)]
pub(super) struct System;

impl Disk for System {
    fn write(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        Ok(rustix::io::pwritev(file, pieces, at)?)
    }
}

/// Starts the thread. It ends after [`Queue::finish`].
pub(super) fn spawn(shared: &Arc<Shared>, disk: Arc<dyn Disk>, alarm: &Alarm) -> io::Result<()> {
    let gone = Gone(shared.queue.clone());
    let writer = Writer {
        queue: shared.queue.clone(),
        shared: Arc::downgrade(shared),
        disk,
        open: VecDeque::new(),
        staging: Vec::new(),
    };
    let body = move || {
        let _gone = gone;
        writer.run();
        Ok(())
    };
    alarm.thread("log writer", body).map(drop)
}

/// Tells everybody that the thread is gone, even if it panicked.
struct Gone(Arc<Queue>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.finished();
    }
}

struct Writer {
    queue: Arc<Queue>,
    shared: Weak<Shared>,
    disk: Arc<dyn Disk>,
    /// Those used last are at the back.
    open: VecDeque<Open>,
    /// Headers and short payloads, one after the other.
    staging: Vec<u8>,
}

/// A segment that is open.
struct Open {
    /// The id of its log.
    log: u64,
    number: u64,
    file: File,
    format: Format,
}

/// A record that is to be written: a part of a chunk.
struct Record {
    chunk: usize,
    head: Head,
    payload: Range<usize>,
    /// How many bytes of output it has.
    output: u64,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.queue.next() {
                Work::Job(Job::Load(log)) => self.load(&log),
                Work::Job(Job::Tail(tail)) => remove(tail),
                Work::Job(Job::Forget(log, tell)) => {
                    self.remove_log(&log);
                    // Dropped by those who do not wait.
                    let _ = tell.send(());
                }
                Work::Write(log, mut chunks) => {
                    if self.queue.wanted.swap(false, Ordering::SeqCst)
                        && let Some(shared) = self.shared.upgrade()
                    {
                        shared.intake.wake();
                    }
                    self.write(&log, &chunks);
                    let tails = chunks.iter_mut().filter_map(|(_, chunk)| chunk.tail.take());
                    tails.for_each(remove);
                    self.queue.give_back(chunks, READ);
                }
                Work::End => return,
            }
        }
    }

    fn load(&mut self, log: &Arc<Inner>) {
        if let Err(error) = self.loaded(log) {
            *log.error.lock() = Some(words(&error));
        }
        let end = log.index.lock().end();
        log.news.send_modify(|news| {
            news.loaded = true;
            news.end = end;
        });
    }

    /// Looks at the directory of a log, if that did not succeed before.
    fn loaded(&mut self, log: &Inner) -> io::Result<()> {
        if log.index.lock().loaded {
            return Ok(());
        }
        let index = Index::read(&log.dir)?;
        self.count(index.held(), 0);
        *log.index.lock() = index;
        Ok(())
    }

    fn remove_log(&mut self, log: &Arc<Inner>) {
        self.open.retain(|open| open.log != log.id);
        let held = std::mem::take(&mut *log.index.lock()).held();
        self.count(0, held);
        // Where this fails, the next life finds the log and removes it.
        let _ = std::fs::remove_dir_all(&log.dir);
    }

    /// Writes chunks; says of those that cannot be written that they are missing.
    fn write(&mut self, log: &Arc<Inner>, chunks: &[(u64, Chunk)]) {
        if log.is_forgotten() {
            return;
        }
        let records = self.records(log, chunks);
        let mut rest = records.as_slice();
        let mut error = self.loaded(log).err();
        while error.is_none() && !rest.is_empty() {
            let (count, result) = self.write_some(log, chunks, rest);
            rest = &rest[count..];
            error = result.err();
        }
        if !rest.is_empty() {
            let mut lost: Vec<(u64, Head, u64)> = Vec::new();
            for record in rest {
                let (number, output) = (chunks[record.chunk].0, record.output);
                if let Kind::Output { .. } = record.head.kind {
                    log.dropped.fetch_add(output, Ordering::Relaxed);
                }
                match (lost.last_mut(), record.head.kind) {
                    (_, Kind::Ended) => (),
                    (Some((last, _, bytes)), _) if *last == number => *bytes += output,
                    _ => lost.push((number, record.head, output)),
                }
            }
            self.queue.failed(log, lost);
        }
        if let Some(error) = error {
            self.open.retain(|open| open.log != log.id);
            *log.error.lock() = Some(words(&error));
        }
    }

    /// Divides chunks into records that fit into a segment.
    fn records(&self, log: &Inner, chunks: &[(u64, Chunk)]) -> Vec<Record> {
        let room = self.segment(log) as usize - SEGMENT_HEADER - HEADER;
        let most = room.min(MOST);
        let mut records = Vec::with_capacity(chunks.len());
        for (index, (_, chunk)) in chunks.iter().enumerate() {
            let (mut start, mut head) = (0, chunk.head);
            loop {
                let end = (start + most).min(chunk.bytes.len());
                let output = match head.kind {
                    Kind::Dropped(count) => count,
                    _ => (end - start) as u64,
                };
                records.push(Record {
                    chunk: index,
                    head,
                    payload: start..end,
                    output,
                });
                start = end;
                if start == chunk.bytes.len() {
                    break;
                }
                let begins = chunk.bytes[start - 1] == b'\n';
                head.kind = Kind::Output { begins };
            }
        }
        records
    }

    /// Writes records up to the end of a segment; how many were written.
    fn write_some(
        &mut self,
        log: &Arc<Inner>,
        chunks: &[(u64, Chunk)],
        records: &[Record],
    ) -> (usize, io::Result<()>) {
        let all = records.iter().map(size).sum::<u64>() + SEGMENT_HEADER as u64;
        self.make_room(all.min(self.segment(log)));
        let (at, format) = match self.open_segment(log, size(&records[0])) {
            Ok(open) => open,
            Err(error) => return (0, Err(error)),
        };
        let (segment, mut end, mut count) = (self.segment(log), at, 0);
        if at == 0 {
            end += SEGMENT_HEADER as u64;
        }
        // The end of each record.
        let mut ends = Vec::new();
        let mut staging = std::mem::take(&mut self.staging);
        staging.clear();
        if at == 0 {
            staging.extend_from_slice(&format.segment_header());
        }
        let mut pieces: Vec<Piece<'_>> = vec![Piece::Staged(0..staging.len())];
        for record in records {
            let begin = end;
            end += size(record);
            // The first fits, unless the bound was changed just now.
            if end > segment && count > 0 {
                break;
            }
            let payload = &chunks[record.chunk].1.bytes[record.payload.clone()];
            match record.head.kind {
                Kind::Dropped(dropped) => {
                    let payload = dropped.to_le_bytes();
                    staging.extend_from_slice(&format.header(&record.head, &payload, begin));
                    staging.extend_from_slice(&payload);
                }
                _ => {
                    staging.extend_from_slice(&format.header(&record.head, payload, begin));
                    if payload.len() < COPIED {
                        staging.extend_from_slice(payload);
                    }
                }
            }
            if let Some(Piece::Staged(range)) = pieces.last_mut() {
                range.end = staging.len();
            }
            if payload.len() >= COPIED {
                pieces.push(Piece::Payload(payload));
                pieces.push(Piece::Staged(staging.len()..staging.len()));
            }
            ends.push(end);
            count += 1;
        }
        let pieces = pieces.iter().map(|piece| match piece {
            Piece::Staged(range) => &staging[range.clone()],
            Piece::Payload(payload) => payload,
        });
        let pieces: Vec<&[u8]> = pieces.collect();
        let (written, result) = self.write_all(log, &pieces, at);
        self.staging = staging;
        let done = ends.partition_point(|end| *end <= at + written);
        let behind = match done.checked_sub(1) {
            Some(last) => ends[last],
            None => at,
        };
        self.commit(log, behind - at);
        let written = records[..done]
            .iter()
            .filter_map(|record| match record.head.kind {
                Kind::Output { .. } => Some(record.output),
                _ => None,
            });
        log.written.fetch_add(written.sum(), Ordering::Relaxed);
        (done, result)
    }

    /// Writes pieces into the segment that is open; how many bytes, even if not all.
    fn write_all(&self, log: &Inner, pieces: &[&[u8]], at: u64) -> (u64, io::Result<()>) {
        let Some(open) = self.open.iter().find(|open| open.log == log.id) else {
            // `open_segment` has just opened it.
            return (0, Err(io::ErrorKind::NotFound.into()));
        };
        let slices = pieces.iter().filter(|piece| !piece.is_empty());
        let mut slices: Vec<IoSlice<'_>> = slices.map(|piece| IoSlice::new(piece)).collect();
        let (mut slices, mut written) = (slices.as_mut_slice(), 0);
        while !slices.is_empty() {
            // As many as the system takes at once (IOV_MAX).
            let some = &slices[..slices.len().min(1024)];
            match self.disk.write(&open.file, some, at + written) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    written += count as u64;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// The segment has become this much longer: readers may read it.
    fn commit(&self, log: &Inner, by: u64) {
        if by == 0 {
            return;
        }
        let end = {
            let mut index = log.index.lock();
            index.grow(by);
            index.end()
        };
        self.count(by, 0);
        log.news.send_modify(|news| news.end = end);
    }

    /// Sees that the last segment of a log is open and has room, and that the log's bound allows it;
    /// where to write.
    fn open_segment(&mut self, log: &Arc<Inner>, size: u64) -> io::Result<(u64, Format)> {
        let segment = self.segment(log);
        if let Some(open) = self.current(log)? {
            let last = log.index.lock().last();
            let fits = |at: u64| at + size <= segment && open.1.is_some();
            if let (Some(last), Some(format)) = (last, open.1)
                && last.number == open.0
                && fits(last.at)
            {
                return Ok((last.at, format));
            }
        }
        self.open.retain(|open| open.log != log.id);
        let bound = log.bytes.load(Ordering::Relaxed).max(segment);
        loop {
            let oldest = {
                let index = log.index.lock();
                let oldest = index.oldest();
                oldest.filter(|_| index.held() + segment > bound)
            };
            match oldest {
                Some(oldest) => self.remove_segment(log, oldest)?,
                None => break,
            }
        }
        let number = log.index.lock().next();
        let (number, file) = create(log, number)?;
        let format = Format::new(salt()?);
        log.index.lock().insert(number, 0);
        self.keep_open(Open {
            log: log.id,
            number,
            file,
            format,
        });
        Ok((0, format))
    }

    /// The number and format of the last segment, which is open then; the format is `None` if nothing
    /// can be added to it.
    fn current(&mut self, log: &Inner) -> io::Result<Option<(u64, Option<Format>)>> {
        let Some(last) = log.index.lock().last() else {
            return Ok(None);
        };
        let number = last.number;
        let found = self.open.iter().position(|open| open.log == log.id);
        if let Some(open) = found.and_then(|found| self.open.remove(found))
            && open.number == number
        {
            if open.file.metadata()?.nlink() > 0 {
                let format = open.format;
                self.open.push_back(open);
                return Ok(Some((number, Some(format))));
            }
            // Somebody has deleted it: nobody would read what follows.
            let held = log.index.lock().remove(number);
            self.count(0, held);
            return Ok(None);
        }
        let path = segment_path(&log.dir, number);
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let held = log.index.lock().remove(number);
                self.count(0, held);
                return Ok(None);
            }
            file => file?,
        };
        let mut header = [0; SEGMENT_HEADER];
        let format = match file.read_exact_at(&mut header, 0) {
            // Its first write failed: it begins anew, as each attempt would otherwise leave a file.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && last.at == 0 => {
                Some(Format::new(salt()?))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
            Ok(()) => Format::read(&header),
        };
        if let Some(format) = format {
            self.keep_open(Open {
                log: log.id,
                number,
                file,
                format,
            });
        }
        Ok(Some((number, format)))
    }

    fn keep_open(&mut self, open: Open) {
        if self.open.len() >= OPEN {
            self.open.pop_front();
        }
        self.open.push_back(open);
    }

    /// Deletes the oldest segments of the largest logs until so many bytes are free.
    fn make_room(&mut self, size: u64) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        while shared.held.load(Ordering::Relaxed) + size > shared.bound {
            let largest = {
                let open = shared.open.lock();
                let largest = open.values().max_by_key(|log| log.index.lock().held());
                largest.cloned()
            };
            let oldest = largest.and_then(|log| {
                let oldest = log.index.lock().oldest()?;
                Some((log, oldest))
            });
            let Some((log, oldest)) = oldest else {
                return;
            };
            if let Err(error) = self.remove_segment(&log, oldest) {
                *log.error.lock() = Some(words(&error));
                return;
            }
        }
    }

    fn remove_segment(&mut self, log: &Inner, number: u64) -> io::Result<()> {
        match std::fs::remove_file(segment_path(&log.dir, number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        let is_it = |open: &Open| open.log == log.id && open.number == number;
        self.open.retain(|open| !is_it(open));
        let held = log.index.lock().remove(number);
        self.count(0, held);
        Ok(())
    }

    /// The size of a log's segments.
    fn segment(&self, log: &Inner) -> u64 {
        let bytes = log.bytes.load(Ordering::Relaxed);
        let bound = self.shared.upgrade().map_or(bytes, |shared| shared.bound);
        (bytes.min(bound) / SEGMENTS).max(SHORTEST)
    }

    fn count(&self, more: u64, less: u64) {
        if let Some(shared) = self.shared.upgrade() {
            shared.held.fetch_add(more, Ordering::Relaxed);
            shared.held.fetch_sub(less, Ordering::Relaxed);
        }
    }
}

/// A part of what is written at once.
enum Piece<'a> {
    Staged(Range<usize>),
    Payload(&'a [u8]),
}

/// How many bytes a record has in a segment.
fn size(record: &Record) -> u64 {
    let payload = match record.head.kind {
        Kind::Dropped(_) => size_of::<u64>(),
        _ => record.payload.len(),
    };
    (HEADER + payload) as u64
}

/// Makes a segment, and the directory if it is not there. Where a file has its number, it gets the
/// next.
fn create(log: &Inner, mut number: u64) -> io::Result<(u64, File)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let mut made = false;
    loop {
        match options.open(segment_path(&log.dir, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !made => {
                made = true;
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&log.dir)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                number = number.saturating_add(1);
            }
            file => return Ok((number, file?)),
        }
    }
}

fn salt() -> io::Result<u64> {
    getrandom::u64().map_err(|error| io::Error::other(error.to_string()))
}

/// Removes a pipe, of which everything is in the log, or was dropped.
fn remove(tail: Tail) {
    // Where this fails, the next life finds the pipe and removes it.
    let _ = std::fs::remove_file(tail.path);
    // Dropped by those who do not wait.
    let _ = tail.tell.send(());
}
