//! Several servers on one identity: by hand, and a few of them with two bystanders.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::machine::{connect, entry, machine, say, sent};
use super::peers::{NOW, ms};
use super::random::{fingerprint, record};
use crate::membership::{
    Entry, Gone, Input, Machine, Message, Notice, Output, Phase, Record, Verdict, Wish,
};
use crate::{Fingerprint, Tenure};

/// An entry about the machine of these tests, in another life.
fn of_me(count: u64, port: u16, phase: Phase) -> Entry {
    let mut entry = entry(fingerprint(0), 0, 0, phase);
    let mut record = record(0, count);
    (record.instance, record.url.port) = (7, port);
    (entry.held.count, entry.held.instance) = (count, 7);
    entry.record = Some(Arc::new(record));
    entry
}

/// A machine with a connection to server 1, which has told it this.
fn told(entries: Vec<Entry>) -> Machine {
    let mut machine = machine();
    connect(&mut machine, 1, NOW);
    while machine.poll_output().is_some() {}
    say(&mut machine, 1, Message::Delta { entries }, NOW);
    machine
}

fn settled(instance: u64, verdict: Verdict) -> Input {
    Input::Settled { instance, verdict }
}

fn questions(machine: &mut Machine) -> Vec<Arc<Record>> {
    let outputs = std::iter::from_fn(|| machine.poll_output());
    let asked = outputs.filter_map(|output| match output {
        Output::Ask { to } => Some(to),
        _ => None,
    });
    asked.collect()
}

#[test]
fn another_life_is_asked_before_it_is_outbid() {
    for phase in [Phase::Alive, Phase::Suspect] {
        let mut machine = told(vec![of_me(5, 2, phase), of_me(6, 3, phase)]);
        assert_eq!(machine.me().count, 1);
        let asked = questions(&mut machine);
        assert_eq!(asked.len(), 1, "each of them once");
        assert_eq!((asked[0].count, asked[0].url.port), (5, 2));
        machine.handle(settled(7, Verdict::Nobody(5)), NOW);
        assert_eq!((machine.me().count, machine.me().instance), (6, 0));
        // Raised a moment ago, and nobody had answered: it is asked once the rest is over.
        let entries = vec![of_me(9, 2, phase)];
        say(&mut machine, 1, Message::Delta { entries }, NOW + ms(900));
        assert!(questions(&mut machine).is_empty());
        machine.handle(Input::Tick, NOW + ms(1100));
        assert_eq!(questions(&mut machine).len(), 1);
    }
    // The same count is another life all the same, and one before it is none to ask about.
    assert_eq!(
        questions(&mut told(vec![of_me(1, 2, Phase::Alive)])).len(),
        1
    );
    assert_eq!(
        questions(&mut told(vec![of_me(0, 2, Phase::Alive)])).len(),
        0
    );
}

/// Another server's word that there is a life of the machine of these tests with this number.
fn copy(count: u64, instance: u64, port: u16) -> Input {
    let mut record = record(0, count);
    (record.instance, record.url.port) = (instance, port);
    let record = Arc::new(record);
    Input::Copy { record }
}

#[test]
fn many_lives_are_asked_at_a_time_and_each_of_them_once() {
    let mut machine = told(vec![of_me(5, 2, Phase::Alive)]);
    assert_eq!(questions(&mut machine).len(), 1);
    for instance in 7..100 {
        machine.handle(copy(5, instance, 3), NOW);
    }
    assert_eq!(questions(&mut machine).len(), 7, "a bounded number");
    machine.handle(settled(7, Verdict::Unknown), NOW);
    assert!(machine.is_asking());
    machine.handle(copy(5, 100, 3), NOW);
    assert_eq!(questions(&mut machine).len(), 1);
}

