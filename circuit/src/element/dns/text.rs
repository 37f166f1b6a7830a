//! Reads and prints records as text: one record of a zone file, RFC 1035, section 5.1.
//!
//! The text form is our own: a zone file's parser would obey `$INCLUDE` and read local files, and
//! strings and `\DDD` must come back as they were. [`read_data`] and [`print_data`] have the
//! form of each type; any other type has the form of RFC 3597.
//!
//! **Invariant:** what [`record`] reads, [`print()`] writes as text that reads as the same record.

use std::fmt::{Display, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hickory_proto::rr::rdata::{
    A, AAAA, CAA, CNAME, HINFO, MX, NAPTR, NS, NULL, PTR, SOA, SRV, TXT,
};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecoder, BinEncodable, BinEncoder, Restrict};

use super::lexer::{Line, TextError, Token};

/// The lifetime of a record that is set without one, in seconds.
const LIFETIME: u32 = 3600;

/// The longest lifetime: RFC 2181, section 8.
const LONGEST_LIFETIME: u32 = (1 << 31) - 1;

/// The longest data of a record: with the longest name asked for, an answer over TCP takes it.
pub(super) const LONGEST_DATA: usize = 65_535 - 12 - (255 + 4) - 11 - 12;

/// SSHFP (RFC 4255), TLSA (RFC 6698) and SMIMEA (RFC 8162), which has its form, are numbers and
/// hexadecimal digits: held as bytes.
const SSHFP: u16 = 44;
const TLSA: u16 = 52;
const SMIMEA: u16 = 53;

/// Reads a record: name, lifetime and class in any order and both optional, type, data.
pub(super) fn record(text: &str) -> Result<Record, TextError> {
    let mut line = Line::read(text)?;
    let token = line.next("a name")?;
    if DIRECTIVES
        .iter()
        .any(|name| token.text.eq_ignore_ascii_case(name))
    {
        return Err(token.wrong("a directive of a zone file, which is not obeyed"));
    }
    let name = token.name()?;
    let mut lifetime = None;
    let mut class = false;
    let kind = loop {
        let token = line.next("a type (A, MX, …)")?;
        let starts_with_digit = token.text.starts_with(|c: char| c.is_ascii_digit());
        match token.text.to_ascii_uppercase().as_str() {
            "IN" if !class => class = true,
            "CH" | "HS" | "CS" => return Err(token.wrong("a class other than IN")),
            _ if starts_with_digit && lifetime.is_none() => lifetime = Some(seconds(&token)?),
            _ => break settable(&token)?,
        }
    };
    let data = match line.takes_generic() {
        true => generic(&mut line, kind)?,
        false => read_data(&mut line, kind)?,
    };
    line.end()?;
    let length = data_length(&data);
    if length.is_none_or(|length| length > LONGEST_DATA) {
        return Err(line.at_end("data that is longer than an answer takes"));
    }
    Ok(Record::from_rdata(name, lifetime.unwrap_or(LIFETIME), data))
}

/// Reads a name alone.
pub(super) fn name(text: &str) -> Result<Name, TextError> {
    let mut line = Line::read(text)?;
    let name = line.next("a name")?.name()?;
    line.end()?;
    Ok(name)
}

/// Reads a type alone.
pub(super) fn kind(text: &str) -> Result<RecordType, TextError> {
    let mut line = Line::read(text)?;
    let token = line.next("a type (A, MX, …)")?;
    line.end()?;
    known(&token)
}

/// The canonical text of a record: name, lifetime, class, type and data, with tabs between them.
pub(super) fn print(record: &Record) -> String {
    let (name, kind) = (print_name(&record.name), print_kind(record.record_type()));
    let data = print_data(&record.data);
    format!("{name}\t{}\tIN\t{kind}\t{data}", record.ttl)
}

/// The canonical text of a name.
pub(super) fn print_name(name: &Name) -> String {
    if name.is_root() {
        return ".".to_owned();
    }
    let mut text = String::new();
    for label in name.iter() {
        for &byte in label {
            match byte {
                b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => {
                    text.push('\\');
                    text.push(byte.into());
                }
                b'!'..=b'~' => text.push(byte.into()),
                _ => push_number(&mut text, byte),
            }
        }
        text.push('.');
    }
    text
}

