//! Finds servers by asking a multicast group.
//!
//! [`Client::discover`](crate::Client::discover) and the command line call [`discover`]. The format
//! of the packets is in [`circuit_proto::discovery`]. This module does not dial.

#[doc(hidden)]
pub mod group;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use circuit_proto::auth::KeyMismatch;
use circuit_proto::discovery::packet::{MAX_PACKET, Nonce};
use circuit_proto::discovery::{Query, Reply};
use circuit_proto::{Key, ServerId, Url};
use tokio::time::{Instant, timeout_at};

use self::group::{Interface, Sender};
use crate::transport::zone;

/// How long after the first answer others are still taken in. Chosen, not measured: all come within
/// a millisecond, and a command should not wait for what it rarely needs.
const GRACE: Duration = Duration::from_millis(2);

/// How many servers that have not our key are counted. Chosen, not measured: a reader of the number
/// needs no larger one.
const MISMATCHES_MAX: usize = 64;

/// Why no server was found.
#[derive(thiserror::Error)]
pub enum DiscoverError {
    /// Nobody answered.
    #[error("no server answered on the multicast group {group}")]
    NoAnswer {
        /// The group that was asked.
        group: SocketAddr,
    },
    /// The servers that answered have another key.
    #[error("no server of ours on the multicast group {group}: {reason} (answers: {count})")]
    OtherKey {
        /// The group that was asked.
        group: SocketAddr,
        /// How many answers said so; a server answers on each network that reaches it.
        count: usize,
        /// How our key differs from the key of most of them.
        reason: KeyMismatch,
    },
    /// The group could not be asked.
    #[error("cannot ask the multicast group {group}")]
    Socket {
        /// The group.
        group: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// Why a text does not name a multicast group.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAGroup {
    /// It is no address and port.
    #[error("not GROUP:PORT, as in 228.8.8.8:7711")]
    NotAnAddress,
    /// The address is of one host.
    #[error("not a multicast address: those are 224.0.0.0 to 239.255.255.255, and ff00::/8")]
    NotMulticast,
    /// This host has no network interface of that name.
    #[error("no network interface here has the name behind the %")]
    NoInterface,
    /// The port is 0.
    #[error("the port cannot be 0")]
    NoPort,
}

/// Reads a multicast group and its port. An IPv6 group may name the network interface on which it is
/// meant.
///
/// ```
/// use circuit_client::discover::parse_group;
/// assert!(parse_group("228.8.8.8:7711").is_ok());
/// assert!(parse_group("[ff02::1234%lo]:7711").is_ok());
/// assert!(parse_group("10.0.0.1:7711").is_err());
/// ```
pub fn parse_group(text: &str) -> Result<SocketAddr, NotAGroup> {
    let (plain, zone) = without_zone(text);
    let mut group: SocketAddr = plain.parse().map_err(|_| NotAGroup::NotAnAddress)?;
    match group {
        _ if !group.ip().is_multicast() => return Err(NotAGroup::NotMulticast),
        _ if group.port() == 0 => return Err(NotAGroup::NoPort),
        _ => (),
    }
    if let (SocketAddr::V6(group), Some(zone)) = (&mut group, zone) {
        group.set_scope_id(zone::number(zone).map_err(|_| NotAGroup::NoInterface)?);
    }
    Ok(group)
}

/// An address without the zone in its brackets (RFC 4007, section 11), and the zone.
fn without_zone(text: &str) -> (String, Option<&str>) {
    let parts = text.split_once('%').and_then(|(before, behind)| {
        let (zone, port) = behind.split_once(']')?;
        Some((format!("{before}]{port}"), Some(zone)))
    });
    parts.unwrap_or_else(|| (text.to_owned(), None))
}

/// Asks the group on every interface, the loopback one included, and returns who answered: at
/// least one server, all of which hold the key (or, without one, have none), first come first.
///
/// Returns as soon as one answered. Fails after `timeout`: it asks at 0, 150, 500 and 1,200 ms,
/// then every second, so three seconds find everybody who is there; it asks for four minutes at most.
///
/// **Cancellation:** may be dropped at any moment.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// let group = "228.8.8.8:7711".parse()?;
/// let urls = circuit_client::discover::discover(group, None, Duration::from_secs(3)).await?;
/// println!("{}", urls[0]);
/// # Ok(())
/// # }
/// ```
pub async fn discover(
    group: SocketAddr,
    key: Option<&Key>,
    timeout: Duration,
) -> Result<Vec<Url>, DiscoverError> {
    discover_on(&|_| true, group, key, timeout).await
}

#[doc(hidden)]
/// Does the same on some interfaces as the server `me`, whose own answers do not count.
pub async fn ask_others(
    interfaces: &(dyn Fn(&Interface) -> bool + Sync),
    me: ServerId,
    group: SocketAddr,
    key: Option<&Key>,
    timeout: Duration,
) -> Result<Vec<Url>, DiscoverError> {
    ask(interfaces, Some(me), group, key, timeout).await
}

/// For how long it is asked at most: attempts are counted in one byte.
const LONGEST: Duration = Duration::from_secs(240);

/// Does the same; the answers of one server do not count.
pub(crate) async fn ask_but(
    but: Option<ServerId>,
    group: SocketAddr,
    key: Option<&Key>,
    timeout: Duration,
) -> Result<Vec<Url>, DiscoverError> {
    ask(&|_| true, but, group, key, timeout).await
}

#[doc(hidden)]
/// The same as [`discover`] on some interfaces only.
pub async fn discover_on(
    interfaces: &(dyn Fn(&Interface) -> bool + Sync),
    group: SocketAddr,
    key: Option<&Key>,
    timeout: Duration,
) -> Result<Vec<Url>, DiscoverError> {
    ask(interfaces, None, group, key, timeout).await
}

async fn ask(
    interfaces: &(dyn Fn(&Interface) -> bool + Sync),
    me: Option<ServerId>,
    group: SocketAddr,
    key: Option<&Key>,
    timeout: Duration,
) -> Result<Vec<Url>, DiscoverError> {
    let failed = |source| DiscoverError::Socket { group, source };
    let mut nonce: Nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|error| failed(io::Error::other(error.to_string())))?;
    let sender = Sender::open(group).map_err(failed)?;
    let mut asking = Asking {
        group,
        query: Query::new(nonce, key),
        me,
        sender,
        sent: Err(io::ErrorKind::NetworkDown.into()),
        mismatches: BTreeMap::new(),
    };
    let begin = Instant::now();
    let end = begin + timeout.min(LONGEST);
    for attempt in 0..=u8::MAX {
        asking.ask(interfaces, attempt).await;
        let next = (begin + Query::at(attempt.saturating_add(1))).min(end);
        let urls = asking.listen(next).await;
        if !urls.is_empty() {
            return Ok(urls);
        }
        if next == end {
            break;
        }
    }
    Err(asking.failure())
}

