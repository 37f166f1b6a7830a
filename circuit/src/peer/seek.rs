//! Finding the way into a circuit: URLs that are dialled until they lead there, and servers that
//! were heard of, dialled for as long as they are heard.
//!
//! [`start`](crate::server::start) runs [`follow`] for each URL that it was given or had kept;
//! discovery runs [`once`]. The rules are in [`seed`]; here is the loop that applies them to the
//! view and the network.

mod seed;

use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::dial::{Accepted, DIAL_TIMEOUT, DialError};
use circuit_client::transport::endpoint::close;
use circuit_client::transport::tls::Pin;
use circuit_proto::handshake::{Close, Refused};
use circuit_proto::url::Host;
use circuit_proto::{Life, Url};
use tracing::{error, info, warn};

use super::outbound::pin_of;
use super::{Origin, Peer, random_seed};
pub use seed::Way;
use seed::{Line, Seed, another};

/// How long a server that answered may take to be seen in the circuit. Chosen, not measured: many
/// times what the exchange of the first messages takes.
const SEEN_WAIT: Duration = Duration::from_secs(4);

/// How long it may still take once the connection is lost: the server may have been reached by another link
/// meanwhile. Chosen, not measured.
const LOST_WAIT: Duration = Duration::from_millis(500);

/// Dials a URL until its server has been joined, and again whenever that server is lost, if the URL
/// is one that is kept.
pub async fn follow(peer: Arc<Peer>, url: Url, way: Way) {
    let me = peer.me().fingerprint.id();
    if url.server.is_some_and(|server| server.id == me) {
        // Elsewhere this identity is that of a copy.
        if url.authority() != peer.me().url.authority()
            && let Err(error) = dial(&peer, &url).await
        {
            peer.failed_by_copy(&url, &error).await;
        }
        return;
    }
    let mut seed = Seed::new(url, way, peer.outbound().has_key());
    loop {
        let life = peer.me().life();
        let mut met = is_content(&peer, &mut seed);
        if !met {
            met = match attempt(&peer, &mut seed).await {
                Attempt::Met => true,
                Attempt::Failed => false,
                Attempt::Myself => return,
            };
        }
        match way {
            Way::Seed => (),
            Way::Once if met => return,
            // Each of them is dialled once at least, for two parts of a circuit that all start
            // again at the same time.
            Way::Member if met || peer.view().servers > 1 => return,
            Way::Once | Way::Member => (),
        }
        let random = random_seed() as f64 / u64::MAX as f64;
        tokio::select! {
            () = tokio::time::sleep(seed.wait(random)) => (),
            // Who refused the earlier life takes this one.
            () = peer.until(|| peer.me().life() != life) => (),
        }
    }
}

/// Whether the view has what a URL is dialled for.
fn is_content(peer: &Peer, seed: &mut Seed) -> bool {
    let there = peer.member_at(&seed.url);
    let isolated = peer.view().isolated;
    seed.is_content(isolated, there, |id| peer.member(id).is_some())
}

/// How a dial ended.
enum Attempt {
    Met,
    Failed,
    /// The URL is this server's own address.
    Myself,
}

/// Dials a URL once, and waits until its server is in the view.
async fn attempt(peer: &Arc<Peer>, seed: &mut Seed) -> Attempt {
    let (url, pin, takes_others) = (seed.url.clone(), seed.pin(), seed.takes_others());
    let dialled = dial_as(peer, &url, pin, takes_others, |error| {
        say(seed.on_another(error))
    })
    .await;
    let line = match dialled {
        Ok(accepted) => {
            info!("joining {accepted}");
            let (life, connection) = (accepted.life(), accepted.connection.clone());
            peer.adopt(accepted, Origin::Dialled);
            // The connection may be lost before the two have told each other anything.
            let lost = async {
                connection.closed().await;
                tokio::time::sleep(LOST_WAIT).await;
            };
            tokio::select! {
                biased;
                () = peer.seen(life) => {
                    seed.on_met(life.id);
                    return Attempt::Met;
                }
                () = lost => seed.on_unseen(),
                () = tokio::time::sleep(SEEN_WAIT) => seed.on_unseen(),
            }
        }
        Err(DialError::Refused {
            reason: Refused::Myself,
            ..
        }) => match seed.url.host {
            Host::Ip(_) | Host::Zoned(..) => return Attempt::Myself,
            // The name may stand for other servers as well, at another time.
            Host::Name(_) => None,
        },
        Err(error) if peer.failed_by_copy(&url, &error).await => None,
        Err(error) => seed.on_failed(&error),
    };
    say(line);
    Attempt::Failed
}

