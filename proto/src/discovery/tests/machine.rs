//! One machine: what it believes, how often it speaks, and what strangers can make it do.

use std::cell::RefCell;

use proptest::prelude::*;

use super::*;

/// Steps one machine to `until`, and returns how often it spoke.
fn speak(machine: &mut Machine, until: Duration, life_of: LifeOf<'_>) -> usize {
    let mut spoken = 0;
    while let Some(at) = machine.poll_timeout().filter(|at| *at <= until) {
        machine.handle(Input::Timeout, at, life_of);
        while let Some(output) = machine.poll_output() {
            spoken += usize::from(matches!(output, Output::Multicast { .. }));
        }
    }
    spoken
}

#[test]
fn only_verified_announcements_of_live_members_silence() {
    let check = |why: &str, servers: &[usize], with: Option<Key>, live: bool, silent: bool| {
        let mut machine = machine(0, Some(key(1)));
        machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &|id| {
            all(id).filter(|_| live)
        });
        while machine.poll_output().is_some() {}
        for server in servers {
            hear(
                &mut machine,
                *server,
                &announcement(*server, with.as_ref()),
                ms(1),
                &|id| all(id).filter(|_| live),
            );
        }
        while machine.poll_output().is_some() {}
        assert_eq!(
            speak(&mut machine, ms(99), &|id| all(id).filter(|_| live)),
            usize::from(!silent),
            "{why}"
        );
    };
    check("two members", &[1, 2], Some(key(1)), true, true);
    check("one member twice", &[1, 1], Some(key(1)), true, false);
    check("itself", &[0, 1], Some(key(1)), true, false);
    check(
        "two that are not members",
        &[1, 2],
        Some(key(1)),
        false,
        false,
    );
    check(
        "members' names with another key",
        &[1, 2],
        Some(key(2)),
        true,
        false,
    );
    check("members' names without a key", &[1, 2], None, true, false);
}

#[test]
fn each_segment_has_its_own_silence() {
    let mut machine = machine(0, None);
    machine.handle(
        Input::Segments(&[Segment(1), Segment(2)]),
        Duration::ZERO,
        &all,
    );
    for server in [1, 2] {
        hear(
            &mut machine,
            server,
            &announcement(server, None),
            ms(1),
            &all,
        );
    }
    let mut said = Vec::new();
    while machine.poll_timeout().unwrap() <= ms(99) {
        let at = machine.poll_timeout().unwrap();
        machine.handle(Input::Timeout, at, &all);
    }
    while let Some(output) = machine.poll_output() {
        if let Output::Multicast { segment, .. } = output {
            said.push(segment.0);
        }
    }
    assert_eq!(
        said,
        [1, 2, 2],
        "at the start on both, then on the second only"
    );
}

#[test]
fn a_segment_that_appears_is_greeted_and_one_that_went_is_left_alone() {
    let mut machine = machine(0, None);
    let mut segments = |list: &[u32], at: u64| {
        let list: Vec<Segment> = list.iter().copied().map(Segment).collect();
        machine.handle(Input::Segments(&list), ms(at), &all);
        let outputs: Vec<Output> = std::iter::from_fn(|| machine.poll_output()).collect();
        let to = |output: &Output| match output {
            Output::Multicast { segment, .. } => segment.0,
            other => panic!("{other:?}"),
        };
        (
            outputs.iter().map(to).collect::<Vec<u32>>(),
            machine.poll_timeout().is_some(),
        )
    };
    assert_eq!(segments(&[1], 0), (vec![1], true));
    assert_eq!(segments(&[1, 2], 1), (vec![2], true));
    assert_eq!(segments(&[2], 2), (vec![], true));
    assert_eq!(segments(&[], 3), (vec![], false));
    assert_eq!(segments(&[2], 4), (vec![2], true));
}

#[test]
fn does_not_serve_to_attack_others() {
    let ask = |machine: &mut Machine, from: &str, bytes: &[u8], at: u64| {
        let packet = Input::Packet {
            segment: SEGMENT,
            from: from.parse().unwrap(),
            bytes,
        };
        machine.handle(packet, ms(at), &all);
        std::iter::from_fn(|| machine.poll_output())
            .filter(|o| matches!(o, Output::Unicast { .. }))
            .count()
    };
    let mut machine = machine(0, None);
    machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &all);
    let query = |n: u16| {
        let mut nonce = [0; 16];
        nonce[..2].copy_from_slice(&n.to_be_bytes());
        Query::new(nonce, None).packet(0)
    };
    assert_eq!(
        ask(&mut machine, "10.0.0.9:9", &query(0)[..60], 0),
        0,
        "shorter than the answer"
    );
    for from in [
        "10.0.0.9:0",
        "228.8.8.8:9",
        "255.255.255.255:9",
        "0.0.0.0:9",
        "[ff02::1]:9",
    ] {
        assert_eq!(ask(&mut machine, from, &query(0), 0), 0, "{from}");
    }
    let answered: usize = (1..5000)
        .map(|n| ask(&mut machine, "10.0.0.9:9", &query(n), 10))
        .sum();
    assert_eq!(answered, 1000);
    let other = key(1);
    let theirs = Query::new([9; 16], Some(&other));
    let refused: usize = (0..=255)
        .map(|n| ask(&mut machine, "10.0.0.9:9", &theirs.packet(n), 20))
        .sum();
    assert_eq!(refused, 10);
}

