//! Serves clients on this host, who come over a Unix socket.
//!
//! A socket's file is the door: whoever its permissions let in may do all that the server may. There
//! is no key and no TLS. [`file`](mod@file) makes the files, [`handshakes`] bounds the connections of those
//! who have not said yet what they want, [`users`] knows who may and who is there; the requests are those that come over the network, executed by the same [`dispatch`](super::dispatch).
//!
//! **Invariant:** a connection carries one request at a time. When its other end is gone, the request
//! learns so at once.
//!
//! **Invariant:** a request beyond its user's limit is answered `Busy`, over however many connections
//! the user's requests come.

pub mod file;
mod handshakes;
mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use circuit_client::chain;
use circuit_client::transport::socket::Connection;
use circuit_client::transport::stream::StreamError;
use circuit_proto::handshake::{Answer, Hello, Refused, Role, SPOKEN, Welcome};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

use super::accept::our_view;
use super::dispatch::Caller;
use super::{Server, requests};
use crate::runtime::budget::Budget;
use crate::runtime::descriptors::{Short, Taken, User};
use crate::runtime::transient::is_transient;
use file::{Door, FileState};
pub(super) use handshakes::Handshakes;
use handshakes::Place;
pub(super) use users::Users;

/// How long a handshake may take. docs/PROTOCOL.md, "Handshake".
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);

/// The longest `Hello`, in bytes.
const LONGEST_HELLO: usize = 16 << 10;

/// How long the acceptor waits when the system has no descriptor for it. Chosen, not measured.
const SCARCE: Duration = Duration::from_millis(50);

/// How many connections are accepted before the other tasks of the thread have their turn. Chosen, not
/// measured: one costs some ten microseconds.
const TURN: usize = 32;

/// How often the acceptor looks whether the socket's file is still there. Chosen, not measured: a look
/// costs a microsecond.
const LOOK: Duration = Duration::from_secs(5);

/// Accepts connections at the socket of this path until the server closes them. A file that somebody has
/// removed is made again.
pub(super) async fn accept(
    server: Arc<Server>,
    mut listener: UnixListener,
    path: PathBuf,
    door: Door,
) {
    let mut closing = server.closing.subscribe();
    let mut turn = Budget::new(TURN);
    let mut looks = tokio::time::interval(LOOK);
    let mut last = FileState::There;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The sender lives in the server, so the watch cannot end before it tells.
            _ = closing.wait_for(|closing| *closing) => return,
            _ = looks.tick() => {
                if let Some(again) = look_after(&server, &path, &mut last) {
                    listener = again;
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => admit(&server, stream, door),
            Err(error) if is_transient(&error) => {
                warn!("cannot accept a connection on this host: {error}");
                tokio::time::sleep(SCARCE).await;
            }
            Err(error) => return warn!("the socket for this host is lost: {error}"),
        }
        turn.spend(1).await;
    }
}

/// Makes the socket's file again if somebody has removed it; says once what is wrong. `last` is the state
/// that it was in at the last look.
fn look_after(server: &Server, path: &Path, last: &mut FileState) -> Option<UnixListener> {
    let mut files = server.sockets.lock();
    // A server that leaves has removed it itself.
    let file = files.iter_mut().find(|file| file.path() == path)?;
    let state = file.state();
    let before = std::mem::replace(last, state);
    match state {
        FileState::There => None,
        FileState::Replaced if before == state => None,
        FileState::Replaced => {
            let shown = path.display();
            warn!(
                "somebody has replaced the socket {shown}: clients on this host do not find this \
                   server there"
            );
            None
        }
        FileState::Gone => {
            let made = file.make_again().map_err(|error| chain(&error));
            let listener = made.and_then(|socket| {
                UnixListener::from_std(socket.into()).map_err(|error| error.to_string())
            });
            match listener {
                Ok(listener) => {
                    warn!(
                        "somebody has removed the socket {}: made again",
                        path.display()
                    );
                    *last = FileState::There;
                    Some(listener)
                }
                Err(_) if before == state => None,
                Err(why) => {
                    warn!("somebody has removed the socket {}: {why}", path.display());
                    None
                }
            }
        }
    }
}

