//! The places of connections that were not let in yet, and whose they are.
//!
//! **Invariant:** there are at most [`MOST`], of which one host has no more than its share: nobody
//! else is shut out by it.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// How many connections may be without a `Welcome`. docs/PROTOCOL.md, "Limits".
const MOST: usize = 256;

/// From how many on a peer must first show that its address is its own (RFC 9000, section 8.1.2).
const VALIDATED_FROM: usize = 64;

/// How many places one host may have. Chosen: a handshake takes milliseconds, so few clients are
/// ever at it at once, those behind one translated address included; four such hosts are needed to
/// fill all.
const SHARE: usize = 64;

/// The same for this machine, whose users start commands by the hundred. What it leaves is for
/// others.
const LOOPBACK_SHARE: usize = MOST - SHARE;

/// The places.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    hosts: Mutex<BTreeMap<IpAddr, usize>>,
}

/// What a connection that comes gets.
#[derive(Debug)]
pub(super) enum Entry {
    /// A place.
    Place(Place),
    /// One if it shows that its address is its own.
    Validate,
    /// None.
    Full,
}

/// A connection's place. Dropped, it is free.
#[derive(Debug)]
pub(super) struct Place {
    strangers: Arc<Strangers>,
    host: IpAddr,
}

impl Strangers {
    /// Takes a place for a connection from an address, which it has shown to be its own or not.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, validated: bool) -> Entry {
        let host = host(address);
        let share = match host.is_loopback() {
            true => LOOPBACK_SHARE,
            false => SHARE,
        };
        let mut hosts = self.lock();
        let all: usize = hosts.values().sum();
        let own = hosts.get(&host).copied().unwrap_or(0);
        // Whoever writes another's address on its packets has no more than half of the other's
        // share.
        let doubtful = all >= VALIDATED_FROM || own >= share / 2;
        if all >= MOST || (validated && own >= share) {
            return Entry::Full;
        }
        if doubtful && !validated {
            return Entry::Validate;
        }
        hosts.insert(host, own + 1);
        Entry::Place(Place {
            strangers: self.clone(),
            host,
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.hosts.lock()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut hosts = self.strangers.lock();
        if let Some(count) = hosts.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

/// All that one host may call its own: of IPv6 a network of 64 bits (RFC 4291, section 2.5.4).
fn host(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6((address.to_bits() >> 64 << 64).into())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Takes places until there are no more.
    fn fill(strangers: &Arc<Strangers>, address: impl Fn(u16) -> IpAddr) -> Vec<Place> {
        let mut places = Vec::new();
        for number in 0..=1000 {
            match strangers.enter(address(number), true) {
                Entry::Place(place) => places.push(place),
                Entry::Full => return places,
                Entry::Validate => panic!("it has shown its address"),
            }
        }
        panic!("there is no bound");
    }

    #[test]
    fn one_host_leaves_places_to_others() {
        let strangers = Arc::new(Strangers::default());
        let one = fill(&strangers, |_| address("10.0.0.1"));
        assert_eq!(one.len(), SHARE);
        // The same address in another form.
        let entry = strangers.enter(address("::ffff:10.0.0.1"), true);
        assert!(matches!(entry, Entry::Full), "{entry:?}");
        // Of IPv6 it has as many addresses as it likes.
        let two = fill(&strangers, |number| address(&format!("fd00::{number}")));
        assert_eq!(two.len(), SHARE);
        drop((one, two));
        let here = fill(&strangers, |_| address("127.0.0.1"));
        assert_eq!(here.len(), LOOPBACK_SHARE);
        let entry = strangers.enter(address("10.0.0.1"), true);
        assert!(matches!(entry, Entry::Place(_)), "{entry:?}");
        drop((here, entry));
        assert!(strangers.lock().is_empty());
    }

    #[test]
    fn all_hosts_together_are_bounded() {
        let strangers = Arc::new(Strangers::default());
        let all = fill(&strangers, |number| {
            address(&format!("10.0.{}.{}", number / 256, number % 256))
        });
        assert_eq!(all.len(), MOST);
    }

    #[test]
    fn a_forged_address_takes_half_a_share() {
        let strangers = Arc::new(Strangers::default());
        let victim = address("10.0.0.1");
        let mut forged = Vec::new();
        while let Entry::Place(place) = strangers.enter(victim, false) {
            forged.push(place);
        }
        assert_eq!(forged.len(), SHARE / 2);
        assert!(matches!(strangers.enter(victim, false), Entry::Validate));
        assert!(matches!(strangers.enter(victim, true), Entry::Place(_)));
        for number in 0..VALIDATED_FROM {
            let entry = strangers.enter(address(&format!("10.0.1.{number}")), false);
            match entry {
                Entry::Place(place) => forged.push(place),
                _ => break,
            }
        }
        assert_eq!(forged.len(), VALIDATED_FROM);
    }
}
