//! Probes: finding out whether a server that was not heard of still answers.
//!
//! First it is pinged; then others are asked to try, who may reach it where we cannot. One who
//! reaches it is enough to let it be.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Machine;
use super::entry::{Entry, Held, Phase};
use super::message::Message;
use super::timer::Timer;
use super::tuning::*;
use crate::Fingerprint;

/// One probe of one server.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    /// Whether there is hard evidence; then witnesses are not asked, and only an answer counts.
    pub(super) hard: bool,
    stage: Stage,
    pings: u8,
    /// When it began, or when hard evidence came: answers to what was asked before prove nothing.
    pub(super) since: Duration,
    /// The number of what witnesses are asked.
    nonce: u64,
    /// Whether other witnesses were asked because the first were silent.
    again: bool,
}

/// How far a probe has got.
#[derive(Debug, Clone)]
enum Stage {
    /// One ping, with time for its answer: nothing is known to be wrong.
    Audit,
    /// Pings.
    Pinging,
    /// Others try too, and have until then.
    Witnesses {
        answers: BTreeMap<Fingerprint, Option<bool>>,
        until: Duration,
    },
    /// There is nobody to ask: as many pings again.
    Alone,
}

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
        let (since, many) = (self.now, self.probes.len() >= MAX_PROBES);
        match self.probes.get_mut(&who) {
            Some(probe) if hard && !probe.hard => {
                *probe = Probe {
                    hard,
                    stage,
                    pings: 0,
                    since,
                    nonce: probe.nonce,
                    again: false,
                };
            }
            Some(_) => return,
            None if many => {
                // Nothing is lost: whatever made us ask comes again.
                self.rearm_silence(who);
                return;
            }
            None => {
                let nonce = self.random.bits();
                self.probes.insert(
                    who,
                    Probe {
                        hard,
                        stage,
                        pings: 0,
                        since,
                        nonce,
                        again: false,
                    },
                );
            }
        }
        self.on_probe_timer(who);
    }

    /// Ends a probe without a finding.
    pub(super) fn end_probe(&mut self, who: Fingerprint) {
        if self.probes.remove(&who).is_some() {
            self.timers.disarm(Timer::Probe(who));
            self.rearm_silence(who);
        }
    }

    /// Goes on watching a link.
    fn rearm_silence(&mut self, who: Fingerprint) {
        if self.links.contains(&who) {
            self.timers.arm(Timer::Silence(who), self.now + SILENCE);
        }
    }

    /// A probe goes on.
    pub(super) fn on_probe_timer(&mut self, who: Fingerprint) {
        let (now, accused) = (self.now, self.accused.contains_key(&who));
        let Some(probe) = self.probes.get_mut(&who) else {
            return;
        };
        let mut next = now + PING_EVERY;
        match &mut probe.stage {
            Stage::Audit if probe.pings == 0 => next = now + AUDIT_WAIT,
            Stage::Audit => {
                probe.stage = Stage::Pinging;
                probe.pings = 0;
            }
            Stage::Pinging if probe.hard && probe.pings >= PINGS_HARD => {
                return self.find_guilty(who);
            }
            Stage::Pinging if probe.pings < PINGS => {}
            Stage::Pinging => self.choose_witnesses(who),
            Stage::Witnesses { until, answers } if now >= *until => {
                // Whom no witness answers is perhaps not heard itself: it does not condemn at once.
                let unheard = answers.values().all(Option::is_none);
                if probe.again || !accused || !unheard {
                    return self.find_guilty(who);
                }
                probe.again = true;
                self.choose_witnesses(who);
            }
            Stage::Witnesses { until, .. } => {
                next = next.min(*until);
                self.ask_witnesses(who);
            }
            Stage::Alone if probe.pings < 2 * PINGS => {}
            Stage::Alone => return self.find_guilty(who),
        }
        self.ping(who);
        self.timers.arm(Timer::Probe(who), next);
    }

    fn ping(&mut self, who: Fingerprint) {
        let Some(member) = self.view.get(&who) else {
            return;
        };
        let (nonce, held) = (self.nonce(), member.held());
        let Some(probe) = self.probes.get_mut(&who) else {
            return;
        };
        probe.pings = probe.pings.saturating_add(1);
        self.send(who, Message::Ping { nonce, held });
        self.send_datagram(who, Message::Ping { nonce, held });
    }

    fn choose_witnesses(&mut self, who: Fingerprint) {
        let witnesses = self.witnesses(who);
        let until = self.now + WITNESS_WAIT;
        if let Some(probe) = self.probes.get_mut(&who) {
            probe.stage = if witnesses.is_empty() {
                Stage::Alone
            } else {
                let answers = witnesses.iter().map(|witness| (*witness, None)).collect();
                Stage::Witnesses { answers, until }
            };
            self.ask_witnesses(who);
        }
    }

    /// Asks those who have not answered yet: once on the connection, if there is one, and again
    /// outside, should what is sent be lost.
    fn ask_witnesses(&mut self, who: Fingerprint) {
        let Some(held) = self.view.get(&who).map(|member| member.held()) else {
            return;
        };
        let Some(Probe {
            nonce,
            pings,
            stage: Stage::Witnesses { answers, .. },
            ..
        }) = self.probes.get(&who)
        else {
            return;
        };
        let (first, nonce) = (*pings == PINGS, *nonce);
        let silent: Vec<_> = answers
            .iter()
            .filter(|(_, answer)| answer.is_none())
            .map(|(witness, _)| *witness)
            .collect();
        for witness in silent {
            let message = Message::Witness {
                nonce,
                subject: who,
                held,
            };
            if first {
                self.say(witness, message);
            } else {
                self.send_datagram(witness, message);
            }
        }
    }

    /// Whom to ask: neighbours, and others only if they are too few.
    fn witnesses(&mut self, subject: Fingerprint) -> Vec<Fingerprint> {
        let fit = |machine: &Machine, who: &Fingerprint| {
            *who != subject
                && *who != machine.me.fingerprint
                && machine.view.is_trusted(who)
                && !machine.probes.contains_key(who)
        };
        let mut chosen: Vec<_> = self
            .links
            .iter()
            .copied()
            .filter(|who| fit(self, who))
            .collect();
        self.random.shuffle(&mut chosen);
        for _ in 0..4 * WITNESSES {
            if chosen.len() >= WITNESSES {
                break;
            }
            if let Some(who) = self.view.random_live(&mut self.random)
                && fit(self, &who)
                && !chosen.contains(&who)
            {
                chosen.push(who);
            }
        }
        chosen.truncate(WITNESSES);
        chosen
    }

    /// A witness answers.
    pub(super) fn on_witnessed(
        &mut self,
        from: Fingerprint,
        nonce: u64,
        subject: Fingerprint,
        answered: Option<bool>,
    ) {
        let Some(probe) = self.probes.get_mut(&subject) else {
            return;
        };
        let Stage::Witnesses { answers, .. } = &mut probe.stage else {
            return;
        };
        let Some(answer) = answers.get_mut(&from) else {
            return;
        };
        if probe.nonce != nonce {
            return;
        }
        *answer = answered;
        let noes = answers
            .values()
            .filter(|answer| **answer == Some(false))
            .count();
        if answered == Some(true) {
            self.on_alibi(subject);
        } else if noes >= NOES.min(answers.len()) {
            self.find_guilty(subject);
        }
    }

    /// Somebody else reaches the subject. If we have not for long, the link is of no use.
    fn on_alibi(&mut self, subject: Fingerprint) {
        self.end_probe(subject);
        if self.accused.remove(&subject).is_some() {
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
        let Some(probe) = self.probes.remove(&who) else {
            return;
        };
        self.timers.disarm(Timer::Probe(who));
        self.rearm_silence(who);
        self.on_guilty(who, probe.hard);
    }

    /// Somebody asks whether we are there.
    pub(super) fn on_ping(&mut self, from: Fingerprint, nonce: u64, held: Held, datagram: bool) {
        self.on_held_of_me(held);
        let answer = Message::Pong {
            nonce,
            count: self.me.count,
            incarnation: self.incarnation,
        };
        if datagram {
            self.send_datagram(from, answer);
            self.reunite(from);
        } else {
            self.send(from, answer);
        }
    }

    /// A server answers.
    pub(super) fn on_pong(&mut self, from: Fingerprint, nonce: u64, count: u64, incarnation: u64) {
        let Some(pinged) = self.pinged(nonce) else {
            return;
        };
        if self
            .probes
            .get(&from)
            .is_some_and(|probe| probe.since <= pinged)
        {
            self.end_probe(from);
        }
        self.on_alive(from, pinged);
        let Some(member) = self.view.live_member(&from) else {
            self.reunite(from);
            return;
        };
        if member.record.count != count {
            // Another life, of which we have not heard yet.
            self.meet(from);
        } else if incarnation > member.incarnation {
            let held = Held {
                count,
                incarnation,
                phase: Phase::Alive,
            };
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
