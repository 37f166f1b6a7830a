//! From a request to the element that it concerns, and back.
//!
//! What goes wrong before an element is reached becomes an error on the wire here; elements say
//! themselves what went wrong in them.

use std::net::SocketAddr;
use std::sync::Arc;

use circuit_client::transport::endpoint::close;
use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError};
use circuit_proto::element::anchor::Listed;
use circuit_proto::element::process::Cmd;
use circuit_proto::element::streams::Ended;
use circuit_proto::element::{
    Status, anchor, channel as chan, container, dns as nameserver, process as proc, server as own,
    streams, subscription,
};
use circuit_proto::handshake::Close;
use circuit_proto::membership::Record;
use circuit_proto::path::ServerPart;
use circuit_proto::request::{Op, OpError, Request};
use circuit_proto::{Code, Error, Path, ServerId};

use super::address::{self, AddressError};
use super::call::Call;
use super::{FAREWELL, Server, forward};
use crate::anchor::Reservation;
use crate::element::Element;
use crate::element::channel::Channel;
use crate::element::dns::Dns;
use crate::element::process::{Process, SpawnError};
use crate::element::streams::{Attachable, Streams};
use crate::element::subscription::Subscription;
use crate::peer::Watch;

/// Who sends requests over a connection.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// A client.
    Client(Arc<str>),
    /// A server, on behalf of its callers.
    Server(ServerId, Arc<str>),
}

/// Reads one request, finds out whose it is, and has it done.
pub(super) async fn answer(
    server: Arc<Server>,
    connection: quinn::Connection,
    caller: Caller,
    send: SendHalf,
    mut recv: RecvHalf,
) {
    let mut request: Request = match recv.frame().await {
        Ok(request) => request,
        Err(StreamError::Protocol(_)) => return close(&connection, Close::Malformed),
        Err(_) => return,
    };
    let op = Op::decode(&request.op);
    let what = op.as_ref().map_or("unknown", Op::name);
    let target = find(&server, &request.path);
    if let (Ok(found), Some(ServerPart::Name(_))) = (&target, request.path.server()) {
        // Names become ids, here and for good.
        request.path = request.path.on_server(found.id(&server));
    }
    let who = caller.who(&request);
    let operation = server
        .operations
        .begin(who.clone(), what, request.path.clone());
    let mut call = Call {
        server,
        operation,
        send,
        recv,
    };
    match (target, op) {
        (Err(error), _) => call.refuse(error).await,
        (Ok(Target::Other(record)), _)
            if request.forwarded || matches!(caller, Caller::Server(..)) =>
        {
            // Forwarded once, never twice: the sender's view and ours differ.
            let error = format!("{} is not {}", call.server.me.url, record.fingerprint.id());
            call.refuse(Error::new(Code::NoSuchServer, error)).await;
        }
        (Ok(Target::Other(record)), op) => {
            // Executed, and so logged, by the other server.
            call.operation.leave_unlogged();
            request.origin = who.to_string();
            request.forwarded = true;
            let changes = op.as_ref().map_or(true, Op::changes);
            forward::forward(
                &call.server,
                &record,
                request,
                changes,
                call.send,
                call.recv,
            )
            .await;
        }
        (Ok(Target::Root), Ok(op)) => call.on_root(op).await,
        (Ok(Target::Here), Ok(op)) => call.run(request.path, op).await,
        (Ok(_), Err(error)) => {
            let code = match error {
                OpError::UnknownKind(_) | OpError::UnknownOperation(..) => Code::Unsupported,
                OpError::Codec(_) => Code::InvalidArgument,
            };
            call.refuse(Error::new(code, error.to_string())).await;
        }
    }
}

/// Where a request belongs.
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
                        .map(|record| record.fingerprint.id().to_string())
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

/// The error of who names a server that is not in the view, which may be all that is wrong.
fn unknown(server: &Server, what: &str) -> Error {
    let message = match server.peer.is_cut_off() {
        true => format!(
            "{what}: {} has lost all its links, and cannot know who is alive",
            server.me.name
        ),
        false => what.to_owned(),
    };
    Error::new(Code::NoSuchServer, message)
}

impl Caller {
    /// Who asks, for the log.
    fn who(&self, request: &Request) -> Arc<str> {
        match self {
            Caller::Client(address) => address.clone(),
            // Only a server is believed when it names somebody else.
            Caller::Server(id, _) if !request.origin.is_empty() => {
                format!("{} via {id}", request.origin).into()
            }
            Caller::Server(id, address) => format!("{id} at {address}").into(),
        }
    }
}

