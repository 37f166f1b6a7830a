//! The traffic, counted in packets and bytes down to the IP header.
//!
//! The model: each message on a connection goes in packets of its own and each of those is
//! acknowledged by one of the receiver's; each datagram outside of connections is one packet; a new
//! connection costs a handshake. [`UPKEEP_PACKETS`] and [`UPKEEP_BYTES`] are added for the packets
//! that quinn sends beyond this on a link at rest, so that the model agrees with the measurement on
//! quinn for eight links with heartbeats of one second: 19.8 packets and 1,505 bytes a second.

use crate::membership::Message;

/// The cost of a message on a connection besides its own bytes: frame, stream, QUIC, UDP and IP
/// headers. Counted, not measured: 4 + 4 + 29 + 28.
const OVERHEAD: u64 = 65;

/// The cost of an acknowledgement: an ACK frame with one range, QUIC, UDP and IP headers. Counted,
/// not measured: 5 + 27 + 28.
const ACKNOWLEDGEMENT: u64 = 60;

/// The cost of a datagram besides its message: a mark, the code under the
/// circuit's key, the sender's key, its signature (`circuit/src/peer/datagram.rs`), UDP and IP
/// headers. Counted: 1 + 16 + 32 + 64 + 28.
const DATAGRAM: u64 = 141;

/// How much of a message goes in one packet: QUIC's smallest path (RFC 9000, section 14).
const PAYLOAD: u64 = 1135;

/// The bytes that each end of a connection sends before the first message: half of the 5 kB that were
/// measured on quinn, and the TCP handshake of the tether.
const HANDSHAKE_PACKETS: u64 = 7;
const HANDSHAKE_BYTES: u64 = 2_620;

/// The packets that quinn sends on a link in a second, beyond heartbeats and their acknowledgements:
/// the difference between the measurement above and this model.
pub const UPKEEP_PACKETS: f64 = (19.8 - 16.0) / 8.0;

/// The same in bytes: a heartbeat encodes to 11.
pub const UPKEEP_BYTES: f64 = (1505.0 - 8.0 * (11 + OVERHEAD + ACKNOWLEDGEMENT) as f64) / 8.0;

/// The traffic of one server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Messages on connections.
    pub messages: u64,
    /// Datagrams outside of connections.
    pub datagrams: u64,
    /// Connections of which it was an end.
    pub handshakes: u64,
    /// Packets, without those that lost ones cost again.
    pub packets: u64,
    /// Bytes, headers included.
    pub bytes: u64,
}

impl Traffic {
    /// A message on a connection; how many acknowledgements it costs the receiver.
    pub(super) fn message(&mut self, message: &Message) -> u64 {
        let length = length(message);
        let packets = length.div_ceil(PAYLOAD).max(1);
        self.messages += 1;
        self.packets += packets;
        self.bytes += length + packets * OVERHEAD;
        packets
    }

    pub(super) fn acknowledge(&mut self, packets: u64) {
        self.packets += packets;
        self.bytes += packets * ACKNOWLEDGEMENT;
    }

    pub(super) fn datagram(&mut self, message: &Message) {
        self.datagrams += 1;
        self.packets += 1;
        self.bytes += length(message) + DATAGRAM;
    }

    /// A handshake, which carries the dialler's first message.
    pub(super) fn handshake(&mut self, hello: Option<&Message>) {
        self.handshakes += 1;
        self.packets += HANDSHAKE_PACKETS;
        self.bytes += HANDSHAKE_BYTES + hello.map_or(0, length);
    }
}

fn length(message: &Message) -> u64 {
    match message {
        // It is the most frequent by far, so it is not encoded each time.
        Message::Heartbeat { .. } => 11,
        _ => message.encode().map_or(0, |bytes| bytes.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_links_with_heartbeats_cost_what_quinn_was_measured_to_cost() {
        let beat = Message::Heartbeat {
            degree: 8,
            digest: u64::MAX,
        };
        assert_eq!(beat.encode().unwrap().len(), 11);
        let mut traffic = Traffic::default();
        for _ in 0..8 {
            let packets = traffic.message(&beat);
            traffic.acknowledge(packets);
        }
        let packets = traffic.packets as f64 + 8.0 * UPKEEP_PACKETS;
        let bytes = traffic.bytes as f64 + 8.0 * UPKEEP_BYTES;
        assert!((packets - 19.8).abs() < 0.01, "{packets}");
        assert!((bytes - 1505.0).abs() < 0.01, "{bytes}");
    }
}
