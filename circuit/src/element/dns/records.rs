//! The records of a DNS server, and the search for a name among them.
//!
//! Names are held in canonical order (RFC 4034, section 6.1), in which the names below a name follow
//! it. So the successor of a name tells whether there are names below it.
//!
//! **Invariants:** a CNAME is alone at its name. All records of a type that were set at a name fit an
//! answer over TCP. The text of all records fits the frame of a `peek`.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use circuit_proto::{Code, Error};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

use super::text::{self, LONGEST_DATA};

/// How long the text of all records may be, in bytes, with its framing: less than a frame of 1 MiB.
const LONGEST_TEXT: usize = 1_000_000;

/// How long the records of a type at a name may be in all: with the question, whose name is not
/// counted, and an OPT record, a message takes them.
const LONGEST_SET: usize = 65_535 - 12 - 4 - 11;

/// How many bytes the frame of a `peek` needs for a record besides its text.
const FRAMING: usize = 8;

/// The records of one server.
#[derive(Debug, Default)]
pub(super) struct Records {
    names: BTreeMap<LowerName, Node>,
    /// The length of the text of all records that were set.
    text: usize,
    /// How many names have a SOA.
    zones: usize,
}

/// The records at a name.
#[derive(Debug)]
pub(super) struct Node {
    /// The name as it was first set.
    name: Name,
    /// In the order of setting.
    set: Vec<Record>,
    /// The records of live servers.
    live: Vec<Record>,
}

/// The result of a search for a name.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// These records; a wildcard's too (RFC 4592).
    Node(&'a Node),
    /// There are no records at the name, but there are names below it.
    EmptyNonTerminal,
    /// Authority is with others (RFC 1034, section 4.2.1): these name servers.
    Delegation(&'a Node),
    /// No such name.
    Nothing,
}

impl Node {
    fn new(name: Name) -> Node {
        Node {
            name,
            set: Vec::new(),
            live: Vec::new(),
        }
    }

    /// The records of a type. A SOA that was set replaces that of the live servers.
    pub(super) fn of(&self, kind: RecordType) -> impl Iterator<Item = &Record> {
        let of_kind = move |record: &&Record| record.record_type() == kind;
        let replaced = kind == RecordType::SOA && self.set.iter().any(|r| of_kind(&r));
        let live = self.live.iter().filter(move |_| !replaced);
        self.set.iter().chain(live).filter(of_kind)
    }

    /// The first type that it has.
    pub(super) fn first_kind(&self) -> Option<RecordType> {
        let first = self.set.first().or(self.live.first());
        first.map(Record::record_type)
    }

    /// Whether the records of a type are the list of live servers, of which a part will do.
    pub(super) fn lists_live(&self, kind: RecordType) -> bool {
        kind == RecordType::SRV && !self.live.is_empty()
    }

    fn has(&self, kind: RecordType) -> bool {
        self.of(kind).next().is_some()
    }

    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.live.is_empty()
    }
}

impl Records {
    /// Adds a record. One that is there changes nothing; one that differs in its lifetime alone
    /// replaces the other, and so does a SOA.
    pub(super) fn set(&mut self, record: Record) -> Result<(), Error> {
        let (kind, key) = (record.record_type(), LowerName::new(&record.name));
        let refused = |code, what: &str| {
            let name = text::print_name(&record.name);
            Err(Error::new(code, format!("{name}: {what}")))
        };
        let node = self.names.get(&key);
        let set = node.map_or(&[][..], |node| &node.set);
        let place = set.iter().position(|old| {
            old.data == record.data
                || (kind == RecordType::SOA && old.record_type() == RecordType::SOA)
        });
        let all = set.iter().chain(node.iter().flat_map(|node| &node.live));
        let mut others = all.filter(|other| other.data != record.data);
        let clash = match kind {
            RecordType::CNAME => others.next().is_some(),
            _ => others.any(|other| other.record_type() == RecordType::CNAME),
        };
        if clash {
            // RFC 1034, section 3.6.2.
            let what = "a CNAME stands alone at its name: unset what is there first";
            return refused(Code::InvalidArgument, what);
        }
        // The library names the owner in full from the 120th name on.
        let owner = match record.name.is_wildcard() {
            true => Name::MAX_LENGTH,
            false => wire_length(&record.name),
        };
        let of_kind = node.into_iter().flat_map(|node| node.of(kind));
        let lengths = of_kind.chain(place.is_none().then_some(&record));
        let length: usize = lengths
            .map(|record| owner + 10 + text::data_length(&record.data).unwrap_or(LONGEST_DATA))
            .sum();
        // One record alone is never too long: its owner is in the question.
        if length > LONGEST_SET - owner && length > owner + 10 + LONGEST_DATA {
            let what = "more records of a type than an answer takes";
            return refused(Code::TooLarge, what);
        }
        let old = place.map_or(0, |place| cost(&set[place]));
        let text = self.text - old + cost(&record);
        if text > LONGEST_TEXT {
            let what = "the element is full: its records have 1 MB of text";
            return refused(Code::TooLarge, what);
        }
        self.text = text;
        let name = &record.name;
        let node = self
            .names
            .entry(key)
            .or_insert_with(|| Node::new(name.clone()));
        let had_zone = node.has(RecordType::SOA);
        match place {
            Some(place) => node.set[place] = record,
            None => node.set.push(record),
        }
        self.zones += usize::from(node.has(RecordType::SOA)) - usize::from(had_zone);
        Ok(())
    }

