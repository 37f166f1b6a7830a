//! Paths of anchors: `/`, `/Xid`, `/Xid/a/b`, and the patterns that `ls` takes, `/Xid/a/...`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::ServerId;

/// The longest name of an anchor, in bytes. Chosen, not measured: that of a file name on Linux
/// (`NAME_MAX`).
pub const MAX_NAME: usize = 255;

/// The deepest anchor, in names below the root. Chosen, not measured: bounds what a request costs.
pub const MAX_DEPTH: usize = 64;

/// The path of an anchor: the names that lead to it from the root.
///
/// The first name is a server, by id or by name; those after it are that server's anchors.
/// Names are any UTF-8 without `/` and control characters, of 1 to [`MAX_NAME`] bytes; `.`, `..`
/// and `...` are refused. Several slashes in a row count as one, and one at the end for nothing.
///
/// Paths are ordered name by name, so that the anchors below one follow it without a gap.
///
/// ```
/// use circuit_proto::Path;
/// let path: Path = "/X88550014d4c82e4d/this/is/charlie".parse().unwrap();
/// assert_eq!(path.below_server(), ["this", "is", "charlie"]);
/// assert_eq!(path.to_string(), "/X88550014d4c82e4d/this/is/charlie");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Path {
    names: Vec<String>,
}

/// The first name of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerPart<'a> {
    /// `X` and 16 hexadecimal digits.
    Id(ServerId),
    /// Anything else: the name that a server was given.
    Name(&'a str),
}

/// Why a text is not a path.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("a path begins with /: {0:?}")]
    Relative(String),
    /// A name that is reserved.
    #[error("an anchor cannot be named {name}: {path}")]
    Reserved {
        /// The name in question.
        name: String,
        /// The whole path.
        path: String,
    },
    /// A name holds a control character.
    #[error("a name in the path holds a control character: {0}")]
    Control(String),
    /// A name is longer than [`MAX_NAME`] bytes.
    #[error("a name in the path is longer than {MAX_NAME} bytes: {0}")]
    LongName(String),
    /// More names than [`MAX_DEPTH`].
    #[error("the path is deeper than {MAX_DEPTH} names: {0}")]
    Deep(String),
}

crate::error::debug_as_display!(PathError);

impl Path {
    /// The root of the circuit, whose children are the servers.
    pub fn root() -> Path {
        Path::default()
    }

    /// The anchor of a server.
    pub fn of_server(id: ServerId) -> Path {
        Path {
            names: vec![id.to_string()],
        }
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.names.is_empty()
    }

    /// The server that hosts the anchor; `None` for the root.
    pub fn server(&self) -> Option<ServerPart<'_>> {
        let first = self.names.first()?;
        Some(match first.parse() {
            Ok(id) => ServerPart::Id(id),
            Err(_) => ServerPart::Name(first),
        })
    }

    /// The names below the server's own anchor; empty for the root and for a server.
    pub fn below_server(&self) -> &[String] {
        self.names.get(1..).unwrap_or_default()
    }

    /// The same anchor under this server's id, whatever its first name was.
    pub fn on_server(&self, id: ServerId) -> Path {
        let mut names = vec![id.to_string()];
        names.extend_from_slice(self.below_server());
        Path { names }
    }

    /// The anchor below this one, of one name or several with slashes between them.
    pub fn join(&self, below: &str) -> Result<Path, PathError> {
        let mut names = Vec::with_capacity(self.names.len() + 1);
        names.extend_from_slice(&self.names);
        push_names(&mut names, below, below)?;
        Ok(Path { names })
    }

    /// The names from the root.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// Says why a name cannot be an anchor's, or a server's; `path` is what the error shows.
pub fn check_name(name: &str, path: &str) -> Result<(), PathError> {
    let shown = || printable(path);
    if matches!(name, "." | ".." | "...") {
        return Err(PathError::Reserved {
            name: name.to_owned(),
            path: shown(),
        });
    }
    if name.chars().any(char::is_control) {
        return Err(PathError::Control(shown()));
    }
    if name.len() > MAX_NAME {
        return Err(PathError::LongName(shown()));
    }
    Ok(())
}

