//! Servers in this process, with real connections on loopback, and peers that are stepped by hand.

mod driver;
mod leaving;
mod limits;
mod malformed;
mod router;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use circuit_client::Client;
use circuit_client::transport::congestion::Windows;
use circuit_client::transport::dial::{Accepted, Dialler};
use circuit_client::transport::endpoint::{dialling, transport_config};
use circuit_client::transport::stream::{RecvHalf, SendHalf};
use circuit_client::transport::tls::{Certificate, Pin};
use circuit_proto::handshake::{Identity, Role};
use circuit_proto::request::{Op, Reply, Request};
use circuit_proto::url::{Host, Server as UrlServer};
use circuit_proto::{Fingerprint, Key, Path, Url, codec};
use quinn::VarInt;

use super::{Options, Running, Server, start};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

fn key() -> Key {
    Key::from_random([7; 32])
}

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let so = tokio::time::timeout(PATIENCE, so).await;
    assert!(so.is_ok(), "not in time: {what}");
}

/// A server `one` with a process at `/one/p` that reads its stdin.
async fn one_with_a_process() -> (Running, circuit_client::Proc) {
    let [one] = circuit(["one"]).await;
    let anchor = client(&one).await.walk("/one/p").unwrap();
    let cat = circuit_client::Cmd::new("cat");
    let process = anchor.make_proc(cat).await.unwrap();
    (one, process)
}

/// Starts servers that know each other. The user's own commands do not find them.
async fn circuit<const N: usize>(names: [&str; N]) -> [Running; N] {
    let mut running: Vec<Running> = Vec::new();
    for name in names {
        let options = Options {
            name: name.to_owned(),
            key: Some(key()),
            join: running
                .iter()
                .map(|first| first.url().clone())
                .take(1)
                .collect(),
            ..Options::default()
        };
        let server = start(options).await.unwrap();
        server.server().withdraw();
        running.push(server);
    }
    for server in &running {
        let server = server.server();
        until("all know each other", || server.peer.servers().len() == N).await;
    }
    running.try_into().unwrap_or_else(|_| unreachable!())
}

async fn client(of: &Running) -> Client {
    Client::dial(&of.url().clone().into(), Some(&key()))
        .await
        .unwrap()
}

/// A peer that does what a test has it do.
struct Peer {
    accepted: Accepted,
    /// The identity that it states.
    identity: Identity,
    fingerprint: Fingerprint,
    _endpoint: quinn::Endpoint,
}

impl Peer {
    /// Dials a server in a role.
    async fn dial(server: &Running, role: impl FnOnce(&Self) -> Role) -> Peer {
        let (certificate, _) = Certificate::generate().unwrap();
        let fingerprint = certificate.fingerprint();
        let address = server.bound();
        let (endpoint, _) = dialling(&[address]).unwrap();
        let url = Url {
            host: Host::Ip(Ipv4Addr::LOCALHOST.into()),
            port: endpoint.local_addr().unwrap().port(),
            server: Some(UrlServer {
                pid: 1,
                id: fingerprint.id(),
            }),
        };
        let identity = Identity {
            url,
            name: "hand".to_owned(),
            count: 0,
            instance: 0,
        };
        let mut transport = transport_config(&Windows::default());
        transport.max_concurrent_uni_streams(VarInt::from_u32(1));
        let key = key();
        let dialler = Dialler {
            endpoint: &endpoint,
            certificate: &certificate,
            key: Some(&key),
            transport: &Arc::new(transport),
        };
        let client = dialler.dial(address, Pin::Anybody, Role::Client, PATIENCE);
        let mut peer = Peer {
            accepted: client.await.unwrap(),
            identity,
            fingerprint,
            _endpoint: endpoint.clone(),
        };
        let role = role(&peer);
        let dialled = dialler.dial(address, Pin::Anybody, role, PATIENCE).await;
        peer.accepted = dialled.unwrap();
        peer
    }

    /// Dials as a server that forwards.
    async fn forwarder(server: &Running) -> Peer {
        Peer::dial(server, |peer| Role::Transfer(peer.identity.clone())).await
    }

    async fn stream(&self) -> (SendHalf, RecvHalf) {
        let stream = tokio::time::timeout(PATIENCE, self.accepted.connection.open_bi()).await;
        let (send, recv) = stream.expect("a stream never waits").unwrap();
        (SendHalf::new(send), RecvHalf::new(recv))
    }

    /// Sends a request; gives the stream.
    async fn send(&self, request: &Request) -> (SendHalf, RecvHalf) {
        let (mut send, recv) = self.stream().await;
        send.frame(request).await.unwrap();
        (send, recv)
    }

    /// Asks something that is answered at once.
    async fn ask(&self, request: &Request) -> Reply {
        let (mut send, mut recv) = self.send(request).await;
        send.finish();
        let reply = tokio::time::timeout(PATIENCE, recv.frame()).await;
        reply.expect("an answer in time").unwrap()
    }

    /// The code with which the server closes the connection.
    async fn closed_with(&self) -> u64 {
        let closed = self.accepted.connection.closed();
        match tokio::time::timeout(PATIENCE, closed).await {
            Ok(quinn::ConnectionError::ApplicationClosed(closed)) => closed.error_code.into(),
            other => panic!("{other:?}"),
        }
    }
}

/// A request, as a server that forwards for `origin` sends it.
fn request(path: &str, op: impl Into<Op>, origin: &str) -> Request {
    Request {
        path: path.parse::<Path>().unwrap(),
        op: codec::encode(&op.into()).unwrap(),
        origin: origin.to_owned(),
        forwarded: !origin.is_empty(),
    }
}

fn id(of: &Running) -> String {
    Server::id(of.server())
}

impl Server {
    fn id(&self) -> String {
        self.fingerprint.id().to_string()
    }
}