    /// Removes what was set at a name, or those of a type.
    pub(super) fn unset(&mut self, name: &Name, kind: Option<RecordType>) {
        self.change(name, |node| {
            node.set
                .retain(|record| kind.is_some_and(|kind| record.record_type() != kind));
        });
    }

    /// Changes the records of live servers at a name.
    pub(super) fn change_live(&mut self, name: &Name, change: impl FnOnce(&mut Vec<Record>)) {
        let key = LowerName::new(name);
        self.names
            .entry(key)
            .or_insert_with(|| Node::new(name.clone()));
        self.change(name, |node| change(&mut node.live));
    }

    fn change(&mut self, name: &Name, change: impl FnOnce(&mut Node)) {
        let key = LowerName::new(name);
        let Some(node) = self.names.get_mut(&key) else {
            return;
        };
        let before: usize = node.set.iter().map(cost).sum();
        let had_zone = node.has(RecordType::SOA);
        change(node);
        self.text = self.text - before + node.set.iter().map(cost).sum::<usize>();
        self.zones = self.zones + usize::from(node.has(RecordType::SOA)) - usize::from(had_zone);
        if node.is_empty() {
            self.names.remove(&key);
        }
    }

    /// The records that were set, as text.
    pub(super) fn print(&self) -> BTreeMap<String, Vec<String>> {
        let nodes = self.names.values().filter(|node| !node.set.is_empty());
        nodes
            .map(|node| {
                let records = node.set.iter().map(text::print).collect();
                (text::print_name(&node.name), records)
            })
            .collect()
    }

    /// Searches for a name.
    pub(super) fn find(&self, name: &LowerName) -> Found<'_> {
        match self.delegation(name) {
            Some(node) => Found::Delegation(node),
            None => self.within_zone(name),
        }
    }

    /// Searches for a name as if nothing were delegated.
    pub(super) fn within_zone(&self, name: &LowerName) -> Found<'_> {
        if let Some(node) = self.names.get(name) {
            return Found::Node(node);
        }
        if self.leads_to_others(name) {
            return Found::EmptyNonTerminal;
        }
        // RFC 4592, section 3.3.1: the wildcard below the closest name that there is, if any.
        let closest = ancestors(name).find(|above| {
            above.is_root() || self.names.contains_key(above) || self.leads_to_others(above)
        });
        let wildcard = closest.and_then(|closest| {
            let wildcard = Name::clone(&closest).prepend_label(&b"*"[..]).ok()?;
            Some(LowerName::new(&wildcard))
        });
        match wildcard {
            Some(wildcard) => match self.names.get(&wildcard) {
                Some(node) => Found::Node(node),
                // RFC 4592, sections 2.2.2 and 4.9: it matches, and has no data.
                None if self.leads_to_others(&wildcard) => Found::EmptyNonTerminal,
                None => Found::Nothing,
            },
            None => Found::Nothing,
        }
    }

    fn leads_to_others(&self, name: &LowerName) -> bool {
        let behind = (Excluded(name), Unbounded);
        let next = self.names.range::<LowerName, _>(behind).next();
        next.is_some_and(|(next, _)| name.zone_of(next))
    }

    /// The name servers of the uppermost zone that is delegated between the closest zone of ours and
    /// the name.
    fn delegation(&self, name: &LowerName) -> Option<&Node> {
        if self.zones == 0 {
            return None;
        }
        let mut found = None;
        for above in std::iter::once(name.clone()).chain(ancestors(name)) {
            match self.names.get(&above) {
                Some(node) if node.has(RecordType::SOA) => return found,
                Some(node) if node.has(RecordType::NS) => found = Some(node),
                _ => (),
            }
        }
        None
    }

    /// Whether there is a zone of ours.
    pub(super) fn has_zones(&self) -> bool {
        self.zones > 0
    }

    /// The SOA of the closest zone of ours.
    pub(super) fn authority(&self, name: &LowerName) -> Option<&Record> {
        if self.zones == 0 {
            return None;
        }
        std::iter::once(name.clone())
            .chain(ancestors(name))
            .find_map(|above| self.names.get(&above)?.of(RecordType::SOA).next())
    }
}

/// The names above a name, closest first; the root last.
fn ancestors(name: &LowerName) -> impl Iterator<Item = LowerName> {
    std::iter::successors(Some(name.clone()), |name| {
        (!name.is_root()).then(|| name.base_name())
    })
    .skip(1)
}

/// How much of [`LONGEST_TEXT`] a record needs.
fn cost(record: &Record) -> usize {
    // The name may stand in the text once more, as a key.
    let name = text::print_name(&record.name).len();
    text::print(record).len() + name + FRAMING
}

/// How long a name is on the wire.
pub(super) fn wire_length(name: &Name) -> usize {
    name.iter().map(|label| label.len() + 1).sum::<usize>() + 1
}

/// The name that data leads to: the client needs its addresses next.
pub(super) fn target(data: &RData) -> Option<&Name> {
    match data {
        RData::MX(mx) => Some(&mx.exchange),
        RData::SRV(srv) => Some(&srv.target),
        RData::NS(ns) => Some(&ns.0),
        _ => None,
    }
}
