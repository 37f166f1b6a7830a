//! How an instance is stopped, and what waits for it.

use std::time::Duration;

use super::super::*;
use super::world::{Behaviour, World, ms, s};

fn with(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy);
    policy
}

/// What of these was put out, with the time since the intent in milliseconds.
fn steps(world: &World, from: Duration) -> Vec<(u128, &'static str)> {
    let mut steps = Vec::new();
    for (at, output) in &world.log {
        let step = match output {
            Output::Readiness { ready: false, .. } => "withdrawn",
            Output::Signal { .. } => "signal",
            Output::Run {
                command: Command::Stop,
                ..
            } => "command",
            Output::SignalRest { .. } => "rest",
            Output::KillTree { .. } => "kill",
            Output::KillCommand { .. } => "kill command",
            Output::Event(Event::Stuck { .. }) => "stuck",
            Output::InstanceGone { .. } => "gone",
            Output::Spawn { .. } => "spawn",
            _ => continue,
        };
        if *at >= from {
            steps.push(((*at - from).as_millis(), step));
        }
    }
    steps
}

fn stopped(policy: Policy, behaviour: Behaviour, run: Duration) -> Vec<(u128, &'static str)> {
    let mut world = World::up(policy, move |_, _| behaviour.clone());
    world.forget_log();
    let from = world.now;
    world.intend(Intent::Down);
    world.run(run);
    steps(&world, from)
}

#[test]
fn readiness_goes_first_then_the_signal_then_the_rest_then_kill() {
    let policy = with(|policy| policy.stop.wait = s(3));
    let ignores = Behaviour {
        rest: Some(None),
        ..Behaviour::default()
    };
    assert_eq!(
        stopped(policy, ignores, s(60)),
        [
            (0, "withdrawn"),
            (3000, "signal"),
            (3200, "rest"),
            (13000, "kill"),
            (13010, "gone")
        ]
    );
}

#[test]
fn a_main_process_that_ignores_its_signal_is_killed_after_the_seconds() {
    let policy = with(|policy| policy.stop.seconds = s(4));
    let ignores = Behaviour {
        term: None,
        rest: Some(None),
        ..Behaviour::default()
    };
    assert_eq!(
        stopped(policy, ignores, s(60)),
        [
            (0, "withdrawn"),
            (0, "signal"),
            (4000, "kill"),
            (4010, "gone")
        ]
    );
}

#[test]
fn the_rest_has_two_seconds_after_its_term_whatever_the_seconds() {
    let policy = with(|policy| policy.stop.seconds = s(1));
    let slow = Behaviour {
        term: Some(ms(900)),
        rest: Some(None),
        ..Behaviour::default()
    };
    assert_eq!(
        stopped(policy, slow, s(60)),
        [
            (0, "withdrawn"),
            (0, "signal"),
            (900, "rest"),
            (2900, "kill"),
            (2910, "gone")
        ]
    );
}

#[test]
fn no_seconds_are_a_kill_at_once() {
    let policy = with(|policy| policy.stop.seconds = Duration::ZERO);
    assert_eq!(
        stopped(policy, Behaviour::default(), s(60)),
        [(0, "withdrawn"), (0, "signal"), (0, "kill"), (10, "gone")]
    );
}

#[test]
fn a_stop_command_takes_the_place_of_the_signal_and_the_signal_follows_if_it_fails() {
    let policy = with(|policy| policy.stop.command = true);
    assert_eq!(
        stopped(policy.clone(), Behaviour::default(), s(60)),
        [
            (0, "withdrawn"),
            (0, "command"),
            (200, "rest"),
            (200, "gone")
        ]
    );
    let fails = Behaviour {
        stop: (s(1), false),
        ..Behaviour::default()
    };
    assert_eq!(
        stopped(policy.clone(), fails, s(60)),
        [
            (0, "withdrawn"),
            (0, "command"),
            (1000, "signal"),
            (1200, "rest"),
            (1200, "gone")
        ]
    );
    let hangs = Behaviour {
        stop: (s(100), true),
        ..Behaviour::default()
    };
    assert_eq!(
        stopped(policy, hangs, s(60)),
        [
            (0, "withdrawn"),
            (0, "command"),
            (10000, "kill command"),
            (10000, "kill"),
            (10001, "signal"),
            (10010, "gone")
        ]
    );
}

#[test]
fn a_wrapper_that_dies_at_once_leaves_the_real_program_its_time() {
    let wrapper = Behaviour {
        term: Some(ms(1)),
        rest: Some(Some(s(8))),
        ..Behaviour::default()
    };
    assert_eq!(
        stopped(Policy::default(), wrapper, s(60)),
        [(0, "withdrawn"), (0, "signal"), (1, "rest"), (8001, "gone")]
    );
}

#[test]
fn what_cannot_be_killed_is_stuck_after_ten_seconds_and_tried_once_a_second() {
    let dead = Behaviour {
        term: None,
        kill: None,
        ..Behaviour::default()
    };
    let mut world = World::up(Policy::default(), move |_, _| dead.clone());
    world.forget_log();
    let from = world.now;
    let ticket = world.intend(Intent::Scrub);
    world.run(ms(30_500));
    let steps = steps(&world, from);
    let kills: Vec<u128> = steps
        .iter()
        .filter(|(_, it)| *it == "kill")
        .map(|it| it.0)
        .collect();
    assert_eq!(
        kills,
        (10..=30).map(|second| second * 1000).collect::<Vec<_>>()
    );
    let stuck: Vec<_> = steps.iter().filter(|(_, it)| *it == "stuck").collect();
    assert_eq!(stuck, [&(20_000, "stuck")]);
    assert_eq!(world.state(1), State::Stuck);
    let Some(Outcome::Failed(failure)) = world.settled(ticket) else {
        panic!("{:?}", world.settled(ticket));
    };
    assert_eq!((failure.slot, &failure.what), (1, &Failed::Stuck));
    // Once it can be killed, it is gone, and so is the service.
    for body in world.bodies.values_mut() {
        body.behaviour.kill = Some(ms(10));
    }
    world.run(s(2));
    assert!(world.machine.view().slots.is_empty());
}

