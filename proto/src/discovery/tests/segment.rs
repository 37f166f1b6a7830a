//! Many servers on a segment: they find each other with few packets, and answer clients.

use super::world::{LATENCY, MERGE, Server, World};
use super::*;

#[test]
fn two_that_start_find_each_other_at_once() {
    for delay in [0, 5, 70, 10_000] {
        let mut world = World::default();
        world.start(Some(key(1)));
        world.run(ms(delay));
        world.start(Some(key(1)));
        world.run(LATENCY + MERGE);
        assert!(
            world.is_one(),
            "the second started {delay} ms after the first"
        );
    }
}

#[test]
fn a_hundred_that_start_at_once_find_each_other_with_few_dials_each() {
    let mut world = World::default();
    for _ in 0..100 {
        world.start(None);
    }
    world.run(ms(500));
    assert!(world.is_one());
    assert!(
        world.servers.iter().all(|server| server.told <= 9),
        "more than the bucket gives"
    );
}

#[test]
fn what_is_said_at_rest_does_not_grow_with_the_servers() {
    let said = |n: usize| {
        let mut world = World::settled(n, None);
        world.run(Duration::from_secs(1024));
        assert_eq!(world.told(), 0);
        world.said()
    };
    // A server alone speaks in each of the 20 intervals, of which one is not whole. Each of two hears
    // one other, which is not enough for silence. Among more, intervals do not begin together, so that a
    // few more speak than the redundancy constant (RFC 6206, section 4.2).
    assert!((19..=21).contains(&said(1)));
    assert!((38..=42).contains(&said(2)));
    for n in [8, 32, 128] {
        let said = said(n);
        assert!((20..=100).contains(&said), "{n} servers said {said}");
    }
}

#[test]
fn a_newcomer_is_dialled_by_a_few_and_heard_by_all() {
    let mut world = World::settled(100, Some(key(1)));
    let newcomer = world.start(Some(key(1)));
    world.run(ms(90));
    let told = world.told();
    assert!((FEW..30).contains(&told), "{told} told of it");
    world.run(ms(200));
    assert!(world.is_one());
    world.clear();
    world.run(Duration::from_secs(120));
    assert_eq!(
        world.told(),
        0,
        "those whose turn came later had nothing left to do"
    );
    assert!(world.servers[newcomer].said < 10);
}

#[test]
fn circuits_that_meet_on_a_segment_merge() {
    for seconds in 0..20 {
        let mut world = World::default();
        for server in 0..12 {
            world.start(Some(key(1)));
            world.servers[server].cable = server % 2;
        }
        world.events.clear();
        world.run(Duration::from_secs(400 + seconds));
        assert_eq!(world.circuits().len(), 2);
        world.servers.iter_mut().for_each(|server| server.cable = 0);
        world.run(Duration::from_secs(52));
        assert!(world.is_one());
    }
}

#[test]
fn circuits_with_different_keys_share_a_segment() {
    let keys = [None, Some(key(1)), Some(key(2))];
    let mut world = World::default();
    for server in 0..12 {
        world.start(keys[server % 3].clone());
        world.run(ms(300));
    }
    world.run(Duration::from_secs(300));
    assert_eq!(world.circuits().len(), 3);
    assert!(
        (0..12).all(|server| world.servers[server].circuit == world.servers[server % 3].circuit)
    );
    world.clear();
    world.run(Duration::from_secs(512));
    for (circuit, key) in keys.iter().enumerate() {
        let said: usize = world
            .servers
            .iter()
            .skip(circuit)
            .step_by(3)
            .map(|server| server.said)
            .sum();
        assert!(
            said >= 10,
            "others kept circuit {circuit} silent: it said {said}"
        );
        let query = Query::new([circuit as u8; 16], key.as_ref());
        let (answers, mismatches): (Vec<_>, Vec<_>) = world
            .ask(&query, 0)
            .into_iter()
            .partition(|reply| matches!(reply, Reply::Answer(_)));
        assert!((3..=4).contains(&answers.len()));
        assert!((6..=8).contains(&mismatches.len()));
    }
}

#[test]
fn one_alone_answers_at_once_and_of_many_a_few() {
    for n in [1, 2, 3, 10, 100] {
        let mut world = World::settled(n, Some(key(1)));
        world.run(Duration::from_secs(1800));
        let key = key(1);
        let answers: Vec<usize> = (0..50)
            .map(|nonce| world.ask(&Query::new([nonce; 16], Some(&key)), 0).len())
            .collect();
        let mean = answers.iter().sum::<usize>() as f64 / answers.len() as f64;
        assert!(
            answers.iter().all(|count| *count >= n.min(FEW)),
            "{n} servers: {answers:?}"
        );
        assert!(mean < 8.0, "{n} servers: {mean} answers");
    }
}

#[test]
fn a_query_is_answered_in_the_end_even_if_nearly_all_have_just_died() {
    let mut world = World::settled(40, None);
    // All but the first are dead, and nobody has noticed: the live view still has them.
    let cable = |server: &mut Server| server.cable = 1;
    world.servers.iter_mut().skip(1).for_each(cable);
    for nonce in 0..50 {
        let query = Query::new([nonce; 16], None);
        let answered = (0..=EVERYBODY).any(|attempt| !world.ask(&query, attempt).is_empty());
        assert!(answered);
    }
}

#[test]
fn answers_a_copy_once_and_a_repetition_again() {
    let mut world = World::settled(1, None);
    let query = Query::new([1; 16], None);
    assert_eq!(world.ask(&query, 0).len(), 1);
    assert_eq!(world.ask(&query, 0).len(), 0);
    assert_eq!(world.ask(&query, 1).len(), 1);
}

#[test]
fn says_to_a_client_with_another_key_only_that() {
    let mut world = World::settled(1, Some(key(1)));
    let other = key(2);
    let wrong = Reply::KeyMismatch(crate::auth::KeyMismatch::Wrong);
    assert_eq!(world.ask(&Query::new([1; 16], Some(&other)), 0), [wrong]);
    let missing = Reply::KeyMismatch(crate::auth::KeyMismatch::Missing);
    assert_eq!(world.ask(&Query::new([2; 16], None), 0), [missing]);
    assert!(world.answers[0].1.len() < 48, "no URL is in it");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = || {
        let mut world = World::default();
        for _ in 0..20 {
            world.start(None);
        }
        world.run(Duration::from_secs(100));
        world.trace
    };
    assert_eq!(trace(), trace());
}
