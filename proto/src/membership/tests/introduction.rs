//! The machine does not listen to peers that have not introduced themselves, nor believe entries
//! that cannot be true.

use std::sync::Arc;

use super::machine::{connect, entry, machine, say};
use super::peers::{NOW, drain, linked, ms, tell};
use super::random::{fingerprint, record};
use crate::membership::tuning::*;
use crate::membership::{
    BUCKETS, Entry, Held, Input, Machine, Message, Output, Phase, Record, Wish,
};

/// The name of a fault, and the change that puts it into a good entry.
type Change = (&'static str, fn(&mut Held, &mut Record));

/// Changes that make an entry incredible.
const INCREDIBLE: [Change; 8] = [
    ("of another server", |_, record| {
        record.fingerprint = fingerprint(8);
        record.url = self::record(8, 1).url;
    }),
    ("of another life", |_, record| record.count = 2),
    ("another's URL", |_, record| {
        record.url = self::record(8, 1).url;
    }),
    ("a URL of nobody", |_, record| record.url.server = None),
    ("a long name", |_, record| {
        record.name = "n".repeat(MAX_NAME + 1);
    }),
    ("a name of two lines", |_, record| {
        record.name = "one\nother".into();
    }),
    ("an escape", |_, record| record.name = "\u{9b}2J".into()),
    ("too high", |held, _| held.incarnation = MAX_INCARNATION + 1),
];

/// Changes that leave an entry just credible.
const CREDIBLE: [Change; 4] = [
    ("as it was", |_, _| {}),
    ("the longest name", |_, record| {
        record.name = "n".repeat(MAX_NAME);
    }),
    ("a name", |_, record| record.name = "Käse – 🧀".into()),
    ("the highest", |held, _| held.incarnation = MAX_INCARNATION),
];

fn changed(who: u8, (_, change): Change) -> Entry {
    let mut held = entry(fingerprint(who), who, 0, Phase::Alive).held;
    let mut record = record(who, 1);
    change(&mut held, &mut record);
    Entry {
        fingerprint: fingerprint(who),
        held,
        age: 0,
        record: Some(Arc::new(record)),
    }
}

/// A summary of the machine's view of all servers.
fn state(machine: &Machine) -> (u64, usize, u64) {
    let digest = machine.digest();
    (
        digest,
        machine.view.tombstone_count(),
        machine.incarnation(),
    )
}

#[test]
fn incredible_entries_change_nothing() {
    for (change, credible) in INCREDIBLE
        .map(|change| (change, false))
        .into_iter()
        .chain(CREDIBLE.map(|change| (change, true)))
    {
        let mut machine = linked(2);
        let before = state(&machine);
        for phase in [Phase::Left, Phase::Alive] {
            let mut entry = changed(9, change);
            entry.held.phase = phase;
            tell(&mut machine, 1, &[entry], NOW);
            let news = state(&machine) != before;
            assert_eq!(news, credible, "{}, {phase:?}", change.0);
        }
    }
}

/// Whether somebody who introduces itself so is listened to.
fn is_greeted(who: u8, entry: Entry) -> bool {
    let mut machine = machine();
    let before = state(&machine);
    let (peer, dialled) = (fingerprint(who), false);
    machine.handle(Input::Connected { peer, dialled }, NOW);
    let hello = Message::Hello {
        entry,
        live: 1,
        digest: 0,
    };
    say(&mut machine, who, hello, NOW);
    let closed = drain(&mut machine).contains(&Output::Disconnect { peer });
    let greeted = machine.is_live(&peer);
    assert_ne!(closed, greeted);
    assert_eq!(state(&machine) == before, closed);
    greeted
}

#[test]
fn whoever_does_not_introduce_itself_well_is_sent_away() {
    for change in INCREDIBLE {
        assert!(!is_greeted(9, changed(9, change)), "{}", change.0);
    }
    for change in CREDIBLE {
        assert!(is_greeted(9, changed(9, change)), "{}", change.0);
    }
    // It introduces itself as another server, without a URL, and as a server that is not alive.
    assert!(!is_greeted(9, changed(8, CREDIBLE[0])));
    let record = None;
    let entry = changed(9, CREDIBLE[0]);
    assert!(!is_greeted(9, Entry { record, ..entry }));
    for phase in [Phase::Suspect, Phase::Down, Phase::Left] {
        let mut entry = changed(9, CREDIBLE[0]);
        entry.held.phase = phase;
        assert!(!is_greeted(9, entry), "{phase:?}");
    }
}

#[test]
fn a_knock_that_gives_the_address_of_another_is_not_answered() {
    let mut nobody = record(9, 1).url;
    nobody.server = None;
    for (url, answered) in [
        (record(9, 1).url, true),
        (record(8, 1).url, false),
        (nobody, false),
    ] {
        let mut machine = machine();
        let held = entry(fingerprint(0), 0, 0, Phase::Down).held;
        let message = Message::Knock {
            nonce: 1,
            url: url.clone(),
            held,
        };
        let from = fingerprint(9);
        machine.handle(Input::Datagram { from, message }, NOW);
        assert_eq!(drain(&mut machine).len(), usize::from(answered), "{url}");
        // It objects only to a message that it answers.
        assert_eq!(machine.incarnation(), u64::from(answered), "{url}");
    }
}

#[test]
fn incarnations_beyond_the_highest_are_not_believed() {
    let mut machine = linked(2);
    let before = state(&machine);
    let subject = fingerprint(0);
    let incarnation = MAX_INCARNATION + 1;
    let held = entry(subject, 0, incarnation, Phase::Alive).held;
    let (nonce, count) = (machine.nonce(), 1);
    let url = record(1, 1).url;
    for message in [
        Message::Ping { nonce, held },
        Message::Pong {
            nonce,
            count,
            instance: 0,
            incarnation,
        },
        Message::Witness {
            nonce,
            subject,
            held,
        },
        Message::Knock { nonce, url, held },
    ] {
        let from = fingerprint(1);
        say(&mut machine, 1, message.clone(), NOW);
        assert_eq!(state(&machine), before, "{message:?}");
        machine.handle(
            Input::Datagram {
                from,
                message: message.clone(),
            },
            NOW,
        );
        assert_eq!(state(&machine), before, "{message:?}");
    }
}

#[test]
fn nothing_is_heard_before_the_introduction() {
    let held = entry(fingerprint(0), 0, 0, Phase::Suspect).held;
    let (nonce, subject, wish) = (1, fingerprint(0), Wish::Plain);
    for message in [
        Message::Heartbeat {
            degree: 1,
            digest: 1,
        },
        Message::Delta {
            entries: vec![entry(fingerprint(9), 9, 0, Phase::Alive)],
        },
        Message::Link { degree: 0, wish },
        Message::LinkReply {
            accepted: true,
            other: None,
        },
        Message::Ping { nonce, held },
        Message::Witness {
            nonce,
            subject,
            held,
        },
        Message::Sync {
            buckets: vec![1; BUCKETS],
        },
        Message::Hashes {
            buckets: u64::MAX,
            hashes: vec![1],
        },
        Message::Want { hashes: vec![1] },
        Message::Who {
            members: vec![fingerprint(0)],
        },
    ] {
        let mut machine = machine();
        let before = state(&machine);
        let (peer, dialled) = (fingerprint(1), false);
        machine.handle(Input::Connected { peer, dialled }, NOW);
        drain(&mut machine);
        say(&mut machine, 1, message.clone(), NOW);
        machine.handle(Input::Tick, NOW + ms(10));
        assert_eq!(drain(&mut machine), [], "{message:?}");
        assert_eq!(state(&machine), before, "{message:?}");
    }
    // After an introduction it is listened to.
    let mut machine = machine();
    connect(&mut machine, 1, NOW);
    drain(&mut machine);
    say(&mut machine, 1, Message::Ping { nonce, held }, NOW);
    assert_eq!(machine.incarnation(), 1);
    let answers = drain(&mut machine);
    assert!(answers.iter().any(|output| {
        matches!(
            output,
            Output::Send {
                message: Message::Pong { .. },
                ..
            }
        )
    }));
}
