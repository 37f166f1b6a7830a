//! A run: one request that makes a process, carries its three streams and brings its end. Here is what
//! the two ends say in chunks, whose first byte says what each chunk is.
//!
//! Each of the three streams has a window of its own: its sender sends at most as many bytes as its
//! receiver has said that it has room for. So both ends always read what comes, and a stream that
//! nobody reads never keeps another one waiting.

use crate::codec::{CodecError, MAX_CHUNK};

/// The most bytes of a stream that fit a chunk.
pub const MOST: usize = MAX_CHUNK - 1;

/// The room for stdin that a server has when the run begins, in bytes. Chosen, not measured: as much as
/// QUIC's window for a stream of its own (`docs/PROTOCOL.md`, "Transport").
pub const STDIN_WINDOW: u64 = 1 << 20;

/// The least room for an output that a caller may begin with, in bytes: less might never take a chunk.
pub const LEAST_WINDOW: u64 = MAX_CHUNK as u64;

/// One of a process's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Its stdout.
    Stdout,
    /// Its stderr.
    Stderr,
}

/// The meaning of a chunk from the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromCaller {
    /// The rest of the chunk is for stdin; if there is none, stdin is at its end.
    Stdin,
    /// There is room for so many bytes more of an output.
    Room(Which, u64),
    /// Nobody wants the rest of an output.
    Discard(Which),
}

/// The meaning of a chunk from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromServer {
    /// The rest of the chunk is of an output.
    Output(Which),
    /// There is room for so many bytes more of stdin.
    Room(u64),
    /// The process does not read its stdin any more.
    StdinClosed,
}

impl Which {
    /// Its place among the outputs: 0 or 1.
    pub fn index(self) -> usize {
        match self {
            Which::Stdout => 0,
            Which::Stderr => 1,
        }
    }

    fn of(index: u8) -> Which {
        match index {
            0 => Which::Stdout,
            _ => Which::Stderr,
        }
    }

    fn mark(self) -> u8 {
        match self {
            Which::Stdout => 0,
            Which::Stderr => 1,
        }
    }
}

impl FromCaller {
    /// Reads a chunk. What is meant for stdin follows the first byte.
    pub fn read(chunk: &[u8]) -> Result<FromCaller, CodecError> {
        match chunk {
            [0, ..] => Ok(FromCaller::Stdin),
            [mark @ (1 | 2), room @ ..] => Ok(FromCaller::Room(Which::of(mark - 1), number(room)?)),
            [mark @ (3 | 4)] => Ok(FromCaller::Discard(Which::of(mark - 3))),
            _ => Err(CodecError::Malformed),
        }
    }

    /// The chunk, or its first byte if data follow.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            FromCaller::Stdin => vec![0],
            FromCaller::Room(which, room) => with_number(1 + which.mark(), room),
            FromCaller::Discard(which) => vec![3 + which.mark()],
        }
    }
}

impl FromServer {
    /// Reads a chunk. What is of an output follows the first byte.
    pub fn read(chunk: &[u8]) -> Result<FromServer, CodecError> {
        match chunk {
            [mark @ (0 | 1), ..] => Ok(FromServer::Output(Which::of(*mark))),
            [2, room @ ..] => Ok(FromServer::Room(number(room)?)),
            [3] => Ok(FromServer::StdinClosed),
            _ => Err(CodecError::Malformed),
        }
    }

    /// The chunk, or its first byte if data follow.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            FromServer::Output(which) => vec![which.mark()],
            FromServer::Room(room) => with_number(2, room),
            FromServer::StdinClosed => vec![3],
        }
    }
}

fn number(bytes: &[u8]) -> Result<u64, CodecError> {
    let bytes = bytes.try_into().map_err(|_| CodecError::Malformed)?;
    Ok(u64::from_be_bytes(bytes))
}

fn with_number(mark: u8, number: u64) -> Vec<u8> {
    [&[mark][..], &number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn chunks_are_read_as_they_are_written() {
        for which in [Which::Stdout, Which::Stderr] {
            for said in [
                FromCaller::Stdin,
                FromCaller::Room(which, u64::MAX),
                FromCaller::Room(which, 7),
                FromCaller::Discard(which),
            ] {
                assert_eq!(FromCaller::read(&said.bytes()), Ok(said));
            }
            for said in [
                FromServer::Output(which),
                FromServer::Room(1 << 40),
                FromServer::StdinClosed,
            ] {
                assert_eq!(FromServer::read(&said.bytes()), Ok(said));
            }
        }
    }

    #[test]
    fn data_follow_their_mark() {
        assert_eq!(FromCaller::read(b"\0in"), Ok(FromCaller::Stdin));
        let stderr = FromServer::Output(Which::Stderr);
        assert_eq!(FromServer::read(b"\x01err"), Ok(stderr));
    }

    #[test]
    fn anything_else_is_malformed() {
        for chunk in [
            &b""[..],
            b"\x01",
            b"\x02\0\0\0\0\0\0\0",
            b"\x03x",
            b"\x05",
            b"\xff",
        ] {
            let malformed = Err(CodecError::Malformed);
            assert_eq!(FromCaller::read(chunk), malformed, "{chunk:?}");
        }
        for chunk in [&b""[..], b"\x02", b"\x02\0\0\0\0\0\0\0", b"\x03x", b"\x04"] {
            let malformed = Err(CodecError::Malformed);
            assert_eq!(FromServer::read(chunk), malformed, "{chunk:?}");
        }
    }

    proptest! {
        #[test]
        fn no_chunk_panics(chunk in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = FromCaller::read(&chunk);
            let _ = FromServer::read(&chunk);
        }
    }
}
