//! Makes the UDP socket and the QUIC endpoint on it, for clients and servers alike.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use circuit_proto::handshake::Close;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;

use super::congestion::{self, Windows};

/// How often a quiet connection says that it is there. docs/design.md, "The wire".
pub const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// After how long a silent peer is given up, and everything that a killed client held is free.
pub const IDLE: Duration = Duration::from_secs(10);

/// The socket's buffers, in bytes: measured on loopback, below this a burst loses packets. The
/// kernel grants less where `net.core.rmem_max` is lower.
const SOCKET_BUFFER: usize = 4 << 20;

/// How far QUIC looks for larger packets, and how large it takes them, in bytes. Measured on
/// loopback (`scripts/bench stdout channels`): twice the throughput of Ethernet's 1,500. The
/// endpoint's receive buffer is sized by it, 13 MB of addresses, of which few are ever touched.
const MTU_BOUND: u16 = 6_500;

/// The round trip that is assumed before one is measured: the first packets are repeated after
/// three times this (RFC 9002, section 6.2.2, which has 333 ms). Chosen, not measured: a dial has
/// three seconds, and on a network that loses packets wants more than two tries in them.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// How many bytes one stream may hold that its reader has not read: a tenth of a second at
/// 12.5 MB/s, quinn's own default, and at least a frame.
const STREAM_WINDOW: u32 = 1_250_000;

/// A bound UDP socket with the buffers that QUIC wants. The IPv6 wildcard takes IPv4 as well.
pub fn socket(address: SocketAddr) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // Smaller buffers only cost speed, so a kernel that refuses is no error.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// The parameters of every connection of an endpoint with these windows; how many streams the peer
/// may open is the caller's to say.
pub fn transport_config(windows: &Windows) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_BOUND);
    let idle = IdleTimeout::try_from(IDLE).expect("ten seconds fit a QUIC idle time-out");
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(idle))
        .mtu_discovery_config(Some(mtu))
        .initial_rtt(INITIAL_RTT)
        .congestion_controller_factory(Arc::new(windows.clone()))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .datagram_receive_buffer_size(None)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0));
    config
}

/// Tells peers that they may look for packets as large as we do.
fn accept_large_packets(config: &mut EndpointConfig) {
    config
        .max_udp_payload_size(MTU_BOUND)
        .expect("the bound is a size that QUIC has");
}

/// An endpoint that only dials, on a free port, and those of the addresses that it can reach.
pub fn dialling(addresses: &[SocketAddr]) -> io::Result<(quinn::Endpoint, Vec<SocketAddr>)> {
    let v4: Vec<SocketAddr> = addresses
        .iter()
        .copied()
        .filter(SocketAddr::is_ipv4)
        .collect();
    let any_v4 = SocketAddr::from(([0, 0, 0, 0], 0));
    let (socket, reached) = match v4.len() == addresses.len() {
        true => (socket(any_v4)?, v4),
        // The IPv6 wildcard reaches both; on a host without IPv6 what is left is IPv4.
        false => match socket((Ipv6Addr::UNSPECIFIED, 0).into()) {
            Ok(socket) => (socket, addresses.to_vec()),
            Err(error) if v4.is_empty() => return Err(error),
            Err(_) => (socket(any_v4)?, v4),
        },
    };
    let runtime = Arc::new(quinn::TokioRuntime);
    let mut config = EndpointConfig::default();
    accept_large_packets(&mut config);
    let endpoint = quinn::Endpoint::new(config, None, socket, runtime)?;
    Ok((endpoint, reached))
}

/// The configuration of an endpoint whose stateless resets and connection ids come from a secret,
/// so that a restart with the same secret tells the peers of the life before (RFC 9000, section
/// 10.3), and stray packets are told from those of connections.
pub fn persistent(secret: &[u8; 32]) -> EndpointConfig {
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    // Another key for ids, which are hashed fast rather than well.
    let ids = ring::hmac::sign(&reset_key, b"circuit connection ids");
    let mut cid_key = [0; 8];
    cid_key.copy_from_slice(&ids.as_ref()[..8]);
    let cid_key = u64::from_be_bytes(cid_key);
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    accept_large_packets(&mut config);
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));
    // Packets that are not QUIC's are told apart by this bit, so it is not to be greased
    // (RFC 9287).
    config.grease_quic_bit(false);
    config
}

/// Closes a connection with a code that says why.
pub fn close(connection: &quinn::Connection, why: Close) {
    congestion::open(connection);
    connection.close(VarInt::from_u32(why as u32), b"");
}

/// Closes all connections of an endpoint whose windows these are.
pub fn close_all(endpoint: &quinn::Endpoint, windows: &Windows, why: Close) {
    windows.open();
    endpoint.close(VarInt::from_u32(why as u32), b"");
}

