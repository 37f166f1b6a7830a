//! Servers that are heard of on a multicast group, and joined.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

use circuit_proto::discovery::Machine;
use circuit_proto::{Key, Url};
use tokio::sync::mpsc;

use super::multicast::{self, Multicast};
use super::{Peer, random_seed, seek};

/// How many servers that were heard of may wait to be dialled. Chosen: what is dropped is heard
/// again.
const QUEUE: usize = 64;

/// Announces this server on a group, and joins those that it hears there. Lasts as long as the
/// server.
pub async fn run(peer: Arc<Peer>, multicast: Multicast, key: Option<Key>) {
    let (heard, mut queue) = mpsc::channel(QUEUE);
    let me = peer.me();
    // A server's own URL always says who it is.
    let Ok(machine) = Machine::new(me.url, &me.name, key, random_seed()) else {
        return;
    };
    let view = peer.clone();
    let is_live = Arc::new(move |id, at: Option<&Url>| {
        view.member(id)
            .is_some_and(|member| at.is_none_or(|url| member.url == *url))
    });
    let dialling = Arc::new(Mutex::new(BTreeSet::new()));
    let join = async {
        while let Some(multicast::Heard { url, .. }) = queue.recv().await {
            // One dial at a time to each: announcements repeat.
            let new = dialling.lock().insert(url.clone());
            if new {
                let (peer, dialling) = (peer.clone(), dialling.clone());
                tokio::spawn(async move {
                    seek::once(peer, url.clone()).await;
                    dialling.lock().remove(&url);
                });
            }
        }
    };
    tokio::join!(multicast::run(multicast, machine, is_live, heard), join);
}
