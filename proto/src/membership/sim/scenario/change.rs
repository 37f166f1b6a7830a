//! Servers that come and go in order, or nearly so.

use std::time::Duration;

use super::super::Simulation;
use super::super::report::{Row, Samples};
use super::{SECOND, seconds};

/// How many changes are measured for each seed: fewer in small circuits.
fn turns(n: usize) -> usize {
    20.min(n / 4)
}

pub(super) fn join(sim: &mut Simulation, _: usize) -> Vec<Row> {
    let mut times = Samples::default();
    for _ in 0..20 {
        let by = sim.some_up(1);
        let i = sim.add_started(&by);
        let took = sim.run_until(SECOND * 10, |sim| sim.knowing(i) == sim.nodes.len());
        times.add(seconds(took));
        sim.run(SECOND * 2);
    }
    vec![
        Row {
            measure: "known everywhere",
            samples: times,
        },
        sim.false_removals(),
    ]
}

pub(super) fn leave(sim: &mut Simulation, n: usize) -> Vec<Row> {
    let mut times = Samples::default();
    for i in sim.some_up(turns(n)) {
        sim.leave(i);
        times.add(seconds(
            sim.run_until(SECOND * 10, |sim| sim.knowing(i) == 0),
        ));
        sim.run(SECOND * 2);
    }
    vec![
        Row {
            measure: "gone everywhere",
            samples: times,
        },
        sim.false_removals(),
    ]
}

pub(super) fn burst(sim: &mut Simulation, n: usize) -> Vec<Row> {
    for i in 0..3 {
        sim.add_started(if i == 0 { &[] } else { &[0] });
        sim.run(SECOND / 50);
    }
    sim.run(SECOND * 3);
    let begin = sim.now();
    for i in 3..n {
        sim.add_started(&[i % 3]);
        sim.run(SECOND / (n as u32 - 3));
    }
    let exact = sim.exact_after(60);
    // From the first to the last view, the second of joining included.
    let whole = (sim.now() - begin).as_secs_f64();
    vec![
        Row::new("exact", [if exact.is_infinite() { exact } else { whole }]),
        sim.false_removals(),
    ]
}

pub(super) fn restart(sim: &mut Simulation, n: usize) -> Vec<Row> {
    let (mut same, mut new) = (Samples::default(), Samples::default());
    for (turn, i) in sim.some_up(turns(n)).into_iter().enumerate() {
        sim.kill(i);
        sim.run(SECOND * 2);
        let by = sim.some_up(1);
        if turn % 2 == 0 {
            // Half of those that keep their key have had the count of their lives set back.
            if turn % 4 != 0 {
                sim.nodes[i].count = 0;
            }
            sim.start(i, &by);
            same.add(sim.exact_after(30));
        } else {
            sim.add_started(&by);
            new.add(sim.exact_after(30));
        }
        sim.run(SECOND * 8);
    }
    vec![
        Row {
            measure: "same identity: exact",
            samples: same,
        },
        Row {
            measure: "new identity: exact",
            samples: new,
        },
        sim.false_removals(),
    ]
}

pub(super) fn churn(sim: &mut Simulation, _: usize) -> Vec<Row> {
    let mut off = Samples::default();
    for _ in 0..120 {
        let (up, by) = (sim.some_up(1), sim.some_up(2));
        for i in &up {
            sim.kill(*i);
        }
        let by: Vec<_> = by.into_iter().filter(|i| !up.contains(i)).collect();
        sim.add_started(&by);
        sim.run(SECOND);
        let live = sim.up().count() as f64;
        // Those that failed within the last six seconds may still be thought to live.
        let worst = sim
            .up()
            .map(|(_, machine)| (machine.len() as f64 - live).abs());
        off.add(worst.fold(0.0, f64::max));
    }
    let took = sim.exact_after(60);
    sim.run(Duration::from_secs(60));
    vec![
        Row {
            measure: "largest error of a view's size",
            samples: off,
        },
        Row::new("exact after the end", [took]),
        Row::new("second eigenvalue / bound", [sim.expansion()]),
        sim.false_removals(),
    ]
}
