//! The lattice: its order, its digests, its bounds.

use proptest::prelude::*;

use super::*;
use crate::Url;
use crate::url::{Host, Server};

const NOW: Duration = Duration::from_secs(100);

fn record(who: u8, count: u64) -> Arc<Record> {
    let fingerprint = Fingerprint([who; 32]);
    let server = Some(Server {
        pid: 1,
        id: fingerprint.id(),
    });
    let url = Url {
        host: Host::Ip([10, 0, 0, who].into()),
        port: 1,
        server,
    };
    Arc::new(Record {
        fingerprint,
        url,
        name: String::new(),
        count,
        instance: 0,
    })
}

fn raise(view: &mut View, (who, held): (u8, Held)) -> Vec<Notice> {
    view.raise(
        Fingerprint([who; 32]),
        held,
        Some(record(who, held.count)),
        NOW,
    )
}

fn values() -> impl Strategy<Value = Vec<(u8, Held)>> {
    let phases = [
        Phase::Alive,
        Phase::Suspect,
        Phase::Stalled,
        Phase::Condemned,
        Phase::Down,
        Phase::Left,
    ];
    let held = (0..3u64, 0..3u64, prop::sample::select(phases.to_vec())).prop_map(
        |(count, incarnation, phase)| Held {
            count,
            instance: 0,
            incarnation,
            phase,
        },
    );
    prop::collection::vec((0..4u8, held), 0..20)
}

fn state(view: &View) -> Vec<Held> {
    view.members.iter().map(|member| member.held()).collect()
}

fn live(view: &View) -> Vec<(Fingerprint, Held)> {
    view.iter()
        .map(|member| (member.record.fingerprint, member.held()))
        .collect()
}

proptest! {
    #[test]
    fn the_order_of_news_does_not_matter(values in values(), shift in 0..20usize, twice in any::<bool>()) {
        let (mut one, mut other) = (View::new(), View::new());
        for value in &values {
            raise(&mut one, *value);
        }
        let mut shifted = values.clone();
        shifted.rotate_left(shift.min(values.len()));
        shifted.reverse();
        for value in shifted.iter().chain(if twice { &values[..] } else { &[] }) {
            raise(&mut other, *value);
        }
        prop_assert_eq!(state(&one), state(&other));
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(one.buckets(), other.buckets());
    }

    #[test]
    fn what_is_held_never_decreases_and_notices_alternate(values in values()) {
        let mut view = View::new();
        let mut subscribed = BTreeMap::new();
        for (who, held) in values {
            let before = view.get(&Fingerprint([who; 32])).map(|member| member.held());
            for notice in raise(&mut view, (who, held)) {
                match notice {
                    Notice::Join(record) => prop_assert_eq!(subscribed.insert(record.fingerprint, record), None),
                    Notice::Leave(record) => prop_assert_eq!(subscribed.remove(&record.fingerprint), Some(record)),
                }
            }
            prop_assert!(view.get(&Fingerprint([who; 32])).map(|member| member.held()) >= before);
            prop_assert!(view.iter().map(|member| &member.record).eq(subscribed.values()));
            prop_assert_eq!(view.live().len(), subscribed.len());
            prop_assert_eq!(view.live().len() + view.tombstone_count(), view.members.len());
        }
    }

    #[test]
    fn digests_are_equal_exactly_when_the_live_are(one in values(), other in values()) {
        let (mut a, mut b) = (View::new(), View::new());
        one.into_iter().for_each(|value| drop(raise(&mut a, value)));
        other.into_iter().for_each(|value| drop(raise(&mut b, value)));
        prop_assert_eq!(a.digest() == b.digest(), live(&a) == live(&b));
        prop_assert_eq!(a.buckets() == b.buckets(), live(&a) == live(&b));
    }
}

