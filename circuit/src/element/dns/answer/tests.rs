//! The lines of the table in `docs/dns.md`, a test each, of the same name.

use hickory_proto::op::Message;
use proptest::prelude::*;

use super::super::text;
use super::*;

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
    // Nothing is left over.
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

const NEGATIVE: &str =
    "authority: example. 60 SOA ns.example. hostmaster.example. 1 3600 600 86400 60";

#[test]
fn all_records_of_the_set_with_one_lifetime() {
    let expected = "NoError aa | answer: www.example. 30 A 10.0.0.1, www.example. 30 A 10.0.0.2";
    check("www.example.", "A", expected);
}

#[test]
fn case_is_kept_as_asked_and_compared_without() {
    check(
        "tXt.eXample.",
        "TXT",
        "NoError aa | answer: tXt.eXample. 3600 TXT \"a b\"",
    );
    let bytes = answer(
        &zone(),
        &question("tXt.eXample.", "TXT").to_vec().unwrap(),
        Transport::Udp,
    );
    let bytes = bytes.unwrap();
    let asked = b"\x03tXt\x07eXample";
    assert!(bytes.windows(asked.len()).any(|window| window == asked));
}

#[test]
fn nodata_has_the_soa() {
    check("www.example.", "MX", &format!("NoError aa | {NEGATIVE}"));
}

#[test]
fn an_empty_non_terminal_is_nodata() {
    check("down.example.", "A", &format!("NoError aa | {NEGATIVE}"));
}

#[test]
fn nxdomain_has_the_soa_of_the_closest_zone() {
    check("no.example.", "A", &format!("NXDomain aa | {NEGATIVE}"));
    let two = records(&[
        "e. SOA ns.e. h.e. 1 1 1 1 60",
        "in.e. SOA ns.in.e. h.e. 2 1 1 1 60",
        "a.in.e. A 10.0.0.1",
    ]);
    let answer = ask(&two, &question("no.in.e.", "A"));
    assert_eq!(
        said(&answer),
        "NXDomain aa | authority: in.e. 60 SOA ns.in.e. h.e. 2 1 1 1 60"
    );
}

#[test]
fn without_a_soa_what_is_not_there_is_nxdomain() {
    let bare = records(&["a.b. A 10.0.0.1"]);
    assert_eq!(said(&ask(&bare, &question("c.", "A"))), "NXDomain aa");
    assert_eq!(said(&ask(&bare, &question("b.", "A"))), "NoError aa");
    assert_eq!(said(&ask(&bare, &question("a.b.", "MX"))), "NoError aa");
    assert_eq!(
        said(&ask(&records(&[]), &question("a.", "A"))),
        "NXDomain aa"
    );
}

#[test]
fn with_a_soa_what_is_outside_all_zones_is_refused() {
    check("www.elsewhere.", "A", "Refused");
    // The root leads to the zone, but is not in it.
    check(".", "NS", "Refused");
}

#[test]
fn a_cname_is_chased() {
    let expected = "NoError aa | answer: Alias.example. 3600 CNAME www.example., \
                    www.example. 30 A 10.0.0.1, www.example. 30 A 10.0.0.2";
    check("Alias.example.", "A", expected);
    check(
        "alias.example.",
        "CNAME",
        "NoError aa | answer: alias.example. 3600 CNAME www.example.",
    );
}

#[test]
fn a_cname_to_what_is_not_there_is_nxdomain() {
    let answer = "answer: broken.example. 3600 CNAME missing.example.";
    check(
        "broken.example.",
        "A",
        &format!("NXDomain aa | {answer} | {NEGATIVE}"),
    );
}

#[test]
fn a_cname_out_of_the_element_is_left_to_who_asks() {
    check(
        "far.example.",
        "A",
        "NoError aa | answer: far.example. 3600 CNAME www.elsewhere.",
    );
    let bare = records(&["a. CNAME b."]);
    assert_eq!(
        said(&ask(&bare, &question("a.", "A"))),
        "NoError aa | answer: a. 3600 CNAME b."
    );
}

#[test]
fn loops_of_cnames_end() {
    let expected = "NoError aa | answer: loop.example. 3600 CNAME pool.example., \
                    pool.example. 3600 CNAME loop.example.";
    check("loop.example.", "A", expected);
    let own = records(&["a. CNAME a."]);
    assert_eq!(
        said(&ask(&own, &question("a.", "A"))),
        "NoError aa | answer: a. 3600 CNAME a."
    );
    let chain: Vec<String> = (0..200)
        .map(|n| format!("c{n}. CNAME c{}.", n + 1))
        .collect();
    let chain = records(&chain.iter().map(String::as_str).collect::<Vec<_>>());
    let answer = ask_by(&chain, &question("c0.", "A"), Transport::Tcp);
    assert_eq!(answer.answers.len(), LONGEST_CHAIN + 1);
}

