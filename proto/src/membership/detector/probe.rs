//! The probes of the failure detector: how far each has got, and how it goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Detector;
use crate::Fingerprint;
use crate::membership::random::Random;
use crate::membership::tuning::*;
use crate::membership::view::View;

/// One probe of one server.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    /// Whether there is hard evidence; then witnesses are not asked, and only an answer counts.
    hard: bool,
    stage: Stage,
    pings: u8,
    /// When it began, or when hard evidence came: answers to what was asked before prove nothing.
    since: Duration,
    /// The number of the question to its witnesses.
    nonce: u64,
    /// Whether other witnesses were asked because the first were silent.
    again: bool,
}

/// How far a probe has got.
#[derive(Debug, Clone)]
pub(in crate::membership) enum Stage {
    /// One ping, with time for its answer: nothing is known to be wrong.
    Audit,
    /// The server itself sends pings.
    Pinging,
    /// Witnesses try too, until this time.
    Witnesses {
        answers: BTreeMap<Fingerprint, Option<bool>>,
        until: Duration,
    },
    /// There are no witnesses: the server sends as many pings again.
    Alone,
}

/// Whether a probe has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::membership) enum Begun {
    /// It is probed, from the beginning.
    Now,
    /// It was being probed already.
    Before,
    /// Too many are being probed.
    Full,
}

/// How a probe goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::membership) enum Step {
    /// The server does not answer.
    Guilty,
    /// It is pinged, others are asked or not, and the next step is due then.
    Ping(Ask, Duration),
}

/// The witnesses that are asked at a step of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::membership) enum Ask {
    /// No witness is asked.
    Nobody,
    /// New ones, which are to be chosen.
    New,
    /// Those that have not answered yet.
    Silent,
}

/// The question to the witnesses of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::membership) struct Question {
    /// Its number.
    pub(in crate::membership) nonce: u64,
    /// The witnesses that have not answered it.
    pub(in crate::membership) silent: Vec<Fingerprint>,
    /// Whether it is asked for the first time.
    pub(in crate::membership) first: bool,
}

/// The end of a probe that the answer of a witness decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::membership) enum Verdict {
    /// Somebody else reaches the server.
    Alibi,
    /// Enough do not.
    Guilty,
}

impl Detector {
    /// Whether this server is being probed.
    pub(in crate::membership) fn is_probing(&self, who: &Fingerprint) -> bool {
        self.probes.contains_key(who)
    }

    /// The servers that are being probed.
    pub(in crate::membership) fn probed(&self) -> Vec<Fingerprint> {
        self.probes.keys().copied().collect()
    }

    /// Probes a server. Hard evidence begins anew a probe that was begun without.
    pub(in crate::membership) fn begin(
        &mut self,
        who: Fingerprint,
        hard: bool,
        stage: Stage,
        random: &mut Random,
        now: Duration,
    ) -> Begun {
        let many = self.probes.len() >= MAX_PROBES;
        let nonce = match self.probes.get(&who) {
            Some(probe) if hard && !probe.hard => probe.nonce,
            Some(_) => return Begun::Before,
            None if many => return Begun::Full,
            None => random.bits(),
        };
        let probe = Probe {
            hard,
            stage,
            pings: 0,
            since: now,
            nonce,
            again: false,
        };
        self.probes.insert(who, probe);
        Begun::Now
    }

    /// Ends a probe. Returns whether it was one with hard evidence; `None` if there was none.
    pub(in crate::membership) fn end(&mut self, who: &Fingerprint) -> Option<bool> {
        self.probes.remove(who).map(|probe| probe.hard)
    }

    /// The next step of a probe, which is due.
    pub(in crate::membership) fn step(&mut self, who: &Fingerprint, now: Duration) -> Option<Step> {
        let accused = self.accused.contains_key(who);
        let probe = self.probes.get_mut(who)?;
        let soon = now + PING_EVERY;
        Some(match &probe.stage {
            Stage::Audit if probe.pings == 0 => Step::Ping(Ask::Nobody, now + AUDIT_WAIT),
            Stage::Audit => {
                probe.stage = Stage::Pinging;
                probe.pings = 0;
                Step::Ping(Ask::Nobody, soon)
            }
            Stage::Pinging if probe.hard && probe.pings >= PINGS_HARD => Step::Guilty,
            Stage::Pinging if probe.pings < PINGS => Step::Ping(Ask::Nobody, soon),
            Stage::Pinging => Step::Ping(Ask::New, soon),
            Stage::Witnesses { until, answers } if now >= *until => {
                // If no witness answers, perhaps nobody hears this server: it does not judge at once.
                let unheard = answers.values().all(Option::is_none);
                if probe.again || !accused || !unheard {
                    return Some(Step::Guilty);
                }
                probe.again = true;
                Step::Ping(Ask::New, soon)
            }
            Stage::Witnesses { until, .. } => Step::Ping(Ask::Silent, soon.min(*until)),
            Stage::Alone if probe.pings < 2 * PINGS => Step::Ping(Ask::Nobody, soon),
            Stage::Alone => Step::Guilty,
        })
    }

