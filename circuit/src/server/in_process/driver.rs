//! The driver of membership against a peer that says its messages by hand.

use circuit_client::transport::stream::StreamError;
use circuit_proto::codec::MAX_FRAME;
use circuit_proto::handshake::Close;
use circuit_proto::membership::{Entry, Held, Message, Phase, Record, Wish};

use super::*;

/// A peer with a link connection.
struct Linked {
    peer: Peer,
    to: quinn::SendStream,
    from: RecvHalf,
}

fn record(peer: &Peer) -> Record {
    Record {
        fingerprint: peer.fingerprint,
        url: peer.identity.url.clone(),
        name: peer.identity.name.clone(),
        count: peer.identity.count,
        instance: peer.identity.instance,
    }
}

fn hello(peer: &Peer) -> Message {
    Message::Hello {
        entry: Entry {
            fingerprint: peer.fingerprint,
            held: Held {
                count: peer.identity.count,
                instance: peer.identity.instance,
                incarnation: 0,
                phase: Phase::Alive,
            },
            age: 0,
            record: Some(Arc::new(record(peer))),
        },
        live: 1,
        digest: 0,
    }
}

impl Linked {
    /// Dials, and says hello.
    async fn new(server: &Running) -> Linked {
        let peer = Peer::dial(server, |peer| {
            Role::Link(peer.identity.clone(), hello(peer).encode().unwrap())
        })
        .await;
        let to = peer.accepted.connection.open_uni().await.unwrap();
        let from = peer.accepted.connection.accept_uni().await.unwrap();
        let from = RecvHalf::new(from);
        Linked { peer, to, from }
    }

    async fn say(&mut self, message: &Message) {
        self.say_bytes(&message.encode().unwrap()).await;
    }

    async fn say_bytes(&mut self, body: &[u8]) {
        self.to
            .write_all(&(body.len() as u32).to_be_bytes())
            .await
            .unwrap();
        self.to.write_all(body).await.unwrap();
    }

    /// Hears messages until one is wanted.
    async fn hear<T>(&mut self, wanted: impl Fn(&Message) -> Option<T>) -> T {
        let heard = async {
            loop {
                let body = self.from.raw_frame(MAX_FRAME).await.unwrap();
                if let Some(message) = Message::decode(&body).unwrap()
                    && let Some(found) = wanted(&message)
                {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, heard)
            .await
            .expect("it is heard")
    }

    /// Asks for a link until it has one.
    async fn link(&mut self) {
        let link = Message::Link {
            degree: 0,
            wish: Wish::Plain,
        };
        self.say(&link).await;
        let accepted = self.hear(|message| match message {
            Message::LinkReply { accepted, .. } => Some(*accepted),
            _ => None,
        });
        assert!(accepted.await);
    }
}

fn knows(server: &Running, peer: &Peer) -> bool {
    server.server().peer.member(peer.fingerprint.id()).is_some()
}

#[tokio::test]
async fn who_says_hello_is_in_the_view_and_hears_heartbeats_on_a_link() {
    let [one] = circuit(["one"]).await;
    let mut linked = Linked::new(&one).await;
    let name = linked.hear(|message| match message {
        Message::Hello { entry, .. } => entry.record.as_ref().map(|record| record.name.clone()),
        _ => None,
    });
    assert_eq!(name.await, "one");
    until("it is in the view", || knows(&one, &linked.peer)).await;
    linked.link().await;
    let links = linked.hear(|message| match message {
        Message::Heartbeat { degree, .. } => Some(*degree),
        _ => None,
    });
    assert_eq!(links.await, 1);
    let view = one.server().peer.view();
    assert_eq!(view.links, [linked.peer.fingerprint.id()]);
}

#[tokio::test]
async fn a_ping_is_answered_and_a_message_that_is_not_known_is_skipped() {
    let [one] = circuit(["one"]).await;
    let mut linked = Linked::new(&one).await;
    // The number of a message of a later version, and what is in it.
    linked.say_bytes(&[200, 1, 2, 3]).await;
    let held = Held {
        count: one.server().me.count,
        instance: one.server().me.instance,
        incarnation: 0,
        phase: Phase::Alive,
    };
    linked.say(&Message::Ping { nonce: 77, held }).await;
    let nonce = linked.hear(|message| match message {
        Message::Pong { nonce, .. } => Some(*nonce),
        _ => None,
    });
    assert_eq!(nonce.await, 77);
}

#[tokio::test]
async fn a_link_that_falls_silent_is_suspected_and_given_up() {
    let [one] = circuit(["one"]).await;
    let mut linked = Linked::new(&one).await;
    until("it is in the view", || knows(&one, &linked.peer)).await;
    linked.link().await;
    // It is pinged before anything is held against it, and answers nothing.
    linked
        .hear(|message| matches!(message, Message::Ping { .. }).then_some(()))
        .await;
    let suspected = || one.server().peer.view().suspected == [linked.peer.fingerprint.id()];
    until("it is suspected", suspected).await;
    until("it is given up", || !knows(&one, &linked.peer)).await;
}

#[tokio::test]
async fn a_peer_that_closes_as_one_that_leaves_is_gone_at_once() {
    let [one] = circuit(["one"]).await;
    let mut linked = Linked::new(&one).await;
    until("it is in the view", || knows(&one, &linked.peer)).await;
    linked.link().await;
    let left = Message::Delta {
        entries: vec![Entry {
            fingerprint: linked.peer.fingerprint,
            held: Held {
                count: linked.peer.identity.count,
                instance: linked.peer.identity.instance,
                incarnation: 0,
                phase: Phase::Left,
            },
            age: 0,
            record: None,
        }],
    };
    linked.say(&left).await;
    until("it is gone", || !knows(&one, &linked.peer)).await;
}

/// Breaks the protocol, and is closed for it.
async fn breaks(what: impl AsyncFnOnce(&mut Linked)) {
    let [one] = circuit(["one"]).await;
    let mut linked = Linked::new(&one).await;
    until("it is in the view", || knows(&one, &linked.peer)).await;
    what(&mut linked).await;
    assert_eq!(linked.peer.closed_with().await, Close::Malformed as u64);
    let heard = linked.from.raw_frame(MAX_FRAME).await;
    assert!(!matches!(heard, Err(StreamError::Protocol(_))), "{heard:?}");
}

#[tokio::test]
async fn a_message_that_is_too_long_closes_the_connection() {
    breaks(async |linked| {
        let header = (MAX_FRAME as u32 + 1).to_be_bytes();
        linked.to.write_all(&header).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_malformed_message_closes_the_connection() {
    // This is a heartbeat without its fields.
    breaks(async |linked| linked.say_bytes(&[1]).await).await;
}

#[tokio::test]
async fn messages_that_end_close_the_connection() {
    breaks(async |linked| linked.to.finish().unwrap()).await;
}
