//! Tests of digests that differ.

use super::machine::{entry, say, sent};
use super::peers::{NOW, linked, ms, tell};
use super::random::fingerprint;
use crate::membership::tuning::*;
use crate::membership::{Message, Phase};

/// Returns the number of the heartbeat at which server 1 is asked to sync. It sends one a second, and
/// those for which `differs` holds carry another digest; if the link is busy, something changes before
/// each.
fn synced_at(busy: bool, differs: impl Fn(u64) -> bool) -> Option<u64> {
    let mut machine = linked(2);
    (1..40).find(|beat| {
        let now = NOW + HEARTBEAT * *beat as u32;
        if busy {
            let news = entry(fingerprint(9), 9, *beat, Phase::Alive);
            tell(&mut machine, 2, &[news], now - ms(200));
        }
        sent(&mut machine, 1);
        let digest = machine.digest() ^ u64::from(differs(*beat));
        let heartbeat = Message::Heartbeat { degree: 2, digest };
        say(&mut machine, 1, heartbeat.clone(), now);
        let syncs = sent(&mut machine, 1);
        syncs
            .iter()
            .any(|message| matches!(message, Message::Sync { .. }))
    })
}

#[test]
fn digests_that_go_on_differing_start_a_sync() {
    let (few, many) = (u64::from(MISMATCHES), u64::from(MISMATCHES_BUSY));
    assert_eq!(synced_at(false, |_| true), Some(few));
    assert_eq!(synced_at(true, |_| true), Some(many));
    // The machine counts differing digests in a row.
    assert_eq!(synced_at(false, |beat| beat % few != 0), None);
    assert_eq!(synced_at(true, |beat| beat % many != 0), None);
    assert_eq!(synced_at(false, |beat| beat > 5), Some(5 + few));
}