/// One call of [`discover`].
struct Asking<'a> {
    group: SocketAddr,
    query: Query<'a>,
    /// The server that asks, if it is one.
    me: Option<ServerId>,
    sender: Sender,
    /// Whether a packet was ever sent, else why not.
    sent: io::Result<()>,
    /// The servers that answered and have another key.
    mismatches: BTreeMap<SocketAddr, KeyMismatch>,
}

impl Asking<'_> {
    /// Sends the query on every interface. One that cannot be sent on is no failure while there
    /// are others; they are looked up each time, since one may have come up.
    async fn ask(&mut self, wanted: &(dyn Fn(&Interface) -> bool + Sync), attempt: u8) {
        let interfaces = match Interface::list() {
            Ok(interfaces) => interfaces,
            Err(error) => {
                self.sent = self.sent.as_ref().map_or(Err(error), |()| Ok(()));
                return;
            }
        };
        let packet = self.query.packet(attempt);
        let reaches = |new: &&Interface| wanted(new) && new.address_of(self.group).is_some();
        for interface in interfaces.iter().filter(reaches) {
            let sent = self.sender.multicast(interface, &packet).await;
            if sent.is_ok() || self.sent.is_err() {
                self.sent = sent;
            }
        }
    }

    /// Waits for an answer until a moment, then takes in what else comes shortly.
    async fn listen(&mut self, until: Instant) -> Vec<Url> {
        let mut urls = Vec::new();
        let mut until = until;
        let mut buffer = [0; MAX_PACKET + 1];
        // A flood of packets must not keep us: `timeout_at` alone looks at packets first.
        while Instant::now() < until {
            let (length, from) = match timeout_at(until, self.sender.recv(&mut buffer)).await {
                Ok(Ok(received)) => received,
                // The socket reports that an earlier packet could not be delivered.
                Ok(Err(_)) => continue,
                Err(_) => break,
            };
            match self.query.check(&buffer[..length]) {
                Some(Reply::Answer(identity))
                    if self.me.is_some() && identity.url.server.map(|it| it.id) == self.me => {}
                Some(Reply::Answer(identity)) => {
                    if urls.is_empty() {
                        until = until.min(Instant::now() + GRACE);
                    }
                    if !urls.contains(&identity.url) {
                        urls.push(identity.url);
                    }
                }
                Some(Reply::KeyMismatch(reason)) if self.mismatches.len() < MISMATCHES_MAX => {
                    self.mismatches.insert(from, reason);
                }
                Some(Reply::KeyMismatch(_)) | None => {}
            }
        }
        urls
    }

    fn failure(self) -> DiscoverError {
        let group = self.group;
        let count = |reason| {
            self.mismatches
                .values()
                .filter(|other| **other == reason)
                .count()
        };
        // Several circuits may share the group: what most of them say.
        let most = self
            .mismatches
            .values()
            .copied()
            .max_by_key(|reason| count(*reason));
        match (most, self.sent) {
            (Some(reason), _) => {
                let count = count(reason);
                DiscoverError::OtherKey {
                    group,
                    count,
                    reason,
                }
            }
            (None, Err(source)) => DiscoverError::Socket { group, source },
            (None, Ok(())) => DiscoverError::NoAnswer { group },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_may_name_its_interface() {
        let check = |text: &str, expected: Result<&str, NotAGroup>| {
            let expected = expected.map(|group| group.parse().unwrap());
            assert_eq!(parse_group(text), expected, "{text}");
        };
        check("228.8.8.8:7711", Ok("228.8.8.8:7711"));
        check("[ff02::7711]:7711", Ok("[ff02::7711]:7711"));
        check("[ff02::7711%lo]:7711", Ok("[ff02::7711%1]:7711"));
        check("[ff02::7711%1]:7711", Ok("[ff02::7711%1]:7711"));
        check("[ff02::7711%nope0]:7711", Err(NotAGroup::NoInterface));
        check("[ff02::7711%]:7711", Err(NotAGroup::NoInterface));
        check("[ff02::7711%lo]:0", Err(NotAGroup::NoPort));
        check("[fe80::1%lo]:7711", Err(NotAGroup::NotMulticast));
        check("228.8.8.8%lo:7711", Err(NotAGroup::NotAnAddress));
        check("%]", Err(NotAGroup::NotAnAddress));
    }
}
