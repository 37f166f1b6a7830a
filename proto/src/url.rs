//! A server's URL: its address, and the id that it must prove.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use crate::ServerId;
use crate::path::printable;

/// `circuit://HOST:PORT/PID/Qid`, or `circuit://HOST:PORT` when the id is not known.
///
/// ```
/// use circuit_proto::Url;
/// let url: Url = "circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d".parse().unwrap();
/// assert_eq!(url.port, 11022);
/// assert_eq!(url.server.unwrap().pid, 78517);
/// assert_eq!(url.to_string(), "circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Url {
    /// The host's address or name.
    pub host: Host,
    /// The UDP port, never 0.
    pub port: u16,
    /// Which server is meant; with `None` any server may answer.
    pub server: Option<Server>,
}

/// The part of a URL that says which server is meant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    /// Its process id, for people.
    pub pid: u32,
    /// The id that it must prove in the TLS handshake.
    pub id: ServerId,
}

/// A host by address or by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A link-local IPv6 address, and its zone as a person wrote it: the name or the number of one of
    /// this host's network interfaces. It does not travel: on another host the name means another
    /// interface, or none (RFC 9844, section 4).
    Zoned(Ipv6Addr, String),
    /// A name for the resolver.
    Name(String),
}

/// Why a text is not a URL. Each says what was expected.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The scheme is missing or another.
    #[error("not a circuit URL (circuit://HOST:PORT/PID/Qid): {0}")]
    Scheme(String),
    /// The host is empty or has characters that no host has.
    #[error("no valid host in the URL: {0}")]
    Host(String),
    /// The port is missing, 0 or not a number.
    #[error("no valid port in the URL: {0}")]
    Port(String),
    /// The host is the wildcard, on which servers listen.
    #[error(
        "0.0.0.0 and [::] stand for all addresses of the host that listens, and are none to dial: give \
         the one that the server printed, or 127.0.0.1 for this host: {0}"
    )]
    Wildcard(String),
    /// The host is an address with a zone, and not a link-local IPv6 one.
    #[error("only a link-local IPv6 address (fe80::1%eth0) has a zone: {0}")]
    Zone(String),
    /// The part after the port is not `/PID/Qid`.
    #[error("the URL must end in /PID/Q and 16 hexadecimal digits, or in the port: {0}")]
    Server(String),
}

crate::error::debug_as_display!(UrlError);

impl Url {
    /// A URL of an address, without a pinned id.
    pub fn unpinned(address: SocketAddr) -> Url {
        Url {
            host: Host::Ip(address.ip()),
            port: address.port(),
            server: None,
        }
    }

