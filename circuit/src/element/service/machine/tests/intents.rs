//! Intents: what is refused, what overtakes what, and what is answered.

use super::super::*;
use super::world::{Behaviour, World, ms, s};

fn policy(instances: u32) -> Policy {
    Policy {
        instances,
        parallel: 8,
        reload: Some(Reload::Command),
        ..Policy::default()
    }
}

fn all(now: bool) -> Intent {
    Intent::Restart { slot: None, now }
}

fn one(slot: u32) -> Intent {
    let slot = Some(slot);
    Intent::Restart { slot, now: false }
}

fn update() -> Intent {
    Intent::Update {
        policy: Box::new(policy(3)),
        unchanged: Vec::new(),
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut world = World::new(Policy::default(), |_, _| Behaviour::default());
    assert_eq!(world.refuse(all(false)), Refused::Down);
    assert_eq!(world.refuse(Intent::Reload), Refused::NoReload);
    world.intend(Intent::Up);
    world.run(s(2));
    assert_eq!(world.refuse(one(2)), Refused::NoSlot);
    assert_eq!(world.refuse(one(0)), Refused::NoSlot);
    assert_eq!(world.refuse(Intent::Reload), Refused::NoReload);
    assert_eq!(world.state(1), State::Ready);
    world.intend(Intent::Scrub);
    assert_eq!(world.refuse(Intent::Up), Refused::Scrubbed);
    let mut world = World::new(policy(1), |_, _| Behaviour::default());
    assert_eq!(world.refuse(Intent::Reload), Refused::Down);
}

#[test]
fn the_newest_intent_overtakes_those_that_it_contradicts_and_no_others() {
    // Each first intent takes long: its instances are not ready for 30 s, or stop for as long.
    let superseded = |first: Intent, second: Intent, up: bool| {
        let slow = Policy {
            ready: Ready::Up(s(30)),
            ..policy(3)
        };
        let behave = |_, _| Behaviour {
            term: Some(s(5)),
            reload: (s(20), true),
            ..Behaviour::default()
        };
        let mut world = match up {
            true => World::up(slow, behave),
            false => World::new(slow, behave),
        };
        let first = world.intend(first);
        world.run(s(1));
        assert_eq!(world.settled(first), None);
        let verb = second.verb();
        let by = world.intend(second);
        match world.settled(first) {
            None => false,
            Some(outcome) => {
                assert_eq!(*outcome, Outcome::Superseded { by, verb });
                true
            }
        }
    };
    use Intent::{Down, Reload, Scale, Scrub, Up};
    for (first, second, up, expected) in [
        (Up, Down, false, true),
        (Up, Up, false, false),
        (Up, Scale(2), false, false),
        (Up, update(), false, false),
        (Up, Scrub, false, true),
        (Down, Up, true, true),
        (Down, Down, true, false),
        (Down, Scrub, true, true),
        (Down, Scale(2), true, false),
        (all(false), Down, true, true),
        (all(false), all(false), true, true),
        (all(false), update(), true, true),
        (all(false), one(2), true, false),
        (all(false), Up, true, false),
        (all(false), Scale(4), true, false),
        (all(false), Reload, true, false),
        (all(true), Down, true, true),
        (one(2), one(2), true, true),
        (one(2), one(1), true, false),
        (one(2), all(false), true, true),
        (one(2), Scale(1), true, true),
        (update(), update(), true, true),
        (update(), all(true), true, true),
        (update(), Down, true, true),
        (update(), Scale(4), true, false),
        (Scale(5), Scale(4), true, true),
        (Scale(5), Down, true, true),
        (Reload, Reload, true, true),
        (Reload, Down, true, true),
    ] {
        let text = format!("{first:?}, {second:?}");
        assert_eq!(superseded(first, second, up), expected, "{text}");
    }
}

#[test]
fn up_clears_back_off_and_failed_and_starts_at_once() {
    let mut world = World::new(policy(2), |id, _| match (id.slot, id.number) {
        (1, 1..=6) => Behaviour::exits(ms(10), 1),
        _ => Behaviour::default(),
    });
    world.intend(Intent::Up);
    world.until(s(100), |world| world.slot(1).starts == 6);
    world.run(s(1));
    assert_eq!(world.states(), [State::Backoff, State::Ready]);
    let ticket = world.intend(Intent::Up);
    world.run(ms(1500));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(
        (world.states(), world.slot(1).failures),
        (vec![State::Ready; 2], 0)
    );
    assert_eq!(world.slot(2).starts, 1);
}

#[test]
fn down_then_up_while_stopping_starts_once_all_is_gone() {
    let mut world = World::up(policy(2), |_, _| Behaviour {
        term: Some(s(3)),
        ..Behaviour::default()
    });
    world.intend(Intent::Down);
    world.run(s(1));
    let ticket = world.intend(Intent::Up);
    assert_eq!(world.states(), [State::Stopping; 2]);
    world.run(s(4));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(world.spawns().len(), 4);
}

#[test]
fn an_intent_with_nothing_to_do_is_reached_at_once() {
    let mut world = World::new(policy(2), |_, _| Behaviour::default());
    for intent in [Intent::Down, Intent::Scale(3), update()] {
        let ticket = world.intend(intent);
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    }
    assert_eq!(world.states(), [State::Down; 3]);
    let mut world = World::up(policy(2), |_, _| Behaviour::default());
    for intent in [Intent::Up, Intent::Scale(2)] {
        let ticket = world.intend(intent);
        assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    }
}

#[test]
fn scale_takes_the_highest_slots_and_makes_new_ones() {
    let mut world = World::up(policy(4), |_, _| Behaviour::default());
    let down = world.intend(Intent::Scale(2));
    assert_eq!(
        world.states(),
        [State::Ready, State::Ready, State::Stopping, State::Stopping]
    );
    assert_eq!(world.slot(4).why, Some(Why::Scale));
    world.run(s(1));
    assert_eq!(world.settled(down), Some(&Outcome::Reached));
    assert_eq!(world.states(), [State::Ready; 2]);
    assert_eq!(
        world
            .times(|it| matches!(it, Output::SlotGone { .. }))
            .len(),
        2
    );
    let up = world.intend(Intent::Scale(5));
    assert_eq!(world.states()[2..], [State::Starting; 3]);
    world.run(s(2));
    assert_eq!(world.settled(up), Some(&Outcome::Reached));
    assert_eq!(world.states(), [State::Ready; 5]);
    assert_eq!(world.machine.service_record().instances, 5);
    // To none, and from none.
    world.intend(Intent::Scale(0));
    world.run(s(1));
    assert!(world.states().is_empty());
    let up = world.intend(Intent::Scale(1));
    world.run(s(2));
    assert_eq!(world.settled(up), Some(&Outcome::Reached));
}

#[test]
fn a_slot_that_was_scaled_away_and_is_wanted_again_starts_once_it_is_empty() {
    let mut world = World::up(policy(2), |_, _| Behaviour {
        term: Some(s(3)),
        ..Behaviour::default()
    });
    world.intend(Intent::Scale(1));
    world.run(s(1));
    let ticket = world.intend(Intent::Scale(2));
    world.run(s(4));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(world.states(), [State::Ready; 2]);
}

#[test]
fn reload_tells_each_ready_instance_and_answers_when_its_commands_have_ended() {
    let mut world = World::up(policy(3), |id, _| Behaviour {
        reload: (ms(500), id.slot != 2),
        ..Behaviour::default()
    });
    let ticket = world.intend(Intent::Reload);
    world.run(s(1));
    let Some(Outcome::Failed(failure)) = world.settled(ticket) else {
        panic!("{:?}", world.settled(ticket));
    };
    assert_eq!(failure.to_string(), "slot 2: the reload command failed");
    assert_eq!(world.states(), [State::Ready; 3]);
    // A second one while the first runs: each command runs once more.
    for body in world.bodies.values_mut() {
        body.behaviour.reload = (ms(500), true);
    }
    world.forget_log();
    world.intend(Intent::Reload);
    world.run(ms(100));
    let second = world.intend(Intent::Reload);
    let took = world.until(s(5), |world| world.settled(second).is_some());
    assert_eq!(took, ms(900));
    assert_eq!(world.times(|it| matches!(it, Output::Run { .. })).len(), 6);
}

#[test]
fn equal_intents_that_wait_for_the_same_share_one_place() {
    let mut world = World::up(policy(2), |_, _| Behaviour {
        term: Some(s(60)),
        ..Behaviour::default()
    });
    for intent in [Intent::Down, Intent::Up] {
        let first = world.intend(intent.clone());
        for _ in 0..100 {
            world.run(ms(1));
            assert_eq!(world.intend(intent.clone()), first);
        }
        assert_eq!(world.machine.pursuits.len(), 1);
    }
    let up = world.intend(Intent::Up);
    world.run(s(200));
    assert_eq!(world.settled(up), Some(&Outcome::Reached));
    assert_ne!(world.intend(Intent::Up), up);
}

#[test]
fn scrub_stops_everything_and_removes_every_slot() {
    let mut world = World::up(policy(3), |_, _| Behaviour::default());
    let ticket = world.intend(Intent::Scrub);
    assert_eq!(world.machine.service_record().want, Want::Scrubbed);
    world.run(s(1));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert!(world.machine.view().slots.is_empty() && world.bodies.is_empty());
    assert_eq!(world.machine.deadline(), None);
}

#[test]
fn a_service_at_rest_has_nothing_to_wake_up_for() {
    let mut world = World::up(policy(3), |_, _| Behaviour::default());
    world.run(s(20));
    assert_eq!(world.machine.deadline(), None);
}

#[test]
fn one_slot_is_restarted_with_its_turn_and_alone() {
    let mut world = World::up(policy(3), |_, _| Behaviour::default());
    let ticket = world.intend(one(2));
    assert_eq!(
        world.states(),
        [State::Ready, State::Stopping, State::Ready]
    );
    world.run(s(2));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(world.spawns().len(), 4);
    assert_eq!(world.slot(2).last.map(|last| last.why), Some(Why::Restart));
}

#[test]
fn who_waits_is_told_also_when_a_slot_that_was_ready_is_given_up_late() {
    let fatal = Policy {
        fatal_codes: vec![9],
        ready: Ready::Notify { deadline: s(60) },
        ..policy(2)
    };
    let behave = |id: InstanceId, _| match (id.slot, id.number) {
        (1, 1) => Behaviour {
            rest: Some(Some(s(5))),
            ..Behaviour::exits(ms(1500), 9)
        },
        _ => Behaviour {
            ready: Some(s(3)),
            ..Behaviour::default()
        },
    };
    // The other slot becomes ready while what is left of the first one is being stopped.
    let mut world = World::new(fatal.clone(), behave);
    let ticket = world.intend(Intent::Up);
    world.run(s(4));
    assert_eq!(world.states(), [State::Stopping, State::Ready]);
    assert_eq!(world.settled(ticket), None);
    world.run(s(6));
    assert_eq!(world.state(1), State::Failed);
    let Some(Outcome::Failed(failure)) = world.settled(ticket) else {
        panic!("{:?}", world.settled(ticket));
    };
    assert_eq!(failure.to_string(), "slot 1: exit status 9");
    // A person asks while it is being stopped: that is an answer to its failure.
    let mut world = World::new(fatal, behave);
    world.intend(Intent::Up);
    world.run(s(4));
    let ticket = world.intend(Intent::Up);
    world.run(s(10));
    assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
    assert_eq!(world.states(), [State::Ready; 2]);
}

#[test]
fn an_update_to_another_number_of_slots_overtakes_a_scale() {
    let mut world = World::up(policy(3), |_, _| Behaviour {
        term: Some(s(5)),
        ..Behaviour::default()
    });
    let scale = world.intend(Intent::Scale(1));
    world.run(s(1));
    let by = world.intend(Intent::Update {
        policy: Box::new(policy(3)),
        unchanged: vec![1],
    });
    let verb = Verb::Update;
    assert_eq!(
        world.settled(scale),
        Some(&Outcome::Superseded { by, verb })
    );
    world.run(s(10));
    assert_eq!(world.settled(by), Some(&Outcome::Reached));
}
