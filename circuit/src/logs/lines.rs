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
    /// A line ended whose beginning was not seen.
    cut: bool,
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
        let begins = match head.kind {
            Kind::Output { begins } => begins,
            Kind::Ended => {
                self.flush(&head.source, items);
                return bytes.len();
            }
            Kind::Dropped(count) => {
                self.flush(&head.source, items);
                if self.within {
                    // What follows is all there is of its line.
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
        let cut = self.within && !begins;
        let partial = self.partial.entry(head.source).or_insert_with(|| Partial {
            cut,
            ..Partial::default()
        });
        let mut taken = 0;
        while taken < bytes.len() && items.len() < most {
            let rest = &bytes[taken..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            let piece = &rest[..end.unwrap_or(rest.len())];
            if partial.cut {
                partial.cut = end.is_none();
                self.cut |= end.is_some();
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
        if partial.bytes.is_empty() && !partial.cut {
            self.partial.remove(&head.source);
        }
        taken
    }

    /// Whether a line was left out, since the last time, as its beginning was not seen.
    pub(super) fn take_cut(&mut self) -> bool {
        std::mem::take(&mut self.cut)
    }

    /// Whether there is an unfinished line whose beginning was not seen.
    pub(super) fn is_cut(&self) -> bool {
        self.partial.values().any(|partial| partial.cut)
    }

    /// From here on lines are shown whose beginning was not seen.
    pub(super) fn show_cut(&mut self) {
        if std::mem::take(&mut self.within) {
            for partial in self.partial.values_mut() {
                partial.cut = false;
            }
        }
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

#[cfg(test)]
mod tests {
    use super::super::Stream;
    use super::*;
    use proptest::prelude::*;

    fn head(kind: Kind) -> Head {
        let source = Source {
            slot: 1,
            instance: 1,
            stream: Stream::Stdout,
        };
        let time = 0;
        Head { source, time, kind }
    }

    /// Adds these bytes, a few items at a time.
    fn add(lines: &mut Lines, kind: Kind, bytes: &[u8], items: &mut Vec<Item>) {
        let mut taken = 0;
        loop {
            let most = items.len() + 2;
            taken += lines.add(&head(kind), &bytes[taken..], most, items);
            if taken == bytes.len() {
                return;
            }
        }
    }

    fn entries(items: &[Item]) -> Vec<(Vec<u8>, bool)> {
        let entry = |item: &Item| match item {
            Item::Entry(entry) => (entry.bytes.clone(), entry.ended),
            Item::Lost(lost) => panic!("{lost:?}"),
        };
        items.iter().map(entry).collect()
    }

    #[test]
    fn a_line_as_long_as_may_be_is_whole() {
        let check = |length: usize, expected: &[(usize, bool)]| {
            for cut in [0, 1, LONGEST - 1, LONGEST, length] {
                let mut bytes = vec![b'x'; length];
                bytes.push(b'\n');
                let (mut lines, mut items) = (Lines::default(), Vec::new());
                let (first, second) = bytes.split_at(cut.min(length));
                for bytes in [first, second] {
                    add(&mut lines, Kind::Output { begins: true }, bytes, &mut items);
                }
                let got = entries(&items);
                let got = got.iter().map(|(bytes, ended)| (bytes.len(), *ended));
                let got: Vec<_> = got.collect();
                assert_eq!(got, expected, "{length}, {cut}");
            }
        };
        check(LONGEST, &[(LONGEST, true)]);
        check(LONGEST + 1, &[(LONGEST, false), (1, true)]);
        check(2 * LONGEST, &[(LONGEST, false), (LONGEST, true)]);
    }

    #[test]
    fn unfinished_lines_are_bounded() {
        let (mut lines, mut items) = (Lines::default(), Vec::new());
        for instance in 0..200 {
            let mut head = head(Kind::Output { begins: true });
            head.source.instance = instance;
            lines.add(&head, &[b'x'; 60_000], usize::MAX, &mut items);
            assert!(lines.bytes <= UNFINISHED);
        }
        lines.flush_all(&mut items);
        assert_eq!(entries(&items), vec![(vec![b'x'; 60_000], false); 200]);
        assert_eq!((lines.bytes, lines.partial.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_are_cut(
            pieces in prop::collection::vec("[ab\n]{0,12}", 0..12),
        ) {
            let (mut lines, mut items) = (Lines::default(), Vec::new());
            let mut begins = true;
            for piece in &pieces {
                add(&mut lines, Kind::Output { begins }, piece.as_bytes(), &mut items);
                begins = if piece.is_empty() { begins } else { piece.ends_with('\n') };
            }
            lines.add(&head(Kind::Ended), b"", usize::MAX, &mut items);
            prop_assert_eq!((lines.bytes, lines.partial.len()), (0, 0));
            let all = pieces.concat();
            let mut expected: Vec<(Vec<u8>, bool)> = all
                .split('\n')
                .map(|line| (line.as_bytes().to_vec(), true))
                .collect();
            let last = expected.pop().map(|(bytes, _)| (bytes, false));
            expected.extend(last.filter(|(bytes, _)| !bytes.is_empty()));
            prop_assert_eq!(entries(&items), expected);
        }
    }
}
