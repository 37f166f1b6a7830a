//! The invariants that hold at every moment, one test for each invariant that the others do not cover.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::machine::{connect, entry, say};
use super::peers::{NOW, linked, ms, pass, testify};
use super::random::{fingerprint, record};
use super::{SECOND, circuit};
use crate::Fingerprint;
use crate::membership::sim::Simulation;
use crate::membership::tuning::*;
use crate::membership::{
    Entry, Gone, Held, Input, Machine, Message, Output, Phase, Record, TetherState,
};

#[test]
fn nobody_is_suspected_whom_a_witness_reaches_or_only_one_does_not() {
    let mut machine = linked(4);
    pass(
        &mut machine,
        0,
        8000,
        &[2, 3, 4],
        testify(|peer| Some(peer == 3)),
    );
    assert_eq!(machine.suspected().count(), 0);
    assert_eq!(machine.len(), 5);
}

#[test]
fn whom_two_witnesses_do_not_reach_is_suspected_and_given_up_after_another_round() {
    let mut machine = linked(4);
    pass(&mut machine, 0, 2500, &[2, 3, 4], testify(|_| Some(false)));
    let who: Vec<_> = machine.suspected().cloned().collect();
    assert_eq!(who, [record(1, 1)]);
    // The member is not given up before its time.
    pass(
        &mut machine,
        2500,
        4300,
        &[2, 3, 4],
        testify(|_| Some(false)),
    );
    assert!(machine.is_live(&fingerprint(1)));
    pass(
        &mut machine,
        4300,
        8000,
        &[2, 3, 4],
        testify(|_| Some(false)),
    );
    assert!(!machine.is_live(&fingerprint(1)));
    assert_eq!(machine.len(), 4);
}

#[test]
fn an_expired_tombstone_resurrects_nobody_and_whoever_asks_is_told() {
    let mut machine = linked(3);
    let gone = entry(fingerprint(9), 9, 4, Phase::Alive);
    let tell = |machine: &mut Machine, entry: Entry, now| {
        let entries = vec![entry];
        say(machine, 1, Message::Delta { entries }, now);
    };
    tell(&mut machine, gone.clone(), NOW);
    tell(&mut machine, entry(fingerprint(9), 9, 4, Phase::Left), NOW);
    assert!(!machine.is_live(&fingerprint(9)));
    // A machine that is alone would keep all its entries, so it is told of its peers for a day.
    let later = NOW + TOMBSTONE + EXPIRE * 2;
    machine.handle(Input::Tick, later);
    let peer = fingerprint(1);
    let dialled = true;
    machine.handle(Input::Connected { peer, dialled }, later);
    connect(&mut machine, 1, later);
    machine.view.expire(later + TOMBSTONE);
    assert!(machine.view.get(&fingerprint(9)).is_none());
    while machine.poll_output().is_some() {}
    tell(&mut machine, gone, later);
    assert!(!machine.is_live(&fingerprint(9)));
    machine.handle(Input::Tick, later + FLUSH);
    let told = std::iter::from_fn(|| machine.poll_output()).any(|output| {
        matches!(output, Output::Send { message: Message::Delta { entries }, .. }
            if entries.iter().any(|e| e.fingerprint == fingerprint(9) && e.held.phase == Phase::Left))
    });
    assert!(told, "the peer goes on believing in it");
    // The server itself may come back.
    tell(
        &mut machine,
        entry(fingerprint(9), 9, 5, Phase::Alive),
        later,
    );
    assert!(machine.is_live(&fingerprint(9)));
}

#[test]
fn every_table_is_bounded() {
    let mut machine = linked(3);
    let name = |i: u32| {
        let mut who = [7; 32];
        who[..4].copy_from_slice(&i.to_be_bytes());
        Fingerprint(who)
    };
    let mut now = NOW;
    let all = (MAX_TOMBSTONES + MAX_FORGOTTEN + 3000) as u32;
    for phase in [Phase::Alive, Phase::Suspect, Phase::Condemned, Phase::Down] {
        for first in (0..all).step_by(250) {
            now += ms(1);
            let entries = (first..first + 250)
                .map(|i| entry(name(i), 3, 0, phase))
                .collect();
            say(&mut machine, 1, Message::Delta { entries }, now);
            for i in first..first + 3 {
                let held = Held {
                    count: 1,
                    instance: 0,
                    incarnation: 0,
                    phase,
                };
                let (nonce, subject) = (1, name(i));
                let ask = Message::Witness {
                    nonce,
                    subject,
                    held,
                };
                say(&mut machine, 2, ask, now);
                let (peer, why) = (subject, Gone::Silent);
                machine.handle(Input::Disconnected { peer, why }, now);
            }
            while machine.poll_output().is_some() {}
            let [probes, indirect_probes, accused, suspicion_factor] = machine.detector.sizes();
            assert!(probes <= MAX_PROBES);
            assert!(indirect_probes <= MAX_PROBES);
            let connecting = machine.links.seeking() + machine.links.meeting();
            assert!(connecting <= 2 * MAX_DEGREE + REUNIONS);
            assert!(machine.view.tombstone_count() <= MAX_TOMBSTONES);
            assert!(accused <= machine.len());
            assert!(suspicion_factor <= machine.len());
            assert!(machine.connections.len() <= 3);
            let timed = machine.len() + probes + indirect_probes;
            assert!(machine.timers.len() <= timed + 3 * MAX_DEGREE + 8);
        }
    }
    assert!(machine.len() < 10, "{}", machine.len());
    assert_eq!(machine.view.tombstone_count(), MAX_TOMBSTONES);
}

