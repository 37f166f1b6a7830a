//! The sequential specification, executed: histories that it makes are accepted by the checker,
//! with all that clients may do in between; such that were tampered with are not; and of small
//! histories the checker says what a search through all orders says.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::check::check;
use super::history::{
    Close, Ended, Event, History, NEVER, Receive, Received, Send, Sent, content, whole,
};
use super::random::Random;

/// Bounded FIFO queue with close, whose messages are held before they are received.
#[derive(Default)]
struct Model {
    capacity: u64,
    closed: bool,
    next: u64,
    /// Messages by their place in line.
    line: BTreeMap<u64, u64>,
    /// The messages that a receiver holds.
    held: BTreeMap<u64, u64>,
    /// The messages that have a slot.
    slots: BTreeSet<u64>,
}

impl Model {
    fn put(&mut self, message: u64) -> u64 {
        self.line.insert(self.next, message);
        self.next += 1;
        self.fill();
        self.next - 1
    }

    fn fill(&mut self) {
        for place in self.line.keys() {
            if (self.slots.len() as u64) < self.capacity {
                self.slots.insert(*place);
            }
        }
    }

    fn take(&mut self) -> Option<(u64, u64)> {
        let (place, message) = self.line.pop_first()?;
        self.held.insert(place, message);
        Some((place, message))
    }

    fn put_back(&mut self, place: u64) {
        if let Some(message) = self.held.remove(&place) {
            self.line.insert(place, message);
            self.fill();
        }
    }

    fn commit(&mut self, place: u64) {
        self.held.remove(&place);
        self.slots.remove(&place);
        self.fill();
    }

    fn is_settled(&self, place: u64) -> bool {
        self.slots.contains(&place)
            || !(self.line.contains_key(&place) || self.held.contains_key(&place))
    }
}

/// The state of a client of the model.
enum Client {
    Idle,
    Sends(u64),
    Placed(u64, u64),
    Receives(u64),
    Holds(u64, u64),
    Accepts(u64, u64),
}

/// A tick of the model's time: what is let go is back in twenty of them.
const TICK: u64 = 100_000_000;

