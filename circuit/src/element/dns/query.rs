//! Reads the question in a packet.

use hickory_proto::op::{OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};

use super::records::wire_length;

/// A query with one question, or as much as could be read of one that is refused.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) id: u16,
    pub(super) op_code: OpCode,
    pub(super) recursion_desired: bool,
    pub(super) has_question: bool,
    pub(super) name: Name,
    pub(super) kind: RecordType,
    pub(super) class: DNSClass,
    pub(super) edns: Option<Edns>,
}

/// The contents of an OPT record: RFC 6891, section 6.1.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edns {
    pub(super) payload: u16,
    pub(super) version: u8,
    pub(super) dnssec_ok: bool,
}

/// Why a packet is not a query that can be looked up.
#[derive(Debug)]
pub(super) enum Rejected {
    /// The packet is an answer or no message: a reply could go to a host that asked nothing.
    Silently,
    /// The packet is answered with this code.
    With(ResponseCode, Query),
}

/// The length of a message's header.
pub(super) const HEADER: usize = 12;

impl Query {
    /// Reads a packet.
    pub(super) fn read(packet: &[u8]) -> Result<Query, Rejected> {
        let Some((header, _)) = packet.split_first_chunk::<HEADER>() else {
            return Err(Rejected::Silently);
        };
        let is_answer = header[2] & 0x80 != 0;
        if is_answer {
            return Err(Rejected::Silently);
        }
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let mut query = Query {
            id: number(0),
            op_code: OpCode::from_u8(header[2] >> 3 & 0xf),
            recursion_desired: header[2] & 1 != 0,
            has_question: false,
            name: Name::root(),
            kind: RecordType::A,
            class: DNSClass::IN,
            edns: None,
        };
        let counts = [number(4), number(6), number(8), number(10)];
        let read = query.read_body(packet, counts);
        match read {
            // The refusal has the question and the EDNS that could be read.
            _ if query.op_code != OpCode::Query => Err(Rejected::With(ResponseCode::NotImp, query)),
            Ok(()) => Ok(query),
            Err(Malformed) => Err(Rejected::With(ResponseCode::FormErr, query)),
        }
    }

    fn read_body(&mut self, packet: &[u8], counts: [u16; 4]) -> Result<(), Malformed> {
        let [questions, answers, authorities, additionals] = counts;
        let mut decoder = BinDecoder::new(packet);
        decoder.read_slice(HEADER)?;
        // RFC 9619: a query has exactly one question.
        if questions != 1 {
            return Err(Malformed);
        }
        let name = Name::read(&mut decoder)?;
        // A compressed name is malformed here: there is no name before it to point to.
        if decoder.index() != HEADER + wire_length(&name) {
            return Err(Malformed);
        }
        let kind = decoder.read_u16()?.unverified(/* any is a type */);
        let class = decoder.read_u16()?.unverified(/* any is a class */);
        (self.name, self.kind, self.class) = (name, kind.into(), class.into());
        self.has_question = true;
        let before = u32::from(answers) + u32::from(authorities);
        for _ in 0..before {
            Other::read(&mut decoder)?;
        }
        for _ in 0..additionals {
            let record = Other::read(&mut decoder)?;
            if record.kind == u16::from(RecordType::OPT) {
                // RFC 6891, section 6.1.1: there is at most one OPT record, and its owner is the root.
                if self.edns.is_some() || !record.name.is_root() {
                    self.edns = None;
                    return Err(Malformed);
                }
                let [_, version, flags, _] = record.lifetime.to_be_bytes();
                self.edns = Some(Edns {
                    payload: record.class,
                    version,
                    dnssec_ok: flags & 0x80 != 0,
                });
            }
        }
        match decoder.is_empty() {
            true => Ok(()),
            false => Err(Malformed),
        }
    }
}

/// The packet is not a well-formed query.
#[derive(Debug)]
struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Malformed {
        Malformed
    }
}

/// A record of a query. Only OPT records matter.
struct Other {
    name: Name,
    kind: u16,
    class: u16,
    lifetime: u32,
}

impl Other {
    fn read(decoder: &mut BinDecoder<'_>) -> Result<Other, DecodeError> {
        let name = Name::read(decoder)?;
        let kind = decoder.read_u16()?.unverified(/* any is a type */);
        let class = decoder.read_u16()?.unverified(/* any is a class */);
        let lifetime = decoder.read_u32()?.unverified(/* any is a lifetime */);
        let length = decoder.read_u16()?.unverified(/* the decoder has so much, or fails */);
        decoder.read_slice(length.into())?;
        Ok(Other {
            name,
            kind,
            class,
            lifetime,
        })
    }
}
