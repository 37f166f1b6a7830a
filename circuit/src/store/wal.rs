//! Finds damage in a write-ahead log, before SQLite reads it.
//!
//! SQLite takes the first frame of a log whose sum is wrong for the end of the log. That is right
//! after a loss of power, which may leave the last transaction half written, but it forgets
//! acknowledged ones without a word if a frame in the middle was damaged later. The two are told
//! apart by what follows the frame: nobody writes a transaction behind one that is not flushed, so
//! where a later one follows, the frame was whole once. They are also told apart by the log's
//! [`Extent`], which is how long it was at least.
//!
//! The format: <https://www.sqlite.org/walformat.html> and
//! <https://www.sqlite.org/fileformat2.html>, section 4.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::database::PAGE;
use super::extent::Extent;

/// The length of the log's header.
const HEADER: usize = 32;

/// The length of a frame's header. A page follows it.
const FRAME: usize = 24;

/// Looks for damage. The inner error says what was found. A log that is not there is in order.
pub(super) fn check(path: &Path, extent: Option<Extent>) -> io::Result<Result<(), String>> {
    // A log has a few thousand pages at most, as it is copied after `CHECKPOINT`.
    match fs::read(path) {
        Ok(bytes) => Ok(examine(&bytes, extent)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(examine(&[], extent)),
        Err(error) => Err(error),
    }
}

/// The salts of a log, which is there and has a header.
pub(super) fn salts(path: &Path) -> io::Result<[u32; 2]> {
    let mut salts = [0; 8];
    fs::File::open(path)?.read_exact_at(&mut salts, 16)?;
    Ok(words(&salts, 0))
}

/// Disowns all frames of a log behind the first `frames`: those of a transaction that failed are not
/// to be taken for damage later. SQLite does not read them.
pub(super) fn disown(path: &Path, frames: u32) -> io::Result<()> {
    let log = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let length = log.metadata()?.len();
    let frame = FRAME as u64 + PAGE;
    let mut at = HEADER as u64 + u64::from(frames) * frame;
    while at < length {
        // The salts of the frame.
        log.write_all_at(&[0; 8], at + 8)?;
        at += frame;
    }
    Ok(())
}

fn examine(log: &[u8], extent: Option<Extent>) -> Result<(), String> {
    if log.is_empty() {
        return match extent {
            Some(_) => Err("it is missing".into()),
            None => Ok(()),
        };
    }
    let Some((header, frames)) = log.split_first_chunk::<HEADER>() else {
        return Err("it is shorter than its header".into());
    };
    if header.iter().all(|byte| *byte == 0) {
        // A file system may have the length of the first write, and not yet its bytes. Nothing is
        // written behind a header that is not flushed.
        return match extent.is_none() && frames.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err("its header is missing".into()),
        };
    }
    let big_endian = match word(header, 0) {
        0x377f_0682 => false,
        0x377f_0683 => true,
        _ => return Err("its header is damaged".into()),
    };
    let sum = Sum { big_endian };
    let page = word(header, 8) as usize;
    if sum.over([0, 0], &header[..24]) != words(header, 24) || !(512..=65536).contains(&page) {
        return Err("its header is damaged".into());
    }
    let salts = words(header, 16);
    let frames: Vec<&[u8]> = frames.chunks_exact(FRAME + page).collect();
    // Each frame's sum begins with the one of the frame before it. Compared with that as it is
    // written there, one damaged frame does not make all the later ones wrong.
    let whole = |index: usize| {
        let before = match index.checked_sub(1) {
            Some(before) => words(frames[before], 16),
            None => words(header, 24),
        };
        let frame = frames[index];
        let begun = sum.over(before, &frame[..8]);
        words(frame, 8) == salts && sum.over(begun, &frame[FRAME..]) == words(frame, 16)
    };
    let first = (0..frames.len()).find(|index| !whole(*index));
    let intact = first.unwrap_or(frames.len());
    if let Some(extent) = extent.filter(|extent| extent.salts == salts)
        && intact < extent.frames as usize
    {
        return Err(format!(
            "frame {} of {} is damaged or missing",
            intact + 1,
            extent.frames
        ));
    }
    let Some(first) = first else {
        return Ok(());
    };
    // A frame that ends a transaction has the database's length.
    let ends = |index: &usize| words(frames[*index], 8) == salts && word(frames[*index], 4) != 0;
    let Some(end) = (first..frames.len()).find(ends) else {
        return Ok(());
    };
    match (end + 1..frames.len()).find(|index| whole(*index)) {
        Some(_) => Err(format!(
            "frame {} of {} is damaged",
            first + 1,
            frames.len()
        )),
        None => Ok(()),
    }
}

/// The log's sum: two words, over pairs of words in one byte order or the other.
struct Sum {
    big_endian: bool,
}

impl Sum {
    fn over(&self, [mut first, mut second]: [u32; 2], bytes: &[u8]) -> [u32; 2] {
        let word = |bytes: &[u8; 4]| match self.big_endian {
            true => u32::from_be_bytes(*bytes),
            false => u32::from_le_bytes(*bytes),
        };
        let (pairs, _) = bytes.as_chunks::<8>();
        for pair in pairs {
            let [a, b, c, d, e, f, g, h] = *pair;
            first = first.wrapping_add(word(&[a, b, c, d])).wrapping_add(second);
            second = second.wrapping_add(word(&[e, f, g, h])).wrapping_add(first);
        }
        [first, second]
    }
}

/// The big-endian word at an offset, or 0 past the end.
fn word(bytes: &[u8], offset: usize) -> u32 {
    let found = bytes.get(offset..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |word| u32::from_be_bytes(*word))
}

fn words(bytes: &[u8], offset: usize) -> [u32; 2] {
    [word(bytes, offset), word(bytes, offset + 4)]
}
