//! What outlives the server: a machine that is made of what the one before kept.

use std::collections::BTreeMap;

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

fn adopt(world: &mut World) {
    let found = world.found();
    world.next_life(found);
    world.forget_log();
    world.handle(Input::Tick);
}

#[test]
fn what_runs_is_adopted_and_nothing_is_started_beside_it() {
    let mut world = World::up(policy(3, false), |_, _| Behaviour::default());
    world.run(s(100));
    adopt(&mut world);
    assert_eq!(world.states(), [State::Ready; 3]);
    world.run(s(100));
    assert!(world.spawns().is_empty());
    let adopted = world.times(|it| matches!(it, Output::Event(Event::Adopted { .. })));
    assert_eq!(adopted.len(), 3);
    assert!(world.slot(1).adopted);
    // It is one like any other.
    let down = world.intend(Intent::Down);
    world.run(s(1));
    assert_eq!(world.settled(down), Some(&Outcome::Reached));
}

#[test]
fn what_ended_meanwhile_is_followed_by_what_its_policy_says() {
    let mut finishes = policy(1, false);
    finishes.unknown_finishes = true;
    let never = Policy {
        restart: Restart::Never,
        ..policy(1, false)
    };
    for (policy, state, spawns) in [
        (policy(1, false), State::Ready, 1),
        (finishes, State::Finished, 0),
        (never, State::Finished, 0),
    ] {
        let mut world = World::up(policy, |_, _| Behaviour::default());
        world.next_life(BTreeMap::new());
        world.forget_log();
        world.handle(Input::Tick);
        world.run(s(5));
        assert_eq!((world.state(1), world.spawns().len()), (state, spawns));
    }
}

#[test]
fn left_overs_of_an_instance_are_emptied_before_its_slot_is_filled() {
    let mut world = World::up(policy(1, false), |id, _| match id.number {
        1 => Behaviour {
            rest: Some(Some(s(3))),
            ..Behaviour::default()
        },
        _ => Behaviour::default(),
    });
    let id = InstanceId { slot: 1, number: 1 };
    let body = world.bodies.get_mut(&id).expect("there");
    (body.main, body.rest) = (false, true);
    adopt(&mut world);
    assert_eq!(world.state(1), State::Stopping);
    world.run(s(2));
    assert!(world.spawns().is_empty());
    world.run(s(3));
    assert_eq!((world.state(1), world.spawns().len()), (State::Ready, 1));
}

#[test]
fn failures_back_off_failed_and_finished_are_kept() {
    let mut world = World::new(policy(1, false), |_, _| Behaviour::exits(ms(10), 1));
    world.intend(Intent::Up);
    world.until(s(100), |world| world.slot(1).failures == 5);
    let next = world.slot(1).next;
    adopt(&mut world);
    let slot = world.slot(1);
    assert_eq!(
        (slot.state, slot.failures, slot.next),
        (State::Backoff, 5, next)
    );
    world.until(s(100), |world| world.slot(1).failures == 6);
    assert_eq!(world.spawns(), [next.expect("in back-off")]);

    for (code, state) in [(9, State::Failed), (0, State::Finished)] {
        let codes = Policy {
            restart: Restart::Failure,
            fatal_codes: vec![9],
            ..policy(1, false)
        };
        let mut world = World::new(codes, move |_, _| Behaviour::exits(s(2), code));
        world.intend(Intent::Up);
        world.run(s(5));
        adopt(&mut world);
        world.run(s(1000));
        assert_eq!((world.state(1), world.spawns().len()), (state, 0));
    }
}

#[test]
fn a_stop_goes_on_with_its_own_time_and_without_a_second_signal() {
    let mut world = World::up(policy(1, false), |_, _| Behaviour {
        term: None,
        ..Behaviour::default()
    });
    world.intend(Intent::Down);
    let from = world.now;
    world.run(s(4));
    adopt(&mut world);
    assert_eq!(world.state(1), State::Stopping);
    world.until(s(20), |world| world.state(1) == State::Down);
    assert!(world.now - from < s(10) + ms(100));
    assert!(
        world
            .times(|it| matches!(it, Output::Signal { .. }))
            .is_empty()
    );
}

