//! The bytes of a segment: a header, and records, each behind the other.
//!
//! The header of a segment has 32 bytes: [`MARK`], a random salt, the checksum of both, and four
//! zeros. A record is a header of 32 bytes and its payload, all numbers little-endian:
//!
//! | bytes | |
//! | --- | --- |
//! | 2 | [`MAGIC`] |
//! | 2 | slot |
//! | 4 | length of the payload; in the highest byte what the record is |
//! | 8 | time, nanoseconds since 1970 |
//! | 8 | instance |
//! | 4 | checksum (CRC-32) of the payload |
//! | 4 | checksum of salt, place in the file, and the 28 bytes before |
//!
//! A record that is cut off, or was not written at all because the power failed, does not fit its
//! checksums. Reading goes on with the next place that has a record that does. As the place and the salt
//! are part of the checksum, output that holds the bytes of a log is not taken for records, wherever
//! reading begins.

use super::{Source, Stream};

/// The length of a segment's header.
pub(super) const SEGMENT_HEADER: usize = 32;

/// The length of a record's header.
pub(super) const HEADER: usize = 32;

/// The longest payload. A reader has to hold one record.
pub(super) const MOST: usize = 256 << 10;

/// The beginning of each segment, with the version of this format.
const MARK: &[u8; 16] = b"circuit log 1\n\0\0";

/// The beginning of each record: bytes that are rare in text and in zeros.
const MAGIC: [u8; 2] = [0xc1, 0x9e];

/// The bits of the highest byte of the length.
const STDERR: u8 = 1;
const BEGINS: u8 = 2;
const ENDED: u8 = 4;
const DROPPED: u8 = 8;

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Output, which is the payload.
    Output {
        /// Whether a line begins with it, as far as is known.
        begins: bool,
    },
    /// Nothing follows from this source.
    Ended,
    /// So many bytes of this source are not in the log.
    Dropped(u64),
}

/// A record without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) source: Source,
    /// Nanoseconds since 1970.
    pub(super) time: u64,
    pub(super) kind: Kind,
}

/// What is at a place of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A record, with a payload of this length.
    Record(Head, usize),
    /// Perhaps a record, of which more is to be read: this many bytes in all.
    Short(usize),
    /// No record.
    Bad,
}

/// Checks and makes the records of one segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    salt: [u8; 8],
}

impl Format {
    /// The format of a new segment.
    pub(super) fn new(salt: u64) -> Format {
        Format {
            salt: salt.to_le_bytes(),
        }
    }

    /// The format of a segment that begins so; `None` if that is no segment.
    pub(super) fn read(header: &[u8; SEGMENT_HEADER]) -> Option<Format> {
        let mut salt = [0; 8];
        salt.copy_from_slice(&header[16..24]);
        let format = Format { salt };
        (format.segment_header() == *header).then_some(format)
    }

    /// The beginning of the segment.
    pub(super) fn segment_header(&self) -> [u8; SEGMENT_HEADER] {
        let mut header = [0; SEGMENT_HEADER];
        header[..16].copy_from_slice(MARK);
        header[16..24].copy_from_slice(&self.salt);
        let sum = crc32fast::hash(&header[..24]);
        header[24..28].copy_from_slice(&sum.to_le_bytes());
        header
    }

    /// The header of a record at this place of the file. The payload has at most [`MOST`] bytes; that
    /// of [`Kind::Dropped`] is the number.
    pub(super) fn header(&self, head: &Head, payload: &[u8], at: u64) -> [u8; HEADER] {
        let mut bits = match head.kind {
            Kind::Output { begins: false } => 0,
            Kind::Output { begins: true } => BEGINS,
            Kind::Ended => ENDED,
            Kind::Dropped(_) => DROPPED,
        };
        if head.source.stream == Stream::Stderr {
            bits |= STDERR;
        }
        let word = payload.len() as u32 | u32::from(bits) << 24;
        let mut header = [0; HEADER];
        header[..2].copy_from_slice(&MAGIC);
        header[2..4].copy_from_slice(&head.source.slot.to_le_bytes());
        header[4..8].copy_from_slice(&word.to_le_bytes());
        header[8..16].copy_from_slice(&head.time.to_le_bytes());
        header[16..24].copy_from_slice(&head.source.instance.to_le_bytes());
        header[24..28].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
        let sum = self.sum(&header, at);
        header[28..].copy_from_slice(&sum.to_le_bytes());
        header
    }