/// Closes a connection, and waits until the packet that says so has been sent, for whoever exits
/// next: a tenth of a second at most. Waiting for the endpoint to become idle would cost 80 ms.
pub async fn close_and_flush(connection: &quinn::Connection, why: Close) {
    if connection.close_reason().is_some() {
        return;
    }
    // Nothing but the close itself is sent once a connection is closed. What is sent in the moment
    // before, on another thread, may be data or the close already: then it gets ten of these
    // milliseconds.
    let packets = || connection.stats().udp_tx.datagrams;
    let before = packets();
    close(connection, why);
    let closed = packets();
    let tries = if closed > before { 10 } else { 100 };
    tokio::task::yield_now().await;
    for _ in 0..tries {
        if packets() > closed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The address without the IPv6 clothes that a dual-stack socket puts on IPv4.
pub fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(ip) => (ip, v6.port()).into(),
            // With its zone, if it has one.
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
    use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ServerConfig};
    use tokio::runtime::{Builder, Runtime};

    use super::super::tls::{self, Certificate, Pin, Verifier};
    use super::*;

    /// A connection, and a runtime for each of its ends.
    struct Connected {
        dialling: Runtime,
        accepting: Runtime,
        windows: Windows,
        endpoint: Endpoint,
        dialled: Connection,
        accepted: Connection,
        _acceptor: Endpoint,
    }

    impl Connected {
        fn new() -> Connected {
            // The acceptor's packets are handled only while its runtime is waited for.
            let accepting = Builder::new_current_thread().enable_all().build().unwrap();
            let dialling = Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let (certificate, _) = Certificate::generate().unwrap();
            let crypto = tls::acceptor(&certificate).unwrap();
            let crypto = QuicServerConfig::try_from(crypto).unwrap();
            let mut config = ServerConfig::with_crypto(Arc::new(crypto));
            let mut transport = transport_config(&Windows::default());
            transport.max_concurrent_uni_streams(VarInt::from_u32(1));
            config.transport_config(Arc::new(transport));
            let address = (Ipv4Addr::LOCALHOST, 0).into();
            let acceptor = accepting
                .block_on(async { Endpoint::server(config, address) })
                .unwrap();

            let windows = Windows::default();
            let crypto = tls::dialler(&certificate, Verifier::new(Pin::Anybody)).unwrap();
            let crypto = QuicClientConfig::try_from(crypto).unwrap();
            let mut config = ClientConfig::new(Arc::new(crypto));
            config.transport_config(Arc::new(transport_config(&windows)));
            let address = acceptor.local_addr().unwrap();
            let (endpoint, connecting) = dialling.block_on(async {
                let (endpoint, _) = super::dialling(&[address]).unwrap();
                let connecting = endpoint.connect_with(config, address, "circuit").unwrap();
                (endpoint, tokio::spawn(connecting))
            });
            let accepted =
                accepting.block_on(async { acceptor.accept().await.unwrap().await.unwrap() });
            Connected {
                dialled: dialling.block_on(connecting).unwrap().unwrap(),
                dialling,
                accepting,
                windows,
                endpoint,
                accepted,
                _acceptor: acceptor,
            }
        }

        /// Sends as much as may be on the way, and has more to send.
        fn fill_the_window(&self) {
            let sent = self.dialling.block_on(async {
                let mut stream = self.dialled.open_uni().await.unwrap();
                stream.write_all(&[0; 1_000_000]).await.unwrap();
                let stats = || self.dialled.stats().udp_tx.bytes;
                while stats() < 10_000 {
                    tokio::task::yield_now().await;
                }
                // Kept: a stream that is dropped is reset.
                std::mem::forget(stream);
                stats()
            });
            assert!(sent < 100_000, "{sent}");
        }

        fn closes(&self) {
            self.dialling
                .block_on(close_and_flush(&self.dialled, Close::Slow));
        }

        /// The dialler's process ends, and the acceptor has heard why.
        fn hears(self, why: Close) {
            self.dialling.shutdown_background();
            let heard = self.accepting.block_on(self.accepted.closed());
            let why = VarInt::from_u32(why as u32);
            assert!(
                matches!(&heard, ConnectionError::ApplicationClosed(close) if close.error_code == why),
                "{heard}"
            );
        }
    }

    #[test]
    fn a_close_is_sent_at_once() {
        let connected = Connected::new();
        connected.closes();
        connected.hears(Close::Slow);
    }

    #[test]
    fn a_full_window_does_not_hold_a_close_back() {
        let connected = Connected::new();
        connected.fill_the_window();
        connected.closes();
        connected.hears(Close::Slow);
    }

    #[test]
    fn a_full_window_does_not_hold_back_the_close_of_an_endpoint() {
        let connected = Connected::new();
        connected.fill_the_window();
        close_all(&connected.endpoint, &connected.windows, Close::Leaving);
        connected.dialling.block_on(connected.endpoint.wait_idle());
        connected.hears(Close::Leaving);
    }
}
