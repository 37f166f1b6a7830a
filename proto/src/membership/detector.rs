//! Who is in doubt: probes, the trying of servers for others, accusations, patience, and audits.
//! This is the state of the failure detector, and its decisions.
//!
//! It reads the view to choose whom to ask. It knows nothing of connections, links, messages and
//! timers: the machine tells it what has happened, sends what it decides to ask, and arms the
//! timers. What all servers hold of a member is in the view; what is here is this server's own.
//!
//! **Invariant:** at most [`MAX_PROBES`] probes, and as many errands, are under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Record;
use super::entry::Phase;
use super::random::Random;
use super::tuning::*;
use super::view::View;
use crate::Fingerprint;

/// The doubts of one server.
#[derive(Debug, Clone, Default)]
pub(super) struct Detector {
    probes: BTreeMap<Fingerprint, Probe>,
    errands: BTreeMap<Fingerprint, Errand>,
    accused: BTreeMap<Fingerprint, Accusation>,
    patience: BTreeMap<Fingerprint, Patience>,
    /// What the numbers of pings count from.
    first_nonce: u64,
    /// Who is still to be audited in this round.
    unaudited: Vec<Arc<Record>>,
    /// Since when failures are counted, and how many there were.
    failed: Option<(Duration, usize)>,
    /// Until when audits are fast.
    storm: Duration,
}

/// One probe of one server.
#[derive(Debug, Clone)]
struct Probe {
    /// Whether there is hard evidence; then witnesses are not asked, and only an answer counts.
    hard: bool,
    stage: Stage,
    pings: u8,
    /// When it began, or when hard evidence came: answers to what was asked before prove nothing.
    since: Duration,
    /// The number of what witnesses are asked.
    nonce: u64,
    /// Whether other witnesses were asked because the first were silent.
    again: bool,
}

/// How far a probe has got.
#[derive(Debug, Clone)]
pub(super) enum Stage {
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

/// What came of the wish to probe a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// It is probed, from the beginning.
    Now,
    /// It was being probed already.
    Before,
    /// Too many are being probed.
    Full,
}

/// How a probe goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The server does not answer.
    Guilty,
    /// It is pinged, others are asked or not, and the next step is due then.
    Ping(Ask, Duration),
}

/// Who else is asked at a step of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Nobody.
    Nobody,
    /// Witnesses, who are to be chosen.
    New,
    /// Those who have not answered yet.
    Silent,
}

/// What is to be asked of the witnesses of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// Its number.
    pub(super) nonce: u64,
    /// Who has not answered it.
    pub(super) silent: Vec<Fingerprint>,
    /// Whether they are asked for the first time.
    pub(super) first: bool,
}

/// What the answer of a witness decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Somebody else reaches the server.
    Alibi,
    /// Enough do not.
    Guilty,
}

/// One server that is tried for others.
#[derive(Debug, Clone)]
struct Errand {
    /// Who wants to know, and the number of the question.
    askers: BTreeMap<Fingerprint, u64>,
    since: Duration,
    until: Duration,
}

/// One's own accusation of a suspected member.
#[derive(Debug, Clone, Copy)]
struct Accusation {
    /// When it was made: only what was asked after this can settle it.
    since: Duration,
    /// When the member was last asked because something had come from it.
    challenged: Duration,
    /// When the member is to be given up.
    until: Duration,
    /// Whether it did not answer in the second round either.
    confirmed: bool,
}

/// How much longer than others a member is waited for, because it was wrongly suspected.
#[derive(Debug, Clone, Copy)]
struct Patience {
    level: f64,
    at: Duration,
}

impl Patience {
    fn now(&self, now: Duration) -> f64 {
        let halvings = now.saturating_sub(self.at).as_secs_f64() / PATIENCE_HALVES.as_secs_f64();
        self.level * (-halvings).exp2()
    }
}

