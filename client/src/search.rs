//! Finds a circuit and its key as the command line tool does: by what the caller names, by the
//! environment, and on this machine.
//!
//! [`Client::from_env`] and every command of the tool call it. [`local`] chooses among the servers of
//! this machine.

mod local;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use circuit_proto::Key;
use circuit_proto::url::UrlError;

use crate::address::Address;
use crate::client::{Client, DiscoverDialError, TIMEOUT};
use crate::discover::{DiscoverError, NotAGroup, parse_group};
use crate::error::{DialError, Error};
use crate::key_file::{self, KeyFileError};
use crate::runtime_dir::RuntimeDirError;
use crate::ways::Ways;

/// What is known of the circuit that is looked for; the rest is taken from the environment.
///
/// The first of these is the way in:
///
/// 1. [`address`](Self::address);
/// 2. [`group`](Self::group);
/// 3. the URL in the file that `CIRCUIT` names;
/// 4. the first multicast group that `CIRCUIT_DISCOVER` names;
/// 5. the Unix socket that `CIRCUIT_SOCKET` names;
/// 6. the newest server of this user on this machine, if all of them are in one circuit;
/// 7. the server of the system, whose socket is `/run/circuit/circuit.sock`.
///
/// ```no_run
/// # async fn example() -> Result<(), circuit_client::SearchError> {
/// use circuit_client::Search;
/// let named = std::env::args().nth(1);
/// let search = Search {
///     address: named.and_then(|address| address.parse().ok()),
///     warn: |warning| eprintln!("warning: {warning}"),
///     ..Search::default()
/// };
/// let client = search.dial().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Search {
    /// The server to dial.
    pub address: Option<Address>,
    /// The multicast group to ask for a server.
    pub group: Option<SocketAddr>,
    /// The file that holds the circuit's key; `None` if `CIRCUIT_HMAC` names it, or there is none.
    pub key_file: Option<PathBuf>,
    /// How long it may take until a server has let us in; then the deadline of operations that do
    /// not block by nature. 5 s unless told.
    pub timeout: Duration,
    /// Is told of what a person should know, though it keeps nobody out.
    pub warn: fn(Warning),
}

impl Default for Search {
    fn default() -> Search {
        Search {
            address: None,
            group: None,
            key_file: None,
            timeout: TIMEOUT,
            warn: |_| (),
        }
    }
}

/// A fault that keeps nobody out of a circuit. Its text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Others than its owner can read a key file.
    ExposedKey(PathBuf),
    /// A server of this user runs on this machine, and does not answer.
    Silent(circuit_proto::Url),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::ExposedKey(file) => {
                let file = file.display();
                write!(f, "others can read the key file {file}: chmod 600 {file}")
            }
            Warning::Silent(url) => write!(f, "{url} runs here and does not answer"),
        }
    }
}

/// Why no circuit was found, or none let us in.
#[derive(thiserror::Error)]
pub enum SearchError {
    /// `CIRCUIT_DISCOVER` names something that is no multicast group.
    #[error("CIRCUIT_DISCOVER={value}: {reason}")]
    NotAGroup {
        /// The text in question.
        value: String,
        /// The fault of it.
        reason: NotAGroup,
    },
    /// The key's file cannot be read, or holds no key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The file that `CIRCUIT` names cannot be read.
    #[error("cannot read the file {} that CIRCUIT names", .file.display())]
    File {
        /// The file in question.
        file: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file that `CIRCUIT` names holds something else.
    #[error("the file {} that CIRCUIT names holds no URL: {reason}", .file.display())]
    NoUrl {
        /// The file in question.
        file: PathBuf,
        /// The fault of its text.
        reason: UrlError,
    },
    /// Nothing names a circuit.
    #[error(
        "no circuit to dial: none of CIRCUIT, CIRCUIT_DISCOVER and CIRCUIT_SOCKET is set, no server \
         of yours runs on this machine, and there is no {}",
        local::SYSTEM
    )]
    Nothing,
    /// Nothing names a circuit, and the servers of this machine cannot be looked up.
    #[error(
        "no circuit to dial: none of CIRCUIT, CIRCUIT_DISCOVER and CIRCUIT_SOCKET is set, and your \
         servers cannot be looked up"
    )]
    NoServers(#[source] RuntimeDirError),
    /// The servers of this machine are not all in one circuit.
    #[error("several circuits run on this machine: {}", listed(.0))]
    Several(Vec<circuit_proto::Url>),
    /// The server that was dialled did not answer, or did not let us in.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// No server answered in the multicast group.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// Nobody has let us in in time.
    #[error("{way} within {} s", .after.as_secs_f32())]
    TimedOut {
        /// The way that was tried.
        way: Way,
        /// How long it was tried.
        after: Duration,
    },
    /// No way in was named: an empty list of URLs.
    #[error("no circuit to dial: no address is given")]
    NoWay,
    /// A server of this machine let us in, and then did not say who is in its circuit.
    #[error(transparent)]
    Asked(#[from] Error),
}

impl From<DiscoverDialError> for SearchError {
    fn from(error: DiscoverDialError) -> SearchError {
        match error {
            DiscoverDialError::Discover(error) => error.into(),
            DiscoverDialError::Dial(error) => error.into(),
        }
    }
}

fn listed(urls: &[circuit_proto::Url]) -> String {
    let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
    urls.join(", ")
}

/// The part of the environment that names a way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The file that `CIRCUIT` names.
    File(PathBuf),
    /// `CIRCUIT_DISCOVER`.
    Discover,
    /// `CIRCUIT_SOCKET`.
    Socket,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(file) => write!(f, "the file {} that CIRCUIT names", file.display()),
            Source::Discover => f.write_str("CIRCUIT_DISCOVER"),
            Source::Socket => f.write_str("CIRCUIT_SOCKET"),
        }
    }
}

