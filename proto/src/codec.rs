//! The encoding of everything that is not a stream's data: serde types in bincode, in frames with
//! a length before them.
//!
//! This is the one file that names bincode, so that it can be replaced.
//!
//! **Invariant:** decoding is total. Hostile bytes give an error, and never an allocation larger
//! than a small multiple of their own length.

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// The longest body of a frame, in bytes.
pub const MAX_FRAME: usize = 1 << 20;

/// The longest chunk of a stream's data, in bytes.
pub const MAX_CHUNK: usize = 64 << 10;

/// The length of the header before a frame or a chunk: its body's length, big-endian.
pub const HEADER: usize = 4;

/// The room that an encoding begins with, in bytes. Chosen, not measured: most requests, answers
/// and statuses fit, and so are written without moving.
const USUAL: usize = 256;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The body is longer than [`MAX_FRAME`].
    #[error("a message of {0} bytes: at most 1 MiB fits a frame")]
    TooLarge(usize),
    /// The bytes do not decode, or some are left over.
    #[error("a malformed message")]
    Malformed,
}

/// The body of a frame.
///
/// Fails if it would be longer than [`MAX_FRAME`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_behind(0, value)
}

/// The body of a frame, behind so many zeros.
fn encode_behind<T: Serialize>(header: usize, value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = Vec::with_capacity(USUAL);
    bytes.resize(header, 0);
    append(&mut bytes, value)?;
    Ok(bytes)
}

/// Adds the encoding of a value to others.
///
/// Fails if the value would not fit a frame by itself.
pub fn append<T: Serialize>(bytes: &mut Vec<u8>, value: &T) -> Result<(), CodecError> {
    let before = bytes.len();
    // Our own types always serialize: serialization fails for a type that serde cannot size, and
    // there is none among them.
    bincode::serde::encode_into_std_write(value, bytes, bincode::config::standard())
        .map_err(|_| CodecError::Malformed)?;
    match bytes.len() - before {
        length if length > MAX_FRAME => Err(CodecError::TooLarge(length)),
        _ => Ok(()),
    }
}

/// Reads a whole body: bytes that are left over are refused.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    match decode_front(body)? {
        (value, []) => Ok(value),
        _ => Err(CodecError::Malformed),
    }
}

/// Reads values that were [appended](append) to each other.
pub fn decode_all<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<Vec<T>, CodecError> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (value, rest) = decode_front(bytes)?;
        if rest.len() == bytes.len() {
            // There could be any number of values that take no byte.
            return Err(CodecError::Malformed);
        }
        all.push(value);
        bytes = rest;
    }
    Ok(all)
}

/// Reads a value, and returns the bytes behind it.
fn decode_front<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), CodecError> {
    // bincode allocates a string or byte buffer of the length that the bytes claim, up to the
    // limit of its configuration, which is a constant of the type: so the tightest is chosen. It
    // counts an integer with its full size, up to eight times what it takes on the wire.
    match bytes.len() {
        ..=1024 => decode_within::<T, { 8 * 1024 }>(bytes),
        1025..=16_384 => decode_within::<T, { 8 * 16_384 }>(bytes),
        16_385..=131_072 => decode_within::<T, { 8 * 131_072 }>(bytes),
        131_073..=MAX_FRAME => decode_within::<T, { 8 * MAX_FRAME }>(bytes),
        n => Err(CodecError::TooLarge(n)),
    }
}

fn decode_within<T: DeserializeOwned, const N: usize>(
    bytes: &[u8],
) -> Result<(T, &[u8]), CodecError> {
    let config = bincode::config::standard().with_limit::<N>();
    let decoded = bincode::serde::decode_from_slice(bytes, config);
    let (value, length) = decoded.map_err(|_| CodecError::Malformed)?;
    Ok((value, &bytes[length..]))
}

/// The number of the variant that an encoded enum begins with, and the bytes behind it. So a
/// variant that this version does not know can be told from bytes that are wrong.
pub fn variant(body: &[u8]) -> Result<(u32, &[u8]), CodecError> {
    let config = bincode::config::standard().with_limit::<16>();
    match bincode::serde::decode_from_slice::<u32, _>(body, config) {
        Ok((number, length)) => Ok((number, &body[length..])),
        Err(_) => Err(CodecError::Malformed),
    }
}

/// How many variants an enum has, by its own `Deserialize`: the first number that is of a later
/// version.
pub fn variants<T: DeserializeOwned>() -> usize {
    let mut count = 0;
    // Fails always, once it has told the variants.
    let _ = T::deserialize(Variants(&mut count));
    count
}

/// Learns the names of an enum's variants, and reads nothing.
struct Variants<'a>(&'a mut usize);

#[derive(Debug, thiserror::Error)]
#[error("nothing was read")]
struct Nothing;