/// Begins to serve a connection, if its user may.
fn admit(server: &Arc<Server>, stream: UnixStream, door: Door) {
    let admitted = match stream.peer_cred() {
        Ok(cred) if door.lets_in(cred.uid()) => {
            match server.runtime.descriptors.take(User::Clients, 1) {
                _ if server.is_leaving() => Err((Some(cred), Turned::Refused(Refused::Leaving))),
                Ok(taken) => Ok((cred, taken)),
                Err(short) => Err((Some(cred), Turned::Short(short))),
            }
        }
        Ok(cred) => Err((Some(cred), Turned::Refused(Refused::User))),
        Err(error) => Err((None, Turned::Unknown(error))),
    };
    let connection = Connection::accepted(stream);
    match admitted {
        Ok((cred, taken)) => {
            let place = server.handshakes.enter(cred.uid());
            // One that has said its `Hello` by now is heard before anybody takes its place.
            connection.read_ahead(LONGEST_HELLO);
            let (server, mut closing) = (server.clone(), server.closing.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    () = serve(server, &connection, cred, place, taken) => (),
                    _ = closing.wait_for(|closing| *closing) => (),
                }
            });
        }
        Err((cred, turned)) => {
            let who = cred.as_ref().map_or_else(|| "unknown".to_owned(), named);
            refused(server, &who, &turned);
            let refusal = Answer::Refused(match turned {
                Turned::Refused(reason) => reason,
                Turned::Short(_) => Refused::Busy,
                Turned::Unknown(_) | Turned::Slow => Refused::User,
            });
            tokio::spawn(async move {
                let (mut send, _recv) = connection.open();
                let refusal = send.last_frame(&refusal);
                // A client that is gone needs no answer.
                let _ = tokio::time::timeout(HANDSHAKE_WAIT, refusal).await;
            });
        }
    }
}

/// Why a connection carries no requests.
#[derive(Debug, thiserror::Error)]
enum Turned {
    /// The client was told why.
    #[error("{}", our_view(.0))]
    Refused(Refused),
    /// No descriptor is left for it.
    #[error("{0}")]
    Short(Short),
    /// The system does not say whose it is.
    #[error("the system does not say whose it is: {0}")]
    Unknown(std::io::Error),
    /// It did not say its `Hello` in time.
    #[error("it said nothing in time")]
    Slow,
}

/// Counts and logs a connection that carries no requests.
fn refused(server: &Server, who: &str, turned: &Turned) {
    server.runtime.counters.refused.one();
    server
        .refusals
        .log(|| warn!(who, "refused a client on this host: {turned}"));
}

/// The description of a client in the log.
fn named(cred: &UCred) -> String {
    match cred.pid() {
        Some(pid) => format!("uid {} pid {pid}", cred.uid()),
        // A process that this one cannot see.
        None => format!("uid {}", cred.uid()),
    }
}

/// Serves the requests of a connection, one behind the other, until it ends.
async fn serve(
    server: Arc<Server>,
    connection: &Arc<Connection>,
    cred: UCred,
    place: Place,
    _taken: Taken,
) {
    let who = named(&cred);
    let greeting = greet(&server, connection, &place);
    match tokio::time::timeout(HANDSHAKE_WAIT, greeting).await {
        Ok(Ok(true)) => drop(place),
        Ok(Ok(false)) => return debug!("a client on this host made no handshake"),
        Ok(Err(reason)) => return refused(&server, &who, &Turned::Refused(reason)),
        Err(_) => return refused(&server, &who, &Turned::Slow),
    }
    let user = server.users.enter(&cred);
    let caller = Caller::Client(who.into());
    if user.is_first() {
        server.runtime.counters.clients.one();
    }
    loop {
        let (send, mut recv) = connection.open();
        // The place is taken when the request begins.
        match recv.at_finish().await {
            Ok(false) => (),
            Ok(true) | Err(_) => return,
        }
        let place = user.places().enter();
        // One that cannot be read is not answered: the connection ends.
        let _ = requests::request(server.clone(), caller.clone(), place, send, recv).await;
        connection.flush().await;
        if !connection.is_in_order() {
            return;
        }
    }
}

/// The handshake: one frame each way. Whether the connection carries requests now, or why the client was
/// refused.
async fn greet(
    server: &Server,
    connection: &Arc<Connection>,
    place: &Place,
) -> Result<bool, Refused> {
    let (mut send, mut recv) = connection.open();
    let hello = tokio::select! {
        biased;
        hello = recv.raw_frame(LONGEST_HELLO) => hello,
        () = place.lost() => {
            // A client that is gone needs no answer.
            let _ = send.last_frame(&Answer::Refused(Refused::Busy)).await;
            return Err(Refused::Busy);
        }
    };
    let hello = match hello {
        Ok(hello) => Hello::decode(&hello),
        // It came and went.
        Err(StreamError::Abandoned | StreamError::Lost(_)) if !recv.has_begun() => {
            return Ok(false);
        }
        Err(_) => Err(Refused::Malformed),
    };
    let version = hello.and_then(|hello| match hello.body.role {
        Role::Client => hello
            .versions
            .in_common(SPOKEN)
            .ok_or(Refused::Version(SPOKEN)),
        // Servers link over the network.
        Role::Link(..) | Role::Transfer(_) | Role::Copy { .. } => Err(Refused::Malformed),
    });
    let version = match version {
        Ok(version) => version,
        Err(reason) => {
            // A client that is gone needs no answer.
            let _ = send.last_frame(&Answer::Refused(reason.clone())).await;
            return Err(reason);
        }
    };
    let welcome = Answer::Welcome(Welcome {
        version,
        identity: server.outbound.identity(),
        proof: None,
    });
    let answered = send.last_frame(&welcome).await;
    drop((send, recv));
    Ok(answered.is_ok() && connection.is_in_order())
}
