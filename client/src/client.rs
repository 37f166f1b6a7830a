//! A connection to a circuit, through one of its servers.

mod request;

use std::net::SocketAddr;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use circuit_proto::element::anchor::{Listed, ServerEntry};
use circuit_proto::handshake::{Close, Role};
use circuit_proto::{Key, Path, ServerId, Url};

pub(crate) use self::request::Behind;
use crate::address::Address;
use crate::anchor::Anchor;
use crate::discover::{self, DiscoverError};
use crate::error::{DialError, Error};
use crate::runtime_dir::RuntimeDir;
use crate::search::{Search, SearchError, Way};
use crate::transport::congestion::Windows;
use crate::transport::dial::{DIAL_TIMEOUT, Dialler, resolve};
use crate::transport::endpoint::{self, close, close_and_flush, plain};
use crate::transport::socket::Pool;
use crate::transport::tether::Holds;
use crate::transport::tls::{Certificate, Pin};
use crate::ways::Ways;

/// The deadline of operations that do not block by nature. docs/design.md, "Anchors and elements".
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`Client::discover`] listens for an answer: several askings, the last of them with
/// time for its answers.
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection to a circuit. Clones share it; it closes with the last of them and of the handles
/// that came from it.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
    ways: Arc<Ways>,
    timeout: Duration,
}

/// The way to the server that was dialled.
#[derive(Debug)]
struct Shared {
    dialled: Dialled,
    transport: Transport,
}

#[derive(Debug)]
enum Transport {
    Quic {
        connection: quinn::Connection,
        // The connection's packets pass through it.
        _endpoint: quinn::Endpoint,
        /// What the client holds by its requests.
        holds: Arc<Holds>,
    },
    Socket(Arc<Pool>),
}

/// The server that a client dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialled {
    /// Its id, which it has proved.
    pub id: ServerId,
    /// Its name, for people.
    pub name: String,
    /// Its URL, where other servers reach it.
    pub url: Url,
    /// The address at which it answered, as text: `10.0.0.1:11022`.
    pub address: String,
}

/// Why no server of a circuit was found, or none let us in.
#[derive(thiserror::Error)]
pub enum DiscoverDialError {
    /// Nobody answered.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// Somebody answered, and then did not let us in.
    #[error(transparent)]
    Dial(#[from] DialError),
}

/// The user's local key. A runtime directory that is not in order has none to be trusted.
fn local_key() -> Option<Key> {
    let dir = RuntimeDir::existing().ok().flatten();
    dir.and_then(|dir| dir.existing_key())
}

impl Client {
    /// Finds a circuit as the command line tool does without flags, and dials a server of it: the
    /// URL in the file that `CIRCUIT` names, a multicast group of `CIRCUIT_DISCOVER`, the Unix socket
    /// that `CIRCUIT_SOCKET` names, or a server on this machine. `CIRCUIT_HMAC` names the file of the circuit's key.
    ///
    /// [`Search`] takes flags too.
    ///
    /// # Errors
    ///
    /// [`SearchError`] says what was tried.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), circuit_client::SearchError> {
    /// let client = circuit_client::Client::from_env().await?;
    /// println!("dialled {}", client.dialled().name);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn from_env() -> Result<Client, SearchError> {
        Search::default().dial().await
    }

