//! Reads a log from a place on, with ordinary blocking reads.
//!
//! [`Records`] gives record after record, over all segments; [`Cursor`] makes the lines of them that
//! a query wants.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::index::{Found, Place, segment_path};
use super::lines::Lines;
use super::log::Inner;
use super::record::{self, Format, HEADER, Head, MOST, Parsed, SEGMENT_HEADER};
use super::{Cause, Item, Lost, Query};

/// How many bytes are read at a time: more than a record has.
const READ: usize = 2 * (HEADER + MOST);

/// How many items and bytes are handed out at a time, about.
const ITEMS: usize = 1024;
const BYTES: usize = 256 << 10;

/// How many bytes of a log are read at a time, about, whatever is found in them: then another reader may have
/// the thread. Chosen, not measured: a disk gives so many in some ten milliseconds.
const AT_ONCE: u64 = 4 << 20;

/// How far before the end the last lines are sought first; then eight times as far, and so on.
const NEAR: u64 = 64 << 10;

/// A segment's file may have been written so much earlier than the clock says: the kernel's clock for
/// files has ticks.
const TICK: Duration = Duration::from_secs(1);

/// Reads record after record.
#[derive(Debug)]
struct Records {
    log: Arc<Inner>,
    /// Where the next record is, or is sought.
    place: Place,
    /// How many bytes were before this place.
    counted: u64,
    /// Reads no further than here.
    end: Option<Place>,
    /// Up to where the segment is written.
    until: u64,
    /// The segment's file.
    file: Option<(u64, File, Format)>,
    /// What was read of it, and from where on.
    buffer: Vec<u8>,
    from: u64,
    /// How many bytes were skipped that are no record.
    skipped: u64,
    /// Bytes that are skipped are no damage: this may be the middle of a record.
    seeks: bool,
}

/// What is next in a log.
#[derive(Debug)]
enum Step {
    /// A record, and where in the buffer its payload is.
    Record(Head, Range<usize>),
    /// Bytes that are missing.
    Lost(Cause, u64),
    /// Nothing more yet.
    End,
}

/// Reads the items that a query asks for.
#[derive(Debug)]
pub(super) struct Cursor {
    query: Query,
    records: Records,
    lines: Lines,
    /// How many more lines are left out.
    skip: u64,
    /// How many bytes of the log there were when this cursor was made.
    before: u64,
    /// What is not yet taken of a record.
    rest: Option<(Head, Range<usize>)>,
}

/// What a cursor found.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    /// There is nothing more yet.
    pub(super) at_end: bool,
    /// How many bytes of the log were read, or are gone.
    pub(super) seen: u64,
}

impl Records {
    fn new(log: &Arc<Inner>, place: Place, end: Option<Place>) -> Records {
        Records {
            log: log.clone(),
            place,
            counted: log.index.lock().counted(place),
            end,
            until: 0,
            file: None,
            buffer: Vec::new(),
            from: 0,
            skipped: 0,
            seeks: place.at > 0,
        }
    }

    fn next(&mut self) -> io::Result<Step> {
        loop {
            if !self.has_file() {
                if let Some(step) = self.find()? {
                    return Ok(step);
                }
                continue;
            }
            let Some((_, _, format)) = &self.file else {
                continue;
            };
            let start = (self.place.at - self.from) as usize;
            let bytes = self.buffer.get(start..).unwrap_or_default();
            let (at, behind) = (self.place.at, self.until - self.place.at);
            let more = behind > bytes.len() as u64;
            match format.parse(bytes, at) {
                Parsed::Short(wanted) if more && behind >= wanted as u64 => self.fill()?,
                Parsed::Bad if more && bytes.len() < HEADER => self.fill()?,
                Parsed::Record(head, length) => {
                    if let Some(lost) = self.damage() {
                        return Ok(lost);
                    }
                    self.seeks = false;
                    self.advance(HEADER + length);
                    let payload = start + HEADER;
                    return Ok(Step::Record(head, payload..payload + length));
                }
                Parsed::Short(_) | Parsed::Bad => {
                    let skip = record::skip(bytes).max(1);
                    self.skipped += skip as u64;
                    self.advance(skip);
                }
            }
        }
    }

    fn advance(&mut self, by: usize) {
        self.place.at += by as u64;
        self.counted += by as u64;
    }

    /// The bytes that were skipped, if they are to be told.
    fn damage(&mut self) -> Option<Step> {
        let skipped = std::mem::take(&mut self.skipped);
        (skipped > 0 && !self.seeks).then_some(Step::Lost(Cause::Damaged, skipped))
    }

    /// Whether the segment of this place is open, and has bytes behind it.
    fn has_file(&self) -> bool {
        let number = self.file.as_ref().map(|(number, ..)| *number);
        number == Some(self.place.number) && self.place.at < self.until
    }

