//! Dialling other servers, from the server's one socket.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use circuit_client::transport::congestion::Windows;
use circuit_client::transport::dial::{Accepted, DialError, Dialler};
use circuit_client::transport::endpoint;
use circuit_client::transport::tls::{Certificate, Pin};
use circuit_client::transport::zone;
use circuit_proto::handshake::{Identity, Role};
use circuit_proto::membership::Message;
use circuit_proto::{Key, Tenure, Url};
use quinn::{TransportConfig, VarInt};
use tokio::time::Instant;

use crate::runtime::Runtime;

/// All that a server needs to dial.
#[derive(Debug)]
pub struct Outbound {
    endpoint: quinn::Endpoint,
    certificate: Certificate,
    key: Option<Key>,
    me: Identity,
    /// The count of this life, which membership may have found to be greater than the one that was
    /// kept.
    life: AtomicU64,
    begin: Instant,
    link: Arc<TransportConfig>,
    transfer: Arc<TransportConfig>,
    runtime: Arc<Runtime>,
}

impl Outbound {
    /// Prepares to dial as this server.
    pub fn new(
        endpoint: &quinn::Endpoint,
        windows: &Windows,
        certificate: &Certificate,
        key: Option<&Key>,
        me: &Identity,
        runtime: &Arc<Runtime>,
    ) -> Arc<Outbound> {
        let mut link = endpoint::transport_config(windows);
        // The other side opens one stream, for messages.
        link.max_concurrent_uni_streams(VarInt::from_u32(1));
        Arc::new(Outbound {
            endpoint: endpoint.clone(),
            certificate: certificate.clone(),
            key: key.cloned(),
            me: me.clone(),
            life: AtomicU64::new(me.count),
            begin: Instant::now(),
            link: Arc::new(link),
            transfer: Arc::new(endpoint::transport_config(windows)),
            runtime: runtime.clone(),
        })
    }

    /// The identity that this server states.
    pub fn identity(&self) -> Identity {
        Identity {
            count: self.life.load(Ordering::Relaxed),
            ..self.me.clone()
        }
    }

    /// The claim of this process to its identity, as of now.
    pub fn tenure(&self) -> Tenure {
        let lived = self.begin.elapsed().as_millis();
        Tenure {
            count: self.life.load(Ordering::Relaxed),
            instance: self.me.instance,
            lived: u64::try_from(lived).unwrap_or(u64::MAX),
        }
    }

    /// From now on this server says that it lives this life.
    pub(super) fn set_life(&self, count: u64) {
        self.life.store(count, Ordering::Relaxed);
    }

    /// The means that the server's parts share.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Whether the circuit has a key.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Dials a server for a link; `hello` is the first message of membership.
    pub async fn link(
        &self,
        url: &Url,
        pin: Pin,
        hello: &Message,
        timeout: Duration,
    ) -> Result<Accepted, DialError> {
        // A message that cannot be encoded is sent later, and fails there.
        let hello = hello.encode().unwrap_or_default();
        let role = Role::Link(self.identity(), hello);
        self.dial(url, pin, role, &self.link, timeout).await
    }

    /// Dials a server to forward requests to it.
    pub async fn transfer(
        &self,
        url: &Url,
        pin: Pin,
        timeout: Duration,
    ) -> Result<Accepted, DialError> {
        self.dial(
            url,
            pin,
            Role::Transfer(self.identity()),
            &self.transfer,
            timeout,
        )
        .await
    }

    /// Asks a server that may have this server's identity for its claim to it. The answer is a
    /// refusal, as nothing else is wanted of the connection.
    pub(super) async fn ask(
        &self,
        url: &Url,
        pin: Pin,
        mine: Tenure,
        timeout: Duration,
    ) -> Result<Accepted, DialError> {
        let role = Role::Copy {
            url: self.me.url.clone(),
            tenure: mine,
        };
        self.dial(url, pin, role, &self.link, timeout).await
    }

    async fn dial(
        &self,
        url: &Url,
        pin: Pin,
        role: Role,
        transport: &Arc<TransportConfig>,
        timeout: Duration,
    ) -> Result<Accepted, DialError> {
        let dialler = Dialler {
            endpoint: &self.endpoint,
            certificate: &self.certificate,
            key: self.key.as_ref(),
            transport,
        };
        let addresses = self.addresses(url, timeout).await?;
        dialler.dial_any(&addresses, pin, &role, timeout).await
    }
}

impl Outbound {
    /// The addresses of a URL's host, at least one. The resolver is asked on a thread of its own pool,
    /// which it keeps for as long as it hangs.
    pub(super) async fn addresses(
        &self,
        url: &Url,
        timeout: Duration,
    ) -> Result<Vec<SocketAddr>, DialError> {
        if let Some(address) = url.address() {
            return Ok(vec![address]);
        }
        let (host, port) = (url.host.to_string(), url.port);
        if let Some(found) = zone::addresses(url, self.endpoint.local_addr().ok()) {
            return found.map_err(|source| DialError::Resolve { host, source });
        }
        let asked = host.clone();
        let lookup = self
            .runtime
            .resolving
            .run(move || (asked, port).to_socket_addrs().map(Vec::from_iter));
        let found = match tokio::time::timeout(timeout, lookup).await {
            Ok(Ok(found)) => found,
            Ok(Err(busy)) => Err(io::Error::other(busy)),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the resolver does not answer",
            )),
        };
        let none = || io::Error::new(io::ErrorKind::NotFound, "the resolver knows none");
        let found = found.and_then(|found| match found.is_empty() {
            true => Err(none()),
            false => Ok(found),
        });
        found.map_err(|source| DialError::Resolve { host, source })
    }
}

/// The server that a URL pins.
pub fn pin_of(url: &Url) -> Pin {
    url.server.map_or(Pin::Anybody, |server| Pin::Id(server.id))
}
