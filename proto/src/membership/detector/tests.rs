use super::super::entry::Phase;
use super::super::tests::random::{fingerprint, known};
use super::*;

const NOW: Duration = Duration::from_secs(100);

fn probing(hard: bool, stage: Stage) -> Detector {
    let mut detector = Detector::new(7);
    let begun = detector.begin(fingerprint(1), hard, stage, &mut Random::new(1), NOW);
    assert_eq!(begun, Begun::Now);
    detector
}

/// Returns the steps of a probe whose pings are all lost, and that has these witnesses.
fn steps(detector: &mut Detector, witnesses: &[Fingerprint]) -> Vec<(u64, Step)> {
    let (who, mut now, mut steps) = (fingerprint(1), NOW, Vec::new());
    loop {
        let step = detector.step(&who, now).unwrap();
        steps.push(((now - NOW).as_millis() as u64, step));
        let Step::Ping(ask, next) = step else {
            return steps;
        };
        if ask == Ask::New {
            detector.on_witnesses(&who, witnesses, now);
        }
        detector.on_pinging(&who);
        now = next;
    }
}

#[test]
fn the_steps_of_a_probe() {
    let all = [fingerprint(2), fingerprint(3)];
    let check = |hard, stage, witnesses: &[Fingerprint], pings: usize, asks: usize, ms: u64| {
        let steps = steps(&mut probing(hard, stage), witnesses);
        assert_eq!(steps.len() - 1, pings, "{steps:?}");
        let asked = |(_, step): &&(u64, Step)| !matches!(step, Step::Ping(Ask::Nobody, _));
        let asked = steps[..pings].iter().filter(asked).count();
        assert_eq!(asked, asks, "{steps:?}");
        assert_eq!(steps[pings], (ms, Step::Guilty), "{steps:?}");
    };
    // With hard evidence no witness is asked.
    check(true, Stage::Pinging, &all, 2, 0, 300);
    // It sends three pings, and then asks witnesses and goes on to ping until their time is over.
    check(false, Stage::Pinging, &all, 8, 5, 450 + 700);
    // Without witnesses it sends as many pings again.
    check(false, Stage::Pinging, &[], 6, 1, 900);
    // An audit leaves half a second for the answer to its ping.
    check(true, Stage::Audit, &all, 3, 0, 500 + 300);
}

#[test]
fn an_accuser_whom_no_witness_answers_asks_others_once() {
    let (who, witness) = (fingerprint(1), [fingerprint(2)]);
    let mut detector = probing(false, Stage::Pinging);
    let once = steps(&mut detector.clone(), &witness).len();
    detector.accuse(who, NOW + SUSPICION, true, NOW);
    let new = |(_, step): &(u64, Step)| matches!(step, Step::Ping(Ask::New, _));
    let twice = steps(&mut detector, &witness);
    assert_eq!(twice.iter().filter(|step| new(step)).count(), 2);
    assert!(twice.len() > once);
}

#[test]
fn hard_evidence_begins_a_probe_anew_and_nothing_else_does() {
    let (who, random) = (fingerprint(1), &mut Random::new(1));
    let mut detector = probing(false, Stage::Pinging);
    let later = NOW + PING_EVERY;
    let begin = |detector: &mut Detector, hard, random: &mut Random| {
        detector.begin(who, hard, Stage::Pinging, random, later)
    };
    assert_eq!(begin(&mut detector, false, random), Begun::Before);
    assert!(detector.clears(&who, NOW) && detector.is_answer(&who, NOW));
    assert_eq!(begin(&mut detector, true, random), Begun::Now);
    assert_eq!(begin(&mut detector, true, random), Begun::Before);
    // An answer to an earlier ping proves nothing, and nor does one to a ping that was not sent.
    assert!(!detector.is_answer(&who, NOW) && detector.is_answer(&who, later));
    assert!(!detector.clears(&who, later));
    assert_eq!(detector.end(&who), Some(true));
    assert_eq!(detector.end(&who), None);
}

