use super::super::tests::random::{fingerprint, known};
use super::*;

const NOW: Duration = Duration::from_secs(100);

fn linked(with: std::ops::RangeInclusive<u8>) -> Links {
    let mut links = Links::new(fingerprint(0));
    with.for_each(|who| assert!(links.link(fingerprint(who))));
    links
}

#[test]
fn as_many_links_are_missing_as_are_neither_there_nor_coming() {
    let sound = |_: &Fingerprint| true;
    let mut links = linked(1..=3);
    assert_eq!(links.missing(4, sound), 0, "so few servers");
    assert_eq!(links.missing(20, sound), 5);
    links.on_asked(fingerprint(4), Wish::Split);
    assert!(links.on_connecting(fingerprint(5), Purpose::Link(Wish::Plain)));
    assert!(!links.on_connecting(fingerprint(5), Purpose::Sync));
    assert!(links.on_connecting(fingerprint(6), Purpose::Sync));
    assert_eq!(links.missing(20, sound), 2, "a split makes two");
    assert_eq!((links.seeking(), links.meeting()), (2, 1));
    // A server all of whose neighbours are in doubt seeks lifelines besides.
    let links = linked(1..=8);
    let doubted = |who: &Fingerprint| *who == fingerprint(1);
    assert_eq!(links.missing(20, sound), 0);
    assert_eq!(links.missing(20, doubted), 1);
    assert_eq!(links.missing(20, |_| false), LIFELINES);
    assert_eq!(linked(1..=10).missing(20, |_| false), 0, "there is no room");
}

#[test]
fn who_is_linked_asked_or_avoided_is_no_candidate() {
    let (view, mut random) = (known(6, NOW), Random::new(1));
    let mut links = linked(1..=2);
    links.on_asked(fingerprint(3), Wish::Plain);
    links.on_connecting(fingerprint(4), Purpose::Sync);
    links.avoid(fingerprint(5), NOW + AVOID);
    for _ in 0..20 {
        let who = links.candidate(&view, &mut random, NOW);
        assert_eq!(who, Some(fingerprint(6)));
    }
    links.avoid(fingerprint(6), NOW + AVOID);
    assert_eq!(links.candidate(&view, &mut random, NOW), None);
    assert!(links.candidate(&view, &mut random, NOW + AVOID).is_some());
    links.expire(NOW + AVOID);
    assert!(links.avoided.is_empty());
}

#[test]
fn a_full_server_agrees_to_what_leaves_its_degree_as_it_is() {
    let (view, mut random) = (known(30, NOW), Random::new(1));
    let (full, packed) = (linked(1..=8), linked(1..=10));
    let mut ask = |links: &Links, wish| links.answer(fingerprint(20), wish, &view, &mut random);
    assert_eq!(
        ask(&linked(1..=7), Wish::Swap),
        (true, None),
        "it lacks one"
    );
    assert_eq!(ask(&full, Wish::Plain), (true, None), "one too many");
    assert_eq!(ask(&packed, Wish::Plain), (false, None));
    let old = fingerprint(3);
    assert_eq!(ask(&packed, Wish::Instead(old)), (true, Some(old)));
    assert_eq!(ask(&packed, Wish::Instead(fingerprint(20))), (false, None));
    for wish in [Wish::Swap, Wish::Split] {
        let (accepted, other) = ask(&full, wish);
        assert!(accepted && full.contains(&other.unwrap()), "{wish:?}");
    }
    assert_eq!(ask(&packed, Wish::Split), (false, None));
    let unknown = full.answer(fingerprint(99), Wish::Plain, &view, &mut random);
    assert_eq!(unknown, (false, None));
    let again = packed.answer(fingerprint(1), Wish::Plain, &view, &mut random);
    assert_eq!(again, (true, None), "it is a link already");
}

#[test]
fn the_second_half_of_a_split_is_asked_for_once_the_first_is_there() {
    let (view, mut random) = (known(30, NOW), Random::new(1));
    let links = linked(1..=1);
    let mut after = |wish, other: u8| {
        let (from, other) = (fingerprint(1), Some(fingerprint(other)));
        links.after_agreement(from, wish, other, &view, &mut random, NOW)
    };
    let half = Wish::Instead(fingerprint(1));
    let expected = Some(Step::Seek(fingerprint(2), half));
    assert_eq!(after(Wish::Split, 2), expected);
    assert_eq!(after(Wish::Split, 1), None, "it is a neighbour already");
    assert_eq!(after(Wish::Plain, 2), None);
}

#[test]
fn a_link_too_many_is_given_up_or_passed_on() {
    let (view, mut random) = (known(30, NOW), Random::new(1));
    let mut links = linked(1..=9);
    let mut trims = |links: &Links| {
        let steps = (0..200).filter_map(|_| links.trim(&view, &mut random, NOW));
        steps.collect::<Vec<_>>()
    };
    let passed_on = trims(&links);
    assert!(!passed_on.is_empty());
    for step in passed_on {
        let Step::GiveUp(peer, Some(other)) = step else {
            panic!("{step:?}");
        };
        assert!(links.contains(&peer) && !links.contains(&other));
    }
    links.on_degree(fingerprint(4), 9);
    let given_up = trims(&links);
    assert!(!given_up.is_empty());
    let expected = Step::GiveUp(fingerprint(4), None);
    assert!(given_up.iter().all(|step| *step == expected));
    assert_eq!(trims(&linked(1..=8)), []);
}

#[test]
fn newcomers_are_owed_exchanges_in_a_large_circuit() {
    let mut links = linked(1..=8);
    assert!((0..100).all(|_| !links.mix_in(COMPLETE)));
    assert_eq!((1..100).find(|_| links.mix_in(16)), Some(8));
    let (view, mut random) = (known(30, NOW), Random::new(1));
    let step = links.exchange(&view, &mut random, NOW);
    assert!(matches!(step, Some(Step::Seek(_, Wish::Swap))));
    assert!(!links.is_mixing());
    links.on_asked(fingerprint(20), Wish::Plain);
    assert_eq!(links.exchange(&view, &mut random, NOW), None);
}

#[test]
fn who_has_lost_all_links_asks_everybody_again_soon() {
    let mut links = linked(1..=1);
    assert!(!links.are_lost());
    links.avoid(fingerprint(2), NOW + AVOID_BLOCKED);
    assert!(links.unlink(&fingerprint(1), NOW));
    assert!(!links.unlink(&fingerprint(1), NOW));
    assert!(links.are_lost() && links.avoided.is_empty());
    assert!(!Links::new(fingerprint(0)).are_lost());
}
