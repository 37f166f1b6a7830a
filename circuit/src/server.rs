//! A server: one endpoint, one tree of anchors, one place in the circuit.
//!
//! [`start`] binds and begins; [`Running::finished`] lasts until the server has left. The parts:
//! [`listen`](mod@listen) opens the sockets, [`accept`] lets peers in, [`dispatch`] routes their requests,
//! [`ops`] executes them, [`call`] answers them, [`forward`] passes on those for other servers,
//! [`operations`] keeps the table of operations and the operation log.
//!
//! **Invariant:** a server whose driver, acceptor, tethers, discovery or log has ended leaves the
//! circuit and ends with a failure.

mod accept;
pub mod address;
mod call;
mod dispatch;
mod forward;
#[cfg(test)]
mod in_process;
mod listen;
pub mod local;
pub mod log;
mod members;
pub mod name;
pub mod operations;
mod ops;
mod refusals;
mod requests;
pub mod var_dir;

use parking_lot::Mutex;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use circuit_client::runtime_dir::{Registration, RuntimeDir, RuntimeDirError};
use circuit_client::transport::congestion::Windows;
use circuit_client::transport::endpoint;
use circuit_proto::handshake::{Close, Identity};
use circuit_proto::membership::Record;
use circuit_proto::url::Host;
use circuit_proto::{Fingerprint, Key, Url};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::anchor::Tree;
use crate::element::container::engine::{Engine, EngineError};
use crate::element::process::orphans;
use crate::element::service::registry::{Place, Services};
use crate::element::{self, Element, Kind};
use crate::peer::alone::{self, Ways};
use crate::peer::multicast::Scope;
use crate::peer::outbound::Outbound;
use crate::peer::seek::{self, Way};
use crate::peer::tether::Tethers;
use crate::peer::{Peer, discovery};
use crate::runtime::Runtime;
use crate::runtime::task::{Failure, Supervisor};
use listen::{announced_url, bind, listen, open_groups, own_address};
use local::file::{Door, ForOthers, SocketFile, SocketFileError};
use members::Members;
use operations::Operations;
use var_dir::{Kept, VarDirError};

/// How long the server may take to tell the others that it leaves. Chosen, not measured: news crosses a circuit in a quarter of a
/// second, and whoever stops a server waits for it.
const LEAVE_WAIT: Duration = Duration::from_millis(500);

/// The options of a server.
#[derive(Debug, Default)]
pub struct Options {
    /// Where to listen.
    pub listen: Listen,
    /// The host to announce instead, and the port unless it is 0.
    pub advertise: Option<(Host, u16)>,
    /// The name of the server.
    pub name: String,
    /// The directory that keeps its identity.
    pub var: Option<PathBuf>,
    /// Servers to join, and to join again whenever they are lost.
    pub join: Vec<Url>,
    /// Servers to join once.
    pub join_once: Vec<Url>,
    /// Multicast groups to find others on.
    pub discover: Vec<SocketAddr>,
    /// The circuit's key.
    pub key: Option<Key>,
    /// Whether to host containers.
    pub docker: bool,
    /// Where operations are logged.
    pub log: Option<log::Lines>,
    /// The Unix sockets for clients on this host.
    pub sockets: Sockets,
    /// How much retained output there may be, in bytes; a tenth of the disk if that is `None`.
    pub logs: Option<u64>,
}

/// The Unix sockets of a server.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Whether there is one for the server's own user, in the runtime directory.
    pub own: bool,
    /// The one for others, if there is one.
    pub for_others: Option<local::file::ForOthers>,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy, Default)]
pub enum Listen {
    /// On loopback only, on any free port.
    #[default]
    Loopback,
    /// On this address.
    At(SocketAddr),
    /// Everywhere, on this port.
    Everywhere(u16),
}