#[test]
fn queries_that_others_answer_cost_little_too() {
    let mut machine = machine(0, None);
    machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &all);
    for who in 1..=100 {
        let announced = announcement(who, None);
        let packet = Input::Packet {
            segment: SEGMENT,
            from: "10.0.0.9:9".parse().unwrap(),
            bytes: &announced,
        };
        machine.handle(packet, Duration::ZERO, &all);
    }
    let looked_up = std::cell::Cell::new(0);
    for n in 0..5000_u16 {
        let mut nonce = [0; 16];
        nonce[..2].copy_from_slice(&n.to_be_bytes());
        let query = Query::new(nonce, None).packet(0);
        let packet = Input::Packet {
            segment: SEGMENT,
            from: "10.0.0.9:9".parse().unwrap(),
            bytes: &query,
        };
        machine.handle(packet, Duration::ZERO, &|id| {
            looked_up.set(looked_up.get() + 1);
            all(id)
        });
    }
    let each = 100;
    assert!(
        (each..=1000 * each).contains(&looked_up.get()),
        "{looked_up:?}"
    );
}

#[test]
fn another_hosts_loopback_is_not_ours() {
    let check = |from: &str, expected: usize| {
        let mut machine = machine(0, None);
        machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &|_| None);
        let url = format!("circuit://127.0.0.1:1/1/{}", id(1).in_url())
            .parse()
            .unwrap();
        let bytes = Packet::Announcement(Identity {
            url,
            name: String::new(),
            count: 0,
            instance: 0,
        })
        .encode(None);
        let packet = Input::Packet {
            segment: SEGMENT,
            from: from.parse().unwrap(),
            bytes: &bytes,
        };
        machine.handle(packet, ms(1), &|_| None);
        let heard = |output: &Output| matches!(output, Output::Heard(_));
        assert_eq!(
            std::iter::from_fn(|| machine.poll_output())
                .filter(heard)
                .count(),
            expected,
            "{from}"
        );
    };
    check("127.0.0.1:9", 1);
    check("10.0.0.9:9", 0);
}

#[test]
fn a_replayed_announcement_costs_little() {
    let mut machine = machine(0, None);
    machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &|_| None);
    let (mut heard, mut said) = (0, 0);
    for at in 0..600_000 / 20 {
        hear(
            &mut machine,
            1,
            &announcement(1, None),
            ms(at * 20),
            &|_| None,
        );
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Heard(_) => heard += 1,
                _ => said += 1,
            }
        }
    }
    assert!(heard <= 16, "told of it {heard} times in ten minutes");
    assert!(said <= 16 * 10, "said {said}");
}

#[test]
fn a_member_that_was_started_again_is_told_of_and_answered_soon() {
    let mut machine = machine(0, None);
    let before = identity(1);
    let life_of: LifeOf<'_> = &all;
    machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, life_of);
    speak(&mut machine, ms(600_000), life_of);
    let now = ms(600_000);
    let mut hear_of = |identity: &Identity| {
        let bytes = Packet::Announcement(identity.clone()).encode(None);
        hear(&mut machine, 1, &bytes, now, life_of);
        let told = std::iter::from_fn(|| machine.poll_output()).count();
        (told, machine.poll_timeout().unwrap() - now < ms(100))
    };
    assert_eq!(hear_of(&before), (0, false), "as it is known");
    let again = Identity { count: 1, ..before };
    assert_eq!(hear_of(&again), (1, true), "at the same URL");
}

#[test]
fn only_pinned_urls_are_announced() {
    let mut me = identity(0);
    me.url.server = None;
    let unpinned = Unpinned(me.url.clone());
    assert_eq!(Machine::new(me, None, 1).unwrap_err(), unpinned);
}

proptest! {
    #[test]
    fn survives_anything(steps in prop::collection::vec((0u8..5, 0usize..40, 0u64..3000, any::<[u8; 16]>()), 1..200)) {
        let now = RefCell::new(Duration::ZERO);
        let mut machine = machine(0, None);
        for (kind, server, pause, nonce) in steps {
            *now.borrow_mut() += ms(pause);
            let at = *now.borrow();
            let bytes = match kind {
                0 => announcement(server, None),
                1 => Query::new(nonce, None).packet(nonce[0]),
                2 => [b"crkt\x01\x01\x00\x00", &nonce[..], &nonce].concat(),
                _ => Vec::new(),
            };
            let segments = [Segment(1), Segment(2)];
            let input = match kind {
                3 => Input::Segments(&segments[..server % 3]),
                4 => Input::Timeout,
                _ => Input::Packet { segment: SEGMENT, from: from(server), bytes: &bytes },
            };
            machine.handle(input, at, &|id| all(id).filter(|_| id.0 % 2 == 0));
            prop_assert!(machine.poll_timeout().is_none_or(|next| next > at), "what was due is done");
            let outputs = std::iter::from_fn(|| machine.poll_output()).count();
            prop_assert!(outputs <= 12, "{outputs}");
        }
    }
}
