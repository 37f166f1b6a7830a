//! The ways into a circuit that a client knows, and how it goes on through another server.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use circuit_proto::element::anchor::ServerEntry;
use circuit_proto::{Key, Url};

use crate::address::Address;
use crate::client::{Client, Dialled};
use crate::runtime_dir::{LocalServer, RuntimeDir};
use crate::search::{SearchError, Way};

/// How long one way has before the next is tried as well: as the addresses of a host (RFC 8305,
/// section 5).
const NEXT: Duration = Duration::from_millis(250);

/// How many of the servers that the circuit has named are tried. Chosen, not measured: if so many
/// answer no more, the circuit is not reached from here.
const NAMED: usize = 16;

/// The ways that a client and those redialled from it share.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    ways: Vec<Way>,
    key: Option<Key>,
    /// The servers of the circuit, as it has named them last.
    named: Mutex<Vec<Url>>,
}

/// An attempt to get in.
type Attempt<'a> = Pin<Box<dyn Future<Output = Result<Client, SearchError>> + Send + 'a>>;

impl Ways {
    pub(crate) fn new(ways: Vec<Way>, key: Option<&Key>) -> Ways {
        Ways {
            ways,
            key: key.cloned(),
            named: Mutex::default(),
        }
    }

    /// Takes note of the servers that the circuit has named.
    pub(crate) fn learn(&self, servers: &[ServerEntry]) {
        let urls = servers.iter().map(|server| server.url.clone()).collect();
        *self.named.lock().unwrap_or_else(PoisonError::into_inner) = urls;
    }

    /// Dials whichever server answers first; the one that was dialled before only if no other does.
    pub(crate) async fn redial(&self, before: &Dialled) -> Result<Client, SearchError> {
        let is_same = |address: &Address| match address {
            Address::Url(url) => match url.server {
                Some(server) => server.id == before.id,
                None => [&before.address, &before.url.authority()].contains(&&url.authority()),
            },
            Address::Socket(_) => address.to_string() == before.address,
        };
        let (same, others): (Vec<_>, Vec<_>) = self.addresses().into_iter().partition(is_same);
        let groups = self.ways.iter().filter_map(|way| match way {
            Way::Group(group) => Some(*group),
            Way::Address(_) | Way::Local => None,
        });
        let asked = groups.map(|group| -> Attempt<'_> {
            Box::pin(async move {
                let found = Client::discover_but(Some(before.id), group, self.key.as_ref());
                Ok(found.await?)
            })
        });
        let before = same.into_iter().chain([before.url.clone().into()]);
        let attempts = asked
            .chain(others.into_iter().map(|address| self.dial(address)))
            .chain(before.take(1).map(|address| self.dial(address)));
        first_of(attempts.collect()).await
    }

    /// Dials whichever of the addresses answers first.
    pub(crate) async fn dial_any(&self) -> Result<Client, SearchError> {
        let addresses = self.addresses().into_iter();
        first_of(addresses.map(|address| self.dial(address)).collect()).await
    }

    fn dial(&self, address: Address) -> Attempt<'_> {
        Box::pin(async move { Ok(Client::dial(&address, self.key.as_ref()).await?) })
    }

    /// The addresses of servers that may let us in, each once.
    fn addresses(&self) -> Vec<Address> {
        let mut addresses = Vec::new();
        for way in &self.ways {
            match way {
                Way::Address(address) => addresses.push(address.clone()),
                Way::Group(_) => (),
                Way::Local => {
                    let dir = RuntimeDir::existing().ok().flatten();
                    let servers = dir.map(|dir| dir.servers()).unwrap_or_default();
                    addresses.extend(servers.iter().map(LocalServer::address));
                }
            }
        }
        let mut named = self
            .named
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if !named.is_empty() {
            // Clients that lose one server do not all go to the same next one.
            let by = getrandom::u64().unwrap_or(0) % named.len() as u64;
            named.rotate_left(by as usize);
            addresses.extend(named.into_iter().take(NAMED).map(Address::Url));
        }
        let mut seen = BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses
    }
}

/// The first of these that succeeds: the next begins when one has failed or taken a moment. Fails with
/// what the last of them said.
///
/// **Cancellation:** a dropped attempt closes its connection.
async fn first_of(attempts: Vec<Attempt<'_>>) -> Result<Client, SearchError> {
    let mut untried = attempts.into_iter();
    let mut running: Vec<Attempt<'_>> = Vec::new();
    let mut result = Err(SearchError::NoWay);
    loop {
        running.extend(untried.next());
        if running.is_empty() {
            return result;
        }
        let ended = poll_fn(|cx| {
            for (n, attempt) in running.iter_mut().enumerate() {
                if let Poll::Ready(result) = attempt.as_mut().poll(cx) {
                    return Poll::Ready((n, result));
                }
            }
            Poll::Pending
        });
        let moment = tokio::time::sleep(NEXT);
        let n;
        (n, result) = tokio::select! {
            ended = ended => ended,
            () = moment, if untried.len() > 0 => continue,
        };
        drop(running.swap_remove(n));
        if result.is_ok() {
            return result;
        }
    }
}