impl serde::de::Error for Nothing {
    fn custom<T: std::fmt::Display>(_: T) -> Nothing {
        Nothing
    }
}

impl<'de> Deserializer<'de> for Variants<'_> {
    type Error = Nothing;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Nothing> {
        Err(Nothing)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Nothing> {
        *self.0 = variants.len();
        Err(Nothing)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// The frame of a value: header and body.
pub fn frame<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut frame = encode_behind(HEADER, value)?;
    // The length fits: `encode_behind` bounds it.
    let length = (frame.len() - HEADER) as u32;
    frame[..HEADER].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// For `#[serde(deserialize_with)]` on vectors: grows with the elements that really come, where
/// serde's own reserves up to 1 MiB for the length that the bytes claim.
pub fn growing<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Growing<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Growing<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(element) = seq.next_element()? {
                all.push(element);
            }
            Ok(all)
        }
    }

    deserializer.deserialize_seq(Growing(std::marker::PhantomData))
}

/// [`growing`] for a vector that may be missing.
pub fn growing_option<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(bound = "T: Deserialize<'de>")]
    struct Grown<T>(#[serde(deserialize_with = "growing")] Vec<T>);

    Ok(Option::<Grown<T>>::deserialize(deserializer)?.map(|grown| grown.0))
}

/// For `#[serde(with)]` on byte vectors: in one piece, where serde's own goes byte by byte.
pub mod bytes {
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    /// Writes the bytes in one piece.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// Reads what [`serialize`] writes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Whole;

        impl Visitor<'_> for Whole {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }

        deserializer.deserialize_byte_buf(Whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handshake::{Answer, Hello};
    use crate::request::{Op, Reply, Request};

    #[test]
    fn trailing_bytes_are_refused() {
        let mut body = encode(&7u32).unwrap();
        assert_eq!(decode::<u32>(&body), Ok(7));
        body.push(0);
        assert_eq!(decode::<u32>(&body), Err(CodecError::Malformed));
    }

    #[test]
    fn a_claimed_length_is_not_allocated() {
        // A byte string and a sequence that claim half a gigabyte, in six bytes.
        let mut body = vec![252];
        body.extend_from_slice(&0x2000_0000u32.to_le_bytes());
        body.push(1);
        assert_eq!(decode::<String>(&body), Err(CodecError::Malformed));

        #[derive(Debug, Deserialize)]
        struct Many {
            #[serde(deserialize_with = "growing")]
            _all: Vec<[u64; 16]>,
        }
        assert!(decode::<Many>(&body).is_err());
    }

    #[test]
    fn bodies_of_any_size_are_read_back() {
        for length in [
            1, 900, 1020, 1030, 16_000, 17_000, 130_000, 140_000, 1_000_000,
        ] {
            // Small integers take the fewest bytes for what bincode counts.
            let body = encode(&vec![7u64; length]).unwrap();
            assert_eq!(decode::<Vec<u64>>(&body), Ok(vec![7; length]), "{length}");
        }
    }

    #[test]
    fn values_behind_each_other_are_read_back() {
        let mut bytes = Vec::new();
        for text in ["a", "", "bc"] {
            append(&mut bytes, &text).unwrap();
        }
        let all = ["a", "", "bc"].map(str::to_owned).to_vec();
        assert_eq!(decode_all(&bytes), Ok(all));
        bytes.push(7);
        assert_eq!(decode_all::<String>(&bytes), Err(CodecError::Malformed));
        assert_eq!(decode_all::<()>(&[0]), Err(CodecError::Malformed));
    }

    #[test]
    fn an_enum_has_as_many_variants_as_it_can_read() {
        #[derive(Debug, PartialEq, Deserialize)]
        enum Three {
            Unit,
            Tuple(u8, String),
            Struct { flag: bool },
        }
        assert_eq!(variants::<Three>(), 3);
        assert_eq!(decode(&[2, 1]), Ok(Three::Struct { flag: true }));
        assert_eq!(decode::<Three>(&[3, 1]), Err(CodecError::Malformed));
    }

    #[test]
    fn large_bodies_are_refused_at_both_ends() {
        let large = vec![0u8; MAX_FRAME + 1];
        assert!(matches!(encode(&large), Err(CodecError::TooLarge(_))));
        assert!(matches!(
            decode::<Vec<u8>>(&large),
            Err(CodecError::TooLarge(_))
        ));
    }

    proptest! {
        #[test]
        fn decoding_is_total(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Request>(&body);
            let _ = decode::<Reply>(&body);
            let _ = Hello::decode(&body);
            let _ = decode::<Answer>(&body);
            let _ = Op::decode(&body);
            let _ = variant(&body);
        }
    }
}
