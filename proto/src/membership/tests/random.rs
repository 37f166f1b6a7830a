//! Random operations and hostile messages against the machine's invariants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::{SECOND, becomes_whole, circuit};
use crate::membership::tuning::{MAX_DEGREE, MAX_INCARNATION, MAX_LIVES, SEEKING};
use crate::membership::view::View;
use crate::membership::{
    Entry, Gone, Held, Input, MAX_DATAGRAM, Machine, Message, Notice, Output, Phase, Record,
    TetherState, Verdict, Wish,
};
use crate::url::{Host, Server};
use crate::{Fingerprint, Url};

/// A change or fault of a simulated circuit.
#[derive(Debug, Clone)]
enum Operation {
    Kill(usize),
    CrashHost(usize),
    Leave(usize),
    Start(usize),
    Stall(usize, u64),
    Partition(u32),
    Block(usize, usize),
    Heal,
    Loss(f64),
    Dial(usize, usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let node = || 0..64usize;
    prop_oneof![
        2 => node().prop_map(Operation::Kill),
        1 => node().prop_map(Operation::CrashHost),
        1 => node().prop_map(Operation::Leave),
        4 => node().prop_map(Operation::Start),
        1 => (node(), 500..12_000u64).prop_map(|(i, ms)| Operation::Stall(i, ms)),
        1 => any::<u32>().prop_map(Operation::Partition),
        1 => (node(), node()).prop_map(|(i, j)| Operation::Block(i, j)),
        2 => Just(Operation::Heal),
        1 => (0.0..0.2).prop_map(Operation::Loss),
        1 => (node(), node()).prop_map(|(i, j)| Operation::Dial(i, j)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Once the faults are over, all views are exact and the links form one graph.
    #[test]
    fn a_circuit_becomes_whole_after_anything(
        n in 2..14usize,
        seed in any::<u64>(),
        tethers in any::<bool>(),
        operations in prop::collection::vec((operation(), 0..6000u64), 1..16),
    ) {
        let mut sim = circuit(n, seed);
        sim.tethers = tethers;
        for (operation, pause) in operations {
            let others = |i: usize| (0..n).filter(|j| *j != i).collect::<Vec<_>>();
            match operation {
                Operation::Kill(i) if sim.nodes[i % n].is_up() => sim.kill(i % n),
                Operation::CrashHost(i) if sim.nodes[i % n].is_up() => sim.crash_host(i % n),
                Operation::Leave(i) if sim.nodes[i % n].is_up() => sim.leave(i % n),
                Operation::Start(i) if !sim.nodes[i % n].is_up() => sim.start(i % n, &others(i % n)),
                Operation::Stall(i, ms) if sim.nodes[i % n].is_up() => sim.stall(i % n, Duration::from_millis(ms)),
                Operation::Partition(bits) => sim.partition(|i| bits >> i & 1),
                Operation::Block(i, j) if i % n != j % n => sim.block(i % n, j % n),
                Operation::Heal => sim.heal(),
                Operation::Loss(share) => sim.network.loss = share,
                Operation::Dial(i, j) => sim.dial(i % n, j % n),
                _ => {}
            }
            sim.run(Duration::from_millis(pause));
        }
        sim.heal();
        sim.network.loss = 0.0;
        // Stalls, back-offs and suspicions of the past may have to end first.
        sim.run(SECOND * 25);
        becomes_whole(&mut sim, 30);
    }
}

pub(in crate::membership) fn fingerprint(who: u8) -> Fingerprint {
    Fingerprint([who; 32])
}

pub(in crate::membership) fn record(who: u8, count: u64) -> Record {
    let fingerprint = fingerprint(who);
    let server = Some(Server {
        pid: 1,
        id: fingerprint.id(),
    });
    let url = Url {
        host: Host::Ip([10, 0, 0, who].into()),
        port: 1,
        server,
    };
    Record {
        fingerprint,
        url,
        name: String::new(),
        count,
        instance: 0,
    }
}

/// A view of this many live servers besides number 0, all heard of `now`.
pub(in crate::membership) fn known(others: u8, now: Duration) -> View {
    let mut view = View::new();
    for who in 0..=others {
        let held = Held {
            count: 0,
            instance: 0,
            incarnation: 0,
            phase: Phase::Alive,
        };
        view.raise(fingerprint(who), held, Some(Arc::new(record(who, 0))), now);
    }
    view
}

/// Small numbers, which meet each other, and extreme ones.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..4u64, 1 => Just(u64::MAX), 1 => Just(MAX_INCARNATION), 1 => Just(MAX_INCARNATION - 1)]
}

fn who() -> impl Strategy<Value = Fingerprint> {
    (0..16u8).prop_map(fingerprint)
}

fn held() -> impl Strategy<Value = Held> {
    let phases = vec![
        Phase::Alive,
        Phase::Suspect,
        Phase::Stalled,
        Phase::Condemned,
        Phase::Down,
        Phase::Left,
    ];
    (number(), 0..2u64, number(), prop::sample::select(phases)).prop_map(
        |(count, instance, incarnation, phase)| Held {
            count,
            instance,
            incarnation,
            phase,
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    (0..16u8, 0..16u8, held(), any::<u32>(), any::<bool>()).prop_map(
        |(who, other, held, age, whole)| Entry {
            fingerprint: fingerprint(who),
            held,
            age,
            // Now and then the record is another server's.
            record: whole.then(|| {
                let whose = if other == 0 { other } else { who };
                Arc::new(Record {
                    instance: held.instance,
                    ..record(whose, held.count)
                })
            }),
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let wish = prop_oneof![
        Just(Wish::Plain),
        Just(Wish::Split),
        who().prop_map(Wish::Instead),
        Just(Wish::Swap)
    ];
    let other = || prop::option::of(who());
    let numbers = |n| prop::collection::vec(number(), 0..n);
    prop_oneof![
        (entry(), any::<u32>(), number()).prop_map(|(entry, live, digest)| Message::Hello {
            entry,
            live,
            digest
        }),
        (any::<u8>(), number()).prop_map(|(degree, digest)| Message::Heartbeat { degree, digest }),
        prop::collection::vec(entry(), 0..6).prop_map(|entries| Message::Delta { entries }),
        (any::<u8>(), wish).prop_map(|(degree, wish)| Message::Link { degree, wish }),
        (any::<bool>(), other())
            .prop_map(|(accepted, other)| Message::LinkReply { accepted, other }),
        other().prop_map(|replacement| Message::Unlink { replacement }),
        (number(), held()).prop_map(|(nonce, held)| Message::Ping { nonce, held }),
        (number(), number(), number()).prop_map(|(nonce, count, incarnation)| Message::Pong {
            nonce,
            count,
            instance: 0,
            incarnation
        }),
        (number(), 0..16u8, held()).prop_map(|(nonce, who, held)| Message::Knock {
            nonce,
            url: record(who, 0).url,
            held,
        }),
        (number(), who(), held()).prop_map(|(nonce, subject, held)| Message::Witness {
            nonce,
            subject,
            held
        }),
        (number(), who(), prop::option::of(any::<bool>())).prop_map(
            |(nonce, subject, answered)| Message::Witnessed {
                nonce,
                subject,
                answered
            }
        ),
        numbers(70).prop_map(|buckets| Message::Sync { buckets }),
        prop::collection::vec(any::<u64>(), 64).prop_map(|buckets| Message::Sync { buckets }),
        (any::<u64>(), numbers(9))
            .prop_map(|(buckets, hashes)| Message::Hashes { buckets, hashes }),
        numbers(9).prop_map(|hashes| Message::Want { hashes }),
        prop::collection::vec(who(), 0..9).prop_map(|members| Message::Who { members }),
    ]
}

fn settled() -> impl Strategy<Value = Input> {
    let verdict = prop_oneof![
        number().prop_map(Verdict::Outlasts),
        number().prop_map(Verdict::Nobody),
        Just(Verdict::Unknown),
    ];
    (0..3u64, verdict).prop_map(|(instance, verdict)| Input::Settled { instance, verdict })
}

fn input() -> impl Strategy<Value = Vec<Input>> {
    let gone = vec![Gone::Closed, Gone::Leaving, Gone::Silent, Gone::Reset];
    let tether = vec![
        TetherState::Unknown,
        TetherState::Acknowledged,
        TetherState::Broken,
    ];
    prop_oneof![
        // The connection begins with a sane introduction; without one the machine would not listen.
        4 => (1..16u8, number(), 0..9u32).prop_map(|(who, count, live)| {
            let held = Held { count, instance: 0, incarnation: 0, phase: Phase::Alive };
            let entry = Entry { fingerprint: fingerprint(who), held, age: 0, record: Some(Arc::new(record(who, count))) };
            let hello = Message::Hello { entry, live, digest: 1 };
            let peer = fingerprint(who);
            vec![Input::Connected { peer, dialled: true }, Input::Message { from: peer, message: hello }]
        }),
        1 => (who(), any::<bool>()).prop_map(|(peer, dialled)| vec![Input::Connected { peer, dialled }]),
        1 => (who(), prop::sample::select(gone)).prop_map(|(peer, why)| vec![Input::Disconnected { peer, why }]),
        1 => who().prop_map(|peer| vec![Input::ConnectFailed { peer }]),
        1 => (0..3u8, number(), 0..2u64).prop_map(|(who, count, instance)| {
            // At this server's own address, or elsewhere.
            let mut record = Record { instance, ..record(0, count) };
            record.url.port += u16::from(who);
            vec![Input::Copy { record: Arc::new(record) }]
        }),
        1 => settled().prop_map(|settled| vec![settled]),
        12 => (who(), message()).prop_map(|(from, message)| vec![Input::Message { from, message }]),
        3 => (who(), message()).prop_map(|(from, message)| vec![Input::Datagram { from, message }]),
        1 => (who(), prop::sample::select(tether)).prop_map(|(peer, state)| vec![Input::Tether { peer, state }]),
        4 => Just(vec![Input::Tick]),
    ]
}

proptest! {
    /// No message of a hostile member breaks the machine.
    #[test]
    fn nothing_that_is_said_breaks_the_machine(
        steps in prop::collection::vec((input(), 0..2000u64), 1..120),
        seed in any::<u64>(),
    ) {
        let mut now = Duration::from_secs(1);
        let me = record(0, 2);
        let mut machine = Machine::new(me.clone(), seed, now);
        let mut subscribed = BTreeMap::from([(me.fingerprint, Arc::new(me.clone()))]);
        for (inputs, pause) in steps {
            now += Duration::from_millis(pause);
            for input in inputs {
                machine.handle(input, now);
                check(&mut machine, &mut subscribed)?;
            }
            // The test does as a driver would: it gives each time-out in time.
            for _ in 0..200 {
                let Some(at) = machine.poll_timeout().filter(|at| *at <= now) else { break };
                machine.handle(Input::Tick, at.max(now));
                check(&mut machine, &mut subscribed)?;
            }
            prop_assert!(machine.poll_timeout().is_none_or(|at| at > now), "time stands still");
        }
        machine.handle(Input::Leave, now);
        check(&mut machine, &mut subscribed)?;
        prop_assert_eq!(machine.poll_timeout(), None);
    }
}

fn check(
    machine: &mut Machine,
    subscribed: &mut BTreeMap<Fingerprint, Arc<Record>>,
) -> Result<(), TestCaseError> {
    while let Some(output) = machine.poll_output() {
        match output {
            Output::Notice(Notice::Join(record)) => {
                prop_assert_eq!(subscribed.insert(record.fingerprint, record), None);
            }
            Output::Notice(Notice::Leave(record)) => {
                prop_assert_eq!(subscribed.remove(&record.fingerprint), Some(record));
            }
            Output::Datagram { message, .. } => {
                prop_assert!(
                    message.encode().unwrap().len() <= MAX_DATAGRAM,
                    "{:?}",
                    message
                );
            }
            Output::Send { message, .. } => prop_assert!(message.encode().is_ok()),
            Output::Connect { to } => prop_assert!(to.fingerprint != machine.me().fingerprint),
            Output::Ask { to } => prop_assert_ne!(to.instance, machine.me().instance),
            Output::Disconnect { .. } => {}
        }
    }
    prop_assert!(machine.live().eq(subscribed.values()));
    prop_assert_eq!(machine.len(), subscribed.len());
    prop_assert!(machine.is_live(&machine.me().fingerprint));
    prop_assert!(machine.suspected().all(|record| record != machine.me()));
    prop_assert!(machine.incarnation() <= MAX_INCARNATION);
    prop_assert!(machine.me().count <= MAX_LIVES);
    prop_assert!(machine.neighbours().count() <= MAX_DEGREE + SEEKING);
    Ok(())
}