#[test]
fn a_wildcard_stands_for_what_is_not_there() {
    let mail = "additional: mail.example. 3600 A 10.0.0.25";
    for name in ["x.wild.example.", "X.y.wild.example."] {
        let expected = format!("NoError aa | answer: {name} 3600 MX 10 mail.example. | {mail}");
        check(name, "MX", &expected);
        check(name, "A", &format!("NoError aa | {NEGATIVE}"));
    }
    let itself = format!("NoError aa | answer: *.wild.example. 3600 MX 10 mail.example. | {mail}");
    check("*.wild.example.", "MX", &itself);
}

#[test]
fn a_wildcard_yields_to_what_is_there() {
    check(
        "there.wild.example.",
        "MX",
        &format!("NoError aa | {NEGATIVE}"),
    );
    check(
        "x.there.wild.example.",
        "MX",
        &format!("NXDomain aa | {NEGATIVE}"),
    );
    check(
        "ent.wild.example.",
        "MX",
        &format!("NoError aa | {NEGATIVE}"),
    );
    check(
        "x.ent.wild.example.",
        "MX",
        &format!("NXDomain aa | {NEGATIVE}"),
    );
    check("wild.example.", "MX", &format!("NoError aa | {NEGATIVE}"));
    check(
        "x.*.wild.example.",
        "MX",
        &format!("NXDomain aa | {NEGATIVE}"),
    );
}

#[test]
fn a_wildcard_may_be_a_cname() {
    let expected = "NoError aa | answer: x.cname.example. 3600 CNAME www.example., \
                    www.example. 30 A 10.0.0.1, www.example. 30 A 10.0.0.2";
    check("x.cname.example.", "A", expected);
}

#[test]
fn the_wildcard_of_rfc_4592_section_2_2_1() {
    let zone = records(&[
        "example. 3600 SOA ns.example.com. h.example. 1 1 1 1 60",
        "example. 3600 NS ns.example.com.",
        "example. 3600 NS ns.example.net.",
        "*.example. 3600 TXT \"this is a wildcard\"",
        "*.example. 3600 MX 10 host1.example.",
        "sub.*.example. 3600 TXT \"this is not a wildcard\"",
        "host1.example. 3600 A 192.0.2.1",
        "_ssh._tcp.host1.example. 3600 SRV 0 0 22 host1.example.",
        "_ssh._tcp.host2.example. 3600 SRV 0 0 22 host2.example.",
        "subdel.example. 3600 NS ns.example.com.",
        "subdel.example. 3600 NS ns.example.net.",
    ]);
    let count = |name: &str, kind: &str| {
        let answer = ask(&zone, &question(name, kind));
        (
            answer.metadata.response_code,
            answer.answers.len(),
            answer.metadata.authoritative,
        )
    };
    let (found, nodata) = (
        (ResponseCode::NoError, 1, true),
        (ResponseCode::NoError, 0, true),
    );
    let missing = (ResponseCode::NXDomain, 0, true);
    // The RFC's own list, in its order.
    assert_eq!(count("host3.example.", "MX"), found);
    assert_eq!(count("host3.example.", "A"), nodata);
    assert_eq!(count("foo.bar.example.", "TXT"), found);
    assert_eq!(count("host1.example.", "MX"), nodata);
    assert_eq!(count("sub.*.example.", "MX"), nodata);
    assert_eq!(count("_telnet._tcp.host1.example.", "SRV"), missing);
    assert_eq!(
        count("host.subdel.example.", "A"),
        (ResponseCode::NoError, 0, false)
    );
    assert_eq!(count("ghost.*.example.", "MX"), missing);
}

#[test]
fn a_wildcard_that_only_leads_to_others_is_nodata() {
    let zone = records(&[
        "e.ex. SOA ns.e.ex. h.e.ex. 1 2 3 4 5",
        "f.*.e.ex. A 10.0.0.1",
    ]);
    let nodata = "NoError aa | authority: e.ex. 5 SOA ns.e.ex. h.e.ex. 1 2 3 4 5";
    for name in ["x.e.ex.", "x.y.e.ex.", "*.e.ex."] {
        assert_eq!(said(&ask(&zone, &question(name, "A"))), nodata, "{name}");
    }
    // Below it nothing is synthesized: the closest name that there is has no wildcard.
    let missing = nodata.replace("NoError", "NXDomain");
    assert_eq!(said(&ask(&zone, &question("g.*.e.ex.", "A"))), missing);
}

