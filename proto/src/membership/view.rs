//! The view of one server: the values that it holds of all servers, their digests, and tombstones.
//!
//! The view knows how values are merged and summed. It knows nothing of why they change:
//! suspicions, floods and notices are the machine's.
//!
//! **Invariants:** the value held of a member never decreases. The digest is the sum over the live
//! members, so two views with the same live members have the same one. At most
//! [`MAX_TOMBSTONES`] members are not live. Of those whose tombstones are gone, the last
//! [`MAX_FORGOTTEN`] cannot come back at the value at which they went.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::entry::{Entry, Held, Phase};
use super::message::BUCKETS;
use super::random::Random;
use super::tuning::{MAX_FORGOTTEN, MAX_MEMBERS, MAX_NAME, MAX_TOMBSTONES, TOMBSTONE};
use super::{Notice, Record};
use crate::{Fingerprint, ServerId};

/// A server and the value that is held of it. Members are ordered as their fingerprints are: a set
/// has one of each.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) record: Arc<Record>,
    pub(super) incarnation: u64,
    pub(super) phase: Phase,
    /// Since when it is in this phase.
    pub(super) since: Duration,
    /// Its place in the list of the live, if it is live.
    slot: u32,
}

impl Member {
    /// The lattice value.
    pub(super) fn held(&self) -> Held {
        Held {
            count: self.record.count,
            instance: self.record.instance,
            incarnation: self.incarnation,
            phase: self.phase,
        }
    }
}

impl Borrow<Fingerprint> for Member {
    fn borrow(&self) -> &Fingerprint {
        &self.record.fingerprint
    }
}

impl Ord for Member {
    fn cmp(&self, other: &Member) -> Ordering {
        self.record.fingerprint.cmp(&other.record.fingerprint)
    }
}

impl PartialOrd for Member {
    fn partial_cmp(&self, other: &Member) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Member) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Member {}

/// How an entry compares with the value that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing is held of that server.
    Unknown,
    /// The same is held.
    Same,
    /// The value that is held is greater.
    Older,
    /// The entry is greater.
    Newer,
}

/// All servers that one server has heard of.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    // Records are shared: an entry costs some 60 bytes besides.
    members: BTreeSet<Member>,
    live: Vec<Arc<Record>>,
    tombstones: BTreeSet<(Duration, Fingerprint)>,
    /// The last values of the servers whose tombstones are gone.
    forgotten: BTreeMap<Fingerprint, Held>,
    forgotten_order: VecDeque<Fingerprint>,
    digest: u64,
    buckets: Vec<u64>,
}

impl View {
    pub(super) fn new() -> View {
        View {
            buckets: vec![0; BUCKETS],
            ..View::default()
        }
    }

    /// The member with this fingerprint, live or not.
    pub(super) fn get(&self, who: &Fingerprint) -> Option<&Member> {
        self.members.get(who)
    }

    /// The member with this fingerprint, if it is live.
    pub(super) fn live_member(&self, who: &Fingerprint) -> Option<&Member> {
        self.get(who).filter(|member| member.phase.is_live())
    }

    /// The live member with this id: the first, should two keys have been made to collide.
    pub(super) fn find(&self, id: ServerId) -> Option<&Member> {
        let mut first = [0; 32];
        first[..8].copy_from_slice(&id.0.to_be_bytes());
        self.members
            .range(Fingerprint(first)..)
            .take_while(|member| member.record.fingerprint.id() == id)
            .find(|member| member.phase.is_live())
    }

    /// Whether this member is live and nothing is held against it.
    pub(super) fn is_trusted(&self, who: &Fingerprint) -> bool {
        self.get(who)
            .is_some_and(|member| member.phase == Phase::Alive)
    }