impl Call {
    async fn on_root(self, op: Op) {
        match op {
            Op::Anchor(anchor::Op::List { .. }) => {
                let servers = self.server.peer.servers().into_iter().map(Listed::Server);
                let servers = servers.collect();
                self.list(servers).await;
            }
            Op::Anchor(anchor::Op::Peek) => self.answer(Ok(None::<Status>)).await,
            _ => {
                let message = "the root holds no element: name a server, as in /X…/name";
                self.refuse(Error::new(Code::InvalidArgument, message))
                    .await;
            }
        }
    }

    async fn run(mut self, path: Path, op: Op) {
        let names = path.below_server();
        let element = self.server.tree.get(names);
        match op {
            Op::Anchor(anchor::Op::List { recursive }) => {
                let anchors = self.server.anchors(names, recursive);
                self.list(anchors).await;
            }
            Op::Anchor(anchor::Op::Peek) => {
                let status = tokio::select! {
                    // Only a container's has to be waited for.
                    biased;
                    status = self.server.status(element.as_ref()) => status,
                    () = self.send.abandoned() => return,
                };
                self.answer(status).await;
            }
            Op::Anchor(anchor::Op::Scrub) => {
                let result = self.scrub(names, element).await;
                self.answer(result).await;
            }
            Op::Process(proc::Op::Make(cmd)) => {
                let result = self.make_process(&path, cmd).await;
                self.answer(result).await;
            }
            Op::Streams(streams::Op::Stdin) => {
                match attach(element, "stdin", |streams| streams.stdin.attach()) {
                    Ok((writing, element)) => self.write(writing, &*element).await,
                    Err(error) => self.refuse(error).await,
                }
            }
            Op::Streams(streams::Op::Stdout) => {
                match attach(element, "stdout", |streams| streams.stdout.attach()) {
                    Ok((reading, element)) => self.read(reading, &*element).await,
                    Err(error) => self.refuse(error).await,
                }
            }
            Op::Streams(streams::Op::Stderr) => {
                match attach(element, "stderr", |streams| streams.stderr.attach()) {
                    Ok((reading, element)) => self.read(reading, &*element).await,
                    Err(error) => self.refuse(error).await,
                }
            }
            Op::Streams(streams::Op::Wait) => {
                let ended = tokio::select! {
                    ended = ended(element.clone()) => ended,
                    () = self.send.abandoned() => {
                        if let Some(Element::Process(process)) = &element {
                            process.waiter_gone();
                        }
                        return;
                    }
                };
                self.answer(ended).await;
            }
            Op::Streams(streams::Op::Signal { signal, group }) => {
                let result = match element {
                    Some(Element::Process(process)) => process.signal(&signal, group),
                    Some(Element::Container(container)) => container.signal(&signal, group).await,
                    other => Err(wrong_kind(other, "signal")),
                };
                self.answer(result).await;
            }
            Op::Process(proc::Op::Resize { size }) => {
                let result = process(element, "resize").and_then(|p| p.resize(size));
                self.answer(result).await;
            }
            Op::Server(own::Op::Join { url }) => {
                let result = match this_server(element, "join") {
                    Ok(()) => tokio::select! {
                        result = self.server.peer.join(&url) => result,
                        () = self.send.abandoned() => return,
                    },
                    Err(error) => Err(error),
                };
                self.answer(result).await;
            }
            Op::Server(own::Op::Suicide) => {
                let result = this_server(element, "suicide");
                let (server, leaves) = (self.server.clone(), result.is_ok());
                if leaves {
                    server.withdraw();
                }
                let heard = self.send.received();
                self.answer(result).await;
                if leaves {
                    // Who asked is to hear of it before the connection goes.
                    let _ = tokio::time::timeout(FAREWELL, heard).await;
                    server.stop();
                }
            }
            Op::Server(own::Op::Stacks) => match this_server(element, "stk") {
                Ok(()) => {
                    let text = crate::element::server::stacks(&self.server);
                    self.text(text).await;
                }
                Err(error) => self.refuse(error).await,
            },
            Op::Channel(chan::Op::Make { capacity }) => {
                let make = || Channel::new(capacity).map(Element::Channel);
                let result = self.make(names, make);
                self.answer(result).await;
            }
            Op::Channel(chan::Op::Send) => match channel(element, "send") {
                Ok(channel) => self.send_message(&channel).await,
                Err(error) => self.refuse(error).await,
            },
            Op::Channel(chan::Op::Receive) => match source(element, "recv") {
                Ok(channel) => self.receive_message(&channel).await,
                Err(error) => self.refuse(error).await,
            },
            Op::Channel(chan::Op::SendMany) => match channel(element, "send") {
                Ok(channel) => self.send_messages(&channel).await,
                Err(error) => self.refuse(error).await,
            },
            Op::Channel(chan::Op::ReceiveMany) => match source(element, "recv") {
                Ok(channel) => self.receive_messages(&channel).await,
                Err(error) => self.refuse(error).await,
            },
            Op::Channel(chan::Op::Close) => {
                let close = || channel(element, "close").and_then(|channel| channel.close());
                let result = self.operation.in_order(close, |_| true);
                self.answer(result).await;
            }
            Op::Subscription(subscription::Op::Make { source }) => {
                let result = self.make_subscription(names, source);
                self.answer(result).await;
            }
            Op::Dns(nameserver::Op::Make { address, zone }) => {
                let result = self.make_dns(names, address, zone).await;
                self.answer(result).await;
            }
            Op::Dns(nameserver::Op::Set { record }) => {
                let set = || dns(element, "set").and_then(|dns| dns.set(&record));
                let result = self.operation.in_order(set, |_| true);
                self.answer(result).await;
            }
            Op::Dns(nameserver::Op::Unset { name, kind }) => {
                let unset = || dns(element, "unset")?.unset(&name, kind.as_deref());
                let result = self.operation.in_order(unset, |_| true);
                self.answer(result).await;
            }
            // Apart: three quarters of what every request would carry along.
            Op::Container(container::Op::Make(run)) => {
                Box::pin(self.make_container(path, run)).await
            }
        }
    }

