//! The length of suspicions, their ends, and the witnesses that are believed.

use std::time::Duration;

use super::machine::{entry, say, strangers};
use super::peers::{NOW, linked, ms, pass, pinged, silent, tell, tell_of, testify, told};
use super::random::fingerprint;
use crate::membership::tuning::*;
use crate::membership::{Entry, Machine, Message, Output, Phase};

/// Has a server be suspected so many times, and object each time.
fn wrong(machine: &mut Machine, who: u8, times: u64, at: u64) {
    let known = machine.view.get(&fingerprint(who)).unwrap().incarnation;
    for incarnation in known..known + times {
        let suspect = entry(fingerprint(who), who, incarnation, Phase::Suspect);
        let alive = entry(fingerprint(who), who, incarnation + 1, Phase::Alive);
        tell(machine, 2, &[suspect, alive], NOW + ms(at));
    }
}

#[test]
fn whoever_was_wrongly_suspected_is_waited_for_longer_for_a_while() {
    let halves = SUSPICION_FACTOR_HALVES.as_millis() as u64;
    for (times, pause, expected) in [
        (0, 0, SUSPICION),
        (1, 0, SUSPICION * 2),
        (2, 0, SUSPICION * 3),
        (1, halves, SUSPICION * 3 / 2),
        (2, halves, SUSPICION * 2),
        (9, 0, SUSPICION_MAX),
    ] {
        let mut machine = linked(4);
        wrong(&mut machine, 1, times, 0);
        pass(&mut machine, 0, pause, &[1, 2, 3, 4], silent);
        // Server 1 falls silent, and nobody reaches it.
        let end = pause + 25_000;
        let wanted = pass(
            &mut machine,
            pause,
            end,
            &[2, 3, 4],
            testify(|_| Some(false)),
        );
        let began = told(&wanted, fingerprint(1), Phase::Suspect).unwrap();
        let ended = told(&wanted, fingerprint(1), Phase::Down).unwrap();
        let lasted = ms(ended - began);
        // The factor also shrinks a little in the two seconds until it is suspected.
        let least = expected.mul_f64(0.97);
        assert!(
            (least..=expected + ms(20)).contains(&lasted),
            "{times} times, {pause} ms before: {lasted:?}, not {expected:?}"
        );
    }
}

#[test]
fn a_suspicion_factor_is_forgotten_once_it_is_small_and_with_its_member() {
    let halves = SUSPICION_FACTOR_HALVES.as_millis() as u64;
    for (pause, expected) in [(halves, vec![1, 3]), (4 * halves, vec![3])] {
        let mut machine = linked(4);
        wrong(&mut machine, 1, 1, 0);
        wrong(&mut machine, 3, 1, pause);
        let kept: Vec<_> = machine
            .detector
            .waited_for()
            .iter()
            .map(|who| who.0[0])
            .collect();
        assert_eq!(kept, expected, "after {pause} ms");
        let left = [1, 3].map(|who| entry(fingerprint(who), who, 9, Phase::Left));
        tell(&mut machine, 2, &left, NOW + ms(pause));
        assert!(machine.detector.waited_for().is_empty());
    }
}

#[test]
fn a_testimony_counts_only_with_the_number_of_the_question() {
    for (off, suspected) in [(0, false), (1, true)] {
        let mut machine = linked(4);
        let wanted = pass(&mut machine, 0, 4000, &[2, 3, 4], |machine, output, now| {
            if let Output::Send { to, message } = output
                && let Message::Witness { nonce, subject, .. } = *message
            {
                let answer = Message::Witnessed {
                    nonce: nonce.wrapping_add(off),
                    subject,
                    answered: Some(true),
                };
                say(machine, to.0[0], answer, now);
            }
        });
        let began = told(&wanted, fingerprint(1), Phase::Suspect);
        assert_eq!(began.is_some(), suspected, "off by {off}");
    }
}

#[test]
fn whom_its_accusers_do_not_give_up_another_does() {
    let mut machine = linked(4);
    let suspect = fingerprint(9);
    tell_of(&mut machine, 2, [suspect], Phase::Suspect, NOW);
    let wanted = pass(
        &mut machine,
        0,
        8000,
        &[1, 2, 3, 4],
        testify(|_| Some(false)),
    );
    // The machine first leaves its accusers their time; then it tries the server, and gives it up.
    let begin = (SUSPICION + BACKUP).as_millis() as u64;
    let (tried, _) = pinged(&wanted)
        .into_iter()
        .find(|(_, who)| *who == suspect)
        .unwrap();
    assert!(tried >= begin, "tried after {tried} ms");
    let ended = told(&wanted, suspect, Phase::Down).unwrap();
    let end = tried + u64::from(PINGS) * PING_EVERY.as_millis() as u64;
    assert!(
        (end..end + 100).contains(&ended),
        "given up after {ended} ms"
    );
}