/// The text with control characters escaped, and shortened: errors are one line.
pub(crate) fn printable(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(200)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Path, PathError> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PathError::Relative(printable(text)));
        };
        let mut names = Vec::new();
        push_names(&mut names, rest, text)?;
        Ok(Path { names })
    }
}

/// Appends the names in `text`, if they are names; `shown` is what an error shows.
fn push_names(names: &mut Vec<String>, text: &str, shown: &str) -> Result<(), PathError> {
    for name in text.split('/').filter(|name| !name.is_empty()) {
        check_name(name, shown)?;
        if names.len() == MAX_DEPTH {
            return Err(PathError::Deep(printable(shown)));
        }
        names.push(name.to_owned());
    }
    Ok(())
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.names.is_empty() {
            return f.write_str("/");
        }
        for name in &self.names {
            write!(f, "/{name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Path {
    type Error = PathError;

    fn try_from(text: String) -> Result<Path, PathError> {
        text.parse()
    }
}

impl Serialize for Path {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A pattern for `ls`: the children of an anchor, or everything below it.
///
/// ```
/// use circuit_proto::path::Pattern;
/// let all: Pattern = "/...".parse().unwrap();
/// assert!(all.recursive && all.base.is_root());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The anchor below which to list.
    pub base: Path,
    /// Whether everything below is meant (`/...`) or the children only.
    pub recursive: bool,
}

impl FromStr for Pattern {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Pattern, PathError> {
        let trimmed = text.trim_end_matches('/');
        match trimmed.strip_suffix("/...") {
            Some(base) if text.starts_with('/') => {
                let base = if base.is_empty() {
                    Path::root()
                } else {
                    base.parse()?
                };
                Ok(Pattern {
                    base,
                    recursive: true,
                })
            }
            _ => Ok(Pattern {
                base: text.parse()?,
                recursive: false,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Path>().unwrap().to_string(), expected)
        };
        check("/", "/");
        check("/X88550014d4c82e4d", "/X88550014d4c82e4d");
        check("/host/a b/ü", "/host/a b/ü");
        check("//host///a/", "/host/a");
    }

    #[test]
    fn refuses() {
        let check = |text: &str, expected: &str| {
            assert_eq!(text.parse::<Path>().unwrap_err().to_string(), expected)
        };
        check("", "a path begins with /: \"\"");
        check("X1/a", "a path begins with /: \"X1/a\"");
        check("/a/../b", "an anchor cannot be named ..: /a/../b");
        check("/a/.../b", "an anchor cannot be named ...: /a/.../b");
        check(
            "/a/b\nc",
            "a name in the path holds a control character: /a/b\\nc",
        );
        assert!(matches!(
            format!("/{}", "a".repeat(256)).parse::<Path>(),
            Err(PathError::LongName(_))
        ));
        assert!("/a".repeat(64).parse::<Path>().is_ok());
        assert!(matches!(
            "/a".repeat(65).parse::<Path>(),
            Err(PathError::Deep(_))
        ));
    }

    #[test]
    fn patterns() {
        let check = |text: &str, base: &str, recursive: bool| {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(
                (pattern.base.to_string().as_str(), pattern.recursive),
                (base, recursive),
                "{text}"
            );
        };
        check("/", "/", false);
        check("/...", "/", true);
        check("/.../", "/", true);
        check("/a/...", "/a", true);
        check("/a/b", "/a/b", false);
        assert!("...".parse::<Pattern>().is_err());
        assert!("a/...".parse::<Pattern>().is_err());
        assert!("/.../a".parse::<Pattern>().is_err());
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in "\\PC{0,80}") {
            let _ = text.parse::<Path>();
            let _ = format!("/{text}").parse::<Pattern>();
        }

        #[test]
        fn what_is_written_is_read(names in proptest::collection::vec("[^/\\pC]{1,20}", 0..8)) {
            let text = format!("/{}", names.join("/"));
            if let Ok(path) = text.parse::<Path>() {
                prop_assert_eq!(path.to_string().parse::<Path>().unwrap(), path.clone());
                prop_assert_eq!(path.names().len(), names.len());
            }
        }
    }
}
