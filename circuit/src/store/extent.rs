//! The extent of a log: how long it was when a change was last acknowledged.
//!
//! A log that was cut off, or whose last transaction was damaged, looks like one that was never
//! longer. The extent, in a file of 20 bytes beside the log, tells. It is written after each commit
//! and needs no flush, as the log was flushed before: whatever of it is on the disk after a loss of
//! power is not ahead of the log. Before the log is to get shorter it is erased, and that is flushed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// How long a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The salts of the log, which are others each time it begins anew.
    pub(super) salts: [u32; 2],
    /// How many frames there were.
    pub(super) frames: u32,
}

/// The file, open for writing.
#[derive(Debug)]
pub(super) struct ExtentFile {
    file: File,
    /// Whether an erasure must be on the disk before what follows it.
    flush: bool,
    last: Option<Extent>,
}

const LENGTH: usize = 20;

/// Reads an extent. An outer `None`: its bytes are not as they were written. An inner one: there is
/// none.
pub(super) fn read(path: &Path) -> io::Result<Option<Option<Extent>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(None)),
        Err(error) => return Err(error),
    };
    if bytes.is_empty() || bytes == [0; LENGTH] {
        return Ok(Some(None));
    }
    let word = |index: usize| {
        let bytes = bytes.get(4 * index..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |word| u32::from_be_bytes(*word))
    };
    let extent = Extent {
        salts: [word(0), word(1)],
        frames: word(2),
    };
    Ok((bytes == extent.bytes()).then_some(Some(extent)))
}

impl Extent {
    fn bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let words = [self.salts[0], self.salts[1], self.frames];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        let sum = super::row::fnv(&bytes[..12]);
        bytes[12..].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

impl ExtentFile {
    /// Opens the file, and makes it if it is not there. An extent in it stays.
    pub(super) fn open(path: &Path, flush: bool) -> io::Result<ExtentFile> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        Ok(ExtentFile {
            file: options.open(path)?,
            flush,
            last: None,
        })
    }

    /// Writes the extent.
    pub(super) fn set(&mut self, extent: Extent) -> io::Result<()> {
        if self.last != Some(extent) {
            self.file.write_all_at(&extent.bytes(), 0)?;
            self.last = Some(extent);
        }
        Ok(())
    }

    /// Erases the extent, so that the log may get shorter.
    pub(super) fn erase(&mut self) -> io::Result<()> {
        self.last = None;
        self.file.write_all_at(&[0; LENGTH], 0)?;
        match self.flush {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }
}