#[test]
fn a_delegation_refers() {
    let expected = "NoError | authority: sub.example. 3600 NS ns.sub.example. \
                    | additional: ns.sub.example. 3600 A 10.0.1.53";
    for (name, kind) in [
        ("sub.example.", "NS"),
        ("a.sub.example.", "A"),
        ("ns.sub.example.", "A"),
    ] {
        check(name, kind, expected);
    }
}

#[test]
fn any_gets_one_set() {
    let expected = "NoError aa | answer: ns.example. 3600 A 10.0.0.53";
    check("ns.example.", "ANY", expected);
    check("no.example.", "ANY", &format!("NXDomain aa | {NEGATIVE}"));
    check(
        "alias.example.",
        "ANY",
        "NoError aa | answer: alias.example. 3600 CNAME www.example.",
    );
}

#[test]
fn addresses_of_targets_are_added() {
    let ns = "ns.example. 3600 A 10.0.0.53, ns.example. 3600 AAAA fd00::53";
    let expected = format!("NoError aa | answer: example. 3600 NS ns.example. | additional: {ns}");
    check("example.", "NS", &expected);
    let mx =
        "answer: example. 3600 MX 10 mail.example. | additional: mail.example. 3600 A 10.0.0.25";
    check("example.", "MX", &format!("NoError aa | {mx}"));
    let srv = "answer: _s._tcp.example. 3600 SRV 0 0 80 www.example.";
    let www = "www.example. 30 A 10.0.0.1, www.example. 30 A 10.0.0.2";
    check(
        "_s._tcp.example.",
        "SRV",
        &format!("NoError aa | {srv} | additional: {www}"),
    );
}

#[test]
fn edns_is_answered_with_edns() {
    let plain = ask(&zone(), &question("www.example.", "A"));
    assert!(plain.edns.is_none());
    for dnssec_ok in [false, true] {
        let mut message = question("www.example.", "A");
        let mut edns = Edns::new();
        edns.set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
        let answer = ask(&zone(), &message).edns.unwrap();
        assert_eq!((answer.version(), answer.max_payload()), (0, 1232));
        assert_eq!(answer.flags().dnssec_ok, dnssec_ok);
    }
}

#[test]
fn a_later_edns_is_badvers() {
    let mut message = question("www.example.", "A");
    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    let answer = ask(&zone(), &message);
    // The library reads the number as that of TSIG: RFC 6895, section 2.3.
    let code = u16::from(answer.metadata.response_code);
    assert_eq!(code, u16::from(ResponseCode::BADVERS));
    assert_eq!(answer.edns.unwrap().version(), 0);
    assert!(answer.answers.is_empty());
}

#[test]
fn what_is_too_long_is_cut_and_says_so() {
    let many: Vec<String> = (0..60).map(|n| format!("a. A 10.0.0.{n}")).collect();
    let many = records(&many.iter().map(String::as_str).collect::<Vec<_>>());
    // 12 + 7 + 60 × 16 bytes.
    let with = |payload: Option<u16>, transport| {
        let mut message = question("a.", "A");
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let answer = ask_by(&many, &message, transport);
        (answer.metadata.truncation, answer.answers.len())
    };
    assert_eq!(with(None, Transport::Udp), (true, 0));
    assert_eq!(with(Some(512), Transport::Udp), (true, 0));
    assert_eq!(with(Some(989), Transport::Udp), (true, 0));
    assert_eq!(with(Some(990), Transport::Udp), (false, 60));
    assert_eq!(with(Some(65_535), Transport::Udp), (false, 60));
    assert_eq!(with(None, Transport::Tcp), (false, 60));
}

