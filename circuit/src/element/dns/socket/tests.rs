use std::io::{Read, Write};

use proptest::prelude::*;

use super::super::answer::tests::CORPUS;
use super::super::records::Records;
use super::super::text;
use super::*;

fn shared(records: &[&str]) -> Shared {
    let mut all = Records::default();
    for record in records {
        all.set(text::record(record).unwrap()).unwrap();
    }
    Shared::new(all, None)
}

/// A query for A records of `Ab.c.`, with an OPT record or without.
fn query(id: u16, name: &[u8], opt: bool) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(opt)]);
    packet.extend(name);
    packet.extend([0, 1, 0, 1]);
    if opt {
        packet.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
    }
    packet
}

#[test]
fn a_remembered_answer_has_the_id_and_the_letters_of_its_question() {
    let shared = shared(&["ab.c. 60 A 10.0.0.1"]);
    let mut memory = Memory::default();
    for opt in [false, true] {
        for (id, name) in [
            (1, b"\x02aB\x01c\0"),
            (2, b"\x02AB\x01C\0"),
            (3, b"\x02aB\x01c\0"),
        ] {
            let packet = query(id, name, opt);
            let fresh = answer(shared.records(), &packet, Transport::Udp).unwrap();
            let remembered = memory.answer(&shared, &packet).unwrap();
            assert_eq!(remembered, fresh);
            assert_eq!(remembered[..2], id.to_be_bytes());
            assert_eq!(remembered[12..12 + name.len()], name[..]);
        }
    }
    assert_eq!(memory.answers.len(), 4);
}

#[test]
fn a_change_is_in_the_next_answer() {
    let shared = shared(&["ab.c. 60 A 10.0.0.1"]);
    let mut memory = Memory::default();
    let packet = query(1, b"\x02ab\x01c\0", false);
    let before = memory.answer(&shared, &packet).unwrap().to_vec();
    let record = text::record("ab.c. 60 A 10.0.0.2").unwrap();
    shared.change(|records| records.set(record)).unwrap();
    let after = memory.answer(&shared, &packet).unwrap();
    assert_eq!(after.len(), before.len() + 16);
}

#[test]
fn memory_is_bounded() {
    let shared = shared(&[]);
    let mut memory = Memory::default();
    for number in 0..2 * REMEMBERED as u32 {
        let mut name = b"\x08".to_vec();
        name.extend(format!("{number:08x}").bytes());
        name.push(0);
        memory.answer(&shared, &query(1, &name, false)).unwrap();
        assert!(memory.answers.len() <= REMEMBERED);
    }
}

proptest! {
    #[test]
    fn what_is_remembered_is_what_would_be_made(packets in proptest::collection::vec(packet(), 1..20)) {
        let shared = shared(&["ab. 60 A 10.0.0.1", "*.ab. 5 CNAME ab.", "b. 7 MX 1 AB."]);
        let mut memory = Memory::default();
        for packet in &packets {
            let fresh = answer(shared.records(), packet, Transport::Udp);
            let ours = memory.answer(&shared, packet).map(<[u8]>::to_vec);
            prop_assert_eq!(ours, fresh);
        }
    }
}

/// Queries, and queries with a byte changed.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let names = prop_oneof![
        Just(&b"\x02ab\0"[..]),
        Just(&b"\x02Ab\0"[..]),
        Just(&b"\x01X\x02aB\0"[..]),
        Just(&b"\x01b\0"[..]),
        Just(&b"\0"[..]),
    ];
    let change = proptest::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (any::<u16>(), names, any::<bool>(), change).prop_map(|(id, name, opt, change)| {
        let mut packet = query(id, name, opt);
        if let Some((at, byte)) = change {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        packet
    })
}

#[test]
fn hostile_packets_are_answered_over_sockets_as_without() {
    let records = ["a. A 10.0.0.1", "e. SOA ns.e. h.e. 1 2 3 4 5"];
    let shared = Arc::new(shared(&records));
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = sockets.address();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let serving = sockets
        .into_serving(
            &runtime,
            shared.clone(),
            crate::runtime::Runtime::alone().descriptors.clone(),
        )
        .unwrap();
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::spawn(move || serving.run(&runtime, stopped));
    let probe = query(0xfeed, b"\x01a\0", false);
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let within = Some(Duration::from_secs(10));
    udp.set_read_timeout(within).unwrap();
    udp.connect(address).unwrap();
    for (what, packet) in CORPUS {
        // The probe's answer comes last, and first if there is no other.
        let mut got = vec![0; usize::from(u16::MAX)];
        udp.send(packet).unwrap();
        udp.send(&probe).unwrap();
        let expected = answer(shared.records(), packet, Transport::Udp);
        for expected in expected.iter().chain([&probe_answer(&shared, &probe)]) {
            let length = udp.recv(&mut got).unwrap();
            assert_eq!(got[..length], expected[..], "{what}");
        }
        let mut tcp = std::net::TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(within).unwrap();
        let length = u16::try_from(packet.len()).unwrap();
        tcp.write_all(&[&length.to_be_bytes(), *packet].concat())
            .unwrap();
        let expected = match answer(shared.records(), packet, Transport::Tcp) {
            Some(answer) => {
                let length = u16::try_from(answer.len()).unwrap();
                [&length.to_be_bytes()[..], &answer].concat()
            }
            // The server closes the connection.
            None => Vec::new(),
        };
        tcp.shutdown(std::net::Shutdown::Write).unwrap();
        got.clear();
        tcp.read_to_end(&mut got).unwrap();
        assert_eq!(got, expected, "{what}");
    }
    drop(stop);
    thread.join().unwrap().unwrap();
}

fn probe_answer(shared: &Shared, probe: &[u8]) -> Vec<u8> {
    answer(shared.records(), probe, Transport::Udp).unwrap()
}
