//! The message buffer holds the bytes of one message: all of a message that fits a slot, as another
//! receiver may get it; of a longer one, the bytes between its sender and its receiver.
//!
//! The queue says when bytes come and go. A buffer does not know who its sender and receiver are, nor
//! whether it is complete.
//!
//! **Invariants:** at most [`HELD`] bytes are kept for another receiver. The bytes that were handed
//! on are a beginning of those that came.

use std::collections::VecDeque;

use bytes::Bytes;
use circuit_proto::element::channel::HELD;

/// How much of a message longer than a slot may be under way between its sender and its receiver.
/// Measured with `scripts/bench channels`: 64 KiB give half of the throughput, 1 MiB no more.
const WINDOW: usize = 256 << 10;

/// Up to which length pieces under way are copied together, so that many small ones do not keep as
/// many packets in memory. Chosen, not measured: to copy a piece costs less than to receive its
/// packet.
const SMALL: usize = 4 << 10;

/// The bytes that the server holds of one message.
#[derive(Debug)]
pub(super) enum MessageBuffer {
    /// All bytes so far, and how many of them the receiver has.
    Kept { bytes: Vec<u8>, handed: usize },
    /// The message outgrew a slot, and its beginning is gone: the pieces on their way to the
    /// receiver, and their length.
    Passing {
        pieces: VecDeque<Bytes>,
        length: usize,
    },
}

impl MessageBuffer {
    pub(super) fn new(bytes: Vec<u8>) -> MessageBuffer {
        MessageBuffer::Kept { bytes, handed: 0 }
    }

    /// Whether it outgrew a slot, so that no other receiver can have it.
    pub(super) fn has_outgrown(&self) -> bool {
        matches!(self, MessageBuffer::Passing { .. })
    }

    /// Whether a receiver has seen any of it.
    pub(super) fn is_begun(&self) -> bool {
        match self {
            MessageBuffer::Kept { handed, .. } => *handed > 0,
            MessageBuffer::Passing { .. } => true,
        }
    }

    /// Whether nothing is left to hand on.
    pub(super) fn is_handed(&self) -> bool {
        match self {
            MessageBuffer::Kept { bytes, handed } => *handed == bytes.len(),
            MessageBuffer::Passing { pieces, .. } => pieces.is_empty(),
        }
    }

    /// How many bytes are here.
    pub(super) fn len(&self) -> usize {
        match self {
            MessageBuffer::Kept { bytes, .. } => bytes.len(),
            MessageBuffer::Passing { length, .. } => *length,
        }
    }

    /// How many more bytes it takes now. Without a receiver it takes no more than a slot holds.
    pub(super) fn room(&self, is_received: bool) -> usize {
        match self {
            // Once its receiver has all bytes so far, it may outgrow the slot.
            MessageBuffer::Kept { bytes, .. }
                if is_received && bytes.len() >= HELD && self.is_handed() =>
            {
                WINDOW
            }
            MessageBuffer::Kept { bytes, .. } => HELD.saturating_sub(bytes.len()),
            MessageBuffer::Passing { length, .. } => WINDOW.saturating_sub(*length),
        }
    }

    /// Adds a piece, for which there is room. It is copied, as a piece of a packet would keep the
    /// whole packet in memory.
    pub(super) fn add(&mut self, piece: Bytes) {
        match self {
            MessageBuffer::Kept { bytes, .. } if bytes.len() + piece.len() <= HELD => {
                let (length, capacity) = (bytes.len() + piece.len(), bytes.capacity());
                if length > capacity {
                    let wanted = length.max(2 * capacity).min(HELD);
                    bytes.reserve_exact(wanted - bytes.len());
                }
                bytes.extend_from_slice(&piece);
            }
            MessageBuffer::Kept { .. } => {
                *self = MessageBuffer::Passing {
                    length: piece.len(),
                    pieces: VecDeque::from([compact(piece)]),
                };
            }
            MessageBuffer::Passing { pieces, length } => {
                *length += piece.len();
                match pieces.back_mut() {
                    Some(last) if last.len() + piece.len() <= SMALL => {
                        *last = [&last[..], &piece].concat().into();
                    }
                    _ => pieces.push_back(compact(piece)),
                }
            }
        }
    }

