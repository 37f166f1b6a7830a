//! Signs of life count only if nobody else can have recorded and repeated them.

use std::time::Duration;

use super::machine::{entry, say};
use super::peers::{NOW, linked, ms};
use super::random::{fingerprint, record};
use crate::membership::tuning::{MAX_INCARNATION, PING_EVERY, SUSPICION};
use crate::membership::{Held, Input, Machine, Message, Output, Phase, TetherState};

fn packet(machine: &mut Machine, message: Message, now: Duration) {
    let from = fingerprint(1);
    machine.handle(Input::Datagram { from, message }, now);
}

/// The numbers of the pings that server 1 is sent outside of connections.
fn pings(machine: &mut Machine) -> Vec<u64> {
    let outputs = std::iter::from_fn(|| machine.poll_output());
    outputs
        .filter_map(|output| match output {
            Output::Datagram {
                to,
                message: Message::Ping { nonce, .. },
            } if to.fingerprint == fingerprint(1) => Some(nonce),
            _ => None,
        })
        .collect()
}

/// Lets so many milliseconds pass, and returns the numbers of the pings meanwhile.
fn pass(machine: &mut Machine, from: u64, to: u64) -> Vec<u64> {
    let mut sent = Vec::new();
    for at in (from..to).step_by(10) {
        machine.handle(Input::Tick, NOW + ms(at));
        sent.extend(pings(machine));
    }
    sent
}

fn pong(nonce: u64) -> Message {
    Message::Pong {
        nonce,
        count: 1,
        instance: 0,
        incarnation: 0,
    }
}

/// Messages of server 1 that somebody may have recorded: none of them answers a ping.
fn said_once() -> Vec<Message> {
    let held = Held {
        count: 1,
        instance: 0,
        incarnation: 0,
        phase: Phase::Alive,
    };
    let (nonce, subject, answered) = (7, fingerprint(2), Some(true));
    let url = record(1, 1).url;
    vec![
        Message::Ping { nonce, held },
        pong(nonce),
        Message::Knock { nonce, url, held },
        Message::Witness {
            nonce,
            subject,
            held,
        },
        Message::Witnessed {
            nonce,
            subject,
            answered,
        },
    ]
}

#[test]
fn what_somebody_repeats_keeps_no_dead_server_alive() {
    for message in said_once() {
        let mut machine = linked(1);
        for at in (0..9000).step_by(50) {
            pass(&mut machine, at, at + 50);
            packet(&mut machine, message.clone(), NOW + ms(at));
        }
        assert!(!machine.is_live(&fingerprint(1)), "{message:?}");
    }
    // The answer to a ping of ours clears the server of earlier accusations, and once only.
    let mut machine = linked(1);
    let asked = pass(&mut machine, 0, 1600);
    let answer = pong(*asked.last().unwrap());
    for at in (1600..11_000).step_by(50) {
        packet(&mut machine, answer.clone(), NOW + ms(at));
        pass(&mut machine, at, at + 50);
    }
    assert!(!machine.is_live(&fingerprint(1)));
}

#[test]
fn the_answer_to_a_ping_is_a_sign_of_life() {
    let mut machine = linked(1);
    let mut at = 0;
    // The server only answers outside of the connection, each time a round trip later.
    while at < 20_000 {
        let asked = pass(&mut machine, at, at + 100);
        at += 100;
        for nonce in asked {
            packet(&mut machine, pong(nonce), NOW + ms(at));
        }
        assert_eq!(machine.suspected().count(), 0, "after {at} ms");
    }
    assert!(machine.is_live(&fingerprint(1)));
}

