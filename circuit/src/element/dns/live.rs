//! The records of the live servers of the circuit, in a zone.
//!
//! `x<id>.ZONE` has the address of a server, or a CNAME where its URL has a host's name;
//! `_circuit._udp.ZONE` the SRV records of all. The zone has a SOA, so that negative answers are
//! remembered no longer than positive ones.

use std::collections::BTreeMap;

use circuit_proto::membership::Record as Server;
use circuit_proto::url::Host;
use circuit_proto::{ServerId, Url};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record};

use super::records::Records;
use super::text;

/// How long an answer about servers may be remembered, in seconds.
const LIFETIME: u32 = 5;

/// The servers.
#[derive(Debug)]
pub(super) struct Live {
    zone: Name,
    me: ServerId,
    servers: BTreeMap<ServerId, Server>,
    serial: u32,
}

impl Live {
    pub(super) fn new(zone: Name, me: ServerId) -> Live {
        Live {
            zone,
            me,
            servers: BTreeMap::new(),
            serial: 0,
        }
    }

    /// A server has joined, or come back.
    pub(super) fn join(&mut self, records: &mut Records, server: &Server) {
        let id = server.fingerprint.id();
        if self.servers.contains_key(&id) {
            self.leave(records, id);
        }
        self.servers.insert(id, server.clone());
        if let (Some(name), Some(data)) = (self.name_of(id), address(&server.url.host)) {
            let record = Record::from_rdata(name.clone(), LIFETIME, data);
            records.change_live(&name, |live| *live = vec![record]);
        }
        if let (Some(service), Some(record)) = (self.service(), self.srv(id, &server.url)) {
            records.change_live(&service, |live| live.push(record));
        }
        self.count(records);
    }

    /// A server has left.
    pub(super) fn leave(&mut self, records: &mut Records, id: ServerId) {
        let Some(server) = self.servers.remove(&id) else {
            return;
        };
        if let Some(name) = self.name_of(id) {
            records.change_live(&name, Vec::clear);
        }
        if let (Some(service), Some(record)) = (self.service(), self.srv(id, &server.url)) {
            // One alone: two servers behind one host's name and port have the same record.
            records.change_live(&service, |live| {
                if let Some(place) = live.iter().position(|listed| *listed == record) {
                    live.remove(place);
                }
            });
        }
        self.count(records);
    }

    fn srv(&self, id: ServerId, url: &Url) -> Option<Record> {
        let target = match &url.host {
            Host::Ip(_) | Host::Zoned(..) => self.name_of(id)?,
            // RFC 2782: the target is no alias.
            Host::Name(name) => text::name(name).ok()?,
        };
        let data = RData::SRV(SRV::new(0, 0, url.port, target));
        Some(Record::from_rdata(self.service()?, LIFETIME, data))
    }

    /// The SOA counts the changes.
    fn count(&mut self, records: &mut Records) {
        self.serial = self.serial.wrapping_add(1);
        let person = self.zone.prepend_label(&b"hostmaster"[..]);
        let (Some(primary), Ok(person)) = (self.name_of(self.me), person) else {
            return;
        };
        let times = (3600, 600, 86_400);
        let soa = SOA::new(
            primary,
            person,
            self.serial,
            times.0,
            times.1,
            times.2,
            LIFETIME,
        );
        let record = Record::from_rdata(self.zone.clone(), LIFETIME, RData::SOA(soa));
        records.change_live(&self.zone, |live| *live = vec![record]);
    }

    fn name_of(&self, id: ServerId) -> Option<Name> {
        let label = id.to_string().to_lowercase();
        // The name is too long only if the zone's own name nearly is.
        self.zone.prepend_label(label.as_bytes()).ok()
    }

    fn service(&self) -> Option<Name> {
        let below = self.zone.prepend_label(&b"_udp"[..]).ok()?;
        below.prepend_label(&b"_circuit"[..]).ok()
    }
}

fn address(host: &Host) -> Option<RData> {
    Some(match host {
        Host::Ip(std::net::IpAddr::V4(ip)) => RData::A(A(*ip)),
        Host::Ip(std::net::IpAddr::V6(ip)) | Host::Zoned(ip, _) => RData::AAAA(AAAA(*ip)),
        Host::Name(name) => RData::CNAME(CNAME(text::name(name).ok()?)),
    })
}

/// Whether a name is the circuit's: records at it would stand in for servers, for their list, or for
/// those that have left, or hide them.
pub(super) fn is_reserved(zone: &Name, name: &Name) -> bool {
    if !zone.zone_of(name) {
        return false;
    }
    let own = name.iter().count() - zone.iter().count();
    let labels = name.iter().take(own).map(<[u8]>::to_ascii_lowercase);
    let labels: Vec<Vec<u8>> = labels.collect();
    // The label closest to the zone decides.
    match labels.as_slice() {
        [.., wildcard] if wildcard == b"*" => true,
        [transport] if transport == b"_udp" => true,
        [.., service, transport] if transport == b"_udp" => service == b"_circuit",
        [.., id] => {
            let digits = id.strip_prefix(b"x").unwrap_or_default();
            digits.len() == 16 && digits.iter().all(u8::is_ascii_hexdigit)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests;
