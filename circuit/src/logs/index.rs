//! Which segments a log has, and how far each is written.
//!
//! The writer changes the index, readers look their place up in it. Places are counted from the
//! first byte that this life knows of, over all segments: so a reader that comes back to a place that
//! is gone learns how many bytes it missed.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// No segment has this number: a file with it, or a larger one, is not ours.
const LAST: u64 = 1 << 62;

/// The segments of a log.
#[derive(Debug, Default)]
pub(super) struct Index {
    segments: BTreeMap<u64, Extent>,
    /// The number of the next segment.
    next: u64,
    /// The place behind the last byte.
    end: u64,
    /// How many bytes all segments have.
    held: u64,
    /// Whether the directory was read.
    pub(super) loaded: bool,
}

/// One segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    /// The place of its first byte.
    base: u64,
    /// How many bytes it has of which the writer is done.
    len: u64,
}

/// A segment, and a place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Place {
    pub(super) number: u64,
    /// Bytes from the segment's beginning.
    pub(super) at: u64,
}

/// What is at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Bytes, up to here in this segment.
    Until(u64),
    /// Nothing yet.
    Nothing,
    /// The end of a segment, or nothing any more: it goes on here, so many bytes later.
    Next(Place, u64),
}

impl Index {
    /// Reads a directory; one that is not there has no segments. Blocks.
    pub(super) fn read(dir: &Path) -> io::Result<Index> {
        let mut index = Index {
            next: 1,
            loaded: true,
            ..Index::default()
        };
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(index),
            entries => entries?,
        };
        let mut lengths = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(number) = number
                && number < LAST
                && segment_path(dir, number) == entry.path()
            {
                lengths.insert(number, entry.metadata()?.size());
            }
        }
        for (number, len) in lengths {
            index.insert(number, len);
        }
        Ok(index)
    }

    /// The number that the next segment is to have.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Adds a segment behind all others.
    pub(super) fn insert(&mut self, number: u64, len: u64) {
        self.segments.insert(
            number,
            Extent {
                base: self.end,
                len,
            },
        );
        self.next = number.saturating_add(1).max(self.next);
        self.end += len;
        self.held += len;
    }

    /// The last segment has become this much longer.
    pub(super) fn grow(&mut self, by: u64) {
        if let Some(mut last) = self.segments.last_entry() {
            last.get_mut().len += by;
            self.end += by;
            self.held += by;
        }
    }

    /// Forgets a segment; how many bytes it had.
    pub(super) fn remove(&mut self, number: u64) -> u64 {
        let len = self.segments.remove(&number).map_or(0, |extent| extent.len);
        self.held -= len;
        len
    }

    /// The oldest segment.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.segments.keys().next().copied()
    }

    /// The segment that is written to, and its end.
    pub(super) fn last(&self) -> Option<Place> {
        let (number, extent) = self.segments.last_key_value()?;
        Some(Place {
            number: *number,
            at: extent.len,
        })
    }

    /// All segments, the oldest first.
    pub(super) fn numbers(&self) -> Vec<u64> {
        self.segments.keys().copied().collect()
    }

    /// How many bytes all segments have.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// How many bytes were written up to the end, in segments that are gone, too.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The place behind the last byte.
    pub(super) fn end_place(&self) -> Place {
        self.last().unwrap_or(Place {
            number: self.next,
            at: 0,
        })
    }

    /// The place that is so many bytes before another, or the oldest that there is.
    pub(super) fn before(&self, place: Place, bytes: u64) -> Place {
        let from = self.counted(place).saturating_sub(bytes);
        let within = |extent: &Extent| extent.base <= from;
        let found = self
            .segments
            .iter()
            .rev()
            .find(|(_, extent)| within(extent));
        match found {
            Some((number, extent)) => Place {
                number: *number,
                at: (from - extent.base).min(extent.len),
            },
            None => self.start(),
        }
    }

    /// The oldest place.
    pub(super) fn start(&self) -> Place {
        Place {
            number: self.oldest().unwrap_or(self.next),
            at: 0,
        }
    }

    /// What is at a place, for a reader that was at `counted` by [`counted`](Self::counted).
    pub(super) fn find(&self, place: Place, counted: u64) -> Found {
        if let Some(extent) = self.segments.get(&place.number) {
            if place.at < extent.len {
                return Found::Until(extent.len);
            }
            if self.segments.range(place.number + 1..).next().is_none() {
                return Found::Nothing;
            }
        }
        let later = self.segments.range(place.number..);
        let mut later = later.filter(|(number, _)| **number > place.number);
        match later.next() {
            Some((number, extent)) => {
                let next = Place {
                    number: *number,
                    at: 0,
                };
                Found::Next(next, extent.base.saturating_sub(counted))
            }
            // The segment was deleted, and is the last.
            None if counted < self.end => Found::Next(self.end_place(), self.end - counted),
            None => Found::Nothing,
        }
    }

    /// How many bytes were before a place.
    pub(super) fn counted(&self, place: Place) -> u64 {
        match self.segments.range(place.number..).next() {
            Some((number, extent)) if *number == place.number => extent.base + place.at,
            Some((_, extent)) => extent.base,
            None => self.end,
        }
    }
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64, at: u64) -> Place {
        Place { number, at }
    }

    fn three() -> Index {
        let mut index = Index::default();
        for number in [3, 4, 6] {
            index.insert(number, 100);
        }
        index
    }

    #[test]
    fn places_are_found() {
        let mut index = three();
        assert_eq!(index.find(place(3, 0), 0), Found::Until(100));
        assert_eq!(index.find(place(3, 100), 100), Found::Next(place(4, 0), 0));
        assert_eq!(index.find(place(6, 100), 300), Found::Nothing);
        index.grow(20);
        assert_eq!(index.find(place(6, 100), 300), Found::Until(120));
        assert_eq!((index.held(), index.end(), index.next()), (320, 320, 7));
        index.remove(3);
        assert_eq!(index.find(place(3, 70), 70), Found::Next(place(4, 0), 30));
        assert_eq!((index.held(), index.end()), (220, 320));
        index.remove(4);
        index.remove(6);
        assert_eq!(index.find(place(4, 70), 170), Found::Next(place(7, 0), 150));
        assert_eq!(index.find(place(7, 0), 320), Found::Nothing);
        index.insert(7, 10);
        assert_eq!(index.find(place(4, 70), 170), Found::Next(place(7, 0), 150));
    }

    #[test]
    fn the_place_before_another_is_in_an_earlier_segment() {
        let index = three();
        let end = index.end_place();
        assert_eq!(end, place(6, 100));
        assert_eq!(index.before(end, 0), end);
        assert_eq!(index.before(end, 130), place(4, 70));
        assert_eq!(index.before(end, 301), place(3, 0));
        assert_eq!(Index::default().before(place(0, 0), 5), place(0, 0));
    }

    #[test]
    fn only_segments_are_read_from_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0000000002", "0000000011", "12", "x", "0000000013.old"] {
            std::fs::write(dir.path().join(name), b"12345").unwrap();
        }
        let index = Index::read(dir.path()).unwrap();
        assert_eq!(index.numbers(), [2, 11]);
        assert_eq!((index.held(), index.next()), (10, 12));
        let none = Index::read(&dir.path().join("none")).unwrap();
        assert_eq!((none.next(), none.loaded), (1, true));
    }
}
