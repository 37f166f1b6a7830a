//! A segment in memory, whose clock the tests own: servers, packets in flight, and a membership
//! that joins the circuits of two servers some time after one has heard of the other.

use std::collections::BTreeSet;

use super::*;

/// The time that a packet takes.
pub(super) const LATENCY: Duration = Duration::from_millis(1);
/// The time that membership takes to make one circuit of two.
pub(super) const MERGE: Duration = Duration::from_millis(100);

pub(super) enum Event {
    Packet {
        cable: usize,
        sender: usize,
        bytes: Vec<u8>,
    },
    Merge(usize, usize),
}

pub(super) struct Server {
    pub(super) cable: usize,
    pub(super) circuit: usize,
    alive: bool,
    pub(super) told: usize,
    pub(super) said: usize,
}

/// Servers on cables; each cable is a segment.
#[derive(Default)]
pub(super) struct World {
    now: Duration,
    pub(super) machines: Vec<Machine>,
    pub(super) servers: Vec<Server>,
    ids: BTreeMap<ServerId, usize>,
    pub(super) events: BTreeMap<(Duration, usize), Event>,
    sequence: usize,
    pub(super) answers: Vec<(SocketAddr, Vec<u8>)>,
    pub(super) trace: Vec<String>,
}

impl World {
    pub(super) fn start(&mut self, key: Option<Key>) -> usize {
        let server = self.servers.len();
        self.machines.push(machine(server, key));
        self.servers.push(Server {
            cable: 0,
            circuit: server,
            alive: true,
            told: 0,
            said: 0,
        });
        self.ids.insert(id(server), server);
        self.input(server, Input::Segments(&[SEGMENT]));
        server
    }

    /// A circuit of `n` servers that started one after the other and has settled.
    pub(super) fn settled(n: usize, key: Option<Key>) -> World {
        let mut world = World::default();
        for _ in 0..n {
            world.start(key.clone());
            world.run(ms(300));
        }
        world.run(Duration::from_secs(300));
        assert!(world.is_one());
        world.clear();
        world
    }

    pub(super) fn clear(&mut self) {
        self.servers
            .iter_mut()
            .for_each(|server| (server.told, server.said) = (0, 0));
    }

    pub(super) fn said(&self) -> usize {
        self.servers.iter().map(|server| server.said).sum()
    }

    pub(super) fn told(&self) -> usize {
        self.servers.iter().map(|server| server.told).sum()
    }

    pub(super) fn circuits(&self) -> BTreeSet<usize> {
        self.servers
            .iter()
            .filter(|server| server.alive)
            .map(|server| server.circuit)
            .collect()
    }

    pub(super) fn is_one(&self) -> bool {
        self.circuits().len() == 1
    }

    fn input(&mut self, server: usize, input: Input<'_>) {
        let circuit = self.servers[server].circuit;
        let life_of = |id| {
            let other = self.ids.get(&id).map(|other| &self.servers[*other]);
            all(id).filter(|_| other.is_some_and(|other| other.circuit == circuit && other.alive))
        };
        self.machines[server].handle(input, self.now, &life_of);
        while let Some(output) = self.machines[server].poll_output() {
            self.trace
                .push(format!("{:?} {server} {output:?}", self.now));
            self.output(server, output);
        }
    }

    fn output(&mut self, server: usize, output: Output) {
        match output {
            Output::Multicast { bytes, .. } => {
                self.servers[server].said += 1;
                let cable = self.servers[server].cable;
                self.later(
                    LATENCY,
                    Event::Packet {
                        cable,
                        sender: server,
                        bytes,
                    },
                );
            }
            Output::Unicast { to, bytes } => self.answers.push((to, bytes)),
            Output::Heard(Identity { url, .. }) => {
                self.servers[server].told += 1;
                let other = self.ids[&url.server.unwrap().id];
                self.later(MERGE, Event::Merge(server, other));
            }
        }
    }

    fn later(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Packet {
                cable,
                sender,
                bytes,
            } => {
                for server in 0..self.servers.len() {
                    if self.servers[server].alive && self.servers[server].cable == cable {
                        let packet = Input::Packet {
                            segment: SEGMENT,
                            from: from(sender),
                            bytes: &bytes,
                        };
                        self.input(server, packet);
                    }
                }
            }
            Event::Merge(a, b) => {
                let (into, gone) = (self.servers[a].circuit, self.servers[b].circuit);
                if self.servers[a].alive && self.servers[b].alive {
                    let members = self
                        .servers
                        .iter_mut()
                        .filter(|server| server.circuit == gone);
                    members.for_each(|server| server.circuit = into);
                }
            }
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let alive = (0..self.servers.len()).filter(|server| self.servers[*server].alive);
            let timer = alive
                .filter_map(|i| Some((self.machines[i].poll_timeout()?, i)))
                .min();
            let event = self.events.first_key_value().map(|(at, _)| *at);
            match (timer, event) {
                (Some((at, server)), event) if at <= until && event.is_none_or(|(e, _)| at < e) => {
                    self.now = self.now.max(at);
                    self.input(server, Input::Timeout);
                }
                (_, Some((at, _))) if at <= until => {
                    self.now = self.now.max(at);
                    let (_, event) = self.events.pop_first().unwrap();
                    self.deliver(event);
                }
                _ => break,
            }
        }
        self.now = until;
    }

    /// Sends a query of a client on the cable, and returns what comes back.
    pub(super) fn ask(&mut self, query: &Query<'_>, attempt: u8) -> Vec<Reply> {
        self.answers.clear();
        let sender = self.servers.len();
        self.later(
            LATENCY,
            Event::Packet {
                cable: 0,
                sender,
                bytes: query.packet(attempt),
            },
        );
        self.run(LATENCY);
        self.answers
            .iter()
            .filter_map(|(_, bytes)| query.check(bytes))
            .collect()
    }
}
