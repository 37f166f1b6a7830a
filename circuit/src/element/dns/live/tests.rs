use parking_lot::RwLock;
use std::collections::BTreeSet;

use circuit_proto::Fingerprint;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::RecordType;

use super::super::answer::{Transport, answer};
use super::*;

fn server(number: u32, host: &str) -> Server {
    let mut fingerprint = Fingerprint([0; 32]);
    fingerprint.0[4..8].copy_from_slice(&number.to_be_bytes());
    Server {
        fingerprint,
        url: format!("circuit://{host}:{}", 1 + number).parse().unwrap(),
        name: "a".to_owned(),
        count: 1,
        instance: 0,
    }
}

/// A zone with servers of these numbers.
fn zone(numbers: impl IntoIterator<Item = u32>) -> (Live, RwLock<Records>) {
    let mut records = Records::default();
    let mut live = Live::new(text::name("circuit.").unwrap(), ServerId(0));
    for number in numbers {
        live.join(&mut records, &server(number, "10.0.0.1"));
    }
    (live, RwLock::new(records))
}

fn ask(records: &RwLock<Records>, name: &str, kind: RecordType, by: Transport) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(text::name(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    let bytes = answer(records, &message.to_vec().unwrap(), by).unwrap();
    Message::from_vec(&bytes).unwrap()
}

/// The ports of the servers that are listed; a port is a server's number plus 1.
fn listed(answer: &Message) -> BTreeSet<u32> {
    let all = answer.answers.iter().map(|record| match &record.data {
        RData::SRV(srv) => u32::from(srv.port),
        other => panic!("{other:?}"),
    });
    let all: Vec<u32> = all.collect();
    let each: BTreeSet<u32> = all.iter().copied().collect();
    assert_eq!(each.len(), all.len(), "a server twice");
    each
}

const SERVICE: &str = "_circuit._udp.circuit.";

#[test]
fn a_thousand_live_servers_are_listed() {
    let (_, records) = zone(0..1000);
    let answer = ask(&records, SERVICE, RecordType::SRV, Transport::Tcp);
    assert!(!answer.metadata.truncation);
    assert_eq!(listed(&answer), (1..=1000).collect());
    // There is room for the addresses of some of them.
    assert!(answer.additionals.len() > 100);
    let answer = ask(&records, SERVICE, RecordType::SRV, Transport::Udp);
    assert!(answer.metadata.truncation && answer.answers.is_empty());
}

#[test]
fn of_more_live_servers_than_fit_some_are_listed_others_each_time() {
    let (_, records) = zone(0..5000);
    let mut seen = BTreeSet::new();
    for _ in 0..80 {
        let answer = ask(&records, SERVICE, RecordType::SRV, Transport::Tcp);
        assert!(!answer.metadata.truncation);
        let some = listed(&answer);
        // 65,535 - 12 - 27 - 11 bytes, 45 each.
        assert_eq!(some.len(), 1455);
        seen.extend(some);
    }
    // The chance that one of them is never among them is below 10^-8.
    assert_eq!(seen, (1..=5000).collect());
}

#[test]
fn an_alias_of_the_list_is_answered_in_whole() {
    let (_, records) = zone(0..2000);
    let alias = text::record("all.circuit. CNAME _circuit._udp.circuit.").unwrap();
    records.write().set(alias).unwrap();
    let answer = ask(&records, "all.circuit.", RecordType::SRV, Transport::Tcp);
    assert!(!answer.metadata.truncation);
    assert!(answer.answers.len() > 900, "{}", answer.answers.len());
}

#[test]
fn who_leaves_is_not_listed_and_who_returns_is_listed_once() {
    let (mut live, records) = zone(0..3);
    let list = || listed(&ask(&records, SERVICE, RecordType::SRV, Transport::Udp));
    assert_eq!(list(), [1, 2, 3].into());
    let gone = server(1, "10.0.0.1");
    live.leave(&mut records.write(), gone.fingerprint.id());
    assert_eq!(list(), [1, 3].into());
    let name = "x0000000000000001.circuit.";
    let answer = ask(&records, name, RecordType::A, Transport::Udp);
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    for _ in 0..2 {
        live.join(&mut records.write(), &server(1, "10.0.0.2"));
        assert_eq!(list(), [1, 2, 3].into());
        let answer = ask(&records, name, RecordType::A, Transport::Udp);
        assert_eq!(answer.answers.len(), 1);
        assert_eq!(answer.answers[0].data.to_string(), "10.0.0.2");
    }
    // One of two servers behind the same host name and port leaves, and the other stays.
    let [one, other] = [8, 9].map(|number| {
        let mut server = server(number, "host.example");
        server.url.port = 7;
        server
    });
    for server in [&one, &other] {
        live.join(&mut records.write(), server);
    }
    live.leave(&mut records.write(), one.fingerprint.id());
    assert_eq!(list(), [1, 2, 3, 7].into());
}

#[test]
fn over_udp_the_list_is_whole_or_cut() {
    for (count, fits) in [(26, true), (27, false)] {
        let (_, records) = zone(0..count);
        let answer = ask(&records, SERVICE, RecordType::SRV, Transport::Udp);
        assert_eq!(answer.metadata.truncation, !fits, "{count}");
        let listed = if fits { count as usize } else { 0 };
        assert_eq!(answer.answers.len(), listed);
    }
}
