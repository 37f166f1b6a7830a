//! Finds the addresses on which a server listens, and the one that it announces.
//!
//! **Invariant:** others can dial the announced address: it is never a wildcard.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};

use circuit_client::transport::zone;
use circuit_proto::Url;

/// The reason why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The text is no address.
    #[error("not an address (HOST[:PORT]): {0}")]
    Malformed(String),
    /// The name has no address.
    #[error("cannot find the address of {host}")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's error.
        #[source]
        source: io::Error,
    },
    /// There is no interface of this name, or it has no address yet.
    #[error("no network interface named {name} has an address: those that have one are {others}")]
    NoInterface {
        /// The name.
        name: String,
        /// The interfaces that have one.
        others: String,
    },
    /// The interface has no address that others can reach.
    #[error("the network interface {0} has no address that others can reach")]
    NoAddress(String),
    /// The interfaces cannot be listed.
    #[error("cannot list the network interfaces")]
    Interfaces(#[source] io::Error),
}

/// Resolves `HOST[:PORT]`. A missing port is 0; a missing host (`:7000`) is `None`. The address has no
/// port, and a zone if it is a link-local IPv6 one.
pub fn resolve(text: &str) -> Result<(Option<SocketAddr>, u16), AddressError> {
    let (host, port) = split(text).ok_or_else(|| AddressError::Malformed(text.to_owned()))?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let failed = |source| AddressError::Resolve {
        host: host.to_owned(),
        source,
    };
    let (bare, named) = match bare.split_once('%') {
        Some((bare, zone)) => (bare, Some(zone)),
        None => (bare, None),
    };
    match (bare.parse(), named) {
        (Ok(IpAddr::V6(ip)), _) if ip.is_unicast_link_local() => {
            let scope = named.map_or_else(|| zone::of_own(ip), zone::number);
            let address = SocketAddrV6::new(ip, 0, 0, scope.map_err(failed)?);
            return Ok((Some(address.into()), port));
        }
        (Ok(ip), None) => return Ok((Some((ip, 0).into()), port)),
        (_, Some(_)) => return Err(AddressError::Malformed(text.to_owned())),
        (Err(_), None) => (),
    }
    if host.is_empty() {
        return Ok((None, port));
    }
    let mut found = std::net::ToSocketAddrs::to_socket_addrs(&(host, port)).map_err(failed)?;
    let first = found
        .next()
        .ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    Ok((Some((first.ip(), 0).into()), port))
}

/// An address of this host, with its zone if it is a link-local IPv6 one, and without a port.
pub fn complete(ip: IpAddr) -> SocketAddr {
    match ip {
        IpAddr::V6(own) if own.is_unicast_link_local() => {
            // An address that has gone cannot be listened on in any zone.
            let scope = zone::of_own(own).unwrap_or(0);
            SocketAddrV6::new(own, 0, 0, scope).into()
        }
        ip => (ip, 0).into(),
    }
}

/// Splits into host and port: `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` and `V6`.
pub fn split(text: &str) -> Option<(&str, u16)> {
    let address = text.split('%').next().unwrap_or_default();
    if address.parse::<Ipv6Addr>().is_ok() {
        return Some((text, 0));
    }
    let colon = match text.rfind(']') {
        Some(bracket) => text[bracket..].find(':').map(|at| bracket + at),
        None => text.rfind(':'),
    };
    let Some(colon) = colon else {
        return (!text.is_empty()).then_some((text, 0));
    };
    let (host, port) = (&text[..colon], &text[colon + 1..]);
    let well_formed = port.bytes().all(|b| b.is_ascii_digit())
        && !host.contains(char::is_whitespace)
        && host.starts_with('[') == host.ends_with(']');
    Some((host, port.parse().ok().filter(|_| well_formed)?))
}

/// The first global IPv4 address of an interface, else its first global IPv6 one, else its link-local
/// IPv6 one. A loopback interface has its own. The address has no port.
pub fn of_interface(name: &str) -> Result<SocketAddr, AddressError> {
    let interfaces = if_addrs::get_if_addrs().map_err(AddressError::Interfaces)?;
    let own: Vec<IpAddr> = interfaces
        .iter()
        .filter(|found| found.name == name)
        .map(|found| found.ip())
        .collect();
    if own.is_empty() {
        let mut others: Vec<&str> = interfaces.iter().map(|found| found.name.as_str()).collect();
        others.sort_unstable();
        others.dedup();
        let others = match others.is_empty() {
            true => "none".to_owned(),
            false => others.join(", "),
        };
        return Err(AddressError::NoInterface {
            name: name.to_owned(),
            others,
        });
    }
    let global = preferred(own).map(|ip| (ip, 0).into());
    let link_local = || link_local_of(interfaces.iter().filter(|found| found.name == name));
    global
        .or_else(link_local)
        .ok_or_else(|| AddressError::NoAddress(name.to_owned()))
}

