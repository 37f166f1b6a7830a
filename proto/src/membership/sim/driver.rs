//! The model of a driver: opens, keeps and loses connections, brings messages to the machines, and
//! carries out their outputs.

use std::time::Duration;

use super::event::Event;
use super::node::{End, number};
use super::{ASK_TIMEOUT, DIAL_TIMEOUT, IDLE_TIMEOUT, JOIN_AGAIN, RETRANSMIT, RETRY, Simulation};
use crate::Fingerprint;
use crate::membership::{Gone, Input, Message, Notice, Output, Verdict};

impl Simulation {
    pub(super) fn push(&mut self, at: Duration, event: Event) {
        self.queue.push(at, event);
    }

    /// The delay by losses of one message on a connection.
    pub(super) fn retransmissions(&mut self, i: usize, j: usize) -> Duration {
        let mut delay = Duration::ZERO;
        while self.network.loses(i, &mut self.random) && delay < IDLE_TIMEOUT {
            delay = delay * 2 + self.network.latency(i, j) * 2 + RETRANSMIT;
        }
        delay
    }

    pub(super) fn handle(&mut self, event: Event) {
        if let Some(node) = event.process()
            && let Some(until) = self.nodes[node].stalled
        {
            self.push(until, event);
            return;
        }
        match event {
            Event::Join { node, life } => {
                // Nobody is known who could be joined by: not only has nobody answered yet.
                let alone = self.nodes[node]
                    .machine()
                    .is_some_and(|machine| machine.len() == 1);
                if self.nodes[node].life == life && alone {
                    for j in self.nodes[node].joins.clone() {
                        self.dial(node, j);
                    }
                    self.push(self.now + JOIN_AGAIN, Event::Join { node, life });
                }
            }
            Event::Accept {
                node,
                peer,
                life,
                hello,
            } => self.accept(node, peer, life, *hello),
            Event::Dialled {
                node,
                peer,
                id,
                life,
            } => {
                if self.nodes[node].life != life || !self.nodes[node].is_up() {
                    return;
                }
                self.nodes[node].dialling.remove(&peer);
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
                self.input_from(node, peer, |peer| Input::Connected {
                    peer,
                    dialled: true,
                });
            }
            Event::DialFailed { node, peer, life } => {
                if self.nodes[node].life != life {
                    return;
                }
                self.nodes[node].dialling.remove(&peer);
                if !self.nodes[node].ends.contains_key(&peer) {
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
                if self.nodes[node].has(peer, id) && !self.network.is_blocked(peer, node) {
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
                if self.nodes[node].has(peer, id) && !self.network.is_blocked(peer, node) {
                    self.input_from(node, peer, |peer| Input::Tether { peer, state });
                }
            }
            Event::Resume { node } => {
                self.nodes[node].stalled = None;
                self.settle(node);
            }
            Event::Settled { node, life, other } => {
                if self.nodes[node].life == life {
                    let (count, instance) = other;
                    let verdict = Verdict::Nobody(count);
                    self.input(node, Input::Settled { instance, verdict });
                }
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
    fn accept(&mut self, node: usize, peer: usize, life: u64, hello: Message) {
        if self.nodes[peer].life != life {
            return;
        }
        if !self.nodes[node].is_up() {
            let failed = Event::DialFailed {
                node: peer,
                peer: node,
                life,
            };
            self.push(self.now + DIAL_TIMEOUT, failed);
            return;
        }
        // Of two that cross, the one that comes first stays.
        if self.nodes[node].ends.contains_key(&peer) && self.nodes[peer].ends.contains_key(&node) {
            self.nodes[peer].dialling.remove(&node);
            return;
        }
        self.connections += 1;
        let id = self.connections;
        self.network.opened(node, peer, &hello);
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
        self.input_from(node, peer, |peer| Input::Connected {
            peer,
            dialled: false,
        });
        self.input_from(node, peer, |from| Input::Message {
            from,
            message: hello,
        });
    }

    /// The connection ends at this end, unless there is no reason to any longer.
    fn gone(&mut self, node: usize, peer: usize, id: u64, why: Gone) {
        if !self.nodes[node].has(peer, id) {
            return;
        }
        let blocked = self.network.is_blocked(peer, node);
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
            let at = if blocked { now + RETRY } else { ready };
            self.push(at, Event::Deliver { node, peer, id });
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
        } else if self.nodes[node].is_up() {
            let (node, peer, why) = (peer, node, Gone::Reset);
            self.push(
                now + self.network.latency(node, peer),
                Event::Gone {
                    node,
                    peer,
                    id,
                    why,
                },
            );
        }
    }

    fn input_from(&mut self, i: usize, peer: usize, input: impl FnOnce(Fingerprint) -> Input) {
        let peer = self.nodes[peer].record().fingerprint;
        self.input(i, input(peer));
    }

    pub(super) fn input(&mut self, i: usize, input: Input) {
        if self.nodes[i].is_up() {
            self.trace = self.trace.rotate_left(5) ^ (i as u64) << 32 ^ self.now.as_nanos() as u64;
            self.trace = self.trace.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.nodes[i].handle(input, self.now);
            self.settle(i);
        }
    }

    /// Carries out the outputs of a machine.
    pub(super) fn settle(&mut self, i: usize) {
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
                // No two of these servers have one identity.
                Output::Ask { to } => {
                    let life = self.nodes[i].life;
                    let settled = Event::Settled {
                        node: i,
                        life,
                        other: (to.count, to.instance),
                    };
                    self.push(self.now + ASK_TIMEOUT, settled);
                }
                Output::Notice(Notice::Join(_)) => {}
                Output::Notice(Notice::Leave(record)) => {
                    if let Some(j) = self.find(&record.fingerprint)
                        && self.nodes[j].is_up()
                        && *self.nodes[j].record() == *record
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
        Some(number(who)).filter(|i| *i < self.nodes.len())
    }

    /// Closes this end of a connection; the other end hears of it after the messages sent before.
    fn close(&mut self, i: usize, j: usize, id: u64) {
        let Some(end) = self.nodes[i].ends.get(&j).filter(|end| end.id == id) else {
            return;
        };
        let end = end.clone();
        self.nodes[i].ends.remove(&j);
        self.finish(i, j, end, Gone::Closed);
    }

    /// Delivers the messages that were sent before an end was closed, and then the close.
    pub(super) fn finish(&mut self, i: usize, j: usize, end: End, why: Gone) {
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
        if !self.nodes[i].ends.contains_key(&j) {
            return;
        }
        let delay = self.network.delay(i, j, &mut self.random) + self.retransmissions(i, j);
        let ready = self.now + delay;
        self.network.sent(i, j, &message);
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
        self.network.sent_datagram(i, &message);
        if !self.network.is_blocked(i, j) && !self.network.loses(i, &mut self.random) {
            let at = self.now + self.network.delay(i, j, &mut self.random);
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
