//! Replacements: one by one, with and without surge, halted and superseded.

use std::time::Duration;

use super::super::*;
use super::world::{Behaviour, World, ms, s};

fn policy(instances: u32, surge: bool) -> Policy {
    Policy {
        instances,
        surge,
        ..Policy::default()
    }
}

fn update(policy: &Policy) -> Intent {
    Intent::Update {
        policy: Box::new(policy.clone()),
        unchanged: Vec::new(),
    }
}

/// Programs of which those of one generation end at once.
fn broken(generation: Generation) -> impl FnMut(InstanceId, Generation) -> Behaviour {
    move |_, of| match of == generation {
        true => Behaviour::exits(ms(100), 1),
        false => Behaviour::default(),
    }
}

fn generations(world: &World) -> Vec<Generation> {
    world
        .machine
        .view()
        .slots
        .iter()
        .map(|slot| slot.generation)
        .collect()
}

/// The fewest ready slots from now until the roll is over.
fn fewest(world: &mut World, ticket: Ticket) -> u32 {
    let mut fewest = world.machine.view().ready;
    let end = world.now + s(600);
    while world.settled(ticket).is_none() && world.now < end {
        world.run(ms(50));
        fewest = fewest.min(world.machine.view().ready);
    }
    fewest
}

#[test]
fn the_first_start_is_parallel_slots_at_a_time() {
    for (parallel, seconds) in [(1, 6), (2, 3), (6, 1)] {
        let policy = Policy {
            parallel,
            ..policy(6, false)
        };
        let mut world = World::new(policy, |_, _| Behaviour::default());
        let ticket = world.intend(Intent::Up);
        assert_eq!(world.spawns().len(), parallel as usize);
        let took = world.until(s(60), |world| world.settled(ticket).is_some());
        assert!(
            took >= s(seconds) && took < s(seconds) + ms(100),
            "{parallel}: {took:?}"
        );
    }
}

#[test]
fn a_roll_replaces_parallel_slots_at_a_time() {
    for (surge, parallel, least) in [(false, 1, 3), (false, 2, 2), (true, 1, 4), (true, 3, 4)] {
        let policy = Policy {
            parallel,
            ..policy(4, surge)
        };
        for intent in [
            Intent::Restart {
                slot: None,
                now: false,
            },
            update(&policy),
        ] {
            let mut world = World::up(policy.clone(), |_, _| Behaviour::default());
            let ticket = world.intend(intent);
            assert_eq!(fewest(&mut world, ticket), least, "{surge} {parallel}");
            assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
            assert_eq!(world.spawns().len(), 8);
            assert_eq!(world.machine.view().rolling, None);
            assert_eq!(world.machine.view().previous, None);
            world.run(s(1));
            assert_eq!(world.running(), 4);
            let rolled = world.times(|it| matches!(it, Output::Event(Event::Rolled { .. })));
            assert_eq!(rolled.len(), 1);
        }
    }
}

#[test]
fn a_new_instance_under_surge_has_the_slot_and_the_old_one_stands_beside() {
    let mut world = World::up(policy(1, true), |_, _| Behaviour {
        term: Some(s(5)),
        ..Behaviour::default()
    });
    world.intend(update(&policy(1, true)));
    world.run(ms(500));
    let slot = world.slot(1);
    assert_eq!(
        (slot.state, slot.instance.map(|it| it.number)),
        (State::Starting, Some(2))
    );
    assert_eq!((slot.old.len(), slot.old[0].state), (1, State::Ready));
    assert_eq!((slot.generation, slot.old[0].generation), (2, 1));
    world.run(s(1));
    assert_eq!(
        (world.state(1), world.slot(1).old[0].state),
        (State::Ready, State::Stopping)
    );
    assert_eq!(world.machine.generations(), [1, 2]);
    world.run(s(5));
    assert!(world.slot(1).old.is_empty());
    assert_eq!(world.machine.generations(), [2]);
    assert_eq!(
        world
            .times(|it| matches!(it, Output::Forget { generation: 1 }))
            .len(),
        1
    );
}

