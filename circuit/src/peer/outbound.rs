//! Dialling other servers, from the server's one socket.

use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::congestion::Windows;
use circuit_client::transport::dial::{Accepted, DialError, Dialler, resolve};
use circuit_client::transport::endpoint;
use circuit_client::transport::tls::{Certificate, Pin};
use circuit_proto::handshake::{Identity, Role};
use circuit_proto::membership::Message;
use circuit_proto::{Key, Url};
use quinn::{TransportConfig, VarInt};

/// What a server dials with.
#[derive(Debug)]
pub struct Outbound {
    endpoint: quinn::Endpoint,
    certificate: Certificate,
    key: Option<Key>,
    me: Identity,
    link: Arc<TransportConfig>,
    transfer: Arc<TransportConfig>,
}

impl Outbound {
    /// What is needed to dial as this server.
    pub fn new(
        endpoint: &quinn::Endpoint,
        windows: &Windows,
        certificate: &Certificate,
        key: Option<&Key>,
        me: &Identity,
    ) -> Arc<Outbound> {
        let mut link = endpoint::transport_config(windows);
        // One stream of messages from the other side.
        link.max_concurrent_uni_streams(VarInt::from_u32(1));
        Arc::new(Outbound {
            endpoint: endpoint.clone(),
            certificate: certificate.clone(),
            key: key.cloned(),
            me: me.clone(),
            link: Arc::new(link),
            transfer: Arc::new(endpoint::transport_config(windows)),
        })
    }

    /// Whether the circuit has a key.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Dials a server for a link; `hello` is what membership has to say first.
    pub async fn link(
        &self,
        url: &Url,
        pin: Pin,
        hello: &Message,
        timeout: Duration,
    ) -> Result<Accepted, DialError> {
        // What cannot be encoded is said later, and fails there.
        let hello = hello.encode().unwrap_or_default();
        let role = Role::Link(self.me.clone(), hello);
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
            Role::Transfer(self.me.clone()),
            &self.transfer,
            timeout,
        )
        .await
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
        let addresses = resolve(url, timeout).await?;
        dialler.dial_any(&addresses, pin, &role, timeout).await
    }
}

/// Whom a URL pins.
pub fn pin_of(url: &Url) -> Pin {
    url.server.map_or(Pin::Anybody, |server| Pin::Id(server.id))
}
