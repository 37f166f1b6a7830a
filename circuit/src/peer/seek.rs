//! Finding the way into a circuit: join URLs, tried until they work, and servers that were heard
//! of, tried as long as they are heard.

use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::dial::{Accepted, DIAL_TIMEOUT, DialError};
use circuit_client::transport::endpoint::close;
use circuit_client::transport::tls::Pin;
use circuit_proto::handshake::{Close, Refused};
use circuit_proto::{Life, Url};
use tracing::{info, warn};

use super::outbound::pin_of;
use super::{Origin, Peer};

/// The wait after the first failure, and the longest one; it doubles in between. Chosen: a server
/// that starts a moment later is joined at once, and one that stays away costs two packets a
/// minute.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long a server that answered may take to be seen in the circuit. Chosen: many times what
/// the exchange takes.
const PATIENCE: Duration = Duration::from_secs(4);

/// Joins the server at `url`, however long it takes.
pub async fn until_joined(peer: Arc<Peer>, url: Url) {
    let mut wait = FIRST_WAIT;
    let mut said = String::new();
    loop {
        let dialled = match is_joined(&peer, &url).await {
            Ok(true) => return,
            Ok(false) => dial(&peer, &url).await,
            Err(error) => Err(error),
        };
        let error = match dialled {
            Ok(accepted) => {
                info!("joining {accepted}");
                let life = accepted.life();
                peer.adopt(accepted, Origin::Dialled);
                // The connection may be lost before the two have told each other anything.
                match tokio::time::timeout(PATIENCE, peer.seen(life)).await {
                    Ok(()) => return,
                    Err(_) => "it answered, and then did not join".to_owned(),
                }
            }
            Err(DialError::Refused {
                reason: Refused::Myself,
                ..
            }) => return,
            Err(error) => error.to_string(),
        };
        // Each reason once, not each failure.
        if error != said {
            warn!("cannot join {url} yet: {error}");
            said = error;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Dials a server that was heard of in this life, once.
pub async fn once(peer: Arc<Peer>, url: Url, life: Life) {
    if peer.life(life.id) >= Some(life) {
        return;
    }
    match dial(&peer, &url).await {
        Ok(accepted) => {
            info!("found {accepted}");
            peer.adopt(accepted, Origin::Dialled);
        }
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

/// Dials for a link. A server that came back as another is accepted where a key proves that it is
/// of the circuit all the same.
pub(super) async fn dial(peer: &Peer, url: &Url) -> Result<Accepted, DialError> {
    let (outbound, hello) = (peer.outbound(), peer.hello());
    match outbound.link(url, pin_of(url), &hello, DIAL_TIMEOUT).await {
        Err(error @ DialError::WrongServer { .. }) if outbound.has_key() => {
            warn!("{error}; it holds our key if it can be joined");
            outbound.link(url, Pin::Anybody, &hello, DIAL_TIMEOUT).await
        }
        other => other,
    }
}
