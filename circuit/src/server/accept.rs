//! Lets peers in: the acceptor's side of the handshake, and its limits.
//!
//! **Invariant:** until a peer was sent a `Welcome` it has one stream, a window of 16 KiB and five
//! seconds, and a place among those of [`admission`](crate::runtime::admission).

use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::dial::{Accepted, exporter};
use circuit_client::transport::endpoint::{close, plain};
use circuit_client::transport::stream::{RecvHalf, SendHalf};
use circuit_client::transport::tls::peer_fingerprint;
use circuit_proto::auth::{self, End};
use circuit_proto::handshake::{
    Answer, Close, Hello, Identity, Refused, Role, SPOKEN, Welcome, check_identity,
};
use circuit_proto::membership::Message;
use quinn::VarInt;
use tracing::{debug, info, warn};

use super::dispatch::Caller;
use super::requests::STREAMS_AT_FIRST;
use super::{Server, requests};
use crate::peer::Origin;
use crate::runtime::admission::Entry;
use crate::runtime::budget::Budget;

/// How long a handshake may take. docs/PROTOCOL.md, "Handshake".
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// How many bytes a peer may send before it is authenticated.
pub(super) const UNAUTHENTICATED_WINDOW: u32 = 16 << 10;

/// How long a refused peer has to read the reason.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How many connections are looked at before the other tasks of the thread have their turn. Chosen,
/// not measured: a look costs microseconds.
const TURN: usize = 32;

/// Accepts connections until the endpoint is closed.
pub(super) async fn accept(server: Arc<Server>) {
    let (unauthenticated, counters) = (&server.runtime.unauthenticated, &server.runtime.counters);
    let mut turn = Budget::new(TURN);
    while let Some(incoming) = server.endpoint.accept().await {
        turn.spend(1).await;
        let address = incoming.remote_address().ip();
        let validated = incoming.remote_address_validated();
        let place = match unauthenticated.enter(address, validated) {
            Entry::Place(place) => place,
            Entry::Validate => {
                // Fails only for an address that is validated already.
                let _ = incoming.retry();
                continue;
            }
            Entry::Full => {
                counters.refused.one();
                incoming.refuse();
                continue;
            }
        };
        let server = server.clone();
        tokio::spawn(async move {
            let handshake = handshake(&server, incoming);
            match tokio::time::timeout(HANDSHAKE_WAIT, handshake).await {
                Ok(Some(peer)) => {
                    drop(place);
                    serve(server, peer).await;
                }
                Ok(None) => (),
                Err(_) => debug!("a connection said nothing in time"),
            }
        });
    }
}

/// A peer that was admitted, and its role.
struct AdmittedPeer {
    connection: quinn::Connection,
    role: Admitted,
}

enum Admitted {
    Client,
    Link(Accepted, Option<Message>),
    Transfer(Accepted),
}

/// Makes the handshake with a peer. Tells a peer that it refuses why, and closes its connection.
async fn handshake(server: &Arc<Server>, incoming: quinn::Incoming) -> Option<AdmittedPeer> {
    let address = plain(incoming.remote_address());
    let connection = match incoming.await {
        Ok(connection) => connection,
        Err(error) => {
            debug!(%address, "no handshake: {error}");
            return None;
        }
    };
    // This closes the connection if the time runs out.
    let mut open = CloseSlow(Some(connection.clone()));
    let (send, recv) = connection.accept_bi().await.ok()?;
    let (mut send, mut recv) = (SendHalf::new(send), RecvHalf::new(recv));
    let admitted = match recv.raw_frame(UNAUTHENTICATED_WINDOW as usize).await {
        Ok(hello) => admit(server, &connection, &hello),
        Err(_) => Err(Refused::Malformed),
    };
    let (answer, result) = match admitted {
        Ok((welcome, role)) => (Answer::Welcome(welcome), Ok(role)),
        Err(reason) => (Answer::Refused(reason.clone()), Err(reason)),
    };
    if let Ok(role) = &result {
        // Before the answer, so that a peer that goes on at once finds room.
        open_up(&connection, role);
    }
    let sent = send.frame(&answer).await;
    send.finish();
    open.0 = None;
    match result {
        Ok(role) if sent.is_ok() => Some(AdmittedPeer { connection, role }),
        Ok(_) => None,
        Err(reason) => {
            server.runtime.counters.refused.one();
            // Two servers with one identity say so themselves.
            if !matches!(reason, Refused::Copy(_)) {
                server.refusals.log(|| {
                    let reason = our_view(&reason);
                    warn!(%address, "refused a connection: {reason}");
                });
            }
            let _ = tokio::time::timeout(CLOSE_WAIT, connection.closed()).await;
            close(&connection, reason.close());
            None
        }
    }
}

struct CloseSlow(Option<quinn::Connection>);

impl Drop for CloseSlow {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            close(&connection, Close::Slow);
        }
    }
}

