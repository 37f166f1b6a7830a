//! The network: how long packets take, which are lost, and who cannot reach whom.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::membership::Message;
use crate::membership::random::Random;

/// What a message costs on a connection besides its own bytes: frame, stream, QUIC, UDP and IP
/// headers. Counted, not measured: 4 + 4 + 29 + 28.
const OVERHEAD: usize = 65;

/// The network between the servers, which are numbered.
#[derive(Debug)]
pub struct Network {
    /// The share of packets that are lost.
    pub loss: f64,
    /// The servers that lose more of what they send, and what share.
    pub lossy: Vec<(usize, f64)>,
    /// Which part of a cut network each server is in; empty while it is whole.
    pub groups: Vec<u32>,
    /// Pairs that cannot reach each other, the lower number first.
    pub blocked: BTreeSet<(usize, usize)>,
    /// How many messages were sent.
    pub messages: u64,
    /// How many bytes they had, headers included.
    pub bytes: u64,
    /// Whether bytes are counted, which takes time.
    pub counts_bytes: bool,
    seed: u64,
}

impl Network {
    pub(super) fn new(seed: u64) -> Network {
        Network {
            loss: 0.0,
            lossy: Vec::new(),
            groups: Vec::new(),
            blocked: BTreeSet::new(),
            messages: 0,
            bytes: 0,
            counts_bytes: false,
            seed,
        }
    }

    /// How long a packet takes between these two: 1 to 50 ms, fixed per pair.
    pub fn latency(&self, i: usize, j: usize) -> Duration {
        let pair = (i.min(j) as u64) << 32 | i.max(j) as u64;
        let mut random = Random::new(self.seed ^ pair.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Duration::from_millis(1) + random.time(Duration::from_millis(49))
    }

    /// Whether these two cannot reach each other.
    pub fn is_blocked(&self, i: usize, j: usize) -> bool {
        self.groups.get(i) != self.groups.get(j) || self.blocked.contains(&(i.min(j), i.max(j)))
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

    pub(super) fn count(&mut self, message: &Message) {
        self.messages += 1;
        if self.counts_bytes {
            self.bytes += (message.encode().map_or(0, |bytes| bytes.len()) + OVERHEAD) as u64;
        }
    }
}