#[test]
fn a_server_that_outlasts_another_asks_the_next_at_once() {
    let mut machine = told(vec![of_me(5, 2, Phase::Alive)]);
    assert_eq!(questions(&mut machine).len(), 1);
    machine.handle(settled(7, Verdict::Outlasts(5)), NOW);
    assert_eq!(machine.me().count, 6);
    machine.handle(copy(6, 8, 3), NOW + ms(10));
    let asked = questions(&mut machine);
    assert_eq!((asked[0].count, asked[0].url.port), (6, 3));
    machine.handle(settled(8, Verdict::Outlasts(6)), NOW + ms(20));
    assert_eq!(machine.me().count, 7);
}

#[test]
fn a_life_that_has_ended_or_was_here_is_outbid_at_once() {
    for (port, phase) in [
        (1, Phase::Alive),
        (1, Phase::Suspect),
        (2, Phase::Down),
        (2, Phase::Left),
    ] {
        let mut machine = told(vec![of_me(5, port, phase)]);
        assert_eq!(machine.me().count, 6, "{port} {phase:?}");
        assert!(questions(&mut machine).is_empty());
    }
}

#[test]
fn where_another_life_is_is_found_out_first() {
    let held = of_me(5, 2, Phase::Alive).held;
    let asks = |messages: Vec<Message>| {
        let me = vec![fingerprint(0)];
        messages.contains(&Message::Who { members: me })
    };
    let mut machine = told(vec![]);
    say(&mut machine, 1, Message::Ping { nonce: 1, held }, NOW);
    assert!(asks(sent(&mut machine, 1)));
    assert_eq!(machine.me().count, 1);
    let mut suspected = of_me(5, 2, Phase::Suspect);
    suspected.record = None;
    let entries = vec![suspected];
    say(&mut machine, 1, Message::Delta { entries }, NOW);
    assert!(asks(sent(&mut machine, 1)));
    assert_eq!(machine.me().count, 1);
}

/// Servers on one identity, and two bystanders that all of them dial.
struct Copies {
    machines: Vec<Option<Machine>>,
    started: Vec<Duration>,
    bystanders: [Machine; 2],
    /// Which copy each bystander has a link with.
    links: [Option<usize>; 2],
    /// How often the view of each bystander has changed, and how many links it was asked for.
    changes: [usize; 2],
    dials: [usize; 2],
    /// Whether the copies can ask each other.
    reachable: bool,
    asked: VecDeque<(Duration, usize, Arc<Record>)>,
    now: Duration,
}

const ME: Fingerprint = Fingerprint([9; 32]);

impl Copies {
    fn new(starts: &[Duration], counts: &[u64], reachable: bool) -> Copies {
        let machines = starts
            .iter()
            .zip(counts)
            .enumerate()
            .map(|(i, (_, count))| {
                let mut record = record(9, *count);
                record.url.port = 100 + i as u16;
                record.instance = (i as u64 * 7919 + 13) % 1009;
                Some(Machine::new(record, i as u64, Duration::ZERO))
            });
        let bystanders = [1, 2].map(|i| Machine::new(record(i, 0), i.into(), Duration::ZERO));
        let mut copies = Copies {
            machines: machines.collect(),
            started: starts.to_vec(),
            bystanders,
            links: [None; 2],
            changes: [0; 2],
            dials: [0; 2],
            reachable,
            asked: VecDeque::new(),
            now: Duration::ZERO,
        };
        for (i, peer) in [(0, fingerprint(2)), (1, fingerprint(1))] {
            let connected = Input::Connected {
                peer,
                dialled: true,
            };
            copies.bystanders[i].handle(connected, copies.now);
        }
        copies.settle();
        copies
    }

    fn run(&mut self, until: Duration) {
        while self.now < until {
            self.now += ms(10);
            let now = self.now;
            for i in 0..self.machines.len() {
                if self.started[i] <= now {
                    self.machines[i]
                        .iter_mut()
                        .for_each(|machine| machine.handle(Input::Tick, now));
                }
            }
            for bystander in &mut self.bystanders {
                bystander.handle(Input::Tick, now);
            }
            while let Some((_, i, to)) = self.asked.pop_front_if(|(at, ..)| *at <= now) {
                self.answer(i, &to);
            }
            self.settle();
            if now.as_millis().is_multiple_of(250) {
                for i in 0..self.machines.len() {
                    (0..2).for_each(|b| self.dial(i, b));
                }
            }
        }
    }

