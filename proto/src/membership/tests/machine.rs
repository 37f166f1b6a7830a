//! One machine, driven by hand.

use std::sync::Arc;
use std::time::Duration;

use super::peers::NOW;
use super::random::{fingerprint, record};
use crate::Fingerprint;
use crate::membership::tuning::{MAX_CHANGES, MAX_LIVES, OUTBID};
use crate::membership::{
    Entry, Gone, Held, Input, Machine, Message, Notice, Output, Phase, TetherState, Wish,
};

pub(super) fn machine() -> Machine {
    Machine::new(record(0, 1), 1, NOW)
}

pub(super) fn entry(who: Fingerprint, number: u8, incarnation: u64, phase: Phase) -> Entry {
    let mut record = record(number, 1);
    record.fingerprint = who;
    if let Some(server) = &mut record.url.server {
        server.id = who.id();
    }
    Entry {
        fingerprint: who,
        held: Held {
            count: 1,
            instance: 0,
            incarnation,
            phase,
        },
        age: 0,
        record: Some(Arc::new(record)),
    }
}

/// Opens a connection whose ends have both introduced themselves.
pub(super) fn connect(machine: &mut Machine, who: u8, now: Duration) {
    let peer = fingerprint(who);
    let hello = Message::Hello {
        entry: entry(peer, who, 0, Phase::Alive),
        live: 2,
        digest: 0,
    };
    machine.handle(
        Input::Connected {
            peer,
            dialled: false,
        },
        now,
    );
    machine.handle(
        Input::Message {
            from: peer,
            message: hello,
        },
        now,
    );
}

pub(super) fn say(machine: &mut Machine, from: u8, message: Message, now: Duration) {
    let from = fingerprint(from);
    machine.handle(Input::Message { from, message }, now);
}

/// The messages that the machine sends to this peer on its connection.
pub(super) fn sent(machine: &mut Machine, peer: u8) -> Vec<Message> {
    let outputs = std::iter::from_fn(|| machine.poll_output());
    outputs
        .filter_map(|output| match output {
            Output::Send { to, message } if to == fingerprint(peer) => Some(message),
            _ => None,
        })
        .collect()
}

pub(super) fn strangers(count: usize) -> impl Iterator<Item = Fingerprint> {
    (0..count).map(|i| {
        let mut who = [9; 32];
        who[..8].copy_from_slice(&(i as u64 + 1).to_be_bytes());
        Fingerprint(who)
    })
}

/// The messages on a connection that becomes a link after so many changes since it opened.
fn after_changes(count: usize) -> Vec<Message> {
    let mut machine = machine();
    connect(&mut machine, 1, NOW);
    connect(&mut machine, 2, NOW);
    let now = NOW + Duration::from_millis(1600);
    machine.handle(Input::Tick, NOW + Duration::from_millis(800));
    for chunk in strangers(count).collect::<Vec<_>>().chunks(200) {
        let entries = chunk
            .iter()
            .map(|who| entry(*who, 3, 0, Phase::Alive))
            .collect();
        say(
            &mut machine,
            2,
            Message::Delta { entries },
            NOW + Duration::from_millis(900),
        );
    }
    sent(&mut machine, 1);
    let wish = Wish::Plain;
    say(
        &mut machine,
        1,
        Message::Link { degree: 0, wish },
        NOW + Duration::from_millis(1100),
    );
    machine.handle(Input::Tick, now);
    sent(&mut machine, 1)
}

#[test]
fn a_connection_that_becomes_a_link_is_told_what_it_has_missed() {
    let told = |messages: &[Message]| -> usize {
        let told = messages.iter().map(|message| match message {
            Message::Delta { entries } => entries.len(),
            _ => 0,
        });
        told.sum()
    };
    let synced = |messages: &[Message]| {
        messages
            .iter()
            .any(|message| matches!(message, Message::Sync { .. }))
    };
    let few = after_changes(5);
    assert!(told(&few) >= 5, "{few:?}");
    // These are more than are remembered, so a sync finds them.
    let many = after_changes(MAX_CHANGES + 10);
    assert!(synced(&many));
}

