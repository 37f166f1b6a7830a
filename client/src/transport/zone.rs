//! The zones of link-local IPv6 addresses: on which of this host's network interfaces they are.
//!
//! `fe80::1` is an address on each segment. A person may say which interface is meant
//! (`fe80::1%eth0`); a URL that came from another host does not say it, as the other host's names are
//! its own. Then the address is looked for on all interfaces that have a link-local address, or, by a
//! socket that is bound to one of them, on that one. The server that is found there proves who it is.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use circuit_proto::Url;

/// The addresses at which the host of a URL may be, if that is a link-local IPv6 address; at least
/// one. `bound` is the address of the socket that is to reach it, if that is known.
pub fn addresses(url: &Url, bound: Option<SocketAddr>) -> Option<io::Result<Vec<SocketAddr>>> {
    let (ip, zone) = url.link_local()?;
    let bound = match bound {
        Some(SocketAddr::V6(own)) if own.scope_id() != 0 => Some(own.scope_id()),
        _ => None,
    };
    let at = |scope: u32| SocketAddr::from(SocketAddrV6::new(ip, url.port, 0, scope));
    Some(match (zone, bound) {
        (Some(zone), _) => number(zone).map(|scope| vec![at(scope)]),
        (None, Some(scope)) => Ok(vec![at(scope)]),
        (None, None) => segments().and_then(|scopes| match scopes.is_empty() {
            true => Err(missing(
                "no network interface has a link-local IPv6 address",
            )),
            false => Ok(scopes.into_iter().map(at).collect()),
        }),
    })
}

/// The number of the interface that a zone names.
pub fn number(zone: &str) -> io::Result<u32> {
    let all = if_addrs::get_if_addrs()?;
    let named = all.iter().find(|found| found.name == zone);
    let found = named.and_then(|found| found.index);
    found
        .or_else(|| zone.parse().ok().filter(|number| *number != 0))
        .ok_or_else(|| missing(&format!("there is no network interface {zone}")))
}

/// The number of the interface that has this address.
pub fn of_own(ip: Ipv6Addr) -> io::Result<u32> {
    let all = if_addrs::get_if_addrs()?;
    let own = all.iter().find(|found| found.ip() == ip);
    own.and_then(|found| found.index)
        .ok_or_else(|| missing(&format!("no network interface has the address {ip}")))
}

/// The numbers of the interfaces that are up and have a link-local address.
fn segments() -> io::Result<Vec<u32>> {
    let all = if_addrs::get_if_addrs()?;
    let usable = all.iter().filter(|found| {
        let link_local = match found.ip() {
            std::net::IpAddr::V6(ip) => ip.is_unicast_link_local(),
            std::net::IpAddr::V4(_) => false,
        };
        link_local && found.is_oper_up()
    });
    let mut scopes: Vec<u32> = usable.filter_map(|found| found.index).collect();
    scopes.sort_unstable();
    scopes.dedup();
    Ok(scopes)
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_name_or_a_number() {
        assert_eq!(number("lo").unwrap(), 1);
        assert_eq!(number("1").unwrap(), 1);
        assert!(number("nope0").is_err());
        let check = |url: &str, bound: Option<&str>| {
            let bound = bound.map(|bound| bound.parse().unwrap());
            addresses(&url.parse().unwrap(), bound).map(|found| found.unwrap())
        };
        let at = |text: &str| Some(vec![text.parse::<SocketAddr>().unwrap()]);
        assert_eq!(check("circuit://[fe80::1%lo]:7", None), at("[fe80::1%1]:7"));
        let bound = Some("[fe80::2%9]:5");
        assert_eq!(check("circuit://[fe80::1]:7", bound), at("[fe80::1%9]:7"));
        assert_eq!(check("circuit://[fd00::1]:7", bound), None);
    }
}