    /// A copy dials a bystander, unless they have a link.
    fn dial(&mut self, i: usize, b: usize) {
        let now = self.now;
        let Some(copy) = &mut self.machines[i] else {
            return;
        };
        if self.started[i] > now || self.links[b] == Some(i) {
            return;
        }
        self.dials[b] += 1;
        let life = copy.me().life();
        let other = self.bystanders[b].trusted_neighbour(&ME);
        if let Some(other) = other
            && other.instance != life.instance
            && other.life() > life
        {
            let record = Arc::new(other.clone());
            copy.handle(Input::Copy { record }, now);
            return;
        }
        let peer = fingerprint(b as u8 + 1);
        if let Some(before) = self.links[b].replace(i) {
            self.lose(before, peer);
        }
        self.bystanders[b].handle(
            Input::Connected {
                peer: ME,
                dialled: false,
            },
            now,
        );
        if let Some(copy) = &mut self.machines[i] {
            copy.handle(
                Input::Connected {
                    peer,
                    dialled: true,
                },
                now,
            );
        }
        self.settle();
        let link = Message::Link {
            degree: 0,
            wish: Wish::Plain,
        };
        self.deliver(b, i, link);
    }

    fn lose(&mut self, i: usize, peer: Fingerprint) {
        let why = Gone::Closed;
        if let Some(copy) = &mut self.machines[i] {
            copy.handle(Input::Disconnected { peer, why }, self.now);
        }
    }

    /// A bystander's message to a copy.
    fn deliver(&mut self, b: usize, i: usize, message: Message) {
        let from = fingerprint(b as u8 + 1);
        if self.links[b] == Some(i)
            && let Some(copy) = &mut self.machines[i]
        {
            copy.handle(Input::Message { from, message }, self.now);
        }
        self.settle();
    }

    /// The other copy answers, or nobody does.
    fn answer(&mut self, i: usize, to: &Record) {
        let now = self.now;
        let tenure = |i: usize, machine: &Machine| Tenure {
            count: machine.me().count,
            instance: machine.me().instance,
            lived: (now - self.started[i]).as_millis() as u64,
        };
        let j = usize::from(to.url.port - 100);
        let there = self.machines[j].as_ref().filter(|_| self.reachable);
        let Some(mine) = self.machines[i].as_ref().map(|copy| tenure(i, copy)) else {
            return;
        };
        let Some(theirs) = there.map(|copy| tenure(j, copy)) else {
            let nobody = settled(to.instance, Verdict::Nobody(to.count));
            self.machines[i]
                .iter_mut()
                .for_each(|copy| copy.handle(nobody.clone(), now));
            return;
        };
        let (stays, ends, other) = match mine.outlasts(&theirs) {
            true => (i, j, theirs),
            false => (j, i, mine),
        };
        self.machines[ends] = None;
        for b in 0..2 {
            if self.links[b] == Some(ends) {
                self.links[b] = None;
                let (peer, why) = (ME, Gone::Closed);
                self.bystanders[b].handle(Input::Disconnected { peer, why }, now);
            }
        }
        if let Some(copy) = &mut self.machines[stays] {
            copy.handle(settled(other.instance, Verdict::Outlasts(other.count)), now);
        }
    }

