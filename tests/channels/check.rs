//! Whether a history is one of a bounded FIFO queue with close and abort.
//!
//! The sequential specification ([`super::model`] executes it): a send puts its message at the end
//! of the line; a receive takes the first message that no other holds, and later commits it, or
//! leaves it, which puts it back in its place, or says *empty* when nothing is in line; at most `capacity` messages are stored and not
//! committed; after `close` none is put in line, and a receive says *closed* once nothing is left;
//! `scrub` takes everything.
//!
//! Linearizability is hard to decide in general. Of a queue whose values are unique it is not: a
//! history is one of a FIFO queue if and only if none of a few patterns is in it (Henzinger,
//! Sezgin, Vafeiadis, *Aspect-Oriented Linearizability Proofs*, CONCUR 2013; Bouajjani, Emmi, Enea,
//! Hamza, *On Reducing Linearizability to State Reachability*, ICALP 2015). Those patterns are what
//! is looked for here, extended by what a channel may do besides: messages that come back, and
//! outcomes that nobody heard. The order check costs a logarithm per operation.

use std::collections::{BTreeMap, BTreeSet};

use super::history::{Ended, History, NEVER, Receive, Received, Send, Sent};

/// The reason why a history is not one of a channel; `Ok` if it is one.
pub(crate) fn check(history: &History) -> Vec<String> {
    let mut check = Check {
        history,
        sends: BTreeMap::new(),
        takers: BTreeMap::new(),
        wrong: Vec::new(),
    };
    check.index();
    check.sends_and_receives();
    check.order();
    check.closing();
    check.emptiness();
    check.scrubbing();
    check.capacity();
    check.wrong
}

struct Check<'a> {
    history: &'a History,
    sends: BTreeMap<u64, &'a Send>,
    /// The taker of each message: its receiver, or else those that may have received it.
    takers: BTreeMap<u64, &'a Receive>,
    wrong: Vec<String>,
}

impl<'a> Check<'a> {
    fn index(&mut self) {
        for send in &self.history.sends {
            if self.sends.insert(send.message, send).is_some() {
                self.wrong
                    .push(format!("sent twice, so that nothing is proved: {send:?}"));
            }
        }
        // Receives with a known outcome come first.
        for outcome in [Received::Taken, Received::Unknown] {
            let receives = self.history.receives.iter();
            for receive in receives.filter(|receive| receive.outcome == outcome) {
                let message = match receive.saw {
                    Some(Some(message)) => message,
                    _ if outcome == Received::Unknown => continue,
                    _ => {
                        self.wrong
                            .push(format!("received what nobody sent: {receive:?}"));
                        continue;
                    }
                };
                match self.takers.get(&message) {
                    Some(other) if outcome == Received::Taken => {
                        self.wrong
                            .push(format!("received twice: {other:?} and {receive:?}"));
                    }
                    Some(_) => (),
                    None => {
                        self.takers.insert(message, receive);
                    }
                }
            }
        }
    }

    fn sends_and_receives(&mut self) {
        for receive in &self.history.receives {
            match receive.saw {
                Some(Some(message)) => match self.sends.get(&message) {
                    Some(send) if send.begun < receive.ended => (),
                    _ => self
                        .wrong
                        .push(format!("seen before it was sent: {receive:?}")),
                },
                Some(None) => self
                    .wrong
                    .push(format!("saw what nobody sent: {receive:?}")),
                None => (),
            }
        }
        for send in &self.history.sends {
            let taker = self.takers.get(&send.message);
            let taken = taker.filter(|taker| taker.outcome == Received::Taken);
            match (send.outcome, taken) {
                (Sent::Closed | Sent::Aborted | Sent::Failed, Some(taker)) => self.wrong.push(
                    format!("received, though its send had failed: {send:?} by {taker:?}"),
                ),
                (Sent::Stored, None) if taker.is_none() && self.history.scrub.is_none() => {
                    self.wrong.push(format!("lost: {send:?}"));
                }
                _ => (),
            }
        }
    }

    /// Whether somebody who did not receive it may have held a message at some time in between.
    fn may_have_been_held(&self, message: u64, from: u64, to: u64) -> Held {
        let mut held = Held::default();
        for receive in &self.history.receives {
            let lost = !matches!(
                receive.outcome,
                Received::Taken | Received::Closed | Received::Empty
            );
            if lost && receive.begun < to && receive.noticed > from {
                match receive.saw {
                    Some(Some(saw)) => held.surely |= saw == message,
                    Some(None) => (),
                    None => held.perhaps += 1,
                }
            }
        }
        held
    }

