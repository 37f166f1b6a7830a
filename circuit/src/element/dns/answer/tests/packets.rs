//! Hostile and random packets: they get an error, a well-formed answer, or none.

use proptest::prelude::*;

use super::*;

/// Packets that broke something somewhere, replayed: `docs/dns.md`.
pub(in crate::element::dns) const CORPUS: &[(&str, &[u8])] = &[
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
            // An answer that says that there is nothing has a SOA.
            if answer.answers.is_empty() && answer.metadata.authoritative {
                prop_assert_eq!(answer.authorities.len(), 1);
            }
        }
    }
}