/// The address that a server which listens everywhere announces: that of the interface that leads
/// to the multicast groups or the servers to join, else the first global one, else loopback.
pub fn announced(groups: &[SocketAddr], joins: &[Url], v6: bool) -> IpAddr {
    let targets = groups
        .iter()
        .copied()
        .chain(joins.iter().filter_map(Url::address));
    let dialable = |ip: &IpAddr| !ip.is_unspecified() && !is_link_local(*ip);
    let routed = targets
        .filter_map(route_to)
        .find(|ip| dialable(ip) && (v6 || ip.is_ipv4()));
    let first_global = || {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let all = interfaces.iter().filter(|found| !found.is_loopback());
        preferred(all.map(|found| found.ip()).filter(|ip| v6 || ip.is_ipv4()))
    };
    // Where that is all there is, and all that is asked for.
    let on_segment = || {
        let asked = joins.iter().any(|url| url.link_local().is_some())
            || groups.iter().any(SocketAddr::is_ipv6);
        let zones = joins.iter().filter_map(|url| url.link_local()?.1);
        let named = zones.filter_map(|zone| zone::number(zone).ok()).next();
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let meant = |found: &&if_addrs::Interface| named.is_none() || found.index == named;
        let found = link_local_of(interfaces.iter().filter(meant));
        found.filter(|_| asked && v6).map(|found| found.ip())
    };
    routed
        .or_else(first_global)
        .or_else(on_segment)
        .unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// The address of this host from which packets to `target` go. No packet is sent: a UDP socket is only
/// connected.
fn route_to(target: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(target).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn preferred(addresses: impl IntoIterator<Item = IpAddr>) -> Option<IpAddr> {
    let mut usable: Vec<IpAddr> = addresses
        .into_iter()
        .filter(|ip| !is_link_local(*ip))
        .collect();
    // IPv4 first; the sort is stable, so among equals the interface's own order decides.
    usable.sort_by_key(IpAddr::is_ipv6);
    usable.first().copied()
}

/// The first link-local IPv6 address of these interfaces, with its zone.
fn link_local_of<'a>(
    interfaces: impl IntoIterator<Item = &'a if_addrs::Interface>,
) -> Option<SocketAddr> {
    interfaces.into_iter().find_map(|found| match found.ip() {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            Some(SocketAddrV6::new(ip, 0, 0, found.index?).into())
        }
        _ => None,
    })
}

/// Whether an address has a meaning on its own segment only: RFC 3927 and RFC 4291, section 2.5.6.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        let check = |text: &str, ip: Option<&str>, port| {
            assert_eq!(
                resolve(text).unwrap(),
                (ip.map(|ip| (ip.parse::<IpAddr>().unwrap(), 0).into()), port),
                "{text}"
            );
        };
        check("10.0.0.1", Some("10.0.0.1"), 0);
        check("10.0.0.1:11022", Some("10.0.0.1"), 11022);
        check("::1", Some("::1"), 0);
        check("[::1]", Some("::1"), 0);
        check("[::1]:5", Some("::1"), 5);
        check(":7000", None, 7000);
        for (text, port) in [("fe80::1%lo", 0), ("[fe80::1%lo]", 0), ("[fe80::1%1]:5", 5)] {
            let zoned = "[fe80::1%1]:0".parse().unwrap();
            assert_eq!(resolve(text).unwrap(), (Some(zoned), port), "{text}");
        }
        for text in [
            "",
            "10.0.0.1:",
            "10.0.0.1:x",
            "10.0.0.1:70000",
            "a b:1",
            "a:-1",
            "[::1",
            "::1]:7",
            "fd00::1%lo",
            "10.0.0.1%lo",
        ] {
            assert!(
                matches!(resolve(text), Err(AddressError::Malformed(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn the_loopback_interface_is_found_and_a_missing_one_is_named() {
        assert!(of_interface("lo").unwrap().ip().is_loopback());
        let error = of_interface("nope0").unwrap_err().to_string();
        assert!(
            error.starts_with(
                "no network interface named nope0 has an address: those that have one are "
            ),
            "{error}"
        );
    }

    #[test]
    fn announces_the_way_to_the_others() {
        let join = "circuit://127.0.0.1:7".parse().unwrap();
        assert_eq!(
            announced(&[], &[join], true),
            IpAddr::from(Ipv4Addr::LOCALHOST)
        );
        let join = "circuit://[::1]:7".parse().unwrap();
        let own = announced(&[], &[join], false);
        assert!(own.is_ipv4(), "{own}: a socket for IPv4 alone");
    }
}
