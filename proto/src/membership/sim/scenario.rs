//! The scenarios that a simulated circuit goes through, and their measures.
//!
//! Each scenario does something to a circuit of `n` servers, formed and at rest unless it says
//! otherwise, and returns its figures. Times are in seconds, and those that are "everywhere" end when
//! the last server knows.

use std::time::Duration;

use super::report::Row;
use super::{Simulation, UPKEEP_BYTES, UPKEEP_PACKETS};

use Run::{Empty, Formed};

mod change;
mod failure;
mod fault;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// One scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// A description of the events.
    pub about: &'static str,
    /// The targets of its measures; measures without a target are only told.
    pub targets: &'static [Target],
    /// The figures of other systems at 1,024 servers, re-implemented from their source: see
    /// docs/membership.md.
    pub others: &'static str,
    /// Runs it.
    pub run: Run,
}

/// The events of a scenario, and the circuit that it begins with.
#[derive(Debug, Clone, Copy)]
pub enum Run {
    /// To a circuit that has formed and rests.
    Formed(fn(&mut Simulation, usize) -> Vec<Row>),
    /// To a network without servers.
    Empty(fn(&mut Simulation, usize) -> Vec<Row>),
}

impl Scenario {
    /// The target of this measure.
    pub fn target(&self, measure: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.measure == measure)
    }
}

/// The target of a measure: it is to be no more than this.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Which one.
    pub measure: &'static str,
    /// At most this in half of all samples.
    pub p50: f64,
    /// At most this in all.
    pub max: f64,
}

const fn within(measure: &'static str, p50: f64, max: f64) -> Target {
    Target { measure, p50, max }
}

const fn at_most(measure: &'static str, max: f64) -> Target {
    within(measure, max, max)
}

