//! The simulator: many machines on a network that is lossy, slow and sometimes cut, and never the
//! same twice unless the seed is.
//!
//! Discrete events, one thread, no clock. The machines are those that ship; the model consists of
//! their driver, QUIC's connections (reliable, ordered, closed after 10 s of silence), datagrams
//! (lost or not), tethers, and processes that are killed, stopped and restarted.
//!
//! The network: a latency of 1 to 50 ms, fixed per pair; each packet is lost independently; a lost
//! packet of a connection comes a retransmission later, and holds up what was sent after it.

use std::time::Duration;

use super::random::Random;
use super::{Gone, Input, Machine, TetherState};

mod check;
mod driver;
mod event;
mod network;
mod node;
pub mod report;
pub mod scenario;
pub mod spectrum;
mod traffic;

use event::{Event, Queue};
pub use network::{Latency, Network};
pub use node::Node;
pub use traffic::{Traffic, UPKEEP_BYTES, UPKEEP_PACKETS};

/// After how much silence a connection is gone, as the driver sets it (docs/design.md, "The wire").
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a dialler waits for a server that does not answer. The driver waits for three seconds;
/// no figure of twelve scenarios of failures and partitions at 128 servers, seeds 101 to 105, is
/// another with them.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the driver waits for an answer to [`Output::Ask`](super::Output::Ask).
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a join URL is tried again.
const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// The simulated time of a retransmission: QUIC's probe timeout on a fresh path would be longer,
/// on a warm one it is the round trip and a little.
const RETRANSMIT: Duration = Duration::from_millis(30);

/// How often a message that a cut network holds up is sent again.
const RETRY: Duration = Duration::from_millis(300);

/// Servers, the network between them, and the events to come.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// The servers, running or not, in the order in which they were added.
    pub nodes: Vec<Node>,
    /// The network.
    pub network: Network,
    /// Whether links have tethers.
    pub tethers: bool,
    /// When which server dropped which running one from its view: the false removals.
    pub removals: Vec<(Duration, usize, usize)>,
    now: Duration,
    queue: Queue,
    random: Random,
    connections: u64,
    trace: u64,
    seed: u64,
}

impl Simulation {
    /// A network without servers.
    pub fn new(seed: u64) -> Simulation {
        Simulation {
            nodes: Vec::new(),
            network: Network::new(seed),
            tethers: false,
            removals: Vec::new(),
            now: Duration::ZERO,
            queue: Queue::default(),
            random: Random::new(seed),
            connections: 0,
            trace: seed,
            seed,
        }
    }

