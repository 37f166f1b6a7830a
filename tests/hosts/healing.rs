//! Two servers that a cut has left alone, and how soon they are one circuit again after the heal.

use std::thread;
use std::time::{Duration, Instant};

use super::{
    DISCOVER, Host, REMOVAL, hosts, is_long, logged, measured, on_hosts, removed, said, started,
    whole, work_together,
};

/// How long after the heal two servers may be two circuits: the target of partitions, and what a
/// busy machine adds.
const HEALED: Duration = Duration::from_secs(3);

/// Cuts two servers apart for so long, and heals.
fn two_alone(
    how: &str,
    flags: [&str; 2],
    lasting: Duration,
    cut: impl Fn(&Host),
    heal: impl Fn(&Host),
) {
    let [a, b] = hosts();
    let servers = started(vec![a.starting(flags[0]), b.starting(flags[1])]);
    let both = [&servers[0], &servers[1]];
    whole(&both);
    let before = logged(&both);
    cut(&b);
    let begin = Instant::now();
    removed(&both[..1], &before[..1], both[1], REMOVAL);
    removed(&both[1..], &before[1..], both[0], REMOVAL);
    // Nothing happens meanwhile that could be waited for: both go on knocking at each other's door.
    thread::sleep(lasting.saturating_sub(begin.elapsed()));
    let before = logged(&both);
    heal(&b);
    let begin = Instant::now();
    for (at, other) in [(0, both[1]), (1, both[0])] {
        let joined = format!("joined: {}", other.id());
        let left = HEALED.saturating_sub(begin.elapsed());
        let (_, silent) = said(&both[at..=at], &before[at..=at], &joined, left);
        assert!(silent.is_empty(), "{how}, {lasting:?}: two circuits still");
    }
    measured(
        &format!("{how} for {lasting:?}: one circuit after the heal after"),
        begin.elapsed(),
    );
    work_together(&both);
}

#[test]
fn two_servers_are_one_circuit_soon_after_any_cut() {
    // Both servers dial once, and then know each other by address alone.
    let by_url = [
        "-a 10.7.0.1:7001",
        "-a 10.7.0.2:7001 -j circuit://10.7.0.1:7001",
    ];
    let ways = [("by multicast", [DISCOVER; 2]), ("by URL", by_url)];
    let cuts: &[u64] = if is_long() { &[8, 15, 30, 60] } else { &[8] };
    on_hosts(|| {
        thread::scope(|scope| {
            for (way, flags) in ways {
                for seconds in cuts {
                    let lasting = Duration::from_secs(*seconds);
                    scope.spawn(move || {
                        let how = format!("cable pulled, {way}");
                        two_alone(&how, flags, lasting, Host::cut, Host::heal);
                    });
                    scope.spawn(move || {
                        let how = format!("silence, {way}");
                        two_alone(&how, flags, lasting, Host::mute, Host::unmute);
                    });
                }
            }
        });
    });
}
