//! The fuzz targets of this crate; their bodies stand beside what they try.
//!
//! `fuzz/` runs them under libFuzzer, with the feature `fuzzing`; the tests here replay its corpus
//! and build them by themselves. A body panics where something does not hold.

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

/// What people paste: the JSON of a command or a container.
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

/// Runs the bodies over the corpus: what was found once stays mended.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_survives_its_corpus() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        for (name, body) in TARGETS {
            let files = std::fs::read_dir(corpus.join(name)).unwrap();
            let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
            assert!(files.len() >= 5, "{name} has {} inputs", files.len());
            for file in files {
                let input = std::fs::read(&file).unwrap();
                let survived = std::panic::catch_unwind(|| body(&input)).is_ok();
                assert!(survived, "{}", file.display());
            }
        }
    }
}