#[test]
fn a_broken_new_version_halts_the_roll_and_the_old_ones_stay() {
    for surge in [true, false] {
        let mut world = World::up(policy(3, surge), broken(2));
        let ticket = world.intend(update(&policy(3, surge)));
        world.run(s(5));
        let Some(Outcome::Failed(failure)) = world.settled(ticket) else {
            panic!("{:#?}", world.machine.view());
        };
        assert_eq!(failure.to_string(), "slot 1: exit status 1");
        assert_eq!(world.states(), [State::Ready; 3]);
        assert_eq!(generations(&world), [1, 1, 1]);
        let view = world.machine.view();
        assert_eq!((view.generation, view.previous), (2, Some(1)));
        assert_eq!(view.rolling, Some(Rolling::Halted(failure.clone())));
        let spawns = if surge { 4 } else { 5 };
        assert_eq!(world.spawns().len(), spawns);
        // It does not complete itself at night, also not by restarts.
        for body in world.bodies.values_mut() {
            body.behaviour.kill = Some(ms(1));
        }
        for number in 1..=3 {
            let id = world.slot(number).instance.expect("there");
            world.bodies.get_mut(&id).expect("there").main = false;
            world.handle(Input::MainExited {
                instance: id,
                end: End::Code(1),
            });
        }
        world.run(s(100_000));
        assert_eq!(
            (world.states(), generations(&world)),
            (vec![State::Ready; 3], vec![1, 1, 1])
        );
        assert!(matches!(
            world.machine.view().rolling,
            Some(Rolling::Halted(_))
        ));
    }
}

#[test]
fn a_roll_that_is_halted_is_superseded_by_update_restart_and_down() {
    for surge in [true, false] {
        let halted = || {
            let mut world = World::up(policy(3, surge), broken(2));
            world.intend(update(&policy(3, surge)));
            world.run(s(5));
            assert!(matches!(
                world.machine.view().rolling,
                Some(Rolling::Halted(_))
            ));
            world
        };
        // A third version.
        let mut world = halted();
        let ticket = world.intend(update(&policy(3, surge)));
        world.until(s(60), |world| world.settled(ticket).is_some());
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
        assert_eq!(
            (generations(&world), world.machine.view().previous),
            (vec![3, 3, 3], None)
        );
        // The first version again: nothing differs, nothing is rolled.
        let mut world = halted();
        world.run(s(1));
        world.forget_log();
        let ticket = world.intend(Intent::Update {
            policy: Box::new(policy(3, surge)),
            unchanged: vec![1],
        });
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
        assert!(world.spawns().is_empty());
        assert_eq!(world.machine.view().rolling, None);
        assert_eq!(
            (generations(&world), world.machine.generations()),
            (vec![3, 3, 3], vec![3])
        );
        // A restart tries the newest again, and halts again.
        let mut world = halted();
        let ticket = world.intend(Intent::Restart {
            slot: None,
            now: false,
        });
        world.run(s(5));
        assert!(matches!(world.settled(ticket), Some(Outcome::Failed(_))));
        assert_eq!(
            (generations(&world), world.states()),
            (vec![1, 1, 1], vec![State::Ready; 3])
        );
        // Down, and up with the newest.
        let mut world = halted();
        world.intend(Intent::Down);
        world.run(s(5));
        assert_eq!(
            (world.machine.view().rolling, world.machine.view().previous),
            (None, None)
        );
        assert_eq!(world.states(), [State::Down; 3]);
        world.intend(Intent::Up);
        world.run(ms(10));
        assert_eq!(world.slot(1).generation, 2);
    }
}

#[test]
fn one_slot_of_a_halted_roll_is_restarted_with_what_it_last_ran_ready() {
    let mut world = World::up(policy(3, false), broken(2));
    world.intend(update(&policy(3, false)));
    world.run(s(5));
    let ticket = world.intend(Intent::Restart {
        slot: Some(2),
        now: false,
    });
    world.run(s(5));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(generations(&world), [1, 1, 1]);
    assert!(matches!(
        world.machine.view().rolling,
        Some(Rolling::Halted(_))
    ));
}

#[test]
fn a_slot_restarts_during_a_roll_with_what_it_last_ran_ready() {
    // The new version needs 30 s to be ready; meanwhile the third slot's old one ends.
    let slow = Policy {
        ready: Ready::Up(s(30)),
        ..policy(3, false)
    };
    let mut world = World::up(policy(3, false), |id, generation| {
        match (id.slot, generation) {
            (3, 1) if id.number == 1 => Behaviour::exits(s(20), 1),
            _ => Behaviour::default(),
        }
    });
    let ticket = world.intend(update(&slow));
    world.until(s(20), |world| world.slot(3).starts == 2);
    assert_eq!(world.slot(3).generation, 1);
    world.until(s(200), |world| world.settled(ticket).is_some());
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(generations(&world), [2, 2, 2]);
}

