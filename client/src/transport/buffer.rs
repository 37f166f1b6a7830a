//! Buffers the bytes of a stream that have arrived and that the reader has not taken yet.
//!
//! **Invariant:** the memory in use is a small multiple of the bytes that are here, however they
//! came.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use circuit_proto::codec::HEADER;

/// The longest piece, in bytes, that is copied together with its neighbours, and how many of them in
/// a row are. Chosen, not measured: bulk data comes in pieces of a packet, at least twice as long.
const CRUMB: usize = 512;
const CRUMBS: usize = 16;

/// The bytes, in the pieces in which they came.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    pieces: VecDeque<Bytes>,
    length: usize,
    /// How many of the last pieces are crumbs.
    crumbs: usize,
}

impl Buffer {
    /// Adds a piece.
    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.length += piece.len();
        self.crumbs = match piece.len() <= CRUMB {
            true => self.crumbs + 1,
            false => 0,
        };
        self.pieces.push_back(piece);
        if self.crumbs == CRUMBS {
            self.sweep();
        }
    }

    /// Copies the crumbs together: a piece of a packet keeps the whole packet in memory, and whoever
    /// is not known yet may send packets of one byte.
    fn sweep(&mut self) {
        let crumbs = self.pieces.drain(self.pieces.len() - self.crumbs..);
        let mut whole = BytesMut::new();
        crumbs.for_each(|piece| whole.extend_from_slice(&piece));
        self.crumbs = usize::from(whole.len() <= CRUMB);
        // The spare capacity of the copy would be kept too.
        self.pieces.push_back(Bytes::copy_from_slice(&whole));
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// The number in the header that comes next, which must be here.
    pub(super) fn header(&self) -> usize {
        let mut bytes = self.pieces.iter().flat_map(|piece| piece.iter()).copied();
        let header = [(); HEADER].map(|()| bytes.next().unwrap_or_default());
        u32::from_be_bytes(header) as usize
    }

    /// Takes the header.
    pub(super) fn take_header(&mut self) -> usize {
        let length = self.header();
        self.take_exactly(HEADER);
        length
    }

    /// The next bytes in one piece: at least one if there are any, at most `most`, without copying.
    pub(super) fn take_piece(&mut self, most: usize) -> Bytes {
        let Some(front) = self.pieces.front_mut() else {
            return Bytes::new();
        };
        let piece = front.split_to(front.len().min(most));
        if front.is_empty() {
            self.pieces.pop_front();
            self.crumbs = self.crumbs.min(self.pieces.len());
        }
        self.length -= piece.len();
        piece
    }

    /// The next `length` bytes, which must be here; copied only if they came in several pieces.
    pub(super) fn take_exactly(&mut self, length: usize) -> Bytes {
        let first = self.take_piece(length);
        if first.len() == length {
            return first;
        }
        let mut whole = BytesMut::with_capacity(length);
        whole.extend_from_slice(&first);
        while whole.len() < length {
            let piece = self.take_piece(length - whole.len());
            if piece.is_empty() {
                break;
            }
            whole.extend_from_slice(&piece);
        }
        whole.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_of_one_byte_are_not_kept() {
        let mut buffer = Buffer::default();
        for i in 0..100_000_u32 {
            let packet = Bytes::from(vec![i as u8; 6500]);
            buffer.push(packet.slice(..1));
        }
        assert_eq!(buffer.len(), 100_000);
        let crumbs = buffer.pieces.iter().filter(|piece| piece.len() <= CRUMB);
        assert!(crumbs.count() < CRUMBS);
        assert!(buffer.pieces.len() < CRUMBS + 100_000 / CRUMB);
        let whole = buffer.take_exactly(100_000);
        assert!(whole.iter().enumerate().all(|(i, byte)| *byte == i as u8));
    }

    #[test]
    fn pieces_of_packets_are_not_copied() {
        let mut buffer = Buffer::default();
        let packets: Vec<Bytes> = (0..64).map(|i| Bytes::from(vec![i; 1200])).collect();
        packets
            .iter()
            .for_each(|packet| buffer.push(packet.clone()));
        for packet in packets {
            assert_eq!(buffer.take_piece(usize::MAX).as_ptr(), packet.as_ptr());
        }
    }

    proptest! {
        /// However it came and is taken, it is what came.
        #[test]
        fn nothing_is_lost_or_moved(
            pieces in prop::collection::vec(0..2000_usize, 0..80),
            takes in prop::collection::vec((1..3000_usize, any::<bool>()), 0..80),
        ) {
            let all: Vec<u8> = (0..pieces.iter().sum::<usize>()).map(|i| (i % 251) as u8).collect();
            let mut buffer = Buffer::default();
            let (mut given, mut taken) = (0, 0);
            let mut takes = takes.into_iter();
            for length in pieces {
                buffer.push(Bytes::copy_from_slice(&all[given..given + length]));
                given += length;
                prop_assert_eq!(buffer.len(), given - taken);
                if let Some((most, exactly)) = takes.next() {
                    let bytes = match exactly {
                        true => buffer.take_exactly(most.min(buffer.len())),
                        false => buffer.take_piece(most),
                    };
                    prop_assert_eq!(&bytes[..], &all[taken..taken + bytes.len()]);
                    taken += bytes.len();
                }
            }
            prop_assert_eq!(&buffer.take_exactly(given - taken)[..], &all[taken..]);
        }
    }
}
