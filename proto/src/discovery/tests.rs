//! A segment in memory, whose clock the tests own: servers, packets in flight, and a membership
//! that merges what was heard of.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// How long a packet takes.
const LATENCY: Duration = Duration::from_millis(1);
/// How long membership takes to make one circuit of two.
const MERGE: Duration = Duration::from_millis(100);
const SEGMENT: Segment = Segment(1);

fn key(byte: u8) -> Key {
    Key::from_random([byte; 32])
}

fn id(server: usize) -> ServerId {
    ServerId(mix(server as u64 + 1))
}

fn identity(server: usize) -> Identity {
    let url = format!("circuit://10.0.0.1:1/1/{}", id(server).in_url());
    Identity {
        url: url.parse().unwrap(),
        name: "b".into(),
        count: 0,
    }
}

/// All servers live.
fn all(id: ServerId) -> Option<Life> {
    Some(Life { id, count: 0 })
}

fn from(server: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1 + server as u16))
}

fn machine(server: usize, key: Option<Key>) -> Machine {
    let name = "a".into();
    Machine::new(
        Identity {
            name,
            ..identity(server)
        },
        key,
        1,
    )
    .unwrap()
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

enum Event {
    Packet {
        cable: usize,
        sender: usize,
        bytes: Vec<u8>,
    },
    Merge(usize, usize),
}

struct Server {
    cable: usize,
    circuit: usize,
    alive: bool,
    told: usize,
    said: usize,
}

/// Servers on cables; each cable is a segment.
#[derive(Default)]
struct World {
    now: Duration,
    machines: Vec<Machine>,
    servers: Vec<Server>,
    ids: BTreeMap<ServerId, usize>,
    events: BTreeMap<(Duration, usize), Event>,
    sequence: usize,
    answers: Vec<(SocketAddr, Vec<u8>)>,
    trace: Vec<String>,
}

impl World {
    fn start(&mut self, key: Option<Key>) -> usize {
        let server = self.servers.len();
        self.machines.push(machine(server, key));
        self.servers.push(Server {
            cable: 0,
            circuit: server,
            alive: true,
            told: 0,
            said: 0,
        });
        self.ids.insert(id(server), server);
        self.input(server, Input::Segments(&[SEGMENT]));
        server
    }

    /// A circuit of `n` servers that started one after the other and has settled.
    fn settled(n: usize, key: Option<Key>) -> World {
        let mut world = World::default();
        for _ in 0..n {
            world.start(key.clone());
            world.run(ms(300));
        }
        world.run(Duration::from_secs(300));
        assert!(world.is_one());
        world.clear();
        world
    }

    fn clear(&mut self) {
        self.servers
            .iter_mut()
            .for_each(|server| (server.told, server.said) = (0, 0));
    }

    fn said(&self) -> usize {
        self.servers.iter().map(|server| server.said).sum()
    }

    fn told(&self) -> usize {
        self.servers.iter().map(|server| server.told).sum()
    }

    fn circuits(&self) -> BTreeSet<usize> {
        self.servers
            .iter()
            .filter(|server| server.alive)
            .map(|server| server.circuit)
            .collect()
    }

    fn is_one(&self) -> bool {
        self.circuits().len() == 1
    }

    fn input(&mut self, server: usize, input: Input<'_>) {
        let circuit = self.servers[server].circuit;
        let life_of = |id| {
            let other = self.ids.get(&id).map(|other| &self.servers[*other]);
            all(id).filter(|_| other.is_some_and(|other| other.circuit == circuit && other.alive))
        };
        self.machines[server].handle(input, self.now, &life_of);
        while let Some(output) = self.machines[server].poll_output() {
            self.trace
                .push(format!("{:?} {server} {output:?}", self.now));
            self.output(server, output);
        }
    }

    fn output(&mut self, server: usize, output: Output) {
        match output {
            Output::Multicast { bytes, .. } => {
                self.servers[server].said += 1;
                let cable = self.servers[server].cable;
                self.later(
                    LATENCY,
                    Event::Packet {
                        cable,
                        sender: server,
                        bytes,
                    },
                );
            }
            Output::Unicast { to, bytes } => self.answers.push((to, bytes)),
            Output::Heard(Identity { url, .. }) => {
                self.servers[server].told += 1;
                let other = self.ids[&url.server.unwrap().id];
                self.later(MERGE, Event::Merge(server, other));
            }
        }
    }

    fn later(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    fn deliver(&mut self, event: Event) {
        match event {
            Event::Packet {
                cable,
                sender,
                bytes,
            } => {
                for server in 0..self.servers.len() {
                    if self.servers[server].alive && self.servers[server].cable == cable {
                        let packet = Input::Packet {
                            segment: SEGMENT,
                            from: from(sender),
                            bytes: &bytes,
                        };
                        self.input(server, packet);
                    }
                }
            }
            Event::Merge(a, b) => {
                let (into, gone) = (self.servers[a].circuit, self.servers[b].circuit);
                if self.servers[a].alive && self.servers[b].alive {
                    let members = self
                        .servers
                        .iter_mut()
                        .filter(|server| server.circuit == gone);
                    members.for_each(|server| server.circuit = into);
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let alive = (0..self.servers.len()).filter(|server| self.servers[*server].alive);
            let timer = alive
                .filter_map(|i| Some((self.machines[i].poll_timeout()?, i)))
                .min();
            let event = self.events.first_key_value().map(|(at, _)| *at);
            match (timer, event) {
                (Some((at, server)), event) if at <= until && event.is_none_or(|(e, _)| at < e) => {
                    self.now = self.now.max(at);
                    self.input(server, Input::Timeout);
                }
                (_, Some((at, _))) if at <= until => {
                    self.now = self.now.max(at);
                    let (_, event) = self.events.pop_first().unwrap();
                    self.deliver(event);
                }
                _ => break,
            }
        }
        self.now = until;
    }

    /// Sends a query of a client on the cable, and returns what comes back.
    fn ask(&mut self, query: &Query<'_>, attempt: u8) -> Vec<Reply> {
        self.answers.clear();
        let sender = self.servers.len();
        self.later(
            LATENCY,
            Event::Packet {
                cable: 0,
                sender,
                bytes: query.packet(attempt),
            },
        );
        self.run(LATENCY);
        self.answers
            .iter()
            .filter_map(|(_, bytes)| query.check(bytes))
            .collect()
    }
}

#[test]
fn two_that_start_find_each_other_at_once() {
    for delay in [0, 5, 70, 10_000] {
        let mut world = World::default();
        world.start(Some(key(1)));
        world.run(ms(delay));
        world.start(Some(key(1)));
        world.run(LATENCY + MERGE);
        assert!(
            world.is_one(),
            "the second started {delay} ms after the first"
        );
    }
}

#[test]
fn a_hundred_that_start_at_once_find_each_other_with_few_dials_each() {
    let mut world = World::default();
    for _ in 0..100 {
        world.start(None);
    }
    world.run(ms(500));
    assert!(world.is_one());
    assert!(
        world.servers.iter().all(|server| server.told <= 9),
        "more than the bucket gives"
    );
}

#[test]
fn what_is_said_at_rest_does_not_grow_with_the_servers() {
    let said = |n: usize| {
        let mut world = World::settled(n, None);
        world.run(Duration::from_secs(1024));
        assert_eq!(world.told(), 0);
        world.said()
    };
    // One alone speaks in each of the 20 intervals, of which one is not whole. Of two, each hears one other, which is not
    // enough to be silent. Of more, intervals that do not begin together let a few more speak
    // than the redundancy constant (RFC 6206, section 4.2).
    assert!((19..=21).contains(&said(1)));
    assert!((38..=42).contains(&said(2)));
    for n in [8, 32, 128] {
        let said = said(n);
        assert!((20..=100).contains(&said), "{n} servers said {said}");
    }
}

#[test]
fn a_newcomer_is_dialled_by_a_few_and_heard_by_all() {
    let mut world = World::settled(100, Some(key(1)));
    let newcomer = world.start(Some(key(1)));
    world.run(ms(90));
    let told = world.told();
    assert!((FEW..30).contains(&told), "{told} told of it");
    world.run(ms(200));
    assert!(world.is_one());
    world.clear();
    world.run(Duration::from_secs(120));
    assert_eq!(
        world.told(),
        0,
        "those whose turn came later had nothing left to do"
    );
    assert!(world.servers[newcomer].said < 10);
}

#[test]
fn circuits_that_meet_on_a_segment_merge() {
    for seconds in 0..20 {
        let mut world = World::default();
        for server in 0..12 {
            world.start(Some(key(1)));
            world.servers[server].cable = server % 2;
        }
        world.events.clear();
        world.run(Duration::from_secs(400 + seconds));
        assert_eq!(world.circuits().len(), 2);
        world.servers.iter_mut().for_each(|server| server.cable = 0);
        world.run(Duration::from_secs(52));
        assert!(world.is_one());
    }
}

#[test]
fn circuits_with_different_keys_share_a_segment() {
    let keys = [None, Some(key(1)), Some(key(2))];
    let mut world = World::default();
    for server in 0..12 {
        world.start(keys[server % 3].clone());
        world.run(ms(300));
    }
    world.run(Duration::from_secs(300));
    assert_eq!(world.circuits().len(), 3);
    assert!(
        (0..12).all(|server| world.servers[server].circuit == world.servers[server % 3].circuit)
    );
    world.clear();
    world.run(Duration::from_secs(512));
    for (circuit, key) in keys.iter().enumerate() {
        let said: usize = world
            .servers
            .iter()
            .skip(circuit)
            .step_by(3)
            .map(|server| server.said)
            .sum();
        assert!(
            said >= 10,
            "others kept circuit {circuit} silent: it said {said}"
        );
        let query = Query::new([circuit as u8; 16], key.as_ref());
        let (answers, mismatches): (Vec<_>, Vec<_>) = world
            .ask(&query, 0)
            .into_iter()
            .partition(|reply| matches!(reply, Reply::Answer(_)));
        assert!((3..=4).contains(&answers.len()));
        assert!((6..=8).contains(&mismatches.len()));
    }
}

/// Steps one machine to `until`; how often it spoke.
fn speak(machine: &mut Machine, until: Duration, life_of: LifeOf<'_>) -> usize {
    let mut spoken = 0;
    while let Some(at) = machine.poll_timeout().filter(|at| *at <= until) {
        machine.handle(Input::Timeout, at, life_of);
        while let Some(output) = machine.poll_output() {
            spoken += usize::from(matches!(output, Output::Multicast { .. }));
        }
    }
    spoken
}

fn announcement(server: usize, key: Option<&Key>) -> Vec<u8> {
    Packet::Announcement(identity(server)).encode(key)
}

fn hear(machine: &mut Machine, server: usize, bytes: &[u8], now: Duration, life_of: LifeOf<'_>) {
    machine.handle(
        Input::Packet {
            segment: SEGMENT,
            from: from(server),
            bytes,
        },
        now,
        life_of,
    );
}

#[test]
fn only_verified_announcements_of_live_members_silence() {
    let check = |why: &str, servers: &[usize], with: Option<Key>, live: bool, silent: bool| {
        let mut machine = machine(0, Some(key(1)));
        machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &|id| {
            all(id).filter(|_| live)
        });
        while machine.poll_output().is_some() {}
        for server in servers {
            hear(
                &mut machine,
                *server,
                &announcement(*server, with.as_ref()),
                ms(1),
                &|id| all(id).filter(|_| live),
            );
        }
        while machine.poll_output().is_some() {}
        assert_eq!(
            speak(&mut machine, ms(99), &|id| all(id).filter(|_| live)),
            usize::from(!silent),
            "{why}"
        );
    };
    check("two members", &[1, 2], Some(key(1)), true, true);
    check("one member twice", &[1, 1], Some(key(1)), true, false);
    check("itself", &[0, 1], Some(key(1)), true, false);
    check(
        "two that are not members",
        &[1, 2],
        Some(key(1)),
        false,
        false,
    );
    check(
        "members' names with another key",
        &[1, 2],
        Some(key(2)),
        true,
        false,
    );
    check("members' names without a key", &[1, 2], None, true, false);
}

#[test]
fn each_segment_has_its_own_silence() {
    let mut machine = machine(0, None);
    machine.handle(
        Input::Segments(&[Segment(1), Segment(2)]),
        Duration::ZERO,
        &all,
    );
    for server in [1, 2] {
        hear(
            &mut machine,
            server,
            &announcement(server, None),
            ms(1),
            &all,
        );
    }
    let mut said = Vec::new();
    while machine.poll_timeout().unwrap() <= ms(99) {
        let at = machine.poll_timeout().unwrap();
        machine.handle(Input::Timeout, at, &all);
    }
    while let Some(output) = machine.poll_output() {
        if let Output::Multicast { segment, .. } = output {
            said.push(segment.0);
        }
    }
    assert_eq!(
        said,
        [1, 2, 2],
        "at the start on both, then on the second only"
    );
}

#[test]
fn a_segment_that_appears_is_greeted_and_one_that_went_is_left_alone() {
    let mut machine = machine(0, None);
    let mut segments = |list: &[u32], at: u64| {
        let list: Vec<Segment> = list.iter().copied().map(Segment).collect();
        machine.handle(Input::Segments(&list), ms(at), &all);
        let outputs: Vec<Output> = std::iter::from_fn(|| machine.poll_output()).collect();
        let to = |output: &Output| match output {
            Output::Multicast { segment, .. } => segment.0,
            other => panic!("{other:?}"),
        };
        (
            outputs.iter().map(to).collect::<Vec<u32>>(),
            machine.poll_timeout().is_some(),
        )
    };
    assert_eq!(segments(&[1], 0), (vec![1], true));
    assert_eq!(segments(&[1, 2], 1), (vec![2], true));
    assert_eq!(segments(&[2], 2), (vec![], true));
    assert_eq!(segments(&[], 3), (vec![], false));
    assert_eq!(segments(&[2], 4), (vec![2], true));
}

#[test]
fn one_alone_answers_at_once_and_of_many_a_few() {
    for n in [1, 2, 3, 10, 100] {
        let mut world = World::settled(n, Some(key(1)));
        world.run(Duration::from_secs(1800));
        let key = key(1);
        let answers: Vec<usize> = (0..50)
            .map(|nonce| world.ask(&Query::new([nonce; 16], Some(&key)), 0).len())
            .collect();
        let mean = answers.iter().sum::<usize>() as f64 / answers.len() as f64;
        assert!(
            answers.iter().all(|count| *count >= n.min(FEW)),
            "{n} servers: {answers:?}"
        );
        assert!(mean < 8.0, "{n} servers: {mean} answers");
    }
}

#[test]
fn a_query_is_answered_in_the_end_even_if_nearly_all_have_just_died() {
    let mut world = World::settled(40, None);
    // They are dead, and nobody has noticed: the live view still has them.
    let cable = |server: &mut Server| server.cable = 1;
    world.servers.iter_mut().skip(1).for_each(cable);
    for nonce in 0..50 {
        let query = Query::new([nonce; 16], None);
        let answered = (0..=EVERYBODY).any(|attempt| !world.ask(&query, attempt).is_empty());
        assert!(answered);
    }
}

#[test]
fn answers_a_copy_once_and_a_repetition_again() {
    let mut world = World::settled(1, None);
    let query = Query::new([1; 16], None);
    assert_eq!(world.ask(&query, 0).len(), 1);
    assert_eq!(world.ask(&query, 0).len(), 0);
    assert_eq!(world.ask(&query, 1).len(), 1);
}

#[test]
fn says_to_a_client_with_another_key_only_that() {
    let mut world = World::settled(1, Some(key(1)));
    let other = key(2);
    let wrong = Reply::KeyMismatch(crate::auth::KeyMismatch::Wrong);
    assert_eq!(world.ask(&Query::new([1; 16], Some(&other)), 0), [wrong]);
    let missing = Reply::KeyMismatch(crate::auth::KeyMismatch::Missing);
    assert_eq!(world.ask(&Query::new([2; 16], None), 0), [missing]);
    assert!(world.answers[0].1.len() < 48, "no URL is in it");
}

#[test]
fn does_not_serve_to_attack_others() {
    let ask = |machine: &mut Machine, from: &str, bytes: &[u8], at: u64| {
        let packet = Input::Packet {
            segment: SEGMENT,
            from: from.parse().unwrap(),
            bytes,
        };
        machine.handle(packet, ms(at), &all);
        std::iter::from_fn(|| machine.poll_output())
            .filter(|o| matches!(o, Output::Unicast { .. }))
            .count()
    };
    let mut machine = machine(0, None);
    machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &all);
    let query = |n: u16| {
        let mut nonce = [0; 16];
        nonce[..2].copy_from_slice(&n.to_be_bytes());
        Query::new(nonce, None).packet(0)
    };
    assert_eq!(
        ask(&mut machine, "10.0.0.9:9", &query(0)[..60], 0),
        0,
        "shorter than the answer"
    );
    for from in [
        "10.0.0.9:0",
        "228.8.8.8:9",
        "255.255.255.255:9",
        "0.0.0.0:9",
        "[ff02::1]:9",
    ] {
        assert_eq!(ask(&mut machine, from, &query(0), 0), 0, "{from}");
    }
    let answered: usize = (1..5000)
        .map(|n| ask(&mut machine, "10.0.0.9:9", &query(n), 10))
        .sum();
    assert_eq!(answered, 1000);
    let other = key(1);
    let theirs = Query::new([9; 16], Some(&other));
    let refused: usize = (0..=255)
        .map(|n| ask(&mut machine, "10.0.0.9:9", &theirs.packet(n), 20))
        .sum();
    assert_eq!(refused, 10);
}

#[test]
fn queries_that_others_answer_cost_little_too() {
    let mut machine = machine(0, None);
    machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &all);
    for who in 1..=100 {
        let announced = announcement(who, None);
        let packet = Input::Packet {
            segment: SEGMENT,
            from: "10.0.0.9:9".parse().unwrap(),
            bytes: &announced,
        };
        machine.handle(packet, Duration::ZERO, &all);
    }
    let looked_up = std::cell::Cell::new(0);
    for n in 0..5000_u16 {
        let mut nonce = [0; 16];
        nonce[..2].copy_from_slice(&n.to_be_bytes());
        let query = Query::new(nonce, None).packet(0);
        let packet = Input::Packet {
            segment: SEGMENT,
            from: "10.0.0.9:9".parse().unwrap(),
            bytes: &query,
        };
        machine.handle(packet, Duration::ZERO, &|id| {
            looked_up.set(looked_up.get() + 1);
            all(id)
        });
    }
    let each = 100;
    assert!(
        (each..=1000 * each).contains(&looked_up.get()),
        "{looked_up:?}"
    );
}

#[test]
fn another_hosts_loopback_is_not_ours() {
    let check = |from: &str, expected: usize| {
        let mut machine = machine(0, None);
        machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &|_| None);
        let url = format!("circuit://127.0.0.1:1/1/{}", id(1).in_url())
            .parse()
            .unwrap();
        let bytes = Packet::Announcement(Identity {
            url,
            name: String::new(),
            count: 0,
        })
        .encode(None);
        let packet = Input::Packet {
            segment: SEGMENT,
            from: from.parse().unwrap(),
            bytes: &bytes,
        };
        machine.handle(packet, ms(1), &|_| None);
        let heard = |output: &Output| matches!(output, Output::Heard(_));
        assert_eq!(
            std::iter::from_fn(|| machine.poll_output())
                .filter(heard)
                .count(),
            expected,
            "{from}"
        );
    };
    check("127.0.0.1:9", 1);
    check("10.0.0.9:9", 0);
}

