//! Routes requests: to another server, or to the kind of element that the operation is for.
//!
//! A request that reaches no element gets its error here; the files of [`ops`] and the elements
//! word their own errors.

use std::sync::Arc;

use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError};
use circuit_proto::membership::Record;
use circuit_proto::path::ServerPart;
use circuit_proto::request::{Op, OpError, Request};
use circuit_proto::{Code, Error, Path, ServerId};

use super::call::{Call, Gone};
use super::requests::{self, Place};
use super::{Server, forward, ops};

/// The peer that sends requests over a connection.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// A client.
    Client(Arc<str>),
    /// A server, on behalf of its callers.
    Server(ServerId, Arc<str>),
}

/// A request that cannot be read, on a connection that is its caller's alone.
pub(super) struct Malformed;

/// Reads one request, and has this server or another execute it.
pub(super) async fn answer(
    server: Arc<Server>,
    caller: Caller,
    mut place: Place,
    send: SendHalf,
    mut recv: RecvHalf,
) -> Result<(), Malformed> {
    let mut request: Request = match (recv.frame().await, &caller) {
        (Ok(request), _) => request,
        (Err(StreamError::Protocol(_)), Caller::Client(_)) => {
            return Err(Malformed);
        }
        // The connection carries the requests of others too.
        (Err(StreamError::Protocol(error)), Caller::Server(..)) => {
            let error = Error::new(Code::InvalidArgument, format!("a bad request: {error}"));
            requests::refuse(send, error).await;
            return Ok(());
        }
        (Err(_), _) => return Ok(()),
    };
    let op = Op::decode(&request.op);
    let what = op.as_ref().map_or("unknown", Op::name);
    let target = find(&server, &request.path);
    if let (Ok(found), Some(ServerPart::Name(_))) = (&target, request.path.server()) {
        // A name becomes an id here, so that no other server looks it up.
        request.path = request.path.on_server(found.id(&server));
    }
    let who = caller.who(&request);
    let mut operation = server
        .operations
        .begin(who.clone(), what, request.path.clone());
    let forwards = !request.forwarded && matches!(caller, Caller::Client(_));
    let placed = match op.as_ref().is_ok_and(Op::waits) {
        true => place.wait(&request.origin),
        false => Ok(()),
    };
    let target = match placed.and(target) {
        Ok(Target::Other(record)) if forwards => {
            // The other server executes the request, and so logs it.
            operation.leave_unlogged();
            request.origin = who.to_string();
            request.forwarded = true;
            let changes = op.as_ref().map_or(true, Op::changes);
            forward::forward(&server, &record, request, changes, send, recv).await;
            return Ok(());
        }
        target => target,
    };
    let mut call = Call {
        server,
        path: request.path,
        operation,
        send,
        recv,
    };
    let answered = match (target, op) {
        // A server that leaves does not know any more who is in the circuit.
        (Err(error), _) if error.code == Code::NoSuchServer && call.server.is_leaving() => {
            call.send.abandoned().await;
            Err(Gone)
        }
        (Err(error), _) => call.refuse(error).await,
        (Ok(Target::Other(record)), _) => {
            // The forwarder's view and ours differ. A request is forwarded at most once.
            let error = format!("{} is not {}", call.server.named(), record.fingerprint.id());
            call.refuse(Error::new(Code::NoSuchServer, error)).await
        }
        (Ok(Target::Root), Ok(op)) => ops::anchor::execute_at_root(&mut call, op).await,
        (Ok(Target::Here), Ok(op)) => execute(&mut call, op).await,
        (Ok(_), Err(error)) => {
            let code = match error {
                OpError::UnknownKind(_) | OpError::UnknownOperation(..) => Code::Unsupported,
                OpError::Codec(_) => Code::InvalidArgument,
            };
            call.refuse(Error::new(code, error.to_string())).await
        }
    };
    // A caller that is gone needs no answer.
    let (Ok(()) | Err(Gone)) = answered;
    Ok(())
}