#[test]
fn another_process_with_the_same_key_is_outbid_but_not_without_rest() {
    let mut machine = machine();
    connect(&mut machine, 1, NOW);
    let mut now = NOW;
    for turn in 0..100u64 {
        now += Duration::from_millis(50);
        let mut other = entry(fingerprint(0), 0, 0, Phase::Alive);
        other.held.count = machine.me().count + 1;
        other.record = Some(Arc::new(record(0, other.held.count)));
        let entries = vec![other];
        say(&mut machine, 1, Message::Delta { entries }, now);
        assert!(machine.me().count > 1, "turn {turn}");
    }
    let bids = machine.me().count / 2;
    let rests = (now - NOW).as_millis() / OUTBID.as_millis();
    assert!(u128::from(bids) <= rests + 1, "{bids} bids");
    // A suspicion of this life itself is outbid at once, each time.
    let before = machine.incarnation();
    for incarnation in before..before + 3 {
        let mut suspected = entry(fingerprint(0), 0, incarnation, Phase::Suspect);
        suspected.held.count = machine.me().count;
        suspected.record = None;
        let entries = vec![suspected];
        say(&mut machine, 1, Message::Delta { entries }, now);
    }
    assert_eq!(machine.incarnation(), before + 3);
}

/// A machine that was told this of itself, and then its entry for itself.
fn after_being_told(count: u64, incarnation: u64, phase: Phase) -> (Machine, Held) {
    let mut machine = machine();
    connect(&mut machine, 1, NOW);
    while machine.poll_output().is_some() {}
    let mut told = entry(fingerprint(0), 0, incarnation, phase);
    (told.held.count, told.record) = (count, None);
    let entries = vec![told];
    say(&mut machine, 1, Message::Delta { entries }, NOW);
    let held = machine.my_held();
    (machine, held)
}

#[test]
fn a_server_whose_count_was_set_back_begins_a_later_life_than_is_known_of_it() {
    for phase in [Phase::Alive, Phase::Suspect, Phase::Down, Phase::Left] {
        let (mut machine, held) = after_being_told(5, 9, phase);
        assert_eq!((held.count, held.incarnation), (6, 0), "{phase:?}");
        // The new life is a leave and a join in its own view too.
        let outputs = std::iter::from_fn(|| machine.poll_output());
        let notices: Vec<_> = outputs
            .filter_map(|output| match output {
                Output::Notice(Notice::Join(who)) => Some((true, who.count)),
                Output::Notice(Notice::Leave(who)) => Some((false, who.count)),
                _ => None,
            })
            .collect();
        assert_eq!(notices, [(false, 1), (true, 6)]);
        assert_eq!(machine.me().count, 6);
    }
    // News of an earlier life may say anything.
    let (_, held) = after_being_told(0, 9, Phase::Left);
    assert_eq!((held.count, held.incarnation), (1, 0));
    // A liar gets no further than the greatest count that there is.
    let (_, held) = after_being_told(MAX_LIVES, 0, Phase::Down);
    assert!(held.count == MAX_LIVES);
    let (_, held) = after_being_told(MAX_LIVES + 1, 0, Phase::Down);
    assert_eq!((held.count, held.incarnation), (1, 0));
}

#[test]
fn whoever_was_stopped_hears_before_it_judges() {
    let mut machine = machine();
    connect(&mut machine, 1, NOW);
    let wish = Wish::Plain;
    say(&mut machine, 1, Message::Link { degree: 0, wish }, NOW);
    // A probe is under way, and there are no witnesses.
    for ms in (100..2000).step_by(50) {
        machine.handle(Input::Tick, NOW + Duration::from_millis(ms));
    }
    assert_eq!(machine.suspected().count(), 0);
    // The machine was stopped for ten seconds. Packets from that time arrive now, after a first tick.
    let now = NOW + Duration::from_secs(12);
    machine.handle(Input::Tick, now);
    assert_eq!(machine.suspected().count(), 0);
    say(
        &mut machine,
        1,
        Message::Heartbeat {
            degree: 1,
            digest: 0,
        },
        now,
    );
    let peer = fingerprint(1);
    let state = TetherState::Unknown;
    machine.handle(Input::Tether { peer, state }, now);
    machine.handle(Input::Tick, now + Duration::from_millis(900));
    assert_eq!(machine.suspected().count(), 0);
    assert_eq!(machine.len(), 2);
}

