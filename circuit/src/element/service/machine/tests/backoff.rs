//! What follows an end: delays, steadiness, tries, codes.

use std::time::Duration;

use super::super::*;
use super::world::{Behaviour, World, ms, s};

/// How long after each end the next spawn came.
fn delays(world: &World) -> Vec<f64> {
    let gone = world.times(|it| matches!(it, Output::InstanceGone { .. }));
    let spawns = world.spawns();
    let next = spawns.iter().skip(1);
    gone.iter()
        .zip(next)
        .map(|(gone, spawn)| (*spawn - *gone).as_secs_f64())
        .collect()
}

#[test]
fn the_delay_is_none_then_first_then_twice_as_long_up_to_most() {
    let policy = Policy::default();
    let mut world = World::new(policy, |_, _| Behaviour::exits(ms(10), 1));
    world.intend(Intent::Up);
    world.run(s(600));
    let delays = delays(&world);
    let expected = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0];
    for (delay, expected) in delays.iter().zip(expected) {
        assert!(
            *delay >= expected * 0.8 - 0.001 && *delay <= expected * 1.2 + 0.001,
            "{delays:?}"
        );
    }
    assert!(delays.len() >= expected.len());
    // They are spread.
    assert!(delays[7] != delays[8] && delays[8] != delays[9]);
    let slot = world.slot(1);
    assert_eq!(slot.state, State::Backoff);
    assert!(slot.next.is_some_and(|next| next > world.now));
}

#[test]
fn an_instance_that_was_ready_for_steady_seconds_forgets_the_failures_before_it() {
    // Four failures, then one that runs for long enough, then failures again.
    let mut world = World::new(Policy::default(), |id, _| match id.number {
        5 => Behaviour::exits(s(12), 1),
        _ => Behaviour::exits(ms(10), 1),
    });
    world.intend(Intent::Up);
    world.until(s(600), |world| world.slot(1).starts == 6);
    // The fifth came after the delay of four failures: 4 s. It was steady after 10 s.
    assert_eq!(world.slot(1).failures, 1);
}

#[test]
fn an_instance_after_a_long_delay_is_steady_after_as_long() {
    // After six failures the delay is 16 s: 13 s are not enough then.
    let mut world = World::new(Policy::default(), |id, _| match id.number {
        7 => Behaviour::exits(s(12), 1),
        _ => Behaviour::exits(ms(10), 1),
    });
    world.intend(Intent::Up);
    world.until(s(600), |world| world.slot(1).starts == 8);
    assert_eq!(world.slot(1).failures, 7);
}

#[test]
fn an_exit_that_leads_to_a_restart_counts_whatever_its_code_unless_steady() {
    for (up, failures) in [(s(5), 1), (s(20), 0)] {
        let mut world = World::new(Policy::default(), move |id, _| match id.number {
            1 => Behaviour::exits(up, 0),
            _ => Behaviour::default(),
        });
        world.intend(Intent::Up);
        world.until(s(60), |world| world.slot(1).starts == 2);
        assert_eq!(world.slot(1).failures, failures, "up for {up:?}");
    }
}

#[test]
fn tries_failures_in_a_row_make_a_slot_failed_until_a_person_asks() {
    let mut policy = Policy::default();
    policy.backoff.tries = 3;
    let mut world = World::new(policy, |id, _| match id.number {
        1..=6 => Behaviour::exits(ms(10), 1),
        _ => Behaviour::default(),
    });
    let ticket = world.intend(Intent::Up);
    world.run(s(1000));
    assert_eq!((world.state(1), world.slot(1).starts), (State::Failed, 3));
    assert!(matches!(world.settled(ticket), Some(Outcome::Failed(_))));
    // A person asks: at once, and from the beginning.
    let before = world.now;
    world.intend(Intent::Up);
    assert_eq!(world.spawns().last(), Some(&before));
    world.run(s(1000));
    assert_eq!((world.state(1), world.slot(1).starts), (State::Failed, 6));
    world.intend(Intent::Restart {
        slot: Some(1),
        now: false,
    });
    world.run(s(100));
    assert_eq!((world.state(1), world.slot(1).failures), (State::Ready, 0));
}