#[test]
fn a_replayed_announcement_costs_little() {
    let mut machine = machine(0, None);
    machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, &|_| None);
    let (mut heard, mut said) = (0, 0);
    for at in 0..600_000 / 20 {
        hear(
            &mut machine,
            1,
            &announcement(1, None),
            ms(at * 20),
            &|_| None,
        );
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Heard(_) => heard += 1,
                _ => said += 1,
            }
        }
    }
    assert!(heard <= 16, "told of it {heard} times in ten minutes");
    assert!(said <= 16 * 10, "said {said}");
}

#[test]
fn a_member_that_was_started_again_is_told_of_and_answered_soon() {
    let mut machine = machine(0, None);
    let before = identity(1);
    let life_of: LifeOf<'_> = &all;
    machine.handle(Input::Segments(&[SEGMENT]), Duration::ZERO, life_of);
    speak(&mut machine, ms(600_000), life_of);
    let now = ms(600_000);
    let mut hear_of = |identity: &Identity| {
        let bytes = Packet::Announcement(identity.clone()).encode(None);
        hear(&mut machine, 1, &bytes, now, life_of);
        let told = std::iter::from_fn(|| machine.poll_output()).count();
        (told, machine.poll_timeout().unwrap() - now < ms(100))
    };
    assert_eq!(hear_of(&before), (0, false), "as it is known");
    let again = Identity { count: 1, ..before };
    assert_eq!(hear_of(&again), (1, true), "at the same URL");
}