#[test]
fn idle_traffic_does_not_depend_on_the_number_of_servers() {
    let packets = |n: usize| {
        let mut sim = circuit(n, 1);
        sim.run(SECOND * 60);
        sim.network.count(n);
        sim.run(SECOND * 120);
        let sent: u64 = sim.network.traffic.iter().map(|sent| sent.packets).sum();
        sent as f64 / n as f64 / 120.0
    };
    let (few, more, many) = (packets(16), packets(48), packets(128));
    for other in [more, many] {
        assert!((other / few - 1.0).abs() < 0.05, "{few}, {more}, {many}");
    }
}

/// Returns the links between running servers that one end holds and the other does not.
fn asymmetric(sim: &Simulation) -> BTreeSet<(Fingerprint, Fingerprint)> {
    let machines: BTreeMap<_, _> = sim
        .up()
        .map(|(_, machine)| (machine.me().fingerprint, machine))
        .collect();
    let links = machines.iter().flat_map(|(who, machine)| {
        machine
            .links
            .iter()
            .filter(|peer| {
                machines
                    .get(peer)
                    .is_some_and(|end| !end.links.contains(who))
            })
            .map(|peer| (*who, peer))
    });
    links.collect()
}

#[test]
fn links_are_symmetric_within_two_heartbeats() {
    for seed in 1..=3 {
        let mut sim = circuit(24, seed);
        let mut since: BTreeMap<(Fingerprint, Fingerprint), Duration> = BTreeMap::new();
        for turn in 0..600 {
            if turn % 50 == 0 && turn < 400 {
                let joined = sim.add_started(&[turn / 50]);
                sim.leave(if turn % 100 == 0 {
                    turn / 50
                } else {
                    joined - 1
                });
            }
            sim.run(ms(50));
            let now = sim.now();
            let one_sided = asymmetric(&sim);
            since.retain(|link, _| one_sided.contains(link));
            for link in one_sided {
                let begin = *since.entry(link).or_insert(now);
                assert!(now - begin <= HEARTBEAT * 2, "seed {seed}: {link:?}");
            }
        }
    }
}

#[test]
fn a_split_preserves_connectivity() {
    for seed in 1..=5 {
        let mut sim = circuit(12, seed);
        for _ in 0..20 {
            sim.add_started(&[0]);
            // The servers that have a link form one graph at every moment.
            for _ in 0..100 {
                sim.run(ms(5));
                let graph = sim.graph();
                let linked = graph.iter().filter(|peers| !peers.is_empty()).count();
                assert!(linked + 1 >= graph.len(), "seed {seed}: somebody lost all");
                let (mut reached, mut next) = (BTreeSet::new(), vec![0]);
                while let Some(i) = next.pop() {
                    if reached.insert(i) {
                        next.extend(&graph[i]);
                    }
                }
                assert_eq!(reached.len(), linked, "seed {seed}, at {:?}", sim.now());
            }
        }
    }
}

#[test]
fn only_the_subject_raises_its_incarnation() {
    for seed in 1..=3 {
        let n = 12;
        let mut sim = circuit(n, seed);
        sim.network.loss = 0.2;
        let mut raised = 0;
        for turn in 0..40 {
            sim.stall(turn % n, ms(4000));
            for _ in 0..10 {
                sim.run(ms(200));
                for (_, machine) in sim.up() {
                    for member in machine.view.iter() {
                        let own = sim
                            .up()
                            .find(|(_, own)| own.me() == &*member.record)
                            .map(|(_, own)| own.incarnation());
                        assert!(own.is_some_and(|own| member.incarnation <= own));
                        raised = raised.max(member.incarnation);
                    }
                }
            }
        }
        assert!(raised > 0, "nobody was ever suspected: nothing was tested");
    }
}

fn phases() -> impl Strategy<Value = Phase> {
    prop::sample::select(vec![
        Phase::Alive,
        Phase::Suspect,
        Phase::Stalled,
        Phase::Condemned,
        Phase::Down,
        Phase::Left,
    ])
}

