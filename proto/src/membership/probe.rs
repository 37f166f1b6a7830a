//! Probes: finding out whether a server that was not heard of still answers.
//!
//! First it is pinged; then others are asked to try, which may reach it where we cannot. If one of
//! them reaches it, the probe ends. [`Detector`](super::detector::Detector) decides how a probe
//! goes on; here the machine asks.

use super::Machine;
use super::detector::{Ask, Begun, Stage, Step, Verdict};
use super::entry::{Entry, Held};
use super::message::Message;
use super::timer::Timer;
use super::tuning::*;
use crate::Fingerprint;

impl Machine {
    /// Probes a server that should have been heard.
    pub(super) fn probe(&mut self, who: Fingerprint, hard: bool) {
        self.begin_probe(who, hard, Stage::Pinging);
    }

    /// Probes a server of which nothing is known to be wrong.
    pub(super) fn audit(&mut self, who: Fingerprint) {
        self.begin_probe(who, false, Stage::Audit);
    }

    fn begin_probe(&mut self, who: Fingerprint, hard: bool, stage: Stage) {
        if who == self.me.fingerprint || self.view.live_member(&who).is_none() {
            return;
        }
        let (random, now) = (&mut self.random, self.now);
        match self.detector.begin(who, hard, stage, random, now) {
            Begun::Now => self.on_probe_timer(who),
            Begun::Before => {}
            // The reason for the probe will come again.
            Begun::Full => self.rearm_silence(who),
        }
    }

    /// Ends a probe: whether it was one with hard evidence; `None` if there was none.
    pub(super) fn end_probe(&mut self, who: Fingerprint) -> Option<bool> {
        let hard = self.detector.end(&who)?;
        self.timers.disarm(Timer::Probe(who));
        self.rearm_silence(who);
        Some(hard)
    }

    /// Goes on watching a link.
    fn rearm_silence(&mut self, who: Fingerprint) {
        if self.links.contains(&who) {
            self.timers.arm(Timer::Silence(who), self.now + SILENCE);
        }
    }

    /// A probe goes on.
    pub(super) fn on_probe_timer(&mut self, who: Fingerprint) {
        let (ask, next) = match self.detector.step(&who, self.now) {
            Some(Step::Ping(ask, next)) => (ask, next),
            Some(Step::Guilty) => return self.find_guilty(who),
            None => return,
        };
        match ask {
            Ask::Nobody => {}
            Ask::New => self.choose_witnesses(who),
            Ask::Silent => self.ask_witnesses(who),
        }
        self.ping(who);
        self.timers.arm(Timer::Probe(who), next);
    }

    fn ping(&mut self, who: Fingerprint) {
        let Some(member) = self.view.get(&who) else {
            return;
        };
        let (nonce, held) = (self.nonce(), member.held());
        self.detector.on_pinging(&who);
        self.send(who, Message::Ping { nonce, held });
        self.send_datagram(who, Message::Ping { nonce, held });
    }

    fn choose_witnesses(&mut self, who: Fingerprint) {
        let (view, random, me) = (&self.view, &mut self.random, self.me.fingerprint);
        let neighbours = self.links.iter();
        let detector = &self.detector;
        let witnesses = detector.choose_witnesses(who, neighbours, view, random, me);
        self.detector.on_witnesses(&who, &witnesses, self.now);
        self.ask_witnesses(who);
    }

    /// Asks the witnesses that have not answered yet: the first time on the connection, if there is
    /// one, and then by datagrams, as those of before may be lost.
    fn ask_witnesses(&mut self, who: Fingerprint) {
        let Some(held) = self.view.get(&who).map(|member| member.held()) else {
            return;
        };
        let Some(question) = self.detector.question(&who) else {
            return;
        };
        for witness in question.silent {
            let message = Message::Witness {
                nonce: question.nonce,
                subject: who,
                held,
            };
            if question.first {
                self.say(witness, message);
            } else {
                self.send_datagram(witness, message);
            }
        }
    }

    /// A witness answers.
    pub(super) fn on_witnessed(
        &mut self,
        from: Fingerprint,
        nonce: u64,
        subject: Fingerprint,
        answered: Option<bool>,
    ) {
        let detector = &mut self.detector;
        match detector.on_witnessed(&from, nonce, &subject, answered) {
            Some(Verdict::Alibi) => self.on_alibi(subject),
            Some(Verdict::Guilty) => self.find_guilty(subject),
            None => {}
        }
    }

    /// A witness reaches the subject. If this server has not for long, the link is of no use.
    fn on_alibi(&mut self, subject: Fingerprint) {
        self.end_probe(subject);
        if self.detector.withdraw(&subject) {
            self.warn(subject);
        }
        let silent = self
            .connections
            .get(&subject)
            .is_some_and(|connection| connection.heard + 2 * SILENCE <= self.now);
        if silent && self.links.contains(&subject) {
            self.give_up(subject, None);
            self.close(subject);
            self.avoid(subject, AVOID_BLOCKED);
        }
    }

    fn find_guilty(&mut self, who: Fingerprint) {
        if let Some(hard) = self.end_probe(who) {
            self.on_guilty(who, hard);
        }
    }

    /// Answers a ping.
    pub(super) fn on_ping(&mut self, from: Fingerprint, nonce: u64, held: Held, datagram: bool) {
        self.on_held_of_me(from, held);
        let answer = Message::Pong {
            nonce,
            count: self.me.count,
            instance: self.me.instance,
            incarnation: self.incarnation,
        };
        if datagram {
            self.send_datagram(from, answer);
            self.reunite(from);
        } else {
            self.send(from, answer);
        }
    }

    /// A server answers a ping.
    pub(super) fn on_pong(&mut self, from: Fingerprint, nonce: u64, held: Held) {
        let Some(pinged) = self.pinged(nonce) else {
            return;
        };
        if self.detector.is_answer(&from, pinged) {
            self.end_probe(from);
        }
        self.on_alive(from, pinged);
        let Some(member) = self.view.live_member(&from) else {
            self.reunite(from);
            return;
        };
        if !held.is_of(&member.record) {
            // Another life, of which we have not heard yet.
            self.meet(from);
        } else if held.incarnation > member.incarnation {
            self.on_entry(
                Entry {
                    fingerprint: from,
                    held,
                    age: 0,
                    record: None,
                },
                None,
            );
        }
    }
}
