//! Makes the answer to a packet, by the algorithm of RFC 1034, section 4.3.2, over [`Records`].
//!
//! There are no sockets and no clock here.
//!
//! **Invariant:** any packet gets an answer or none, and never a panic. An answer is never longer
//! than the client takes; an answer that is cut says so and is empty.

use parking_lot::RwLock;

use hickory_proto::ProtoError;
use hickory_proto::op::{
    Edns, EmitAndCount, Message, MessageType, Metadata, OpCode, Query as Question, ResponseCode,
    emit_message_parts,
};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::query::{HEADER, Query, Rejected};
use super::records::{Found, Node, Records, target, wire_length};
use super::text::data_length;

/// The longest answer over UDP, which no link splits: DNS Flag Day 2020, and dig's default.
pub(super) const LONGEST_DATAGRAM: usize = 1232;

/// The longest answer that every client takes: RFC 1035, section 4.2.1.
const SHORTEST: usize = 512;

/// The length of a name that points to another.
const POINTER: usize = 2;

/// The length of a set of one address at least.
const SHORTEST_SET: usize = POINTER + FIXED + 4;

/// The length of an OPT record without options.
const OPT: usize = 11;

/// The length of a record's fields between its owner and its data: type, class, lifetime, length.
const FIXED: usize = 10;

/// How many CNAMEs are followed. Chosen, not measured: resolvers follow fewer, and ask for the rest.
const LONGEST_CHAIN: usize = 64;

/// How a packet came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The sections of an answer, and what it says of itself.
#[derive(Debug, Default)]
struct Answer {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
    /// The addresses of names in the other sections, a set each.
    additional: Vec<Vec<Record>>,
    /// Without the additional records the rest is of no use.
    glue: bool,
}

/// Answers a packet; `None` if there is nobody to answer.
pub(super) fn answer(
    records: &RwLock<Records>,
    packet: &[u8],
    transport: Transport,
) -> Option<Vec<u8>> {
    let (query, answer) = match Query::read(packet) {
        Ok(query) => {
            let refused = |code| Answer {
                code,
                ..Answer::default()
            };
            let answer = match refusal(&query) {
                Some(code) => refused(code),
                None => {
                    let records = records.read();
                    resolve(&records, &query, transport)
                }
            };
            (query, answer)
        }
        Err(Rejected::Silently) => return None,
        Err(Rejected::With(code, query)) => {
            let answer = Answer {
                code,
                ..Answer::default()
            };
            (query, answer)
        }
    };
    let limit = match (transport, &query.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => SHORTEST,
        (Transport::Udp, Some(edns)) => usize::from(edns.payload).clamp(SHORTEST, LONGEST_DATAGRAM),
    };
    encode(&query, answer, limit)
}

/// Why a well-formed query is not looked up.
fn refusal(query: &Query) -> Option<ResponseCode> {
    match (query.class, u16::from(query.kind)) {
        _ if query.edns.is_some_and(|edns| edns.version > 0) => Some(ResponseCode::BADVERS),
        (DNSClass::IN, 251 | 252) => Some(ResponseCode::Refused),
        // These are no types of data: RFC 6895, section 3.1.
        (DNSClass::IN, 41) => Some(ResponseCode::FormErr),
        (DNSClass::IN, 128..=254) => Some(ResponseCode::NotImp),
        (DNSClass::IN, _) => None,
        _ => Some(ResponseCode::Refused),
    }
}

