//! Puts lines together from the records of a log, for each source by itself.
//!
//! **Invariant:** unfinished lines take at most [`UNFINISHED`] bytes, and sources with one at most
//! [`SOURCES`] entries, whatever the log holds.

use std::collections::BTreeMap;

use super::record::{Head, Kind};
use super::{Cause, Entry, Item, Lost, Source, time};

/// The longest line: what is longer comes in pieces of this length.
pub(super) const LONGEST: usize = 64 << 10;

/// How many bytes of unfinished lines are kept. Beyond it lines come in shorter pieces.
const UNFINISHED: usize = 4 << 20;

/// How many sources have an unfinished line at most.
const SOURCES: usize = 8192;

/// The lines that are being put together.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: BTreeMap<Source, Partial>,
    bytes: usize,
    /// Records begin somewhere within the log: of each source, what comes before its first line feed
    /// is the end of a line whose beginning was not seen.
    within: bool,
}

#[derive(Debug, Default)]
struct Partial {
    time: u64,
    bytes: Vec<u8>,
    /// The beginning of the line was not seen.
    cut: bool,
}

impl Lines {
    /// For records that begin somewhere within the log.
    pub(super) fn within() -> Lines {
        Lines {
            within: true,
            ..Lines::default()
        }
    }

    /// Takes the bytes of a record, up to `most` items; how many bytes were taken.
    pub(super) fn add(
        &mut self,
        head: &Head,
        bytes: &[u8],
        most: usize,
        items: &mut Vec<Item>,
    ) -> usize {
        let first = match head.kind {
            Kind::Output { first } => first,
            Kind::Ended => {
                self.flush(&head.source, items);
                return bytes.len();
            }
            Kind::Dropped(count) => {
                self.flush(&head.source, items);
                if self.within {
                    // The next bytes are not known to end a line that began before.
                    self.partial.insert(head.source, Partial::default());
                }
                items.push(Item::Lost(Lost {
                    cause: Cause::Dropped,
                    bytes: count,
                    from: Some((head.source, time(head.time))),
                }));
                return bytes.len();
            }
        };
        if self.partial.len() >= SOURCES && !self.partial.contains_key(&head.source) {
            self.flush_all(items);
        }
        let within = self.within && !first;
        let partial = self.partial.entry(head.source).or_insert_with(|| Partial {
            cut: within,
            ..Partial::default()
        });
        let mut taken = 0;
        while taken < bytes.len() && items.len() < most {
            let rest = &bytes[taken..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            let piece = &rest[..end.unwrap_or(rest.len())];
            if partial.cut {
                partial.cut = end.is_none();
                taken += end.map_or(piece.len(), |end| end + 1);
                continue;
            }
            if partial.bytes.is_empty() {
                partial.time = head.time;
            }
            let room = LONGEST - partial.bytes.len();
            let (piece, ended) = match piece.len() > room {
                true => (&piece[..room], false),
                false => (piece, end.is_some()),
            };
            taken += piece.len() + usize::from(ended);
            self.bytes -= partial.bytes.len();
            partial.bytes.extend_from_slice(piece);
            let whole = ended || taken < bytes.len();
            if whole || self.bytes + partial.bytes.len() > UNFINISHED {
                items.push(entry(head.source, partial, ended));
            }
            self.bytes += partial.bytes.len();
        }
        if partial.bytes.is_empty() && !self.within {
            self.partial.remove(&head.source);
        }
        taken
    }

    /// The unfinished line of a source is all there is of it.
    fn flush(&mut self, source: &Source, items: &mut Vec<Item>) {
        if let Some(mut partial) = self.partial.remove(source) {
            self.bytes -= partial.bytes.len();
            if !partial.bytes.is_empty() {
                items.push(entry(*source, &mut partial, false));
            }
        }
    }

    /// The unfinished lines are all there is of them. Whatever comes now is not the rest of a line.
    pub(super) fn flush_all(&mut self, items: &mut Vec<Item>) {
        for (source, mut partial) in std::mem::take(&mut self.partial) {
            if !partial.bytes.is_empty() {
                items.push(entry(source, &mut partial, false));
            }
        }
        (self.bytes, self.within) = (0, false);
    }
}

fn entry(source: Source, partial: &mut Partial, ended: bool) -> Item {
    Item::Entry(Entry {
        time: time(partial.time),
        source,
        bytes: std::mem::take(&mut partial.bytes),
        ended,
    })
}