    /// Makes an element that is there at once.
    fn make(
        &mut self,
        names: &[String],
        make: impl FnOnce() -> Result<Element, Error>,
    ) -> Result<(), Error> {
        let server = self.server.clone();
        self.operation.in_order(
            || {
                let place = server.tree.reserve(names);
                let place = place.map_err(|_| occupied(server.tree.get(names)))?;
                place.commit(make()?);
                Ok(())
            },
            |_| true,
        )
    }

    fn make_subscription(
        &mut self,
        names: &[String],
        source: subscription::Source,
    ) -> Result<(), Error> {
        let peer = self.server.peer.clone();
        self.make(names, || {
            let subscription = Subscription::new(source)?;
            let watcher: Arc<dyn Watch> = subscription.clone();
            peer.watch(&watcher);
            Ok(Element::Subscription(subscription))
        })
    }

    /// Makes a DNS server. Its address may have to be looked up, so the place is kept meanwhile.
    async fn make_dns(
        &mut self,
        names: &[String],
        address: Option<String>,
        zone: Option<String>,
    ) -> Result<(), Error> {
        let server = self.server.clone();
        let place = self.reserve(names)?;
        let address = match address {
            None => SocketAddr::new(server.address, 0),
            Some(text) => {
                let resolved = tokio::task::spawn_blocking(move || address::resolve(&text)).await;
                let resolved = resolved.map_err(|error| error.to_string());
                let resolved = resolved.and_then(|found| found.map_err(|e| with_cause(&e)));
                let invalid = |what| Error::new(Code::InvalidArgument, what);
                let (ip, port) = resolved.map_err(invalid)?;
                SocketAddr::new(ip.unwrap_or(server.address), port)
            }
        };
        let dns = Dns::start(address, zone.as_deref(), server.fingerprint.id())?;
        if dns.has_zone() {
            let watcher: Arc<dyn Watch> = dns.clone();
            server.peer.watch(&watcher);
        }
        let commit = || {
            place.commit(Element::Dns(dns));
            Ok(())
        };
        self.operation.in_order(commit, |_| true)
    }

    /// Keeps a place. A loser is logged at once, a winner when its element is there.
    pub(super) fn reserve(&mut self, names: &[String]) -> Result<Reservation<Element>, Error> {
        let server = self.server.clone();
        self.operation.in_order(
            || {
                server
                    .tree
                    .reserve(names)
                    .map_err(|_| occupied(server.tree.get(names)))
            },
            Result::is_err,
        )
    }

    /// Makes a process element, and sees to it that one which forgets itself does.
    async fn make_process(&mut self, path: &Path, cmd: Cmd) -> Result<(), Error> {
        let (server, names) = (self.server.clone(), path.below_server());
        let reserved = self.reserve(names)?;
        let process = Process::spawn(cmd)
            .await
            .map_err(|error| exec_failed(&server, &error))?;
        let element = Element::Process(process.clone());
        let committed = element.clone();
        self.operation.in_order(
            || {
                reserved.commit(committed);
                Ok(())
            },
            |_| true,
        )?;
        if process.forgets_itself() {
            let names = names.to_vec();
            tokio::spawn(async move {
                process.forgettable().await;
                let same = |found: &Element| found.is(&element);
                if server.tree.remove_if(&names, same).is_some() {
                    process.scrub();
                }
            });
        }
        Ok(())
    }