/// A history of so many sends that the model makes of a seed.
fn made(seed: u64, sends: u64, capacity: u64) -> History {
    let mut random = Random::new(seed);
    let mut model = Model {
        capacity,
        ..Model::default()
    };
    let mut clients: Vec<Client> = (0..8).map(|_| Client::Idle).collect();
    let mut events: Vec<Vec<(u64, Event)>> = vec![Vec::new(); 9];
    let mut let_go: Vec<(u64, u64)> = Vec::new();
    let (mut message, mut receive, mut received) = (0, 0, 0);
    let mut time = 0;
    loop {
        time += TICK;
        let returns: Vec<u64> = let_go
            .extract_if(.., |(at, _)| *at <= time)
            .map(|r| r.1)
            .collect();
        for place in returns {
            model.put_back(place);
        }
        if message == sends
            && !model.closed
            && clients[..4].iter().all(|c| matches!(c, Client::Idle))
        {
            events[8].push((time, Event::Closes { close: 0 }));
            model.closed = true;
            let outcome = Ended::Done;
            events[8].push((time + 1, Event::Closed { close: 0, outcome }));
        }
        let who = random.below(8) as usize;
        let mut says = |event| events[who].push((time, event));
        let next = match std::mem::replace(&mut clients[who], Client::Idle) {
            Client::Idle if who < 4 && message < sends => {
                message += 1;
                says(Event::Sends {
                    message,
                    length: 20,
                });
                Client::Sends(message)
            }
            Client::Idle if who < 4 => Client::Idle,
            Client::Idle if model.closed && model.line.is_empty() && model.held.is_empty() => {
                receive += 1;
                events[who].push((time, Event::Receives { receive }));
                let outcome = Received::Closed;
                events[who].push((time + 1, Event::Received { receive, outcome }));
                break;
            }
            Client::Idle => {
                receive += 1;
                says(Event::Receives { receive });
                Client::Receives(receive)
            }
            Client::Sends(message) => {
                let place = model.put(message);
                if random.below(2) == 0 {
                    says(Event::Placed { message });
                }
                Client::Placed(message, place)
            }
            Client::Placed(message, place) if model.is_settled(place) => {
                let outcome = if random.below(20) == 0 {
                    Sent::Unknown
                } else {
                    Sent::Stored
                };
                says(Event::Sent { message, outcome });
                Client::Idle
            }
            Client::Receives(receive) => match model.take() {
                Some((place, message)) => {
                    if random.below(50) == 0 {
                        let outcome = Received::Left;
                        says(Event::Received { receive, outcome });
                        let_go.push((time + TICK * random.below(15), place));
                        Client::Idle
                    } else {
                        let message = Some(message);
                        says(Event::Sees { receive, message });
                        Client::Holds(receive, place)
                    }
                }
                None if model.closed && model.held.is_empty() => {
                    let outcome = Received::Closed;
                    says(Event::Received { receive, outcome });
                    Client::Idle
                }
                None if random.below(10) == 0 => {
                    let outcome = Received::Empty;
                    says(Event::Received { receive, outcome });
                    Client::Idle
                }
                None => Client::Receives(receive),
            },
            Client::Holds(receive, place) if random.below(10) == 0 => {
                let outcome = Received::Left;
                says(Event::Received { receive, outcome });
                let_go.push((time + TICK * random.below(15), place));
                Client::Idle
            }
            Client::Holds(receive, place) => {
                says(Event::Accepts { receive });
                Client::Accepts(receive, place)
            }
            Client::Accepts(receive, place) => {
                let heard = random.below(10) > 0;
                let outcome = if heard {
                    Received::Taken
                } else {
                    Received::Unknown
                };
                if heard || random.below(2) == 0 {
                    model.commit(place);
                    received += 1;
                } else {
                    let_go.push((time + TICK * random.below(15), place));
                }
                says(Event::Received { receive, outcome });
                Client::Idle
            }
            waits @ Client::Placed(..) => waits,
        };
        clients[who] = next;
    }
    let mut history = History {
        capacity,
        received: Some(received),
        ..History::default()
    };
    for events in events {
        history.add(&events, None);
    }
    history
}

#[test]
fn histories_of_the_specification_are_accepted() {
    for seed in 0..200 {
        let history = made(seed, 300, seed % 5);
        let wrong = check(&history);
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    }
    let long = made(1000, 10_000, 3);
    assert!(long.operations() > 20_000);
    assert_eq!(check(&long), [""; 0]);
}

