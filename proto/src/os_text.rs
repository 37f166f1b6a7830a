//! Texts of an operating system: arguments, environment entries, and names of files, which are
//! UTF-8 by custom only.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An argument, an entry of an environment, or the name of a program, directory or file: any bytes,
/// as Unix has them.
///
/// In JSON it is a text, or `{"Base64": "…"}` where the bytes are not UTF-8; both are read.
///
/// ```
/// use circuit_proto::OsText;
/// let text = OsText::from("naïve");
/// assert_eq!(text, "naïve");
/// assert_eq!(text.to_str(), Some("naïve"));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OsText(OsString);

/// The key of the object that JSON has for bytes which are not UTF-8.
const BASE64: &str = "Base64";

impl OsText {
    /// The text of these bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> OsText {
        OsText(OsString::from_vec(bytes))
    }
}

impl Deref for OsText {
    type Target = OsStr;

    fn deref(&self) -> &OsStr {
        &self.0
    }
}

impl AsRef<OsStr> for OsText {
    fn as_ref(&self) -> &OsStr {
        &self.0
    }
}

impl AsRef<Path> for OsText {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

impl<T: AsRef<OsStr> + ?Sized> From<&T> for OsText {
    fn from(text: &T) -> OsText {
        OsText(text.as_ref().to_owned())
    }
}

impl From<String> for OsText {
    fn from(text: String) -> OsText {
        OsText(text.into())
    }
}

impl From<OsString> for OsText {
    fn from(text: OsString) -> OsText {
        OsText(text)
    }
}

impl From<std::path::PathBuf> for OsText {
    fn from(path: std::path::PathBuf) -> OsText {
        OsText(path.into())
    }
}

impl From<OsText> for OsString {
    fn from(text: OsText) -> OsString {
        text.0
    }
}

impl PartialEq<str> for OsText {
    fn eq(&self, other: &str) -> bool {
        self.0 == *other
    }
}

impl PartialEq<&str> for OsText {
    fn eq(&self, other: &&str) -> bool {
        self.0 == **other
    }
}

impl fmt::Debug for OsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// For people: bytes that are not UTF-8 are replaced.
impl fmt::Display for OsText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl Serialize for OsText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (serializer.is_human_readable(), self.to_str()) {
            (false, _) => serializer.serialize_bytes(self.as_bytes()),
            (true, Some(text)) => serializer.serialize_str(text),
            (true, None) => {
                let mut object = serializer.serialize_map(Some(1))?;
                object.serialize_entry(BASE64, &STANDARD.encode(self.as_bytes()))?;
                object.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for OsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OsText, D::Error> {
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_any(OsTextVisitor),
            false => deserializer.deserialize_byte_buf(OsTextVisitor),
        }
    }
}

struct OsTextVisitor;

impl<'de> Visitor<'de> for OsTextVisitor {
    type Value = OsText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string or {{{BASE64:?}: \"…\"}}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OsText, E> {
        Ok(text.into())
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<OsText, E> {
        Ok(OsText::from_bytes(bytes.to_vec()))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<OsText, E> {
        Ok(OsText::from_bytes(bytes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<OsText, A::Error> {
        let wrong = || A::Error::custom(format_args!("an object is not {{{BASE64:?}: \"…\"}}"));
        let Some((key, text)) = entries.next_entry::<String, String>()? else {
            return Err(wrong());
        };
        if !key.eq_ignore_ascii_case(BASE64) || entries.next_key::<String>()?.is_some() {
            return Err(wrong());
        }
        let wrong = |_| A::Error::custom(format_args!("the text of {BASE64} is not base64"));
        STANDARD.decode(text).map(OsText::from_bytes).map_err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec;

    proptest! {
        #[test]
        fn any_bytes_are_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let text = OsText::from_bytes(bytes.clone());
            let body = codec::encode(&text).unwrap();
            prop_assert_eq!(codec::decode::<OsText>(&body).unwrap(), text);
            // On the wire it is as the bytes of a text are.
            prop_assert_eq!(codec::decode::<String>(&body).ok(), String::from_utf8(bytes).ok());
        }
    }
}
