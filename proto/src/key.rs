//! The circuit's shared secret, as a file holds it: one line of base64.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The shortest key that is accepted, in bytes: 128 bits.
pub const MIN_KEY: usize = 16;

/// The length of the keys that [`Key::from_random`] makes, in bytes: 256 bits, the output of the
/// hash that it keys (RFC 2104, section 3: longer keys add nothing).
pub const NEW_KEY: usize = 32;

/// The longest key that is read, in bytes. Chosen, not measured: nobody's key is longer, a file
/// given by mistake may be.
pub const MAX_KEY: usize = 4096;

/// A circuit's key. It never shows itself: neither `Debug` nor errors print it.
///
/// ```
/// use circuit_proto::Key;
/// let key = Key::from_random([7; 32]);
/// assert_eq!(Key::parse(&key.to_text()).unwrap(), key);
/// assert_eq!(format!("{key:?}"), "Key(…)");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

/// Why a text is not a key.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not base64.
    #[error("not a key: a key file holds one line of base64, as circuit keygen writes it")]
    NotBase64,
    /// It has fewer than [`MIN_KEY`] bytes.
    #[error("the key has {0} bits, at least 128 are needed: make one with circuit keygen")]
    Short(usize),
    /// It has more than 4096 bytes.
    #[error("the key is longer than 4096 bytes: make one with circuit keygen")]
    Long,
}

crate::error::debug_as_display!(KeyError);

impl Key {
    /// A new key of random bytes.
    pub fn from_random(bytes: [u8; NEW_KEY]) -> Key {
        Key(bytes.to_vec())
    }

    /// Reads a key file's text: base64, with or without padding, white space around it ignored.
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        let config = GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true);
        // A byte order mark is what some editors write before a text.
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Err(KeyError::NotBase64);
        }
        let bytes = GeneralPurpose::new(&STANDARD, config)
            .decode(text)
            .map_err(|_| KeyError::NotBase64)?;
        match bytes.len() {
            n if n < MIN_KEY => Err(KeyError::Short(n * 8)),
            n if n > MAX_KEY => Err(KeyError::Long),
            _ => Ok(Key(bytes)),
        }
    }

    /// The text of a key file, without a line end.
    pub fn to_text(&self) -> String {
        base64::engine::general_purpose::STANDARD.encode(&self.0)
    }

    /// The secret itself, to key a hash with.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses() {
        assert_eq!(Key::parse(""), Err(KeyError::NotBase64));
        assert_eq!(Key::parse("not base64!"), Err(KeyError::NotBase64));
        assert_eq!(
            Key::parse("AAAAAAAAAAAAAAAAAAAA"),
            Err(KeyError::Short(120))
        );
        assert!(Key::parse("AAAAAAAAAAAAAAAAAAAAAA").is_ok());
        assert!(Key::parse("AAAAAAAAAAAAAAAAAAAAAA==\n").is_ok());
        assert_eq!(Key::parse(&"AAAA".repeat(1366)), Err(KeyError::Long));
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in "\\PC{0,80}") {
            let _ = Key::parse(&text);
        }

        #[test]
        fn what_is_written_is_read(bytes: [u8; 32]) {
            let key = Key::from_random(bytes);
            prop_assert_eq!(Key::parse(&key.to_text()).unwrap(), key);
        }
    }
}