#[test]
fn histories_that_were_tampered_with_are_refused() {
    type Tamper = fn(&mut History, &mut Random);
    fn taken(history: &History, random: &mut Random) -> usize {
        loop {
            let at = random.below(history.receives.len() as u64) as usize;
            if history.receives[at].outcome == Received::Taken {
                return at;
            }
        }
    }
    fn of(history: &mut History, receive: usize) -> &mut Send {
        let message = history.receives[receive].saw.flatten();
        let mut sends = history.sends.iter_mut();
        sends.find(|send| Some(send.message) == message).unwrap()
    }
    let cases: [(&str, Tamper); 15] = [
        ("lost", |h, r| {
            let at = taken(h, r);
            of(h, at).outcome = Sent::Stored;
            h.receives.remove(at);
        }),
        ("twice", |h, r| {
            let again = h.receives[taken(h, r)];
            h.receives.push(again);
        }),
        ("out of order", |h, _| {
            // A message goes to who took the last of all.
            h.receives
                .retain(|receive| receive.outcome == Received::Taken);
            h.receives.sort_by_key(|receive| receive.begun);
            let (first, last) = (0, h.receives.len() - 1);
            let saw = h.receives[first].saw;
            h.receives[first].saw = h.receives[last].saw;
            h.receives[last].saw = saw;
        }),
        ("nobody sent", |h, r| {
            // Truncated: its bytes are those of no message.
            let cut = &content(7, 100)[..99];
            let at = taken(h, r);
            h.receives[at].saw = Some(whole(cut));
        }),
        ("seen before it was sent", |h, r| {
            let at = taken(h, r);
            h.receives[at].saw = Some(Some(1 << 40));
        }),
        ("though its send had failed", |h, r| {
            let at = taken(h, r);
            of(h, at).outcome = Sent::Failed;
        }),
        ("though its send had failed", |h, r| {
            let at = taken(h, r);
            of(h, at).outcome = Sent::Aborted;
        }),
        ("stored too early", |h, r| {
            let at = taken(h, r);
            let send = of(h, at);
            (send.length, send.outcome, send.ended) = (1 << 20, Sent::Stored, send.begun + 1);
        }),
        ("slots", |h, _| {
            // Half of the senders hear before there is room.
            for send in h.sends.iter_mut().filter(|s| s.outcome == Sent::Stored) {
                send.ended = send.begun + 1;
            }
        }),
        ("ended while a message was left", |h, r| {
            let at = taken(h, r);
            h.receives[at].accepted = Some(NEVER);
        }),
        ("empty while a message was left", |h, r| {
            h.receives
                .retain(|receive| receive.outcome == Received::Taken);
            let at = taken(h, r);
            let in_line = of(h, at).ended;
            h.receives[at].begun = in_line + 3;
            h.receives.push(Receive {
                begun: in_line + 1,
                matched: None,
                saw: None,
                accepted: None,
                ended: in_line + 2,
                outcome: Received::Empty,
                noticed: in_line + 2,
            });
            of(h, at).in_line = Some(in_line);
        }),
        ("heard of a close to come", |h, _| h.closes.clear()),
        ("sent after the close", |h, r| {
            let (at, closed) = (taken(h, r), h.closes[0].ended);
            of(h, at).begun = closed + 1;
        }),
        ("aborted by nobody", |h, _| {
            h.sends[0].outcome = Sent::Aborted;
        }),
        ("counted", |h, _| h.received = Some(1)),
    ];
    for seed in 0..20 {
        for (words, tamper) in &cases {
            let mut history = made(seed, 300, 3);
            tamper(&mut history, &mut Random::new(seed));
            let wrong = check(&history);
            let found = wrong.iter().any(|what| what.contains(words));
            assert!(found, "seed {seed}: not {words:?} but {wrong:#?}");
        }
    }
}

/// A small history, in which each operation has a begin and an end at times of its own.
fn small() -> impl Strategy<Value = History> {
    let operations = proptest::collection::vec((0..6u8, 0..3u64), 2..7);
    operations.prop_flat_map(|operations| {
        let times: Vec<u64> = (0..2 * operations.len() as u64).collect();
        Just(times).prop_shuffle().prop_map(move |times| {
            let mut history = History {
                capacity: 1 << 20,
                ..History::default()
            };
            let times = times.chunks_exact(2);
            for ((kind, message), times) in operations.iter().zip(times) {
                let (begun, ended) = (times[0].min(times[1]), times[0].max(times[1]));
                let receive = Receive {
                    begun,
                    matched: None,
                    saw: Some(Some(*message)),
                    accepted: Some(begun),
                    ended,
                    outcome: Received::Taken,
                    noticed: ended,
                };
                let sent = history.sends.iter().any(|send| send.message == *message);
                match kind {
                    0 | 1 if !sent => history.sends.push(Send {
                        message: *message,
                        length: 20,
                        begun,
                        in_line: Some(ended),
                        ended,
                        outcome: Sent::Stored,
                    }),
                    2 => history.sends.push(Send {
                        message: 100 + begun,
                        length: 20,
                        begun,
                        in_line: None,
                        ended,
                        outcome: Sent::Closed,
                    }),
                    0 | 1 | 3 => history.receives.push(receive),
                    4 => history.receives.push(Receive {
                        saw: None,
                        accepted: None,
                        outcome: Received::Closed,
                        ..receive
                    }),
                    _ => history.closes.push(Close {
                        begun,
                        ended,
                        outcome: if *message > 0 {
                            Ended::Done
                        } else {
                            Ended::Already
                        },
                    }),
                }
            }
            history
        })
    })
}