    /// A message that was surely in line before another's send began is not taken after it, unless
    /// somebody held it then who did not receive it.
    fn order(&mut self) {
        let taken: Vec<(&Send, &Receive)> = self
            .sends
            .values()
            .filter_map(|send| Some((*send, *self.takers.get(&send.message)?)))
            .collect();
        let mut earlier: Vec<(u64, u64, u64)> = taken
            .iter()
            .filter_map(|(send, taker)| Some((send.in_line?, taker.begun, send.message)))
            .collect();
        earlier.sort_unstable();
        let mut later: Vec<&(&Send, &Receive)> = taken
            .iter()
            .filter(|(_, taker)| taker.outcome == Received::Taken)
            .collect();
        later.sort_by_key(|(send, _)| send.begun);
        let mut ahead = earlier.into_iter().peekable();
        // The messages before it in line, by the time at which their receive began, are here.
        let mut before: BTreeSet<(u64, u64)> = BTreeSet::new();
        for (send, taker) in later {
            while let Some((_, begun, message)) =
                ahead.next_if(|(in_line, ..)| *in_line < send.begun)
            {
                before.insert((begun, message));
            }
            let got = taker.matched.unwrap_or(taker.ended);
            let mut unexplained = Vec::new();
            let mut perhaps = 0;
            for (_, message) in before.range((got.saturating_add(1), 0)..) {
                let held = self.may_have_been_held(*message, taker.begun, got);
                if !held.surely {
                    unexplained.push(*message);
                    perhaps = held.perhaps;
                }
            }
            // A receiver that gave up before it had seen anything held one message at most.
            if unexplained.len() > perhaps {
                let overtaken: Vec<_> = unexplained.iter().take(3).map(|m| self.sends[m]).collect();
                self.wrong
                    .push(format!("out of order: {send:?} overtook {overtaken:?}"));
            }
        }
    }

    /// Whether the message of a send was in line at some time, for all that is known.
    fn is_effective(&self, send: &Send) -> bool {
        send.outcome == Sent::Stored || self.takers.contains_key(&send.message)
    }

    /// There is one close. Before it comes every send that was not refused, behind it all that
    /// heard of it; and a receive hears of it once all messages are gone.
    fn closing(&mut self) {
        let History {
            closes,
            sends,
            receives,
            ..
        } = self.history;
        let possible = closes
            .iter()
            .filter(|close| close.outcome != Ended::Already);
        let earliest = possible.map(|close| close.begun).min().unwrap_or(NEVER);
        let mut heard: Vec<(u64, String)> = Vec::new();
        for close in closes {
            if close.outcome != Ended::Unknown {
                heard.push((close.ended, format!("{close:?}")));
            }
        }
        let refused = sends.iter().filter(|send| send.outcome == Sent::Closed);
        heard.extend(refused.map(|send| (send.ended, format!("{send:?}"))));
        let ends = receives.iter().filter(|r| r.outcome == Received::Closed);
        let ends: Vec<&Receive> = ends.collect();
        heard.extend(ends.iter().map(|r| (r.ended, format!("{r:?}"))));
        for (ended, who) in &heard {
            if *ended < earliest {
                self.wrong.push(format!("heard of a close to come: {who}"));
            }
        }
        let done = closes.iter().filter(|close| close.outcome == Ended::Done);
        if done.count() > 1 {
            self.wrong.push(format!("closed twice: {closes:?}"));
        }
        let latest = heard.iter().map(|(ended, _)| *ended).min();
        let latest = latest.unwrap_or(NEVER);
        for send in sends {
            if self.is_effective(send) && send.begun > latest {
                self.wrong.push(format!("sent after the close: {send:?}"));
            }
        }
        let gone = self.takers.iter().filter_map(|(message, taker)| {
            let send = self.sends.get(message)?;
            // A short one may come back until its receiver says that it has it.
            let gone = match send.is_long() {
                true => taker.begun,
                false => taker.accepted.unwrap_or(taker.begun),
            };
            Some((gone, *message))
        });
        if let Some((gone, last)) = gone.max() {
            for end in ends {
                if end.ended < gone {
                    let left = self.sends[&last];
                    self.wrong
                        .push(format!("ended while a message was left: {end:?}, {left:?}"));
                }
            }
        }
    }