    /// Finds out what is behind the bytes that were read.
    fn find(&mut self) -> io::Result<Option<Step>> {
        let found = self.log.index.lock().find(self.place, self.counted);
        match found {
            _ if self.end.is_some_and(|end| self.place >= end) => Ok(Some(self.at_end())),
            Found::Nothing => Ok(Some(self.at_end())),
            Found::Until(until) => {
                let end = self.end.filter(|end| end.number == self.place.number);
                self.until = end.map_or(until, |end| end.at.min(until));
                self.open()
            }
            Found::Next(place, missed) => {
                if let Some(lost) = self.damage() {
                    return Ok(Some(lost));
                }
                (self.place, self.seeks, self.file) = (place, false, None);
                self.counted += missed;
                Ok((missed > 0).then_some(Step::Lost(Cause::Deleted, missed)))
            }
        }
    }

    fn at_end(&mut self) -> Step {
        // A follower may wait for long.
        self.buffer = Vec::new();
        self.from = self.place.at;
        self.damage().unwrap_or(Step::End)
    }

    /// Opens the segment, if it is not open.
    fn open(&mut self) -> io::Result<Option<Step>> {
        let number = self.place.number;
        if matches!(&self.file, Some((open, ..)) if *open == number) {
            return Ok(None);
        }
        self.file = None;
        self.buffer.clear();
        self.from = self.place.at;
        let file = match File::open(segment_path(&self.log.dir, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(self.pass(Cause::Deleted));
            }
            file => file?,
        };
        let mut header = [0; SEGMENT_HEADER];
        let format = match file.read_exact_at(&mut header, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
            Ok(()) => Format::read(&header),
        };
        let Some(format) = format else {
            return Ok(self.pass(Cause::Damaged));
        };
        let header = SEGMENT_HEADER as u64;
        if self.place.at < header {
            self.counted += header - self.place.at;
            self.place.at = header;
            self.from = header;
        }
        self.file = Some((number, file, format));
        Ok(None)
    }

    /// Goes past the rest of the segment.
    fn pass(&mut self, cause: Cause) -> Option<Step> {
        let missed = self.until - self.place.at;
        self.advance(missed as usize);
        Some(Step::Lost(cause, missed))
    }

    /// Reads more of the segment.
    fn fill(&mut self) -> io::Result<()> {
        let Some((_, file, _)) = &self.file else {
            return Ok(());
        };
        let start = (self.place.at - self.from) as usize;
        self.buffer.drain(..start.min(self.buffer.len()));
        self.from = self.place.at;
        let have = self.buffer.len();
        let at = self.from + have as u64;
        let wanted = (self.until - at).min((READ - have) as u64) as usize;
        self.buffer.resize(have + wanted, 0);
        let count = loop {
            match file.read_at(&mut self.buffer[have..], at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                count => break count?,
            }
        };
        self.buffer.truncate(have + count);
        if count == 0 {
            // Somebody has cut the file off, in the middle of a record.
            let missing = self.until - self.place.at;
            self.skipped += missing;
            self.advance(missing as usize);
        }
        Ok(())
    }
}

impl Cursor {
    /// Finds the place where the query's lines begin. The log is loaded.
    /// Once `abandoned` is set nobody waits for it, and it comes to an end.
    pub(super) fn new(
        log: &Arc<Inner>,
        query: Query,
        abandoned: &AtomicBool,
    ) -> io::Result<Cursor> {
        let (numbers, end) = {
            let index = log.index.lock();
            (index.numbers(), index.end_place())
        };
        let mut start = log.index.lock().start();
        if let Some(since) = query.since {
            start = Place {
                number: first_since(log, &numbers, since).unwrap_or(end.number),
                at: 0,
            };
        }
        let until = (!query.follow).then_some(end);
        let Some(last) = query.last else {
            return Ok(Cursor::at(log, query, start, until));
        };
        let mut distance = NEAR;
        loop {
            let near = log.index.lock().before(end, distance).max(start);
            let mut counting = Cursor::at(log, query, near, Some(end));
            let (count, whole) = counting.count(abandoned)?;
            if whole >= last || near <= start || abandoned.load(Ordering::Relaxed) {
                let mut cursor = Cursor::at(log, query, near, until);
                cursor.skip = count.saturating_sub(last);
                return Ok(cursor);
            }
            distance = distance.saturating_mul(8);
        }
    }

    fn at(log: &Arc<Inner>, query: Query, place: Place, end: Option<Place>) -> Cursor {
        let first = place <= log.index.lock().start();
        Cursor {
            query,
            records: Records::new(log, place, end),
            lines: match first {
                true => Lines::default(),
                false => Lines::within(),
            },
            skip: 0,
            before: log.index.lock().end(),
            rest: None,
        }
    }

