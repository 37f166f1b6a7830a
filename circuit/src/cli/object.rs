//! Reads the description of a process or container from stdin: a JSON object as people paste it,
//! with trailing commas and comments, and keys in any case.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt;

use super::error::Failure;
use super::stdin;
use crate::text::one_line;

/// The longest object that is read, in bytes. Chosen, not measured: a server takes half as much, and the
/// rest may be comments.
const LONGEST: u64 = 1 << 20;

/// How deep brackets may be nested. Chosen, not measured: those of a command or container are three deep,
/// and its strings may hold some.
const DEEPEST: usize = 1000;

/// The name of the described thing, and how it is described.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    /// `command`, `container`.
    pub(super) what: &'static str,
    /// Its fields.
    pub(super) fields: &'static [&'static str],
    /// One that is right, for a hint.
    pub(super) example: &'static str,
    /// The hint for one that is not UTF-8.
    pub(super) not_utf8: &'static str,
}

/// The fields of an object, each under its name in the form, none twice.
pub(super) type Fields = Vec<(&'static str, Value)>;

impl Form {
    /// Reads stdin.
    pub(super) async fn read(self) -> Result<String, Failure> {
        let mut bytes = Vec::new();
        let failed = |error| {
            Failure::operation(&format!("cannot read the {} from stdin", self.what), &error)
        };
        let mut stdin = stdin::open().take(LONGEST + 1);
        stdin.read_to_end(&mut bytes).await.map_err(failed)?;
        String::from_utf8(bytes).map_err(|error| {
            let position = error.utf8_error().valid_up_to();
            let text = format!("the {} is not UTF-8 behind byte {position}", self.what);
            Failure::failed(text).with_hint(self.not_utf8)
        })
    }

    /// The fields that a text gives.
    pub(super) fn parse(self, text: &str) -> Result<Fields, Failure> {
        let what = self.what;
        if text.trim().is_empty() {
            return Err(self.bad(format!("no {what} on stdin: JSON is expected there")));
        }
        if text.len() as u64 > LONGEST {
            return Err(self.bad(format!("the {what} is longer than 1 MiB")));
        }
        // The parser calls itself for each.
        if depth(text) > DEEPEST {
            return Err(self.bad(format!("the {what}'s brackets are nested too deep")));
        }
        let Unique(value) = json5::from_str(text).map_err(|error| match error.code() {
            Some(_) => self.bad(format!("the {what} is not JSON: {error}")),
            // Our own words.
            None if error.to_string().contains(NOT_FINITE) => {
                Failure::failed(one_line(&error.to_string()))
                    .with_hint("JSON has no NaN and no Infinity, and a number is below 1.8e308")
            }
            None => self.bad(error.to_string()),
        })?;
        let Value::Object(object) = value else {
            return Err(self.bad(format!("the {what} is not a JSON object")));
        };
        let mut fields: Fields = Vec::new();
        for (key, value) in object {
            let known = self.fields.iter();
            let Some(name) = known.copied().find(|name| name.eq_ignore_ascii_case(&key)) else {
                let all = self.fields.join(", ");
                return Err(self.bad(format!("unknown field {key:?}: there are {all}")));
            };
            fields.push((name, value));
        }
        Ok(fields)
    }

    /// The failure of a text that is not of this form.
    pub(super) fn bad(self, what: String) -> Failure {
        Failure::failed(one_line(&what)).with_hint(format!("for example {}", self.example))
    }
}

/// The fault of a number that JSON does not have.
const NOT_FINITE: &str = "not a finite number";

/// A value in which no object has the same key twice, as nobody knows which of the two was meant; of
/// the outermost object, whose keys may be in any case, in no case.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Unique, D::Error> {
        let outermost = UniqueValue { field: None };
        outermost.deserialize(deserializer).map(Unique)
    }
}

/// Reads a value. Errors are those of the reader at this place of the text, so that the parser adds the
/// line and column.
#[derive(Clone, Copy)]
struct UniqueValue<'a> {
    /// The field whose value it is, or is a part of; `None` for the outermost.
    field: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for UniqueValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        if value.is_finite() {
            return Ok(value.into());
        }
        // JSON has no such numbers: `Value` would make null of them.
        Err(match self.field {
            Some(field) => E::custom(format_args!("the field {field} is wrong: {NOT_FINITE}")),
            None => E::custom(NOT_FINITE),
        })
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        let mut keys = UniqueKeys {
            seen: BTreeSet::new(),
            in_any_case: self.field.is_none(),
        };
        while let Some(key) = entries.next_key_seed(&mut keys)? {
            let value = entries.next_value_seed(UniqueValue { field: Some(&key) })?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

/// Reads the keys of an object, each of which is not among those before it.
struct UniqueKeys {
    seen: BTreeSet<String>,
    in_any_case: bool,
}

impl<'de> DeserializeSeed<'de> for &mut UniqueKeys {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for &mut UniqueKeys {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<String, E> {
        let seen = match self.in_any_case {
            true => key.to_ascii_lowercase(),
            false => key.to_owned(),
        };
        match self.seen.insert(seen) {
            true => Ok(key.to_owned()),
            false => Err(E::custom(format_args!("the field {key} is given twice"))),
        }
    }
}

/// The value of a field.
pub(super) fn field<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, Failure> {
    serde_json::from_value(value)
        .map_err(|error| Failure::failed(one_line(&format!("the field {name} is wrong: {error}"))))
}

/// The value of a field that may be `null`, which is as if it were not there.
pub(super) fn field_or_default<T: DeserializeOwned + Default>(
    name: &str,
    value: Value,
) -> Result<T, Failure> {
    Ok(field::<Option<T>>(name, value)?.unwrap_or_default())
}

/// How deep the brackets in a text are nested, those in strings included.
fn depth(text: &str) -> usize {
    let mut depth: usize = 0;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => (),
        }
        deepest = deepest.max(depth);
    }
    deepest
}
