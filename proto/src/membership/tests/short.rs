//! Every scenario of the simulator runs once with few servers, and meets its targets.

use crate::membership::sim::scenario::{self, Circuits};

/// The number of servers: enough for a graph that is not complete, and few enough for the scenarios to
/// take seconds.
const SERVERS: usize = 32;

const SEED: u64 = 1;

#[test]
fn every_scenario_reaches_its_targets() {
    let mut missed = Vec::new();
    let mut circuits = Circuits::new(SERVERS, SEED);
    for scenario in scenario::ALL {
        let (rows, _) = circuits.run(scenario, false);
        for target in scenario.targets {
            let Some(row) = rows.iter().find(|row| row.measure == target.measure) else {
                panic!("{} measures no {}", scenario.name, target.measure);
            };
            let worst = row.samples.quantile(1.0);
            // The median of one seed says little, so only `scripts/sim` checks medians.
            if worst.is_nan() || worst > target.max {
                missed.push(format!(
                    "{}: {worst:.3}, not {}; again: scripts/sim {} {SERVERS} {SEED}",
                    target.measure, target.max, scenario.name
                ));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
