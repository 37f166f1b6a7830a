//! The bodies of the fuzz targets of DNS.

use hickory_proto::op::Message;

use super::answer::{LONGEST_DATAGRAM, Transport, answer};
use super::records::Records;
use super::shared::Shared;
use super::socket::Memory;
use super::text;

/// Reads a text as a record, which its own text gives again.
pub(crate) fn record(input: &str) {
    match text::record(input) {
        Ok(record) => {
            let printed = text::print(&record);
            let again = text::record(&printed).unwrap_or_else(|error| panic!("{printed}: {error}"));
            assert_eq!(again, record, "{printed}");
            assert_eq!(text::print(&again), printed);
            assert!(!printed.contains('\n'), "{printed}");
        }
        Err(error) => {
            let error = error.to_string();
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
    if let Ok(name) = text::name(input) {
        let printed = text::print_name(&name);
        let again = text::name(&printed).unwrap_or_else(|error| panic!("{printed}: {error}"));
        assert!(again.eq_case(&name), "{printed}");
    }
    let _ = text::kind(input);
}

/// Answers a packet from records: their lines, up to a zero byte, come before it.
pub(crate) fn query(input: &[u8]) {
    let end = input.iter().position(|byte| *byte == 0);
    let (zone, packet) = input.split_at(end.map_or(0, |end| end + 1));
    let mut records = Records::default();
    for line in String::from_utf8_lossy(zone).split(['\n', '\0']) {
        if let Ok(record) = text::record(line) {
            let _ = records.set(record);
        }
    }
    let shared = Shared::new(records, None);
    for transport in [Transport::Udp, Transport::Tcp] {
        let Some(bytes) = answer(shared.records(), packet, transport) else {
            continue;
        };
        let longest = match transport {
            Transport::Udp => LONGEST_DATAGRAM,
            Transport::Tcp => usize::from(u16::MAX),
        };
        assert!(bytes.len() <= longest);
        assert_eq!(bytes[..2], packet[..2], "the id");
        let read = Message::from_vec(&bytes).expect("an answer is a message");
        assert!(!read.metadata.truncation || read.answers.is_empty());
    }
    let mut memory = Memory::default();
    let fresh = answer(shared.records(), packet, Transport::Udp);
    for _ in 0..2 {
        let remembered = memory.answer(&shared, packet).map(<[u8]>::to_vec);
        assert_eq!(remembered, fresh);
    }
}