    /// The live members in the order of their fingerprints.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.phase.is_live())
    }

    /// The live members in no order that means anything: for random choices.
    pub(super) fn live(&self) -> &[Arc<Record>] {
        &self.live
    }

    /// A live member at random.
    pub(super) fn random_live(&self, random: &mut Random) -> Option<Fingerprint> {
        let record = self.live.get(random.below(self.live.len()))?;
        Some(record.fingerprint)
    }

    /// The tombstones, the oldest first.
    pub(super) fn tombstones(&self) -> impl DoubleEndedIterator<Item = &Member> {
        self.tombstones
            .iter()
            .filter_map(|(_, who)| self.members.get(who))
    }

    /// How many tombstones there are.
    pub(super) fn tombstone_count(&self) -> usize {
        self.tombstones.len()
    }

    /// A tombstone at random.
    pub(super) fn random_tombstone(&self, random: &mut Random) -> Option<&Member> {
        let (_, who) = self
            .tombstones
            .iter()
            .nth(random.below(self.tombstones.len()))?;
        self.members.get(who)
    }

    /// The sum over the live members.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// The sums over the buckets.
    pub(super) fn buckets(&self) -> &[u64] {
        &self.buckets
    }

    /// The entry that tells of this member: with its record if it is alive, or always if `whole`.
    pub(super) fn entry(&self, who: &Fingerprint, whole: bool, now: Duration) -> Option<Entry> {
        let Some(member) = self.members.get(who) else {
            let held = *self.forgotten.get(who)?;
            // Its receiver drops it, and does not keep a new tombstone.
            return Some(Entry {
                fingerprint: *who,
                held,
                age: u32::MAX,
                record: None,
            });
        };
        let age = match member.phase {
            Phase::Alive | Phase::Suspect | Phase::Condemned => 0,
            Phase::Stalled | Phase::Down | Phase::Left => {
                now.saturating_sub(member.since).as_secs()
            }
        };
        Some(Entry {
            fingerprint: *who,
            held: member.held(),
            age: u32::try_from(age).unwrap_or(u32::MAX),
            record: (whole || member.phase == Phase::Alive).then(|| Arc::clone(&member.record)),
        })
    }

    /// How an entry compares with the value that is held.
    pub(super) fn compare(&self, who: &Fingerprint, held: &Held) -> Standing {
        let known = match self.members.get(who) {
            Some(member) => Some(member.held()),
            None => self.forgotten.get(who).copied(),
        };
        match known.map(|known| held.cmp(&known)) {
            None => Standing::Unknown,
            Some(Ordering::Equal) => Standing::Same,
            Some(Ordering::Less) => Standing::Older,
            Some(Ordering::Greater) if !self.members.contains(who) => Standing::Unknown,
            Some(Ordering::Greater) => Standing::Newer,
        }
    }

    /// Raises the value that is held of a server, and returns the notices for subscribers.
    ///
    /// Without a record the known one is kept; a server of which nothing is known needs one.
    /// Nothing happens if the value is not greater than the one held.
    pub(super) fn raise(
        &mut self,
        who: Fingerprint,
        held: Held,
        record: Option<Arc<Record>>,
        since: Duration,
    ) -> Vec<Notice> {
        if !matches!(
            self.compare(&who, &held),
            Standing::Unknown | Standing::Newer
        ) {
            return Vec::new();
        }
        let Some(record) = self.record_for(who, held, record) else {
            return Vec::new();
        };
        let before = self.take(&who);
        let mut notices = Vec::new();
        let same_life = before.as_ref().is_some_and(|old| held.is_of(old));
        if let Some(old) = before
            && !(held.phase.is_live() && same_life)
        {
            notices.push(Notice::Leave(old));
        }
        if held.phase.is_live() && !same_life {
            notices.push(Notice::Join(Arc::clone(&record)));
        }
        self.put(who, held, record, since);
        self.bound();
        notices
    }

    /// The record to keep for this value: the one that came, else the known one.
    fn record_for(
        &self,
        who: Fingerprint,
        held: Held,
        record: Option<Arc<Record>>,
    ) -> Option<Arc<Record>> {
        let known = self.members.get(&who).map(|member| &member.record);
        match (record, known) {
            (_, Some(known)) if held.is_of(known) => Some(Arc::clone(known)),
            (Some(record), _) if self.members.len() < MAX_MEMBERS || known.is_some() => {
                Some(record)
            }
            // Of a life that was never seen, only its end is told: a tombstone at the last place.
            (None, Some(known)) if !held.phase.is_live() => Some(Arc::new(Record {
                count: held.count,
                instance: held.instance,
                ..Record::clone(known)
            })),
            _ => None,
        }
    }

    /// Takes the member out; its record, if it was live.
    fn take(&mut self, who: &Fingerprint) -> Option<Arc<Record>> {
        let member = self.members.take(who)?;
        if !member.phase.is_live() {
            self.tombstones.remove(&(member.since, *who));
            return None;
        }
        self.live.swap_remove(member.slot as usize);
        if let Some(moved) = self.live.get(member.slot as usize)
            && let Some(mut moved) = self.members.take(&moved.fingerprint)
        {
            moved.slot = member.slot;
            self.members.insert(moved);
        }
        self.sum(who, &member.held(), u64::wrapping_sub);
        Some(member.record)
    }

    fn put(&mut self, who: Fingerprint, held: Held, record: Arc<Record>, since: Duration) {
        // At most MAX_MEMBERS are kept: the slot fits.
        let slot = self.live.len() as u32;
        if held.phase.is_live() {
            self.live.push(Arc::clone(&record));
            self.sum(&who, &held, u64::wrapping_add);
        } else {
            self.tombstones.insert((since, who));
        }
        if self.forgotten.remove(&who).is_some() {
            self.forgotten_order.retain(|other| *other != who);
        }
        let Held {
            incarnation, phase, ..
        } = held;
        self.members.insert(Member {
            record,
            incarnation,
            phase,
            since,
            slot,
        });
    }

    fn sum(&mut self, who: &Fingerprint, held: &Held, operation: fn(u64, u64) -> u64) {
        let hash = hash(who, held);
        self.digest = operation(self.digest, hash);
        if let Some(bucket) = self.buckets.get_mut(bucket(who)) {
            *bucket = operation(*bucket, hash);
        }
    }

    /// Drops the oldest tombstones beyond the bound.
    fn bound(&mut self) {
        while self.tombstones.len() > MAX_TOMBSTONES {
            self.forget_first();
        }
    }

    /// Drops the tombstones that have expired.
    pub(super) fn expire(&mut self, now: Duration) {
        while let Some((since, _)) = self.tombstones.first()
            && now.saturating_sub(*since) >= TOMBSTONE
        {
            self.forget_first();
        }
    }

    /// Drops the oldest tombstone, and keeps of it only the value, which prevents a resurrection.
    fn forget_first(&mut self) {
        let Some((_, who)) = self.tombstones.pop_first() else {
            return;
        };
        let Some(member) = self.members.take(&who) else {
            return;
        };
        self.forgotten.insert(who, member.held());
        self.forgotten_order.push_back(who);
        while self.forgotten_order.len() > MAX_FORGOTTEN
            && let Some(who) = self.forgotten_order.pop_front()
        {
            self.forgotten.remove(&who);
        }
    }
}