    /// The simulated time.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// A hash of when each server heard something: the same for the same seed and scenario, and
    /// another once anything that was said has changed what is said next, or when.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Adds a server that is not running yet; its number.
    pub fn add(&mut self) -> usize {
        let node = Node::new(self.nodes.len(), &mut self.random);
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Starts a server, which goes on dialling these until it has reached one.
    pub fn start(&mut self, i: usize, joins: &[usize]) {
        let seed = self.random.bits();
        self.nodes[i].start(seed, self.now);
        self.nodes[i].joins = joins.to_vec();
        self.push(
            self.now,
            Event::Join {
                node: i,
                life: self.nodes[i].life,
            },
        );
        self.settle(i);
        // The new life resets the connections of an earlier one.
        for j in 0..self.nodes.len() {
            if let Some(end) = self.nodes[j].ends.get(&i)
                && j != i
            {
                let id = end.id;
                let at = self.now + self.random.time(JOIN_AGAIN);
                self.push(
                    at,
                    Event::Gone {
                        node: j,
                        peer: i,
                        id,
                        why: Gone::Reset,
                    },
                );
            }
        }
    }

    /// Adds a server and starts it; its number.
    pub fn add_started(&mut self, joins: &[usize]) -> usize {
        let i = self.add();
        self.start(i, joins);
        i
    }

    /// Kills a server's process: it says nothing any more.
    pub fn kill(&mut self, i: usize) {
        self.crash(i, self.tethers);
    }

    /// The server's whole host fails: not even its kernel says anything.
    pub fn crash_host(&mut self, i: usize) {
        self.crash(i, false);
    }

    fn crash(&mut self, i: usize, tethers: bool) {
        let ends = self.nodes[i].stop();
        for (j, end) in ends {
            self.push(
                self.now + IDLE_TIMEOUT,
                Event::Gone {
                    node: j,
                    peer: i,
                    id: end.id,
                    why: Gone::Silent,
                },
            );
            if tethers && !self.network.is_blocked(i, j) {
                let at = self.now + self.network.latency(i, j);
                self.push(
                    at,
                    Event::Tether {
                        node: j,
                        peer: i,
                        id: end.id,
                        state: TetherState::Broken,
                    },
                );
            }
        }
    }

    /// Lets a server leave in order.
    pub fn leave(&mut self, i: usize) {
        self.input(i, Input::Leave);
        let ends = self.nodes[i].stop();
        for (j, end) in ends {
            self.finish(i, j, end, Gone::Leaving);
        }
    }

    /// Stops a server's process for a while, as `SIGSTOP` does: messages to it wait.
    pub fn stall(&mut self, i: usize, how_long: Duration) {
        let until = self.now + how_long;
        self.nodes[i].stalled = Some(until);
        self.push(until, Event::Resume { node: i });
        if self.tethers {
            for (j, end) in self.nodes[i].ends.clone() {
                let at = self.now + Duration::from_secs(1);
                self.push(
                    at,
                    Event::Tether {
                        node: j,
                        peer: i,
                        id: end.id,
                        state: TetherState::Acknowledged,
                    },
                );
            }
        }
    }

    /// Opens a connection by the driver's own decision, as discovery does.
    pub fn dial(&mut self, i: usize, j: usize) {
        let node = &mut self.nodes[i];
        if node.ends.contains_key(&j) || i == j {
            return;
        }
        let Some(hello) = node.machine().map(|machine| Box::new(machine.hello())) else {
            return;
        };
        if !node.dialling.insert(j) {
            return;
        }
        let life = self.nodes[i].life;
        if self.network.is_blocked(i, j) || self.network.is_blocked(j, i) || !self.nodes[j].is_up()
        {
            self.push(
                self.now + DIAL_TIMEOUT,
                Event::DialFailed {
                    node: i,
                    peer: j,
                    life,
                },
            );
            return;
        }
        // A round trip for QUIC's handshake, another one for Hello and Welcome.
        let latency = self.network.latency(i, j);
        let delay = latency * 3 + self.retransmissions(i, j);
        self.push(
            self.now + delay,
            Event::Accept {
                node: j,
                peer: i,
                life,
                hello,
            },
        );
    }

    /// Cuts the network: servers of different groups cannot reach each other.
    pub fn partition(&mut self, group: impl Fn(usize) -> u32) {
        self.network.groups = (0..self.nodes.len()).map(group).collect();
        for i in 0..self.nodes.len() {
            for (j, end) in self.nodes[i].ends.clone() {
                if self.network.is_blocked(i, j) {
                    self.push(
                        self.now + IDLE_TIMEOUT,
                        Event::Gone {
                            node: i,
                            peer: j,
                            id: end.id,
                            why: Gone::Silent,
                        },
                    );
                }
            }
        }
    }

    /// Mends the network.
    pub fn heal(&mut self) {
        self.network.groups.clear();
        self.network.blocked.clear();
    }

    /// Cuts the path between two servers.
    pub fn block(&mut self, i: usize, j: usize) {
        self.block_one_way(i, j);
        self.block_one_way(j, i);
    }

    /// Lets nothing come from `i` to `j`.
    pub fn block_one_way(&mut self, i: usize, j: usize) {
        self.network.blocked.insert((i, j));
        // The end that hears nothing gives the connection up first, and then the end that is not heard.
        for (end, peer, turn) in [(j, i, 1), (i, j, 2)] {
            if let Some(id) = self.nodes[end].ends.get(&peer).map(|end| end.id) {
                self.push(
                    self.now + IDLE_TIMEOUT * turn,
                    Event::Gone {
                        node: end,
                        peer,
                        id,
                        why: Gone::Silent,
                    },
                );
            }
        }
    }

    /// Mends the path between two servers.
    pub fn unblock(&mut self, i: usize, j: usize) {
        self.network.blocked.remove(&(i, j));
        self.network.blocked.remove(&(j, i));
    }

    /// Runs for so long.
    pub fn run(&mut self, how_long: Duration) {
        let end = self.now + how_long;
        while let Some((at, event)) = self.queue.take_until(end) {
            self.now = at;
            self.handle(event);
        }
        self.now = end;
    }

    /// Runs until this holds, looking every 5 ms, at most for so long. The time it took.
    pub fn run_until(
        &mut self,
        at_most: Duration,
        holds: impl Fn(&Simulation) -> bool,
    ) -> Option<Duration> {
        let begin = self.now;
        while !holds(self) {
            if self.now - begin >= at_most {
                return None;
            }
            self.run(Duration::from_millis(5));
        }
        Some(self.now - begin)
    }

    /// The running servers' machines.
    pub fn up(&self) -> impl Iterator<Item = (usize, &Machine)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(i, node)| Some((i, node.machine()?)))
    }
}