#[test]
fn an_unfinished_roll_goes_on_and_a_halted_one_stays_halted() {
    for surge in [true, false] {
        for step in 0..12 {
            let mut world = World::up(policy(3, surge), |_, _| Behaviour::default());
            world.intend(update(&policy(3, surge)));
            world.run(ms(300 * step));
            adopt(&mut world);
            world.run(s(10));
            let view = world.machine.view();
            assert_eq!(world.states(), [State::Ready; 3], "{surge} {step}");
            let generations: Vec<_> = view.slots.iter().map(|slot| slot.generation).collect();
            assert_eq!(
                (generations, view.rolling),
                (vec![2; 3], None),
                "{surge} {step}"
            );
            assert_eq!(world.running(), 3);
        }
        let mut world = World::up(policy(3, surge), |_, generation| match generation {
            2 => Behaviour::exits(ms(100), 1),
            _ => Behaviour::default(),
        });
        world.intend(update(&policy(3, surge)));
        world.run(s(5));
        let before = world.machine.view();
        adopt(&mut world);
        world.run(s(1000));
        let after = world.machine.view();
        assert_eq!((after.rolling, after.previous), (before.rolling, Some(1)));
        assert!(world.spawns().is_empty());
        assert_eq!(world.slot(1).generation, 1);
    }
}

#[test]
fn what_may_be_alive_elsewhere_makes_the_slot_stuck_and_is_never_doubled() {
    let mut world = World::up(policy(1, false), |_, _| Behaviour::default());
    let id = InstanceId { slot: 1, number: 1 };
    world.next_life(BTreeMap::from([(id, Found::Foreign)]));
    world.forget_log();
    world.handle(Input::Tick);
    world.run(s(100));
    assert_eq!(world.state(1), State::Stuck);
    assert!(
        world
            .times(|it| {
                matches!(
                    it,
                    Output::KillTree { .. } | Output::Signal { .. } | Output::Spawn { .. }
                )
            })
            .is_empty()
    );
    // Once it is known to be gone, the slot is filled.
    world.bodies.clear();
    world.handle(Input::TreeEmpty { instance: id });
    world.run(s(2));
    assert_eq!(world.state(1), State::Ready);
}

#[test]
fn a_person_says_of_one_slot_that_what_may_be_alive_elsewhere_is_gone() {
    for want in [Intent::Up, Intent::Down, Intent::Scrub] {
        let mut world = World::up(policy(2, false), |_, _| Behaviour::default());
        let id = |slot| InstanceId { slot, number: 1 };
        let foreign = [1, 2].map(|slot| (id(slot), Found::Foreign));
        world.next_life(BTreeMap::from(foreign));
        world.handle(Input::Tick);
        world.intend(want.clone());
        // All at once are not taken to be gone.
        if want == Intent::Up {
            let now = true;
            world.intend(Intent::Restart { slot: None, now });
            world.run(s(2));
        }
        assert_eq!(world.states(), [State::Stuck; 2]);
        world.bodies.remove(&id(1));
        let release = Intent::Restart {
            slot: Some(1),
            now: true,
        };
        let ticket = world.intend(release);
        world.run(s(3));
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached), "{want:?}");
        let expected = match want {
            Intent::Up => Some(State::Ready),
            Intent::Down => Some(State::Down),
            _ => None,
        };
        assert_eq!(world.machine.state(1), expected);
        assert_eq!(world.machine.state(2), Some(State::Stuck));
    }
}

#[test]
fn an_adopted_instance_that_was_starting_is_ready_once_it_is_seen_to_be() {
    let seconds = s(60);
    let probe = Ready::Probe {
        every: s(1),
        timeout: s(1),
        deadline: seconds,
    };
    for (ready, most) in [
        (Ready::Notify { deadline: seconds }, ms(1010)),
        (probe, ms(100)),
        (Ready::Up(s(4)), ms(3510)),
    ] {
        let starting = Policy {
            ready,
            ..policy(1, false)
        };
        let mut world = World::new(starting, |_, _| Behaviour {
            ready: Some(ms(500)),
            ..Behaviour::default()
        });
        world.intend(Intent::Up);
        world.run(ms(495));
        assert_eq!(world.state(1), State::Starting);
        // It says that it is ready while no server listens.
        world.now += ms(5);
        let pause = world.found();
        world.next_life(pause);
        world.forget_log();
        world.handle(Input::Tick);
        let took = world.until(s(10), |world| world.state(1) == State::Ready);
        assert!(took <= most, "{ready:?}: {took:?}");
    }
}

