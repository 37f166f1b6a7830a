//! Where datagrams go to whose URL holds a name: the driver asks here, for every one of them.
//!
//! The resolver is asked as it is for dialling ([`resolve`]), beside the driver, which never waits.
//! A message whose address is not known yet is kept until the answer, the newest for each server;
//! what cannot be looked up now is lost as on the network, and the membership machine says it again.
//!
//! Of several addresses each message goes to one, in turns: the server may listen on some only. Its
//! own messages choose among them: the next goes to where the last one came from. More they do not
//! decide: a recorded packet can be repeated from anywhere, and would divert what we send. Nor do
//! connections: most servers that are sent datagrams have none with us.
//!
//! **Invariants:** a message is one packet to one address, as if the URL held it. A server, by its
//! key, has one name at a time, is looked up once at a time and at most once in [`PAUSE`]; all
//! together are at most [`PLACES`] times in [`PAUSE`], and never more than that at once, however
//! long the resolver takes.

use std::collections::HashMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::dial::resolve;
use circuit_client::transport::endpoint::plain;
use circuit_proto::membership::{Message, Record};
use circuit_proto::{Fingerprint, Url};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tracing::debug;

/// How old an answer may be before the resolver is asked again, when it is used next. Chosen: as
/// short as records live that are meant to change.
const FRESH: Duration = Duration::from_secs(30);

/// How old it may be to be used meanwhile, and for as long as the resolver fails: its failure is
/// not to look like that of servers (RFC 8767). Chosen: longer than outages that nobody notices.
const KEPT: Duration = Duration::from_secs(600);

/// How long a server is not looked up again, whatever came out. Chosen: a failure that passes costs
/// less than a suspicion takes.
const PAUSE: Duration = Duration::from_secs(1);

/// How many lookups there may be at once; each keeps its place for at least [`PAUSE`]. Chosen: an
/// eighth of the threads that the runtime has for what blocks; audits after a mass failure ask for
/// 20 a second.
const PLACES: usize = 64;

/// How many servers are remembered; beyond, the one that was unused for longest is forgotten.
/// Chosen: more than a circuit has been measured with.
const SERVERS: usize = 8192;

/// How many addresses of a name are used. Chosen: those of a host, not those of a service.
const ADDRESSES: usize = 8;

/// Who knows the addresses of names.
pub(super) trait Resolver: Debug + Clone + Send + 'static {
    /// The addresses of a URL's host, none if they cannot be found.
    fn addresses(self, url: Url) -> impl Future<Output = Vec<SocketAddr>> + Send;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy)]
pub(super) struct System;

impl Resolver for System {
    async fn addresses(self, url: Url) -> Vec<SocketAddr> {
        // A lookup cannot be given up, only no longer waited for: its thread would be uncounted.
        resolve(&url, Duration::MAX).await.unwrap_or_else(|error| {
            debug!("no datagrams to {url}: {error}");
            Vec::new()
        })
    }
}

/// The servers that are known by name.
#[derive(Debug)]
pub(super) struct Names<R = System> {
    resolver: R,
    /// Whether our socket reaches IPv6 as well as IPv4.
    v6: bool,
    servers: HashMap<Fingerprint, Named>,
    places: Arc<Semaphore>,
    answers: mpsc::Sender<Answer>,
    answered: mpsc::Receiver<Answer>,
}

/// A server that is known by name.
#[derive(Debug)]
struct Named {
    /// Host and port alone.
    url: Url,
    /// As of the last lookup that found any.
    addresses: Vec<SocketAddr>,
    /// Which of them is next.
    turn: usize,
    /// When that lookup began.
    since: Instant,
    /// When the last lookup began, and whether it goes on.
    asked: Instant,
    asking: bool,
    /// What waits for an address.
    message: Option<Message>,
    used: Instant,
}

/// What a lookup has found.
#[derive(Debug)]
struct Answer {
    who: Fingerprint,
    addresses: Vec<SocketAddr>,
}

impl<R: Resolver> Names<R> {
    /// None yet, for a socket that reaches IPv6 too or does not.
    pub(super) fn new(resolver: R, v6: bool) -> Names<R> {
        let (answers, answered) = mpsc::channel(PLACES);
        Names {
            resolver,
            v6,
            servers: HashMap::new(),
            places: Arc::new(Semaphore::new(PLACES)),
            answers,
            answered,
        }
    }

