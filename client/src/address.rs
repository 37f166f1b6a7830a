//! Where a server is dialled: a URL, or a Unix socket on this host.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use circuit_proto::Url;
use circuit_proto::url::UrlError;

/// The beginning of an address that is a path.
const UNIX: &str = "unix:";

/// The address of a server.
///
/// ```
/// use circuit_client::Address;
/// let url: Address = "circuit://10.0.0.1:11022".parse()?;
/// let socket: Address = "unix:/run/circuit/circuit.sock".parse()?;
/// assert_eq!(socket.to_string(), "unix:/run/circuit/circuit.sock");
/// # Ok::<(), circuit_client::UrlError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// A URL, which is dialled over the network.
    Url(Url),
    /// The path of a Unix socket on this host.
    Socket(PathBuf),
}

impl FromStr for Address {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Address, UrlError> {
        match text.strip_prefix(UNIX) {
            Some(path) => Ok(Address::Socket(path.into())),
            None => text.parse().map(Address::Url),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Url(url) => url.fmt(f),
            Address::Socket(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl From<Url> for Address {
    fn from(url: Url) -> Address {
        Address::Url(url)
    }
}
