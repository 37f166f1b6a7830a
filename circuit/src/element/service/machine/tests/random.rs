//! Random histories: programs that fail, hang and resist, people who change their minds, servers that
//! are killed, hosts that are suspended. What must always hold is checked by the world after each
//! call; here it is what a history must lead to.

use std::collections::BTreeMap;

use super::super::random::Random;
use super::super::*;
use super::world::{Behaviour, World, ms, s};

/// How many histories each test goes through, unless `CIRCUIT_HISTORIES` says otherwise.
const HISTORIES: u64 = 20;

/// Runs the histories, or the one whose seed is in `CIRCUIT_SEED`; says which one failed.
fn histories(base: u64, history: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|it| it.parse::<u64>().ok())
    };
    let count = number("CIRCUIT_HISTORIES").unwrap_or(HISTORIES);
    let seeds = number("CIRCUIT_SEED").map_or(base..base + count, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| history(seed));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn random_policy(random: &mut Random) -> Policy {
    let mut policy = Policy {
        instances: random.below(5) as u32,
        restart: match random.below(6) {
            0 => Restart::Never,
            1 => Restart::Failure,
            _ => Restart::Always,
        },
        fatal_codes: if random.one_in(3) {
            vec![9]
        } else {
            Vec::new()
        },
        unknown_finishes: random.one_in(4),
        ready: match random.below(4) {
            0 => Ready::Notify { deadline: s(10) },
            1 => Ready::Probe {
                every: s(1),
                timeout: s(1),
                deadline: s(10),
            },
            2 => Ready::Up(ms(0)),
            _ => Ready::Up(s(1)),
        },
        alive: random.one_in(2).then(|| Alive {
            watchdog: random.one_in(3),
            every: s(5),
            timeout: s(1),
            fails: 1 + random.below(3) as u32,
        }),
        after: if random.one_in(4) {
            vec!["db".to_owned()]
        } else {
            Vec::new()
        },
        before: random.one_in(4),
        parallel: 1 + random.below(3) as u32,
        surge: random.one_in(2),
        max_age: random.one_in(4).then(|| s(60)),
        max_memory: random.one_in(4).then_some(100),
        reload: random.one_in(2).then_some(Reload::Command),
        ..Policy::default()
    };
    policy.backoff.tries = if random.one_in(3) { 4 } else { 0 };
    policy.backoff.most = s(10);
    policy.stop.command = random.one_in(4);
    policy.stop.seconds = s(random.below(6));
    policy.stop.wait = s(random.below(2));
    if random.one_in(20) {
        // What nobody would write.
        policy.backoff.first = std::time::Duration::MAX;
        policy.max_age = Some(std::time::Duration::MAX);
    }
    policy
}

/// Instances that behave, whatever they are asked.
fn good() -> Behaviour {
    Behaviour {
        watchdog: Some(s(2)),
        ..Behaviour::default()
    }
}

/// Instances that mostly behave. Nothing is stuck for ever.
fn random_behaviour(random: &mut Random) -> Behaviour {
    let mut behaviour = good();
    if random.one_in(2) {
        return behaviour;
    }
    if random.one_in(3) {
        let codes = [0, 1, 9];
        let end = match random.below(5) {
            0 => End::Unknown,
            1 => End::Signal(11),
            _ => End::Code(codes[random.below(3) as usize]),
        };
        behaviour.exit = Some((ms(random.below(40_000)), end));
    }
    if random.one_in(8) {
        behaviour.spawn = Err("no such file");
    } else if random.one_in(8) {
        behaviour.spawn = Ok(ms(random.below(5000)));
    }
    if random.one_in(4) {
        behaviour.before = (ms(random.below(5000)), random.one_in(2));
    }
    if random.one_in(4) {
        behaviour.ready = (!random.one_in(3)).then(|| ms(random.below(15_000)));
    }
    if random.one_in(3) {
        behaviour.term = (!random.one_in(3)).then(|| ms(random.below(9000)));
    }
    if random.one_in(3) {
        behaviour.rest = Some((!random.one_in(3)).then(|| ms(random.below(9000))));
    }
    if random.one_in(4) {
        behaviour.kill = Some(ms(random.below(20_000)));
    }
    if random.one_in(4) {
        behaviour.alive = s(random.below(60));
    }
    if random.one_in(4) {
        behaviour.memory = 101;
    }
    behaviour.stop = (ms(random.below(8000)), !random.one_in(3));
    behaviour.reload = (ms(random.below(3000)), !random.one_in(3));
    behaviour
}

