//! What one server holds of another: the lattice value, and how it is told.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Record;
use super::tuning::{MAX_INCARNATION, MAX_LIVES};
use crate::{Fingerprint, Url};

/// What is held of a member, from best to worst: the last part of its lattice value, after the
/// life and the incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Nothing is held against it.
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

/// What is held of one server, without saying of which: a value of the lattice.
///
/// Values are ordered by their fields: what is held of a later life counts for more than anything
/// that is held of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Held {
    /// Of which life it is held: [`Life::count`](crate::Life::count).
    pub count: u64,
    /// The incarnation in that life: 0 at its start. The server raises it to outbid what is held
    /// against it.
    pub incarnation: u64,
    /// What is held of that incarnation.
    pub phase: Phase,
}

impl Held {
    /// Whether a peer's numbers can be believed.
    pub(super) fn is_sane(&self) -> bool {
        self.count <= MAX_LIVES && self.incarnation <= MAX_INCARNATION
    }
}

/// Where a server is and what it is called: what a [`Record`] says besides who and which life.
#[derive(Serialize, Deserialize)]
struct Place {
    url: Url,
    name: String,
}

/// What one server holds of another, as it is told.
///
/// On the wire the record is its URL and name alone, the rest being said already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Entry {
    /// Who is meant.
    pub fingerprint: Fingerprint,
    /// What is held of it.
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
