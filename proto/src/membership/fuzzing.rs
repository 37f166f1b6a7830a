//! The body of a fuzz target: a few machines, and a network that does anything.
//!
//! An input is a list of operations. Messages are those that the machines made, delivered to
//! anybody, from anybody, again, late, or with a byte changed: so the target needs to know nothing
//! of their form, and follows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arbitrary::Unstructured;

use super::tuning::{MAX_DEGREE, MAX_INCARNATION, MAX_TOMBSTONES, SEEKING};
use super::{Gone, Input, MAX_DATAGRAM, Machine, Message, Notice, Output, Record, TetherState};
use crate::Fingerprint;
use crate::url::{Host, Server, Url};

/// How many machines there are. Chosen, not measured: two neighbours, a witness, a newcomer, and
/// one to spare.
const MACHINES: u8 = 5;

/// How many messages are kept to be delivered. Chosen, not measured.
const KEPT: usize = 256;

/// How many timers may come due in one step. Chosen, not measured: far above what a step of a
/// minute needs.
const DUE: usize = 20_000;

/// Runs the operations of an input.
pub(crate) fn machine(data: &[u8]) {
    let mut script = Unstructured::new(data);
    let mut nodes: Vec<Node> = (0..MACHINES).map(Node::new).collect();
    let mut said: Vec<Message> = nodes.iter().map(|node| node.machine.hello()).collect();
    let mut now = Duration::from_secs(1);
    while !script.is_empty() {
        let operation = byte(&mut script);
        let (at, other) = (byte(&mut script) % MACHINES, byte(&mut script) % MACHINES);
        let (node, peer) = (usize::from(at), fingerprint(other));
        let from = peer;
        match operation % 12 {
            // As drivers connect two servers: with the first words of both.
            0 | 1 if at != other => {
                for (node, peer) in [(at, other), (other, at)] {
                    let hello = nodes[usize::from(peer)].machine.hello();
                    let peer = fingerprint(peer);
                    let dialled = node == at;
                    let node = &mut nodes[usize::from(node)];
                    node.handle(Input::Connected { peer, dialled }, now, &mut said);
                    let input = Input::Message {
                        from: peer,
                        message: hello,
                    };
                    node.handle(input, now, &mut said);
                }
            }
            2 => {
                let dialled = byte(&mut script).is_multiple_of(2);
                nodes[node].handle(Input::Connected { peer, dialled }, now, &mut said);
            }
            3 => {
                let all = [Gone::Closed, Gone::Leaving, Gone::Silent, Gone::Reset];
                let why = all[usize::from(byte(&mut script)) % all.len()];
                nodes[node].handle(Input::Disconnected { peer, why }, now, &mut said);
            }
            4 => nodes[node].handle(Input::ConnectFailed { peer }, now, &mut said),
            5 => {
                let all = [
                    TetherState::Unknown,
                    TetherState::Acknowledged,
                    TetherState::Broken,
                ];
                let state = all[usize::from(byte(&mut script)) % all.len()];
                nodes[node].handle(Input::Tether { peer, state }, now, &mut said);
            }
            // Time passes: for one, or for all.
            6 => {
                now += Duration::from_millis(short(&mut script).into());
                nodes[node].catch_up(now, &mut said);
            }
            7 => {
                now += Duration::from_millis(byte(&mut script).into()) * 10;
                for node in &mut nodes {
                    node.catch_up(now, &mut said);
                }
            }
            // A server ends, with a word or without, and another life of it begins.
            8 => {
                if byte(&mut script).is_multiple_of(2) {
                    nodes[node].handle(Input::Leave, now, &mut said);
                }
                nodes[node] = Node::again(at, nodes[node].machine.me().count + 1, now);
                said.push(nodes[node].machine.hello());
            }
            operation => {
                let Some(message) = said.get(usize::from(byte(&mut script)) % said.len()) else {
                    continue;
                };
                let message = match operation {
                    11 => changed(message, &mut script),
                    _ => Some(message.clone()),
                };
                let Some(message) = message else { continue };
                let input = match byte(&mut script) % 2 {
                    0 => Input::Message { from, message },
                    _ => Input::Datagram { from, message },
                };
                nodes[node].handle(input, now, &mut said);
            }
        }
        let surplus = said.len().saturating_sub(KEPT);
        said.drain(..surplus);
    }
}