    async fn scrub(&mut self, names: &[String], element: Option<Element>) -> Result<(), Error> {
        let server = self.server.clone();
        let element = element.ok_or_else(nothing_there)?;
        match &element {
            Element::Server => {
                let message = "a server's own anchor holds the server for as long as it lives";
                return Err(Error::new(Code::Refused, message));
            }
            Element::Container(container) => container.remove().await?,
            Element::Process(_)
            | Element::Channel(_)
            | Element::Subscription(_)
            | Element::Dns(_) => (),
        }
        // Who else removed it meanwhile made place for another's, which is left alone.
        let same = |found: &Element| found.is(&element);
        let remove = || server.tree.remove_if(names, same).ok_or_else(nothing_there);
        match self.operation.in_order(remove, |_| true)? {
            Element::Process(process) => process.scrub(),
            Element::Channel(channel) => channel.scrub(),
            Element::Subscription(subscription) => subscription.channel().scrub(),
            Element::Dns(dns) => dns.end().await,
            Element::Container(container) => container.scrub(),
            Element::Server => (),
        }
        Ok(())
    }
}

fn process(element: Option<Element>, what: &str) -> Result<Arc<Process>, Error> {
    match element {
        Some(Element::Process(process)) => Ok(process),
        other => Err(wrong_kind(other, what)),
    }
}

/// Waits until the element has ended.
async fn ended(element: Option<Element>) -> Result<Ended, Error> {
    match element {
        Some(Element::Process(process)) => Ok(Ended::Process(Box::new(process.wait().await?))),
        Some(Element::Container(container)) => {
            Ok(Ended::Container(Box::new(container.wait().await?)))
        }
        other => Err(wrong_kind(other, "wait")),
    }
}

/// A hold on one of an element's streams, and the element.
fn attach<T>(
    element: Option<Element>,
    what: &str,
    attach: impl FnOnce(&Streams) -> Result<T, Error>,
) -> Result<(T, Arc<dyn Attachable>), Error> {
    match element.as_ref().and_then(Element::attachable) {
        Some(attachable) => Ok((attach(attachable.streams())?, attachable)),
        None => Err(wrong_kind(element, what)),
    }
}

fn channel(element: Option<Element>, what: &str) -> Result<Arc<Channel>, Error> {
    match element {
        Some(Element::Channel(channel)) => Ok(channel),
        other => Err(wrong_kind(other, what)),
    }
}

/// What messages are received from.
fn source(element: Option<Element>, what: &str) -> Result<Arc<Channel>, Error> {
    match element {
        Some(Element::Channel(channel)) => Ok(channel),
        Some(Element::Subscription(subscription)) => Ok(subscription.channel().clone()),
        other => Err(wrong_kind(other, what)),
    }
}

fn dns(element: Option<Element>, what: &str) -> Result<Arc<Dns>, Error> {
    match element {
        Some(Element::Dns(dns)) => Ok(dns),
        other => Err(wrong_kind(other, what)),
    }
}

/// What went wrong, and why.
fn with_cause(error: &AddressError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn this_server(element: Option<Element>, what: &str) -> Result<(), Error> {
    match element {
        Some(Element::Server) => Ok(()),
        other => Err(wrong_kind(other, what)),
    }
}

fn wrong_kind(element: Option<Element>, what: &str) -> Error {
    match element {
        None => nothing_there(),
        Some(other) => Error::new(
            Code::WrongKind,
            format!("a {} does not take {what}", other.kind()),
        ),
    }
}

fn nothing_there() -> Error {
    Error::new(Code::NoSuchElement, "nothing there")
}

fn occupied(holder: Option<Element>) -> Error {
    Error::new(
        Code::Occupied,
        match holder {
            Some(element) => format!("occupied by a {}", element.kind()),
            None => "occupied: somebody else is making an element there".to_owned(),
        },
    )
}

fn exec_failed(server: &Server, error: &SpawnError) -> Error {
    let code = match error {
        SpawnError::Invalid(_) => Code::InvalidArgument,
        SpawnError::Exec { .. } | SpawnError::File { .. } => Code::Exec,
        SpawnError::System(_) => Code::Busy,
    };
    match error {
        SpawnError::Invalid(_) => Error::new(code, error.to_string()),
        _ => Error::new(
            code,
            format!("{error} (exec on {})", server.me.url.authority()),
        ),
    }
}
