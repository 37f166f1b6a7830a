//! The accusations of the failure detector: which members this server itself suspects, for how long,
//! and whose turn it is to act.

use std::time::Duration;

use super::Detector;
use crate::Fingerprint;
use crate::membership::entry::Phase;
use crate::membership::random::Random;
use crate::membership::tuning::*;

/// One's own accusation of a suspected member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accusation {
    /// When it was made: only what was asked after this can settle it.
    since: Duration,
    /// When the member was last asked because something had come from it.
    challenged: Duration,
    /// When the member is to be given up.
    until: Duration,
    /// Whether it did not answer in the second round either.
    confirmed: bool,
}

/// By how much a suspicion of this member lasts longer, because it was wrongly suspected before.
#[derive(Debug, Clone, Copy)]
pub(super) struct SuspicionFactor {
    level: f64,
    at: Duration,
}

impl SuspicionFactor {
    fn now(&self, now: Duration) -> f64 {
        let halvings =
            now.saturating_sub(self.at).as_secs_f64() / SUSPICION_FACTOR_HALVES.as_secs_f64();
        self.level * (-halvings).exp2()
    }
}

/// The next step of a suspicion, once its timer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::membership) enum Turn {
    /// The member is given up.
    Down,
    /// The member is pinged once more, and the timer runs again.
    Challenge,
    /// The second round begins.
    Probe,
}

impl Detector {
    /// Whether this server accuses the member itself.
    pub(in crate::membership) fn accuses(&self, who: &Fingerprint) -> bool {
        self.accused.contains_key(who)
    }

    /// How long a suspicion of this member lasts.
    pub(in crate::membership) fn suspicion(
        &self,
        who: &Fingerprint,
        phase: Phase,
        now: Duration,
    ) -> Duration {
        let suspicion_factor = self.suspicion_factor.get(who);
        let suspicion_factor = suspicion_factor.map_or(0.0, |factor| factor.now(now));
        match phase {
            Phase::Condemned => CONDEMNED,
            Phase::Stalled => STALL,
            _ => SUSPICION.mul_f64(1.0 + suspicion_factor).min(SUSPICION_MAX),
        }
    }

    /// Accuses a member, which is to be given up at `until`. If it was accused before, that accusation
    /// is prolonged, or with `anew` replaced: then only signs of life from now on settle it.
    pub(in crate::membership) fn accuse(
        &mut self,
        who: Fingerprint,
        until: Duration,
        anew: bool,
        now: Duration,
    ) {
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
    pub(in crate::membership) fn confirm(&mut self, who: &Fingerprint) -> Option<Duration> {
        let accusation = self.accused.get_mut(who)?;
        accusation.confirmed = true;
        Some(accusation.until)
    }

    /// The suspicion of the member has another end from now on.
    pub(in crate::membership) fn reweigh(&mut self, who: &Fingerprint, until: Duration) {
        if let Some(accusation) = self.accused.get_mut(who) {
            accusation.until = until;
            accusation.confirmed = false;
        }
    }

    /// Accuses the member no longer. Returns whether it was accused.
    pub(in crate::membership) fn withdraw(&mut self, who: &Fingerprint) -> bool {
        self.accused.remove(who).is_some()
    }

    /// The member was there at that time. Returns whether that settles its accusation, which is
    /// then withdrawn.
    pub(in crate::membership) fn absolve(&mut self, who: &Fingerprint, at: Duration) -> bool {
        let accusation = self.accused.get(who);
        accusation.is_some_and(|accusation| accusation.since <= at) && self.withdraw(who)
    }

    /// Something has come from a member that is no sign of life. Returns whether to ping the member:
    /// if it is accused and was not pinged a moment ago.
    pub(in crate::membership) fn asks(&mut self, who: &Fingerprint, now: Duration) -> bool {
        let Some(accusation) = self.accused.get_mut(who) else {
            return false;
        };
        let due = accusation.challenged + PING_EVERY <= now;
        if due {
            accusation.challenged = now;
        }
        due
    }

    /// When the next step of a suspicion is due that began at `since`, with so many members.
    pub(in crate::membership) fn turn_at(
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
                // A member that was heard just now gets the time to object.
                end.max(now + PING_SUSPECT)
            }
        };
        at.max(now)
    }

    /// The next step of a suspicion in this phase, whose timer has ended. If this server does not
    /// accuse the member yet, it does so now: the accusers have failed.
    pub(in crate::membership) fn turn(
        &mut self,
        who: Fingerprint,
        phase: Phase,
        now: Duration,
    ) -> Turn {
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

    /// This process was stopped: it judges anew all members that it accuses. Returns these.
    pub(in crate::membership) fn judge_anew(&mut self, now: Duration) -> Vec<Fingerprint> {
        for accusation in self.accused.values_mut() {
            accusation.confirmed = false;
            accusation.until = accusation.until.max(now + SUSPICION);
        }
        self.accused.keys().copied().collect()
    }

    /// The member was wrongly suspected: later suspicions of it last longer for a while.
    pub(in crate::membership) fn raise_suspicion_factor(
        &mut self,
        who: Fingerprint,
        now: Duration,
    ) {
        self.suspicion_factor
            .retain(|_, factor| factor.now(now) > 0.1);
        let before = self.suspicion_factor.get(&who);
        let level = before.map_or(0.0, |factor| factor.now(now)) + 1.0;
        self.suspicion_factor
            .insert(who, SuspicionFactor { level, at: now });
    }

    /// The member has gone.
    pub(in crate::membership) fn forget(&mut self, who: &Fingerprint) {
        self.suspicion_factor.remove(who);
    }
}