/// Checks a `Hello` against everything that it claims.
fn admit(
    server: &Server,
    connection: &quinn::Connection,
    hello: &[u8],
) -> Result<(Welcome, Admitted), Refused> {
    let Hello { versions, body } = Hello::decode(hello)?;
    let version = versions.in_common(SPOKEN).ok_or(Refused::Version(SPOKEN))?;
    let exporter = exporter(connection).ok_or(Refused::Malformed)?;
    let key = server.key.as_ref();
    auth::check(key, End::Dialler, &exporter, body.proof.as_ref()).map_err(Refused::Key)?;
    if server.is_leaving() {
        return Err(Refused::Leaving);
    }
    let role = match body.role {
        Role::Client => Admitted::Client,
        Role::Link(identity, hello) => {
            let hello = match hello.as_slice() {
                [] => None,
                bytes => Message::decode(bytes).map_err(|_| Refused::Malformed)?,
            };
            let peer = peer(server, connection, identity)?;
            match server.peer.taken(&peer.fingerprint, peer.life()) {
                Some(other) => return Err(Refused::Taken(Box::new(other))),
                None => Admitted::Link(peer, hello),
            }
        }
        Role::Transfer(identity) => Admitted::Transfer(peer(server, connection, identity)?),
        Role::Copy { url, tenure } => {
            let by = peer_fingerprint(connection).ok_or(Refused::Identity)?;
            return Err(server.peer.on_asked(by, url, tenure));
        }
    };
    let proof = key.map(|key| auth::prove(key, End::Acceptor, &exporter));
    Ok((
        Welcome {
            version,
            identity: server.outbound.identity(),
            proof,
        },
        role,
    ))
}

fn peer(
    server: &Server,
    connection: &quinn::Connection,
    identity: Identity,
) -> Result<Accepted, Refused> {
    let fingerprint = peer_fingerprint(connection).ok_or(Refused::Identity)?;
    check_identity(&identity, fingerprint)?;
    if fingerprint == server.fingerprint {
        let mine = server.outbound.tenure();
        return Err(match identity.instance == mine.instance {
            true => Refused::Myself,
            false => Refused::Copy(mine),
        });
    }
    Ok(Accepted {
        connection: connection.clone(),
        fingerprint,
        identity,
    })
}

/// Lifts the limits of an unauthenticated peer.
fn open_up(connection: &quinn::Connection, role: &Admitted) {
    let streams = match role {
        Admitted::Client | Admitted::Transfer(_) => STREAMS_AT_FIRST,
        Admitted::Link(..) => {
            // The other side opens one stream, for messages.
            connection.set_max_concurrent_uni_streams(VarInt::from_u32(1));
            0
        }
    };
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
    // Each stream has its window; together they are not limited again, so that one which nobody
    // reads never stops another.
    connection.set_receive_window(VarInt::MAX);
}

/// The words for a refusal in the acceptor's own log.
pub(super) fn our_view(reason: &Refused) -> String {
    use circuit_proto::auth::KeyMismatch;
    match reason {
        Refused::Key(KeyMismatch::Missing) => "it has no key, and this circuit has one".to_owned(),
        Refused::Key(KeyMismatch::Wrong) => "it has another key".to_owned(),
        Refused::Key(KeyMismatch::Unexpected) => {
            "it has a key, and this circuit has none".to_owned()
        }
        Refused::Version(_) => "it speaks no version of the protocol that we speak".to_owned(),
        Refused::Identity => "its URL does not name its own key".to_owned(),
        Refused::Malformed => "its handshake is malformed".to_owned(),
        Refused::Copy(_) => "it has this server's identity".to_owned(),
        Refused::Taken(_) => {
            "there is a link with another server of its identity, in a later life".to_owned()
        }
        Refused::Myself | Refused::Busy | Refused::Leaving | Refused::User => reason.to_string(),
    }
}

async fn serve(server: Arc<Server>, peer: AdmittedPeer) {
    let AdmittedPeer { connection, role } = peer;
    let counters = &server.runtime.counters;
    let address = plain(connection.remote_address()).to_string().into();
    match role {
        Admitted::Client => {
            counters.clients.one();
            let _count = server.count_client();
            let tethers = server.tethers.clone();
            let serving =
                requests::serve(server.clone(), connection.clone(), Caller::Client(address));
            tokio::select! {
                () = serving => (),
                // All that it held is free then.
                () = tethers.client_gone(&connection) => close(&connection, Close::Done),
            }
        }
        Admitted::Transfer(peer) => {
            counters.transfers.one();
            let caller = Caller::Server(peer.fingerprint.id(), address);
            tokio::select! {
                () = requests::serve(server.clone(), connection.clone(), caller) => (),
                // Membership knows sooner than this connection's own time-out. Until then a reader
                // behind it would be handed what the next one should have.
                () = server.peer.outlived(peer.life()) => close(&connection, Close::Done),
            }
        }
        Admitted::Link(peer, hello) => {
            counters.links.one();
            info!("linked by {peer}");
            server.peer.adopt(peer, Origin::Accepted(hello));
        }
    }
}