    /// Hands on the next bytes, at most `most` of them unless one piece is longer.
    pub(super) fn hand(&mut self, most: usize) -> Vec<Bytes> {
        match self {
            MessageBuffer::Kept { bytes, handed } => {
                let from = *handed;
                *handed = bytes.len().min(from.saturating_add(most));
                match &bytes[from..*handed] {
                    [] => Vec::new(),
                    bytes => vec![Bytes::copy_from_slice(bytes)],
                }
            }
            MessageBuffer::Passing { pieces, length } => {
                let (mut taken, mut sum) = (Vec::new(), 0);
                while let Some(piece) = pieces.front()
                    && (taken.is_empty() || sum + piece.len() <= most)
                {
                    sum += piece.len();
                    taken.extend(pieces.pop_front());
                }
                *length -= sum;
                taken
            }
        }
    }

    /// Begins again for another receiver, if the message fits a slot.
    pub(super) fn rewind(&mut self) {
        if let MessageBuffer::Kept { handed, .. } = self {
            *handed = 0;
        }
    }
}

/// Copies a small piece out of its packet.
fn compact(piece: Bytes) -> Bytes {
    match piece.len() <= SMALL {
        true => Bytes::copy_from_slice(&piece),
        false => piece,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(buffer: &mut MessageBuffer, most: usize) -> Vec<u8> {
        buffer.hand(most).concat()
    }

    #[test]
    fn what_is_kept_begins_again() {
        let mut buffer = MessageBuffer::new(Vec::new());
        assert_eq!(buffer.room(false), HELD);
        buffer.add(Bytes::from_static(b"abc"));
        assert_eq!(handed(&mut buffer, 2), b"ab");
        assert!(buffer.is_begun() && !buffer.is_handed());
        buffer.rewind();
        buffer.add(Bytes::from_static(b"d"));
        assert!(!buffer.is_begun());
        assert_eq!(handed(&mut buffer, usize::MAX), b"abcd");
        assert!(buffer.is_handed() && !buffer.has_outgrown());
    }

    #[test]
    fn it_outgrows_a_slot_once_its_receiver_has_all_there_is() {
        let mut buffer = MessageBuffer::new(vec![1; HELD]);
        assert_eq!(buffer.room(true), 0);
        assert_eq!(buffer.hand(usize::MAX).concat().len(), HELD);
        assert_eq!(buffer.room(false), 0);
        assert_eq!(buffer.room(true), WINDOW);
        buffer.add(Bytes::from(vec![2; WINDOW]));
        assert!(buffer.has_outgrown() && buffer.is_begun() && !buffer.is_handed());
        assert_eq!((buffer.len(), buffer.room(true)), (WINDOW, 0));
        assert_eq!(handed(&mut buffer, usize::MAX), vec![2; WINDOW]);
        assert!(buffer.is_handed());
        assert_eq!(buffer.room(true), WINDOW);
    }

    #[test]
    fn small_pieces_under_way_become_few() {
        let mut buffer = MessageBuffer::new(vec![0; HELD]);
        let mut sent = Vec::new();
        for i in 0..SMALL {
            sent.push(i as u8);
            buffer.add(Bytes::from(vec![i as u8]));
        }
        buffer.add(Bytes::from(vec![7; SMALL + 1]));
        assert_eq!(buffer.hand(1), [sent]);
        assert_eq!(buffer.hand(1), [vec![7; SMALL + 1]]);
        assert!(buffer.is_handed());
    }

    #[test]
    fn pieces_are_handed_on_up_to_a_length() {
        let mut buffer = MessageBuffer::new(vec![0; HELD]);
        for _ in 0..3 {
            buffer.add(Bytes::from(vec![3; SMALL]));
        }
        assert_eq!(buffer.hand(2 * SMALL + 1).len(), 2);
        assert_eq!(buffer.len(), SMALL);
        assert_eq!(buffer.hand(2 * SMALL + 1).len(), 1);
    }
}