#[test]
fn additional_addresses_are_left_out_before_anything_is_cut() {
    let mut many: Vec<String> = (0..60).map(|n| format!("m. A 10.0.0.{n}")).collect();
    many.push("a. MX 10 m.".to_owned());
    let many = records(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let answer = ask(&many, &question("a.", "MX"));
    assert_eq!(said(&answer), "NoError aa | answer: a. 3600 MX 10 m.");
    assert!(!answer.metadata.truncation);
    let answer = ask_by(&many, &question("a.", "MX"), Transport::Tcp);
    assert_eq!(answer.additionals.len(), 60);
}

#[test]
fn the_largest_set_fits_an_answer_over_tcp() {
    let mut all = Records::default();
    let name =
        [[b'x'; 63], [b'y'; 63], [b'z'; 63]].map(|label| String::from_utf8(label.into()).unwrap());
    let name = format!("{}.{}", name.join("."), "w".repeat(61));
    let mut count = 0;
    let full = loop {
        let record = text::record(&format!("{name}. TXT {count:05} {}", "t".repeat(200))).unwrap();
        match all.set(record) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.code, circuit_proto::Code::TooLarge);
    let mut message = question(&name, "TXT");
    message.set_edns(Edns::new());
    let answer = ask_by(&RwLock::new(all), &message, Transport::Tcp);
    assert_eq!(
        (answer.metadata.truncation, answer.answers.len()),
        (false, count)
    );
}

#[test]
fn the_flags_of_the_question_are_copied() {
    let mut message = question("www.example.", "A");
    assert!(ask(&zone(), &message).metadata.recursion_desired);
    message.metadata.recursion_desired = false;
    message.metadata.authentic_data = true;
    message.metadata.checking_disabled = true;
    let answer = ask(&zone(), &message).metadata;
    assert!(!answer.recursion_desired && !answer.authentic_data && !answer.checking_disabled);
}

#[test]
fn other_operations_and_classes_are_refused() {
    check("example.", "AXFR", "Refused");
    let mut message = question("www.example.", "A");
    message.metadata.op_code = OpCode::Update;
    message.queries.clear();
    let code = ask(&zone(), &message).metadata.response_code;
    assert_eq!(code, ResponseCode::NotImp);
    // RFC 6891, section 6.1.1: whoever speaks EDNS is answered in it.
    for code in [OpCode::Status, OpCode::Query] {
        let mut message = question("www.example.", "A");
        message.metadata.op_code = code;
        message.set_edns(Edns::new());
        assert!(ask(&zone(), &message).edns.is_some(), "{code:?}");
    }
    let mut message = question("www.example.", "A");
    message.queries[0].set_query_class(DNSClass::CH);
    let code = ask(&zone(), &message).metadata.response_code;
    assert_eq!(code, ResponseCode::Refused);
    for (kind, code) in [
        (41, ResponseCode::FormErr),
        (253, ResponseCode::NotImp),
        (250, ResponseCode::NotImp),
    ] {
        let mut message = question("www.example.", "A");
        message.queries[0].set_query_type(RecordType::from(kind));
        assert_eq!(
            ask(&zone(), &message).metadata.response_code,
            code,
            "{kind}"
        );
    }
}

#[test]
fn there_is_exactly_one_question() {
    for count in [0, 2] {
        let mut message = question("www.example.", "A");
        let question = message.queries.pop().unwrap();
        message.queries = vec![question; count];
        let bytes = answer(&zone(), &message.to_vec().unwrap(), Transport::Udp).unwrap();
        let answer = Message::from_vec(&bytes).unwrap();
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::FormErr,
            "{count}"
        );
    }
}

#[test]
fn answers_and_scraps_are_not_answered() {
    let mut message = question("www.example.", "A");
    message.metadata.message_type = MessageType::Response;
    assert_eq!(
        answer(&zone(), &message.to_vec().unwrap(), Transport::Udp),
        None
    );
    assert_eq!(answer(&zone(), &[0; 11], Transport::Udp), None);
    // Whoever asks may have been named by somebody else, so not even what cannot be read.
    let malformed = [0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 64, b'a'];
    assert_eq!(answer(&zone(), &malformed, Transport::Udp), None);
}

#[test]
fn every_line_of_the_table_names_a_test_of_this_file() {
    let (table, file) = (
        include_str!("../../../../../docs/dns.md"),
        include_str!("tests.rs"),
    );
    let named = table
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.split('`').nth(1));
    let named: Vec<&str> = named.collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(file.contains(&format!("fn {name}()")), "{name}");
    }
}