const NO_REMOVALS: Target = at_most("false removals", 0.0);

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "idle",
        about: "nothing happens for 60 s, a quarter of an hour after the last join",
        targets: &[
            at_most("packets/s", 22.0),
            at_most("bytes/s", 1800.0),
            at_most("second eigenvalue / bound", 1.02),
            NO_REMOVALS,
        ],
        others: "reference 5,702 msg/s, 2.5 MB/s; HyParView 10 msg/s, .6 kB/s, eigenvalue 1.3 of bound; memberlist 2 msg/s, 1.3 kB/s",
        run: Formed(idle),
    },
    Scenario {
        name: "overlay",
        about: "nothing happens for 60 s after the last join: what the graph is like",
        targets: &[at_most("second eigenvalue / bound", 1.02), NO_REMOVALS],
        others: "",
        run: Formed(overlay),
    },
    Scenario {
        name: "join",
        about: "20 servers join, one after another",
        targets: &[within("known everywhere", 0.2, 0.3), NO_REMOVALS],
        others: "reference 1.0-1.3 / 1.6; HyParView .17-.25 / .49; memberlist .61-.69 / 1.3",
        run: Formed(change::join),
    },
    Scenario {
        name: "leave",
        about: "servers leave in order, one after another",
        targets: &[within("gone everywhere", 0.15, 0.25), NO_REMOVALS],
        others: "",
        run: Formed(change::leave),
    },
    Scenario {
        name: "burst",
        about: "all servers but three join within 1 s",
        targets: &[at_most("exact", 2.0), NO_REMOVALS],
        others: "HyParView never; memberlist 53-55",
        run: Empty(change::burst),
    },
    Scenario {
        name: "restart",
        about: "servers are killed and started again after 2 s, with the same and with new identities",
        targets: &[NO_REMOVALS],
        others: "",
        run: Formed(change::restart),
    },
    Scenario {
        name: "churn",
        about: "for 120 s a server is killed every second and a new one joins",
        targets: &[NO_REMOVALS],
        others: "",
        run: Formed(change::churn),
    },
    Scenario {
        name: "kill",
        about: "processes are killed, one after another; tethers tell",
        targets: &[within("gone everywhere", 0.8, 1.2), NO_REMOVALS],
        others: "",
        run: Formed(failure::kill),
    },
    Scenario {
        name: "crash",
        about: "hosts fail in silence, one after another",
        targets: &[
            within("suspected everywhere", 2.1, 2.6),
            within("gone everywhere", 5.2, 5.6),
            NO_REMOVALS,
        ],
        others: "reference 3.6-4.8 / 6.3; HyParView 3.3 / 3.7; memberlist 14-15 / 16",
        run: Formed(failure::crash),
    },
    Scenario {
        name: "half",
        about: "half of all hosts fail at once",
        targets: &[at_most("exact", 6.5), NO_REMOVALS],
        others: "reference never; HyParView never; memberlist 91-148",
        run: Formed(|sim, n| failure::mass(sim, n / 2)),
    },
    Scenario {
        name: "eighty",
        about: "80 % of all hosts fail at once",
        targets: &[at_most("exact", 7.5), NO_REMOVALS],
        others: "reference never; HyParView never; memberlist 272 to over 300",
        run: Formed(|sim, n| failure::mass(sim, n * 4 / 5)),
    },
    Scenario {
        name: "partition",
        about: "the network is cut in halves for 60 s",
        targets: &[
            at_most("exact after the heal", 2.5),
            at_most("second eigenvalue / bound", 1.02),
            NO_REMOVALS,
        ],
        others: "reference never, or 42; HyParView never; memberlist never at 16 and 128",
        run: Formed(|sim, _| failure::partition(sim, 2, 60)),
    },
    Scenario {
        name: "three",
        about: "the network is cut in three for 60 s",
        targets: &[at_most("exact after the heal", 2.5), NO_REMOVALS],
        others: "",
        run: Formed(|sim, _| failure::partition(sim, 3, 60)),
    },
    Scenario {
        name: "long",
        about: "the network is cut in halves for ten minutes",
        targets: &[
            at_most("exact after the heal", 2.5),
            at_most("second eigenvalue / bound", 1.02),
            NO_REMOVALS,
        ],
        others: "",
        run: Formed(|sim, _| failure::partition(sim, 2, 600)),
    },
    Scenario {
        name: "alone",
        about: "one server is cut off for 60 s",
        targets: &[at_most("exact after the heal", 2.5), NO_REMOVALS],
        others: "",
        run: Formed(failure::alone),
    },
    Scenario {
        name: "lossy",
        about: "1 % of the servers, at least one, lose 80 % of what they send, for 300 s",
        targets: &[NO_REMOVALS],
        others: "HyParView 0; memberlist 6-12",
        run: Formed(fault::lossy),
    },
    Scenario {
        name: "loss",
        about: "every packet is lost with 5 %, for an hour",
        targets: &[NO_REMOVALS],
        others: "",
        run: Formed(fault::loss),
    },
    Scenario {
        name: "blocked",
        about: "2 % of the pairs cannot reach each other, for 300 s",
        targets: &[NO_REMOVALS],
        others: "HyParView 90-104; memberlist 0",
        run: Formed(fault::blocked),
    },
    Scenario {
        name: "asymmetric",
        about: "of 2 % of the pairs one cannot reach the other, for 300 s",
        targets: &[NO_REMOVALS],
        others: "",
        run: Formed(fault::asymmetric),
    },
    Scenario {
        name: "flapping",
        about: "2 % of the pairs are cut for 3 s of every 6 s, for 300 s",
        targets: &[NO_REMOVALS],
        others: "",
        run: Formed(fault::flapping),
    },
    Scenario {
        name: "stall3",
        about: "600 stalls of 3 s in 300 s, no tethers",
        targets: &[NO_REMOVALS],
        others: "HyParView 1057-1183; memberlist 0",
        run: Formed(|sim, _| fault::stalls(sim, 3, false)),
    },
    Scenario {
        name: "stall10",
        about: "600 stalls of 10 s in 300 s, with tethers",
        targets: &[at_most("false removals", 3.4)],
        others: "HyParView 866-944; memberlist .5-3.4",
        run: Formed(|sim, _| fault::stalls(sim, 10, true)),
    },
    Scenario {
        name: "wide",
        about: "latencies with heavy tails, as between continents, for 300 s; then a host fails",
        targets: &[NO_REMOVALS],
        others: "",
        run: Empty(fault::wide),
    },
    Scenario {
        name: "clocks",
        about: "clocks run up to 1 % fast or slow, for 300 s; then a host fails",
        targets: &[NO_REMOVALS],
        others: "",
        run: Empty(fault::clocks),
    },
];

/// Circuits of one size and seed, one for each scenario; what they have in common, that they form,
/// is simulated once.
#[derive(Debug)]
pub struct Circuits {
    n: usize,
    seed: u64,
    formed: Option<Simulation>,
}

impl Circuits {
    /// None is simulated yet.
    pub fn new(n: usize, seed: u64) -> Circuits {
        Circuits {
            n,
            seed,
            formed: None,
        }
    }