fn print_kind(kind: RecordType) -> String {
    match (TYPES.iter().find(|(_, of)| *of == kind), u16::from(kind)) {
        (Some((name, _)), _) => (*name).to_owned(),
        (None, SSHFP) => "SSHFP".to_owned(),
        (None, TLSA) => "TLSA".to_owned(),
        (None, SMIMEA) => "SMIMEA".to_owned(),
        (None, number) => format!("TYPE{number}"),
    }
}

/// The directives of a zone file: RFC 1035, section 5.1; RFC 2308, section 4; BIND's own.
const DIRECTIVES: [&str; 4] = ["$ORIGIN", "$INCLUDE", "$TTL", "$GENERATE"];

/// The types with a text form of their own. SVCB, HTTPS and CSYNC have none, as the library does not
/// read what it prints of them.
const TYPES: [(&str, RecordType); 17] = [
    ("A", RecordType::A),
    ("AAAA", RecordType::AAAA),
    ("CAA", RecordType::CAA),
    ("CERT", RecordType::CERT),
    ("CNAME", RecordType::CNAME),
    ("HINFO", RecordType::HINFO),
    ("MX", RecordType::MX),
    ("NAPTR", RecordType::NAPTR),
    ("NS", RecordType::NS),
    ("OPENPGPKEY", RecordType::OPENPGPKEY),
    ("PTR", RecordType::PTR),
    ("SMIMEA", RecordType::SMIMEA),
    ("SOA", RecordType::SOA),
    ("SRV", RecordType::SRV),
    ("SSHFP", RecordType::SSHFP),
    ("TLSA", RecordType::TLSA),
    ("TXT", RecordType::TXT),
];

fn known(token: &Token) -> Result<RecordType, TextError> {
    let text = token.text.to_ascii_uppercase();
    if let Some((_, kind)) = TYPES.iter().find(|(name, _)| *name == text) {
        return Ok(*kind);
    }
    if text == "DNAME" {
        // DNAME is refused with a reason of its own.
        return Ok(RecordType::DNAME);
    }
    let number: Option<u16> = text.strip_prefix("TYPE").and_then(|n| n.parse().ok());
    let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
    number.map(RecordType::from).ok_or_else(|| {
        let what = format!("no type (there are {}, and TYPEn)", known.join(", "));
        token.wrong(&what)
    })
}

fn settable(token: &Token) -> Result<RecordType, TextError> {
    let kind = known(token)?;
    match u16::from(kind) {
        // OPT, and the types that only a question may have: RFC 6895, section 3.1.
        0 | 41 | 128..=255 => Err(token.wrong("a type of which there are no records")),
        39 => Err(token.wrong("DNAME, which is not served")),
        _ => Ok(kind),
    }
}

/// Reads a lifetime: seconds, or a text such as `1h30m`.
fn seconds(token: &Token) -> Result<u32, TextError> {
    let wrong = || token.wrong("not a time (in seconds, or as in 1h30m, at most 2147483647)");
    let (mut sum, mut number) = (0u64, None::<u64>);
    for c in token.text.chars() {
        match (c.to_digit(10), number) {
            (Some(digit), so_far) => {
                let next = so_far.unwrap_or(0) * 10 + u64::from(digit);
                number = (next <= LONGEST_LIFETIME.into()).then_some(next);
                number.ok_or_else(wrong)?;
            }
            (None, Some(count)) => {
                let unit = match c.to_ascii_lowercase() {
                    's' => 1,
                    'm' => 60,
                    'h' => 3600,
                    'd' => 86_400,
                    'w' => 604_800,
                    _ => return Err(wrong()),
                };
                sum += count * unit;
                number = None;
            }
            (None, None) => return Err(wrong()),
        }
    }
    sum += number.unwrap_or(0);
    let seconds = u32::try_from(sum).ok();
    seconds
        .filter(|seconds| *seconds <= LONGEST_LIFETIME)
        .ok_or_else(wrong)
}