/// The bucket of a member.
pub(super) fn bucket(who: &Fingerprint) -> usize {
    usize::from(who.0[0]) * BUCKETS / 256
}

/// The hash of one live member's value.
///
/// The mixing is that of SplitMix64 (Steele, Lea, Flood 2014). It need not withstand attackers:
/// who could make values collide is a member already.
pub(super) fn hash(who: &Fingerprint, held: &Held) -> u64 {
    let mut state = mix(held.incarnation ^ (held.phase as u64) << 56);
    state = mix(state ^ held.count);
    state = mix(state ^ held.instance);
    for word in who.0.chunks_exact(8) {
        let word = word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        state = mix(state ^ word);
    }
    state
}

fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether an entry can be believed at all: a peer may send anything.
pub(super) fn is_sane(entry: &Entry) -> bool {
    let of_the_same =
        |record: &Record| record.fingerprint == entry.fingerprint && entry.held.is_of(record);
    entry.held.is_sane()
        && entry
            .record
            .as_ref()
            .is_none_or(|record| of_the_same(record) && is_sane_record(record))
}

fn is_sane_record(record: &Record) -> bool {
    record
        .url
        .server
        .is_some_and(|server| server.id == record.fingerprint.id())
        && record.name.len() <= MAX_NAME
        && !record.name.contains(char::is_control)
}

#[cfg(test)]
mod tests;