fn say(line: Option<Line>) {
    match line {
        Some(Line::Warning(text)) => warn!("{text}"),
        Some(Line::Error(text)) => error!("{text}"),
        None => (),
    }
}

/// Dials a server that was heard of in this life, once.
pub async fn once(peer: Arc<Peer>, url: Url, life: Life) {
    if life.id != peer.me().fingerprint.id() && peer.life(life.id) >= Some(life) {
        return;
    }
    match dial(&peer, &url).await {
        Ok(accepted) => {
            info!("found {accepted}");
            peer.adopt(accepted, Origin::Dialled);
        }
        Err(error) if peer.failed_by_copy(&url, &error).await => (),
        Err(error) => info!("heard of {url}, but: {error}"),
    }
}

/// Whether the server at `url` is in the view in the life that answers there. Where another life of
/// it is in the view, or this one, the server is asked which it is: a URL does not say.
pub(super) async fn is_joined(peer: &Peer, url: &Url) -> Result<bool, DialError> {
    let known = |id| peer.life(id).is_some();
    if !url.server.is_some_and(|server| known(server.id)) {
        return Ok(false);
    }
    let outbound = peer.outbound();
    match outbound.transfer(url, pin_of(url), DIAL_TIMEOUT).await {
        Ok(accepted) => {
            close(&accepted.connection, Close::Done);
            let life = accepted.life();
            Ok(peer.life(life.id) >= Some(life))
        }
        Err(DialError::WrongServer { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Dials the server of a URL for a link. A server that came back as another is accepted where a key
/// proves that it is of the circuit all the same.
pub(super) async fn dial(peer: &Peer, url: &Url) -> Result<Accepted, DialError> {
    let takes_others = peer.outbound().has_key();
    let warn = |error: &DialError| warn!("{}", another(error));
    dial_as(peer, url, pin_of(url), takes_others, warn).await
}

async fn dial_as(
    peer: &Peer,
    url: &Url,
    pin: Pin,
    takes_others: bool,
    on_another: impl FnOnce(&DialError),
) -> Result<Accepted, DialError> {
    let (outbound, hello) = (peer.outbound(), peer.hello());
    match outbound.link(url, pin, &hello, DIAL_TIMEOUT).await {
        Err(error @ DialError::WrongServer { .. }) if takes_others => {
            on_another(&error);
            outbound.link(url, Pin::Anybody, &hello, DIAL_TIMEOUT).await
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{self, Options};

    /// A server on loopback, in a circuit with a key.
    async fn started(name: &str) -> server::Running {
        let options = Options {
            name: name.to_owned(),
            key: Some(circuit_proto::Key::parse(&"A".repeat(44)).unwrap()),
            ..Options::default()
        };
        server::start(options).await.unwrap()
    }

    #[tokio::test]
    async fn a_url_that_is_joined_once_is_forgotten_and_a_seed_is_not() {
        let (one, two) = (started("one").await, started("two").await);
        let peer = || two.server().peer.clone();
        follow(peer(), one.url().clone(), Way::Once).await;
        let id = one.url().server.unwrap().id;
        assert!(peer().member(id).is_some());
        // The member is there already.
        follow(peer(), one.url().clone(), Way::Member).await;
        let seed = follow(peer(), one.url().clone(), Way::Seed);
        let ended = tokio::time::timeout(Duration::from_millis(50), seed).await;
        assert!(ended.is_err());
        // It is this server's own address, which stays its own.
        follow(peer(), two.url().clone(), Way::Seed).await;
    }
}
