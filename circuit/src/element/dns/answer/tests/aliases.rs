//! Answers where a name stands for another: CNAME records and wildcards.

use super::*;

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
