//! Opens the sockets of a server, and finds the address that it announces.
//!
//! Called once, by [`start`](super::start); knows nothing of what comes in through the sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use circuit_client::transport::congestion::Windows;
use circuit_client::transport::{endpoint, tls};
use circuit_proto::url::{Host, Server as UrlServer};
use circuit_proto::{Fingerprint, Key, Url};
use quinn::VarInt;
use quinn::crypto::rustls::QuicServerConfig;

use super::var_dir::Kept;
use super::{Listen, Options, StartError, accept, address};
use crate::peer::multicast::{Multicast, Scope};
use crate::peer::{datagram, tether};
use crate::runtime::Runtime;

/// How many free ports of UDP are tried until one is free for TCP too. Chosen, not measured: where a
/// tenth of the ports is taken, one start in 10^16 is without tethers.
const PORTS: usize = 16;

/// The UDP socket; the TCP listener for tethers on the same port, or the reason why there is none;
/// the address of both.
pub(super) type Bound = (
    std::net::UdpSocket,
    io::Result<std::net::TcpListener>,
    SocketAddr,
);

/// Binds UDP and TCP to one port. Where the caller names a port that TCP has not free, the server does
/// without tethers.
fn bind_both(address: SocketAddr) -> io::Result<Bound> {
    let mut attempts = match address.port() {
        0 => PORTS,
        _ => 1,
    };
    loop {
        let socket = endpoint::socket(address)?;
        let bound = socket.local_addr()?;
        let listener = tether::listen(bound);
        attempts -= 1;
        if listener.is_ok() || attempts == 0 {
            return Ok((socket, listener, bound));
        }
    }
}

/// Opens the sockets where the options say.
pub(super) fn listen(listen: Listen) -> Result<Bound, StartError> {
    let bind =
        |address| bind_both(address).map_err(|source| StartError::Listen { address, source });
    match listen {
        Listen::Loopback => bind((Ipv4Addr::LOCALHOST, 0).into()),
        Listen::At(address) => bind(address),
        // Both families at once, where the host has IPv6.
        Listen::Everywhere(port) => {
            bind((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| match &error {
                StartError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                    Err(error)
                }
                _ => bind((Ipv4Addr::UNSPECIFIED, port).into()),
            })
        }
    }
}

/// The address of this host at which others reach the server.
pub(super) fn own_address(bound: SocketAddr, options: &Options) -> IpAddr {
    match bound.ip() {
        ip if ip.is_unspecified() => {
            let joins = options.join.iter().chain(&options.join_once);
            let joins: Vec<Url> = joins.cloned().collect();
            address::announced(&options.discover, &joins, bound.is_ipv6())
        }
        ip => ip,
    }
}

/// The URL that others dial.
pub(super) fn announced_url(
    own: IpAddr,
    bound: u16,
    options: &Options,
    fingerprint: Fingerprint,
) -> Url {
    let (host, port) = match &options.advertise {
        Some((host, 0)) => (host.clone(), bound),
        Some((host, port)) => (host.clone(), *port),
        None => (Host::Ip(own), bound),
    };
    let server = UrlServer {
        pid: std::process::id(),
        id: fingerprint.id(),
    };
    Url {
        host,
        port,
        server: Some(server),
    }
}

/// Joins the multicast groups.
pub(super) fn open_groups(
    groups: &[SocketAddr],
    bound: SocketAddr,
) -> Result<Vec<Multicast>, StartError> {
    let open = |group: &SocketAddr| {
        Multicast::open(*group, Scope::of_bound(bound.ip())).map_err(|source| {
            StartError::Discover {
                group: *group,
                source,
            }
        })
    };
    groups.iter().map(open).collect()
}

/// The QUIC endpoint on the socket, and the side of the socket for packets that are not QUIC's.
pub(super) fn bind(
    socket: std::net::UdpSocket,
    windows: &Windows,
    kept: &Kept,
    key: Option<&Key>,
    address: SocketAddr,
    runtime: &Arc<Runtime>,
) -> Result<(quinn::Endpoint, datagram::Datagrams), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let tls = |error: &dyn std::error::Error| StartError::Tls(error.to_string());
    let crypto = tls::acceptor(&kept.certificate).map_err(|error| tls(&error))?;
    let crypto = QuicServerConfig::try_from(crypto).map_err(|error| tls(&error))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = endpoint::transport_config(windows);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .receive_window(VarInt::from_u32(accept::UNAUTHENTICATED_WINDOW));
    config.transport_config(Arc::new(transport));
    let (socket, datagrams) =
        datagram::Datagrams::split(socket, &kept.certificate, key, runtime).map_err(failed)?;
    let endpoint = quinn::Endpoint::new_with_abstract_socket(
        endpoint::persistent(&kept.reset_secret),
        Some(config),
        socket,
        Arc::new(quinn::TokioRuntime),
    );
    Ok((endpoint.map_err(failed)?, datagrams))
}
