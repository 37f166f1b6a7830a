//! Signs of life: what proves that a server was there, and when.
//!
//! Whatever comes on a connection does. A packet outside of connections is signed, but somebody may
//! have recorded it and sent it again. So of those only the answer to a ping of ours proves
//! something: the ping's number says when it was sent, and the server was there after that. Whoever
//! is heard otherwise is pinged, if it matters.

use std::time::Duration;

use super::Machine;
use super::message::Message;
use super::tuning::PING_EVERY;
use crate::Fingerprint;

impl Machine {
    /// The number of a ping that is sent now.
    pub(super) fn nonce(&self) -> u64 {
        // The nanoseconds of 584 years fit.
        self.first_nonce.wrapping_add(self.now.as_nanos() as u64)
    }

    /// When the ping with this number was sent; `None` if it is not one of ours.
    pub(super) fn pinged(&self, nonce: u64) -> Option<Duration> {
        let at = Duration::from_nanos(nonce.wrapping_sub(self.first_nonce));
        (at <= self.now).then_some(at)
    }

    /// This server was there at that time: whatever was held against it before is settled.
    pub(super) fn on_alive(&mut self, who: Fingerprint, at: Duration) {
        if let Some(connection) = self.connections.get_mut(&who) {
            connection.heard = connection.heard.max(at);
        }
        self.absolve(who, at);
        if self
            .errands
            .get(&who)
            .is_some_and(|errand| errand.since <= at)
        {
            self.answer_errand(who, Some(true));
        }
    }

    /// Something came outside of connections: this server seems to be there. If it is still accused,
    /// it is asked, but not so often that two who accuse each other never come to rest.
    pub(super) fn on_rumour(&mut self, who: Fingerprint) {
        // Probes and errands ping often enough by themselves.
        let now = self.now;
        if let Some(accusation) = self.accused.get_mut(&who)
            && accusation.challenged + PING_EVERY <= now
        {
            accusation.challenged = now;
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
