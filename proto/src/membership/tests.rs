//! The machine on the simulated network: small circuits, their changes and their failures.

use std::time::Duration;

use super::sim::Simulation;

mod audit;
mod bounds;
mod copies;
mod digest;
mod echo;
mod introduction;
mod invariants;
mod machine;
mod overlay;
mod peers;
pub(super) mod random;
mod short;
mod suspicion;
mod tombstone;

const SECOND: Duration = Duration::from_secs(1);

/// A circuit of `n` servers that are started one after another, each joining by the first.
fn circuit(n: usize, seed: u64) -> Simulation {
    let mut sim = Simulation::new(seed);
    for i in 0..n {
        let i = sim.add_started(if i == 0 { &[] } else { &[0] });
        sim.run(SECOND / 50);
        assert!(sim.nodes[i].is_up());
    }
    becomes_whole(&mut sim, 5);
    sim.run(SECOND * 3);
    sim
}

/// Waits until all views are exact and the links form one graph, for so many seconds at most. Returns
/// the time that it took.
fn becomes_whole(sim: &mut Simulation, seconds: u32) -> Duration {
    let took = sim.run_until(SECOND * seconds, |sim| {
        sim.is_exact() && sim.is_connected() && sim.is_symmetric()
    });
    took.unwrap_or_else(|| {
        for (i, machine) in sim.up() {
            let neighbours: Vec<_> = machine
                .neighbours()
                .map(|record| &record.name[5..])
                .collect();
            eprintln!(
                "{i}: {} live, {} suspected, links {neighbours:?}",
                machine.len(),
                machine.suspected().count()
            );
        }
        panic!(
            "not whole after {seconds} s, at {:?}, seed {}",
            sim.now(),
            sim.seed()
        )
    })
}

/// Checks that no server has dropped a server that runs.
fn nobody_was_wronged(sim: &Simulation) {
    assert!(
        sim.removals.is_empty(),
        "seed {}: {:?}",
        sim.seed(),
        sim.removals
    );
}

#[test]
fn circuits_form_in_any_order() {
    for seed in 1..=3 {
        for n in [1, 2, 3, 9, 10, 12, 32] {
            // They join one after another, each by the first.
            nobody_was_wronged(&circuit(n, seed));
            // All start at the same moment, each joining by the next: the first dial servers that do not run yet.
            let mut sim = Simulation::new(seed);
            for _ in 0..n {
                sim.add();
            }
            for i in (0..n).rev() {
                sim.start(i, &[(i + 1) % n]);
            }
            // Those that dialled a server too early try again after a second or two. A server that missed
            // news while it made its links must not wait for the digests of heartbeats.
            let took = becomes_whole(&mut sim, 8);
            assert!(took <= SECOND * 3, "{n} servers, seed {seed}: {took:?}");
            nobody_was_wronged(&sim);
        }
    }
}

#[test]
fn the_silent_are_removed_within_six_seconds() {
    for seed in 1..=3 {
        for (n, killed) in [(2, 1), (3, 1), (3, 2), (12, 1), (12, 6), (32, 1), (32, 16)] {
            let mut sim = circuit(n, seed);
            for i in 0..killed {
                sim.kill(i * n / killed);
            }
            let took = becomes_whole(&mut sim, 8);
            let limit = if killed * 2 < n { 6000 } else { 6500 };
            assert!(
                took <= Duration::from_millis(limit),
                "{n} servers, {killed} killed, seed {seed}: {took:?}"
            );
            nobody_was_wronged(&sim);
        }
        // Four of five are killed, so that some servers are left without any neighbour.
        let mut sim = circuit(32, seed);
        (0..26).for_each(|i| sim.kill(i));
        let took = sim.run_until(SECOND * 20, Simulation::is_exact).unwrap();
        assert!(took <= Duration::from_millis(8500), "seed {seed}: {took:?}");
        becomes_whole(&mut sim, 5);
    }
}

#[test]
fn the_kernel_tells_of_a_killed_process_at_once() {
    for seed in 1..=5 {
        for n in [2, 3, 12, 32] {
            let mut sim = circuit(n, seed);
            sim.tethers = true;
            sim.kill(0);
            let took = sim.run_until(SECOND * 8, Simulation::is_exact).unwrap();
            assert!(took <= SECOND, "{n} servers, seed {seed}: {took:?}");
        }
    }
}

#[test]
fn leaving_takes_a_moment() {
    for seed in 1..=5 {
        for n in [2, 3, 12, 32] {
            let mut sim = circuit(n, seed);
            sim.leave(n / 2);
            let took = sim.run_until(SECOND * 8, Simulation::is_exact).unwrap();
            assert!(took <= SECOND / 4, "{n} servers, seed {seed}: {took:?}");
            becomes_whole(&mut sim, 3);
            assert!(sim.up().all(|(_, machine)| !machine.is_isolated()));
            nobody_was_wronged(&sim);
        }
    }
}

