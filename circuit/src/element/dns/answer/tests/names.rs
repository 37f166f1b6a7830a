//! Answers by name and type: sets of records, names without records, delegations.

use super::*;

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
