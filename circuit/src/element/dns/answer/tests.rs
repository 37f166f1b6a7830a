//! The rows of the table in `docs/dns.md`, a test each, of the same name.

use hickory_proto::op::Message;

use super::super::text;
use super::*;

mod aliases;
mod messages;
mod names;
mod packets;

pub(in crate::element::dns) use packets::CORPUS;

fn records(set: &[&str]) -> RwLock<Records> {
    let mut records = Records::default();
    for record in set {
        records.set(text::record(record).unwrap()).unwrap();
    }
    RwLock::new(records)
}

fn zone() -> RwLock<Records> {
    records(&[
        "example. 300 SOA ns.example. hostmaster.example. 1 3600 600 86400 60",
        "example. NS ns.example.",
        "ns.example. A 10.0.0.53",
        "ns.example. AAAA fd00::53",
        "www.example. 60 A 10.0.0.1",
        "www.example. 30 A 10.0.0.2",
        "deep.down.example. TXT hello",
        "alias.example. CNAME www.example.",
        "far.example. CNAME www.elsewhere.",
        "broken.example. CNAME missing.example.",
        "loop.example. CNAME pool.example.",
        "pool.example. CNAME loop.example.",
        "example. MX 10 mail.example.",
        "mail.example. A 10.0.0.25",
        "_s._tcp.example. SRV 0 0 80 www.example.",
        "*.wild.example. MX 10 mail.example.",
        "there.wild.example. A 10.0.0.3",
        "below.ent.wild.example. A 10.0.0.4",
        "*.cname.example. CNAME www.example.",
        "sub.example. NS ns.sub.example.",
        "ns.sub.example. A 10.0.1.53",
        "TXT.example. TXT \"a b\"",
    ])
}

fn question(name: &str, kind: &str) -> Message {
    let mut message = Message::query();
    let name = text::name(name).unwrap();
    let kind = match kind {
        "ANY" => RecordType::ANY,
        "AXFR" => RecordType::AXFR,
        kind => text::kind(kind).unwrap(),
    };
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(name, kind));
    message
}

fn ask(records: &RwLock<Records>, message: &Message) -> Message {
    ask_by(records, message, Transport::Udp)
}

fn ask_by(records: &RwLock<Records>, message: &Message, transport: Transport) -> Message {
    let bytes = answer(records, &message.to_vec().unwrap(), transport).unwrap();
    let answer = Message::from_vec(&bytes).unwrap();
    // No bytes are left over.
    let again = super::bytes(&answer, usize::from(u16::MAX)).unwrap();
    assert_eq!(again.len(), bytes.len());
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(answer.queries, message.queries);
    assert!(!answer.metadata.recursion_available);
    answer
}

/// The code and the sections of an answer, in a few words.
fn said(answer: &Message) -> String {
    let section = |records: &[Record]| {
        let all = records.iter().map(|record| {
            let text = text::print(record);
            let words: Vec<&str> = text.split('\t').filter(|word| *word != "IN").collect();
            words.join(" ")
        });
        all.collect::<Vec<_>>().join(", ")
    };
    let authoritative = if answer.metadata.authoritative {
        " aa"
    } else {
        ""
    };
    let code = answer.metadata.response_code;
    let mut said = format!("{code:?}{authoritative}");
    for (name, records) in [
        ("answer", &answer.answers),
        ("authority", &answer.authorities),
        ("additional", &answer.additionals),
    ] {
        if !records.is_empty() {
            said += &format!(" | {name}: {}", section(records));
        }
    }
    said
}

fn check(name: &str, kind: &str, expected: &str) {
    let answer = ask(&zone(), &question(name, kind));
    assert_eq!(said(&answer), expected, "{name} {kind}");
}

/// The authority section of a negative answer.
const NEGATIVE: &str =
    "authority: example. 60 SOA ns.example. hostmaster.example. 1 3600 600 86400 60";

#[test]
fn every_row_of_the_table_names_a_test() {
    let table = include_str!("../../../../../docs/dns.md");
    let files = [
        include_str!("tests/aliases.rs"),
        include_str!("tests/messages.rs"),
        include_str!("tests/names.rs"),
        include_str!("tests/packets.rs"),
    ];
    let named = table
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.split('`').nth(1));
    let named: Vec<&str> = named.collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let test = format!("fn {name}()");
        assert!(files.iter().any(|file| file.contains(&test)), "{name}");
    }
}
