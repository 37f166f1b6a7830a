//! Indirect probes: a witness tries a server for others that cannot reach it.

use super::Machine;
use super::entry::{Held, Phase};
use super::message::Message;
use super::timer::Timer;
use super::tuning::*;
use crate::Fingerprint;

impl Machine {
    /// Another server asks this one to try a third.
    pub(super) fn on_witness(
        &mut self,
        asker: Fingerprint,
        nonce: u64,
        subject: Fingerprint,
        held: Held,
    ) {
        if subject == self.me.fingerprint {
            self.on_held_of_me(asker, held);
            self.say(
                asker,
                Message::Witnessed {
                    nonce,
                    subject,
                    answered: Some(true),
                },
            );
            return;
        }
        let heard = self
            .connections
            .get(&subject)
            .is_some_and(|connection| connection.heard + WITNESS_RECENT > self.now);
        let answered = match self.view.get(&subject) {
            None => Some(None),
            Some(member) if !member.phase.is_live() => {
                Some((member.incarnation >= held.incarnation).then_some(false))
            }
            Some(_) if heard => Some(Some(true)),
            Some(_) if self.detector.is_busy_for(&subject) => Some(None),
            Some(_) => None,
        };
        if let Some(answered) = answered {
            self.say(
                asker,
                Message::Witnessed {
                    nonce,
                    subject,
                    answered,
                },
            );
            return;
        }
        if self
            .detector
            .begin_indirect_probe(subject, asker, nonce, self.now)
        {
            self.on_indirect_probe_timer(subject);
        }
    }

    /// An indirect probe goes on.
    pub(super) fn on_indirect_probe_timer(&mut self, subject: Fingerprint) {
        let now = self.now;
        let Some(until) = self.detector.indirect_probe(&subject) else {
            return;
        };
        if now >= until {
            self.answer_indirect_probe(subject, Some(false));
            return;
        }
        // The subject hears what we hold of it, and can object.
        if let Some(held) = self.view.get(&subject).map(|member| member.held()) {
            let nonce = self.nonce();
            self.send(subject, Message::Ping { nonce, held });
            self.send_datagram(subject, Message::Ping { nonce, held });
        }
        self.timers
            .arm(Timer::IndirectProbe(subject), until.min(now + PING_EVERY));
    }

    /// An indirect probe has ended; `answered` is `None` if this server could not try.
    pub(super) fn answer_indirect_probe(&mut self, subject: Fingerprint, answered: Option<bool>) {
        let Some(askers) = self.detector.end_indirect_probe(&subject) else {
            return;
        };
        self.timers.disarm(Timer::IndirectProbe(subject));
        if answered == Some(false) && self.is_acknowledged(subject) {
            self.testify(subject);
        }
        for (asker, nonce) in askers {
            self.say(
                asker,
                Message::Witnessed {
                    nonce,
                    subject,
                    answered,
                },
            );
        }
    }

    /// A member that is suspected does not answer this server either, but its kernel does: tells
    /// all.
    fn testify(&mut self, subject: Fingerprint) {
        if self
            .view
            .get(&subject)
            .is_some_and(|member| member.phase == Phase::Suspect)
        {
            self.claim(subject, Phase::Stalled);
        }
    }
}