#[test]
fn probes_and_indirect_probes_are_bounded() {
    let random = &mut Random::new(1);
    let mut detector = Detector::new(7);
    let who = |number: usize| {
        let mut key = [9; 32];
        key[..8].copy_from_slice(&(number as u64).to_be_bytes());
        Fingerprint(key)
    };
    for number in 0..MAX_PROBES {
        let begun = detector.begin(who(number), false, Stage::Audit, random, NOW);
        assert_eq!(begun, Begun::Now);
        assert!(!detector.is_busy_for(&who(number)));
        assert!(detector.begin_indirect_probe(who(number), fingerprint(1), 1, NOW));
        assert!(!detector.begin_indirect_probe(who(number), fingerprint(2), 1, NOW));
    }
    let begun = detector.begin(who(MAX_PROBES), false, Stage::Audit, random, NOW);
    assert_eq!(begun, Begun::Full);
    assert!(detector.is_busy_for(&who(MAX_PROBES)) && !detector.is_busy_for(&who(0)));
    let askers = detector.end_indirect_probe(&who(0)).unwrap();
    assert_eq!(
        askers.into_keys().collect::<Vec<_>>(),
        [fingerprint(1), fingerprint(2)]
    );
}

#[test]
fn two_noes_or_one_yes_of_those_who_were_asked_decide() {
    let (who, witnesses) = (fingerprint(1), [2, 3, 4].map(fingerprint));
    let answered = |answers: &[(u8, Option<bool>)], nonce_is_right: bool| {
        let mut detector = probing(false, Stage::Pinging);
        detector.on_witnesses(&who, &witnesses, NOW);
        let nonce = detector.question(&who).unwrap().nonce ^ u64::from(!nonce_is_right);
        let answers = answers
            .iter()
            .map(|(from, answer)| detector.on_witnessed(&fingerprint(*from), nonce, &who, *answer));
        answers.last().unwrap()
    };
    assert_eq!(answered(&[(2, Some(false))], true), None);
    assert_eq!(answered(&[(2, Some(false)), (2, Some(false))], true), None);
    let two = [(2, Some(false)), (3, Some(false))];
    assert_eq!(answered(&two, true), Some(Verdict::Guilty));
    assert_eq!(
        answered(&two, false),
        None,
        "the number of another question"
    );
    assert_eq!(answered(&[(2, Some(true))], true), Some(Verdict::Alibi));
    assert_eq!(
        answered(&[(5, Some(true))], true),
        None,
        "who was not asked"
    );
    assert_eq!(answered(&[(2, None), (3, None), (4, None)], true), None);
}

#[test]
fn witnesses_are_trusted_neighbours_and_others_only_if_these_are_few() {
    let (view, random, me) = (known(30, NOW), &mut Random::new(1), fingerprint(0));
    let detector = probing(false, Stage::Pinging);
    let mut choose = |neighbours: &[u8]| {
        let neighbours = neighbours.iter().map(|who| fingerprint(*who));
        let subject = fingerprint(5);
        detector.choose_witnesses(subject, neighbours, &view, random, me)
    };
    let mut chosen = choose(&[0, 1, 2, 3, 4, 5, 99]);
    chosen.sort();
    // Witnesses are not this server, the subject, a server that is being probed, or an unknown one.
    assert_eq!(chosen, [2, 3, 4].map(fingerprint));
    let chosen = choose(&[2]);
    assert_eq!(chosen.len(), WITNESSES);
    assert!(chosen.contains(&fingerprint(2)));
}

#[test]
fn only_what_was_said_after_an_accusation_settles_it() {
    let (who, mut detector) = (fingerprint(1), Detector::new(7));
    assert!(!detector.absolve(&who, NOW));
    detector.accuse(who, NOW + SUSPICION, false, NOW);
    let before = NOW - PING_EVERY;
    assert!(!detector.absolve(&who, before) && detector.accuses(&who));
    detector.accuse(who, NOW + SUSPICION, false, NOW + PING_EVERY);
    assert!(
        detector.clone().absolve(&who, NOW),
        "it is the same accusation"
    );
    detector.accuse(who, NOW + SUSPICION, true, NOW + PING_EVERY);
    assert!(!detector.absolve(&who, NOW), "it is another");
    assert!(detector.absolve(&who, NOW + PING_EVERY) && !detector.accuses(&who));
}

#[test]
fn an_accused_member_is_asked_before_it_is_given_up() {
    let (who, mut detector) = (fingerprint(1), Detector::new(7));
    let until = NOW + SUSPICION;
    detector.accuse(who, until, true, NOW);
    let mut turn = |now| detector.turn(who, Phase::Suspect, now);
    assert_eq!(turn(NOW), Turn::Challenge);
    assert_eq!(turn(until - SECOND_ROUND), Turn::Probe);
    assert_eq!(detector.confirm(&who), Some(until));
    assert_eq!(detector.turn(who, Phase::Suspect, until), Turn::Down);
    // If this process was stopped meanwhile, it judges anew.
    assert_eq!(detector.judge_anew(until), [who]);
    assert_eq!(detector.turn(who, Phase::Suspect, until), Turn::Challenge);
    assert_eq!(detector.turn(who, Phase::Condemned, until), Turn::Down);
    // A server that does not accuse the member acts late, and then as an accuser.
    let other = fingerprint(2);
    assert_eq!(detector.turn(other, Phase::Suspect, until), Turn::Probe);
    assert!(detector.accuses(&other));
}