    /// Carries out all outputs: what is sent arrives at once.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for b in 0..2 {
                while let Some(output) = self.bystanders[b].poll_output() {
                    quiet = false;
                    self.carry_out_for_bystander(b, output);
                }
            }
            for i in 0..self.machines.len() {
                while let Some(output) = self.machines[i].as_mut().and_then(Machine::poll_output) {
                    quiet = false;
                    self.carry_out_for_copy(i, output);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out_for_bystander(&mut self, b: usize, output: Output) {
        let (now, from) = (self.now, fingerprint(b as u8 + 1));
        match output {
            Output::Send { to: ME, message } => {
                if let Some(i) = self.links[b] {
                    self.deliver(b, i, message);
                }
            }
            Output::Send { message, .. } => {
                self.bystanders[1 - b].handle(Input::Message { from, message }, now);
            }
            Output::Datagram { to, message } if to.fingerprint == ME => {
                let i = usize::from(to.url.port - 100);
                if let Some(copy) = &mut self.machines[i] {
                    copy.handle(Input::Datagram { from, message }, now);
                }
            }
            Output::Notice(Notice::Join(who) | Notice::Leave(who)) if who.fingerprint == ME => {
                self.changes[b] += 1;
            }
            Output::Connect { to } => {
                let peer = to.fingerprint;
                self.bystanders[b].handle(Input::ConnectFailed { peer }, now);
            }
            Output::Disconnect { peer: ME } => {
                if let Some(i) = self.links[b].take() {
                    self.lose(i, from);
                }
            }
            _ => {}
        }
    }

    fn carry_out_for_copy(&mut self, i: usize, output: Output) {
        let now = self.now;
        let at = |who: Fingerprint| usize::from(who.0[0]) - 1;
        match output {
            Output::Send { to, message } if self.links[at(to)] == Some(i) => {
                self.bystanders[at(to)].handle(Input::Message { from: ME, message }, now);
            }
            Output::Datagram { to, message } => {
                let to = at(to.fingerprint);
                self.bystanders[to].handle(Input::Datagram { from: ME, message }, now);
            }
            Output::Connect { to } => {
                let peer = to.fingerprint;
                if let Some(copy) = &mut self.machines[i] {
                    copy.handle(Input::ConnectFailed { peer }, now);
                }
            }
            Output::Disconnect { peer } if self.links[at(peer)] == Some(i) => {
                self.links[at(peer)] = None;
                let (peer, why, b) = (ME, Gone::Closed, at(peer));
                self.bystanders[b].handle(Input::Disconnected { peer, why }, now);
            }
            Output::Ask { to } => {
                let wait = if self.reachable { ms(20) } else { ms(2000) };
                self.asked.push_back((now + wait, i, to));
            }
            _ => {}
        }
    }

    /// The copies that live.
    fn alive(&self) -> Vec<&Record> {
        self.machines.iter().flatten().map(Machine::me).collect()
    }
}

#[test]
fn of_many_copies_one_goes_on_and_the_views_stay() {
    let gaps = [0, 40, 300, 900, 1500];
    for n in [2, 3, 5] {
        for gap in gaps {
            for offset in 0..3u64 {
                let starts: Vec<_> = (0..n).map(|i| ms(10 + gap * i)).collect();
                let counts: Vec<_> = (0..n).map(|i| 1 + i * offset % 3).collect();
                let mut copies = Copies::new(&starts, &counts, true);
                copies.run(ms(10_000));
                let context = format!("{n} copies, {gap} ms apart, counts {counts:?}");
                let alive = copies.alive();
                assert_eq!(alive.len(), 1, "{context}");
                if gap > 1000 {
                    assert_eq!(alive[0].url.port, 100, "the first: {context}");
                }
                for bystander in &copies.bystanders {
                    assert_eq!(bystander.record(&ME), Some(alive[0]), "{context}");
                }
                let most = 4 * n as usize;
                assert!(
                    copies.changes.iter().all(|changes| *changes <= most),
                    "{context}"
                );
                // At rest nothing is dialled and nothing changes.
                let before = (copies.changes, copies.dials);
                copies.run(ms(20_000));
                assert_eq!((copies.changes, copies.dials), before, "{context}");
            }
        }
    }
}

#[test]
fn copies_that_cannot_ask_each_other_disturb_the_views_ever_more_rarely() {
    let mut copies = Copies::new(&[ms(10), ms(500)], &[1, 1], false);
    copies.run(ms(300_000));
    assert_eq!(copies.alive().len(), 2);
    let before = copies.changes;
    copies.run(ms(600_000));
    for (before, after) in before.into_iter().zip(copies.changes) {
        assert!(before <= 60, "{before} changes in five minutes");
        assert!(after - before <= 24, "{} in five more", after - before);
    }
}
