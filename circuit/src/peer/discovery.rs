//! Servers that are heard of on a multicast group, and joined.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

use circuit_proto::Key;
use circuit_proto::discovery::Machine;
use circuit_proto::handshake::Identity;
use tokio::sync::mpsc;

use super::multicast::{self, Multicast};
use super::{Peer, random_seed, seek};

/// How many servers that were heard of may wait to be dialled. Chosen, not measured: a server that
/// is dropped is heard again.
const QUEUE: usize = 64;

/// Announces this server on a group, and joins those that it hears there. Lasts as long as the
/// server.
pub async fn run(peer: Arc<Peer>, multicast: Multicast, key: Option<Key>) {
    let (heard, mut queue) = mpsc::channel::<Identity>(QUEUE);
    let me = peer.me();
    let me = Identity {
        url: me.url,
        name: me.name,
        count: me.count,
        instance: me.instance,
    };
    // A server's own URL always says who it is.
    let Ok(machine) = Machine::new(me, key, random_seed()) else {
        return;
    };
    let view = peer.clone();
    let life_of = Arc::new(move |id| view.life(id));
    let dialling = Arc::new(Mutex::new(BTreeSet::new()));
    let join = async {
        while let Some(heard) = queue.recv().await {
            let Some(life) = heard.life() else {
                continue;
            };
            // One dial at a time to each: announcements repeat.
            let new = dialling.lock().insert(life);
            if new {
                let (peer, dialling) = (peer.clone(), dialling.clone());
                tokio::spawn(async move {
                    seek::once(peer, heard.url, life).await;
                    dialling.lock().remove(&life);
                });
            }
        }
    };
    tokio::join!(multicast::run(multicast, machine, life_of, heard), join);
}