#[test]
fn down_ends_a_rolling_restart_at_once() {
    let mut world = World::up(policy(3, true), |_, _| Behaviour::default());
    let restart = world.intend(Intent::Restart {
        slot: None,
        now: false,
    });
    world.run(ms(1500));
    let down = world.intend(Intent::Down);
    let by = Outcome::Superseded {
        by: down,
        verb: Verb::Down,
    };
    assert_eq!(world.settled(restart), Some(&by));
    world.run(s(1));
    assert_eq!(world.settled(down), Some(&Outcome::Reached));
    assert_eq!((world.states(), world.running()), (vec![State::Down; 3], 0));
}

#[test]
fn an_update_during_a_roll_takes_over_and_a_third_old_one_waits() {
    let slow = Policy {
        ready: Ready::Up(s(30)),
        ..policy(1, true)
    };
    let mut world = World::up(policy(1, true), |_, _| Behaviour {
        term: Some(s(8)),
        ..Behaviour::default()
    });
    let mut tickets = Vec::new();
    for _ in 0..4 {
        tickets.push(world.intend(update(&slow)));
        world.run(s(1));
        let slot = world.slot(1);
        assert!(slot.old.len() <= 2);
        // The first one serves all the time.
        assert_eq!(world.machine.view().ready, 1);
    }
    for (one, next) in tickets.iter().zip(&tickets[1..]) {
        let by = Outcome::Superseded {
            by: *next,
            verb: Verb::Update,
        };
        assert_eq!(world.settled(*one), Some(&by));
    }
    let last = tickets[3];
    world.until(s(100), |world| world.settled(last).is_some());
    assert_eq!(world.settled(last), Some(&Outcome::Reached));
    world.run(s(20));
    assert_eq!((world.slot(1).generation, world.running()), (5, 1));
}

#[test]
fn a_halt_calls_off_what_is_under_way_in_other_slots() {
    let fails = |id: InstanceId, generation| match (id.slot, generation) {
        (2, 2) => Behaviour::exits(ms(100), 1),
        _ => Behaviour::default(),
    };
    let two = Policy {
        parallel: 2,
        ..policy(4, true)
    };
    let mut world = World::up(two.clone(), fails);
    let ticket = world.intend(update(&two));
    world.run(s(10));
    let Some(Outcome::Failed(failure)) = world.settled(ticket) else {
        panic!("{:#?}", world.machine.view());
    };
    assert_eq!(failure.slot, 2);
    assert_eq!(generations(&world), [1, 1, 1, 1]);
    assert_eq!(
        (world.states(), world.running()),
        (vec![State::Ready; 4], 4)
    );
}

#[test]
fn an_update_in_place_touches_no_process() {
    let mut world = World::up(policy(3, false), |_, _| Behaviour::default());
    world.forget_log();
    let mut changed = policy(3, false);
    changed.stop.seconds = s(1);
    let ticket = world.intend(Intent::Update {
        policy: Box::new(changed),
        unchanged: vec![1],
    });
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    world.run(s(100));
    assert!(world.spawns().is_empty());
    assert_eq!(
        (generations(&world), world.machine.generations()),
        (vec![2, 2, 2], vec![2])
    );
    // And the new policy counts.
    for body in world.bodies.values_mut() {
        body.behaviour.term = None;
    }
    let down = world.intend(Intent::Down);
    let took = world.until(s(60), |world| world.settled(down).is_some());
    assert!(took < s(2), "{took:?}");
}

#[test]
fn a_roll_waits_for_other_services_before_it_stops_anything() {
    let needs = Policy {
        after: vec!["db".to_owned()],
        ..policy(2, false)
    };
    let mut world = World::up(policy(2, false), |_, _| Behaviour::default());
    let ticket = world.intend(update(&needs));
    world.run(s(100));
    assert_eq!(world.states(), [State::Ready; 2]);
    world.after("db", AfterState::Ready);
    world.run(s(10));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
}

