//! Finds the addresses of servers whose URL holds a host name, for datagrams.
//!
//! The driver asks for each datagram that it cannot address otherwise, and never waits. While the
//! resolver is asked for the first time the datagram is lost, as on the network: the membership
//! machine says everything again. Of several addresses each datagram goes to another one, because
//! the server may listen on some of them only.
//!
//! **Invariants:** at most [`LOOKUPS`] hosts are looked up at the same time, however long the
//! resolver takes, and at most [`HOSTS`] are remembered.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use circuit_proto::Url;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::debug;

use super::outbound::Outbound;

/// After how long the resolver is asked again. Until it answers, and if it cannot, the old
/// addresses are used. Chosen, not measured: as short as records live that are meant to change.
const FRESH: Duration = Duration::from_secs(30);

/// After how long a host is looked up again of which no address was found. Chosen, not measured: a
/// failure that passes costs less than a suspicion takes.
const RETRY: Duration = Duration::from_secs(1);

/// How many hosts are looked up at the same time. Chosen, not measured: the resolver's pool has a
/// bound of its own, which dialling needs too.
const LOOKUPS: usize = 32;

/// How many hosts are remembered; beyond that the one goes that was looked up longest ago. Chosen,
/// not measured: more than a circuit has been measured with.
const HOSTS: usize = 8192;

/// How many addresses of a host are used. Chosen, not measured: those of a host, not those of a
/// service.
const ADDRESSES: usize = 4;

type Lookup = Pin<Box<dyn Future<Output = Vec<SocketAddr>> + Send>>;

/// The addresses of hosts, by `HOST:PORT`.
pub(super) struct Addresses {
    /// Whether our socket reaches IPv6 as well as IPv4.
    v6: bool,
    resolver: Box<dyn Fn(Url) -> Lookup + Send>,
    hosts: BTreeMap<String, Host>,
    lookups: JoinSet<(String, Vec<SocketAddr>)>,
}

/// The addresses of one host.
#[derive(Debug)]
struct Host {
    /// The addresses that the last successful lookup found.
    found: Vec<SocketAddr>,
    /// Which of them is next.
    turn: usize,
    /// When the last lookup began.
    asked: Instant,
    /// Whether that lookup goes on.
    asking: bool,
}

impl Addresses {
    /// Knows no host yet. `v6` says whether our socket reaches IPv6 as well as IPv4. Hosts are looked
    /// up as for dialling.
    pub(super) fn new(v6: bool, outbound: &Arc<Outbound>) -> Addresses {
        let outbound = outbound.clone();
        Addresses::with(v6, move |url| Box::pin(look_up(outbound.clone(), url)))
    }

    fn with(v6: bool, resolver: impl Fn(Url) -> Lookup + Send + 'static) -> Addresses {
        Addresses {
            v6,
            resolver: Box::new(resolver),
            hosts: BTreeMap::new(),
            lookups: JoinSet::new(),
        }
    }

    /// The address to send to now; `None` while it is not known.
    pub(super) fn of(&mut self, url: &Url, now: Instant) -> Option<SocketAddr> {
        let name = url.authority();
        if self.hosts.get(&name).is_none_or(|host| host.is_due(now)) && self.lookups.len() < LOOKUPS
        {
            self.look_up(&name, url, now);
        }
        self.hosts.get_mut(&name)?.next()
    }

    /// Waits for a lookup to end, and takes note of the addresses. `None` if no lookup goes on.
    ///
    /// **Cancellation:** may be dropped at any time.
    pub(super) async fn found(&mut self) -> Option<()> {
        if let Ok((name, mut addresses)) = self.lookups.join_next().await? {
            addresses.retain(|address| address.is_ipv4() || self.v6);
            addresses.truncate(ADDRESSES);
            self.on_found(&name, addresses);
        }
        Some(())
    }

    fn on_found(&mut self, name: &str, addresses: Vec<SocketAddr>) {
        let Some(host) = self.hosts.get_mut(name) else {
            return;
        };
        host.asking = false;
        if !addresses.is_empty() {
            host.found = addresses;
        }
    }

    fn look_up(&mut self, name: &str, url: &Url, now: Instant) {
        if !self.hosts.contains_key(name) && self.hosts.len() >= HOSTS {
            self.forget_one();
        }
        let host = self.hosts.entry(name.to_owned()).or_insert(Host {
            found: Vec::new(),
            turn: 0,
            asked: now,
            asking: true,
        });
        (host.asked, host.asking) = (now, true);
        let (name, lookup) = (name.to_owned(), (self.resolver)(url.clone()));
        self.lookups.spawn(async move { (name, lookup.await) });
    }