#[test]
fn a_watchdog_counts_from_its_first_message_in_a_life() {
    let alive = Alive {
        watchdog: true,
        every: s(10),
        timeout: s(5),
        fails: 1,
    };
    let policy = Policy {
        alive: Some(alive),
        ..policy(1, false)
    };
    let mut world = World::up(policy, |_, _| Behaviour::default());
    adopt(&mut world);
    world.run(s(1000));
    assert_eq!((world.state(1), world.spawns().len()), (State::Ready, 0));
    let instance = InstanceId { slot: 1, number: 1 };
    world.handle(Input::Watchdog { instance });
    world.run(s(11));
    assert!(
        world
            .slot(1)
            .last
            .is_some_and(|last| last.why == Why::Alive)
    );
}

#[test]
fn after_a_reboot_all_is_started_anew_but_what_is_finished_or_failed() {
    let mut world = World::new(policy(1, false), |_, _| Behaviour::exits(ms(10), 1));
    world.intend(Intent::Up);
    world.until(s(100), |world| world.slot(1).failures == 5);
    let record = world.machine.slot_record(1).expect("kept").after_reboot();
    assert_eq!((record.rest, record.failures), (RestRecord::Free, 0));
    let mut world = World::up(policy(1, false), |_, _| Behaviour::default());
    let slots = vec![world.machine.slot_record(1).expect("kept").after_reboot()];
    let service = world.machine.service_record();
    let policies = BTreeMap::from([(1, policy(1, false))]);
    // Boot time begins anew.
    let machine = Machine::resume(service, slots, policies, &BTreeMap::new(), 3, s(10));
    world = World::of(machine, policy(1, false), |_, _| Behaviour::default());
    world.handle(Input::Tick);
    world.run(s(5));
    assert_eq!(world.state(1), State::Ready);
}

#[test]
fn an_instance_whose_record_was_not_written_is_adopted_all_the_same() {
    // The server was killed after the spawn and before it kept anything of it.
    for slots_kept in [true, false] {
        let mut world = World::new(policy(1, false), |_, _| Behaviour::default());
        world.intend(Intent::Up);
        world.run(ms(5));
        let service = world.machine.service_record();
        let mut slot = world.machine.slot_record(1).expect("kept");
        slot.instances.clear();
        slot.next = 1;
        let slots = if slots_kept { vec![slot] } else { Vec::new() };
        let policies = BTreeMap::from([(1, policy(1, false))]);
        let found = world.found();
        world.machine = Machine::resume(service, slots, policies, &found, 2, world.now);
        world.forget_log();
        world.handle(Input::Tick);
        world.run(s(5));
        assert_eq!(world.state(1), State::Ready);
        assert!(world.spawns().is_empty());
        world.intend(Intent::Restart {
            slot: None,
            now: false,
        });
        world.run(s(5));
        assert_eq!(world.slot(1).instance.map(|it| it.number), Some(2));
    }
}

#[test]
fn a_new_slot_takes_no_number_that_one_before_it_had() {
    let mut world = World::up(policy(2, false), |_, _| Behaviour::default());
    for _ in 0..3 {
        world.intend(Intent::Scale(1));
        world.run(s(2));
        adopt(&mut world);
        // The world counts the numbers.
        world.intend(Intent::Scale(2));
        world.run(s(2));
    }
    assert_eq!(world.states(), [State::Ready; 2]);
}

#[test]
fn an_adopted_instance_is_asked_once_more_before_its_deadline_counts() {
    let probed = Policy {
        ready: Ready::Probe {
            every: s(1),
            timeout: s(1),
            deadline: s(60),
        },
        ..policy(1, false)
    };
    let mut world = World::new(probed, |_, _| Behaviour {
        ready: Some(s(30)),
        ..Behaviour::default()
    });
    world.intend(Intent::Up);
    world.run(s(20));
    world.now += s(50);
    adopt(&mut world);
    world.run(s(1));
    assert_eq!((world.state(1), world.slot(1).failures), (State::Ready, 0));
}
