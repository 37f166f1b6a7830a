//! The value that one server holds of another, and the form in which it is told.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Record;
use super::tuning::{MAX_INCARNATION, MAX_LIVES};
use crate::{Fingerprint, Url};

/// The state of a member, from best to worst: the last part of its value, after the life and the
/// incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// It is not in doubt.
    Alive,
    /// It does not answer.
    Suspect,
    /// It does not answer, and its host's kernel does: the process is stopped, or very busy.
    Stalled,
    /// It is suspected upon hard evidence.
    Condemned,
    /// It has failed.
    Down,
    /// It has said that it leaves.
    Left,
}

impl Phase {
    /// Whether a member in this phase still counts as a member: alive or suspected.
    pub fn is_live(self) -> bool {
        self < Phase::Down
    }

    /// Whether it is suspected, and not yet given up.
    pub fn is_suspected(self) -> bool {
        self.is_live() && self != Phase::Alive
    }
}

/// A value of the lattice: what a server holds of a member, without saying of which.
///
/// Values are ordered by their fields, and the greater of two replaces the other: anything that is
/// known of a later life replaces all that is known of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Held {
    /// The life of the member: [`Life::count`](crate::Life::count).
    pub count: u64,
    /// Which of several lives of that count: [`Life::instance`](crate::Life::instance).
    pub instance: u64,
    /// The incarnation in that life: 0 at its start. The member raises it to outbid suspicions.
    pub incarnation: u64,
    /// The state in that incarnation.
    pub phase: Phase,
}

impl Held {
    /// Whether it is of this record's life.
    pub(super) fn is_of(&self, record: &Record) -> bool {
        (self.count, self.instance) == (record.count, record.instance)
    }

    /// Whether a peer's numbers can be believed.
    pub(super) fn is_sane(&self) -> bool {
        self.count <= MAX_LIVES && self.incarnation <= MAX_INCARNATION
    }
}

/// The part of a [`Record`] that does not follow from the rest of an [`Entry`].
#[derive(Serialize, Deserialize)]
struct Place {
    url: Url,
    name: String,
}

/// One server's statement about another.
///
/// On the wire the record is its URL and name alone: the entry has the rest already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Entry {
    /// The server that it is about.
    pub fingerprint: Fingerprint,
    /// The value that the sender holds.
    pub held: Held,
    /// For how many seconds it has been stalled, down or gone; 0 otherwise.
    pub age: u32,
    /// Its record; left out where the receiver is thought to know.
    pub record: Option<Arc<Record>>,
}

/// An [`Entry`] as it is encoded.
#[derive(Serialize, Deserialize)]
struct Wire {
    fingerprint: Fingerprint,
    held: Held,
    age: u32,
    place: Option<Place>,
}

impl From<Entry> for Wire {
    fn from(entry: Entry) -> Wire {
        let Entry {
            fingerprint,
            held,
            age,
            record,
        } = entry;
        let place = record.map(|record| Place {
            url: record.url.clone(),
            name: record.name.clone(),
        });
        Wire {
            fingerprint,
            held,
            age,
            place,
        }
    }
}

impl From<Wire> for Entry {
    fn from(wire: Wire) -> Entry {
        let Wire {
            fingerprint,
            held,
            age,
            place,
        } = wire;
        let record = place.map(|Place { url, name }| {
            Arc::new(Record {
                fingerprint,
                url,
                name,
                count: held.count,
                instance: held.instance,
            })
        });
        Entry {
            fingerprint,
            held,
            age,
            record,
        }
    }
}