fn resolve(records: &Records, query: &Query, transport: Transport) -> Answer {
    let mut answer = Answer {
        authoritative: true,
        ..Answer::default()
    };
    let mut owner = query.name.clone();
    let mut seen: Vec<LowerName> = Vec::new();
    loop {
        let key = LowerName::new(&owner);
        let first = seen.is_empty();
        match records.find(&key) {
            Found::Node(node) => {
                let cname = node.of(RecordType::CNAME).next();
                if let (Some(record), false) = (cname, wants_cname(query.kind))
                    && let RData::CNAME(target) = &record.data
                {
                    answer.answers.push(owned(record, &owner, record.ttl));
                    owner = target.0.clone();
                    seen.push(key);
                    // A loop, or a chain as good as one: the answer is the CNAMEs up to here.
                    if seen.len() > LONGEST_CHAIN || seen.contains(&LowerName::new(&owner)) {
                        break;
                    }
                    continue;
                }
                let kind = match query.kind {
                    // RFC 8482, section 4.1: ANY gets one of the sets.
                    RecordType::ANY => node.first_kind().unwrap_or(RecordType::ANY),
                    kind => kind,
                };
                let mut found = set(node, kind, &owner);
                if node.lists_live(kind) && transport == Transport::Tcp {
                    found = as_fit(found, query, &answer.answers);
                }
                match found.is_empty() {
                    true => answer.authority.extend(negative(records, &key)),
                    false => answer.answers.extend(found),
                }
            }
            Found::Delegation(node) => {
                // This server has authority above the delegation only.
                answer.authoritative = !first;
                answer.glue = true;
                if let Some(ns) = node.of(RecordType::NS).next() {
                    answer.authority = set(node, RecordType::NS, &ns.name);
                }
            }
            found @ (Found::EmptyNonTerminal | Found::Nothing) => {
                let code = match found {
                    Found::EmptyNonTerminal => ResponseCode::NoError,
                    _ => ResponseCode::NXDomain,
                };
                match records.authority(&key) {
                    // RFC 6604: the code is about the last name of the chain.
                    Some(_) => {
                        answer.code = code;
                        answer.authority.extend(negative(records, &key));
                    }
                    // The alias leads out of this element: the client asks elsewhere.
                    None if !first => (),
                    None if records.has_zones() => {
                        answer.code = ResponseCode::Refused;
                        answer.authoritative = false;
                    }
                    None => answer.code = code,
                }
            }
        }
        break;
    }
    answer.additional = additional(records, &answer);
    answer
}

fn wants_cname(kind: RecordType) -> bool {
    matches!(kind, RecordType::CNAME | RecordType::ANY)
}

/// A record as it answers for a name: in the letters in which it was asked.
fn owned(record: &Record, owner: &Name, lifetime: u32) -> Record {
    Record::from_rdata(owner.clone(), lifetime, record.data.clone())
}

/// The set of a type, of one lifetime: RFC 2181, section 5.2.
fn set(node: &Node, kind: RecordType, owner: &Name) -> Vec<Record> {
    let lifetime = node.of(kind).map(|record| record.ttl).min().unwrap_or(0);
    node.of(kind)
        .map(|record| owned(record, owner, lifetime))
        .collect()
}

/// As many of the live servers as fit an answer over TCP, from a random one on: each is as good as
/// another, and a client that asks again gets others.
fn as_fit(mut servers: Vec<Record>, query: &Query, chain: &[Record]) -> Vec<Record> {
    let length = |record: &Record| {
        let owner = match record.name.eq_case(&query.name) {
            true => POINTER,
            false => wire_length(&record.name),
        };
        owner + FIXED + data_length(&record.data).unwrap_or(0)
    };
    let before = HEADER + wire_length(&query.name) + 4 + OPT;
    let before = before + chain.iter().map(length).sum::<usize>();
    let mut room = usize::from(u16::MAX).saturating_sub(before);
    if servers.iter().map(length).sum::<usize>() <= room {
        return servers;
    }
    // Without randomness the list begins with the first server.
    let first = getrandom::u64().unwrap_or(0) % servers.len() as u64;
    servers.rotate_left(first as usize);
    let fitting = servers.iter().take_while(|record| {
        let rest = room.checked_sub(length(record));
        room = rest.unwrap_or(0);
        rest.is_some()
    });
    servers.truncate(fitting.count());
    servers
}

/// The SOA with which a negative answer is remembered: RFC 2308, section 3.
fn negative(records: &Records, name: &LowerName) -> Option<Record> {
    let soa = records.authority(name)?;
    let lifetime = match &soa.data {
        RData::SOA(data) => soa.ttl.min(data.minimum),
        _ => soa.ttl,
    };
    Some(owned(soa, &soa.name, lifetime))
}