#[test]
fn restart_now_stops_all_and_starts_all() {
    let mut world = World::up(policy(5, true), |_, _| Behaviour::default());
    let ticket = world.intend(Intent::Restart {
        slot: None,
        now: true,
    });
    assert_eq!(world.states(), [State::Stopping; 5]);
    let took = world.until(s(10), |world| world.settled(ticket).is_some());
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert!(took < s(2), "{took:?}");
    assert_eq!(world.spawns().len(), 10);
}

#[test]
fn a_restart_of_what_did_its_work_runs_it_again_and_an_update_does_not() {
    let job = Policy {
        restart: Restart::Failure,
        ..policy(1, false)
    };
    let mut world = World::new(job.clone(), |_, _| Behaviour::exits(s(2), 0));
    world.intend(Intent::Up);
    world.run(s(10));
    assert_eq!((world.state(1), world.spawns().len()), (State::Finished, 1));
    for intent in [Intent::Up, update(&job)] {
        let ticket = world.intend(intent);
        world.run(s(10));
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
        assert_eq!((world.state(1), world.spawns().len()), (State::Finished, 1));
    }
    let ticket = world.intend(Intent::Restart {
        slot: None,
        now: false,
    });
    world.run(s(10));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!((world.state(1), world.spawns().len()), (State::Finished, 2));
    assert_eq!(world.slot(1).generation, 2);
}

#[test]
fn a_first_start_that_failed_is_mended_by_an_update() {
    let mut world = World::new(policy(2, false), broken(1));
    world.intend(Intent::Up);
    world.run(s(30));
    let ticket = world.intend(update(&policy(2, false)));
    world.run(s(5));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(
        (world.states(), generations(&world)),
        (vec![State::Ready; 2], vec![2, 2])
    );
}

#[test]
fn an_aged_instance_whose_successor_fails_goes_on_and_is_tried_again_later_and_later() {
    let aged = Policy {
        max_age: Some(s(100)),
        ..policy(1, true)
    };
    let mut world = World::up(aged, |id, _| match id.number {
        1 | 6.. => Behaviour::default(),
        _ => Behaviour::exits(ms(100), 1),
    });
    world.until(s(600), |world| world.slot(1).starts == 6);
    let spawns = world.spawns();
    let gaps: Vec<Duration> = spawns[1..].windows(2).map(|it| it[1] - it[0]).collect();
    assert!(
        gaps.windows(2).skip(1).all(|gap| gap[1] > gap[0]),
        "{gaps:?}"
    );
    assert_eq!(world.slot(1).old[0].state, State::Ready);
    world.run(s(15));
    assert_eq!(
        (world.state(1), world.running(), world.slot(1).failures),
        (State::Ready, 1, 0)
    );
}

#[test]
fn a_predecessor_that_cannot_be_stopped_halts_a_roll_only_without_surge() {
    for surge in [true, false] {
        let mut world = World::up(policy(2, surge), |_, generation| Behaviour {
            kill: (generation > 1).then_some(ms(10)),
            term: (generation > 1).then_some(ms(10)),
            ..Behaviour::default()
        });
        let ticket = world.intend(update(&policy(2, surge)));
        world.run(s(60));
        match world.settled(ticket) {
            Some(Outcome::Reached) if surge => {}
            Some(Outcome::Failed(failure)) if !surge => {
                assert_eq!(failure.what, Failed::Stuck);
                assert_eq!(world.states(), [State::Stuck, State::Ready]);
            }
            other => panic!("{surge} {other:?}"),
        }
    }
}

#[test]
fn a_person_does_not_wait_for_the_start_of_a_version_that_hangs() {
    for surge in [true, false] {
        let hangs = Policy {
            ready: Ready::Notify { deadline: s(600) },
            ..policy(2, surge)
        };
        let never = |_, generation| Behaviour {
            ready: (generation != 2).then_some(ms(500)),
            ..Behaviour::default()
        };
        let good = Policy {
            ready: Ready::Up(s(1)),
            ..policy(2, surge)
        };
        // The next version.
        let mut world = World::up(good.clone(), never);
        world.intend(update(&hangs));
        world.run(s(30));
        let ticket = world.intend(update(&good));
        let took = world.until(s(600), |world| world.settled(ticket).is_some());
        assert!(took < s(10), "{took:?}");
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
        assert_eq!(generations(&world), [3, 3]);
        // One slot, anew.
        let mut world = World::new(hangs, |id, _| Behaviour {
            ready: (id.number > 1).then_some(ms(500)),
            ..Behaviour::default()
        });
        world.intend(Intent::Up);
        world.run(s(30));
        let ticket = world.intend(Intent::Restart {
            slot: Some(1),
            now: false,
        });
        world.run(s(2));
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    }
}

