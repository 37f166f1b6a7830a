//! Says in the log that a server has found no other, and why, as far as that can be found out.
//!
//! [`start`](crate::server::start) runs [`watch`] once. It only looks and asks: the ways into a
//! circuit are [`seek`](super::seek) and [`discovery`](super::discovery).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use circuit_client::discover::{DiscoverError, ask_others};
use circuit_proto::auth::KeyMismatch;
use circuit_proto::{Key, Url};
use tracing::{info, warn};

use super::Peer;
use super::multicast::Scope;

/// How long a server may be alone before its log says so.
const ALONE: Duration = Duration::from_secs(10);

/// How long it is alone before it asks the groups. Chosen, not measured: servers of one circuit
/// that are there find each other within a second.
const ASK_AFTER: Duration = Duration::from_secs(3);

/// How long a group is asked. Answers come within milliseconds, and lost packets are repeated.
const ASK: Duration = Duration::from_secs(3);

/// The ways by which a server is to find others.
#[derive(Debug)]
pub struct Ways {
    /// The multicast groups.
    pub groups: Vec<SocketAddr>,
    /// Where it listens to them.
    pub scope: Scope,
    /// The URLs.
    pub urls: Vec<Url>,
}

/// Watches a server that has just started until it is in a circuit, or until all is said.
pub async fn watch(peer: Arc<Peer>, ways: Ways, key: Option<Key>) {
    let found = peer.until(|| peer.view().servers > 1);
    tokio::select! {
        () = found => (),
        ((), ()) = async { tokio::join!(explain(&peer, &ways, key.as_ref()), conclude(&ways)) } => (),
    }
}

/// Says that there is nobody.
async fn conclude(ways: &Ways) {
    tokio::time::sleep(ALONE).await;
    let seconds = ALONE.as_secs();
    let groups = ways.groups.iter().map(|group| format!("-discover {group}"));
    let urls = ways.urls.iter().map(Url::to_string);
    let all: Vec<String> = groups.chain(urls).collect();
    match all.as_slice() {
        [] => info!(
            "no other server has joined within {seconds} s, and this one was told to join none \
             (-j URL, -discover GROUP:PORT)"
        ),
        all => warn!(
            "found no other server within {seconds} s by {}; it goes on looking",
            all.join(", ")
        ),
    }
}

fn remedy(reason: KeyMismatch) -> &'static str {
    match reason {
        KeyMismatch::Missing => "name its key with -hmac FILE, or in CIRCUIT_HMAC",
        KeyMismatch::Wrong => "-hmac FILE, or CIRCUIT_HMAC, must name the key of that circuit",
        KeyMismatch::Unexpected => "leave -hmac out, and CIRCUIT_HMAC unset, for that circuit",
    }
}

/// Says why the groups lead to nobody, where servers with another key are on them. Their
/// announcements would not tell: they are rare, and nothing in them can be believed.
async fn explain(peer: &Peer, ways: &Ways, key: Option<&Key>) {
    tokio::time::sleep(ASK_AFTER).await;
    let me = peer.me().fingerprint.id();
    for group in &ways.groups {
        let here = |interface: &_| ways.scope.contains(interface);
        // An answer comes from a server that is about to be joined.
        let asked = ask_others(&here, me, *group, key, ASK).await;
        if let Err(error @ DiscoverError::OtherKey { reason, .. }) = asked {
            warn!("{error}: {}", remedy(reason));
        }
    }
}