#[test]
fn an_expired_tombstone_resurrects_nobody() {
    let held = |incarnation, phase| Held {
        count: 1,
        instance: 0,
        incarnation,
        phase,
    };
    let mut view = View::new();
    raise(&mut view, (7, held(5, Phase::Down)));
    view.expire(NOW + TOMBSTONE);
    let who = Fingerprint([7; 32]);
    assert!(view.get(&who).is_none());
    assert_eq!(view.compare(&who, &held(5, Phase::Alive)), Standing::Older);
    assert_eq!(
        view.entry(&who, true, NOW).map(|entry| entry.held),
        Some(held(5, Phase::Down))
    );
    assert!(raise(&mut view, (7, held(5, Phase::Alive))).is_empty());
    // The server itself may come back.
    assert_eq!(raise(&mut view, (7, held(6, Phase::Alive))).len(), 1);
}

#[test]
fn tombstones_are_bounded() {
    let mut view = View::new();
    for i in 0..(MAX_TOMBSTONES + MAX_FORGOTTEN + 100) as u64 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&i.to_be_bytes());
        let who = Fingerprint(key);
        let record = Arc::new(Record {
            fingerprint: who,
            ..Record::clone(&record(0, 0))
        });
        let held = Held {
            count: 0,
            instance: 0,
            incarnation: 0,
            phase: Phase::Down,
        };
        view.raise(who, held, Some(record), NOW + Duration::from_millis(i));
    }
    assert_eq!(view.members.len(), MAX_TOMBSTONES);
    assert_eq!(view.forgotten.len(), MAX_FORGOTTEN);
    assert_eq!(view.forgotten_order.len(), MAX_FORGOTTEN);
}

/// This many different servers.
fn names() -> impl Iterator<Item = Fingerprint> {
    (0u64..).map(|i| {
        let mut key = [200; 32];
        key[..8].copy_from_slice(&i.to_be_bytes());
        Fingerprint(key)
    })
}

/// A record of this server, in its first life.
fn record_of(who: Fingerprint) -> Option<Arc<Record>> {
    Some(Arc::new(Record {
        fingerprint: who,
        ..Record::clone(&record(0, 1))
    }))
}

fn first(incarnation: u64, phase: Phase) -> Held {
    Held {
        count: 1,
        instance: 0,
        incarnation,
        phase,
    }
}

#[test]
fn members_are_bounded() {
    let mut view = View::new();
    let mut names = names();
    for who in names.by_ref().take(MAX_MEMBERS) {
        view.raise(who, first(0, Phase::Alive), record_of(who), NOW);
    }
    assert_eq!(view.live().len(), MAX_MEMBERS);
    // The view takes no further server, but its entries still change.
    let (digest, who) = (view.digest(), names.next().unwrap());
    let notices = view.raise(who, first(0, Phase::Alive), record_of(who), NOW);
    assert!(notices.is_empty());
    assert_eq!((view.live().len(), view.digest()), (MAX_MEMBERS, digest));
    let known = view.live()[0].fingerprint;
    let notices = view.raise(known, first(0, Phase::Down), None, NOW);
    assert_eq!(notices.len(), 1);
    assert_eq!(view.live().len(), MAX_MEMBERS - 1);
}

#[test]
fn whoever_came_back_and_went_again_is_not_forgotten_before_its_time() {
    let mut view = View::new();
    let mut names = names();
    let who = names.next().unwrap();
    let go = |view: &mut View, who, incarnation| {
        view.raise(who, first(incarnation, Phase::Down), record_of(who), NOW);
        view.expire(NOW + TOMBSTONE);
    };
    go(&mut view, who, 0);
    view.raise(who, first(1, Phase::Alive), record_of(who), NOW);
    go(&mut view, who, 1);
    // It is the oldest that is remembered, until there is one more.
    for other in names.by_ref().take(MAX_FORGOTTEN - 1) {
        go(&mut view, other, 0);
    }
    let again = first(1, Phase::Alive);
    assert_eq!(view.compare(&who, &again), Standing::Older);
    go(&mut view, names.next().unwrap(), 0);
    assert_eq!(view.compare(&who, &again), Standing::Unknown);
}