#[test]
fn only_pinned_urls_are_announced() {
    let mut me = identity(0);
    me.url.server = None;
    let unpinned = Unpinned(me.url.clone());
    assert_eq!(Machine::new(me, None, 1).unwrap_err(), unpinned);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let trace = || {
        let mut world = World::default();
        for _ in 0..20 {
            world.start(None);
        }
        world.run(Duration::from_secs(100));
        world.trace
    };
    assert_eq!(trace(), trace());
}

proptest! {
    #[test]
    fn survives_anything(steps in prop::collection::vec((0u8..5, 0usize..40, 0u64..3000, any::<[u8; 16]>()), 1..200)) {
        let now = RefCell::new(Duration::ZERO);
        let mut machine = machine(0, None);
        for (kind, server, pause, nonce) in steps {
            *now.borrow_mut() += ms(pause);
            let at = *now.borrow();
            let bytes = match kind {
                0 => announcement(server, None),
                1 => Query::new(nonce, None).packet(nonce[0]),
                2 => [b"crkt\x01\x01\x00\x00", &nonce[..], &nonce].concat(),
                _ => Vec::new(),
            };
            let segments = [Segment(1), Segment(2)];
            let input = match kind {
                3 => Input::Segments(&segments[..server % 3]),
                4 => Input::Timeout,
                _ => Input::Packet { segment: SEGMENT, from: from(server), bytes: &bytes },
            };
            machine.handle(input, at, &|id| all(id).filter(|_| id.0 % 2 == 0));
            prop_assert!(machine.poll_timeout().is_none_or(|next| next > at), "what was due is done");
            let outputs = std::iter::from_fn(|| machine.poll_output()).count();
            prop_assert!(outputs <= 12, "{outputs}");
        }
    }
}
