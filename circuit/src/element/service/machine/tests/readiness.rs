//! When an instance is ready, whether it is alive, and what makes it be replaced.

use std::time::Duration;

use super::super::*;
use super::world::{Behaviour, World, ms, s};

fn probed() -> Policy {
    Policy {
        ready: Ready::Probe {
            every: s(1),
            timeout: s(1),
            deadline: s(60),
        },
        ..Policy::default()
    }
}

#[test]
fn an_instance_is_ready_by_its_time_by_a_probe_or_by_its_own_word() {
    let notify = Ready::Notify { deadline: s(60) };
    for (ready, least, most) in [
        (Ready::Up(s(3)), ms(3000), ms(3010)),
        (Ready::Up(Duration::ZERO), ms(0), ms(10)),
        (probed().ready, ms(4000), ms(5100)),
        (notify, ms(4300), ms(4310)),
    ] {
        let policy = Policy {
            ready,
            ..Policy::default()
        };
        let mut world = World::new(policy, |_, _| Behaviour {
            ready: Some(ms(4300)),
            ..Behaviour::default()
        });
        let ticket = world.intend(Intent::Up);
        let took = world.until(s(60), |world| world.state(1) == State::Ready);
        assert!(took >= least && took <= most, "{ready:?}: {took:?}");
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    }
}

#[test]
fn not_ready_within_the_deadline_is_a_failed_start_and_time_in_a_queue_is_no_part_of_it() {
    let notify = Policy {
        ready: Ready::Notify { deadline: s(60) },
        ..Policy::default()
    };
    for policy in [probed(), notify] {
        let mut world = World::new(policy, |id, _| Behaviour {
            spawn: Ok(s(30)),
            ready: (id.number > 1).then_some(ms(100)),
            ..Behaviour::default()
        });
        let ticket = world.intend(Intent::Up);
        world.run(s(89));
        assert_eq!(world.state(1), State::Starting);
        world.run(ms(1100));
        let Some(Outcome::Failed(failure)) = world.settled(ticket) else {
            panic!("{:?}", world.machine.view());
        };
        assert_eq!(failure.to_string(), "slot 1: not ready in 60 s");
        world.run(s(35));
        assert_eq!(world.slot(1).last.map(|last| last.why), Some(Why::NotReady));
        assert_eq!((world.state(1), world.slot(1).failures), (State::Ready, 1));
    }
}

#[test]
fn readiness_restarts_nothing_after_the_start() {
    let mut world = World::up(probed(), |_, _| Behaviour::default());
    let id = InstanceId { slot: 1, number: 1 };
    world.bodies.get_mut(&id).expect("there").behaviour.ready = None;
    world.run(s(1000));
    assert_eq!((world.state(1), world.spawns().len()), (State::Unready, 1));
    world.bodies.get_mut(&id).expect("there").behaviour.ready = Some(s(1));
    world.run(s(2));
    assert_eq!(world.state(1), State::Ready);
    let told = world.times(|it| matches!(it, Output::Readiness { .. }));
    assert_eq!(told.len(), 3);
}

#[test]
fn probes_are_one_at_a_time_and_begin_as_often_as_told() {
    let mut world = World::up(probed(), |_, _| Behaviour::default());
    world.forget_log();
    world.run(s(100));
    let probes = world.times(|it| matches!(it, Output::Probe { .. }));
    assert!(probes.len() == 100, "{}", probes.len());
}

#[test]
fn what_is_not_alive_is_replaced_after_so_many_failures_and_that_counts() {
    let alive = Alive {
        watchdog: false,
        every: s(10),
        timeout: s(5),
        fails: 3,
    };
    let policy = Policy {
        alive: Some(alive),
        ..Policy::default()
    };
    let mut world = World::up(policy, |id, _| Behaviour {
        alive: if id.number == 1 {
            s(100)
        } else {
            Duration::MAX
        },
        ..Behaviour::default()
    });
    // Ready after 1 s, so it is asked at 101 s, 111 s and 121 s: one failed and two more.
    let took = world.until(s(600), |world| world.state(1) == State::Stopping);
    assert!(took > s(119) && took < s(121), "{took:?}");
    assert_eq!(world.slot(1).why, Some(Why::Alive));
    world.run(s(3));
    assert_eq!((world.state(1), world.slot(1).failures), (State::Ready, 1));
}

