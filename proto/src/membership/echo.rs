//! Signs of life: proofs that a server was there, and when.
//!
//! Each message on a connection is one. A datagram is signed, but somebody may have recorded it and
//! sent it again. So of datagrams only the answer to a ping of ours proves something: the number of
//! the ping says when it was sent, and the server was there after that. A server that is accused
//! and heard otherwise is pinged.

use std::time::Duration;

use super::Machine;
use super::message::Message;
use crate::Fingerprint;

impl Machine {
    /// The number of a ping that is sent now.
    pub(super) fn nonce(&self) -> u64 {
        self.detector.nonce(self.now)
    }

    /// When the ping with this number was sent; `None` if it is not one of ours.
    pub(super) fn pinged(&self, nonce: u64) -> Option<Duration> {
        self.detector.pinged(nonce, self.now)
    }

    /// This server was there at that time: settles the doubts about it that are older.
    pub(super) fn on_alive(&mut self, who: Fingerprint, at: Duration) {
        if let Some(connection) = self.connections.get_mut(&who) {
            connection.heard = connection.heard.max(at);
        }
        self.absolve(who, at);
        if self.detector.settles_indirect_probe(&who, at) {
            self.answer_indirect_probe(who, Some(true));
        }
    }

    /// A datagram came: its sender seems to be there. If this server accuses it, it is pinged, but
    /// not so often that two servers that accuse each other never come to rest.
    pub(super) fn on_rumour(&mut self, who: Fingerprint) {
        // Probes and indirect probes ping often enough by themselves.
        if self.detector.asks(&who, self.now) {
            self.challenge(who);
        }
        self.cling(who);
    }

    /// Pings a server: its answer is a sign of life, and brings its raised incarnation.
    pub(super) fn challenge(&mut self, who: Fingerprint) {
        if let Some(held) = self.view.get(&who).map(|member| member.held()) {
            let nonce = self.nonce();
            self.send_datagram(who, Message::Ping { nonce, held });
        }
    }
}
