//! Dials a server: makes the QUIC handshake, then ours. Only a `Welcome` means that it accepted.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use circuit_proto::auth::{self, EXPORTER_LABEL, End, Exporter, KeyMismatch};
use circuit_proto::handshake::{
    Answer, Close, Hello, HelloBody, Identity, Refused, Role, SPOKEN, check_identity,
};
use circuit_proto::{Fingerprint, Key, Life, Url};
use quinn::crypto::rustls::QuicClientConfig;

use super::endpoint::{close, plain};
use super::lost::Lost;
use super::socket::dial::SocketError;
use super::stream::{RecvHalf, SendHalf, StreamError};
use super::tls::{self, Certificate, Pin, Verifier};
use super::zone;

/// How long a dial may take. A closed port never says so over UDP. Lost first packets are
/// repeated after .3, .9 and 2.1 s: three times the first round trip that is assumed, then twice as
/// long each time (RFC 9002, section 6.2).
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long one address of a host has before the next is tried as well. RFC 8305, section 5.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// The longest `Hello` or its answer, in bytes: the window of a peer before its `Welcome`.
const MAX_HANDSHAKE: usize = 16 << 10;

/// The means of a dialler.
#[derive(Debug, Clone, Copy)]
pub struct Dialler<'a> {
    /// The endpoint to dial from.
    pub endpoint: &'a quinn::Endpoint,
    /// Its identity.
    pub certificate: &'a Certificate,
    /// The circuit's key, if there is one.
    pub key: Option<&'a Key>,
    /// The parameters of the connection.
    pub transport: &'a Arc<quinn::TransportConfig>,
}

/// A connection that both sides have accepted.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The connection.
    pub connection: quinn::Connection,
    /// The fingerprint that the other side has proved.
    pub fingerprint: Fingerprint,
    /// Where and under which name it says that it is.
    pub identity: Identity,
}

/// Why a dial failed. Each names the address.
#[derive(thiserror::Error)]
pub enum DialError {
    /// The host's name has no address.
    #[error("cannot find the address of {host}")]
    Resolve {
        /// The host in question.
        host: String,
        /// The resolver's error.
        #[source]
        source: io::Error,
    },
    /// No UDP socket to dial from.
    #[error("cannot open a UDP socket towards {address}")]
    Socket {
        /// The address in question.
        address: SocketAddr,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// Nothing that speaks the protocol answers.
    #[error("no answer from {address} within {} s", .after.as_secs_f32())]
    NoAnswer {
        /// The address in question.
        address: SocketAddr,
        /// How long it was tried.
        after: Duration,
    },
    /// It is no address of a server.
    #[error(
        "{address} stands for all addresses of a host: name one of them, as in 127.0.0.1:{}",
        .address.port()
    )]
    Unspecified {
        /// The address in question.
        address: SocketAddr,
    },
    /// This host does not know a way there.
    #[error("no route to {address}: {reason}")]
    NoRoute {
        /// The address in question.
        address: SocketAddr,
        /// The operating system's error.
        reason: io::ErrorKind,
    },
    /// Another server is there.
    #[error("{address} is {}, not {expected}: was it restarted?", .found.id().in_url())]
    WrongServer {
        /// The address in question.
        address: SocketAddr,
        /// The id that was expected, as in a URL.
        expected: String,
        /// The fingerprint of the server that is there.
        found: Fingerprint,
    },
    /// The server did not accept us.
    #[error("{address} refused us: {reason}")]
    Refused {
        /// The address in question.
        address: SocketAddr,
        /// The server's reason.
        reason: Refused,
    },
    /// The server could not prove that it holds our key.
    #[error("{address} did not prove that it holds our key: {reason}")]
    Unproven {
        /// The address in question.
        address: SocketAddr,
        /// The fault of its proof.
        reason: KeyMismatch,
    },
    /// A server on this host was not reached through its Unix socket.
    #[error(transparent)]
    Local(#[from] SocketError),
    /// Something else is there, or the connection was lost while it was being made.
    #[error("{address} does not speak the circuit protocol with us: {reason}")]
    Broken {
        /// The address in question.
        address: SocketAddr,
        /// The cause.
        reason: String,
    },
}

impl DialError {
    /// The mismatch of keys, if it was one.
    pub fn key_mismatch(&self) -> Option<KeyMismatch> {
        match self {
            DialError::Refused {
                reason: Refused::Key(mismatch),
                ..
            }
            | DialError::Unproven {
                reason: mismatch, ..
            } => Some(*mismatch),
            _ => None,
        }
    }
}