    fn forget_one(&mut self) {
        let oldest = self.hosts.iter().min_by_key(|(_, host)| host.asked);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.hosts.remove(&name);
        }
    }
}

impl Host {
    fn is_due(&self, now: Instant) -> bool {
        let pause = if self.found.is_empty() { RETRY } else { FRESH };
        !self.asking && now.duration_since(self.asked) >= pause
    }

    fn next(&mut self) -> Option<SocketAddr> {
        self.turn = self.turn.wrapping_add(1);
        let at = self.turn.checked_rem(self.found.len())?;
        self.found.get(at).copied()
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addresses")
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

async fn look_up(outbound: Arc<Outbound>, url: Url) -> Vec<SocketAddr> {
    // A lookup cannot be given up, only no longer waited for.
    let found = outbound.addresses(&url, Duration::MAX).await;
    found.unwrap_or_else(|error| {
        debug!("no datagrams to {url}: {error}");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(v6: bool, resolver: fn(Url) -> Lookup) -> Addresses {
        Addresses::with(v6, resolver)
    }

    fn url(host: &str) -> Url {
        format!("circuit://{host}:7").parse().unwrap()
    }

    fn at(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 7)
    }

    #[tokio::test]
    async fn a_host_is_looked_up_once_and_its_addresses_take_turns() {
        let both = |_| -> Lookup { Box::pin(async { vec![at("fd00::1"), at("10.0.0.1")] }) };
        for (v6, expected) in [
            (true, ["10.0.0.1", "fd00::1", "10.0.0.1"]),
            (false, ["10.0.0.1"; 3]),
        ] {
            let (mut addresses, now) = (addresses(v6, both), Instant::now());
            assert_eq!(addresses.of(&url("a"), now), None);
            assert_eq!(addresses.of(&url("a"), now), None);
            assert_eq!(addresses.found().await, Some(()));
            assert_eq!(addresses.found().await, None, "asked once");
            let mut next = || addresses.of(&url("a"), now).unwrap();
            let found = [next(), next(), next()];
            let (one, two) = (found[0], found[1]);
            assert_eq!(found[2], one);
            assert_eq!(one != two, v6);
            let all = expected.map(at);
            assert!(all.contains(&one) && all.contains(&two), "{found:?}");
        }
    }

    #[tokio::test]
    async fn old_addresses_are_used_while_the_resolver_fails() {
        let fails = |_| -> Lookup { Box::pin(async { Vec::new() }) };
        let (mut addresses, now) = (addresses(false, fails), Instant::now());
        assert_eq!(addresses.of(&url("a"), now), None);
        addresses.found().await;
        assert_eq!(addresses.of(&url("a"), now), None);
        assert_eq!(addresses.lookups.len(), 0, "too soon");
        assert_eq!(addresses.of(&url("a"), now + RETRY), None);
        assert_eq!(addresses.lookups.len(), 1);
        addresses.found().await;
        addresses.on_found("a:7", vec![at("10.0.0.1")]);
        for later in [RETRY * 2, FRESH * 2, FRESH * 4] {
            let found = addresses.of(&url("a"), now + later);
            assert_eq!(found, Some(at("10.0.0.1")));
            addresses.found().await;
        }
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_is_asked_so_much_at_most() {
        let (mut addresses, now) = (
            addresses(false, |_| Box::pin(std::future::pending())),
            Instant::now(),
        );
        for host in 0..LOOKUPS + 20 {
            assert_eq!(addresses.of(&url(&format!("h{host}")), now), None);
        }
        assert_eq!(addresses.lookups.len(), LOOKUPS);
        assert_eq!(addresses.hosts.len(), LOOKUPS);
    }

    #[tokio::test]
    async fn so_many_hosts_are_remembered() {
        let none = |_| -> Lookup { Box::pin(async { Vec::new() }) };
        let (mut addresses, now) = (addresses(false, none), Instant::now());
        for host in 0..=HOSTS {
            let later = now + Duration::from_millis(host as u64);
            addresses.of(&url(&format!("h{host}")), later);
            addresses.found().await;
        }
        assert_eq!(addresses.hosts.len(), HOSTS);
        assert!(!addresses.hosts.contains_key("h0:7"));
    }
}