/// The addresses of the names that the answer leads to.
fn additional(records: &Records, answer: &Answer) -> Vec<Vec<Record>> {
    let all = answer.answers.iter().chain(&answer.authority);
    let mut seen = std::collections::BTreeSet::new();
    let mut sets = Vec::new();
    for name in all.filter_map(|record| target(&record.data)) {
        let key = LowerName::new(name);
        if let Found::Node(node) = records.within_zone(&key)
            && seen.insert(key)
        {
            let kinds = [RecordType::A, RecordType::AAAA];
            sets.extend(kinds.map(|kind| set(node, kind, name)));
        }
    }
    sets.retain(|set| !set.is_empty());
    sets
}

fn encode(query: &Query, answer: Answer, limit: usize) -> Option<Vec<u8>> {
    let mut metadata = Metadata::new(query.id, MessageType::Response, query.op_code);
    metadata.authoritative = answer.authoritative;
    metadata.recursion_desired = query.recursion_desired;
    metadata.response_code = answer.code;
    let mut message = Message::response(query.id, OpCode::Query);
    message.metadata = metadata;
    if query.has_question {
        let mut question = Question::query(query.name.clone(), query.kind);
        question.set_query_class(query.class);
        message.add_query(question);
    }
    if let Some(edns) = &query.edns {
        let mut ours = Edns::new();
        // The payload is at least the shortest that RFC 6891 allows.
        ours.set_max_payload(LONGEST_DATAGRAM as u16);
        // RFC 3225, section 3.
        ours.set_dnssec_ok(edns.dnssec_ok);
        message.set_edns(ours);
    }
    let mut cut = message.clone();
    cut.metadata.truncation = true;
    message.answers = answer.answers;
    message.authorities = answer.authority;
    let Some(bare) = bytes(&message, limit) else {
        return bytes(&cut, limit);
    };
    // As many of the additional sets as fit. Glue is added whole or not at all: a referral is of no
    // use without it.
    let mut count = match answer.glue {
        true => answer.additional.len(),
        false => answer
            .additional
            .len()
            .min((limit - bare.len()) / SHORTEST_SET),
    };
    while count > 0 {
        message.additionals = answer.additional[..count].concat();
        match bytes(&message, limit) {
            Some(bytes) => return Some(bytes),
            None if answer.glue => return bytes(&cut, limit),
            None => count /= 2,
        }
    }
    Some(bare)
}

/// The bytes of a message; `None` if there are more than the limit, which is at most 65,535.
fn bytes(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(SHORTEST);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(u16::try_from(limit).unwrap_or(u16::MAX));
    let mut answers = Answers {
        records: &message.answers,
        asked: message.queries.first().map(Question::name),
    };
    let header = emit_message_parts(
        &message.metadata,
        &mut message.queries.iter(),
        &mut answers,
        &mut message.authorities.iter(),
        &mut message.additionals.iter(),
        message.edns.as_ref(),
        None,
        &mut encoder,
    );
    // The encoder cuts a message that is too long by itself, and leaves a half-written record.
    let whole = header.ok()?.metadata.truncation == message.metadata.truncation;
    whole.then_some(bytes)
}

/// The answers, whose owner is mostly the name asked. The name stands behind the header, so that each
/// record can point to it; the library's own compression remembers only 120 names.
struct Answers<'a> {
    records: &'a [Record],
    asked: Option<&'a Name>,
}

impl EmitAndCount for Answers<'_> {
    fn emit(&mut self, encoder: &mut BinEncoder<'_>) -> Result<usize, ProtoError> {
        for record in self.records {
            match self.asked {
                Some(asked) if !asked.is_root() && record.name.eq_case(asked) => {
                    // RFC 1035, section 4.1.4.
                    encoder.emit_u16(0xc000 | HEADER as u16)?;
                    record.record_type().emit(encoder)?;
                    record.dns_class.emit(encoder)?;
                    encoder.emit_u32(record.ttl)?;
                    let length = encoder.place::<u16>()?;
                    record.data.emit(encoder)?;
                    // The whole is at most 65,535 bytes.
                    let data = encoder.len_since_place(&length) as u16;
                    length.replace(encoder, data)?;
                }
                _ => record.emit(encoder)?,
            }
        }
        Ok(self.records.len())
    }
}

#[cfg(test)]
pub(super) mod tests;
