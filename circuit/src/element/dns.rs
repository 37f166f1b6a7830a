//! A DNS server: records that are set one by one, and answers about them over UDP and TCP.
//!
//! [`text`] reads and prints records, [`records`] holds them, [`answer`] makes answers of packets,
//! [`socket`] moves packets, and [`live`] keeps the records of live servers; [`shared`] is all that
//! two threads use. Each element has a thread of its own, so that neither it nor the fabric slows
//! the other.
//!
//! **Invariant:** the sockets are bound before the element exists, and closed when
//! [`end`](Dns::end) returns. A change that was acknowledged is in every later answer.

mod answer;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod lexer;
mod live;
mod query;
mod records;
mod shared;
mod socket;
mod text;

use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::dns::Status;
use circuit_proto::membership::Notice;
use circuit_proto::{Code, ElementKind, Error, ServerId};
use hickory_proto::rr::Name;
use tokio::sync::oneshot;

use super::Lifecycle;
use crate::peer::Watch;
use crate::runtime::Runtime;
use crate::runtime::descriptors::User;
use live::Live;
use records::Records;
use shared::Shared;
use socket::Sockets;

/// A DNS server.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The zone of the live servers.
    zone: Option<Name>,
    thread: Mutex<Option<Thread>>,
}

/// The thread that answers.
#[derive(Debug)]
struct Thread {
    handle: JoinHandle<()>,
    /// Ends the thread when it is dropped.
    stop: oneshot::Sender<()>,
}

/// How many descriptors a DNS server takes: its two sockets, and two of its thread's own.
const DESCRIPTORS: u64 = 4;

impl Dns {
    /// Binds and begins to answer. A zone has the live servers in it once the element
    /// [watches](crate::peer::Peer::watch).
    pub fn start(
        address: SocketAddr,
        zone: Option<&str>,
        me: ServerId,
        runtime: &Arc<Runtime>,
    ) -> Result<Arc<Dns>, Error> {
        let zone = zone.map(text::name).transpose();
        let zone = zone.map_err(|error| invalid("the zone", &error))?;
        let taken = runtime.descriptors.take(User::Dns, DESCRIPTORS);
        let taken = taken.map_err(|short| Error::new(Code::Busy, short.to_string()))?;
        let sockets = Sockets::bind(address).map_err(|error| {
            let what = format!("cannot listen on {address}: {}", words(&error));
            Error::new(Code::Refused, what)
        })?;
        let address = sockets.address();
        let live = zone.clone().map(|zone| Live::new(zone, me));
        let shared = Arc::new(Shared::new(Records::default(), live));
        let (stop, stopped) = oneshot::channel();
        let (served, means) = (shared.clone(), runtime.clone());
        let begin = || -> io::Result<JoinHandle<()>> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let descriptors = means.descriptors.clone();
            let serving = sockets.into_serving(&runtime, served, descriptors)?;
            let name = format!("dns {}", address.port());
            let alarm = means.alarm.clone();
            let run = move || {
                let _taken = taken;
                serving.run(&runtime, stopped)
            };
            std::thread::Builder::new()
                .name(name)
                .spawn(move || alarm.watch("thread of a DNS server", run))
        };
        let handle = begin().map_err(|error| {
            let what = format!("cannot start a DNS server: {}", words(&error));
            Error::new(Code::Busy, what)
        })?;
        Ok(Arc::new(Dns {
            address,
            shared,
            zone,
            thread: Mutex::new(Some(Thread { handle, stop })),
        }))
    }

    /// Whether there is a zone of live servers, so that the element is to watch who joins and leaves.
    pub fn has_zone(&self) -> bool {
        self.zone.is_some()
    }

    /// Sets a record.
    pub fn set(&self, record: &str) -> Result<(), Error> {
        let record = text::record(record).map_err(|error| invalid("the record", &error))?;
        if let Some(zone) = &self.zone
            && live::is_reserved(zone, &record.name)
        {
            let name = text::print_name(&record.name);
            let what = format!("{name}: the name is kept for the live servers");
            return Err(Error::new(Code::Refused, what));
        }
        self.shared.change(|records| records.set(record))
    }

    /// Removes what was set at a name, or those records of a type.
    pub fn unset(&self, name: &str, kind: Option<&str>) -> Result<(), Error> {
        let name = text::name(name).map_err(|error| invalid("the name", &error))?;
        let kind = kind.map(text::kind).transpose();
        let kind = kind.map_err(|error| invalid("the type", &error))?;
        self.shared.change(|records| records.unset(&name, kind));
        Ok(())
    }

    /// The status that `peek` shows.
    pub fn status(&self) -> Status {
        let records = self.shared.records();
        let records = records.read();
        Status {
            address: self.address.to_string(),
            records: records.print(),
            zone: self.zone.as_ref().map(text::print_name),
        }
    }

    /// Stops answering. The sockets are closed when it returns.
    pub async fn end(&self) {
        let thread = self.take_thread();
        let Some(Thread { handle, stop }) = thread else {
            return;
        };
        drop(stop);
        // A thread that panicked has said so on stderr.
        let _ = tokio::task::spawn_blocking(move || handle.join()).await;
    }

    fn take_thread(&self) -> Option<Thread> {
        let mut thread = self.thread.lock();
        thread.take()
    }
}

impl Lifecycle for Dns {
    fn kind(&self) -> ElementKind {
        ElementKind::Dns
    }

    async fn status(&self) -> Result<AnyStatus, Error> {
        Ok(AnyStatus::Dns(self.status()))
    }

    async fn scrubbed(&self) {
        self.end().await;
    }

    /// Its thread would outlive the server's runtime.
    async fn shutdown(&self) {
        self.end().await;
    }
}

impl Watch for Dns {
    fn notice(&self, notice: &Notice) {
        if self.has_zone() {
            self.shared.notice(notice);
        }
    }
}

fn invalid(what: &str, error: &lexer::TextError) -> Error {
    Error::new(Code::InvalidArgument, format!("{what}, {error}"))
}

/// An error of the operating system, in the style of our own.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text
        .split(" (os error")
        .next()
        .unwrap_or(&text)
        .to_lowercase();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{words} (ports below 1024 want root or CAP_NET_BIND_SERVICE)")
        }
        io::ErrorKind::AddrNotAvailable => format!("{words} (not an address of the server's host)"),
        io::ErrorKind::AddrInUse => format!("{words} (port 0 takes any free one)"),
        _ => words,
    }
}

#[cfg(test)]
mod tests;