#[test]
fn partitions_heal_by_themselves() {
    for seed in 1..=2 {
        for (n, parts) in [(2, 2), (3, 2), (12, 2), (32, 2), (32, 3)] {
            for seconds in [3, 12, 60] {
                let mut sim = circuit(n, seed);
                sim.partition(|i| (i % parts) as u32);
                sim.run(SECOND * seconds);
                if seconds > 10 {
                    assert!(
                        sim.up()
                            .all(|(i, machine)| machine.len()
                                == (i % parts..n).step_by(parts).count())
                    );
                }
                let before = sim.removals.len();
                sim.heal();
                becomes_whole(&mut sim, 12);
                assert_eq!(
                    sim.removals.len(),
                    before,
                    "the heal removed somebody, seed {seed}"
                );
                sim.run(SECOND * 30);
                becomes_whole(&mut sim, 2);
            }
        }
    }
}

#[test]
fn one_that_is_cut_off_knows_it_and_comes_back() {
    for seed in 1..=3 {
        for n in [2, 12, 32] {
            let mut sim = circuit(n, seed);
            sim.partition(|i| u32::from(i == 0));
            sim.run(SECOND * 15);
            let alone = sim.nodes[0].machine().unwrap();
            assert!(alone.is_isolated());
            assert!(
                sim.up()
                    .skip(1)
                    .all(|(_, machine)| n == 2 || !machine.is_isolated())
            );
            sim.heal();
            becomes_whole(&mut sim, 5);
            assert!(sim.up().all(|(_, machine)| !machine.is_isolated()));
        }
    }
}

#[test]
fn a_restarted_server_is_a_leave_and_a_join() {
    for seed in 1..=3 {
        for n in [2, 3, 12] {
            // The count of its lives was kept, or set back; it comes back soon, or after it was given up.
            for (kept, pause) in [(true, 1), (false, 1), (true, 9), (false, 9)] {
                let mut sim = circuit(n, seed);
                sim.kill(n - 1);
                sim.run(SECOND * pause);
                if !kept {
                    sim.nodes[n - 1].count = 0;
                }
                sim.start(n - 1, &[0]);
                becomes_whole(&mut sim, 5);
                nobody_was_wronged(&sim);
                sim.run(SECOND * 10);
                becomes_whole(&mut sim, 1);
                nobody_was_wronged(&sim);
            }
        }
    }
}

#[test]
fn two_circuits_merge_when_one_dials_the_other() {
    for seed in 1..=5 {
        for (a, b) in [(1, 1), (1, 3), (4, 5), (8, 8), (16, 16), (1, 31)] {
            let mut sim = Simulation::new(seed);
            for i in 0..a + b {
                let by = if i < a { 0 } else { a };
                sim.add_started(if i == by {
                    &[]
                } else {
                    std::slice::from_ref(&by)
                });
            }
            sim.run(SECOND * 3);
            assert_eq!(sim.nodes[0].machine().unwrap().len(), a);
            sim.dial(a - 1, a + b - 1);
            let took = becomes_whole(&mut sim, 5);
            assert!(took <= SECOND * 2, "{a} and {b}, seed {seed}: {took:?}");
            nobody_was_wronged(&sim);
        }
    }
}

#[test]
fn loss_and_short_stalls_wrong_nobody() {
    for seed in 1..=2 {
        for n in [2, 3, 12, 24] {
            let mut sim = circuit(n, seed);
            sim.network.loss = 0.05;
            sim.network.lossy = vec![(0, 0.3)];
            for i in 0..20 {
                sim.stall(i * 7 % n, SECOND * 3);
                sim.run(SECOND * 7 / 2);
            }
            nobody_was_wronged(&sim);
            sim.network.loss = 0.0;
            sim.network.lossy.clear();
            sim.run(SECOND * 10);
            becomes_whole(&mut sim, 10);
        }
    }
}

#[test]
fn one_that_loses_most_of_what_it_says_wrongs_nobody_and_is_not_wronged() {
    for seed in 1..=3 {
        for n in [12, 32] {
            let mut sim = circuit(n, seed);
            sim.network.lossy = vec![(0, 0.8)];
            sim.run(SECOND * 120);
            nobody_was_wronged(&sim);
        }
    }
}

#[test]
fn a_stopped_process_is_waited_for_while_its_kernel_answers() {
    for seed in 1..=3 {
        for n in [2, 3, 12] {
            let mut sim = circuit(n, seed);
            sim.tethers = true;
            for i in 0..5 {
                sim.stall(i % n, SECOND * 10);
                sim.run(SECOND * 15);
            }
            nobody_was_wronged(&sim);
            becomes_whole(&mut sim, 10);
        }
    }
}

