//! Shares a scarce number of places out among the addresses that want one.
//!
//! A server uses one [`Admission`] for each thing that unauthenticated peers can use up: QUIC connections
//! before their `Welcome`, TCP connections before their token, connections of DNS clients.
//!
//! **Invariant:** of all places, one host has no more than its share, and one site of IPv6 no more
//! than its own: neither can shut everybody else out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;

/// How many places there are, and how many of them one address may have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of places.
    pub all: usize,
    /// The share of one host: of an IPv4 address, or of an IPv6 network of 64 bits (RFC 4291,
    /// section 2.5.4).
    pub host: usize,
    /// The share of one site: of an IPv6 network of 48 bits, which one customer of a provider
    /// usually has (RFC 6177).
    pub site: usize,
    /// The share of this machine's own loopback addresses.
    pub loopback: usize,
    /// From how many taken places on a newcomer must first show that its address is its own.
    pub validated_from: usize,
}

impl Limits {
    /// The places for QUIC connections without a `Welcome`, for tethers without a token, and for
    /// the connections of one DNS server: 256 each (`docs/PROTOCOL.md`, "Limits"). The shares are
    /// chosen, not measured: a handshake takes milliseconds, so that few clients are at it at once,
    /// those behind one translated address included, and filling all places takes four hosts. The
    /// machine's own users start commands by the hundred.
    pub const UNAUTHENTICATED: Limits = Limits {
        all: 256,
        host: 64,
        site: 128,
        loopback: 192,
        validated_from: 64,
    };
}

/// A number of places, and who has them.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// By the host's address, or the first address of its network.
    hosts: BTreeMap<IpAddr, usize>,
    /// By the first address of the site's network.
    sites: BTreeMap<Ipv6Addr, usize>,
}

/// The answer to a newcomer.
#[derive(Debug)]
pub enum Entry {
    /// The newcomer has a place.
    Place(Place),
    /// The newcomer has to show first that its address is its own.
    Validate,
    /// No place is free for the newcomer.
    Full,
}

/// One place. It is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    /// Makes a number of free places.
    pub fn new(limits: Limits) -> Arc<Admission> {
        Arc::new(Admission {
            limits,
            taken: Mutex::default(),
        })
    }

    /// Takes a place for a newcomer. `validated` says that it has shown that its address is its
    /// own; a TCP connection always has, as its handshake took an answer.
    pub fn enter(self: &Arc<Self>, address: IpAddr, validated: bool) -> Entry {
        let address = address.to_canonical();
        let limits = &self.limits;
        let (host, site) = (host(address), site(address));
        let share = match address.is_loopback() {
            true => limits.loopback,
            false => limits.host,
        };
        let mut taken = self.taken.lock();
        let of_host = taken.hosts.get(&host).copied().unwrap_or(0);
        let of_site = site.and_then(|site| taken.sites.get(&site).copied());
        let of_site = of_site.unwrap_or(0);
        if taken.all >= limits.all || (validated && (of_host >= share || of_site >= limits.site)) {
            return Entry::Full;
        }
        // A peer that forges the sender of its packets takes half of a victim's share at most.
        let doubtful = taken.all >= limits.validated_from
            || of_host >= share / 2
            || of_site >= limits.site / 2;
        if doubtful && !validated {
            return Entry::Validate;
        }
        taken.all += 1;
        taken.hosts.insert(host, of_host + 1);
        if let Some(site) = site {
            taken.sites.insert(site, of_site + 1);
        }
        Entry::Place(Place {
            admission: self.clone(),
            address,
        })
    }

    /// Takes a place for a TCP connection.
    pub fn enter_connected(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        match self.enter(address, true) {
            Entry::Place(place) => Some(place),
            Entry::Validate | Entry::Full => None,
        }
    }

    /// The number of places that are taken.
    pub fn taken(&self) -> usize {
        self.taken.lock().all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.admission.taken.lock();
        taken.all -= 1;
        release(&mut taken.hosts, &host(self.address));
        if let Some(site) = site(self.address) {
            release(&mut taken.sites, &site);
        }
    }
}

fn release<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The first address of all that one host may call its own.
fn host(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) if !address.is_loopback() => IpAddr::V6(network(address, 64)),
        other => other,
    }
}

fn site(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) if !address.is_loopback() => Some(network(address, 48)),
        _ => None,
    }
}

/// The first address of the network with a prefix of so many bits, 1 to 127.
fn network(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    let rest = 128 - bits;
    (address.to_bits() >> rest << rest).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits::UNAUTHENTICATED;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Takes places until there are no more.
    fn fill(admission: &Arc<Admission>, address: impl Fn(u16) -> IpAddr) -> Vec<Place> {
        let mut places = Vec::new();
        for number in 0..=1000 {
            match admission.enter(address(number), true) {
                Entry::Place(place) => places.push(place),
                Entry::Full => return places,
                Entry::Validate => panic!("it has shown its address"),
            }
        }
        panic!("there is no bound");
    }

    #[test]
    fn one_host_leaves_places_to_others() {
        let admission = Admission::new(LIMITS);
        let one = fill(&admission, |_| address("10.0.0.1"));
        assert_eq!(one.len(), LIMITS.host);
        // This is the same address in another form.
        let entry = admission.enter(address("::ffff:10.0.0.1"), true);
        assert!(matches!(entry, Entry::Full), "{entry:?}");
        // A host has as many addresses of IPv6 as it likes.
        let two = fill(&admission, |number| address(&format!("fd00::{number}")));
        assert_eq!(two.len(), LIMITS.host);
        assert_eq!(admission.taken(), 2 * LIMITS.host);
        drop((one, two));
        let here = fill(&admission, |_| address("127.0.0.1"));
        assert_eq!(here.len(), LIMITS.loopback);
        let entry = admission.enter(address("10.0.0.1"), true);
        assert!(matches!(entry, Entry::Place(_)), "{entry:?}");
        drop((here, entry));
        let taken = admission.taken.lock();
        assert_eq!(taken.all, 0);
        assert!(taken.hosts.is_empty() && taken.sites.is_empty());
    }

    #[test]
    fn one_site_of_many_networks_leaves_places_to_others() {
        let admission = Admission::new(LIMITS);
        let site = fill(&admission, |number| {
            address(&format!("2001:db8:1:{number:x}::1"))
        });
        assert_eq!(site.len(), LIMITS.site);
        let entry = admission.enter(address("2001:db8:2::1"), true);
        assert!(matches!(entry, Entry::Place(_)), "{entry:?}");
    }

    #[test]
    fn all_hosts_together_are_bounded() {
        let admission = Admission::new(LIMITS);
        let all = fill(&admission, |number| {
            address(&format!("10.0.{}.{}", number / 256, number % 256))
        });
        assert_eq!(all.len(), LIMITS.all);
    }

    #[test]
    fn a_forged_address_takes_half_a_share() {
        for victim in ["10.0.0.1", "2001:db8::1"] {
            let admission = Admission::new(LIMITS);
            let victim = address(victim);
            let mut forged = Vec::new();
            while let Entry::Place(place) = admission.enter(victim, false) {
                forged.push(place);
            }
            assert_eq!(forged.len(), LIMITS.host / 2);
            assert!(matches!(admission.enter(victim, false), Entry::Validate));
            assert!(matches!(admission.enter(victim, true), Entry::Place(_)));
            for number in 0..LIMITS.validated_from {
                let entry = admission.enter(address(&format!("10.0.1.{number}")), false);
                match entry {
                    Entry::Place(place) => forged.push(place),
                    _ => break,
                }
            }
            assert_eq!(forged.len(), LIMITS.validated_from);
        }
    }
}
