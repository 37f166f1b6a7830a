//! Tombstones: the time for which they are kept, those that are pinged, and the servers that are told of
//! them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::machine::{connect, entry, machine, say, sent, strangers};
use super::peers::{NOW, drain, linked, ms, pass, pinged, silent, tell, tell_of};
use super::random::fingerprint;
use crate::membership::tuning::*;
use crate::membership::{Entry, Gone, Input, Message, Phase};

/// The tombstone of a server that has been down for so long.
fn tombstone(who: u8, age: Duration) -> Entry {
    Entry {
        age: age.as_secs() as u32,
        ..entry(fingerprint(who), who, 0, Phase::Down)
    }
}

#[test]
fn a_tombstone_expires_unless_the_server_is_isolated() {
    for isolated in [false, true] {
        let mut machine = linked(1);
        tell(&mut machine, 1, &[tombstone(9, Duration::ZERO)], NOW);
        if isolated {
            let (peer, why) = (fingerprint(1), Gone::Closed);
            machine.handle(Input::Disconnected { peer, why }, NOW);
        }
        for (later, kept) in [(TOMBSTONE - EXPIRE, true), (TOMBSTONE + EXPIRE, isolated)] {
            // Its neighbour is heard, and stays a neighbour.
            let digest = machine.digest();
            let heartbeat = Message::Heartbeat { degree: 1, digest };
            say(&mut machine, 1, heartbeat, NOW + later);
            assert_eq!(machine.is_isolated(), isolated);
            let known = machine.view.get(&fingerprint(9)).is_some();
            assert_eq!(known, kept, "isolated: {isolated}, after {later:?}");
        }
    }
}

#[test]
fn an_old_tombstone_is_not_kept_anew() {
    let second = Duration::from_secs(1);
    for (age, kept) in [
        (Duration::ZERO, true),
        (TOMBSTONE - second, true),
        (TOMBSTONE, false),
        (second * u32::MAX, false),
    ] {
        let mut machine = linked(1);
        tell(&mut machine, 1, &[tombstone(9, age)], NOW);
        assert_eq!(machine.view.get(&fingerprint(9)).is_some(), kept, "{age:?}");
        // A young tombstone is not kept longer because the machine was told of it.
        let end = (NOW + TOMBSTONE * 2).saturating_sub(age);
        machine.view.expire(end);
        assert!(machine.view.get(&fingerprint(9)).is_none(), "{age:?}");
    }
}

#[test]
fn those_that_failed_are_pinged_and_those_that_left_are_not() {
    let mut machine = machine();
    connect(&mut machine, 1, NOW);
    tell_of(&mut machine, 1, [8, 9].map(fingerprint), Phase::Down, NOW);
    tell_of(&mut machine, 1, [6, 7].map(fingerprint), Phase::Left, NOW);
    let wanted = pass(&mut machine, 0, 60_000, &[], silent);
    let pinged: BTreeSet<_> = pinged(&wanted).iter().map(|(_, who)| who.0[0]).collect();
    // Server 1 has fallen silent.
    assert_eq!(pinged, BTreeSet::from([1, 8, 9]));
}

#[test]
fn a_newcomer_is_told_of_the_last_that_went() {
    let mut machine = linked(1);
    let tombstones: Vec<_> = strangers(TOMBSTONES_TOLD + 30).collect();
    for (i, who) in tombstones.iter().enumerate() {
        // They are told in the order in which they went, not by name or as the machine heard of them.
        let age = (i * 7 % tombstones.len()) as u32;
        let tombstone = entry(*who, 3, 0, Phase::Down);
        tell(&mut machine, 1, &[Entry { age, ..tombstone }], NOW);
    }
    drain(&mut machine);
    connect(&mut machine, 2, NOW);
    machine.handle(Input::Tick, NOW + ms(10));
    let told: BTreeSet<_> = sent(&mut machine, 2)
        .into_iter()
        .filter_map(|message| match message {
            Message::Delta { entries } => Some(entries),
            _ => None,
        })
        .flatten()
        .filter(|entry| entry.held.phase == Phase::Down)
        .map(|entry| entry.age)
        .collect();
    assert_eq!(told, (0..TOMBSTONES_TOLD as u32).collect());
}