/// A way into a circuit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// To dial a server.
    Address(Address),
    /// To ask a multicast group for a server, and dial that.
    Group(SocketAddr),
    /// To dial a server of this user on this machine.
    Local,
}

/// That it leads nowhere.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Address(Address::Url(url)) => write!(f, "no answer from {}", url.authority()),
            Way::Address(socket) => write!(f, "no answer from {socket}"),
            Way::Group(group) => {
                let none = "no server that lets us in answered on the multicast group";
                write!(f, "{none} {group}")
            }
            Way::Local => f.write_str("no server of yours on this machine answered"),
        }
    }
}

impl Search {
    /// Finds the circuit, and dials a server of it.
    ///
    /// # Errors
    ///
    /// [`SearchError`] says what was tried.
    pub async fn dial(&self) -> Result<Client, SearchError> {
        let key = self.key()?;
        let way = self.way()?;
        self.through(way, key.as_ref()).await
    }

    async fn through(&self, way: Way, key: Option<&Key>) -> Result<Client, SearchError> {
        // What a dial says of its own time-out names the address, so it goes first if it can.
        match tokio::time::timeout(self.timeout, self.go(&way, key)).await {
            Ok(client) => Ok(client?.with_timeout(self.timeout)),
            Err(_) => Err(SearchError::TimedOut {
                way,
                after: self.timeout,
            }),
        }
    }

    /// Dials a server on this machine, as [`Client::local`] does.
    pub async fn local(&self) -> Result<Client, SearchError> {
        let way = match Search::socket() {
            Some(path) => Way::Address(Address::Socket(path)),
            None => Way::Local,
        };
        self.through(way, None).await
    }

    /// The way in: the first that is named.
    pub fn way(&self) -> Result<Way, SearchError> {
        if let Some(address) = &self.address {
            return Ok(Way::Address(address.clone()));
        }
        if let Some(group) = self.group {
            return Ok(Way::Group(group));
        }
        if let Some(Source::File(file)) = self.source() {
            return Ok(Way::Address(url_in(file)?));
        }
        Ok(match (Search::groups()?.first(), Search::socket()) {
            (Some(group), _) => Way::Group(*group),
            (None, Some(path)) => Way::Address(Address::Socket(path)),
            (None, None) => Way::Local,
        })
    }

    /// The part of the environment that names the way in; `None` if the search itself names it, or
    /// nothing does.
    pub fn source(&self) -> Option<Source> {
        if self.address.is_some() || self.group.is_some() {
            return None;
        }
        let file = || variable("CIRCUIT").map(|file| Source::File(home(file)));
        let group = || variable("CIRCUIT_DISCOVER").map(|_| Source::Discover);
        let socket = || variable("CIRCUIT_SOCKET").map(|_| Source::Socket);
        file().or_else(group).or_else(socket)
    }

    /// The circuit's key, if a file of it is named.
    pub fn key(&self) -> Result<Option<Key>, SearchError> {
        let from_variable = || variable("CIRCUIT_HMAC").map(home);
        let Some(file) = self.key_file.clone().or_else(from_variable) else {
            return Ok(None);
        };
        let (key, exposed) = key_file::read(&file)?;
        if exposed {
            (self.warn)(Warning::ExposedKey(file));
        }
        Ok(Some(key))
    }

    /// The multicast groups that `CIRCUIT_DISCOVER` names, with spaces or commas between them.
    pub fn groups() -> Result<Vec<SocketAddr>, SearchError> {
        let value = variable("CIRCUIT_DISCOVER").unwrap_or_default();
        let value = value.to_string_lossy();
        let groups = value.split([' ', ',']).filter(|group| !group.is_empty());
        groups
            .map(|group| {
                parse_group(group).map_err(|reason| SearchError::NotAGroup {
                    value: group.to_owned(),
                    reason,
                })
            })
            .collect()
    }

    /// The Unix socket that `CIRCUIT_SOCKET` names.
    fn socket() -> Option<PathBuf> {
        let path = variable("CIRCUIT_SOCKET")?;
        // As -d has it.
        let bare = path
            .as_bytes()
            .strip_prefix(b"unix:")
            .map(OsStr::from_bytes);
        Some(home(bare.map_or(path.clone(), OsStr::to_owned)))
    }

    async fn go(&self, way: &Way, key: Option<&Key>) -> Result<Client, SearchError> {
        match way {
            Way::Address(address) => Ok(Client::dial(address, key).await?),
            Way::Group(group) => Ok(Client::discover(*group, key).await?),
            Way::Local => {
                let client = local::dial(key, self.timeout, self.warn).await?;
                Ok(client.through(Ways::new(vec![Way::Local], key)))
            }
        }
    }
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// A leading `~` is the user's home, even where no shell expanded it.
fn home(path: OsString) -> PathBuf {
    let path = PathBuf::from(path);
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path,
    }
}

/// How much of a file that holds a URL is read, in bytes: more than any URL has.
const LONGEST_URL: u64 = 4096;

/// The address in the file that `CIRCUIT` names.
fn url_in(file: PathBuf) -> Result<Address, SearchError> {
    let read = || {
        let mut text = Vec::new();
        std::fs::File::open(&file)?
            .take(LONGEST_URL)
            .read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    match read() {
        Ok(text) => text
            .parse()
            .map_err(|reason| SearchError::NoUrl { file, reason }),
        Err(source) => Err(SearchError::File { file, source }),
    }
}
