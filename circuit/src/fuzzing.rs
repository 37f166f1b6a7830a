//! The fuzz targets of this crate; each body stands beside the code that it tries.
//!
//! `fuzz/` runs them under libFuzzer, with the feature `fuzzing`. The test here runs them over the
//! corpus of `fuzz/`, so that a defect that was mended stays so. A body panics where something does
//! not hold.

use circuit_proto::{Path, ServerId};

use crate::element::{channel, container, dns};
use crate::{cli, peer};

/// The name of a target, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    ("membership_datagram", membership_datagram),
    ("dns_query", dns_query),
    ("dns_record", dns_record),
    ("pasted", pasted),
    ("channel_queue", channel_queue),
];

/// A signed packet beside QUIC.
pub fn membership_datagram(data: &[u8]) {
    peer::datagram::fuzz(data);
}

/// Records, a zero byte, and a packet that asks about them.
pub fn dns_query(data: &[u8]) {
    dns::fuzzing::query(data);
}

/// The text of a record.
pub fn dns_record(data: &[u8]) {
    dns::fuzzing::record(&String::from_utf8_lossy(data));
}

/// The JSON of a command or a container, as people paste it.
pub fn pasted(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    cli::fuzzing::command(&text);
    if let Some(run) = cli::fuzzing::container(&text) {
        container::fuzz(&run, &Path::of_server(ServerId(7)));
    }
}

/// Operations on a channel.
pub fn channel_queue(data: &[u8]) {
    channel::fuzzing::queue(data);
}

#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    #[test]
    fn every_target_survives_its_corpus() {
        super::replay::replay(super::TARGETS);
    }
}