#[test]
fn a_suspect_that_is_heard_is_asked_whether_it_is_there_now() {
    let mut machine = linked(1);
    let mut at = 0;
    while !machine.detector.accuses(&fingerprint(1)) {
        pass(&mut machine, at, at + 10);
        at += 10;
    }
    for message in said_once() {
        at += PING_EVERY.as_millis() as u64;
        let now = NOW + ms(at);
        machine.handle(Input::Tick, now);
        pings(&mut machine);
        packet(&mut machine, message.clone(), now);
        assert_eq!(pings(&mut machine).len(), 1, "{message:?}");
        // Two servers that accuse each other, and hear each other, come to rest.
        packet(&mut machine, message.clone(), now);
        assert_eq!(pings(&mut machine).len(), 0, "{message:?}");
        assert!(machine.detector.accuses(&fingerprint(1)));
    }
    at += PING_EVERY.as_millis() as u64;
    let (nonce, held) = (7, said_of_it(&machine));
    machine.handle(Input::Tick, NOW + ms(at));
    pings(&mut machine);
    packet(&mut machine, Message::Ping { nonce, held }, NOW + ms(at));
    let asked = pings(&mut machine);
    packet(&mut machine, pong(asked[0]), NOW + ms(at + 1));
    assert!(!machine.detector.accuses(&fingerprint(1)));
}

#[test]
fn whoever_was_stopped_waits_for_a_whole_suspicion_before_it_judges() {
    let mut machine = linked(1);
    let mut at = 0;
    while machine.suspected().next().is_none() {
        pass(&mut machine, at, at + 10);
        at += 10;
    }
    let woken = at + 10_000;
    let whole = SUSPICION.as_millis() as u64;
    pass(&mut machine, woken, woken + whole);
    assert!(machine.is_live(&fingerprint(1)));
    pass(&mut machine, woken + whole, woken + whole + 100);
    assert!(!machine.is_live(&fingerprint(1)));
}

/// The machine's entry for server 1.
fn said_of_it(machine: &Machine) -> Held {
    machine.view.get(&fingerprint(1)).unwrap().held()
}

#[test]
fn what_was_asked_before_hard_evidence_came_says_nothing_against_it() {
    for fresh in [false, true] {
        let mut machine = linked(3);
        // An audit, or a probe for another reason, is under way.
        machine.audit(fingerprint(1));
        let before = pings(&mut machine)[0];
        let (peer, state) = (fingerprint(1), TetherState::Broken);
        machine.handle(Input::Tether { peer, state }, NOW + ms(10));
        let after = pings(&mut machine)[0];
        let nonce = if fresh { after } else { before };
        packet(&mut machine, pong(nonce), NOW + ms(20));
        pass(&mut machine, 20, 800);
        assert_eq!(machine.is_live(&fingerprint(1)), fresh);
    }
}

#[test]
fn a_witness_counts_only_answers_to_its_own_pings() {
    for fresh in [false, true] {
        let mut machine = linked(2);
        // Nothing was heard of the subject for a while, but no probe has begun.
        let held = said_of_it(&machine);
        let asked_at = NOW + ms(1000);
        machine.handle(Input::Tick, asked_at);
        pings(&mut machine);
        let (nonce, subject) = (99, fingerprint(1));
        let message = Message::Witness {
            nonce,
            subject,
            held,
        };
        say(&mut machine, 2, message, asked_at);
        let asked = pings(&mut machine)[0];
        let nonce = if fresh { asked } else { asked.wrapping_sub(1) };
        packet(&mut machine, pong(nonce), asked_at + ms(20));
        let answers: Vec<_> = std::iter::from_fn(|| machine.poll_output())
            .filter(|output| {
                matches!(
                    output,
                    Output::Send {
                        message: Message::Witnessed {
                            answered: Some(true),
                            ..
                        },
                        ..
                    }
                )
            })
            .collect();
        assert_eq!(answers.len(), usize::from(fresh));
    }
}

#[test]
fn the_highest_incarnation_is_answered_with_silence() {
    let mut machine = linked(4);
    let mut said = 0;
    for turn in 0..100 {
        let now = NOW + ms(10 * turn);
        let entries = vec![entry(fingerprint(0), 0, MAX_INCARNATION, Phase::Suspect)];
        say(&mut machine, 1, Message::Delta { entries }, now);
        machine.handle(Input::Tick, now + ms(5));
        said += std::iter::from_fn(|| machine.poll_output())
            .filter(|output| {
                matches!(
                    output,
                    Output::Send {
                        message: Message::Delta { .. },
                        ..
                    }
                )
            })
            .count();
    }
    // It objects once to all four, as well as it can.
    assert!(said <= 4, "{said}");
}