    /// The socket address, if the host is an address, and one that means the same everywhere: not a
    /// name, and not a link-local IPv6 address, which is complete with an interface only.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::Ip(ip) if self.link_local().is_none() => Some(SocketAddr::new(*ip, self.port)),
            Host::Ip(_) | Host::Zoned(..) | Host::Name(_) => None,
        }
    }

    /// The host's link-local IPv6 address (RFC 4291, section 2.5.6), if it is one, and its zone, if
    /// that was given.
    pub fn link_local(&self) -> Option<(Ipv6Addr, Option<&str>)> {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) if ip.is_unicast_link_local() => Some((*ip, None)),
            Host::Zoned(ip, zone) => Some((*ip, Some(zone))),
            _ => None,
        }
    }

    /// The URL as it travels: without a zone.
    fn without_zone(self) -> Url {
        let host = match self.host {
            Host::Zoned(ip, _) => Host::Ip(ip.into()),
            host => host,
        };
        Url { host, ..self }
    }

    /// `HOST:PORT`, as people write addresses.
    pub fn authority(&self) -> String {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            host @ Host::Zoned(..) => format!("[{host}]:{}", self.port),
            host => format!("{host}:{}", self.port),
        }
    }

    /// Whether the host is a loopback address, or the name `localhost`.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Zoned(..) => false,
            Host::Name(name) => name.eq_ignore_ascii_case("localhost"),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(ip) => ip.fmt(f),
            // Such a zone would be read without its beginning.
            Host::Zoned(ip, zone) if zone.starts_with("25") && zone.len() > 2 => {
                write!(f, "{ip}%25{zone}")
            }
            Host::Zoned(ip, zone) => write!(f, "{ip}%{zone}"),
            Host::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circuit://{}", self.authority())?;
        match self.server {
            Some(Server { pid, id }) => write!(f, "/{pid}/{}", id.in_url()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Url, UrlError> {
        // A byte order mark is what some editors write before a text.
        let text = text.trim_start_matches('\u{feff}').trim();
        let whole = || printable(text);
        let rest = text
            .strip_prefix("circuit://")
            .ok_or_else(|| UrlError::Scheme(whole()))?;
        let (authority, tail) = match rest.split_once('/') {
            Some((authority, tail)) => (authority, tail),
            None => (rest, ""),
        };
        let (host, port) = authority
            .rsplit_once(':')
            .ok_or_else(|| UrlError::Port(whole()))?;
        let port = parse_port(port).ok_or_else(|| UrlError::Port(whole()))?;
        let host = match parse_zoned(host) {
            Some(zoned) => zoned.ok_or_else(|| UrlError::Zone(whole()))?,
            None => parse_host(host).ok_or_else(|| UrlError::Host(whole()))?,
        };
        if matches!(host, Host::Ip(ip) if ip.is_unspecified()) {
            return Err(UrlError::Wildcard(whole()));
        }
        let server = match tail {
            "" => None,
            tail => Some(parse_server(tail).ok_or_else(|| UrlError::Server(whole()))?),
        };
        Ok(Url { host, port, server })
    }
}

fn parse_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

/// A host in brackets that has a zone: `[fe80::1%eth0]`, or `[fe80::1%25eth0]` as RFC 6874 had it in
/// URLs. `None` if there is no zone, and `Some(None)` if there should be none.
fn parse_zoned(text: &str) -> Option<Option<Host>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let (ip, zone) = inner.split_once('%')?;
    let zone = match zone.strip_prefix("25") {
        Some(zone) if !zone.is_empty() => zone,
        _ => zone,
    };
    let ip = ip.parse().ok().filter(Ipv6Addr::is_unicast_link_local);
    Some(
        ip.filter(|_| is_zone(zone))
            .map(|ip| Host::Zoned(ip, zone.to_owned())),
    )
}

/// Whether a text can be an interface's name or number (Linux: 15 bytes at most).
fn is_zone(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'%' | b'[' | b']');
    (1..=15).contains(&text.len()) && text.bytes().all(fits)
}

fn parse_host(text: &str) -> Option<Host> {
    if let Some(inner) = text.strip_prefix('[') {
        return inner
            .strip_suffix(']')?
            .parse()
            .ok()
            .map(|ip| Host::Ip(IpAddr::V6(ip)));
    }
    if let Ok(ip) = text.parse() {
        // An IPv6 address without brackets leaves the port ambiguous.
        return match ip {
            IpAddr::V4(_) => Some(Host::Ip(ip)),
            IpAddr::V6(_) => None,
        };
    }
    // RFC 1123, section 2.1, and the underscore that people use all the same.
    let fits = !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        // Digits and dots alone were meant as an address, and are none.
        && !text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    fits.then(|| Host::Name(text.to_owned()))
}

fn parse_server(tail: &str) -> Option<Server> {
    let (pid, id) = tail.split_once('/')?;
    if !pid.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(Server {
        pid: pid.parse().ok()?,
        id: ServerId::from_url_part(id)?,
    })
}

impl TryFrom<String> for Url {
    type Error = UrlError;