/// What is to be done when a suspicion's timer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The member is given up.
    Down,
    /// The member is pinged once more, and the timer runs again.
    Challenge,
    /// The second round begins.
    Probe,
}

impl Detector {
    /// Doubts nobody.
    pub(super) fn new(first_nonce: u64) -> Detector {
        Detector {
            first_nonce,
            ..Detector::default()
        }
    }

    // Pings.

    /// The number of a ping that is sent now.
    pub(super) fn nonce(&self, now: Duration) -> u64 {
        // The nanoseconds of 584 years fit.
        self.first_nonce.wrapping_add(now.as_nanos() as u64)
    }

    /// When the ping with this number was sent; `None` if it is not one of ours.
    pub(super) fn pinged(&self, nonce: u64, now: Duration) -> Option<Duration> {
        let at = Duration::from_nanos(nonce.wrapping_sub(self.first_nonce));
        (at <= now).then_some(at)
    }

    // Probes.

    /// Whether this server is being probed.
    pub(super) fn is_probing(&self, who: &Fingerprint) -> bool {
        self.probes.contains_key(who)
    }

    /// Who is being probed.
    pub(super) fn probed(&self) -> Vec<Fingerprint> {
        self.probes.keys().copied().collect()
    }

    /// Probes a server. Hard evidence begins anew a probe that was begun without.
    pub(super) fn begin(
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
    pub(super) fn end(&mut self, who: &Fingerprint) -> Option<bool> {
        self.probes.remove(who).map(|probe| probe.hard)
    }

    /// The next step of a probe, which is due.
    pub(super) fn step(&mut self, who: &Fingerprint, now: Duration) -> Option<Step> {
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
                // Whom no witness answers is perhaps not heard itself: it does not condemn at once.
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
    pub(super) fn on_pinging(&mut self, who: &Fingerprint) {
        if let Some(probe) = self.probes.get_mut(who) {
            probe.pings = probe.pings.saturating_add(1);
        }
    }

    /// Whom to ask about a server: these neighbours, and others only if they are too few.
    pub(super) fn choose_witnesses(
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

    /// These are asked about a server that is probed.
    pub(super) fn on_witnesses(
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

    /// What is to be asked of the witnesses of a probe, if there are any.
    pub(super) fn question(&self, subject: &Fingerprint) -> Option<Question> {
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
    pub(super) fn on_witnessed(
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

    /// A server has answered a ping of that time: whether that ends its probe.
    pub(super) fn is_answer(&self, who: &Fingerprint, pinged: Duration) -> bool {
        let probe = self.probes.get(who);
        probe.is_some_and(|probe| probe.since <= pinged)
    }

    /// A server was there at that time: whether that ends its probe. If there is hard evidence only
    /// an answer does.
    pub(super) fn clears(&self, who: &Fingerprint, at: Duration) -> bool {
        let probe = self.probes.get(who);
        probe.is_some_and(|probe| !probe.hard && probe.since <= at)
    }

    // Errands.

    /// Whether one more server cannot be tried for others.
    pub(super) fn is_busy_for(&self, subject: &Fingerprint) -> bool {
        self.errands.len() >= MAX_PROBES && !self.errands.contains_key(subject)
    }

    /// A server is to be tried for another. Returns whether it was not being tried yet.
    pub(super) fn begin_errand(
        &mut self,
        subject: Fingerprint,
        asker: Fingerprint,
        nonce: u64,
        now: Duration,
    ) -> bool {
        let new = !self.errands.contains_key(&subject);
        let errand = self.errands.entry(subject).or_insert(Errand {
            askers: BTreeMap::new(),
            since: now,
            until: now + ERRAND,
        });
        if errand.askers.len() < MAX_PROBES {
            errand.askers.insert(asker, nonce);
        }
        new
    }

    /// Until when a server is tried for others.
    pub(super) fn errand(&self, subject: &Fingerprint) -> Option<Duration> {
        self.errands.get(subject).map(|errand| errand.until)
    }

    /// Who is being tried for others.
    pub(super) fn errands(&self) -> Vec<Fingerprint> {
        self.errands.keys().copied().collect()
    }

    /// A server was there at that time: whether that is the answer to those who wanted to know.
    pub(super) fn settles_errand(&self, subject: &Fingerprint, at: Duration) -> bool {
        let errand = self.errands.get(subject);
        errand.is_some_and(|errand| errand.since <= at)
    }

    /// A server is not tried any more: who is to be told, with the numbers of their questions.
    pub(super) fn end_errand(
        &mut self,
        subject: &Fingerprint,
    ) -> Option<BTreeMap<Fingerprint, u64>> {
        self.errands.remove(subject).map(|errand| errand.askers)
    }

    // Accusations.

    /// Whether this server accuses the member itself.
    pub(super) fn accuses(&self, who: &Fingerprint) -> bool {
        self.accused.contains_key(who)
    }

    /// How long a suspicion of this member lasts.
    pub(super) fn suspicion(&self, who: &Fingerprint, phase: Phase, now: Duration) -> Duration {
        let patience = self.patience.get(who);
        let patience = patience.map_or(0.0, |patience| patience.now(now));
        match phase {
            Phase::Condemned => CONDEMNED,
            Phase::Stalled => STALL,
            _ => SUSPICION.mul_f64(1.0 + patience).min(SUSPICION_MAX),
        }
    }

    /// Accuses a member, which is to be given up at that time. `anew`: only what it says from now
    /// on can settle that, although it was accused before.
    pub(super) fn accuse(&mut self, who: Fingerprint, until: Duration, anew: bool, now: Duration) {
        let since = match self.accused.get(&who) {
            Some(accusation) if !anew => accusation.since,
            _ => now,
        };
        let accusation = Accusation {
            since,
            challenged: since,
            until,
            confirmed: false,
        };
        self.accused.insert(who, accusation);
    }

    /// The member did not answer in the second round either: when it is to be given up; `None` if it
    /// is not accused.
    pub(super) fn confirm(&mut self, who: &Fingerprint) -> Option<Duration> {
        let accusation = self.accused.get_mut(who)?;
        accusation.confirmed = true;
        Some(accusation.until)
    }

    /// What is held against the member weighs otherwise from now on.
    pub(super) fn reweigh(&mut self, who: &Fingerprint, until: Duration) {
        if let Some(accusation) = self.accused.get_mut(who) {
            accusation.until = until;
            accusation.confirmed = false;
        }
    }

    /// Accuses the member no longer. Returns whether it was accused.
    pub(super) fn withdraw(&mut self, who: &Fingerprint) -> bool {
        self.accused.remove(who).is_some()
    }

    /// The member was there at that time. Returns whether that settles its accusation, which is
    /// then withdrawn.
    pub(super) fn absolve(&mut self, who: &Fingerprint, at: Duration) -> bool {
        let accusation = self.accused.get(who);
        accusation.is_some_and(|accusation| accusation.since <= at) && self.withdraw(who)
    }

    /// Something has come from a member that proves nothing: whether to ask it, because it is
    /// accused and was not asked a moment ago.
    pub(super) fn asks(&mut self, who: &Fingerprint, now: Duration) -> bool {
        let Some(accusation) = self.accused.get_mut(who) else {
            return false;
        };
        let due = accusation.challenged + PING_EVERY <= now;
        if due {
            accusation.challenged = now;
        }
        due
    }

    /// When something is to be done about a suspicion that began then, of so many members.
    pub(super) fn turn_at(
        &self,
        who: &Fingerprint,
        phase: Phase,
        since: Duration,
        members: usize,
        random: &mut Random,
        now: Duration,
    ) -> Duration {
        let at = match self.accused.get(who) {
            Some(accusation) if phase == Phase::Condemned || accusation.confirmed => {
                accusation.until
            }
            Some(accusation) => accusation
                .until
                .saturating_sub(SECOND_ROUND)
                .min(now + PING_SUSPECT),
            None => {
                // Members are fewer than MAX_MEMBERS: the product is a few minutes at most.
                let spread = BACKUP_PER_MEMBER * members as u32;
                let end = since + self.suspicion(who, phase, now) + BACKUP + random.time(spread);
                // Whoever has just been heard is given the time to object.
                end.max(now + PING_SUSPECT)
            }
        };
        at.max(now)
    }

    /// What is to be done about a suspicion in this phase, now that its timer has ended. Who does
    /// not accuse the member itself does so then: its accusers have failed.
    pub(super) fn turn(&mut self, who: Fingerprint, phase: Phase, now: Duration) -> Turn {
        let accusation = self.accused.get(&who);
        if phase == Phase::Condemned || accusation.is_some_and(|accusation| accusation.confirmed) {
            return Turn::Down;
        }
        if accusation.is_some_and(|accusation| accusation.until > now + SECOND_ROUND) {
            return Turn::Challenge;
        }
        self.accused.entry(who).or_insert(Accusation {
            since: now,
            challenged: now,
            until: now,
            confirmed: false,
        });
        Turn::Probe
    }

    /// This process was stopped: all whom it accuses are judged anew. Returns who they are.
    pub(super) fn judge_anew(&mut self, now: Duration) -> Vec<Fingerprint> {
        for accusation in self.accused.values_mut() {
            accusation.confirmed = false;
            accusation.until = accusation.until.max(now + SUSPICION);
        }
        self.accused.keys().copied().collect()
    }

    /// The member was wrongly suspected: it is waited for longer from now on.
    pub(super) fn be_patient(&mut self, who: Fingerprint, now: Duration) {
        self.patience.retain(|_, patience| patience.now(now) > 0.1);
        let before = self.patience.get(&who);
        let level = before.map_or(0.0, |patience| patience.now(now)) + 1.0;
        self.patience.insert(who, Patience { level, at: now });
    }

    /// The member has gone.
    pub(super) fn forget(&mut self, who: &Fingerprint) {
        self.patience.remove(who);
    }

    // Audits.

    /// A member is suspected. Many failures at once may have hidden others. Returns whether audits
    /// are to be fast.
    pub(super) fn note_failure(&mut self, members: usize, now: Duration) -> bool {
        let (since, failures) = match self.failed {
            Some((since, failures)) if now.saturating_sub(since) <= STORM => (since, failures + 1),
            _ => (now, 1),
        };
        self.failed = Some((since, failures));
        // Fewer cannot well have hidden anybody: all neighbours of one must have been among them.
        let many = failures >= 3.max(members / 16);
        if many {
            self.storm = now + STORM;
        }
        many
    }

    /// Whether audits are fast.
    pub(super) fn is_storm(&self, now: Duration) -> bool {
        now < self.storm
    }

    /// The next member to audit: a trusted one for which this holds, looked for a few times.
    pub(super) fn next_audit(
        &mut self,
        view: &View,
        random: &mut Random,
        holds: impl Fn(&Fingerprint) -> bool,
    ) -> Option<Fingerprint> {
        for _ in 0..=2 * DEGREE {
            if self.unaudited.is_empty() {
                self.unaudited = view.live().to_vec();
                random.shuffle(&mut self.unaudited);
            }
            let who = self.unaudited.pop()?.fingerprint;
            if view.is_trusted(&who) && holds(&who) {
                return Some(who);
            }
        }
        None
    }

    /// How many probes, errands, accusations and members waited for longer there are.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 4] {
        [
            self.probes.len(),
            self.errands.len(),
            self.accused.len(),
            self.patience.len(),
        ]
    }

    /// Who is waited for longer.
    #[cfg(test)]
    pub(super) fn waited_for(&self) -> Vec<Fingerprint> {
        self.patience.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests;