#[test]
fn a_stopped_process_is_waited_for_whatever_one_says_who_was_cut_off_meanwhile() {
    for seed in 1..=5 {
        for n in [3, 6, 16] {
            for cut in [1000, 2500, 4000, 5500, 7500, 9000] {
                let mut sim = circuit(n, seed);
                sim.tethers = true;
                sim.stall(0, SECOND * 14);
                sim.partition(|i| u32::from(i == 1));
                sim.run(Duration::from_millis(cut));
                sim.heal();
                sim.run(SECOND * 20);
                let mut wronged = sim
                    .removals
                    .iter()
                    .filter(|(_, by, who)| *by != 1 && *who == 0);
                assert_eq!(
                    wronged.next(),
                    None,
                    "{n}, cut off for {cut} ms, seed {seed}"
                );
                becomes_whole(&mut sim, 5);
            }
        }
    }
}

#[test]
fn blocked_pairs_are_no_failures() {
    for seed in 1..=3 {
        for n in [3, 12, 24] {
            let mut sim = circuit(n, seed);
            for i in 0..n / 3 {
                sim.block(3 * i, 3 * i + 1);
            }
            sim.run(SECOND * 60);
            nobody_was_wronged(&sim);
            // Nobody was even suspected: witnesses reach the servers that one server cannot reach.
            assert!(
                sim.up().all(|(_, machine)| machine.incarnation() == 0),
                "seed {seed}"
            );
            let took = sim.run_until(SECOND * 5, |sim| sim.is_exact() && sim.is_connected());
            assert!(took.is_some(), "{n} servers, seed {seed}");
        }
    }
}

#[test]
fn two_who_could_not_reach_each_other_link_once_they_are_cut_off_together() {
    for seed in 1..=5 {
        for n in [5, 16] {
            let mut sim = circuit(n, seed);
            sim.block(0, 1);
            sim.run(SECOND * 8);
            sim.unblock(0, 1);
            sim.run(SECOND * 2);
            sim.partition(|i| u32::from(i < 2));
            let linked = |sim: &Simulation| {
                let two = sim.nodes[..2].iter().flat_map(|node| node.machine());
                two.map(|machine| (machine.len(), machine.neighbours().count()))
                    .all(|(servers, links)| (servers, links) == (2, 1))
            };
            let took = sim.run_until(SECOND * 15, linked);
            assert!(took.is_some(), "{n} servers, seed {seed}");
        }
    }
}

#[test]
fn degrees_are_within_bounds_at_rest() {
    for seed in 1..=3 {
        for n in [9, 10, 11, 16, 32, 64] {
            let mut sim = circuit(n, seed);
            sim.run(SECOND * 20);
            for (i, machine) in sim.up() {
                let degree = machine.neighbours().count();
                assert!(
                    if n <= 9 {
                        degree == n - 1
                    } else {
                        (6..=10).contains(&degree)
                    },
                    "{i} of {n} has {degree}, seed {seed}"
                );
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_and_the_same_circuit() {
    let run = |seed| {
        let mut sim = circuit(12, seed);
        sim.network.loss = 0.05;
        sim.kill(3);
        sim.run(SECOND * 10);
        let machines: Vec<_> = sim
            .up()
            .map(|(_, machine)| format!("{machine:?}"))
            .collect();
        (sim.trace(), machines)
    };
    for seed in 7..12 {
        let first = run(seed);
        assert_eq!(first, run(seed));
        assert_ne!(first.1, run(seed + 1).1);
    }
}

#[test]
fn many_join_at_once() {
    for seed in 1..=5 {
        let mut sim = circuit(3, seed);
        for _ in 0..61 {
            sim.add_started(&[0]);
            sim.run(Duration::from_millis(1));
        }
        let took = sim.run_until(SECOND * 10, Simulation::is_exact).unwrap();
        assert!(took <= SECOND, "seed {seed}: {took:?}");
        becomes_whole(&mut sim, 2);
        nobody_was_wronged(&sim);
    }
}

#[test]
fn two_that_gave_each_other_up_are_one_soon_whoever_dials_first() {
    // A server that hears of the other elsewhere dials before it is knocked at. Then one end has
    // heard that it was given up, and the other has not.
    for seed in 1..=20 {
        for n in [2, 3] {
            for (after, from) in (0..15).flat_map(|after| [(after, 0), (after, 1)]) {
                let mut sim = circuit(n, seed);
                sim.partition(|i| u32::from(i == 0));
                sim.run(SECOND * 12);
                sim.heal();
                sim.run(SECOND / 10 * after);
                sim.dial(from, 1 - from);
                let took = becomes_whole(&mut sim, 60);
                assert!(
                    took <= SECOND * 5 / 2,
                    "{n} servers, {from} dials after {after}00 ms, seed {seed}: {took:?}"
                );
            }
        }
    }
}
