//! The peers of one machine that is driven by hand: time passes, they are heard, and they answer.

use std::time::Duration;

use super::machine::{connect, entry, machine, say};
use crate::Fingerprint;
use crate::membership::{Entry, Input, MAX_ENTRIES, Machine, Message, Output, Phase, Wish};

/// The time at which the machines of these tests begin; milliseconds count from here.
pub(super) const NOW: Duration = Duration::from_secs(1);

pub(super) const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A machine with links to servers 1 to `n`.
pub(super) fn linked(n: u8) -> Machine {
    let mut machine = machine();
    for peer in 1..=n {
        connect(&mut machine, peer, NOW);
        let wish = Wish::Plain;
        say(&mut machine, peer, Message::Link { degree: 0, wish }, NOW);
    }
    drain(&mut machine);
    machine
}

/// A number of outputs that no machine of these tests reaches at one moment, unless it and its peers go
/// in circles.
const ENDLESS: usize = 10_000;

/// Lets time pass in small steps, and returns the machine's outputs with their times.
///
/// The first peers go on sending heartbeats. Each output is shown to `answer`, which may give the
/// machine inputs in return.
pub(super) fn pass(
    machine: &mut Machine,
    from: u64,
    to: u64,
    heard: &[u8],
    mut answer: impl FnMut(&mut Machine, &Output, Duration),
) -> Vec<(u64, Output)> {
    let mut wanted = Vec::new();
    for at in (from..to).step_by(10) {
        let now = NOW + ms(at);
        machine.handle(Input::Tick, now);
        if at % 500 == 0 {
            for peer in heard {
                let digest = machine.digest();
                let heartbeat = Message::Heartbeat { degree: 1, digest };
                say(machine, *peer, heartbeat, now);
            }
        }
        let before = wanted.len();
        while let Some(output) = machine.poll_output() {
            answer(machine, &output, now);
            wanted.push((at, output));
            assert!(
                wanted.len() - before < ENDLESS,
                "no end of it after {at} ms"
            );
        }
    }
    wanted
}

/// Plays peers that answer nothing.
pub(super) fn silent(_: &mut Machine, _: &Output, _: Duration) {}

/// Plays witnesses: a peer that is asked on its connection whether it reaches a server says this.
pub(super) fn testify(
    says: impl Fn(u8) -> Option<bool>,
) -> impl Fn(&mut Machine, &Output, Duration) {
    move |machine, output, now| {
        if let Output::Send { to, message } = output
            && let Message::Witness { nonce, subject, .. } = *message
        {
            let peer = to.0[0];
            let answer = Message::Witnessed {
                nonce,
                subject,
                answered: says(peer),
            };
            say(machine, peer, answer, now);
        }
    }
}

/// Has a peer tell the machine these entries.
pub(super) fn tell(machine: &mut Machine, from: u8, entries: &[Entry], now: Duration) {
    for chunk in entries.chunks(MAX_ENTRIES) {
        let entries = chunk.to_vec();
        say(machine, from, Message::Delta { entries }, now);
    }
}

/// Has a peer tell the machine of these servers, all in this phase of their first incarnation.
pub(super) fn tell_of(
    machine: &mut Machine,
    from: u8,
    who: impl IntoIterator<Item = Fingerprint>,
    phase: Phase,
    now: Duration,
) {
    let entries: Vec<_> = who.into_iter().map(|who| entry(who, 3, 0, phase)).collect();
    tell(machine, from, &entries, now);
}

/// Returns all outputs that the machine has now.
pub(super) fn drain(machine: &mut Machine) -> Vec<Output> {
    std::iter::from_fn(|| machine.poll_output()).collect()
}

/// The time at which the machine first told anybody of this phase of this server.
pub(super) fn told(wanted: &[(u64, Output)], who: Fingerprint, phase: Phase) -> Option<u64> {
    let says = |entry: &Entry| entry.fingerprint == who && entry.held.phase == phase;
    let (at, _) = wanted.iter().find(|(_, output)| {
        matches!(output, Output::Send { message: Message::Delta { entries }, .. }
            if entries.iter().any(says))
    })?;
    Some(*at)
}

/// The servers that were pinged outside of connections, with the times.
pub(super) fn pinged(wanted: &[(u64, Output)]) -> Vec<(u64, Fingerprint)> {
    let pings = wanted.iter().filter_map(|(at, output)| match output {
        Output::Datagram {
            to,
            message: Message::Ping { .. } | Message::Knock { .. },
        } => Some((*at, to.fingerprint)),
        _ => None,
    });
    pings.collect()
}