#[test]
fn those_who_do_not_accuse_act_after_those_who_do() {
    let (who, random) = (fingerprint(1), &mut Random::new(1));
    let mut detector = Detector::new(7);
    let (now, phase) = (NOW, Phase::Suspect);
    let backup = detector.turn_at(&who, phase, now, 100, random, now);
    assert!(backup >= now + SUSPICION + BACKUP);
    assert!(backup <= now + SUSPICION + BACKUP + BACKUP_PER_MEMBER * 100);
    detector.accuse(who, now + SUSPICION, true, now);
    let turn = |detector: &Detector, now| {
        detector.turn_at(&who, phase, NOW, 100, &mut Random::new(1), now)
    };
    assert_eq!(turn(&detector, now), now + PING_SUSPECT);
    let late = now + SUSPICION - SECOND_ROUND;
    assert_eq!(turn(&detector, late - PING_EVERY), late);
    detector.confirm(&who);
    assert_eq!(turn(&detector, late), now + SUSPICION);
}

#[test]
fn a_wrong_suspicion_doubles_the_next_and_the_factor_halves_in_a_minute() {
    let (who, mut detector) = (fingerprint(1), Detector::new(7));
    let lasts = |detector: &Detector, now| detector.suspicion(&who, Phase::Suspect, now);
    assert_eq!(lasts(&detector, NOW), SUSPICION);
    detector.raise_suspicion_factor(who, NOW);
    assert_eq!(lasts(&detector, NOW), SUSPICION * 2);
    assert_eq!(
        lasts(&detector, NOW + SUSPICION_FACTOR_HALVES),
        SUSPICION * 3 / 2
    );
    (0..20).for_each(|_| detector.raise_suspicion_factor(who, NOW));
    assert_eq!(lasts(&detector, NOW), SUSPICION_MAX);
    assert_eq!(detector.suspicion(&who, Phase::Condemned, NOW), CONDEMNED);
    assert_eq!(detector.suspicion(&who, Phase::Stalled, NOW), STALL);
    detector.forget(&who);
    assert_eq!(lasts(&detector, NOW), SUSPICION);
}

#[test]
fn many_failures_at_once_make_audits_fast() {
    let failures = |members: usize, apart: Duration| {
        let mut detector = Detector::new(7);
        let mut now = NOW;
        (1..100).find(|_| {
            now += apart;
            detector.note_failure(members, now)
        })
    };
    let soon = Duration::from_millis(10);
    assert_eq!(failures(10, soon), Some(3));
    assert_eq!(failures(160, soon), Some(10));
    assert_eq!(failures(10, STORM * 2), None);
    let mut detector = Detector::new(7);
    for _ in 0..3 {
        detector.note_failure(10, NOW);
    }
    assert!(detector.is_storm(NOW) && !detector.is_storm(NOW + STORM));
}

#[test]
fn a_round_of_audits_asks_each_once() {
    let (view, random) = (known(9, NOW), &mut Random::new(1));
    let mut detector = Detector::new(7);
    let mut next = || {
        let no_neighbour = |who: &Fingerprint| *who != fingerprint(0) && *who != fingerprint(1);
        detector.next_audit(&view, random, no_neighbour).unwrap()
    };
    let mut round: Vec<_> = (0..8).map(|_| next()).collect();
    round.sort();
    assert_eq!(round, [2, 3, 4, 5, 6, 7, 8, 9].map(fingerprint));
}

#[test]
fn a_number_tells_when_its_ping_was_sent() {
    for first in [0, 7, u64::MAX - 3] {
        let detector = Detector::new(first);
        let nonce = detector.nonce(NOW);
        assert_eq!(detector.pinged(nonce, NOW + PING_EVERY), Some(NOW));
        assert_eq!(detector.pinged(nonce.wrapping_add(1), NOW), None, "to come");
        let earlier = first.wrapping_sub(1);
        assert_eq!(detector.pinged(earlier, NOW), None, "another's");
    }
}