#[test]
fn restart_rules_and_codes_decide_what_follows_an_end() {
    use Restart::{Always, Failure, Never};
    let code = End::Code;
    for (restart, end, expected) in [
        (Always, code(0), State::Backoff),
        (Always, code(1), State::Backoff),
        (Always, code(9), State::Failed),
        (Always, End::Unknown, State::Backoff),
        (Failure, code(0), State::Finished),
        (Failure, code(3), State::Finished),
        (Failure, code(1), State::Backoff),
        (Failure, code(9), State::Failed),
        (Failure, End::Signal(11), State::Backoff),
        (Failure, End::Unknown, State::Backoff),
        (Never, code(0), State::Finished),
        (Never, code(1), State::Finished),
        (Never, code(9), State::Failed),
        (Never, End::Signal(9), State::Finished),
        (Never, End::Unknown, State::Finished),
    ] {
        let policy = Policy {
            restart,
            ok_codes: vec![0, 3],
            fatal_codes: vec![9],
            ..Policy::default()
        };
        let mut world = World::up(policy, move |_, _| Behaviour {
            exit: Some((s(2), end)),
            ..Behaviour::default()
        });
        world.grant = Duration::MAX;
        world.run(s(5));
        assert_eq!(world.state(1), expected, "{restart:?} {end:?}");
        assert_eq!(world.slot(1).last.and_then(|last| last.end), Some(end));
        world.run(s(1000));
        assert_eq!(world.slot(1).starts, 1, "{restart:?} {end:?}");
    }
}

#[test]
fn an_unknown_end_of_work_that_must_not_run_twice_is_finished() {
    let policy = Policy {
        unknown_finishes: true,
        ..Policy::default()
    };
    let mut world = World::up(policy, |_, _| Behaviour {
        exit: Some((s(5), End::Unknown)),
        ..Behaviour::default()
    });
    world.run(s(100));
    assert_eq!((world.state(1), world.slot(1).starts), (State::Finished, 1));
    assert_eq!(world.slot(1).why, Some(Why::Unknown));
}

#[test]
fn a_start_that_fails_before_there_is_a_process_is_a_failure() {
    let policy = Policy {
        before: true,
        ..Policy::default()
    };
    for spawn in [true, false] {
        let mut world = World::new(policy.clone(), move |id, _| match id.number {
            1 | 2 if spawn => Behaviour {
                spawn: Err("no such file"),
                ..Behaviour::default()
            },
            1 | 2 => Behaviour {
                before: (ms(50), false),
                ..Behaviour::default()
            },
            _ => Behaviour::default(),
        });
        let ticket = world.intend(Intent::Up);
        world.run(ms(500));
        let slot = world.slot(1);
        assert_eq!((slot.state, slot.failures), (State::Backoff, 2));
        let (why, text) = if spawn {
            let why = Why::CannotExecute("no such file".to_owned());
            (why, "slot 1: cannot execute: no such file")
        } else {
            (
                Why::BeforeFailed,
                "slot 1: the command before the start failed",
            )
        };
        assert_eq!(slot.why, Some(why));
        match world.settled(ticket) {
            Some(Outcome::Failed(failure)) => assert_eq!(failure.to_string(), text),
            other => panic!("{other:?}"),
        }
        world.run(s(5));
        assert_eq!(world.state(1), State::Ready);
    }
}

#[test]
fn a_start_that_fails_makes_a_slot_that_is_never_restarted_failed() {
    let policy = Policy {
        restart: Restart::Never,
        ..Policy::default()
    };
    let mut world = World::new(policy, |_, _| Behaviour {
        spawn: Err("no such file"),
        ..Behaviour::default()
    });
    world.intend(Intent::Up);
    world.run(s(1000));
    assert_eq!(world.state(1), State::Failed);
}

#[test]
fn automatic_restarts_wait_for_the_limit_and_a_persons_do_not() {
    let policy = Policy {
        instances: 3,
        parallel: 3,
        ..Policy::default()
    };
    let mut world = World::up(policy, |id, _| match id.number {
        1 => Behaviour::exits(s(20), 1),
        _ => Behaviour::default(),
    });
    world.grant = s(30);
    world.run(s(25));
    assert_eq!(world.states(), [State::Backoff; 3]);
    assert_eq!(world.times(|it| matches!(it, Output::Ask { .. })).len(), 3);
    // A person's: at once, and the request is called off.
    world.intend(Intent::Restart {
        slot: Some(2),
        now: false,
    });
    world.run(s(2));
    assert_eq!(
        world.states(),
        [State::Backoff, State::Ready, State::Backoff]
    );
    assert_eq!(
        world
            .times(|it| matches!(it, Output::Unask { slot: 2 }))
            .len(),
        1
    );
    world.run(s(30));
    assert_eq!(world.states(), [State::Ready; 3]);
    assert_eq!(world.spawns().len(), 6);
}

#[test]
fn a_person_who_stops_a_service_does_not_count_as_its_failure() {
    let mut world = World::up(Policy::default(), |_, _| Behaviour::default());
    for _ in 0..5 {
        world.intend(Intent::Restart {
            slot: None,
            now: true,
        });
        world.run(ms(500));
        world.intend(Intent::Down);
        world.run(ms(500));
        world.intend(Intent::Up);
        world.run(ms(300));
    }
    let slot = world.slot(1);
    assert_eq!((slot.state, slot.failures), (State::Starting, 0));
}