#[test]
fn a_watchdog_is_to_be_heard_once_in_its_interval_and_a_suspended_host_counts_once() {
    let alive = Alive {
        watchdog: true,
        every: s(10),
        timeout: s(5),
        fails: 3,
    };
    let policy = Policy {
        alive: Some(alive),
        ..Policy::default()
    };
    let mut world = World::up(policy, |_, _| Behaviour::default());
    let instance = InstanceId { slot: 1, number: 1 };
    for _ in 0..100 {
        world.run(s(9));
        world.handle(Input::Watchdog { instance });
    }
    // An hour at once.
    world.now += s(3600);
    world.handle(Input::Tick);
    world.run(s(9));
    world.handle(Input::Watchdog { instance });
    world.run(s(29));
    assert_eq!(world.state(1), State::Ready);
    world.run(s(2));
    assert_eq!(world.slot(1).last.map(|last| last.why), Some(Why::Alive));
}

#[test]
fn an_age_is_drawn_once_per_instance_and_the_instance_is_replaced_then() {
    let policy = Policy {
        instances: 4,
        parallel: 4,
        max_age: Some(s(1000)),
        ..Policy::default()
    };
    let mut world = World::up(policy, |_, _| Behaviour::default());
    world.run(s(5000));
    let ages: Vec<f64> = world
        .log
        .iter()
        .filter_map(|(at, output)| match output {
            Output::Event(Event::Stopping { instance, why }) => {
                assert_eq!(*why, Why::MaxAge);
                let spawned = world.log.iter().find(|(_, output)| {
                    matches!(output, Output::Event(Event::Spawn { instance: it, .. }) if it == instance)
                });
                Some((*at - spawned.expect("spawned").0).as_secs_f64())
            }
            _ => None,
        })
        .collect();
    assert!(ages.len() >= 16, "{ages:?}");
    assert!(
        ages.iter().all(|age| (1000.0..1100.0).contains(age)),
        "{ages:?}"
    );
    let mut drawn: Vec<i64> = ages.iter().map(|age| (age * 1000.0) as i64).collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert!(drawn.len() > 12, "{ages:?}");
    assert_eq!(world.states(), [State::Ready; 4]);
    assert_eq!(world.slot(1).failures, 0);
}

#[test]
fn three_large_samples_in_a_row_are_too_much_memory_and_a_failure_unless_steady() {
    let policy = Policy {
        max_memory: Some(100),
        ..Policy::default()
    };
    let mut world = World::up(policy, |id, _| Behaviour {
        memory: if id.number == 1 { 101 } else { 100 },
        ..Behaviour::default()
    });
    let took = world.until(s(60), |world| world.slot(1).starts == 2);
    assert!(took > s(15) && took < s(16), "{took:?}");
    // It was steady after 10 s.
    assert_eq!(world.slot(1).failures, 0);
    world.run(s(1000));
    assert_eq!(world.slot(1).starts, 2);
    // Two are not enough.
    let id = InstanceId { slot: 1, number: 2 };
    for _ in 0..10 {
        world.bodies.get_mut(&id).expect("there").behaviour.memory = 101;
        world.run(s(10));
        world.bodies.get_mut(&id).expect("there").behaviour.memory = 100;
        world.run(s(5));
    }
    assert_eq!(world.slot(1).starts, 2);

    let mut policy = Policy {
        max_memory: Some(100),
        ..Policy::default()
    };
    policy.backoff.steady = s(60);
    let mut world = World::up(policy, |_, _| Behaviour {
        memory: 101,
        ..Behaviour::default()
    });
    world.run(s(50));
    assert_eq!(world.slot(1).failures, 3);
    assert_eq!(
        world.slot(1).last.map(|last| last.why),
        Some(Why::MaxMemory)
    );
}