#[test]
fn who_was_stopped_itself_hears_what_others_say_before_it_acts_in_an_accusers_place() {
    let mut machine = linked(4);
    let suspect = fingerprint(9);
    tell_of(&mut machine, 2, [suspect], Phase::Suspect, NOW);
    // Its turn would have come long ago.
    let woke = 20_000;
    let all = [1, 2, 3, 4];
    let wanted = pass(
        &mut machine,
        woke,
        woke + 8000,
        &all,
        testify(|_| Some(false)),
    );
    let ended = ms(told(&wanted, suspect, Phase::Down).unwrap() - woke);
    let tried = PING_EVERY * u32::from(PINGS) + ms(20);
    assert!(
        (SUSPICION..SUSPICION + tried).contains(&ended),
        "given up after {ended:?}"
    );
}

#[test]
fn of_many_that_could_act_in_an_accusers_place_few_do_at_the_same_time() {
    let mut machine = linked(8);
    tell_of(&mut machine, 2, strangers(400), Phase::Alive, NOW);
    // Many suspicions of one server count as one suspicion of many.
    tell_of(
        &mut machine,
        2,
        (20..30).map(fingerprint),
        Phase::Suspect,
        NOW,
    );
    let begin = (SUSPICION + BACKUP).as_millis() as u64;
    let spread = (BACKUP_PER_MEMBER * machine.len() as u32).as_millis() as u64;
    let end = begin + spread + 100;
    let heard = [1, 2, 3, 4, 5, 6, 7, 8];
    let wanted = pass(&mut machine, 0, end, &heard, testify(|_| Some(false)));
    let pings = pinged(&wanted);
    let tried: Vec<_> = (20..30)
        .map(|who| {
            let first = pings.iter().find(|(_, to)| *to == fingerprint(who));
            first.unwrap_or_else(|| panic!("{who} was not tried")).0
        })
        .collect();
    let (first, last) = (tried.iter().min().unwrap(), tried.iter().max().unwrap());
    assert!(*first >= begin, "{tried:?}");
    assert!(last - first > spread / 2, "{tried:?}");
}

#[test]
fn who_stands_still_is_waited_for_though_another_gives_it_up_sooner() {
    let stall = STALL.as_millis() as u64;
    for (phase, at, expected) in [
        (Phase::Stalled, 2000, Phase::Stalled),
        (Phase::Stalled, stall - 1500, Phase::Stalled),
        // The servers heard of it at different times.
        (Phase::Stalled, stall - 500, Phase::Down),
        (Phase::Suspect, 500, Phase::Suspect),
        (Phase::Suspect, 1500, Phase::Down),
    ] {
        let mut machine = linked(4);
        let who = fingerprint(1);
        let held = |machine: &Machine| machine.view.get(&who).unwrap().phase;
        tell_of(&mut machine, 2, [who], phase, NOW);
        tell_of(&mut machine, 2, [who], Phase::Down, NOW + ms(at));
        assert_eq!(held(&machine), expected, "{phase:?}, told after {at} ms");
        // The same news from another server changes nothing.
        tell_of(&mut machine, 3, [who], Phase::Down, NOW + ms(at + 10));
        assert_eq!(
            held(&machine),
            expected,
            "{phase:?}, told twice after {at} ms"
        );
    }
}

#[test]
fn whoever_hears_late_of_one_that_stands_still_waits_no_longer_than_others() {
    for age in [0, 5, 14, u32::MAX] {
        let mut machine = linked(4);
        let begin = 20_000;
        pass(&mut machine, 0, begin, &[1, 2, 3, 4], silent);
        let who = fingerprint(1);
        let stalled = entry(who, 1, 0, Phase::Stalled);
        tell(
            &mut machine,
            2,
            &[Entry { age, ..stalled }],
            NOW + ms(begin),
        );
        let waited = Duration::from_secs(age.into()).min(STALL);
        let told_on = machine.view.entry(&who, false, machine.now).unwrap().age;
        assert_eq!(u64::from(told_on), waited.as_secs());
        let end = begin + 20_000;
        let wanted = pass(
            &mut machine,
            begin,
            end,
            &[2, 3, 4],
            testify(|_| Some(false)),
        );
        let ended = ms(told(&wanted, who, Phase::Down).unwrap() - begin);
        // The machine tries it twice in any case.
        let least = STALL - waited;
        let most = least.max(SILENCE + SECOND_ROUND * 2);
        assert!(
            least <= ended && ended <= most,
            "{age}: {ended:?}, {least:?} to {most:?}"
        );
    }
}