fn read_data(line: &mut Line<'_>, kind: RecordType) -> Result<RData, TextError> {
    Ok(match kind {
        RecordType::A => RData::A(A(number::<Ipv4Addr>(line, "an IPv4 address")?)),
        RecordType::AAAA => RData::AAAA(AAAA(number::<Ipv6Addr>(line, "an IPv6 address")?)),
        RecordType::CNAME => RData::CNAME(CNAME(line.next("a name")?.name()?)),
        RecordType::NS => RData::NS(NS(line.next("a name")?.name()?)),
        RecordType::PTR => RData::PTR(PTR(line.next("a name")?.name()?)),
        RecordType::MX => {
            let preference = number(line, "a preference of 0 to 65535")?;
            RData::MX(MX::new(preference, line.next("a name")?.name()?))
        }
        RecordType::SRV => {
            let priority = number(line, "a priority of 0 to 65535")?;
            let weight = number(line, "a weight of 0 to 65535")?;
            let port = number(line, "a port of 0 to 65535")?;
            RData::SRV(SRV::new(
                priority,
                weight,
                port,
                line.next("a name")?.name()?,
            ))
        }
        RecordType::SOA => {
            let primary = line.next("the name of the primary server")?.name()?;
            let person = line.next("the name of who is responsible")?.name()?;
            let serial = number(line, "a serial number")?;
            let mut time = |what| seconds(&line.next(what)?);
            // The time has at most 31 bits.
            let refresh = time("the refresh interval")?.cast_signed();
            let retry = time("the retry interval")?.cast_signed();
            let expire = time("the expiry interval")?.cast_signed();
            let minimum = time("the lifetime of negative answers")?;
            let soa = SOA::new(primary, person, serial, refresh, retry, expire, minimum);
            RData::SOA(soa)
        }
        RecordType::TXT => {
            let mut strings = vec![line.next("a string")?.string()?];
            while let Some(token) = line.maybe() {
                strings.push(token.string()?);
            }
            let strings = strings.iter().map(Vec::as_slice).collect();
            RData::TXT(TXT::from_bytes(strings))
        }
        RecordType::HINFO => {
            let cpu = line.next("a string (the processor)")?.string()?;
            let os = line.next("a string (the system)")?.string()?;
            RData::HINFO(HINFO::from_bytes(cpu.into(), os.into()))
        }
        RecordType::CAA => {
            let flags: u8 = number(line, "flags of 0 to 255")?;
            let token = line.next("a tag (as in issue)")?;
            let tag = token.text.to_owned();
            // RFC 8659, section 4.1; as the library reads them.
            if tag.is_empty() || tag.len() > 15 || !tag.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(token.wrong("no tag of 1 to 15 letters and digits"));
            }
            let mut caa = CAA::new_issue(flags & 0x80 != 0, None, Vec::new());
            caa.reserved_flags = flags & 0x7f;
            caa.tag = tag;
            caa.value = line.next("a value")?.bytes()?;
            RData::CAA(caa)
        }
        RecordType::NAPTR => {
            let order = number(line, "an order of 0 to 65535")?;
            let preference = number(line, "a preference of 0 to 65535")?;
            let token = line.next("flags")?;
            let flags = token.string()?;
            if !flags.iter().all(u8::is_ascii_alphanumeric) {
                return Err(token.wrong("no flags: letters and digits"));
            }
            let services = line.next("services")?.string()?;
            let pattern = line.next("a regular expression")?.string()?;
            let replacement = line.next("a name")?.name()?;
            RData::NAPTR(NAPTR::new(
                order,
                preference,
                flags.into(),
                services.into(),
                pattern.into(),
                replacement,
            ))
        }
        RecordType::SSHFP => {
            let mut bytes = vec![
                number(line, "an algorithm of 0 to 255")?,
                number(line, "a fingerprint type of 0 to 255")?,
            ];
            bytes.extend(hexadecimal(line)?);
            raw(kind, bytes)
        }
        RecordType::TLSA | RecordType::SMIMEA => {
            let mut bytes = vec![
                number(line, "a usage of 0 to 255")?,
                number(line, "a selector of 0 to 255")?,
                number(line, "a matching type of 0 to 255")?,
            ];
            bytes.extend(hexadecimal(line)?);
            raw(kind, bytes)
        }
        RecordType::CERT => {
            let kind = number::<u16>(line, "a certificate's type of 0 to 65535")?;
            let tag = number::<u16>(line, "a key tag of 0 to 65535")?;
            let algorithm = number::<u8>(line, "an algorithm of 0 to 255")?;
            base64(
                line,
                RecordType::CERT,
                &format!("{kind} {tag} {algorithm} "),
            )?
        }
        RecordType::OPENPGPKEY => base64(line, kind, "")?,
        other => {
            let what = format!(
                "\\#: data of {} is written as RFC 3597 says",
                print_kind(other)
            );
            return Err(line.at_end(&format!("no {what}")));
        }
    })
}