/// The next byte of the input; zero behind its end.
fn byte(script: &mut Unstructured<'_>) -> u8 {
    script.arbitrary().unwrap_or_default()
}

fn short(script: &mut Unstructured<'_>) -> u16 {
    script.arbitrary().unwrap_or_default()
}

/// A message with some bytes changed, if that is one.
fn changed(message: &Message, script: &mut Unstructured<'_>) -> Option<Message> {
    let mut bytes = message.encode().ok()?;
    for _ in 0..=byte(script) % 3 {
        let at = usize::from(short(script)) % bytes.len();
        bytes[at] = byte(script);
    }
    Message::decode(&bytes).ok()?
}

/// A machine, and what its subscribers believe.
struct Node {
    machine: Machine,
    subscribed: BTreeMap<Fingerprint, Arc<Record>>,
    left: bool,
}

impl Node {
    fn new(who: u8) -> Node {
        Node::again(who, 1, Duration::ZERO)
    }

    /// The life of this number.
    fn again(who: u8, count: u64, now: Duration) -> Node {
        let me = record(who, count);
        let subscribed = BTreeMap::from([(me.fingerprint, Arc::new(me.clone()))]);
        Node {
            machine: Machine::new(me, who.into(), now),
            subscribed,
            left: false,
        }
    }

    fn handle(&mut self, input: Input, now: Duration, said: &mut Vec<Message>) {
        self.left |= input == Input::Leave;
        // A server that finds itself in the view as a later life takes that life's number and more.
        let life = |machine: &Machine| (machine.me().count, machine.incarnation());
        let before = life(&self.machine);
        self.machine.handle(input, now);
        assert!(life(&self.machine) >= before);
        self.check(said);
    }

    /// As a driver would: all that has come due.
    fn catch_up(&mut self, now: Duration, said: &mut Vec<Message>) {
        for _ in 0..DUE {
            let due = self.machine.poll_timeout();
            let Some(at) = due.filter(|at| *at <= now) else {
                return;
            };
            self.handle(Input::Tick, at.max(now), said);
        }
        panic!("time stands still");
    }

    fn check(&mut self, said: &mut Vec<Message>) {
        let machine = &mut self.machine;
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Notice(Notice::Join(record)) => {
                    assert_eq!(self.subscribed.insert(record.fingerprint, record), None);
                }
                Output::Notice(Notice::Leave(record)) => {
                    let left = self.subscribed.remove(&record.fingerprint);
                    assert_eq!(left, Some(record));
                }
                Output::Datagram { message, .. } => {
                    let bytes = message.encode().expect("a message is written");
                    assert!(bytes.len() <= MAX_DATAGRAM, "{message:?}");
                    said.push(message);
                }
                Output::Send { message, .. } => {
                    assert!(message.encode().is_ok());
                    said.push(message);
                }
                Output::Connect { to } => assert!(to.fingerprint != machine.me().fingerprint),
                Output::Ask { to } => assert_ne!(to.instance, machine.me().instance),
                Output::Disconnect { .. } => {}
            }
        }
        let me = machine.me();
        assert!(machine.live().eq(self.subscribed.values()));
        assert_eq!(machine.len(), self.subscribed.len());
        assert!(machine.is_live(&me.fingerprint));
        assert!(machine.suspected().all(|record| record != me));
        assert!(machine.incarnation() <= MAX_INCARNATION);
        assert!(machine.neighbours().count() <= MAX_DEGREE + SEEKING);
        assert!(machine.failed().count() <= MAX_TOMBSTONES);
        assert!(!self.left || machine.poll_timeout().is_none());
    }
}

fn fingerprint(who: u8) -> Fingerprint {
    Fingerprint([who; 32])
}

fn record(who: u8, count: u64) -> Record {
    let fingerprint = fingerprint(who);
    let server = Some(Server {
        pid: 1,
        id: fingerprint.id(),
    });
    Record {
        fingerprint,
        url: Url {
            host: Host::Ip([10, 0, 0, who].into()),
            port: 1,
            server,
        },
        name: String::new(),
        count,
        instance: 0,
    }
}
