//! One simulated server: its machine, and the driver's side of its connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::membership::random::Random;
use crate::membership::{Input, Machine, Message, Notice, Output, Record};
use crate::url::{Host, Server};
use crate::{Fingerprint, Url};

/// A server, running or not.
#[derive(Debug, Clone)]
pub struct Node {
    /// The count of its next life.
    pub count: u64,
    record: Record,
    machine: Option<Machine>,
    /// Counts its lives.
    pub(super) life: u64,
    /// Until when the process is stopped.
    pub(super) stalled: Option<Duration>,
    /// The servers that it dials until it knows one.
    pub(super) joins: Vec<usize>,
    /// The servers that it is dialling.
    pub(super) dialling: BTreeSet<usize>,
    pub(super) ends: BTreeMap<usize, End>,
    /// How fast its clock runs.
    pub rate: f64,
    armed: Option<Duration>,
    subscriber: Subscriber,
}

/// The servers in the circuit, as a subscriber knows them: from the first list, and then the notices.
#[derive(Debug, Clone, Default)]
struct Subscriber {
    /// By the servers' numbers: the count of the life that is in, plus one; 0 for none.
    lives: Vec<u64>,
    count: usize,
}

impl Subscriber {
    fn life(&mut self, who: &Record) -> &mut u64 {
        let i = number(&who.fingerprint);
        if i >= self.lives.len() {
            self.lives.resize(i + 1, 0);
        }
        &mut self.lives[i]
    }

    fn joins(&mut self, who: &Record) {
        let before = std::mem::replace(self.life(who), who.count + 1);
        assert_eq!(before, 0, "a join of who was in already");
        self.count += 1;
    }

    fn leaves(&mut self, who: &Record) {
        let before = std::mem::replace(self.life(who), 0);
        assert_eq!(before, who.count + 1, "a leave of who was not in");
        self.count -= 1;
    }
}

/// The number of the server with this fingerprint, which is in it.
pub(super) fn number(who: &Fingerprint) -> usize {
    let [.., a, b, c, d] = who.0;
    u32::from_le_bytes([a, b, c, d]) as usize
}

/// This server's end of a connection.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) id: u64,
    /// The messages under way to the other end, and when they come.
    pub(super) queue: VecDeque<(Duration, Message)>,
    /// When the last message that was sent comes.
    pub(super) last_ready: Duration,
}

impl End {
    pub(super) fn new(id: u64, now: Duration) -> End {
        End {
            id,
            queue: VecDeque::new(),
            last_ready: now,
        }
    }
}

impl Node {
    pub(super) fn new(i: usize, random: &mut Random) -> Node {
        let mut key = [0; 32];
        for word in key.chunks_exact_mut(8) {
            word.copy_from_slice(&random.bits().to_le_bytes());
        }
        key[28..].copy_from_slice(&(i as u32).to_le_bytes());
        let fingerprint = Fingerprint(key);
        let server = Some(Server {
            pid: i as u32,
            id: fingerprint.id(),
        });
        let address = [10, (i >> 16) as u8, (i >> 8) as u8, i as u8];
        let url = Url {
            host: Host::Ip(address.into()),
            port: 11022,
            server,
        };
        Node {
            count: 0,
            record: Record {
                fingerprint,
                url,
                name: format!("host-{i}"),
                count: 0,
                instance: 0,
            },
            machine: None,
            life: 0,
            stalled: None,
            joins: Vec::new(),
            dialling: BTreeSet::new(),
            ends: BTreeMap::new(),
            rate: 1.0,
            armed: None,
            subscriber: Subscriber::default(),
        }
    }

    /// Its record, of its present or last life.
    pub fn record(&self) -> &Record {
        self.machine.as_ref().map_or(&self.record, Machine::me)
    }

    /// Its machine, if it runs.
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    pub(super) fn start(&mut self, seed: u64, now: Duration) {
        self.life += 1;
        self.dialling.clear();
        self.stalled = None;
        self.armed = None;
        self.record.count = self.count;
        self.record.instance = self.life;
        self.count += 1;
        let machine = Machine::new(self.record.clone(), seed, self.local(now));
        self.subscriber = Subscriber::default();
        machine.live().for_each(|who| self.subscriber.joins(who));
        self.machine = Some(machine);
    }

    /// The process ends; its ends of connections.
    pub(super) fn stop(&mut self) -> BTreeMap<usize, End> {
        self.machine = None;
        std::mem::take(&mut self.ends)
    }

    /// Whether it has an end of this connection.
    pub(super) fn has(&self, peer: usize, id: u64) -> bool {
        self.ends.get(&peer).is_some_and(|end| end.id == id)
    }

    pub(super) fn handle(&mut self, input: Input, now: Duration) {
        let now = self.local(now);
        if let Some(machine) = &mut self.machine {
            machine.handle(input, now);
        }
    }

    /// The time by its own clock.
    fn local(&self, now: Duration) -> Duration {
        if self.rate == 1.0 {
            now
        } else {
            now.mul_f64(self.rate)
        }
    }

    /// The machine's next output; notices are checked on their way.
    pub(super) fn poll_output(&mut self) -> Option<Output> {
        let output = self.machine.as_mut()?.poll_output();
        match &output {
            Some(Output::Notice(Notice::Join(record))) => self.subscriber.joins(record),
            Some(Output::Notice(Notice::Leave(record))) => self.subscriber.leaves(record),
            Some(_) => {}
            None => {
                let live = self.machine.as_ref().map(Machine::len);
                assert_eq!(live, Some(self.subscriber.count), "a gap in the notices");
            }
        }
        output
    }

    /// When a tick is to be scheduled, unless an earlier one is.
    pub(super) fn rearm(&mut self) -> Option<Duration> {
        let mut at = self.machine.as_ref()?.poll_timeout()?;
        if self.rate != 1.0 {
            // Never early by rounding: time would stand still.
            at = at.div_f64(self.rate) + Duration::from_micros(1);
        }
        if self.armed.is_some_and(|armed| armed <= at) {
            return None;
        }
        self.armed = Some(at);
        Some(at)
    }

    pub(super) fn disarm(&mut self, now: Duration) {
        if self.armed.is_some_and(|armed| armed <= now) {
            self.armed = None;
        }
    }
}
