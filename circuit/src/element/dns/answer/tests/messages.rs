//! Messages as a whole: EDNS, lengths, flags, other operations, and what is no question.

use super::*;

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
    // The answer has 12 + 7 + 60 × 16 bytes.
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
    // A client that speaks EDNS gets an answer with EDNS: RFC 6891, section 6.1.1.
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
    // Somebody may have forged the sender's address, so even an answer that cannot be read gets none.
    let malformed = [0, 1, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 64, b'a'];
    assert_eq!(answer(&zone(), &malformed, Transport::Udp), None);
}
