use std::collections::BTreeSet;

use hickory_proto::rr::rdata::{CERT, OPENPGPKEY};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

#[test]
fn records_have_a_canonical_text() {
    let check = |text: &str, expected: &str| {
        let read = record(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(print(&read), expected, "{text}");
        let again = record(expected).unwrap();
        assert_eq!(again, read, "{expected}");
        assert_eq!(print(&again), expected);
    };
    for (text, expected) in [
        (
            "miek.nl. 3600 IN MX 10 mx.miek.nl.",
            "miek.nl.\t3600\tIN\tMX\t10 mx.miek.nl.",
        ),
        ("a A 10.0.0.1", "a.\t3600\tIN\tA\t10.0.0.1"),
        ("a in 1h30m a 10.0.0.1", "a.\t5400\tIN\tA\t10.0.0.1"),
        ("a 7 IN A 10.0.0.1 ; why", "a.\t7\tIN\tA\t10.0.0.1"),
        ("@ AAAA 2001:DB8:0::1", ".\t3600\tIN\tAAAA\t2001:db8::1"),
        (
            "Www.Example CNAME Other.",
            "Www.Example.\t3600\tIN\tCNAME\tOther.",
        ),
        ("a NS ns", "a.\t3600\tIN\tNS\tns."),
        (
            "1.0.0.10.in-addr.arpa PTR a",
            "1.0.0.10.in-addr.arpa.\t3600\tIN\tPTR\ta.",
        ),
        (
            "e SOA ns h (\n 1 ; serial\n 1h 10m 1w 60 )",
            "e.\t3600\tIN\tSOA\tns. h. 1 3600 600 604800 60",
        ),
        (
            "_s._tcp.e 5 SRV 1 2 3 t",
            "_s._tcp.e.\t5\tIN\tSRV\t1 2 3 t.",
        ),
        (
            r#"t TXT one "two  ; words" "" "q\"\\""#,
            "t.\t3600\tIN\tTXT\t\"one\" \"two  ; words\" \"\" \"q\\\"\\\\\"",
        ),
        (
            r"t TXT \000\255\065é",
            "t.\t3600\tIN\tTXT\t\"\\000\\255A\\195\\169\"",
        ),
        (
            r#"c CAA 129 issue "ca.example; x=y""#,
            "c.\t3600\tIN\tCAA\t129 issue \"ca.example; x=y\"",
        ),
        (r#"h HINFO "a b" c"#, "h.\t3600\tIN\tHINFO\t\"a b\" \"c\""),
        (
            r#"n NAPTR 1 2 "u" "E2U+sip" "!^.*$!sip:a@b!" ."#,
            "n.\t3600\tIN\tNAPTR\t1 2 \"u\" \"E2U+sip\" \"!^.*$!sip:a@b!\" .",
        ),
        ("s SSHFP 1 2 0AfF", "s.\t3600\tIN\tSSHFP\t1 2 0aff"),
        (
            "_443._tcp.a TLSA 3 1 1 00 11",
            "_443._tcp.a.\t3600\tIN\tTLSA\t3 1 1 0011",
        ),
        ("s SMIMEA 3 0 0 00 11", "s.\t3600\tIN\tSMIMEA\t3 0 0 0011"),
        (
            "c CERT 1 65535 255 AAEC AwQ=",
            "c.\t3600\tIN\tCERT\t1 65535 255 AAECAwQ=",
        ),
        (
            "o OPENPGPKEY AAECAw==",
            "o.\t3600\tIN\tOPENPGPKEY\tAAECAw==",
        ),
        (r"t TLSA \# 3 00 00 00", "t.\t3600\tIN\tTLSA\t\\# 3 000000"),
        (r"s SSHFP \# 2 0102", "s.\t3600\tIN\tSSHFP\t\\# 2 0102"),
        (
            r"x TYPE65280 \# 3 00 01ff",
            "x.\t3600\tIN\tTYPE65280\t\\# 3 0001ff",
        ),
        (r"x TYPE65280 \# 0", "x.\t3600\tIN\tTYPE65280\t\\# 0"),
        (r"x TYPE1 \# 4 0a000001", "x.\t3600\tIN\tA\t10.0.0.1"),
        (r"x A \# 4 0a000001", "x.\t3600\tIN\tA\t10.0.0.1"),
        (
            r"a\.b.\@.\032x\\ A 1.2.3.4",
            "a\\.b.\\@.\\032x\\\\.\t3600\tIN\tA\t1.2.3.4",
        ),
        ("*.e 0 A 1.2.3.4", "*.e.\t0\tIN\tA\t1.2.3.4"),
    ] {
        check(text, expected);
    }
}

#[test]
fn what_is_wrong_is_named_with_its_column() {
    let check = |text: &str, expected: &str| {
        let error = record(text).unwrap_err().to_string();
        assert_eq!(error, expected, "{text}");
    };
    let long = "x".repeat(64);
    for (text, expected) in [
        ("", "column 1: a name is missing"),
        ("a.", "column 3: a type (A, MX, …) is missing"),
        ("a. A", "column 5: an IPv4 address is missing"),
        (
            "a. A 10.0.0.999",
            "column 6: not an IPv4 address: 10.0.0.999",
        ),
        ("a. A 10.0.0.1 2", "column 15: one word too many: 2"),
        (
            "é. A 1.2.3.4",
            "column 1: a name that is not ASCII (write it as xn--…): é.",
        ),
        (
            "a..b A 1.2.3.4",
            "column 1: a name with an empty part: a..b",
        ),
        ("a. CH TXT x", "column 4: a class other than IN: CH"),
        (
            "a. 2147483648 A 1.2.3.4",
            "column 4: not a time (in seconds, or as in 1h30m, at most 2147483647): 2147483648",
        ),
        (
            "a. MX +1 b.",
            "column 7: not a preference of 0 to 65535: +1",
        ),
        (
            "a. ANY x",
            "column 4: no type (there are A, AAAA, CAA, CERT, CNAME, HINFO, MX, NAPTR, NS, OPENPGPKEY, PTR, SMIMEA, SOA, SRV, SSHFP, TLSA, TXT, and TYPEn): ANY",
        ),
        (
            "a. TYPE41 \\# 0",
            "column 4: a type of which there are no records: TYPE41",
        ),
        (
            "a. TYPE39 \\# 1 00",
            "column 4: DNAME, which is not served: TYPE39",
        ),
        ("a. DNAME b.", "column 4: DNAME, which is not served: DNAME"),
        ("a. CERT 1 2 3 a-b=", "column 15: not data in base 64: a-b="),
        ("a. OPENPGPKEY \"\"", "column 15: not data in base 64: "),
        ("a. TXT \"x", "column 8: a quote that is not closed"),
        (
            "a. TXT \"x\"y",
            "column 8: a quoted word that goes on behind its quote",
        ),
        ("a. TXT \\256", "column 8: \\DDD above 255: \\256"),
        (
            "a. TXT \\25",
            "column 8: a backslash with fewer than three digits: \\25",
        ),
        ("a. SOA ( a b", "column 8: a parenthesis that is not closed"),
        (
            "a. A ) 1.2.3.4",
            "column 6: a parenthesis that was not opened",
        ),
        (
            "a. A 1.2.3.4\nb. A 1.2.3.4",
            "column 14: one record at a time",
        ),
        (
            "$INCLUDE /etc/passwd",
            "column 1: a directive of a zone file, which is not obeyed: $INCLUDE",
        ),
        (
            "a. A \\# 4 0a0000",
            "column 9: another length than that of the data, 3: 4",
        ),
        (
            "a. TYPE99 x",
            "column 12: no \\#: data of TYPE99 is written as RFC 3597 says",
        ),
        (
            "a. CAA 0 is-sue x",
            "column 10: no tag of 1 to 15 letters and digits: is-sue",
        ),
        (
            "a. CAA 0 \"\" x",
            "column 10: no tag of 1 to 15 letters and digits: ",
        ),
        (
            &format!("{long} A 1.2.3.4"),
            &format!("column 1: a name with a part of more than 63 bytes: {long}"),
        ),
    ] {
        check(text, expected);
    }
    let long = format!("a. TXT {}", "x".repeat(256));
    let error = record(&long).unwrap_err().to_string();
    assert!(
        error.starts_with("column 8: a string of more than 255 bytes"),
        "{error}"
    );
    let name = "a.".repeat(128);
    let error = record(&format!("{name} A 1.2.3.4"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("column 1: a name of more than 255 bytes"),
        "{error}"
    );
    let many = format!("a. TXT {}", "\"xxxxxxxxxxxxxxx\" ".repeat(4096));
    let error = record(&many).unwrap_err().to_string();
    assert!(
        error.ends_with("data that is longer than an answer takes"),
        "{error}"
    );
}

fn names() -> impl Strategy<Value = Name> {
    let label = proptest::collection::vec(any::<u8>(), 1..20);
    proptest::collection::vec(label, 0..5)
        .prop_map(|labels| Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap())
}

fn strings() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..=255)
}

/// Data of every type with a text form, and of one without.
pub(in super::super) fn data() -> impl Strategy<Value = RData> {
    let bytes = || proptest::collection::vec(any::<u8>(), 3..300);
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| RData::A(A(ip.into()))),
        any::<[u8; 16]>().prop_map(|ip| RData::AAAA(AAAA(ip.into()))),
        names().prop_map(|name| RData::CNAME(CNAME(name))),
        names().prop_map(|name| RData::NS(NS(name))),
        names().prop_map(|name| RData::PTR(PTR(name))),
        (any::<u16>(), names()).prop_map(|(p, name)| RData::MX(MX::new(p, name))),
        (any::<[u16; 3]>(), names())
            .prop_map(|([a, b, c], name)| RData::SRV(SRV::new(a, b, c, name))),
        (names(), names(), any::<u32>(), any::<[u32; 4]>()).prop_map(|(m, r, serial, times)| {
            let [a, b, c, d] = times.map(|time| time & 0x7fff_ffff);
            let [a, b, c] = [a, b, c].map(u32::cast_signed);
            RData::SOA(SOA::new(m, r, serial, a, b, c, d))
        }),
        proptest::collection::vec(strings(), 1..5).prop_map(|all| {
            RData::TXT(TXT::from_bytes(all.iter().map(Vec::as_slice).collect()))
        }),
        (strings(), strings())
            .prop_map(|(a, b)| RData::HINFO(HINFO::from_bytes(a.into(), b.into()))),
        (any::<u8>(), "[a-zA-Z0-9]{1,15}", strings()).prop_map(|(flags, tag, value)| {
            let mut caa = CAA::new_issue(flags & 0x80 != 0, None, Vec::new());
            caa.reserved_flags = flags & 0x7f;
            caa.tag = tag;
            caa.value = value;
            RData::CAA(caa)
        }),
        (
            any::<[u16; 2]>(),
            "[a-zA-Z0-9]{0,4}",
            strings(),
            strings(),
            names()
        )
            .prop_map(|([a, b], flags, services, pattern, name)| {
                let flags = flags.into_bytes().into();
                RData::NAPTR(NAPTR::new(
                    a,
                    b,
                    flags,
                    services.into(),
                    pattern.into(),
                    name,
                ))
            }),
        bytes().prop_map(|bytes| raw(RecordType::SSHFP, bytes)),
        bytes().prop_map(|bytes| raw(RecordType::TLSA, bytes)),
        bytes().prop_map(|bytes| raw(RecordType::SMIMEA, bytes)),
        (any::<u16>(), any::<u16>(), any::<u8>(), bytes()).prop_map(
            |(kind, tag, algorithm, bytes)| {
                RData::CERT(CERT::new(kind.into(), tag, algorithm.into(), bytes))
            }
        ),
        bytes().prop_map(|bytes| RData::OPENPGPKEY(OPENPGPKEY::new(bytes))),
        bytes().prop_map(|bytes| raw(RecordType::from(65_280), bytes)),
    ]
}

