//! The simulator: many machines on a network that is lossy, slow and sometimes cut, and never the
//! same twice unless the seed is.
//!
//! Discrete events, one thread, no clock. The machines are those that ship; what is modelled is
//! their driver, QUIC's connections (reliable, ordered, closed after 10 s of silence), datagrams
//! (lost or not), tethers, and processes that are killed, stopped and restarted.
//!
//! The network: a latency of 1 to 50 ms, fixed per pair; each packet is lost independently; a lost
//! packet of a connection comes a retransmission later, and holds up what was sent after it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::random::Random;
use super::{Gone, Input, Machine, Message, Notice, Output, TetherState};
use crate::Fingerprint;

mod event;
mod network;
mod node;

use event::{Event, Queue};
pub use network::Network;
use node::End;
pub use node::Node;

/// After how much silence a connection is gone, as the driver sets it (DESIGN.md, section 5).
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a dialler waits for a server that does not answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a join URL is tried again.
const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// The simulated time of a retransmission: QUIC's probe timeout on a fresh path would be longer,
/// on a warm one it is the round trip and a little.
const RETRANSMIT: Duration = Duration::from_millis(30);

/// How often what a cut network holds up is sent again.
const RETRY: Duration = Duration::from_millis(300);

/// Servers, the network between them, and what is under way.
#[derive(Debug)]
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
    by_fingerprint: BTreeMap<Fingerprint, usize>,
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
            by_fingerprint: BTreeMap::new(),
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

    /// A hash of all that has happened: the same for the same seed and scenario.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// Adds a server that is not running yet; its number.
    pub fn add(&mut self) -> usize {
        let node = Node::new(self.nodes.len(), &mut self.random);
        self.by_fingerprint
            .insert(node.record().fingerprint, self.nodes.len());
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Starts a server, which goes on dialling these until it has reached one.
    pub fn start(&mut self, i: usize, joins: &[usize]) {
        let seed = self.random.bits();
        let life = self.now.as_millis() as u64;
        self.nodes[i].start(life, seed, self.now);
        self.nodes[i].joins = joins.to_vec();
        self.push(
            self.now,
            Event::Join {
                node: i,
                life: self.nodes[i].life,
            },
        );
        self.settle(i);
        // What is left of the connections of an earlier life is reset by the new one.
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

    /// Stops a server's process for a while, as `SIGSTOP` does: what comes in waits.
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
        if self.nodes[i].ends.contains_key(&j) || i == j || !self.nodes[i].is_up() {
            return;
        }
        let life = self.nodes[i].life;
        if self.network.is_blocked(i, j) || !self.nodes[j].is_up() {
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
        self.network.blocked.insert((i.min(j), i.max(j)));
        for (i, j) in [(i, j), (j, i)] {
            if let Some(end) = self.nodes[i].ends.get(&j) {
                let id = end.id;
                self.push(
                    self.now + IDLE_TIMEOUT,
                    Event::Gone {
                        node: i,
                        peer: j,
                        id,
                        why: Gone::Silent,
                    },
                );
            }
        }
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

    /// Runs until this holds, looking every 10 ms, at most for so long. The time it took.
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
            self.run(Duration::from_millis(10));
        }
        Some(self.now - begin)
    }

    /// Whether the view of every running server is the set of the running servers.
    pub fn is_exact(&self) -> bool {
        let up: BTreeSet<_> = self
            .nodes
            .iter()
            .filter(|node| node.is_up())
            .map(|node| node.record().clone())
            .collect();
        self.up()
            .all(|(_, machine)| machine.len() == up.len() && machine.live().eq(up.iter()))
    }

    /// The links of the running servers.
    fn links(&self) -> BTreeMap<Fingerprint, BTreeSet<Fingerprint>> {
        self.up()
            .map(|(_, machine)| {
                (
                    machine.me().fingerprint,
                    machine
                        .neighbours()
                        .map(|record| record.fingerprint)
                        .collect(),
                )
            })
            .collect()
    }

    /// Whether both ends of every link hold it to be one.
    pub fn is_symmetric(&self) -> bool {
        let links = self.links();
        links.iter().all(|(who, peers)| {
            peers
                .iter()
                .all(|peer| links.get(peer).is_some_and(|back| back.contains(who)))
        })
    }

    /// Whether the links are one graph of one piece.
    pub fn is_connected(&self) -> bool {
        let links = self.links();
        let mut reached = BTreeSet::new();
        let mut next: Vec<_> = links.keys().next().copied().into_iter().collect();
        while let Some(who) = next.pop() {
            if reached.insert(who) {
                let back =
                    |peer: &Fingerprint| links.get(peer).is_some_and(|back| back.contains(&who));
                next.extend(links.get(&who).into_iter().flatten().copied().filter(back));
            }
        }
        reached.len() == links.len()
    }

    /// The running servers' machines.
    pub fn up(&self) -> impl Iterator<Item = (usize, &Machine)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(i, node)| Some((i, node.machine()?)))
    }

    fn push(&mut self, at: Duration, event: Event) {
        self.queue.push(at, event);
    }

    /// The delay by losses of one message on a connection.
    fn retransmissions(&mut self, i: usize, j: usize) -> Duration {
        let mut delay = Duration::ZERO;
        while self.network.loses(i, &mut self.random) && delay < IDLE_TIMEOUT {
            delay = delay * 2 + self.network.latency(i, j) * 2 + RETRANSMIT;
        }
        delay
    }

    fn handle(&mut self, event: Event) {
        if let Some(node) = event.process()
            && let Some(until) = self.nodes[node].stalled
        {
            self.push(until, event);
            return;
        }
        match event {
            Event::Join { node, life } => {
                if self.nodes[node].life == life
                    && self.nodes[node].is_up()
                    && !self.nodes[node].joined
                {
                    for j in self.nodes[node].joins.clone() {
                        self.dial(node, j);
                    }
                    self.push(self.now + JOIN_AGAIN, Event::Join { node, life });
                }
            }
            Event::Accept { node, peer, life } => self.accept(node, peer, life),
            Event::Dialled {
                node,
                peer,
                id,
                life,
            } => {
                if self.nodes[node].life != life || !self.nodes[node].is_up() {
                    return;
                }
                // The other end may have opened one meanwhile; then this one is redundant.
                if self.nodes[node]
                    .ends
                    .get(&peer)
                    .is_some_and(|end| end.id != id)
                {
                    self.close(peer, node, id);
                    return;
                }
                self.nodes[node].ends.insert(peer, End::new(id, self.now));
                self.nodes[node].joined = true;
                self.input_from(node, peer, |peer| Input::Connected {
                    peer,
                    dialled: true,
                });
            }
            Event::DialFailed { node, peer, life } => {
                if self.nodes[node].life == life && !self.nodes[node].ends.contains_key(&peer) {
                    self.input_from(node, peer, |peer| Input::ConnectFailed { peer });
                }
            }
            Event::Gone {
                node,
                peer,
                id,
                why,
            } => self.gone(node, peer, id, why),
            Event::Late {
                node,
                peer,
                id,
                message,
            } => {
                if self.nodes[node].has(peer, id) && !self.network.is_blocked(node, peer) {
                    self.input_from(node, peer, |from| Input::Message {
                        from,
                        message: *message,
                    });
                }
            }
            Event::Deliver { node, peer, id } => self.deliver(node, peer, id),
            Event::Datagram {
                node,
                peer,
                message,
            } => {
                self.input_from(node, peer, |from| Input::Datagram {
                    from,
                    message: *message,
                });
            }
            Event::Tether {
                node,
                peer,
                id,
                state,
            } => {
                if self.nodes[node].has(peer, id) {
                    self.input_from(node, peer, |peer| Input::Tether { peer, state });
                }
            }
            Event::Resume { node } => {
                self.nodes[node].stalled = None;
                self.settle(node);
            }
            Event::Tick { node, life } => {
                if self.nodes[node].life == life {
                    self.nodes[node].disarm(self.now);
                    self.input(node, Input::Tick);
                }
            }
        }
    }

    /// The acceptor's end of a connection is up.
    fn accept(&mut self, node: usize, peer: usize, life: u64) {
        if !self.nodes[node].is_up() || self.nodes[peer].life != life {
            return;
        }
        // Of two that cross, the one that comes first stays.
        if self.nodes[node].ends.contains_key(&peer) && self.nodes[peer].ends.contains_key(&node) {
            return;
        }
        self.connections += 1;
        let id = self.connections;
        self.nodes[node].ends.insert(peer, End::new(id, self.now));
        let at = self.now + self.network.latency(node, peer);
        self.push(
            at,
            Event::Dialled {
                node: peer,
                peer: node,
                id,
                life,
            },
        );
        self.nodes[node].joined = true;
        self.input_from(node, peer, |peer| Input::Connected {
            peer,
            dialled: false,
        });
    }

    /// The connection ends at this end, unless there is no reason to any longer.
    fn gone(&mut self, node: usize, peer: usize, id: u64, why: Gone) {
        if !self.nodes[node].has(peer, id) {
            return;
        }
        let blocked = self.network.is_blocked(node, peer);
        match why {
            Gone::Silent if !blocked && self.nodes[peer].has(node, id) => return,
            Gone::Silent => {}
            _ if blocked => {
                self.push(
                    self.now + IDLE_TIMEOUT,
                    Event::Gone {
                        node,
                        peer,
                        id,
                        why: Gone::Silent,
                    },
                );
                return;
            }
            _ => {}
        }
        self.nodes[node].ends.remove(&peer);
        self.input_from(node, peer, |peer| Input::Disconnected { peer, why });
    }

    /// The message at the head of this end's queue has come, or could not.
    fn deliver(&mut self, node: usize, peer: usize, id: u64) {
        let blocked = self.network.is_blocked(peer, node);
        let now = self.now;
        let Some(end) = self.nodes[peer]
            .ends
            .get_mut(&node)
            .filter(|end| end.id == id)
        else {
            return;
        };
        let Some(ready) = end.queue.front().map(|(ready, _)| *ready) else {
            return;
        };
        if blocked || ready > now {
            self.push(ready.max(now + RETRY), Event::Deliver { node, peer, id });
            return;
        }
        let Some(end) = self.nodes[peer].ends.get_mut(&node) else {
            return;
        };
        let Some((_, message)) = end.queue.pop_front() else {
            return;
        };
        if let Some((ready, _)) = end.queue.front() {
            let at = *ready;
            self.push(at.max(now), Event::Deliver { node, peer, id });
        }
        if self.nodes[node].has(peer, id) {
            self.input_from(node, peer, |from| Input::Message { from, message });
        }
    }

    fn input_from(&mut self, i: usize, peer: usize, input: impl FnOnce(Fingerprint) -> Input) {
        let peer = self.nodes[peer].record().fingerprint;
        self.input(i, input(peer));
    }

    fn input(&mut self, i: usize, input: Input) {
        if self.nodes[i].is_up() {
            self.trace = self.trace.rotate_left(5) ^ (i as u64) << 32 ^ self.now.as_nanos() as u64;
            self.trace = self.trace.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.nodes[i].handle(input, self.now);
            self.settle(i);
        }
    }

    /// Carries out what the machine wants done.
    fn settle(&mut self, i: usize) {
        while let Some(output) = self.nodes[i].poll_output() {
            match output {
                Output::Connect { to } => {
                    if let Some(j) = self.find(&to.fingerprint) {
                        self.dial(i, j);
                    }
                }
                Output::Disconnect { peer } => {
                    if let Some(j) = self.find(&peer)
                        && let Some(end) = self.nodes[i].ends.get(&j)
                    {
                        let id = end.id;
                        self.close(i, j, id);
                    }
                }
                Output::Send { to, message } => self.send(i, to, message),
                Output::Datagram { to, message } => self.datagram(i, to.fingerprint, message),
                Output::Notice(Notice::Join(_)) => {}
                Output::Notice(Notice::Leave(record)) => {
                    if let Some(j) = self.find(&record.fingerprint)
                        && self.nodes[j].is_up()
                        && *self.nodes[j].record() == record
                    {
                        self.removals.push((self.now, i, j));
                    }
                }
            }
        }
        if let Some(at) = self.nodes[i].rearm() {
            let life = self.nodes[i].life;
            self.push(at, Event::Tick { node: i, life });
        }
    }

    fn find(&self, who: &Fingerprint) -> Option<usize> {
        self.by_fingerprint.get(who).copied()
    }

    /// Closes this end of a connection; the other end hears of it after what was sent before.
    fn close(&mut self, i: usize, j: usize, id: u64) {
        let Some(end) = self.nodes[i].ends.get(&j).filter(|end| end.id == id) else {
            return;
        };
        let end = end.clone();
        self.nodes[i].ends.remove(&j);
        self.finish(i, j, end, Gone::Closed);
    }

    /// What was sent before an end was closed still comes, and then the news that it was.
    fn finish(&mut self, i: usize, j: usize, end: End, why: Gone) {
        let id = end.id;
        let at = end.last_ready.max(self.now + self.network.latency(i, j));
        for (ready, message) in end.queue {
            self.push(
                ready.max(self.now),
                Event::Late {
                    node: j,
                    peer: i,
                    id,
                    message: Box::new(message),
                },
            );
        }
        self.push(
            at,
            Event::Gone {
                node: j,
                peer: i,
                id,
                why,
            },
        );
    }

    fn send(&mut self, i: usize, to: Fingerprint, message: Message) {
        let Some(j) = self.find(&to) else { return };
        let delay = self.network.latency(i, j) + self.retransmissions(i, j);
        let ready = self.now + delay;
        self.network.count(&message);
        let Some(end) = self.nodes[i].ends.get_mut(&j) else {
            return;
        };
        end.last_ready = end.last_ready.max(ready);
        let (ready, id) = (end.last_ready, end.id);
        end.queue.push_back((ready, message));
        if end.queue.len() == 1 {
            self.push(
                ready,
                Event::Deliver {
                    node: j,
                    peer: i,
                    id,
                },
            );
        }
    }

    fn datagram(&mut self, i: usize, to: Fingerprint, message: Message) {
        let Some(j) = self.find(&to) else { return };
        self.network.count(&message);
        if !self.network.is_blocked(i, j) && !self.network.loses(i, &mut self.random) {
            let at = self.now + self.network.latency(i, j);
            self.push(
                at,
                Event::Datagram {
                    node: j,
                    peer: i,
                    message: Box::new(message),
                },
            );
        }
    }
}
