//! Bounds on the work that one member, or many, can cause a machine.

use std::collections::BTreeSet;

use super::machine::{say, sent, strangers};
use super::peers::{NOW, drain, linked, ms, tell_of};
use super::random::fingerprint;
use crate::membership::tuning::*;
use crate::membership::{Held, Input, MAX_ENTRIES, Machine, Message, Output, Phase};

const MANY: usize = 5000;

#[test]
fn few_are_dialled_at_a_time_of_those_that_came_back() {
    // Some were down and answer; others answer from another life.
    for phase in [Phase::Down, Phase::Alive] {
        let mut machine = linked(8);
        tell_of(&mut machine, 1, strangers(MANY), phase, NOW);
        drain(&mut machine);
        let dials = |machine: &mut Machine, at| {
            let nonce = machine.nonce();
            for from in strangers(MANY) {
                let message = Message::Pong {
                    nonce,
                    count: 2,
                    instance: 0,
                    incarnation: 0,
                };
                machine.handle(Input::Datagram { from, message }, at);
            }
            let outputs = drain(machine);
            let dials = outputs
                .iter()
                .filter(|output| matches!(output, Output::Connect { .. }));
            dials.count()
        };
        assert_eq!(dials(&mut machine, NOW), REUNIONS, "{phase:?}");
        assert_eq!(dials(&mut machine, NOW + ms(10)), 0, "{phase:?}");
        // Servers that cannot be reached make room for others.
        let later = NOW + ms(10) + CONNECT_WAIT;
        machine.handle(Input::Tick, later);
        drain(&mut machine);
        assert_eq!(dials(&mut machine, later), REUNIONS, "{phase:?}");
    }
}

#[test]
fn whoever_clings_to_others_dials_few_at_a_time() {
    let mut machine = linked(1);
    tell_of(&mut machine, 1, strangers(MANY), Phase::Alive, NOW);
    drain(&mut machine);
    let held = machine.my_held();
    for from in strangers(MANY) {
        let message = Message::Ping { nonce: 1, held };
        machine.handle(Input::Datagram { from, message }, NOW);
    }
    assert_eq!(machine.links.seeking(), CLINGING);
}

#[test]
fn a_server_is_tried_for_so_many_at_the_same_time() {
    let mut machine = linked(1);
    let subject = fingerprint(9);
    tell_of(
        &mut machine,
        1,
        strangers(MAX_PROBES + 50),
        Phase::Alive,
        NOW,
    );
    tell_of(&mut machine, 1, [subject], Phase::Alive, NOW);
    let held = Held {
        count: 1,
        instance: 0,
        incarnation: 0,
        phase: Phase::Alive,
    };
    for from in strangers(MAX_PROBES + 50) {
        let message = Message::Witness {
            nonce: 1,
            subject,
            held,
        };
        machine.handle(Input::Datagram { from, message }, NOW);
    }
    drain(&mut machine);
    machine.handle(Input::Tick, NOW + INDIRECT_PROBE);
    let answered: BTreeSet<_> = drain(&mut machine)
        .into_iter()
        .filter_map(|output| match output {
            Output::Datagram {
                to,
                message: Message::Witnessed { .. },
            } => Some(to.fingerprint),
            _ => None,
        })
        .collect();
    assert_eq!(answered.len(), MAX_PROBES);
}

#[test]
fn a_question_for_many_members_is_answered_with_one_message() {
    let mut machine = linked(1);
    tell_of(
        &mut machine,
        1,
        strangers(MAX_ENTRIES + 50),
        Phase::Alive,
        NOW,
    );
    sent(&mut machine, 1);
    let members = strangers(MAX_ENTRIES + 50).collect();
    say(&mut machine, 1, Message::Who { members }, NOW);
    let answers: Vec<_> = sent(&mut machine, 1)
        .into_iter()
        .map(|message| match message {
            Message::Delta { entries } => entries.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(answers, [MAX_ENTRIES]);
}