/// The addresses of a URL's host, in the resolver's order, at least one. Fails within `timeout`.
pub async fn resolve(url: &Url, timeout: Duration) -> Result<Vec<SocketAddr>, DialError> {
    if let Some(address) = url.address() {
        return specified(vec![address]);
    }
    let host = url.host.to_string();
    if let Some(found) = zone::addresses(url, None) {
        return found.map_err(|source| DialError::Resolve { host, source });
    }
    let lookup = tokio::net::lookup_host((host.as_str(), url.port));
    let found: io::Result<Vec<SocketAddr>> = match tokio::time::timeout(timeout, lookup).await {
        Ok(found) => found.map(Iterator::collect),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the resolver does not answer",
        )),
    };
    match found {
        Ok(found) if !found.is_empty() => specified(found),
        Ok(_) => {
            let source = io::Error::new(io::ErrorKind::NotFound, "the resolver knows none");
            Err(DialError::Resolve { host, source })
        }
        Err(source) => Err(DialError::Resolve { host, source }),
    }
}

/// Fails if one of them stands for all addresses of a host, as that which a server listens on may.
fn specified(addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, DialError> {
    let mut unspecified = addresses
        .iter()
        .filter(|address| address.ip().is_unspecified());
    match unspecified.next() {
        Some(address) => Err(DialError::Unspecified { address: *address }),
        None => Ok(addresses),
    }
}

impl Dialler<'_> {
    /// Dials a host at whichever of its addresses answers first: the next is tried when one has
    /// failed or taken a moment (RFC 8305, section 5). Fails with what the last of them said.
    ///
    /// **Cancellation:** a dropped dial closes its connections.
    pub async fn dial_any(
        &self,
        addresses: &[SocketAddr],
        pin: Pin,
        role: &Role,
        timeout: Duration,
    ) -> Result<Accepted, DialError> {
        let mut attempts = Vec::new();
        let mut untried = addresses.iter();
        loop {
            if let Some(address) = untried.next() {
                attempts.push(Box::pin(self.dial(*address, pin, role.clone(), timeout)));
            }
            let first = poll_fn(|cx| {
                for (n, attempt) in attempts.iter_mut().enumerate() {
                    if let Poll::Ready(result) = attempt.as_mut().poll(cx) {
                        return Poll::Ready((n, result));
                    }
                }
                Poll::Pending
            });
            let moment = tokio::time::sleep(NEXT_ADDRESS);
            let (n, result) = tokio::select! {
                first = first => first,
                () = moment, if untried.len() > 0 => continue,
            };
            drop(attempts.swap_remove(n));
            if result.is_ok() || (attempts.is_empty() && untried.len() == 0) {
                return result;
            }
        }
    }

    /// Dials an address whose owner must satisfy the pin, in this role. Fails within `timeout`.
    ///
    /// **Cancellation:** a dropped dial closes the connection.
    pub async fn dial(
        &self,
        address: SocketAddr,
        pin: Pin,
        role: Role,
        timeout: Duration,
    ) -> Result<Accepted, DialError> {
        let no_answer = || DialError::NoAnswer {
            address,
            after: timeout,
        };
        let result = tokio::time::timeout(timeout, self.attempt(address, pin, role, timeout))
            .await
            .unwrap_or_else(|_| Err(no_answer()));
        let Err(DialError::NoAnswer { .. }) = result else {
            return result;
        };
        match self.no_route(address) {
            None => result,
            Some(reason) => Err(DialError::NoRoute { address, reason }),
        }
    }

    /// Why nothing can be sent there, if so. QUIC does not tell: to it a packet that cannot be sent
    /// is one that was lost. Connecting a UDP socket sends none.
    fn no_route(&self, address: SocketAddr) -> Option<io::ErrorKind> {
        let own = self.endpoint.local_addr().ok()?.ip();
        let socket = UdpSocket::bind((own, 0)).ok()?;
        Some(socket.connect(self.reachable(address)).err()?.kind())
    }

    async fn attempt(
        &self,
        address: SocketAddr,
        pin: Pin,
        role: Role,
        timeout: Duration,
    ) -> Result<Accepted, DialError> {
        let broken = |reason: String| DialError::Broken { address, reason };
        let verifier = Verifier::new(pin);
        let crypto = tls::dialler(self.certificate, verifier.clone())
            .map_err(|error| broken(error.to_string()))?;
        let crypto =
            QuicClientConfig::try_from(crypto).map_err(|error| broken(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        let connecting = self
            .endpoint
            .connect_with(config, self.reachable(address), "circuit")
            .map_err(|error| broken(error.to_string()))?;
        let connection = connecting
            .await
            .map_err(|error| match verifier.rejected() {
                Some(found) => DialError::WrongServer {
                    address,
                    expected: expected(pin),
                    found,
                },
                None => lost(address, error.into(), timeout),
            })?;
        // TLS has proved that there is one; only a defect could lose it.
        let fingerprint = tls::peer_fingerprint(&connection)
            .ok_or_else(|| broken("it showed no certificate".into()))?;
        let welcomed = self
            .handshake(&connection, address, fingerprint, role, timeout)
            .await;
        let identity = welcomed.inspect_err(|_| close(&connection, Close::Done))?;
        Ok(Accepted {
            connection,
            fingerprint,
            identity,
        })
    }

    /// Sends `Hello`, and reads the answer.
    async fn handshake(
        &self,
        connection: &quinn::Connection,
        address: SocketAddr,
        fingerprint: Fingerprint,
        role: Role,
        timeout: Duration,
    ) -> Result<Identity, DialError> {
        let failed = |error: StreamError| stream_lost(address, error, connection, timeout);
        let broken = |reason: &str| DialError::Broken {
            address,
            reason: reason.to_owned(),
        };
        let exporter = exporter(connection).ok_or_else(|| broken("no TLS exporter"))?;
        let proof = self
            .key
            .map(|key| auth::prove(key, End::Dialler, &exporter));
        let hello = Hello {
            versions: SPOKEN,
            body: HelloBody { role, proof },
        };
        let (send, recv) = connection
            .open_bi()
            .await
            .map_err(|e| lost(address, e.into(), timeout))?;
        let (mut send, mut recv) = (SendHalf::new(send), RecvHalf::new(recv));
        let hello = hello.encode().map_err(|error| failed(error.into()))?;
        send.raw_frame(hello.into()).await.map_err(failed)?;
        send.finish();
        let answer = recv.raw_frame(MAX_HANDSHAKE).await.map_err(failed)?;
        let answer = circuit_proto::codec::decode(&answer).map_err(|_| broken("a bad answer"))?;
        let welcome = match answer {
            Answer::Welcome(welcome) => welcome,
            Answer::Refused(reason) => return Err(DialError::Refused { address, reason }),
        };
        auth::check(self.key, End::Acceptor, &exporter, welcome.proof.as_ref())
            .map_err(|reason| DialError::Unproven { address, reason })?;
        if !SPOKEN.contains(welcome.version) {
            return Err(broken("it answers in a version that we do not speak"));
        }
        check_identity(&welcome.identity, fingerprint)
            .map_err(|_| broken("its URL does not name its key"))?;
        Ok(welcome.identity)
    }

    /// The address as the endpoint's socket wants it: IPv4 in IPv6 clothes on a dual-stack one.
    fn reachable(&self, address: SocketAddr) -> SocketAddr {
        let v6 = self.endpoint.local_addr().is_ok_and(|own| own.is_ipv6());
        match address {
            SocketAddr::V4(v4) if v6 => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            other => other,
        }
    }
}

/// The bytes that only the two ends of this connection know.
pub fn exporter(connection: &quinn::Connection) -> Option<Exporter> {
    let mut exporter = Exporter::default();
    connection
        .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
        .ok()?;
    Some(exporter)
}

fn expected(pin: Pin) -> String {
    match pin {
        Pin::Anybody => "anybody".to_owned(),
        Pin::Id(id) => id.in_url(),
        Pin::Fingerprint(fingerprint) => fingerprint.id().in_url(),
    }
}

fn lost(address: SocketAddr, lost: Lost, after: Duration) -> DialError {
    let refused = |reason| DialError::Refused { address, reason };
    match (&lost, lost.code().and_then(refusal)) {
        (_, Some(reason)) => refused(reason),
        (Lost::Silent, None) => DialError::NoAnswer { address, after },
        (Lost::Refused, None) => refused(Refused::Busy),
        (_, None) => DialError::Broken {
            address,
            reason: lost.to_string(),
        },
    }
}

/// The refusal that a close code stands for: it may overtake the answer.
fn refusal(code: u64) -> Option<Refused> {
    [
        Refused::Key(KeyMismatch::Missing),
        Refused::Key(KeyMismatch::Wrong),
        Refused::Key(KeyMismatch::Unexpected),
        Refused::Identity,
        Refused::Myself,
        Refused::Busy,
        Refused::Malformed,
        Refused::Leaving,
    ]
    .into_iter()
    .find(|refused| refused.close() as u64 == code)
}

fn stream_lost(
    address: SocketAddr,
    error: StreamError,
    connection: &quinn::Connection,
    after: Duration,
) -> DialError {
    match (error, connection.close_reason()) {
        (StreamError::Lost(error), _) => lost(address, error, after),
        (_, Some(error)) => lost(address, error.into(), after),
        (error, None) => DialError::Broken {
            address,
            reason: error.to_string(),
        },
    }
}

impl Accepted {
    /// Which life of which server the other side is.
    pub fn life(&self) -> Life {
        Life {
            id: self.fingerprint.id(),
            count: self.identity.count,
            instance: self.identity.instance,
        }
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = plain(self.connection.remote_address());
        write!(
            f,
            "{} ({}) at {address}",
            self.fingerprint.id(),
            self.identity.name
        )
    }
}