/// An operation of a small history.
#[derive(Clone, Copy)]
enum Step {
    Put(u64),
    Refused,
    Take(u64),
    Commit(u64),
    Empty,
    Close,
    Already,
}

/// Whether the steps of a small history have an order that the specification allows.
fn has_an_order(history: &History) -> bool {
    let mut operations: Vec<(u64, u64, Vec<Step>)> = Vec::new();
    for send in &history.sends {
        let step = match send.outcome {
            Sent::Stored => Step::Put(send.message),
            _ => Step::Refused,
        };
        operations.push((send.begun, send.ended, vec![step]));
    }
    for receive in &history.receives {
        let steps = match receive.saw.flatten() {
            // The steps are backwards, to be popped.
            Some(message) => vec![Step::Commit(message), Step::Take(message)],
            None => vec![Step::Empty],
        };
        operations.push((receive.begun, receive.ended, steps));
    }
    for close in &history.closes {
        let step = match close.outcome {
            Ended::Done => Step::Close,
            _ => Step::Already,
        };
        operations.push((close.begun, close.ended, vec![step]));
    }
    fn search(
        operations: &mut [(u64, u64, Vec<Step>)],
        line: &[u64],
        held: &[u64],
        closed: bool,
    ) -> bool {
        let deadline = operations
            .iter()
            .filter(|o| !o.2.is_empty())
            .map(|o| o.1)
            .min();
        let Some(deadline) = deadline else {
            // No operation is left: the order is right if all that was sent has been received.
            return line.is_empty();
        };
        for at in 0..operations.len() {
            if operations[at].0 > deadline {
                continue;
            }
            let Some(step) = operations[at].2.pop() else {
                continue;
            };
            let (mut line, mut held, mut now_closed) = (line.to_vec(), held.to_vec(), closed);
            let allowed = match step {
                Step::Put(message) => {
                    line.push(message);
                    !closed
                }
                Step::Take(message) if line.first() == Some(&message) => {
                    held.push(line.remove(0));
                    true
                }
                Step::Take(_) => false,
                Step::Commit(message) => {
                    held.retain(|other| *other != message);
                    true
                }
                Step::Empty => closed && line.is_empty() && held.is_empty(),
                Step::Close => {
                    now_closed = true;
                    !closed
                }
                Step::Refused | Step::Already => closed,
            };
            let found = allowed && search(operations, &line, &held, now_closed);
            operations[at].2.push(step);
            if found {
                return true;
            }
        }
        false
    }
    search(&mut operations, &[], &[], false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn of_small_histories_a_search_through_all_orders_says_the_same(history in small()) {
        let wrong = check(&history);
        prop_assert_eq!(wrong.is_empty(), has_an_order(&history), "{:#?}", wrong);
    }
}

#[test]
fn a_search_finds_small_histories_of_both_kinds() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut found = [0, 0];
    for _ in 0..5000 {
        let history = small().new_tree(&mut runner).unwrap().current();
        found[usize::from(has_an_order(&history))] += 1;
    }
    assert!(found.iter().all(|count| *count > 100), "{found:?}");
}

#[test]
fn an_unheard_outcome_may_have_been_either() {
    let send = Send {
        message: 1,
        length: 20,
        begun: 0,
        in_line: None,
        ended: NEVER,
        outcome: Sent::Unknown,
    };
    let history = History {
        capacity: 1,
        sends: vec![send],
        ..History::default()
    };
    assert_eq!(check(&history), [""; 0]);
}