    /// A receive does not say *empty* if a message was in line all the time, and nobody held it.
    fn emptiness(&mut self) {
        let receives = self.history.receives.iter();
        for empty in receives.filter(|r| r.outcome == Received::Empty) {
            for (message, taker) in &self.takers {
                let Some(send) = self.sends.get(message) else {
                    continue;
                };
                let was_there = send.in_line.is_some_and(|time| time < empty.begun)
                    && taker.begun > empty.ended;
                if was_there {
                    let held = self.may_have_been_held(*message, empty.begun, empty.ended);
                    if !held.surely && held.perhaps == 0 {
                        self.wrong.push(format!(
                            "empty while a message was left: {empty:?}, {send:?}"
                        ));
                    }
                }
            }
        }
    }

    fn scrubbing(&mut self) {
        let (begun, ended) = self.history.scrub.unwrap_or((NEVER, NEVER));
        let lost_senders: Vec<&Send> = self
            .history
            .sends
            .iter()
            .filter(|send| !matches!(send.outcome, Sent::Stored | Sent::Closed))
            .collect();
        let lost_receivers: Vec<&Receive> = self
            .history
            .receives
            .iter()
            .filter(|r| {
                !matches!(
                    r.outcome,
                    Received::Taken | Received::Closed | Received::Empty
                )
            })
            .collect();
        for send in &self.history.sends {
            if self.is_effective(send) && send.begun > ended {
                self.wrong.push(format!("sent after the scrub: {send:?}"));
            }
            let may_be_lost = |receive: &&&Receive| {
                receive.begun < send.ended
                    && receive.saw.is_none_or(|saw| saw == Some(send.message))
            };
            if send.outcome == Sent::Aborted
                && begun > send.ended
                && !(send.is_long() && lost_receivers.iter().any(|r| may_be_lost(&r)))
            {
                self.wrong.push(format!("aborted by nobody: {send:?}"));
            }
        }
        for receive in &self.history.receives {
            if receive.outcome == Received::Taken && receive.begun > ended {
                self.wrong
                    .push(format!("received after the scrub: {receive:?}"));
            }
            let may_be_lost = |send: &&&Send| {
                send.begun < receive.ended && receive.saw.is_none_or(|s| s == Some(send.message))
            };
            if receive.outcome == Received::Aborted
                && begun > receive.ended
                && !lost_senders.iter().any(|send| may_be_lost(&send))
            {
                self.wrong.push(format!("aborted by nobody: {receive:?}"));
            }
        }
    }

    /// No more messages are stored at a time than there are slots, and what no slot holds is not
    /// stored before its receiver has spoken.
    fn capacity(&mut self) {
        let mut changes: Vec<(u64, i64)> = Vec::new();
        for send in &self.history.sends {
            if send.outcome != Sent::Stored {
                continue;
            }
            let taker = self.takers.get(&send.message);
            let accepted = taker.and_then(|taker| taker.accepted).unwrap_or(NEVER);
            if send.is_long() || self.history.capacity == 0 {
                if send.ended < accepted && (taker.is_some() || self.history.scrub.is_none()) {
                    self.wrong.push(format!("stored too early: {send:?}"));
                }
            } else if send.ended < accepted {
                changes.push((send.ended, 1));
                changes.push((accepted, -1));
            }
        }
        // Of the same instant, what frees a slot came first.
        changes.sort_unstable();
        let mut stored = 0;
        for (time, change) in changes {
            stored += change;
            if stored > self.history.capacity.cast_signed() {
                let capacity = self.history.capacity;
                self.wrong
                    .push(format!("{stored} messages in {capacity} slots at {time}"));
                break;
            }
        }
        let certain = self.history.receives.iter();
        let certain = certain.filter(|r| r.outcome == Received::Taken).count() as u64;
        let perhaps = self.history.receives.iter();
        let perhaps = perhaps.filter(|r| r.outcome == Received::Unknown).count() as u64;
        if let Some(counted) = self.history.received
            && !(certain..=certain + perhaps).contains(&counted)
        {
            self.wrong.push(format!(
                "counted {counted} messages, not {certain} to {}",
                certain + perhaps
            ));
        }
    }
}

/// The receivers that may have held a message without receiving it.
#[derive(Default)]
struct Held {
    /// Somebody who had seen it.
    surely: bool,
    /// So many who had seen nothing yet.
    perhaps: usize,
}
