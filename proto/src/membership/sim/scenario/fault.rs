//! Faults that nobody is to be given up for.

use std::time::Duration;

use super::super::report::Row;
use super::super::{Latency, Simulation};
use super::SECOND;
use super::failure::crash_one;

/// How long the faults last.
const LASTING: u32 = 300;

/// The rows that a scenario prints once its fault is over.
fn outcome(sim: &mut Simulation) -> Vec<Row> {
    let removals = sim.false_removals();
    let raised: u64 = sim.up().map(|(_, machine)| machine.incarnation()).sum();
    sim.heal();
    sim.network.loss = 0.0;
    sim.network.lossy.clear();
    let exact = sim.exact_after(60);
    vec![
        removals,
        Row::new("suspicions that were outbid", [raised as f64]),
        Row::new("exact after the end", [exact]),
    ]
}

pub(super) fn lossy(sim: &mut Simulation, n: usize) -> Vec<Row> {
    let lossy = sim.some_up((n / 100).max(1));
    sim.network.lossy = lossy.into_iter().map(|i| (i, 0.8)).collect();
    sim.run(SECOND * LASTING);
    outcome(sim)
}

pub(super) fn loss(sim: &mut Simulation, _: usize) -> Vec<Row> {
    sim.network.loss = 0.05;
    sim.run(SECOND * 3600);
    outcome(sim)
}

fn pairs(sim: &mut Simulation, n: usize) -> Vec<(usize, usize)> {
    let how_many = (n * (n - 1) / 2).div_ceil(50);
    (0..how_many).map(|_| sim.some_pair()).collect()
}

pub(super) fn blocked(sim: &mut Simulation, n: usize) -> Vec<Row> {
    for (i, j) in pairs(sim, n) {
        sim.block(i, j);
    }
    sim.run(SECOND * LASTING);
    outcome(sim)
}

pub(super) fn asymmetric(sim: &mut Simulation, n: usize) -> Vec<Row> {
    for (i, j) in pairs(sim, n) {
        sim.block_one_way(i, j);
    }
    sim.run(SECOND * LASTING);
    outcome(sim)
}

pub(super) fn flapping(sim: &mut Simulation, n: usize) -> Vec<Row> {
    let pairs = pairs(sim, n);
    for _ in 0..LASTING / 6 {
        for (i, j) in &pairs {
            sim.block(*i, *j);
        }
        sim.run(SECOND * 3);
        for (i, j) in &pairs {
            sim.unblock(*i, *j);
        }
        sim.run(SECOND * 3);
    }
    outcome(sim)
}

pub(super) fn stalls(sim: &mut Simulation, how_long: u32, tethers: bool) -> Vec<Row> {
    sim.tethers = tethers;
    for _ in 0..600 {
        let candidates = sim.some_up(8);
        // A server that is stopped cannot be stopped again.
        let running = candidates
            .into_iter()
            .find(|i| sim.nodes[*i].stalled.is_none());
        if let Some(i) = running {
            sim.stall(i, SECOND * how_long);
        }
        sim.run(Duration::from_millis(500));
    }
    sim.run(SECOND * how_long);
    outcome(sim)
}

/// After a time in which nobody is to be given up, a host fails.
fn then_one_fails(sim: &mut Simulation) -> Vec<Row> {
    sim.run(SECOND * LASTING);
    let mut rows = outcome(sim);
    for i in sim.some_up(1) {
        let (suspected, gone) = crash_one(sim, i);
        rows.push(Row::new("suspected everywhere", [suspected]));
        rows.push(Row::new("gone everywhere", [gone]));
    }
    rows
}

pub(super) fn wide(sim: &mut Simulation, n: usize) -> Vec<Row> {
    sim.network.delays = Latency::Wide;
    sim.form(n);
    then_one_fails(sim)
}

pub(super) fn clocks(sim: &mut Simulation, n: usize) -> Vec<Row> {
    for _ in 0..n {
        let rate = 0.99 + 0.02 * sim.random.fraction();
        let i = sim.add();
        sim.nodes[i].rate = rate;
    }
    for i in 0..n {
        let by = sim.random.below(i);
        sim.start(
            i,
            if i == 0 {
                &[]
            } else {
                std::slice::from_ref(&by)
            },
        );
        sim.run(Duration::from_millis(3));
    }
    sim.run(SECOND * 60);
    then_one_fails(sim)
}