#[test]
fn a_main_process_that_forks_away_and_exits_ends_the_instance() {
    let forks = |id: InstanceId, _| match id.number {
        1 => Behaviour {
            rest: Some(Some(s(1))),
            ..Behaviour::exits(s(20), 0)
        },
        _ => Behaviour::default(),
    };
    let mut world = World::up(Policy::default(), forks);
    world.forget_log();
    let from = world.now;
    world.run(s(22));
    assert_eq!(
        steps(&world, from),
        [
            (19000, "withdrawn"),
            (19000, "rest"),
            (20000, "gone"),
            (20000, "spawn")
        ]
    );
}

#[test]
fn a_slot_is_not_refilled_before_its_tree_is_empty() {
    // Left-overs that ignore TERM: the next instance waits for the KILL.
    let mut world = World::up(Policy::default(), |id, _| match id.number {
        1 => Behaviour {
            rest: Some(None),
            ..Behaviour::exits(s(20), 1)
        },
        _ => Behaviour::default(),
    });
    world.forget_log();
    let from = world.now;
    world.run(s(40));
    assert_eq!(
        steps(&world, from),
        [
            (19000, "withdrawn"),
            (19000, "rest"),
            (29000, "kill"),
            (29010, "gone"),
            (29010, "spawn")
        ]
    );
}

#[test]
fn a_long_drain_delays_neither_other_slots_nor_intents() {
    let policy = Policy {
        instances: 3,
        parallel: 3,
        stop: Stop {
            command: false,
            seconds: s(300),
            wait: Duration::ZERO,
        },
        ..Policy::default()
    };
    let mut world = World::up(policy, |id, _| match (id.slot, id.number) {
        (1, 1) => Behaviour {
            term: Some(s(200)),
            ..Behaviour::default()
        },
        _ => Behaviour::default(),
    });
    world.intend(Intent::Restart {
        slot: Some(1),
        now: true,
    });
    world.run(s(1));
    let ticket = world.intend(Intent::Restart {
        slot: Some(2),
        now: false,
    });
    world.run(s(3));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(
        world.states(),
        [State::Stopping, State::Ready, State::Ready]
    );
}

#[test]
fn a_start_under_way_is_called_off() {
    // While the command before it runs, and while the spawn is queued.
    for (before, spawn) in [(s(5), ms(1)), (ms(1), s(5))] {
        let policy = with(|policy| policy.before = true);
        let mut world = World::new(policy, move |_, _| Behaviour {
            spawn: Ok(spawn),
            before: (before, true),
            ..Behaviour::default()
        });
        world.intend(Intent::Up);
        world.run(s(2));
        let down = world.intend(Intent::Down);
        world.run(s(10));
        assert_eq!(world.settled(down), Some(&Outcome::Reached));
        assert_eq!((world.state(1), world.running()), (State::Down, 0));
    }
}

#[test]
fn an_ending_server_stops_its_services_and_leaves_their_intents() {
    for kill in [false, true] {
        let policy = Policy {
            instances: 2,
            parallel: 2,
            ..Policy::default()
        };
        let mut world = World::up(policy, |_, _| Behaviour {
            term: Some(s(3)),
            ..Behaviour::default()
        });
        world.handle(Input::End);
        world.run(s(1));
        assert!(!world.ended);
        if kill {
            world.handle(Input::Kill);
            world.run(ms(20));
        } else {
            world.run(s(3));
        }
        assert!(world.ended);
        assert_eq!(world.running(), 0);
        assert_eq!(world.machine.service_record().want, Want::Up);
        assert_eq!(world.refuse(Intent::Up), Refused::Ending);
        let record = world.machine.slot_record(1).expect("kept");
        assert_eq!(record.rest, RestRecord::Free);
        world.run(s(100));
        assert_eq!(world.running(), 0);
    }
}

#[test]
fn who_asks_for_a_stuck_service_is_told_at_once() {
    let mut world = World::up(Policy::default(), |_, _| Behaviour {
        term: None,
        kill: None,
        ..Behaviour::default()
    });
    world.intend(Intent::Down);
    world.run(s(30));
    assert_eq!(world.state(1), State::Stuck);
    for intent in [
        Intent::Down,
        Intent::Up,
        Intent::Restart {
            slot: None,
            now: true,
        },
        Intent::Restart {
            slot: None,
            now: false,
        },
        Intent::Restart {
            slot: Some(1),
            now: false,
        },
        Intent::Scale(0),
        Intent::Scrub,
    ] {
        let text = format!("{intent:?}");
        let ticket = world.intend(intent);
        let Some(Outcome::Failed(failure)) = world.settled(ticket) else {
            panic!("{text}: {:?}", world.settled(ticket));
        };
        assert_eq!(failure.what, Failed::Stuck, "{text}");
    }
}

#[test]
fn a_server_that_ends_at_once_kills_at_once() {
    let mut world = World::up(Policy::default(), |_, _| Behaviour {
        term: None,
        ..Behaviour::default()
    });
    world.forget_log();
    let from = world.now;
    world.handle(Input::Kill);
    world.run(s(1));
    assert!(world.ended);
    // Whatever the main process leaves is killed too.
    assert_eq!(
        steps(&world, from),
        [(0, "withdrawn"), (0, "kill"), (10, "kill"), (10, "gone")]
    );
}