fn news() -> impl Strategy<Value = Input> {
    let why = prop::sample::select(vec![Gone::Closed, Gone::Leaving, Gone::Silent, Gone::Reset]);
    let state = prop::sample::select(vec![
        TetherState::Unknown,
        TetherState::Acknowledged,
        TetherState::Broken,
    ]);
    prop_oneof![
        6 => (1..4u8, 1..8u8, 0..3u64, phases()).prop_map(|(from, who, incarnation, phase)| {
            let entries = vec![entry(fingerprint(who), who, incarnation, phase)];
            Input::Message { from: fingerprint(from), message: Message::Delta { entries } }
        }),
        1 => (1..4u8, why).prop_map(|(who, why)| Input::Disconnected { peer: fingerprint(who), why }),
        2 => (1..4u8, state).prop_map(|(who, state)| Input::Tether { peer: fingerprint(who), state }),
        4 => Just(Input::Tick),
    ]
}

/// How the others answer for a while: whether they answer pings, and the testimony of witnesses.
type Answers = (bool, Option<Option<bool>>);

fn answer(machine: &mut Machine, output: &Output, (pong, testimony): Answers, now: Duration) {
    let (to, message) = match output {
        Output::Send { to, message } => (*to, message),
        Output::Datagram { to, message } => (to.fingerprint, message),
        _ => return,
    };
    let message = match *message {
        Message::Ping { nonce, .. } if pong => Message::Pong {
            nonce,
            count: 1,
            instance: 0,
            incarnation: 0,
        },
        Message::Witness { nonce, subject, .. } => match testimony {
            Some(answered) => Message::Witnessed {
                nonce,
                subject,
                answered,
            },
            None => return,
        },
        _ => return,
    };
    machine.handle(Input::Datagram { from: to, message }, now);
}

proptest! {
    /// A server is down only after a suspicion that has lasted its whole time, or after hard evidence
    /// and the time that it leaves for objections. And no entry ever decreases.
    #[test]
    fn nobody_is_down_out_of_the_blue(
        steps in prop::collection::vec((news(), 0..400u64, any::<Answers>()), 1..120)
    ) {
        let mut machine = linked(3);
        let mut now = NOW;
        let held = |machine: &Machine| -> BTreeMap<Fingerprint, (Held, Arc<Record>)> {
            let all = (1..8).filter_map(|who| machine.view.get(&fingerprint(who)));
            all.map(|m| (m.record.fingerprint, (m.held(), Arc::clone(&m.record)))).collect()
        };
        let mut since = Since::new();
        for (input, pause, answers) in steps {
            // The machine is never late: another test has machines that were stopped.
            let ticks = (0..=pause / 20).map(|_| (Input::Tick, ms(pause.min(20))));
            for (input, pause) in ticks.chain([(input, Duration::ZERO)]) {
                now += pause;
                let before = held(&machine);
                let told = matches!(input, Input::Message { .. });
                machine.handle(input, now);
                judge(&before, &held(&machine), &mut since, told, now)?;
                while let Some(output) = machine.poll_output() {
                    let before = held(&machine);
                    answer(&mut machine, &output, answers, now);
                    judge(&before, &held(&machine), &mut since, false, now)?;
                }
            }
        }
    }
}

type Known = BTreeMap<Fingerprint, (Held, Arc<Record>)>;

/// The times since which members are suspected or condemned, and the incarnations in which they are.
type Since = BTreeMap<Fingerprint, (u64, bool, Duration)>;

fn judge(
    before: &Known,
    after: &Known,
    since: &mut Since,
    told: bool,
    now: Duration,
) -> Result<(), TestCaseError> {
    for (who, (held, _)) in after {
        if let Some((old, _)) = before.get(who) {
            prop_assert!(held >= old, "{old:?} became {held:?}");
            if held.phase == Phase::Down && old.phase.is_live() {
                let known = since.get(who).copied();
                let (incarnation, hard, since) = known.unwrap_or((u64::MAX, false, now));
                prop_assert!(
                    old.phase.is_suspected() && incarnation == held.incarnation,
                    "{old:?} became {held:?}"
                );
                let least = match (hard, told) {
                    (false, _) => HEARSAY,
                    (true, false) => CONDEMNED,
                    // The server that tells of it has waited.
                    (true, true) => Duration::ZERO,
                };
                prop_assert!(now - since >= least, "{old:?} after {:?}", now - since);
            }
        }
        let hard = held.phase == Phase::Condemned;
        match (held.phase.is_suspected(), since.get(who)) {
            (false, _) => drop(since.remove(who)),
            (true, Some((incarnation, was_hard, _)))
                if *incarnation == held.incarnation && *was_hard == hard => {}
            // This includes members that are suspected when they are first heard of.
            (true, _) => drop(since.insert(*who, (held.incarnation, hard, now))),
        }
    }
    Ok(())
}
