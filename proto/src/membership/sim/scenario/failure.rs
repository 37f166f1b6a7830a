//! Servers that fail, and networks that are cut.

use std::cell::Cell;

use super::super::Simulation;
use super::super::report::{Row, Samples};
use super::{SECOND, seconds};

/// How many failures are measured for each seed: fewer in small circuits.
fn turns(n: usize) -> usize {
    12.min(n / 4)
}

pub(super) fn kill(sim: &mut Simulation, n: usize) -> Vec<Row> {
    sim.tethers = true;
    let mut gone = Samples::default();
    for i in sim.some_up(turns(n)) {
        sim.kill(i);
        gone.add(seconds(
            sim.run_until(SECOND * 20, |sim| sim.knowing(i) == 0),
        ));
        sim.run(SECOND * 2);
    }
    vec![
        Row {
            measure: "gone everywhere",
            samples: gone,
        },
        sim.false_removals(),
    ]
}

pub(super) fn crash(sim: &mut Simulation, n: usize) -> Vec<Row> {
    let (mut suspected, mut gone) = (Samples::default(), Samples::default());
    for i in sim.some_up(turns(n)) {
        let (suspicion, end) = crash_one(sim, i);
        suspected.add(suspicion);
        gone.add(end);
        sim.run(SECOND * 2);
    }
    vec![
        Row {
            measure: "suspected everywhere",
            samples: suspected,
        },
        Row {
            measure: "gone everywhere",
            samples: gone,
        },
        sim.false_removals(),
    ]
}

/// A host fails: when it is suspected everywhere, and when gone.
pub(super) fn crash_one(sim: &mut Simulation, i: usize) -> (f64, f64) {
    let begin = sim.now();
    let suspected = Cell::new(None);
    sim.crash_host(i);
    let gone = sim.run_until(SECOND * 30, |sim| {
        if suspected.get().is_none() && sim.all_suspect(i) {
            suspected.set(Some(sim.now() - begin));
        }
        sim.knowing(i) == 0
    });
    (seconds(suspected.get()), seconds(gone))
}

pub(super) fn mass(sim: &mut Simulation, failures: usize) -> Vec<Row> {
    for i in sim.some_up(failures) {
        sim.crash_host(i);
    }
    let exact = sim.exact_after(120);
    sim.run(SECOND * 5);
    let pieces = if sim.is_connected() {
        1.0
    } else {
        f64::INFINITY
    };
    sim.run(SECOND * 55);
    vec![
        Row::new("exact", [exact]),
        Row::new("components 5 s later (inf: several)", [pieces]),
        Row::new("second eigenvalue / bound", [sim.expansion()]),
        sim.false_removals(),
    ]
}

pub(super) fn partition(sim: &mut Simulation, parts: u32, how_long: u32) -> Vec<Row> {
    sim.partition(|i| i as u32 % parts);
    sim.run(SECOND * how_long);
    sim.removals.clear();
    sim.heal();
    let exact = sim.exact_after(60);
    sim.run(SECOND * 60);
    vec![
        Row::new("exact after the heal", [exact]),
        Row::new("second eigenvalue / bound", [sim.expansion()]),
        sim.false_removals(),
    ]
}

pub(super) fn alone(sim: &mut Simulation, n: usize) -> Vec<Row> {
    sim.partition(|i| u32::from(i == n / 2));
    sim.run(SECOND * 60);
    sim.removals.clear();
    sim.heal();
    let exact = sim.exact_after(120);
    vec![
        Row::new("exact after the heal", [exact]),
        sim.false_removals(),
    ]
}