    /// Where a message to a server is to be sent now. If that is not known, it may come out of
    /// [`Names::found`] later.
    pub(super) fn find(
        &mut self,
        to: &Record,
        message: Message,
        now: Instant,
    ) -> Option<(SocketAddr, Message)> {
        if let Some(address) = to.url.address() {
            return Some((address, message));
        }
        let who = to.fingerprint;
        // A server that has restarted has the same name.
        let server = None;
        let url = Url {
            server,
            ..to.url.clone()
        };
        let named = self.servers.get(&who);
        if named.is_none_or(|named| named.is_due(&url, now))
            && let Ok(place) = self.places.clone().try_acquire_owned()
        {
            self.look_up(who, &url, place, now);
        }
        let named = self.servers.get_mut(&who)?;
        if named.url != url {
            return None;
        }
        named.used = now;
        match named.next(now) {
            Some(address) => Some((address, message)),
            None => {
                named.message = named.asking.then_some(message);
                None
            }
        }
    }

    /// A message that has waited for its address.
    ///
    /// **Cancellation:** may be dropped at any time.
    pub(super) async fn found(&mut self) -> Option<(Fingerprint, SocketAddr, Message)> {
        loop {
            let answer = self.answered.recv().await?;
            if let Some(found) = self.on_answer(answer) {
                return Some(found);
            }
        }
    }

    /// A message of this server, proved to be its own, came from there.
    pub(super) fn heard(&mut self, from: Fingerprint, source: SocketAddr) {
        if let Some(named) = self.servers.get_mut(&from) {
            named.turn_to(source);
        }
    }

    fn look_up(&mut self, who: Fingerprint, url: &Url, place: OwnedSemaphorePermit, now: Instant) {
        if !self.servers.contains_key(&who) && self.servers.len() >= SERVERS {
            self.forget_one();
        }
        let named = self
            .servers
            .entry(who)
            .or_insert_with(|| Named::new(url, now));
        if named.url != *url {
            *named = Named::new(url, now);
        }
        named.asked = now;
        named.asking = true;
        let (url, resolver, answers) = (url.clone(), self.resolver.clone(), self.answers.clone());
        tokio::spawn(async move {
            let rest = tokio::time::sleep(PAUSE);
            let addresses = resolver.addresses(url).await;
            // Without a driver there is nothing to send.
            let _ = answers.send(Answer { who, addresses }).await;
            rest.await;
            drop(place);
        });
    }

    fn on_answer(&mut self, answer: Answer) -> Option<(Fingerprint, SocketAddr, Message)> {
        let named = self.servers.get_mut(&answer.who)?;
        named.asking = false;
        let reached = |address: &SocketAddr| address.is_ipv4() || self.v6;
        let found = answer.addresses.into_iter().filter(reached);
        let found: Vec<_> = found.take(ADDRESSES).collect();
        if !found.is_empty() {
            let last = named.addresses.get(named.turn).copied();
            named.addresses = found;
            named.turn = 0;
            named.since = named.asked;
            if let Some(last) = last {
                named.turn_to(last);
            }
        }
        let message = named.message.take()?;
        Some((answer.who, named.next(named.asked)?, message))
    }

    /// Forgets the server that was unused for longest, of those that wait for no answer: with
    /// fewer places than servers there is one.
    fn forget_one(&mut self) {
        let idle = self.servers.iter().filter(|(_, named)| !named.asking);
        let oldest = idle.min_by_key(|(_, named)| named.used);
        if let Some(who) = oldest.map(|(who, _)| *who) {
            self.servers.remove(&who);
        }
    }
}

impl Named {
    /// Nothing is known of it.
    fn new(url: &Url, now: Instant) -> Named {
        Named {
            url: url.clone(),
            addresses: Vec::new(),
            turn: 0,
            since: now,
            asked: now,
            asking: false,
            message: None,
            used: now,
        }
    }

    /// Whether it is to be looked up at this URL.
    fn is_due(&self, url: &Url, now: Instant) -> bool {
        let old = self.addresses.is_empty() || now.duration_since(self.since) >= FRESH;
        let rested = !self.asking && now.duration_since(self.asked) >= PAUSE;
        (old || self.url != *url) && rested
    }

    /// The address whose turn it is.
    fn next(&mut self, now: Instant) -> Option<SocketAddr> {
        if now.duration_since(self.since) >= KEPT {
            self.addresses.clear();
        }
        let address = *self.addresses.get(self.turn)?;
        self.turn = (self.turn + 1) % self.addresses.len();
        Some(address)
    }

    /// Gives the next turn to this address, if it is one of them.
    fn turn_to(&mut self, address: SocketAddr) {
        let same = |known: &SocketAddr| plain(*known) == plain(address);
        if let Some(at) = self.addresses.iter().position(same) {
            self.turn = at;
        }
    }
}

#[cfg(test)]
mod tests;