    /// How many lines there are up to the end, and behind the last line that was left out.
    fn count(&mut self, abandoned: &AtomicBool) -> io::Result<(u64, u64)> {
        let (mut count, mut whole) = (0, 0);
        let mut items = Vec::new();
        loop {
            items.clear();
            let at_end = self.step(&mut items)?;
            self.choose(&mut items, 0);
            if self.lines.take_cut() || (at_end && self.lines.is_cut()) {
                whole = 0;
            }
            if at_end && !self.query.follow {
                self.finish(&mut items);
            }
            let lines = items.iter();
            let lines = lines.filter(|item| matches!(item, Item::Entry(_))).count() as u64;
            (count, whole) = (count + lines, whole + lines);
            if at_end || abandoned.load(Ordering::Relaxed) {
                return Ok((count, whole));
            }
        }
    }

    /// The next items; none if there are none in what is read at a time. Blocks while the disk does.
    pub(super) fn next(&mut self) -> io::Result<Batch> {
        let (mut batch, mut bytes) = (Batch::default(), 0);
        batch.seen = self.records.log.index.lock().end();
        let until = self.records.counted.saturating_add(AT_ONCE);
        while batch.items.len() < ITEMS && bytes < BYTES && self.records.counted < until {
            let before = batch.items.len();
            batch.at_end = self.step(&mut batch.items)?;
            let new = batch.items[before..].iter();
            bytes += new.map(held).sum::<usize>();
            self.choose(&mut batch.items, before);
            if batch.at_end {
                break;
            }
        }
        Ok(batch)
    }

    /// The lines that are not finished, at the end of the log.
    pub(super) fn finish(&mut self, items: &mut Vec<Item>) {
        let before = items.len();
        self.lines.flush_all(items);
        self.choose(items, before);
    }

    /// Reads a record, or a part of one. Whether there is none yet.
    fn step(&mut self, items: &mut Vec<Item>) -> io::Result<bool> {
        if let Some((head, range)) = self.rest.take() {
            if self.is_new() {
                self.lines.show_cut();
            }
            let bytes = &self.records.buffer[range.clone()];
            let taken = self.lines.add(&head, bytes, ITEMS, items);
            if taken < bytes.len() {
                self.rest = Some((head, range.start + taken..range.end));
            }
            return Ok(false);
        }
        match self.records.next()? {
            Step::Record(head, range) if self.query.wants(&head.source) => {
                self.rest = Some((head, range));
            }
            Step::Record(..) => (),
            Step::Lost(cause, bytes) => {
                self.lines.flush_all(items);
                if cause == Cause::Deleted {
                    // The lines that were to be left out are gone.
                    self.skip = 0;
                }
                let from = None;
                items.push(Item::Lost(Lost { cause, bytes, from }));
            }
            Step::End => return Ok(true),
        }
        Ok(false)
    }

    /// Whether what was read last came after this cursor was made.
    fn is_new(&self) -> bool {
        self.records.counted > self.before
    }

    /// Leaves out the items behind this one that are too old or too many.
    fn choose(&mut self, items: &mut Vec<Item>, behind: usize) {
        // What is new is not too old, whatever the clock says now.
        let since = self.query.since.filter(|_| !self.is_new());
        if self.skip == 0 && since.is_none() {
            return;
        }
        let skip = &mut self.skip;
        let mut index = 0;
        items.retain(|item| {
            index += 1;
            if index <= behind {
                return true;
            }
            let time = match item {
                Item::Entry(entry) => Some(entry.time),
                Item::Lost(lost) => lost.from.map(|(_, time)| time),
            };
            if time.zip(since).is_some_and(|(time, since)| time < since) {
                return false;
            }
            if *skip == 0 {
                return true;
            }
            *skip -= u64::from(matches!(item, Item::Entry(_)));
            false
        });
    }
}

/// About how much memory an item takes.
fn held(item: &Item) -> usize {
    size_of::<Item>()
        + match item {
            Item::Entry(entry) => entry.bytes.len(),
            Item::Lost(_) => 0,
        }
}

/// The first segment that was written to at this time or later. Whatever cannot be asked may have
/// been.
fn first_since(log: &Inner, numbers: &[u64], since: SystemTime) -> Option<u64> {
    let is_late = |number: &&u64| {
        let written = segment_path(&log.dir, **number)
            .metadata()
            .and_then(|metadata| metadata.modified());
        written.map_or(true, |written| {
            written
                .checked_add(TICK)
                .is_none_or(|written| written >= since)
        })
    };
    numbers.iter().find(is_late).copied()
}
