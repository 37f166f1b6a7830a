//! The servers that a machine asks for a link, and those that it accepts.

use std::time::Duration;

use super::machine::{connect, machine, say, sent};
use super::peers::{NOW, linked, ms, pass, testify};
use super::random::fingerprint;
use crate::membership::tuning::*;
use crate::membership::{Gone, Input, Machine, Message, Output, Wish};

/// The ways in which a server fails to become a neighbour.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Failure {
    Refuses,
    DoesNotAnswer,
    IsNotReached,
}

/// Plays peers that all fail the machine in this way, although they live and answer pings.
fn fail(failure: Failure) -> impl Fn(&mut Machine, &Output, Duration) {
    move |machine, output, now| match output {
        Output::Connect { to } if failure == Failure::IsNotReached => {
            let peer = to.fingerprint;
            machine.handle(Input::ConnectFailed { peer }, now);
        }
        Output::Connect { to } => connect(machine, to.fingerprint.0[0], now),
        Output::Send {
            to,
            message: Message::Link { .. },
        } if failure == Failure::Refuses => {
            let reply = Message::LinkReply {
                accepted: false,
                other: None,
            };
            say(machine, to.0[0], reply, now);
        }
        Output::Datagram {
            to,
            message: Message::Ping { nonce, held },
        } => {
            let from = to.fingerprint;
            let message = Message::Pong {
                nonce: *nonce,
                count: held.count,
                instance: held.instance,
                incarnation: held.incarnation,
            };
            machine.handle(Input::Datagram { from, message }, now);
        }
        _ => {}
    }
}

#[test]
fn whoever_did_not_become_a_neighbour_is_asked_again_after_a_while() {
    for (failure, wait) in [
        (Failure::Refuses, AVOID),
        (Failure::DoesNotAnswer, ASK_WAIT + AVOID),
        (Failure::IsNotReached, AVOID),
    ] {
        let mut machine = machine();
        connect(&mut machine, 1, NOW);
        if failure == Failure::IsNotReached {
            let (peer, why) = (fingerprint(1), Gone::Closed);
            machine.handle(Input::Disconnected { peer, why }, NOW);
            sent(&mut machine, 1);
        }
        let wanted = pass(&mut machine, 0, 20_000, &[], fail(failure));
        let asked: Vec<_> = wanted
            .iter()
            .filter(|(_, output)| match output {
                Output::Connect { .. } => failure == Failure::IsNotReached,
                Output::Send { message, .. } => matches!(message, Message::Link { .. }),
                _ => false,
            })
            .map(|(at, _)| ms(*at))
            .collect();
        assert!(asked.len() > 3, "{failure:?}: {asked:?}");
        for pair in asked.windows(2) {
            let pause = pair[1] - pair[0];
            assert!(
                (wait..=wait + SEEK_AGAIN * 2 + ms(20)).contains(&pause),
                "{failure:?}: {asked:?}"
            );
        }
    }
}

#[test]
fn who_was_to_be_avoided_is_forgotten_afterwards() {
    let mut machine = machine();
    for peer in 1..=4 {
        connect(&mut machine, peer, NOW);
    }
    pass(&mut machine, 0, 100, &[], fail(Failure::Refuses));
    assert_eq!(machine.links.avoided().count(), 4);
    for peer in 1..=3 {
        let (peer, why) = (fingerprint(peer), Gone::Leaving);
        machine.handle(Input::Disconnected { peer, why }, NOW + ms(100));
    }
    // Server 4 goes on refusing.
    pass(&mut machine, 100, 4000, &[], fail(Failure::Refuses));
    let avoided: Vec<_> = machine.links.avoided().collect();
    assert_eq!(avoided, [fingerprint(4)]);
}

#[test]
fn a_neighbour_that_only_others_reach_is_replaced_and_avoided_for_long() {
    let mut machine = linked(4);
    let wanted = pass(&mut machine, 0, 70_000, &[2, 3, 4], testify(|_| Some(true)));
    let first = |fits: fn(&Output) -> bool| {
        let found = wanted.iter().find(|(_, output)| fits(output));
        found.map(|(at, _)| ms(*at)).unwrap()
    };
    let closed = first(|output| {
        *output
            == Output::Disconnect {
                peer: fingerprint(1),
            }
    });
    let soon = SILENCE * 2 + SILENCE + ms(500);
    assert!((SILENCE * 2..soon).contains(&closed), "{closed:?}");
    let unlinked = first(|output| {
        matches!(output, Output::Send { to, message: Message::Unlink { .. } }
            if *to == fingerprint(1))
    });
    assert_eq!(unlinked, closed);
    assert_eq!(machine.suspected().count(), 0);
    let again = first(|output| matches!(output, Output::Connect { .. }));
    let earliest = closed + AVOID_BLOCKED;
    assert!(
        (earliest..earliest + SEEK_AGAIN * 2 + ms(20)).contains(&again),
        "closed after {closed:?}, dialled after {again:?}"
    );
}

#[test]
fn nobody_gets_more_links_than_it_accepts() {
    for (wish, accepted) in [
        (Wish::Plain, MAX_DEGREE),
        (Wish::Split, MAX_DEGREE),
        (Wish::Instead(fingerprint(99)), MAX_DEGREE),
        // These two give up another link for the new one.
        (Wish::Swap, 14),
        (Wish::Instead(fingerprint(1)), MAX_DEGREE + 1),
    ] {
        let mut machine = machine();
        let mut replies = 0;
        for peer in 1..=14 {
            connect(&mut machine, peer, NOW);
            sent(&mut machine, peer);
            say(&mut machine, peer, Message::Link { degree: 0, wish }, NOW);
            replies += sent(&mut machine, peer)
                .iter()
                .filter(|message| matches!(message, Message::LinkReply { accepted: true, .. }))
                .count();
            assert!(machine.neighbours().count() <= MAX_DEGREE, "{wish:?}");
        }
        assert_eq!(replies, accepted, "{wish:?}");
    }
}