macro_rules! router {
    ($($room:ident $Room:ident { $($kinds:tt)* })*) => {
        /// Has an operation executed by the file of its kind.
        async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
            match op {
                Op::Anchor(op) => ops::anchor::execute(call, op).await,
                Op::Streams(op) => ops::streams::execute(call, op).await,
                $(Op::$Room(op) => ops::$room::execute(call, op).await,)*
            }
        }
    };
}

circuit_proto::kinds!(router);

/// The server that a request is for.
enum Target {
    Root,
    Here,
    Other(Record),
}

impl Target {
    fn id(&self, server: &Server) -> ServerId {
        match self {
            Target::Root | Target::Here => server.fingerprint.id(),
            Target::Other(record) => record.fingerprint.id(),
        }
    }
}

fn find(server: &Server, path: &Path) -> Result<Target, Error> {
    let found = match path.server() {
        None => return Ok(Target::Root),
        Some(ServerPart::Id(id)) if id == server.fingerprint.id() => return Ok(Target::Here),
        Some(ServerPart::Id(id)) => {
            let found = server.peer.member(id);
            found.ok_or_else(|| unknown(server, &format!("no server {id} in the circuit")))?
        }
        Some(ServerPart::Name(name)) => {
            let mut named = server.peer.members_named(name);
            match (named.pop(), named.as_slice()) {
                (Some(only), []) => only,
                (Some(last), others) => {
                    let all = others.iter().chain([&last]);
                    let ids: Vec<String> = all
                        .map(|record| {
                            let id = record.fingerprint.id();
                            format!("{id} at {}", record.url.authority())
                        })
                        .collect();
                    let message = format!(
                        "several servers are named {name}, use an id: {}",
                        ids.join(", ")
                    );
                    return Err(Error::new(Code::InvalidArgument, message));
                }
                (None, _) => return Err(unknown(server, &format!("no server is named {name}"))),
            }
        }
    };
    match found.fingerprint == server.fingerprint {
        true => Ok(Target::Here),
        false => Ok(Target::Other(found)),
    }
}

/// The error of a request for a server that is not in the view, which may be incomplete.
fn unknown(server: &Server, what: &str) -> Error {
    let message = match server.peer.is_cut_off() {
        true => format!(
            "{what}: {} has lost all its links, and cannot know who is alive",
            server.named()
        ),
        false => what.to_owned(),
    };
    Error::new(Code::NoSuchServer, message)
}

impl Caller {
    /// The caller's name in the log.
    fn who(&self, request: &Request) -> Arc<str> {
        match self {
            Caller::Client(address) => address.clone(),
            // Only a server is believed when it names somebody else.
            Caller::Server(id, _) if !request.origin.is_empty() => {
                format!("{} via {id}", shortened_origin(&request.origin)).into()
            }
            Caller::Server(id, address) => format!("{id} at {address}").into(),
        }
    }
}

/// The longest origin of a request that is kept, in bytes: an address and a port, with the name of an
/// interface (RFC 4007), are shorter. The operation log and the table of operations hold it.
const LONGEST_ORIGIN: usize = 128;

/// Another server's description of a caller, cut to the length that is kept.
fn shortened_origin(origin: &str) -> &str {
    let fits = |end: &usize| origin.is_char_boundary(*end);
    let end = (0..=LONGEST_ORIGIN.min(origin.len())).rev().find(fits);
    &origin[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer<F> = fn(Arc<Server>, Caller, Place, SendHalf, RecvHalf) -> F;

    fn size<F: Future>(_: Answer<F>) -> usize {
        size_of::<F>()
    }

    /// Each request in flight holds as much, whatever it asks.
    #[test]
    fn a_request_in_flight_is_small() {
        let size = size(answer);
        assert!(size <= 4592, "{size} bytes");
    }

    #[test]
    fn the_origin_that_another_server_names_is_bounded() {
        let request = Request {
            path: "/".parse().unwrap(),
            op: Vec::new(),
            origin: "ä".repeat(1 << 19),
            forwarded: true,
        };
        let caller = Caller::Server(ServerId(1), "10.0.0.1:1".into());
        let who = caller.who(&request);
        assert!(who.starts_with("ää"), "{who}");
        assert!(who.len() < 2 * LONGEST_ORIGIN, "{}", who.len());
    }
}