/// The reason why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The identity cannot be read or kept.
    #[error(transparent)]
    Identity(#[from] VarDirError),
    /// The port is taken, or the host does not have the address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The local key or the place for it cannot be used.
    #[error(transparent)]
    RuntimeDir(#[from] RuntimeDirError),
    /// A multicast group cannot be joined.
    #[error("cannot join the multicast group {group}")]
    Discover {
        /// The group.
        group: SocketAddr,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// No Docker Engine answers.
    #[error("-docker: {0}")]
    Engine(#[from] EngineError),
    /// TLS did not accept our own certificate: a defect.
    #[error("TLS: {0}")]
    Tls(String),
    /// The socket for others cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketFileError),
    /// What is kept of services cannot be read.
    #[error("{0}")]
    Services(String),
    /// The system gives no thread or descriptor.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The state that the parts of a server share.
#[derive(Debug)]
pub struct Server {
    /// The URL, name and life of the server.
    pub me: Identity,
    /// The hash of the server's public key.
    pub fingerprint: Fingerprint,
    /// The address at which other hosts reach the server.
    pub address: IpAddr,
    /// The circuit's key.
    pub key: Option<Key>,
    /// The time at which the server was started.
    pub started: SystemTime,
    /// The anchors of the server.
    pub tree: Arc<Tree<Element>>,
    /// The operations in flight.
    pub operations: Arc<Operations>,
    /// The server's place among the others.
    pub peer: Arc<Peer>,
    /// The pools, counters and limits that the parts share.
    pub runtime: Arc<Runtime>,
    /// What its services share.
    pub services: Arc<Services>,
    /// The Docker Engine, if the server hosts containers.
    engine: Option<Arc<Engine>>,
    /// The tethers, which tell of processes that die.
    pub tethers: Arc<Tethers>,
    /// The last members, which a server with `-var` keeps.
    members: Option<Arc<Members>>,
    outbound: Arc<Outbound>,
    transfers: forward::Transfers,
    endpoint: quinn::Endpoint,
    windows: Windows,
    clients: AtomicUsize,
    leaving: watch::Sender<bool>,
    /// The connections of clients on this host are to be closed.
    closing: watch::Sender<bool>,
    /// The users and processes of this host that are connected.
    users: Arc<local::Users>,
    /// The places of connections on this host that have made no handshake yet.
    handshakes: Arc<local::Handshakes>,
    /// Rations what is logged of those who are refused.
    refusals: refusals::Refusals,
    /// The files of the Unix sockets.
    sockets: Mutex<Vec<SocketFile>>,
    /// The file by which the user's commands on this machine find the server.
    registration: Mutex<Option<Registration>>,
}

/// A running server.
#[derive(Debug)]
pub struct Running {
    server: Arc<Server>,
    /// The address that it is bound to.
    bound: SocketAddr,
    tasks: Supervisor,
    kept: Kept,
}

/// Starts a server. On failure nothing is left behind.
///
/// Must be called within a tokio runtime.
pub async fn start(options: Options) -> Result<Running, StartError> {
    let engine = match options.docker {
        true => Some(Arc::new(Engine::find().await?)),
        false => None,
    };
    if let Some(engine) = &engine {
        info!(
            "containers are run by the Docker Engine at {}",
            engine.address()
        );
    }
    let kept = match &options.var {
        Some(dir) => var_dir::open(dir).await?,
        None => var_dir::forgetful()?,
    };
    let members = kept.dir.clone().map(Members::open).transpose()?;
    let fingerprint = kept.certificate.fingerprint();
    let (socket, listener, bound) = listen(options.listen)?;
    let runtime_dir = RuntimeDir::open();
    let key = match (options.key.clone(), &runtime_dir) {
        (Some(key), _) => Some(key),
        // Without it other users of this machine could run programs as this one.
        (None, Ok(dir)) if bound.ip().is_loopback() => Some(dir.key()?),
        (None, _) => None,
    };
    let runtime_dir = match runtime_dir {
        Err(error) if key.is_none() && bound.ip().is_loopback() => return Err(error.into()),
        // Others only lose the convenience of being found there.
        other => other.ok(),
    };
    let groups = open_groups(&options.discover, bound)?;
    let address = own_address(bound, &options);
    let url = announced_url(address, bound.port(), &options, fingerprint);
    let me = Identity {
        url,
        name: options.name.clone(),
        count: kept.life,
        instance: kept.instance,
    };
    let started = SystemTime::now();
    let windows = Windows::default();
    let mut tasks = Supervisor::new();
    let runtime = Runtime::start(tasks.alarm())?;
    let (endpoint, datagrams) = bind(socket, &windows, &kept, key.as_ref(), bound, &runtime)?;
    let record = Record {
        fingerprint,
        url: me.url.clone(),
        name: me.name.clone(),
        count: me.count,
        instance: me.instance,
    };
    let certificate = &kept.certificate;
    let outbound = Outbound::new(
        &endpoint,
        &windows,
        certificate,
        key.as_ref(),
        &me,
        &runtime,
    );
    let tethers = Tethers::new(bound.ip(), runtime.clone());
    let (peer, driver) = Peer::new(record, outbound.clone(), datagrams, tethers.clone());
    // Without it, commands only have to be told the URL.
    let registration = runtime_dir
        .as_ref()
        .and_then(|dir| dir.register(&me.url).ok());
    let mut doors = Vec::new();
    if let Some(ForOthers { path, group }) = &options.sockets.for_others {
        let (mode, door) = match group {
            Some(_) => (0o660, Door::Group),
            None => (0o600, Door::Own),
        };
        doors.push((local::file::listen(path, mode, *group)?, door));
    }
    let own_dir = runtime_dir.as_ref().map(|dir| dir.path().to_owned());
    let mut own_socket = None;
    if let Some(dir) = runtime_dir.filter(|_| options.sockets.own) {
        let path = dir.socket_of(fingerprint.id());
        match local::file::listen(&path, 0o600, None) {
            Ok(listening) => {
                doors.push((listening, Door::Own));
                own_socket = Some(path);
            }
            Err(error) => warn!(
                "{}; commands on this host come over the network",
                circuit_client::chain(&error)
            ),
        }
    }
    let handshakes = local::Handshakes::new(runtime.descriptors.limit());
    let tree = Tree::new();
    let place = Place {
        server: format!("/{}", fingerprint.id()),
        socket: own_socket,
        var: options.var.clone(),
        runtime: own_dir,
        logs: options.logs,
    };
    let services = Services::new(place, &tree, &runtime);
    let server = Arc::new(Server {
        me,
        fingerprint,
        address,
        key,
        started,
        tree,
        services,
        operations: Operations::new(options.log.clone(), &runtime),
        runtime,
        peer,
        engine,
        tethers,
        members,
        outbound,
        transfers: forward::Transfers::default(),
        endpoint,
        windows,
        clients: AtomicUsize::new(0),
        leaving: watch::Sender::new(false),
        closing: watch::Sender::new(false),
        users: Arc::default(),
        handshakes,
        refusals: refusals::Refusals::default(),
        sockets: Mutex::default(),
        registration: Mutex::new(registration),
    });
    if let Ok(own) = server.tree.reserve(&[]) {
        own.commit(element::server::Server::new(&server).into_element());
    }
    // Elements that were kept are there when the first request is answered.
    let services = server.services.start().await;
    services.map_err(|error| StartError::Services(error.message))?;
    tasks.lasting("driver", driver.run());
    tasks.lasting("acceptor", accept::accept(server.clone()));
    for ((socket, file), door) in doors {
        let listener = tokio::net::UnixListener::from_std(socket.into())?;
        info!("clients on this host are served at {}", file.door());
        let path = file.path().to_owned();
        server.sockets.lock().push(file);
        let accepting = local::accept(server.clone(), listener, path, door);
        tasks.lasting("acceptor of this host's clients", accepting);
    }
    if orphans::are_given_to_us() {
        tasks.ending("reaper of orphans", orphans::reap(server.runtime.clone()));
    }
    if let Some(log) = options.log {
        tasks.lasting("log", async move { log.ended().await });
    }
    match listener {
        Ok(listener) => {
            tasks.lasting(
                "acceptor of tethers",
                server.tethers.clone().accept(listener),
            );
        }
        Err(error) => warn!(
            "cannot listen on TCP {bound}: {error}; if this server is killed, the others learn of \
             it from its silence"
        ),
    }
    for multicast in groups {
        let discovery = discovery::run(server.peer.clone(), multicast, server.key.clone());
        tasks.lasting("discovery", discovery);
    }
    let before = match &server.members {
        Some(members) if options.join.is_empty() && options.discover.is_empty() => members.known(),
        _ => Vec::new(),
    };
    let ways = Ways {
        groups: options.discover,
        scope: Scope::of_bound(bound.ip()),
        urls: [&options.join, &options.join_once, &before]
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
    };
    let seeds = options.join.into_iter().map(|url| (url, Way::Seed));
    let once = options.join_once.into_iter().map(|url| (url, Way::Once));
    let before = before.into_iter().map(|url| (url, Way::Member));
    for (url, way) in seeds.chain(once).chain(before) {
        let joined = seek::follow(server.peer.clone(), url, way);
        let mut leaving = server.leaving.subscribe();
        tasks.ending("join", async move {
            tokio::select! {
                () = joined => (),
                _ = leaving.wait_for(|leaving| *leaving) => (),
            }
        });
    }
    let alone = alone::watch(server.peer.clone(), ways, server.key.clone());
    tasks.ending("watch over being alone", alone);
    if let Some(members) = &server.members {
        let keeping = members::run(members.clone(), server.peer.clone());
        tasks.ending("keeper of members", keeping);
    }
    if let Some(dir) = kept.dir.clone() {
        let keeping = var_dir::keep_count(dir, server.peer.clone());
        tasks.ending("keeper of the count", keeping);
    }
    Ok(Running {
        server,
        bound,
        tasks,
        kept,
    })
}

impl Running {
    /// The URL to print and to give to others.
    pub fn url(&self) -> &Url {
        &self.server.me.url
    }

    /// The state that the parts of the server share.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The address that it is bound to.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Whether anybody who reaches the port may run programs.
    pub fn is_open_to_all(&self) -> bool {
        self.server.key.is_none() && !self.bound.ip().is_loopback()
    }

    /// Whether the server listens for other hosts but announces loopback, which no other host can dial.
    pub fn is_hidden(&self) -> bool {
        !self.bound.ip().is_loopback() && self.url().is_loopback()
    }

    /// Lasts until the server is told to stop, by `signal` or by an operation, or one of its parts
    /// fails; then leaves the circuit in order.
    pub async fn finished(mut self, signal: impl Future<Output = ()>) -> Result<(), Failure> {
        let mut leaving = self.server.leaving.subscribe();
        let mut signal = pin!(signal);
        let mut signalled = false;
        let result = tokio::select! {
            () = &mut signal => {
                signalled = true;
                Ok(())
            }
            // The sender lives in the server, so the watch cannot end before it tells.
            _ = leaving.wait_for(|leaving| *leaving) => Ok(()),
            failure = self.tasks.failed() => Err(failure),
        };
        let copied = matches!(result, Err(Failure::Copied { .. }));
        if let Err(failure) = &result
            && !copied
        {
            error!("{failure}: this server cannot go on");
        }
        self.server.stop();
        if let Some(dir) = &self.kept.dir {
            dir.leaves();
        }
        self.server.keep_members().await;
        if std::process::id() == 1 {
            // Nothing outlives process 1 of a namespace.
            self.server.services.stop_at_end();
        }
        {
            let mut down = pin!(self.server.shut_elements_down());
            tokio::select! {
                biased;
                () = &mut down => (),
                // Whoever asked in another way to stop hurries it.
                () = &mut signal, if !signalled => {
                    self.server.services.kill();
                    down.await;
                }
            }
        }
        self.server.services.close().await;
        info!("leaving the circuit");
        let _ = tokio::time::timeout(LEAVE_WAIT, self.server.peer.leave(copied)).await;
        self.server.closing.send_replace(true);
        endpoint::close_all(&self.server.endpoint, &self.server.windows, Close::Leaving);
        // The closes are sent once the connections' tasks have had their turn.
        let _ = tokio::time::timeout(LEAVE_WAIT, self.server.endpoint.wait_idle()).await;
        self.tasks.shutdown().await;
        result
    }
}

impl Server {
    /// The server's name and address, for people.
    fn named(&self) -> String {
        format!("{} at {}", self.me.name, self.me.url.authority())
    }

    /// Tells its elements that the server ends.
    async fn shut_elements_down(&self) {
        self.services.begin_end();
        for element in self.tree.elements() {
            element.shutdown().await;
        }
    }

    /// Has the server leave the circuit and end, and not come back to it by itself.
    pub async fn suicide(&self) {
        if let Some(members) = self.members.clone() {
            let cleared = tokio::task::spawn_blocking(move || members.clear());
            let _ = tokio::time::timeout(LEAVE_WAIT, cleared).await;
        }
        self.stop();
    }

    /// Keeps the members that are in the view now.
    async fn keep_members(&self) {
        if let Some(members) = self.members.clone() {
            let live = members::others(&self.peer);
            let kept = tokio::task::spawn_blocking(move || members.keep(live));
            // A disk that hangs does not keep the server from leaving.
            let _ = tokio::time::timeout(LEAVE_WAIT, kept).await;
        }
    }

    /// Has the server stop its services, leave the circuit and end: its host goes down.
    pub fn stop_with_services(&self) {
        self.services.stop_at_end();
        self.stop();
    }

    /// Has the server leave the circuit and end.
    pub fn stop(&self) {
        self.withdraw();
        self.leaving.send_replace(true);
    }

    /// Removes the file by which commands find this server, as it is about to leave.
    fn withdraw(&self) {
        self.sockets.lock().clear();
        drop(self.registration.lock().take());
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed) + self.users.processes()
    }

    /// How many QUIC connections there are, of whatever kind.
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// How many connections were accepted and have made no handshake yet.
    pub fn unauthenticated(&self) -> usize {
        self.runtime.unauthenticated.taken() + self.handshakes.taken()
    }

    /// How many QUIC connections this server has opened to forward requests.
    pub fn transfers_opened(&self) -> usize {
        self.transfers.open()
    }

    /// Resolves when the server is about to leave.
    pub async fn leaves(&self) {
        // The sender lives in this server, so the watch cannot end before it tells.
        let _ = self.leaving.subscribe().wait_for(|leaving| *leaving).await;
    }

    fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    /// Counts a client for as long as the result is held.
    fn count_client(self: &Arc<Self>) -> ClientCount {
        self.clients.fetch_add(1, Ordering::Relaxed);
        ClientCount(self.clone())
    }
}

#[derive(Debug)]
struct ClientCount(Arc<Server>);

impl Drop for ClientCount {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