/// Packets that broke something somewhere, replayed: `docs/dns.md`.
pub(in super::super) const CORPUS: &[(&str, &[u8])] = &[
    ("nothing", b""),
    ("a header alone", &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
    (
        "a name that points at itself",
        &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1],
    ),
    (
        "a name that points forward",
        &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 14, 0, 1, 0, 1],
    ),
    (
        "two names that point at each other",
        &[
            0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 14, 0xc0, 12, 0, 1, 0, 1,
        ],
    ),
    (
        "a pointer into the header",
        &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 1, 0, 1],
    ),
    (
        "a label of 64 bytes",
        &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 64, b'a', 0, 0, 1, 0, 1],
    ),
    (
        "a label of an unknown form",
        &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 1, 0, 1],
    ),
    (
        "a label that is cut",
        &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, b'a'],
    ),
    (
        "65,535 of everything",
        &[0, 1, 1, 0, 255, 255, 255, 255, 255, 255, 255, 255],
    ),
    (
        "65,535 records",
        &[
            0, 1, 1, 0, 0, 1, 255, 255, 255, 255, 255, 255, 0, 0, 1, 0, 1,
        ],
    ),
    (
        "an OPT record of a length that it has not",
        &[
            0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 41, 16, 0, 0, 0, 0, 0, 255,
            255,
        ],
    ),
    (
        "two OPT records",
        &[
            0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0, 1, 0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0,
        ],
    ),
    (
        "an OPT record with a name",
        &[
            0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 1, b'a', 0, 0, 41, 16, 0, 0, 0, 0,
            0, 0, 0,
        ],
    ),
    (
        "bytes behind the question",
        &[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 9],
    ),
    (
        "operation 15",
        &[0, 1, 0x79, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1],
    ),
    (
        "an update",
        &[0, 1, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 1],
    ),
    (
        "a payload of 0",
        &[
            0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 41, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    ),
];

#[test]
fn hostile_packets_get_an_error_or_nothing() {
    let zone = zone();
    for (what, packet) in CORPUS {
        for transport in [Transport::Udp, Transport::Tcp] {
            let Some(bytes) = answer(&zone, packet, transport) else {
                assert!(packet.len() < 12, "{what}");
                continue;
            };
            let message = Message::from_vec(&bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
            let code = message.metadata.response_code;
            let fine = matches!(code, ResponseCode::FormErr | ResponseCode::NotImp);
            // Small payloads are taken as 512, and the root is not in the zone.
            assert!(
                fine || *what == "a payload of 0" && code == ResponseCode::Refused,
                "{what}: {code}"
            );
        }
    }
}

proptest! {
    #[test]
    fn what_is_set_of_any_type_is_what_is_answered(data in text::tests::data()) {
        let data_of = |data: &RData| {
            let mut bytes = Vec::new();
            data.emit(&mut BinEncoder::new(&mut bytes)).unwrap();
            bytes
        };
        let kind = data.record_type();
        let record = Record::from_rdata(text::name("a.b.").unwrap(), 60, data.clone());
        let mut all = Records::default();
        all.set(record).unwrap();
        let all = RwLock::new(all);
        let mut message = Message::query();
        message.add_query(Question::query(text::name("A.b.").unwrap(), kind));
        for transport in [Transport::Udp, Transport::Tcp] {
            let answer = ask_by(&all, &message, transport);
            if answer.metadata.truncation {
                prop_assert!(transport == Transport::Udp);
                continue;
            }
            prop_assert_eq!(answer.answers[0].record_type(), kind);
            prop_assert_eq!(data_of(&answer.answers[0].data), data_of(&data));
        }
    }

    #[test]
    fn any_packet_gets_an_answer_that_fits_or_none(
        name in proptest::collection::vec(any::<u8>(), 0..40),
        head in any::<[u8; 12]>(),
        tail in proptest::collection::vec(any::<u8>(), 0..60),
        tame in any::<bool>(),
    ) {
        let zone = zone();
        let mut packet = match tame {
            true => vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, head[11] & 3],
            false => head.to_vec(),
        };
        packet.extend(&name);
        packet.extend(&tail);
        for transport in [Transport::Udp, Transport::Tcp] {
            if let Some(bytes) = answer(&zone, &packet, transport) {
                prop_assert!(bytes.len() <= LONGEST_DATAGRAM || transport == Transport::Tcp);
                prop_assert!(Message::from_vec(&bytes).is_ok());
            }
        }
    }

    #[test]
    fn any_name_of_any_type_gets_a_well_formed_answer(
        labels in proptest::collection::vec("[a-c*]|www|wild|sub|alias|loop|ent|deep|down", 0..5),
        kind in any::<u16>(),
    ) {
        let zone = zone();
        let name = Name::from_labels(labels.iter().map(String::as_bytes).chain([&b"example"[..]])).unwrap();
        let mut message = Message::query();
        message.add_query(Question::query(name, RecordType::from(kind)));
        if let Ok(packet) = message.to_vec() {
            let bytes = answer(&zone, &packet, Transport::Udp).unwrap();
            prop_assert!(bytes.len() <= SHORTEST);
            let answer = Message::from_vec(&bytes).unwrap();
            // What says that nothing is there has a SOA.
            if answer.answers.is_empty() && answer.metadata.authoritative {
                prop_assert_eq!(answer.authorities.len(), 1);
            }
        }
    }
}
