//! Hostile peers: QUIC connections without the rules that the client crate keeps.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::congestion::Windows;
use circuit_client::transport::endpoint::{dialling, transport_config};
use circuit_client::transport::tls::{self, Certificate, Pin, Verifier};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, Endpoint};

/// A connection with a certificate of its own and nothing said on it.
pub(crate) struct Stranger {
    pub(crate) connection: Connection,
    _endpoint: Endpoint,
}

impl Stranger {
    /// Connects, TLS and all, speaking this protocol (ALPN).
    pub(crate) async fn connect(
        address: SocketAddr,
        protocol: &[u8],
    ) -> Result<Stranger, ConnectionError> {
        let (endpoint, _) = dialling(&[address]).unwrap();
        Stranger::connect_by(endpoint, address, protocol).await
    }

    /// Connects from this address of our own.
    pub(crate) async fn connect_from(
        from: IpAddr,
        address: SocketAddr,
        protocol: &[u8],
    ) -> Result<Stranger, ConnectionError> {
        let endpoint = Endpoint::client(SocketAddr::new(from, 0)).unwrap();
        Stranger::connect_by(endpoint, address, protocol).await
    }

    async fn connect_by(
        endpoint: Endpoint,
        address: SocketAddr,
        protocol: &[u8],
    ) -> Result<Stranger, ConnectionError> {
        let (certificate, _) = Certificate::generate().unwrap();
        let mut crypto = tls::dialler(&certificate, Verifier::new(Pin::Anybody)).unwrap();
        crypto.alpn_protocols = vec![protocol.to_vec()];
        let crypto = QuicClientConfig::try_from(crypto).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport_config(&Windows::default())));
        let connecting = endpoint.connect_with(config, address, "circuit").unwrap();
        Ok(Stranger {
            connection: connecting.await?,
            _endpoint: endpoint,
        })
    }

    /// Sends bytes on its first stream, and reads the whole answer.
    pub(crate) async fn say(&self, bytes: &[u8]) -> Vec<u8> {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        // The server may hang up before it has read all of it.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        recv.read_to_end(64 << 10).await.unwrap_or_default()
    }

    /// Why the server closed the connection: the code, once it has.
    pub(crate) async fn closed_with(&self, within: Duration) -> Option<u64> {
        match tokio::time::timeout(within, self.connection.closed()).await {
            Ok(ConnectionError::ApplicationClosed(closed)) => Some(closed.error_code.into_inner()),
            _ => None,
        }
    }
}

/// A frame: the length, then the body.
pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    [&length.to_be_bytes(), body].concat()
}