fn random_intent(random: &mut Random, world: &World) -> Intent {
    let now = random.one_in(3);
    match random.below(12) {
        0 | 1 => Intent::Up,
        2 => Intent::Down,
        3 | 4 => Intent::Restart { slot: None, now },
        5 | 6 => {
            let slot = Some(random.below(5) as u32);
            Intent::Restart { slot, now }
        }
        7 => Intent::Reload,
        8 => Intent::Scale(random.below(6) as u32),
        _ => {
            let policy = Box::new(random_policy(random));
            let kept = world.machine.generations();
            let unchanged = kept.into_iter().filter(|_| random.one_in(3)).collect();
            Intent::Update { policy, unchanged }
        }
    }
}

/// A history of so many steps.
fn live(seed: u64, lives: bool) -> World {
    let mut random = Random::new(seed);
    let mut behaving = Random::new(seed ^ 1);
    let policy = random_policy(&mut random);
    let mut world = World::new(policy, move |_, _| random_behaviour(&mut behaving));
    let mut taken = Vec::new();
    for _ in 0..40 {
        match random.below(10) {
            0..=3 => {
                let intent = random_intent(&mut random, &world);
                let verb = intent.verb();
                let before = world.now;
                if let Some(ticket) = world.try_intend(intent) {
                    taken.push((ticket, verb));
                }
                assert_eq!(world.now, before);
            }
            4 => {
                let states = [AfterState::Ready, AfterState::NotReady, AfterState::Down];
                world.after("db", states[random.below(3) as usize]);
            }
            5 => {
                // The host was suspended.
                world.now += s(random.below(100));
                world.handle(Input::Tick);
            }
            6 if lives && random.one_in(2) => {
                // The server is killed; what ends until the next one looks is not seen.
                for body in world.bodies.values_mut() {
                    if body.main && random.one_in(4) {
                        body.main = false;
                        body.rest = random.one_in(2);
                    }
                }
                let found = world.found();
                world.next_life(found);
                taken.clear();
                world.handle(Input::Tick);
                // The driver tells the states of other services anew.
                world.after("db", AfterState::Ready);
            }
            7 => {
                // What makes no sense, or comes late.
                let slot = random.below(6) as u32;
                let number = 1000;
                let instance = InstanceId { slot, number };
                for input in [
                    Input::MayStart { slot },
                    Input::Spawned { instance, pid: 1 },
                    Input::MainExited {
                        instance,
                        end: End::Unknown,
                    },
                    Input::TreeEmpty { instance },
                    Input::Probed {
                        instance,
                        probe: Probe::Alive,
                        ok: false,
                    },
                    Input::Memory {
                        instance,
                        bytes: None,
                    },
                ] {
                    world.handle(input);
                }
            }
            8 => world.grant = ms(random.below(3000)),
            _ => {}
        }
        world.run(ms(random.below(20_000)));
    }
    // From now on all is well with the world: each intent comes to its end.
    world.behave = Box::new(|_, _| good());
    world.grant = s(0);
    world.after("db", AfterState::Ready);
    for body in world.bodies.values_mut() {
        body.behaviour.memory = 1;
        body.behaviour.alive = std::time::Duration::MAX;
    }
    world.run(s(400));
    for (ticket, verb) in taken {
        assert!(
            world.settled(ticket).is_some(),
            "{verb} is not settled: {:#?}\n{:#?}\n{}",
            world.machine.pursuits,
            world.machine.view(),
            world.tail()
        );
    }
    world
}

/// All slots are ready, or for a reason not.
fn is_up(world: &World) -> bool {
    let view = world.machine.view();
    view.slots.len() == view.instances as usize
        && view.slots.iter().all(|slot| {
            slot.old.is_empty()
                && matches!(slot.state, State::Ready | State::Finished | State::Failed)
        })
}