    /// Dials a server on this machine: the one whose Unix socket `CIRCUIT_SOCKET` names, the newest of
    /// this user's, or the one of the system.
    ///
    /// # Errors
    ///
    /// [`SearchError`] says what was tried.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), circuit_client::SearchError> {
    /// let client = circuit_client::Client::local().await?;
    /// println!("dialled {}", client.dialled().name);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn local() -> Result<Client, SearchError> {
        Search::default().local().await
    }

    /// Dials the server at this address: a URL, with the circuit's key if it has one, or the path of
    /// a Unix socket on this host, which needs no key.
    ///
    /// A loopback URL dialled without a key uses the user's local key, as the servers there do.
    ///
    /// # Errors
    ///
    /// [`DialError`] says whether nobody answered, another server did, or it refused us.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use circuit_client::{Client, Key};
    /// let key = Key::parse(&std::fs::read_to_string(".hmac")?)?;
    /// let client = Client::dial(&"circuit://10.0.0.1:11022".parse()?, Some(&key)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dial(address: &Address, key: Option<&Key>) -> Result<Client, DialError> {
        let client = match address {
            Address::Url(url) => Client::dial_url(url, key).await?,
            Address::Socket(path) => Client::dial_socket(path, DIAL_TIMEOUT).await?,
        };
        Ok(client.through(Ways::new(vec![Way::Address(address.clone())], key)))
    }

    /// Dials whichever server of these addresses answers first, in this order: the next is tried as well
    /// when one has failed or taken a quarter of a second.
    ///
    /// The client remembers all of them, for [`redial`](Self::redial).
    ///
    /// # Errors
    ///
    /// [`SearchError::Dial`] with what the last of them said.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// use circuit_client::Client;
    /// let urls = ["circuit://10.0.0.1:11022".parse()?, "circuit://10.0.0.2:11022".parse()?];
    /// let client = Client::dial_any(&urls, None).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dial_any(addresses: &[Address], key: Option<&Key>) -> Result<Client, SearchError> {
        let ways = addresses.iter().cloned().map(Way::Address).collect();
        let ways = Ways::new(ways, key);
        let client = ways.dial_any().await?;
        Ok(client.through(ways))
    }

    /// Connects to the same circuit again, through whichever of its servers answers first: for a
    /// program that was told [`CircuitGone`](Error::CircuitGone), as the server that it had dialled is
    /// gone, or [`ServerGone`](Error::ServerGone) of servers that others can still reach.
    ///
    /// Tried are the ways by which the client was made, be they several addresses, a multicast group or the
    /// servers of this machine, and up to 16 of the servers that [`servers`](Self::servers) gave last;
    /// the server that was dialled before only if no other answers. One attempt takes a few seconds at
    /// most.
    ///
    /// The new client has the deadline of this one, and knows the same ways. Nothing moves to it by
    /// itself: anchors and handles are those of the client that they came from, and have to be made
    /// again with [`anchor`](Self::anchor). No operation is repeated. One that failed with the loss
    /// may have been done, or not; whether it may be done twice, only the program knows. Streams are
    /// cut where they were, and elements that were [bound](crate::Bound) are gone.
    ///
    /// # Errors
    ///
    /// [`SearchError`] with what the last that was tried said.
    ///
    /// ```no_run
    /// # async fn example(mut client: circuit_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use circuit_client::{Error, Path};
    /// let path: Path = "/one/answers".parse()?;
    /// loop {
    ///     match client.anchor(path.clone()).chan().recv_all(1 << 20).await {
    ///         Ok(answer) => println!("{} bytes", answer.len()),
    ///         // What had been received by half is left to the next who receives.
    ///         Err(Error::CircuitGone { .. }) => client = client.redial().await?,
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn redial(&self) -> Result<Client, SearchError> {
        let client = self.ways.redial(self.dialled()).await?;
        Ok(Client {
            ways: self.ways.clone(),
            timeout: self.timeout,
            ..client
        })
    }

    /// The same, which remembers these ways.
    pub(crate) fn through(self, ways: Ways) -> Client {
        let ways = Arc::new(ways);
        Client { ways, ..self }
    }

    /// Dials the server whose Unix socket has this path, within `timeout`.
    async fn dial_socket(path: &FilePath, timeout: Duration) -> Result<Client, DialError> {
        let pool = Pool::dial(path, timeout).await?;
        let identity = pool.identity().clone();
        let dialled = Dialled {
            id: pool.id(),
            name: identity.name,
            url: identity.url,
            address: Address::Socket(path.to_owned()).to_string(),
        };
        let transport = Transport::Socket(pool);
        Ok(Client {
            shared: Arc::new(Shared { dialled, transport }),
            timeout: TIMEOUT,
            ways: Arc::default(),
        })
    }

    async fn dial_url(url: &Url, key: Option<&Key>) -> Result<Client, DialError> {
        if key.is_some() || !url.is_loopback() {
            return Client::dial_exactly(url, key, DIAL_TIMEOUT).await;
        }
        let local = local_key();
        let dialled = Client::dial_exactly(url, local.as_ref(), DIAL_TIMEOUT).await;
        match dialled {
            // A server on other interfaces too has no local key. Only a pinned URL is dialled
            // again without one: to an unknown server the key was all that told friend from foe.
            Err(error)
                if local.is_some()
                    && url.server.is_some()
                    && error.key_mismatch()
                        == Some(circuit_proto::auth::KeyMismatch::Unexpected) =>
            {
                Client::dial_exactly(url, None, DIAL_TIMEOUT).await
            }
            other => other,
        }
    }

    async fn dial_exactly(
        url: &Url,
        key: Option<&Key>,
        timeout: Duration,
    ) -> Result<Client, DialError> {
        let addresses = resolve(url, timeout).await?;
        // `resolve` gives at least one.
        let address = addresses[0];
        let (endpoint, addresses) = endpoint::dialling(&addresses)
            .map_err(|source| DialError::Socket { address, source })?;
        let (certificate, _) = Certificate::generate().map_err(|e| DialError::Broken {
            address,
            reason: e.to_string(),
        })?;
        let pin = url.server.map_or(Pin::Anybody, |server| Pin::Id(server.id));
        let dialler = Dialler {
            endpoint: &endpoint,
            certificate: &certificate,
            key,
            transport: &Arc::new(endpoint::transport_config(&Windows::default())),
        };
        let accepted = dialler
            .dial_any(&addresses, pin, &Role::Client, timeout)
            .await?;
        let dialled = Dialled {
            id: accepted.fingerprint.id(),
            name: accepted.identity.name,
            url: accepted.identity.url,
            address: plain(accepted.connection.remote_address()).to_string(),
        };
        let shared = Arc::new(Shared {
            dialled,
            transport: Transport::Quic {
                holds: Holds::beside(&accepted.connection),
                connection: accepted.connection,
                _endpoint: endpoint,
            },
        });
        Ok(Client {
            shared,
            ways: Arc::default(),
            timeout: TIMEOUT,
        })
    }

    /// Asks a multicast group for a server of the circuit with this key, and dials it.
    ///
    /// Without a key, the user's servers on loopback are found too, by the local key.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = circuit_client::Client::discover("228.8.8.8:7711".parse()?, None).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn discover(
        group: SocketAddr,
        key: Option<&Key>,
    ) -> Result<Client, DiscoverDialError> {
        let client = Client::discover_but(None, group, key).await?;
        Ok(client.through(Ways::new(vec![Way::Group(group)], key)))
    }

    /// Asks a multicast group for a server other than this one, and dials it.
    pub(crate) async fn discover_but(
        but: Option<ServerId>,
        group: SocketAddr,
        key: Option<&Key>,
    ) -> Result<Client, DiscoverDialError> {
        let ask = |key| discover::ask_but(but, group, key, DISCOVER_TIMEOUT);
        let local = match key {
            Some(_) => None,
            None => local_key(),
        };
        let ours = async { Ok((ask(key).await?, key)) };
        // The user's own servers on loopback have the local key, and nobody has to know.
        let on_loopback = async {
            let Some(local) = &local else {
                return std::future::pending().await;
            };
            match ask(Some(local)).await {
                Ok(urls) => (urls, Some(local)),
                // The error of the other search is of more use.
                Err(_) => std::future::pending().await,
            }
        };
        let (urls, key) = tokio::select! {
            found = ours => found.map_err(DiscoverDialError::Discover)?,
            found = on_loopback => found,
        };
        let mut last = None;
        for url in &urls {
            match Client::dial_exactly(url, key, DIAL_TIMEOUT).await {
                Ok(client) => return Ok(client),
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error.into()),
            None => Err(DiscoverError::NoAnswer { group }.into()),
        }
    }

    /// The same connection with another deadline for operations that do not block by nature
    /// (5 s unless told).
    ///
    /// ```no_run
    /// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
    /// use std::time::Duration;
    /// let patient = client.with_timeout(Duration::from_secs(30));
    /// patient.servers().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_timeout(&self, timeout: Duration) -> Client {
        Client {
            timeout,
            ..self.clone()
        }
    }

    /// The server that was dialled.
    ///
    /// ```no_run
    /// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
    /// let dialled = client.dialled();
    /// println!("dialled {} at {}", dialled.name, dialled.address);
    /// let beside_it = client.server(dialled.id).walk("scratch");
    /// # Ok(())
    /// # }
    /// ```
    pub fn dialled(&self) -> &Dialled {
        &self.shared.dialled
    }

    /// The anchor of this path, which begins with a server's id or name. Costs no round trip, and
    /// never fails for a path that holds nothing.
    ///
    /// ```no_run
    /// # fn example(client: circuit_client::Client) -> Result<(), circuit_client::PathError> {
    /// let anchor = client.walk("/X88550014d4c82e4d/this/is/charlie")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn walk(&self, path: &str) -> Result<Anchor, circuit_proto::path::PathError> {
        Ok(self.anchor(path.parse()?))
    }

    /// The anchor of a parsed path.
    pub fn anchor(&self, path: Path) -> Anchor {
        Anchor::new(self.clone(), path)
    }

    /// The root, whose children are the servers.
    ///
    /// ```no_run
    /// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
    /// for entry in client.root().view().await? {
    ///     println!("{}", entry.anchor.path());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn root(&self) -> Anchor {
        self.anchor(Path::root())
    }

    /// The anchor of a server.
    ///
    /// ```no_run
    /// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
    /// for server in client.servers().await? {
    ///     println!("{}", client.server(server.id).path());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn server(&self, id: ServerId) -> Anchor {
        self.anchor(Path::of_server(id))
    }

    /// The live servers of the circuit, by id.
    ///
    /// ```no_run
    /// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
    /// for server in client.servers().await? {
    ///     println!("{} {} {}", server.id, server.name, server.url);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn servers(&self) -> Result<Vec<ServerEntry>, Error> {
        let listed = self.list(&Path::root(), false).await?;
        let servers = listed.into_iter().filter_map(|entry| match entry {
            Listed::Server(server) => Some(server),
            Listed::Anchor { .. } => None,
        });
        let servers: Vec<ServerEntry> = servers.collect();
        self.ways.learn(&servers);
        Ok(servers)
    }

    /// Closes the connection and flushes its close. Dropping the last handle closes too, but
    /// the server may then learn of it only when the connection times out.
    ///
    /// ```no_run
    /// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
    /// client.servers().await?;
    /// client.close().await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(self) {
        match &self.shared.transport {
            Transport::Quic { connection, .. } => close_and_flush(connection, Close::Done).await,
            Transport::Socket(pool) => pool.close(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Transport::Quic { connection, .. } = &self.transport {
            close(connection, Close::Done);
        }
    }
}