/// `\# LENGTH HEX…`: RFC 3597, section 5.
fn generic(line: &mut Line<'_>, kind: RecordType) -> Result<RData, TextError> {
    line.next("\\#")?;
    let token = line.next("the length of the data")?;
    let length: usize = token
        .text
        .parse()
        .map_err(|_| token.wrong("no length of data"))?;
    let bytes = match line.is_at_end() {
        true => Vec::new(),
        false => hexadecimal(line)?,
    };
    if bytes.len() != length {
        let found = format!("another length than that of the data, {}", bytes.len());
        return Err(token.wrong(&found));
    }
    let has_text = TYPES.iter().any(|(_, known)| *known == kind);
    match (has_text, u16::from(kind)) {
        (true, SSHFP) if length >= 2 => Ok(raw(kind, bytes)),
        (true, TLSA | SMIMEA) if length >= 3 => Ok(raw(kind, bytes)),
        (false, _) => Ok(raw(kind, bytes)),
        (true, SSHFP | TLSA | SMIMEA) => Err(token.wrong("too short")),
        (true, _) => {
            let wrong = || token.wrong("data that is not of its type");
            let mut decoder = BinDecoder::new(&bytes);
            // Within 65,535, as the digits came in a frame of at most 1 MiB; if not, it is wrong.
            let claimed = Restrict::new(u16::try_from(length).map_err(|_| wrong())?);
            let data = RData::read(&mut decoder, kind, claimed).map_err(|_| wrong())?;
            // Data of a type that has a text form must survive that form.
            match decoder.is_empty() && data.record_type() == kind && is_printable(&data) {
                true => Ok(data),
                false => Err(wrong()),
            }
        }
    }
}

/// Whether the text form of data that was read from bytes reads as the same.
fn is_printable(data: &RData) -> bool {
    let text = format!(". {} {}", print_kind(data.record_type()), print_data(data));
    record(&text).is_ok_and(|record| record.data == *data)
}

fn raw(code: RecordType, bytes: Vec<u8>) -> RData {
    let mut rdata = NULL::new();
    rdata.anything = bytes;
    RData::Unknown { code, rdata }
}

fn number<T: FromStr>(line: &mut Line<'_>, what: &str) -> Result<T, TextError> {
    let token = line.next(what)?;
    // The standard library takes a sign.
    let signed = token.text.starts_with('+');
    let parsed = token.text.parse().ok().filter(|_| !signed);
    parsed.ok_or_else(|| token.wrong(&format!("not {what}")))
}

/// Reads all words that are left as hexadecimal digits in any grouping.
fn hexadecimal(line: &mut Line<'_>) -> Result<Vec<u8>, TextError> {
    let mut digits = Vec::new();
    let mut last = line.next("hexadecimal digits")?;
    loop {
        for c in last.text.chars() {
            let digit = c.to_digit(16);
            // A digit is below 16.
            digits.push(digit.ok_or_else(|| last.wrong("no hexadecimal digits"))? as u8);
        }
        match line.maybe() {
            Some(token) => last = token,
            None => break,
        }
    }
    match digits.len() % 2 {
        0 => Ok(digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()),
        _ => Err(last.wrong("an odd number of hexadecimal digits")),
    }
}