    /// What these bytes are, which begin at this place of the file.
    pub(super) fn parse(&self, bytes: &[u8], at: u64) -> Parsed {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
            let magic = &MAGIC[..bytes.len().min(MAGIC.len())];
            return match bytes.starts_with(magic) {
                true => Parsed::Short(HEADER),
                false => Parsed::Bad,
            };
        };
        if header[..2] != MAGIC || word(header, 28) != self.sum(header, at) {
            return Parsed::Bad;
        }
        let length = (word(header, 4) & 0x00ff_ffff) as usize;
        if length > MOST {
            return Parsed::Bad;
        }
        let Some(payload) = rest.get(..length) else {
            return Parsed::Short(HEADER + length);
        };
        if crc32fast::hash(payload) != word(header, 24) {
            return Parsed::Bad;
        }
        let bits = header[7];
        let stream = match bits & STDERR {
            0 => Stream::Stdout,
            _ => Stream::Stderr,
        };
        let kind = match (bits & !STDERR, payload.first_chunk::<8>()) {
            (0, _) => Kind::Output { begins: false },
            (BEGINS, _) => Kind::Output { begins: true },
            (ENDED, None) => Kind::Ended,
            (DROPPED, Some(count)) => Kind::Dropped(u64::from_le_bytes(*count)),
            // A later version's, which this one cannot tell.
            _ => return Parsed::Bad,
        };
        let source = Source {
            slot: u16::from_le_bytes([header[2], header[3]]),
            instance: long(header, 16),
            stream,
        };
        let time = long(header, 8);
        Parsed::Record(Head { source, time, kind }, length)
    }

    /// The checksum of a header at its place.
    fn sum(&self, header: &[u8; HEADER], at: u64) -> u32 {
        let mut input = [0; 16 + 28];
        input[..8].copy_from_slice(&self.salt);
        input[8..16].copy_from_slice(&at.to_le_bytes());
        input[16..].copy_from_slice(&header[..28]);
        crc32fast::hash(&input)
    }
}

/// How many bytes to skip from here, where there is no record, to where one may begin: at least one,
/// unless there are none.
pub(super) fn skip(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(found) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|byte| *byte == MAGIC[0]))
    {
        at += found;
        if bytes.get(at + 1).is_none_or(|byte| *byte == MAGIC[1]) {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

fn word(header: &[u8; HEADER], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&header[at..at + 4]);
    u32::from_le_bytes(word)
}

fn long(header: &[u8; HEADER], at: usize) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&header[at..at + 8]);
    u64::from_le_bytes(long)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(kind: Kind) -> Head {
        let source = Source {
            slot: 513,
            instance: u64::MAX - 2,
            stream: Stream::Stderr,
        };
        let time = 1 << 60;
        Head { source, time, kind }
    }

    fn record(format: &Format, kind: Kind, payload: &[u8], at: u64) -> Vec<u8> {
        let mut bytes = format.header(&head(kind), payload, at).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_only_at_its_place() {
        let format = Format::new(7);
        let check = |kind: Kind, payload: &[u8]| {
            let bytes = record(&format, kind, payload, 32);
            let expected = Parsed::Record(head(kind), payload.len());
            assert_eq!(format.parse(&bytes, 32), expected);
            assert_eq!(format.parse(&bytes, 33), Parsed::Bad);
            assert_eq!(Format::new(8).parse(&bytes, 32), Parsed::Bad);
            for end in 0..bytes.len() {
                let cut = format.parse(&bytes[..end], 32);
                assert!(matches!(cut, Parsed::Short(_)), "{end}: {cut:?}");
            }
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                assert_eq!(format.parse(&damaged, 32), Parsed::Bad, "{at}");
            }
        };
        check(Kind::Output { begins: true }, b"hello\n");
        check(Kind::Output { begins: false }, b"");
        check(Kind::Ended, b"");
        check(Kind::Dropped(1 << 40), &(1_u64 << 40).to_le_bytes());
    }

    #[test]
    fn a_segment_begins_with_its_salt() {
        let header = Format::new(7).segment_header();
        assert_eq!(Format::read(&header).unwrap().salt, 7_u64.to_le_bytes());
        for at in 0..28 {
            let mut damaged = header;
            damaged[at] ^= 1;
            assert!(Format::read(&damaged).is_none(), "{at}");
        }
    }

    #[test]
    fn the_next_record_is_where_its_first_bytes_are() {
        let [first, second] = MAGIC;
        assert_eq!(skip(&[first, second, 0]), 3);
        assert_eq!(skip(&[0, first, first, second]), 2);
        assert_eq!(skip(&[0, 0, first]), 2);
        assert_eq!(skip(&[first]), 1);
        assert_eq!(skip(&[]), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes: Vec<u8>, at: u64, salt: u64) {
            let parsed = Format::new(salt).parse(&bytes, at);
            prop_assert!(!matches!(parsed, Parsed::Record(..)));
            prop_assert!(bytes.is_empty() || skip(&bytes) > 0);
        }
    }
}
