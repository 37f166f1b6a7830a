//! Hosts of their own: network namespaces with real interfaces, real multicast and cables that
//! can be cut.
//!
//! A test is a closure given to [`on_hosts`], which runs it where namespaces can be made: here as
//! root, elsewhere in a user namespace in which it is root. [`hosts`] gives it hosts on one
//! segment, which nobody else is on and from which nothing leads anywhere:
//!
//! ```text
//! on_hosts(|| {
//!     let [a, b] = hosts();
//!     let one = a.start("-if eth0 -discover 228.8.8.8:7711");
//!     let two = b.start("-if eth0 -discover 228.8.8.8:7711");
//!     b.cut();
//!     gone(&[&one], &two);
//! });
//! ```
//!
//! Times that are worth knowing are printed: `cargo test … hosts -- --show-output`.
//! Needs `ip` (iproute2). What else is missing is said: `skipped: needs …`.

mod addresses;
mod channels;
mod clients;
mod copies;
mod crashes;
mod cuts;
mod discovery;
mod events;
mod healing;
mod host;
mod joining;
mod keys;
mod middlebox;
mod returning;
mod routes;
mod sandbox;
mod segments;
mod six;
mod subscribers;
mod twelve;

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Circuit, Server};
use host::{Host, hosts, many_hosts};
use sandbox::on_hosts;

/// The group that the reference's README uses, and so everybody.
const GROUP: &str = "228.8.8.8:7711";

/// How a server is started that finds the others by itself.
const DISCOVER: &str = "-if eth0 -discover 228.8.8.8:7711";

/// How long a server that fell silent may be in the others' views.
const REMOVAL: Duration = Duration::from_secs(6);

/// How long a server whose process was killed may be in the others' views, where its kernel tells
/// them: far below what silence takes, and above what was measured (.6 s) by what a busy machine
/// adds.
const KILLED: Duration = Duration::from_secs(2);

/// Whether there is time for tests that take minutes.
fn is_long() -> bool {
    std::env::var_os("CIRCUIT_TEST_LONG").is_some_and(|value| !value.is_empty())
}

/// Starts servers, all at the same moment.
fn started(commands: Vec<Circuit>) -> Vec<Server> {
    thread::scope(|scope| {
        let starting: Vec<_> = commands
            .into_iter()
            .map(|command| scope.spawn(|| command.serve()))
            .collect();
        starting.into_iter().map(|s| s.join().unwrap()).collect()
    })
}

/// Starts a server on each host with the same flags, and waits until each sees all.
fn circuit_on(hosts: &[&Host], flags: &str) -> Vec<Server> {
    let commands = hosts.iter().map(|host| host.starting(flags)).collect();
    let servers = started(commands);
    whole(&servers.iter().collect::<Vec<_>>());
    servers
}

/// Waits until each of these servers has exactly these in its view.
fn whole(servers: &[&Server]) {
    for server in servers {
        for other in servers.iter().filter(|other| other.id() != server.id()) {
            server.logs(&format!("joined: {}", other.id()));
        }
    }
    Server::see_each_other(servers);
}

/// How much of each log there is.
fn logged(servers: &[&Server]) -> Vec<usize> {
    servers.iter().map(|server| server.logged()).collect()
}

/// Waits until each of these servers says this in what is new in its log. How long it took, and
/// who had not said it after that time.
fn said(
    servers: &[&Server],
    logged: &[usize],
    text: &str,
    within: Duration,
) -> (Duration, Vec<String>) {
    let begin = Instant::now();
    let silent = servers
        .iter()
        .zip(logged)
        .filter(|(server, logged)| {
            let left = within.saturating_sub(begin.elapsed());
            !server.logs_after(**logged, text, left)
        })
        .map(|(server, _)| server.url().to_string())
        .collect();
    (begin.elapsed(), silent)
}

/// Waits until each of these servers has removed another from its view, as its log tells from
/// there on. How long it took, for which there is a limit.
fn removed(servers: &[&Server], logged: &[usize], gone: &Server, within: Duration) -> Duration {
    let (took, silent) = said(servers, logged, &format!("left: {}", gone.id()), within);
    assert!(
        silent.is_empty(),
        "{} is after {within:?} still in the views of {silent:?}",
        gone.url()
    );
    took
}

/// Checks that each of these servers executes commands for a client of the next one.
fn work_together(servers: &[&Server]) {
    for (at, server) in servers.iter().enumerate() {
        let next = servers[(at + 1) % servers.len()];
        server
            .circuit(format!("run {} -- echo here", next.id()))
            .stdout("here\n")
            .run();
    }
}

/// Tells what was measured.
fn measured(what: &str, took: Duration) {
    eprintln!("measured: {what}: {:.2} s", took.as_secs_f64());
}
