//! Runs scenarios of the membership simulator, and prints their figures: `scripts/sim` says how.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use circuit_proto::membership::sim::report::{Row, Samples};
use circuit_proto::membership::sim::scenario::{self, Scenario};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |i: usize, default: &'static str| arguments.get(i).map_or(default, |a| a);
    let names = argument(0, "all");
    let Ok(n) = argument(1, "128").parse::<usize>() else {
        return usage();
    };
    let Some(seeds) = seeds(argument(2, "101-105")) else {
        return usage();
    };
    let chosen: Vec<_> = scenario::ALL
        .iter()
        .filter(|scenario| names == "all" || names.split(',').any(|name| name == scenario.name))
        .collect();
    if chosen.is_empty() || n < 4 {
        return usage();
    }
    println!(
        "network: latency 1 to 50 ms fixed per pair, packets lost independently (0 unless the scenario says otherwise);"
    );
    println!(
        "counted: each message in packets of its own (+65 B), each packet acknowledged (60 B), datagrams +125 B,"
    );
    println!(
        "handshakes 7 packets and 2,620 B at each end, upkeep of a link as measured on quinn; {n} servers, seeds {seeds:?}"
    );
    let missed: Vec<String> = chosen
        .into_iter()
        .flat_map(|scenario| report(scenario, n, &seeds))
        .collect();
    for line in &missed {
        println!("\n{line}");
    }
    if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one scenario for all seeds; what was not as it is to be, and how to see it again.
fn report(scenario: &Scenario, n: usize, seeds: &[u64]) -> Vec<String> {
    println!("\n{}: {}", scenario.name, scenario.about);
    if !scenario.others.is_empty() {
        println!("  others, at 1,024: {}", scenario.others);
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut traces = Vec::new();
    let mut missed = Vec::new();
    for seed in seeds {
        let again = format!("again: scripts/sim {} {n} {seed}", scenario.name);
        // The simulator asserts what must hold at every moment.
        let run = || scenario::run(scenario, n, *seed);
        let Ok((found, trace)) = std::panic::catch_unwind(run) else {
            missed.push(format!("failed: {again}"));
            continue;
        };
        traces.push(format!("{trace:016x}"));
        for row in found {
            let worst = row.samples.quantile(1.0);
            let target = scenario.target(row.measure).map(|target| target.max);
            if let Some(target) = target.filter(|target| worst > *target) {
                missed.push(format!(
                    "missed: {}: {worst:.3}, not {target}; {again}",
                    row.measure
                ));
            }
            match rows.iter_mut().find(|known| known.measure == row.measure) {
                Some(known) => known.samples.extend(&row.samples),
                None => rows.push(row),
            }
        }
    }
    println!(
        "  {:36}{:>9}{:>9}{:>9}  samples  target: p50, max",
        "", "p50", "p99", "max"
    );
    for Row { measure, samples } in &rows {
        let target = scenario.target(measure);
        let text = target.map_or(String::new(), |target| {
            format!("{}, {}", target.p50, target.max)
        });
        println!(
            "  {measure:36}{samples}  {:7}  {text}",
            Samples::len(samples)
        );
        if let Some(target) = target
            && samples.quantile(0.5) > target.p50
        {
            missed.push(format!(
                "missed: {measure}: p50 {:.3}, not {}; again: scripts/sim {} {n} ...",
                samples.quantile(0.5),
                target.p50,
                scenario.name
            ));
        }
    }
    println!("  traces: {}", traces.join(" "));
    missed
}

/// `7`, `1,2,9` or `101-105`.
fn seeds(text: &str) -> Option<Vec<u64>> {
    match text.split_once('-') {
        Some((first, last)) => Some((first.parse().ok()?..=last.parse().ok()?).collect()),
        None => text.split(',').map(|seed| seed.parse().ok()).collect(),
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: scripts/sim [SCENARIO[,SCENARIO...]|all] [SERVERS] [SEED|FIRST-LAST]");
    for scenario in scenario::ALL {
        eprintln!("  {:11} {}", scenario.name, scenario.about);
    }
    ExitCode::from(2)
}