#[test]
fn whatever_happened_the_last_intent_is_reached_once_the_world_behaves() {
    for lives in [false, true] {
        histories(if lives { 1_000_000 } else { 1 }, |seed| {
            let mut world = live(seed, lives);
            if world.machine.want == Want::Up {
                // Something may just have reached its age.
                world.until(s(60), is_up);
            } else {
                assert_eq!(world.running(), 0);
            }
            // A person's restart makes everything run, whatever it was.
            let policy = Box::new(Policy {
                instances: 3,
                ..Policy::default()
            });
            let unchanged = Vec::new();
            for intent in [
                Intent::Up,
                Intent::Update { policy, unchanged },
                Intent::Restart {
                    slot: None,
                    now: true,
                },
            ] {
                let ticket = world.intend(intent);
                world.run(s(300));
                assert!(
                    world.settled(ticket).is_some(),
                    "{:#?}",
                    world.machine.view()
                );
            }
            assert_eq!(world.states(), [State::Ready; 3], "{}", world.tail());
            assert_eq!((world.running(), world.machine.view().rolling), (3, None));
            let ticket = world.intend(Intent::Down);
            world.run(s(100));
            assert_eq!(world.settled(ticket), Some(&Outcome::Reached));
            assert_eq!(world.running(), 0);
            assert_eq!(world.machine.deadline(), None);
        });
    }
}

#[test]
fn the_number_of_ready_slots_never_falls_below_what_it_was_with_surge() {
    histories(2_000_000, |seed| {
        let mut random = Random::new(seed);
        let policy = |random: &mut Random| {
            let mut policy = random_policy(random);
            policy.instances = 4;
            policy.surge = true;
            policy.restart = Restart::Always;
            policy.alive = None;
            policy.after = Vec::new();
            policy.max_memory = None;
            policy
        };
        let good = policy(&mut random);
        let mut behaving = Random::new(seed ^ 1);
        let mut world = World::up(good, |_, _| Behaviour::default());
        // What was started by then behaves; new ones mostly do not, but they do not end once ready.
        world.behave = Box::new(move |_, _| {
            let mut behaviour = random_behaviour(&mut behaving);
            if behaving.one_in(3) {
                behaviour = Behaviour::default();
            }
            if behaviour.exit.is_some_and(|(after, _)| after > ms(0)) {
                behaviour.exit = None;
                behaviour.spawn = Err("no such file");
            }
            behaviour
        });
        for _ in 0..8 {
            let intent = match random.below(4) {
                0 => Intent::Restart {
                    slot: None,
                    now: false,
                },
                1 => Intent::Restart {
                    slot: Some(1 + random.below(4) as u32),
                    now: false,
                },
                _ => Intent::Update {
                    policy: Box::new(policy(&mut random)),
                    unchanged: Vec::new(),
                },
            };
            world.intend(intent);
            let end = world.now + ms(random.below(30_000));
            while world.now < end {
                world.run(ms(100));
                // A ready probe of a slow program may find it unready only before it was ready.
                let ready = world.machine.view().ready;
                assert_eq!(ready, 4, "{:#?}\n{}", world.machine.view(), world.tail());
            }
        }
    });
}

#[test]
fn the_same_seed_and_calls_give_the_same_outputs() {
    for seed in 0..20 {
        assert_eq!(live(seed, true).log, live(seed, true).log);
    }
}

#[test]
fn nothing_that_is_failed_finished_or_down_is_started_by_itself() {
    histories(3_000_000, |seed| {
        let mut world = live(seed, false);
        let idle = |world: &World| -> BTreeMap<u32, (State, u64)> {
            let view = world.machine.view();
            let idle = view
                .slots
                .iter()
                .filter(|slot| matches!(slot.state, State::Failed | State::Finished | State::Down));
            idle.map(|slot| (slot.slot, (slot.state, slot.starts)))
                .collect()
        };
        let before = idle(&world);
        world.run(s(1000));
        for (slot, was) in before {
            assert_eq!(idle(&world).get(&slot), Some(&was));
        }
    });
}