#[test]
fn a_start_waits_for_the_services_before_it_and_tells_which() {
    let policy = Policy {
        after: vec!["db".to_owned(), "cache".to_owned()],
        ..Policy::default()
    };
    let mut world = World::new(policy, |id, _| match id.number {
        1 => Behaviour::exits(s(30), 1),
        _ => Behaviour::default(),
    });
    let ticket = world.intend(Intent::Up);
    let waiting = |world: &World| world.slot(1).waiting;
    let missing = |name: &str| (name.to_owned(), AfterState::Missing);
    assert_eq!(world.state(1), State::Waiting);
    assert_eq!(waiting(&world), [missing("db"), missing("cache")]);
    world.after("db", AfterState::Ready);
    world.after("cache", AfterState::Down);
    assert_eq!(waiting(&world), [("cache".to_owned(), AfterState::Down)]);
    world.run(s(1000));
    assert_eq!((world.state(1), world.spawns().len()), (State::Waiting, 0));
    world.after("cache", AfterState::Ready);
    world.run(s(2));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    // Looked at before a start only.
    world.after("db", AfterState::NotReady);
    world.run(s(20));
    assert_eq!(world.state(1), State::Ready);
    // And before each start.
    world.run(s(20));
    assert_eq!(world.state(1), State::Waiting);
    world.after("db", AfterState::Ready);
    world.run(s(2));
    assert_eq!(world.state(1), State::Ready);
}

#[test]
fn a_service_is_ready_for_others_when_all_its_slots_are_ready_or_finished() {
    let policy = Policy {
        instances: 2,
        restart: Restart::Failure,
        ..Policy::default()
    };
    let mut world = World::new(policy, |id, _| match id.slot {
        1 => Behaviour::exits(s(5), 0),
        _ => Behaviour::default(),
    });
    world.handle(Input::Tick);
    let standing = |world: &World| (world.machine.standing(), world.machine.is_over());
    assert_eq!(standing(&world), (AfterState::Down, true));
    world.intend(Intent::Up);
    world.run(ms(1500));
    assert_eq!(standing(&world), (AfterState::NotReady, false));
    world.run(s(1));
    assert_eq!(standing(&world), (AfterState::Ready, false));
    world.run(s(10));
    assert_eq!(world.states(), [State::Finished, State::Ready]);
    assert_eq!(standing(&world), (AfterState::Ready, false));
    world.intend(Intent::Down);
    assert_eq!(standing(&world), (AfterState::Down, false));
    world.run(s(1));
    assert_eq!(standing(&world), (AfterState::Down, true));
}

#[test]
fn an_aged_instance_that_ended_before_it_was_replaced_waits_like_any_other() {
    let mut policy = Policy {
        max_age: Some(s(100)),
        after: vec!["db".to_owned()],
        ..Policy::default()
    };
    policy.backoff.first = s(60);
    policy.backoff.steady = s(1000);
    let mut world = World::new(policy, |id, _| match id.number {
        1 => Behaviour::exits(s(5), 1),
        2 => Behaviour::exits(s(200), 1),
        _ => Behaviour::default(),
    });
    world.after("db", AfterState::Ready);
    world.intend(Intent::Up);
    world.run(s(10));
    // It cannot be replaced at its age.
    world.after("db", AfterState::Down);
    world.run(s(200));
    world.after("db", AfterState::Ready);
    assert_eq!(
        (world.state(1), world.slot(1).failures),
        (State::Backoff, 2)
    );
    world.run(s(40));
    assert_eq!(world.state(1), State::Backoff);
    world.run(s(90));
    assert_eq!((world.state(1), world.slot(1).starts), (State::Ready, 3));
}