    /// Reads a URL as it travels. A zone in it would be another host's.
    fn try_from(text: String) -> Result<Url, UrlError> {
        text.parse().map(Url::without_zone)
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes() {
        for text in [
            "circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d",
            "circuit://10.0.0.1:11022",
            "circuit://[fd00::1]:7/1/Q0000000000000001",
            "circuit://host-1.example:65535",
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), text);
        }
        assert_eq!(
            " circuit://a:1/ \n".parse::<Url>().unwrap().to_string(),
            "circuit://a:1"
        );
    }

    #[test]
    fn a_zone_is_taken_as_it_is_pasted_and_does_not_travel() {
        for text in ["circuit://[fe80::1%eth0]:7", "circuit://[fe80::1%25eth0]:7"] {
            let url: Url = text.parse().unwrap();
            assert_eq!(url.to_string(), "circuit://[fe80::1%eth0]:7");
            assert_eq!(url.link_local().unwrap().1, Some("eth0"));
            assert_eq!(url.address(), None);
            let there = Url::try_from(text.to_owned()).unwrap();
            assert_eq!(there.to_string(), "circuit://[fe80::1]:7");
        }
        let number: Url = "circuit://[fe80::1%25]:7".parse().unwrap();
        assert_eq!(number.link_local().unwrap().1, Some("25"));
    }

    #[test]
    fn an_error_does_nothing_to_a_terminal() {
        let error = "circuit://\u{1b}[2J\n:1".parse::<Url>().unwrap_err();
        let shown = "no valid host in the URL: circuit://\\u{1b}[2J\\n:1";
        assert_eq!(error.to_string(), shown);
    }

    #[test]
    fn refuses() {
        let check = |text: &str, part: &str| {
            let error = text.parse::<Url>().unwrap_err().to_string();
            assert!(
                error.contains(part) && error.ends_with(text),
                "{text}: {error}"
            );
        };
        check("http://10.0.0.1:1", "not a circuit URL");
        check("10.0.0.1:11022", "not a circuit URL");
        check("circuit://10.0.0.1", "port");
        check("circuit://10.0.0.1:0", "port");
        check("circuit://10.0.0.1:99999", "port");
        check("circuit://10.0.0.1:+1", "port");
        check("circuit://:1", "host");
        check("circuit://10.0.0:1", "host");
        check("circuit://fd00::1:1", "host");
        check("circuit://a b:1", "host");
        check("circuit://0.0.0.0:1", "none to dial");
        check("circuit://[::]:1/2/Q56e7a2a0d47a7b5d", "none to dial");
        check("circuit://[fd00::1%eth0]:1", "zone");
        check("circuit://[fe80::1%]:1", "zone");
        check("circuit://[fe80::1%a%b]:1", "zone");
        check("circuit://[fe80::1%interface-number]:1", "zone");
        check("circuit://[10.0.0.1%eth0]:1", "zone");
        check("circuit://a:1/2", "must end in");
        check("circuit://a:1/2/X56e7a2a0d47a7b5d", "must end in");
        check("circuit://a:1/2/Q56e7a2a0d47a7b5d/", "must end in");
        check("circuit://a:1/x/Q56e7a2a0d47a7b5d", "must end in");
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in "\\PC{0,60}") {
            let _ = text.parse::<Url>();
            let _ = format!("circuit://{text}").parse::<Url>();
        }

        #[test]
        fn zones_are_read_as_they_are_written(zone in "(25)?[a-z0-9.:-]{1,13}") {
            let host = Host::Zoned("fe80::1".parse().unwrap(), zone);
            let url = Url { host, port: 7, server: None };
            prop_assert_eq!(url.to_string().parse::<Url>().unwrap(), url);
        }

        #[test]
        fn what_is_written_is_read(ip in any::<IpAddr>(), port in 1u16.., pid in any::<u32>(), id in any::<u64>(), pinned in any::<bool>()) {
            prop_assume!(!ip.is_unspecified());
            let server = pinned.then_some(Server { pid, id: ServerId(id) });
            let url = Url { host: Host::Ip(ip), port, server };
            prop_assert_eq!(url.to_string().parse::<Url>().unwrap(), url);
        }
    }
}