/// Reads all words that are left as base 64 in any grouping, by the library and behind other words.
fn base64(line: &mut Line<'_>, kind: RecordType, before: &str) -> Result<RData, TextError> {
    let first = line.next("data in base 64")?;
    let mut digits = first.text.to_owned();
    while let Some(token) = line.maybe() {
        digits.push_str(token.text);
    }
    // The library then finds neither quotes nor directives to obey.
    let plain = digits
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    let data = plain.then(|| RData::try_from_str(kind, &format!("{before}{digits}")));
    let data = data.and_then(Result::ok).filter(|_| !digits.is_empty());
    data.ok_or_else(|| first.wrong("not data in base 64"))
}

fn print_data(data: &RData) -> String {
    match data {
        RData::A(A(ip)) => ip.to_string(),
        RData::AAAA(AAAA(ip)) => ip.to_string(),
        RData::CNAME(CNAME(name)) | RData::NS(NS(name)) | RData::PTR(PTR(name)) => print_name(name),
        RData::MX(mx) => format!("{} {}", mx.preference, print_name(&mx.exchange)),
        RData::SRV(srv) => words(&[
            &srv.priority,
            &srv.weight,
            &srv.port,
            &print_name(&srv.target),
        ]),
        RData::SOA(soa) => words(&[
            &print_name(&soa.mname),
            &print_name(&soa.rname),
            &soa.serial,
            // These three numbers are unsigned, as on the wire.
            &soa.refresh.cast_unsigned(),
            &soa.retry.cast_unsigned(),
            &soa.expire.cast_unsigned(),
            &soa.minimum,
        ]),
        RData::TXT(txt) => {
            let strings: Vec<String> = txt.txt_data.iter().map(|s| print_string(s)).collect();
            strings.join(" ")
        }
        RData::HINFO(hinfo) => words(&[&print_string(&hinfo.cpu), &print_string(&hinfo.os)]),
        RData::CAA(caa) => words(&[&caa.flags(), &caa.tag, &print_string(&caa.value)]),
        RData::NAPTR(naptr) => words(&[
            &naptr.order,
            &naptr.preference,
            &print_string(&naptr.flags),
            &print_string(&naptr.services),
            &print_string(&naptr.regexp),
            &print_name(&naptr.replacement),
        ]),
        RData::CERT(cert) => words(&[
            &u16::from(cert.cert_type),
            &cert.key_tag,
            &u8::from(cert.algorithm),
            &cert.cert_base64(),
        ]),
        RData::OPENPGPKEY(key) => key.to_string(),
        RData::Unknown { code, rdata } => match (u16::from(*code), rdata.anything.as_slice()) {
            (SSHFP, [algorithm, kind, rest @ ..]) if !rest.is_empty() => {
                words(&[algorithm, kind, &print_hex(rest)])
            }
            (TLSA | SMIMEA, [usage, selector, matching, rest @ ..]) if !rest.is_empty() => {
                words(&[usage, selector, matching, &print_hex(rest)])
            }
            (_, []) => "\\# 0".to_owned(),
            (_, bytes) => format!("\\# {} {}", bytes.len(), print_hex(bytes)),
        },
        // `record` does not make these.
        other => {
            let mut bytes = Vec::new();
            let _ = other.emit(&mut BinEncoder::new(&mut bytes));
            format!("\\# {} {}", bytes.len(), print_hex(&bytes))
        }
    }
}

fn words(words: &[&dyn Display]) -> String {
    let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    words.join(" ")
}

fn print_string(bytes: &[u8]) -> String {
    let mut text = String::from('"');
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(byte.into());
            }
            b' '..=b'~' => text.push(byte.into()),
            _ => push_number(&mut text, byte),
        }
    }
    text.push('"');
    text
}

fn push_number(text: &mut String, byte: u8) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\\{byte:03}");
}

fn print_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// How long data is on the wire, with nothing left out.
pub(super) fn data_length(data: &RData) -> Option<usize> {
    let mut bytes = Vec::new();
    data.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    Some(bytes.len())
}

#[cfg(test)]
pub(super) mod tests;