    /// The server that is probed is pinged.
    pub(in crate::membership) fn on_pinging(&mut self, who: &Fingerprint) {
        if let Some(probe) = self.probes.get_mut(who) {
            probe.pings = probe.pings.saturating_add(1);
        }
    }

    /// Chooses witnesses: of these neighbours, and of others only if the neighbours are too few.
    pub(in crate::membership) fn choose_witnesses(
        &self,
        subject: Fingerprint,
        neighbours: impl Iterator<Item = Fingerprint>,
        view: &View,
        random: &mut Random,
        me: Fingerprint,
    ) -> Vec<Fingerprint> {
        let fit = |who: &Fingerprint| {
            *who != subject && *who != me && view.is_trusted(who) && !self.is_probing(who)
        };
        let mut chosen: Vec<_> = neighbours.filter(fit).collect();
        random.shuffle(&mut chosen);
        for _ in 0..4 * WITNESSES {
            if chosen.len() >= WITNESSES {
                break;
            }
            if let Some(who) = view.random_live(random)
                && fit(&who)
                && !chosen.contains(&who)
            {
                chosen.push(who);
            }
        }
        chosen.truncate(WITNESSES);
        chosen
    }

    /// These witnesses are asked about a server that is probed.
    pub(in crate::membership) fn on_witnesses(
        &mut self,
        subject: &Fingerprint,
        witnesses: &[Fingerprint],
        now: Duration,
    ) {
        if let Some(probe) = self.probes.get_mut(subject) {
            probe.stage = if witnesses.is_empty() {
                Stage::Alone
            } else {
                Stage::Witnesses {
                    answers: witnesses.iter().map(|witness| (*witness, None)).collect(),
                    until: now + WITNESS_WAIT,
                }
            };
        }
    }

    /// The question to the witnesses of a probe, if there are any.
    pub(in crate::membership) fn question(&self, subject: &Fingerprint) -> Option<Question> {
        let probe = self.probes.get(subject)?;
        let Stage::Witnesses { answers, .. } = &probe.stage else {
            return None;
        };
        let silent = answers.iter().filter(|(_, answer)| answer.is_none());
        Some(Question {
            nonce: probe.nonce,
            silent: silent.map(|(witness, _)| *witness).collect(),
            first: probe.pings == PINGS,
        })
    }

    /// A witness has answered.
    pub(in crate::membership) fn on_witnessed(
        &mut self,
        from: &Fingerprint,
        nonce: u64,
        subject: &Fingerprint,
        answered: Option<bool>,
    ) -> Option<Verdict> {
        let probe = self.probes.get_mut(subject)?;
        let Stage::Witnesses { answers, .. } = &mut probe.stage else {
            return None;
        };
        let answer = answers.get_mut(from)?;
        if probe.nonce != nonce {
            return None;
        }
        *answer = answered;
        let noes = answers
            .values()
            .filter(|answer| **answer == Some(false))
            .count();
        if answered == Some(true) {
            Some(Verdict::Alibi)
        } else if noes >= NOES.min(answers.len()) {
            Some(Verdict::Guilty)
        } else {
            None
        }
    }

    /// Whether the answer to a ping of that time ends the probe of a server.
    pub(in crate::membership) fn is_answer(&self, who: &Fingerprint, pinged: Duration) -> bool {
        let probe = self.probes.get(who);
        probe.is_some_and(|probe| probe.since <= pinged)
    }

    /// Whether another sign of life of that time ends the probe of a server. Where there is hard
    /// evidence it does not.
    pub(in crate::membership) fn clears(&self, who: &Fingerprint, at: Duration) -> bool {
        let probe = self.probes.get(who);
        probe.is_some_and(|probe| !probe.hard && probe.since <= at)
    }
}