#[test]
fn what_is_held_against_an_earlier_life_says_nothing_of_the_next() {
    let mut machine = machine();
    connect(&mut machine, 1, NOW);
    let mut next = entry(fingerprint(2), 2, 0, Phase::Alive);
    next.held.count = 5;
    next.record = Some(Arc::new(record(2, 5)));
    let entries = vec![next];
    say(&mut machine, 1, Message::Delta { entries }, NOW);
    for phase in [Phase::Suspect, Phase::Condemned, Phase::Down, Phase::Left] {
        let entries = vec![entry(fingerprint(2), 2, 0, phase)];
        say(&mut machine, 1, Message::Delta { entries }, NOW);
        assert_eq!(machine.record(&fingerprint(2)), Some(&record(2, 5)));
        assert_eq!(machine.suspected().count(), 0);
    }
}

#[test]
fn a_reset_condemns_nobody_and_witnesses_are_asked_until_they_answer() {
    let mut machine = machine();
    let wish = Wish::Plain;
    for peer in 1..4 {
        connect(&mut machine, peer, NOW);
        say(&mut machine, peer, Message::Link { degree: 0, wish }, NOW);
    }
    let (peer, why) = (fingerprint(1), Gone::Reset);
    machine.handle(Input::Disconnected { peer, why }, NOW);
    while machine.poll_output().is_some() {}
    let mut asked = 0;
    for ms in (0..1400).step_by(10) {
        machine.handle(Input::Tick, NOW + Duration::from_millis(ms));
        while let Some(output) = machine.poll_output() {
            let (Output::Send { message, .. } | Output::Datagram { message, .. }) = output else {
                continue;
            };
            asked += usize::from(matches!(message, Message::Witness { .. }));
        }
    }
    // There were two witnesses, and neither has answered.
    assert!(asked >= 6, "{asked}");
    assert!(machine.is_live(&fingerprint(1)));
}

#[test]
fn a_witness_says_of_a_suspect_that_its_kernel_answers() {
    for (suspected, state, expected) in [
        (true, TetherState::Acknowledged, Phase::Stalled),
        (true, TetherState::Unknown, Phase::Suspect),
        (false, TetherState::Acknowledged, Phase::Alive),
    ] {
        let mut machine = machine();
        connect(&mut machine, 1, NOW);
        connect(&mut machine, 2, NOW);
        let (peer, subject) = (fingerprint(2), entry(fingerprint(2), 2, 0, Phase::Suspect));
        let (nonce, held) = (7, subject.held);
        if suspected {
            let entries = vec![subject];
            say(&mut machine, 1, Message::Delta { entries }, NOW);
        }
        machine.handle(Input::Tether { peer, state }, NOW);
        let asked = NOW + Duration::from_millis(500);
        let subject = peer;
        let message = Message::Witness {
            nonce,
            subject,
            held,
        };
        say(&mut machine, 1, message, asked);
        for ms in (0..500).step_by(10) {
            machine.handle(Input::Tick, asked + Duration::from_millis(ms));
        }
        let phase = machine.view.get(&peer).map(|member| member.phase);
        assert_eq!(phase, Some(expected), "{suspected} {state:?}");
    }
}

#[test]
fn a_server_that_leaves_late_says_nothing_after_its_leave() {
    let mut machine = machine();
    connect(&mut machine, 1, NOW);
    connect(&mut machine, 2, NOW);
    // Server 1 asks the machine to try server 2; then the machine is stopped for a while, and leaves.
    let subject = fingerprint(2);
    let held = entry(subject, 2, 0, Phase::Alive).held;
    let message = Message::Witness {
        nonce: 7,
        subject,
        held,
    };
    say(&mut machine, 1, message, NOW);
    while machine.poll_output().is_some() {}
    machine.handle(Input::Leave, NOW + Duration::from_secs(5));
    let last = std::iter::from_fn(|| machine.poll_output()).last();
    let Some(Output::Send { message, .. }) = last else {
        panic!("{last:?}");
    };
    assert!(matches!(message, Message::Delta { .. }), "{message:?}");
    assert_eq!(machine.poll_timeout(), None);
}