    /// Runs a scenario; its figures and the hash of its trace. If it is the `last` one, what has
    /// formed is not kept, which halves the memory.
    pub fn run(&mut self, scenario: &Scenario, last: bool) -> (Vec<Row>, u64) {
        let (mut sim, run) = match scenario.run {
            Empty(run) => (Simulation::new(self.seed), run),
            Formed(run) => {
                let formed = self.formed.take().unwrap_or_else(|| {
                    let mut sim = Simulation::new(self.seed);
                    sim.form(self.n);
                    sim
                });
                if !last {
                    self.formed = Some(formed.clone());
                }
                (formed, run)
            }
        };
        let rows = run(&mut sim, self.n);
        (rows, sim.trace())
    }
}

impl Simulation {
    /// Forms a circuit of `n` servers, each joining 3 ms after the last by a random earlier one, and
    /// lets it rest for 60 s.
    pub(super) fn form(&mut self, n: usize) {
        for i in 0..n {
            let by = self.random.below(i);
            self.add_started(if i == 0 {
                &[]
            } else {
                std::slice::from_ref(&by)
            });
            self.run(Duration::from_millis(3));
        }
        self.run(SECOND * 60);
        self.removals.clear();
    }

    /// How long it takes until all views are exact.
    pub(super) fn exact_after(&mut self, at_most: u32) -> f64 {
        seconds(self.run_until(SECOND * at_most, Simulation::is_exact))
    }

    /// Running servers at random.
    pub(super) fn some_up(&mut self, how_many: usize) -> Vec<usize> {
        let mut up: Vec<_> = self.up().map(|(i, _)| i).collect();
        self.random.shuffle(&mut up);
        up.truncate(how_many);
        up
    }

    /// A pair of servers at random.
    pub(super) fn some_pair(&mut self) -> (usize, usize) {
        let i = self.random.below(self.nodes.len());
        let j = (i + 1 + self.random.below(self.nodes.len() - 1)) % self.nodes.len();
        (i, j)
    }

    /// How many times a running server was dropped from a view so far.
    pub(super) fn false_removals(&self) -> Row {
        Row::new("false removals", [self.removals.len() as f64])
    }
}

/// A time as a figure.
pub(super) fn seconds(time: Option<Duration>) -> f64 {
    time.map_or(f64::INFINITY, |time| time.as_secs_f64())
}

fn overlay(sim: &mut Simulation, _: usize) -> Vec<Row> {
    let degrees = sim.up().map(|(_, machine)| machine.neighbours().count());
    vec![
        Row::new("degree", degrees.map(|degree| degree as f64)),
        Row::new("second eigenvalue / bound", [sim.expansion()]),
        sim.false_removals(),
    ]
}

fn idle(sim: &mut Simulation, n: usize) -> Vec<Row> {
    // Until exchanges of links are as frequent as they will ever be.
    sim.run(SECOND * 900);
    sim.network.count(n);
    sim.run(SECOND * 60);
    let degrees: Vec<f64> = sim
        .up()
        .map(|(_, machine)| machine.neighbours().count() as f64)
        .collect();
    let wanted = 8.min(n - 1) as f64;
    let sent = sim.network.traffic.iter().zip(&degrees);
    let mean = |value: &dyn Fn(&super::Traffic) -> u64| {
        let total: u64 = sim.network.traffic.iter().map(value).sum();
        total as f64 / 60.0 / n as f64
    };
    let mut rows = vec![
        Row::new(
            "packets/s",
            sent.clone()
                .map(|(sent, degree)| sent.packets as f64 / 60.0 + degree * UPKEEP_PACKETS),
        ),
        Row::new(
            "bytes/s",
            sent.map(|(sent, degree)| sent.bytes as f64 / 60.0 + degree * UPKEEP_BYTES),
        ),
        Row::new("messages/s, mean", [mean(&|sent| sent.messages)]),
        Row::new("datagrams/s, mean", [mean(&|sent| sent.datagrams)]),
        Row::new("handshakes/s, mean", [mean(&|sent| sent.handshakes)]),
        Row::new("degree", degrees.iter().copied()),
        Row::new(
            "share of servers off degree 8",
            [degrees.iter().filter(|degree| **degree != wanted).count() as f64 / n as f64],
        ),
    ];
    rows.push(Row::new("second eigenvalue / bound", [sim.expansion()]));
    rows.push(sim.false_removals());
    rows
}