#[test]
fn properties_are_about_every_type() {
    let mut runner = TestRunner::deterministic();
    let made = (0..1000).map(|_| {
        data()
            .new_tree(&mut runner)
            .unwrap()
            .current()
            .record_type()
    });
    let made: BTreeSet<RecordType> = made.collect();
    for (name, kind) in TYPES {
        assert!(made.contains(&kind), "{name}");
    }
}

proptest! {
    #[test]
    fn text_and_record_are_the_same_thing(name in names(), lifetime in 0..=LONGEST_LIFETIME, data in data()) {
        let made = Record::from_rdata(name, lifetime, data);
        let text = print(&made);
        let read = record(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert!(read.name.eq_case(&made.name), "{}", text);
        prop_assert_eq!(&read, &made);
        prop_assert_eq!(print(&read), text.clone());
        // The form of RFC 3597 gives the same record.
        let mut bytes = Vec::new();
        made.data.emit(&mut BinEncoder::new(&mut bytes)).unwrap();
        if !matches!(made.data, RData::SOA(_)) {
            let kind = u16::from(made.record_type());
            let name = print_name(&made.name);
            let generic = format!("{name} {lifetime} TYPE{kind} \\# {} {}", bytes.len(), print_hex(&bytes));
            let read = record(&generic).map_err(|error| TestCaseError::fail(format!("{generic}: {error}")))?;
            prop_assert_eq!(print(&read), text);
        }
    }

    #[test]
    fn any_text_is_a_record_or_an_error(text in "\\PC{0,60}|[a-z0-9 .\"\\\\();#@\n\t]{0,60}") {
        if let Ok(read) = record(&text) {
            prop_assert_eq!(record(&print(&read)), Ok(read));
        }
        let _ = name(&text);
        let _ = kind(&text);
    }

    #[test]
    fn any_words_after_a_type_are_a_record_or_an_error(kind in 0..TYPES.len(), rest in "[a-z0-9 .\"\\\\#-]{0,40}") {
        let text = format!("a. {} {rest}", TYPES[kind].0);
        if let Ok(read) = record(&text) {
            prop_assert_eq!(record(&print(&read)), Ok(read));
        }
    }
}
