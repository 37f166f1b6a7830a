//! The machine on the simulated network: small circuits, everything that may happen to them.

use std::time::Duration;

use super::sim::Simulation;

const SECOND: Duration = Duration::from_secs(1);

/// A circuit of `n` servers that are started one after another, each joining by the first.
fn circuit(n: usize, seed: u64) -> Simulation {
    let mut sim = Simulation::new(seed);
    for i in 0..n {
        sim.add();
        sim.start(i, if i == 0 { &[] } else { &[0] });
        sim.run(Duration::from_millis(20));
    }
    becomes_whole(&mut sim, 5);
    sim
}

/// All views are exact, and the links one graph, within so many seconds.
fn becomes_whole(sim: &mut Simulation, seconds: u32) -> Duration {
    let took = sim.run_until(SECOND * seconds, |sim| sim.is_exact() && sim.is_connected());
    took.unwrap_or_else(|| {
        for (i, machine) in sim.up() {
            eprintln!(
                "{i}: {} live, {} links, {:?} suspected",
                machine.len(),
                machine.neighbours().count(),
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

#[test]
fn circuits_form_in_any_order() {
    for seed in 1..=5 {
        for n in [2, 3, 9, 10, 12, 32] {
            circuit(n, seed);
            // All at the same moment, each joining by another one.
            let mut sim = Simulation::new(seed);
            for i in 0..n {
                sim.add();
                sim.start(i, &[(i + 1) % n]);
            }
            becomes_whole(&mut sim, 8);
        }
    }
}

#[test]
fn the_silent_are_removed_within_six_seconds() {
    for seed in 1..=5 {
        for (n, killed) in [(2, 1), (3, 1), (3, 2), (12, 1), (12, 6), (32, 1), (32, 16)] {
            let mut sim = circuit(n, seed);
            sim.run(SECOND * 3);
            for i in 0..killed {
                sim.kill(i * n / killed);
            }
            let took = becomes_whole(&mut sim, 8);
            assert!(
                took <= SECOND * 6 || killed > n / 3 && took < SECOND * 7,
                "{n} servers, {killed} killed, seed {seed}: {took:?}"
            );
        }
    }
}

#[test]
fn explore() {
    for seed in 1..=5 {
        for (n, killed) in [
            (2, 1),
            (3, 1),
            (3, 2),
            (12, 1),
            (12, 6),
            (32, 1),
            (32, 16),
            (32, 26),
            (64, 1),
        ] {
            let mut sim = circuit(n, seed);
            sim.run(SECOND * 3);
            for i in 0..killed {
                sim.kill(i * n / killed);
            }
            eprintln!(
                "{seed} kill {killed} of {n}: {:?} removals {:?}",
                sim.run_until(SECOND * 20, |s| s.is_exact()),
                sim.removals.len()
            );
            eprintln!(
                "    connected {:?}",
                sim.run_until(SECOND * 20, |s| s.is_connected())
            );
        }
        for (n, killed) in [(2, 1), (3, 1), (12, 1), (32, 1)] {
            let mut sim = circuit(n, seed);
            sim.tethers = true;
            sim.run(SECOND * 3);
            sim.kill(0);
            eprintln!(
                "{seed} tether kill {killed} of {n}: {:?} removals {:?}",
                sim.run_until(SECOND * 20, |s| s.is_exact()),
                sim.removals.len()
            );
        }
        for (n, parts) in [(2, 2), (3, 2), (12, 2), (32, 2), (32, 3), (64, 2)] {
            for secs in [3, 12, 60, 300] {
                let mut sim = circuit(n, seed);
                sim.run(SECOND * 3);
                sim.partition(|i| (i % parts) as u32);
                sim.run(SECOND * secs);
                let lost = sim.up().map(|(_, m)| m.len()).max();
                sim.heal();
                let before = sim.removals.len();
                eprintln!(
                    "{seed} partition {n} in {parts} for {secs}: live {lost:?} {:?} removals {before} {:?}",
                    sim.run_until(SECOND * 60, |s| s.is_exact()),
                    sim.removals.len() - before
                );
                eprintln!(
                    "    connected {:?}",
                    sim.run_until(SECOND * 20, |s| s.is_connected())
                );
                sim.run(SECOND * 60);
                eprintln!("    later {} {}", sim.is_exact(), sim.is_connected());
            }
        }
    }
}
