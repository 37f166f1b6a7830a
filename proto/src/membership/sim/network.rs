//! The network: how long packets take, which are lost, and which servers cannot reach which.

use std::collections::BTreeSet;
use std::time::Duration;

use super::traffic::Traffic;
use crate::membership::Message;
use crate::membership::random::Random;

/// How packets are delayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// 1 to 50 ms, fixed per pair.
    Local,
    /// Heavy-tailed, as between continents: per pair a Pareto distribution (20 ms and up, shape
    /// 1.5, at most 400 ms); each packet up to a tenth more, and one in a hundred 200 ms to 1 s more.
    /// Chosen, not measured.
    Wide,
}

/// The network between the servers, which are numbered.
#[derive(Debug, Clone)]
pub struct Network {
    /// How packets are delayed.
    pub delays: Latency,
    /// The share of packets that are lost.
    pub loss: f64,
    /// The servers that lose more of their packets, and the share that they lose.
    pub lossy: Vec<(usize, f64)>,
    /// Which part of a cut network each server is in; empty while it is whole.
    pub groups: Vec<u32>,
    /// The pairs of which the first cannot reach the second.
    pub blocked: BTreeSet<(usize, usize)>,
    /// The traffic of each server, while it is counted.
    pub traffic: Vec<Traffic>,
    /// Whether traffic is counted, which takes time.
    pub counts: bool,
    seed: u64,
}

impl Network {
    pub(super) fn new(seed: u64) -> Network {
        Network {
            delays: Latency::Local,
            loss: 0.0,
            lossy: Vec::new(),
            groups: Vec::new(),
            blocked: BTreeSet::new(),
            traffic: Vec::new(),
            counts: false,
            seed,
        }
    }

    /// How long a packet takes between these two, at least.
    pub fn latency(&self, i: usize, j: usize) -> Duration {
        let pair = (i.min(j) as u64) << 32 | i.max(j) as u64;
        let mut random = Random::new(self.seed ^ pair.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        match self.delays {
            Latency::Local => Duration::from_millis(1) + random.time(Duration::from_millis(49)),
            Latency::Wide => {
                let tail = (1.0 - random.fraction()).powf(-1.0 / 1.5);
                Duration::from_millis(20).mul_f64(tail.min(20.0))
            }
        }
    }

    /// How long this packet takes.
    pub(super) fn delay(&self, i: usize, j: usize, random: &mut Random) -> Duration {
        let latency = self.latency(i, j);
        match self.delays {
            Latency::Local => latency,
            Latency::Wide => {
                let late = if random.below(100) == 0 {
                    Duration::from_millis(200) + random.time(Duration::from_millis(800))
                } else {
                    Duration::ZERO
                };
                latency + random.time(latency / 10) + late
            }
        }
    }

    /// Whether nothing comes from `i` to `j`.
    pub fn is_blocked(&self, i: usize, j: usize) -> bool {
        self.groups.get(i) != self.groups.get(j) || self.blocked.contains(&(i, j))
    }

    /// Whether a packet from `i` is lost on its way.
    pub(super) fn loses(&self, i: usize, random: &mut Random) -> bool {
        let own = self
            .lossy
            .iter()
            .find(|(lossy, _)| *lossy == i)
            .map_or(0.0, |(_, share)| *share);
        let share = self.loss.max(own);
        share > 0.0 && random.fraction() < share
    }

    /// Counts from now on.
    pub fn count(&mut self, nodes: usize) {
        self.counts = true;
        self.traffic = vec![Traffic::default(); nodes];
    }

    pub(super) fn sent(&mut self, i: usize, j: usize, message: &Message) {
        if self.counts && i.max(j) < self.traffic.len() {
            let packets = self.traffic[i].message(message);
            self.traffic[j].acknowledge(packets);
        }
    }

    pub(super) fn sent_datagram(&mut self, i: usize, message: &Message) {
        if self.counts && i < self.traffic.len() {
            self.traffic[i].datagram(message);
        }
    }

    /// A connection from `j` to `i` is up.
    pub(super) fn opened(&mut self, i: usize, j: usize, hello: &Message) {
        if self.counts && i.max(j) < self.traffic.len() {
            self.traffic[i].handshake(None);
            self.traffic[j].handshake(Some(hello));
        }
    }
}