#[test]
fn an_aged_instance_during_a_halted_roll_is_replaced_by_what_it_last_ran_ready() {
    for surge in [true, false] {
        let aged = Policy {
            max_age: Some(s(100)),
            ..policy(2, surge)
        };
        let mut world = World::up(aged.clone(), broken(2));
        world.intend(update(&aged));
        world.run(s(500));
        assert_eq!(generations(&world), [1, 1]);
        assert!(world.slot(2).starts >= 4);
        assert!(matches!(
            world.machine.view().rolling,
            Some(Rolling::Halted(_))
        ));
    }
}

#[test]
fn after_down_a_slot_is_filled_once_all_that_served_in_it_is_gone() {
    let mut world = World::up(policy(1, true), |id, _| Behaviour {
        term: Some(if id.number == 1 { s(8) } else { ms(10) }),
        ..Behaviour::default()
    });
    world.intend(Intent::Restart {
        slot: None,
        now: false,
    });
    world.run(ms(500));
    assert_eq!(world.slot(1).old.len(), 1);
    world.intend(Intent::Down);
    let ticket = world.intend(Intent::Up);
    world.run(s(7));
    assert_eq!((world.spawns().len(), world.state(1)), (2, State::Stopping));
    world.run(s(3));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(world.spawns().len(), 3);
}

#[test]
fn up_does_not_take_the_place_of_a_replacement_that_waits() {
    let needs = Policy {
        after: vec!["db".to_owned()],
        ..policy(2, false)
    };
    let mut world = World::new(needs, |_, _| Behaviour::default());
    world.after("db", AfterState::Ready);
    world.intend(Intent::Up);
    world.run(s(5));
    let restart = world.intend(Intent::Restart {
        slot: None,
        now: false,
    });
    world.after("db", AfterState::Down);
    world.run(s(1));
    assert_eq!(world.states(), [State::Waiting, State::Ready]);
    let up = world.intend(Intent::Up);
    world.run(s(1));
    world.after("db", AfterState::Ready);
    world.run(s(5));
    for ticket in [restart, up] {
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    }
}

#[test]
fn one_slot_that_was_to_be_restarted_within_a_roll_is_restarted_after_its_halt() {
    for surge in [true, false] {
        let mut world = World::up(policy(3, surge), broken(2));
        world.intend(update(&policy(3, surge)));
        let ticket = world.intend(Intent::Restart {
            slot: Some(3),
            now: false,
        });
        world.run(s(10));
        assert!(matches!(
            world.machine.view().rolling,
            Some(Rolling::Halted(_))
        ));
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
        assert_eq!(generations(&world), [1, 1, 1]);
        assert_eq!(world.slot(3).starts, 2);
    }
}

#[test]
fn a_new_instance_that_fits_the_next_definition_too_goes_on() {
    for surge in [true, false] {
        let slow = Policy {
            ready: Ready::Up(s(30)),
            ..policy(1, surge)
        };
        let mut world = World::up(policy(1, surge), |_, _| Behaviour::default());
        world.intend(update(&slow));
        world.run(s(10));
        let ticket = world.intend(Intent::Update {
            policy: Box::new(slow),
            unchanged: vec![2],
        });
        let took = world.until(s(60), |world| world.settled(ticket).is_some());
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
        assert!(took < s(21), "{took:?}");
        assert_eq!((world.spawns().len(), generations(&world)), (2, vec![3]));
    }
}

#[test]
fn a_new_slot_beside_a_halted_roll_runs_what_the_others_run() {
    let mut world = World::up(policy(2, false), broken(2));
    world.intend(update(&policy(2, false)));
    world.run(s(10));
    let ticket = world.intend(Intent::Scale(3));
    world.run(s(5));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(generations(&world), [1, 1, 1]);
}
