//! The server as the element of its own anchor: its status, and the state of its threads and
//! operations.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::{Arc, Weak};

use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::server::{Counters, Status};
use circuit_proto::{Code, ElementKind, Error};

use super::Lifecycle;
use super::process::rfc3339;
use crate::peer::View;
use crate::runtime::descriptors::User;
use crate::server::Server as Host;

/// The element at the server's own anchor.
#[derive(Debug)]
pub struct Server {
    /// Weak, as the server holds the tree, and the tree this.
    host: Weak<Host>,
}

impl Server {
    /// The element of this server.
    pub fn new(host: &Arc<Host>) -> Arc<Server> {
        Arc::new(Server {
            host: Arc::downgrade(host),
        })
    }
}

impl Lifecycle for Server {
    fn kind(&self) -> ElementKind {
        ElementKind::Server
    }

    async fn status(&self) -> Result<AnyStatus, Error> {
        match self.host.upgrade() {
            Some(host) => Ok(AnyStatus::Server(status(&host))),
            None => Err(Error::new(Code::Closed, "the server has ended")),
        }
    }

    async fn retire(&self) -> Result<(), Error> {
        let message = "a server's own anchor holds the server for as long as it lives";
        Err(Error::new(Code::Refused, message))
    }

    async fn scrubbed(&self) {}
}

/// The counters and gauges of the server, in groups.
fn counters(server: &Host, view: &View) -> Counters {
    let runtime = &server.runtime;
    let (counters, descriptors) = (&runtime.counters, &runtime.descriptors);
    let group = |values: &[(&str, u64)]| -> BTreeMap<String, u64> {
        let values = values.iter();
        values
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    };
    let (written, dropped, waiting) = match server.operations.log() {
        Some(log) => log.counts(),
        None => (0, 0, 0),
    };
    let store = server.services.health().unwrap_or_default();
    let (started, ended) = (counters.started.get(), counters.ended.get());
    let groups = [
        (
            "Connections",
            group(&[
                ("Open", server.connections() as u64),
                ("Clients", server.clients() as u64),
                ("Forwarding", server.transfers_opened() as u64),
                ("Unauthenticated", server.unauthenticated() as u64),
                ("AcceptedClients", counters.clients.get()),
                ("AcceptedLinks", counters.links.get()),
                ("AcceptedForwarders", counters.transfers.get()),
                ("Refused", counters.refused.get()),
            ]),
        ),
        (
            "Requests",
            group(&[
                ("InFlight", server.operations.count() as u64),
                ("Forwarded", counters.forwarded.get()),
            ]),
        ),
        ("Outcomes", counters.outcomes.all()),
        (
            "Bytes",
            group(&[
                ("Sent", counters.sent.get()),
                ("Received", counters.received.get()),
            ]),
        ),
        (
            "Processes",
            group(&[
                ("Started", started),
                ("NotStarted", counters.not_started.get()),
                ("Running", started.saturating_sub(ended)),
                ("Forgotten", runtime.drains.len() as u64),
            ]),
        ),
        (
            "Messages",
            group(&[
                ("Sent", counters.messages_sent.get()),
                ("Received", counters.messages_received.get()),
            ]),
        ),
        (
            "Membership",
            group(&[
                ("Links", view.links.len() as u64),
                ("Suspected", view.suspected.len() as u64),
                ("Joined", counters.joined.get()),
                ("Left", counters.left.get()),
            ]),
        ),
        (
            "Queues",
            group(&[
                ("Driver", server.peer.queued() as u64),
                ("Log", waiting),
                ("Spawning", runtime.spawning.waiting() as u64),
                ("Resolving", runtime.resolving.waiting() as u64),
            ]),
        ),
        ("Log", group(&[("Written", written), ("Dropped", dropped)])),
        (
            "Store",
            group(&[
                ("Bytes", store.bytes),
                ("Writes", store.writes),
                ("Commits", store.commits),
                ("Waiting", (store.waiting + store.unwritten) as u64),
                ("Short", u64::from(store.short)),
            ]),
        ),
        ("Services", group(&[("Made", server.services.len() as u64)])),
        (
            "Descriptors",
            group(&[
                ("Limit", descriptors.limit()),
                ("Used", descriptors.used()),
                ("Reserved", descriptors.reserve()),
                ("Processes", descriptors.used_by(User::Processes)),
                ("Containers", descriptors.used_by(User::Containers)),
                ("Dns", descriptors.used_by(User::Dns)),
                ("Tethers", descriptors.used_by(User::Tethers)),
                ("Clients", descriptors.used_by(User::Clients)),
            ]),
        ),
    ];
    let named = groups.into_iter();
    named
        .map(|(name, group)| (name.to_owned(), group))
        .collect()
}

/// The status of the server.
fn status(server: &Host) -> Status {
    let view = server.peer.view();
    let counters = counters(server, &view);
    Status {
        addr: server.me.url.clone(),
        joined: rfc3339(server.started),
        name: server.me.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        key: server.key.is_some(),
        servers: view.servers as u64,
        degree: view.links.len() as u64,
        tethers: server.tethers.beside(&view.links) as u64,
        links: view.links,
        suspected: view.suspected,
        isolated: view.isolated,
        clients: server.clients() as u64,
        // The server's own anchor does not count.
        elements: server.tree.len().saturating_sub(1) as u64,
        store_error: server.services.health().and_then(|store| store.error),
        counters,
    }
}

/// The operations in flight, from the server's own table, its connections, and its threads, from
/// `/proc`.
pub fn stacks(server: &Host) -> String {
    let mut text = String::new();
    let in_flight = server.operations.in_flight();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "operations in flight: {}", in_flight.len());
    for operation in in_flight {
        let seconds = operation.since.elapsed().as_secs_f64();
        let (what, path, who) = (operation.what, &operation.path, &operation.who);
        let _ = writeln!(text, "  {what} {path} by {who} for {seconds:.3} s");
    }
    let (connections, clients) = (server.connections(), server.clients());
    let transfers = server.transfers_opened();
    let _ = writeln!(
        text,
        "connections: {connections} ({clients} of clients, {transfers} opened to forward requests)"
    );
    let threads = threads();
    let _ = writeln!(text, "threads: {}", threads.len());
    for thread in threads {
        let _ = writeln!(text, "  {thread}");
    }
    text
}

/// A line per thread: number, name, state, and where in the kernel it waits.
fn threads() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let mut threads: Vec<String> = entries
        .map(|entry| {
            let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let stat = read("stat");
            // proc(5): the state follows the name, which is in parentheses.
            let state = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .trim()
                .chars()
                .next();
            let number = entry.file_name();
            let (number, name) = (number.to_string_lossy(), read("comm"));
            let place = match read("wchan").trim() {
                "" | "0" => String::new(),
                place => format!(" in {place}"),
            };
            format!("{number} {} {}{place}", name.trim(), state.unwrap_or('?'))
        })
        .collect();
    threads.sort();
    threads
}
