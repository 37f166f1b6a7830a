//! Runs scenarios of the membership simulator, and prints their figures: `scripts/sim` says how.

#![allow(clippy::print_stdout, clippy::print_stderr)]
// How long a simulation took is for who waits for it; the machines are told the time.
#![allow(clippy::disallowed_methods)]

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::Instant;

use circuit_proto::membership::sim::report::{Row, Samples};
use circuit_proto::membership::sim::scenario::{self, Circuits, Scenario};

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
        "counted: each message in packets of its own (+65 B), each packet acknowledged (60 B), datagrams +141 B,"
    );
    println!(
        "handshakes 7 packets and 2,620 B at each end, upkeep of a link as measured on quinn; {n} servers, seeds {seeds:?}"
    );
    let mut missed = Vec::new();
    let mut reports: Vec<_> = chosen.iter().map(|_| Report::default()).collect();
    for (turn, seed) in seeds.iter().enumerate() {
        let mut circuits = Circuits::new(n, *seed);
        for (i, (scenario, report)) in chosen.iter().zip(&mut reports).enumerate() {
            let begin = Instant::now();
            let last = i + 1 == chosen.len();
            missed.extend(report.run(scenario, &mut circuits, n, *seed, last));
            let took = begin.elapsed().as_secs_f64();
            eprintln!("{}, seed {seed}: simulated in {took:.1} s", scenario.name);
            if turn + 1 == seeds.len() {
                missed.extend(report.print(scenario, n));
            }
        }
    }
    for line in &missed {
        println!("\n{line}");
    }
    if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The figures of one scenario, of all seeds.
#[derive(Default)]
struct Report {
    rows: Vec<Row>,
    traces: Vec<String>,
}

impl Report {
    /// Runs the scenario; what was not as it is to be, and how to see it again.
    fn run(
        &mut self,
        scenario: &Scenario,
        circuits: &mut Circuits,
        n: usize,
        seed: u64,
        last: bool,
    ) -> Vec<String> {
        let again = format!("again: scripts/sim {} {n} {seed}", scenario.name);
        // The simulator asserts what must hold at every moment.
        let run = AssertUnwindSafe(|| circuits.run(scenario, last));
        let Ok((found, trace)) = std::panic::catch_unwind(run) else {
            return vec![format!("failed: {again}")];
        };
        self.traces.push(format!("{trace:016x}"));
        let mut missed = Vec::new();
        for row in found {
            let worst = row.samples.quantile(1.0);
            let target = scenario.target(row.measure).map(|target| target.max);
            if let Some(target) = target.filter(|target| worst > *target) {
                missed.push(format!(
                    "missed: {}: {worst:.3}, not {target}; {again}",
                    row.measure
                ));
            }
            match self
                .rows
                .iter_mut()
                .find(|known| known.measure == row.measure)
            {
                Some(known) => known.samples.extend(&row.samples),
                None => self.rows.push(row),
            }
        }
        missed
    }

    /// Prints the figures; which of them miss their targets in half of all samples.
    fn print(&self, scenario: &Scenario, n: usize) -> Vec<String> {
        println!("\n{}: {}", scenario.name, scenario.about);
        if !scenario.others.is_empty() {
            println!("  others, at 1,024: {}", scenario.others);
        }
        println!(
            "  {:36}{:>9}{:>9}{:>9}  samples  target: p50, max",
            "", "p50", "p99", "max"
        );
        let mut missed = Vec::new();
        for Row { measure, samples } in &self.rows {
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
        println!("  traces: {}", self.traces.join(" "));
        missed
    }
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
