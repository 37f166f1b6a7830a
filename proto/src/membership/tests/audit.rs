//! Audits after mass failures.

use std::collections::BTreeMap;
use std::time::Duration;

use super::machine::strangers;
use super::peers::{NOW, linked, ms, pass, tell_of};
use super::random::fingerprint;
use crate::Fingerprint;
use crate::membership::tuning::*;
use crate::membership::{Input, Machine, Message, Output, Phase};

/// The times of the first and the last ping of each audit.
type Audits = Vec<(Duration, Duration)>;

/// The times at which servers were pinged that have not answered yet.
type Begun = BTreeMap<Fingerprint, Duration>;

/// Lets time pass. Servers that are no neighbours answer a second ping, and no first one.
fn audits(machine: &mut Machine, begun: &mut Begun, from: u64, to: u64) -> Audits {
    let mut audits = Vec::new();
    let heard = [1, 2, 3, 4, 5, 6, 7, 8];
    pass(machine, from, to, &heard, |machine, output, now| {
        let Output::Datagram { to, message } = output else {
            return;
        };
        let (from, Message::Ping { nonce, held }) = (to.fingerprint, message) else {
            return;
        };
        // Pings of suspects are no audits.
        if held.phase != Phase::Alive {
            return;
        }
        let Some(began) = begun.remove(&from) else {
            begun.insert(from, now);
            return;
        };
        audits.push((began, now));
        let message = Message::Pong {
            nonce: *nonce,
            count: 1,
            instance: 0,
            incarnation: 0,
        };
        machine.handle(Input::Datagram { from, message }, now);
    });
    audits
}

/// How many of the audits did not wait for an answer to the first ping.
fn prompt(audits: &Audits) -> usize {
    let prompt = audits
        .iter()
        .filter(|(first, last)| *last - *first == PING_EVERY);
    prompt.count()
}

#[test]
fn after_mass_failures_audits_are_many_and_without_delay_for_a_while() {
    let storm = STORM.as_millis() as u64;
    for (failures, apart, expected) in [
        (2, 0, false),
        (3, 0, true),
        (3, storm / 3, true),
        // Failures that are so far apart count as single ones.
        (3, storm + 100, false),
    ] {
        let mut machine = linked(8);
        tell_of(&mut machine, 1, strangers(30), Phase::Alive, NOW);
        let (mut at, mut begun) = (0, Begun::new());
        for who in 20..20 + failures {
            tell_of(
                &mut machine,
                1,
                [fingerprint(who)],
                Phase::Suspect,
                NOW + ms(at),
            );
            if who + 1 < 20 + failures {
                audits(&mut machine, &mut begun, at, at + apart);
                at += apart;
            }
        }
        let end = NOW + ms(at) + STORM + AUDIT_STORM;
        let (during, after): (Audits, Audits) =
            audits(&mut machine, &mut begun, at, at + storm + 4500)
                .into_iter()
                .partition(|(first, _)| *first < end);
        let case = format!("{failures} failures, {apart} ms apart: {during:?}, then {after:?}");
        // A few other pings belong to exchanges of links that failed.
        assert!(after.len() < 4, "{case}");
        assert_eq!(prompt(&after), 0, "{case}");
        if expected {
            let most = (STORM.as_millis() / AUDIT_STORM.as_millis()) as usize;
            assert!(prompt(&during) > most * 3 / 4, "{case}");
        } else {
            assert!(during.len() < 4, "{case}");
            assert_eq!(prompt(&during), 0, "{case}");
        }
    }
}
