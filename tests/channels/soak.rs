//! Histories of many clients at once, checked.
//!
//! Servers run in this process, or rather in a child of it that has an environment of its own; the
//! clients let go of futures, streams and connections at random. Everything random comes from a
//! seed, which is printed and replays: `scripts/soak SECONDS [SEED]`.

use std::time::{Duration, Instant};

use circuit_client::{Client, Key, Url};
use tokio::task::JoinSet;

use super::check::check;
use super::clients::{Actor, Habits, Log};
use super::history::History;
use super::random::Random;
use crate::support::Home;

/// Runs a function of this file, by name, in a process of its own.
fn in_a_process(name: &str, variables: &[(&str, String)]) {
    let home = Home::new();
    let mut command = home.clean(std::process::Command::new(std::env::current_exe().unwrap()));
    let name = format!("channels::soak::{name}");
    command.args(["--exact", &name, "--ignored", "--nocapture"]);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let status = command.status().unwrap();
    assert!(status.success(), "{name}: {status}");
}

#[test]
fn histories_of_clients_that_let_go_at_random() {
    let variables = [("CIRCUIT_SOAK_RUNS", "3".to_owned())];
    in_a_process("runs", &variables);
}

/// For `scripts/soak`.
#[test]
#[ignore = "for scripts/soak"]
fn soak() {
    let all = [
        "CIRCUIT_SOAK_SECONDS",
        "CIRCUIT_SOAK_SEED",
        "CIRCUIT_SOAK_RUNS",
    ];
    let given = all.map(|name| (name, std::env::var(name).unwrap_or_default()));
    in_a_process("runs", &given);
}

/// The runs that the environment asks for.
#[test]
#[ignore = "run by the others here"]
fn runs() {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seconds = variable("CIRCUIT_SOAK_SECONDS");
    let runs = variable("CIRCUIT_SOAK_RUNS").unwrap_or(u64::MAX);
    let seed: u64 = variable("CIRCUIT_SOAK_SEED").unwrap_or_else(super::history::now);
    let circuit = Circuit::start();
    let begun = Instant::now();
    let (mut done, mut operations) = (0, 0);
    while done < runs && seconds.is_none_or(|seconds| begun.elapsed().as_secs() < seconds) {
        operations += circuit.run(seed.wrapping_add(done));
        done += 1;
    }
    let took = begun.elapsed().as_secs_f64();
    eprintln!("{done} runs, {operations} operations in {took:.1} s: all are those of a channel");
}

/// A client of its own process, which writes down on stdout what it does: for tests that kill
/// clients.
#[test]
#[ignore = "run by others"]
fn client() {
    let variable = |name: &str| std::env::var(format!("CIRCUIT_SOAK_{name}")).unwrap();
    let number: u64 = variable("NUMBER").parse().unwrap();
    let key = std::fs::read_to_string(std::env::var("CIRCUIT_HMAC").unwrap()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let habits = Habits {
            lets_go: 10,
            lets_go_early: false,
            hangs_up: 0,
        };
        let (address, path) = (variable("URL").parse().unwrap(), variable("PATH"));
        let (key, seed) = (Key::parse(&key).unwrap(), variable("SEED").parse().unwrap());
        let actor = Actor::new(&address, &key, &path, number, seed, habits, Log::Stdout);
        let mut actor = actor.await.unwrap();
        match &*variable("ROLE") {
            "send" => actor.send(u64::MAX).await,
            "recv" => actor.receive().await,
            _ => actor.close().await,
        }
    });
}

/// Two servers in this process.
struct Circuit {
    urls: [Url; 2],
    key: Key,
    clients: tokio::runtime::Runtime,
}

/// How many messages are sent in a run: twice as many operations, and those that fail.
const MESSAGES: u64 = 5500;

/// How long a run may take before something is stuck.
const STUCK: Duration = Duration::from_secs(120);

impl Circuit {
    fn start() -> Circuit {
        let key = Key::parse("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").unwrap();
        let mut urls: Vec<Url> = Vec::new();
        for name in ["one", "two"] {
            let (tell, told) = std::sync::mpsc::channel();
            let options = circuit::server::Options {
                name: name.to_owned(),
                key: Some(key.clone()),
                join: urls.clone(),
                ..circuit::server::Options::default()
            };
            // As `circuit start` has it: one thread.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.unwrap().block_on(async {
                    let running = circuit::server::start(options).await.unwrap();
                    tell.send(running.url().clone()).unwrap();
                    let _ = running.finished(std::future::pending()).await;
                });
            });
            urls.push(told.recv().unwrap());
        }
        let clients = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let circuit = Circuit {
            urls: urls.try_into().unwrap(),
            key,
            clients,
        };
        circuit.clients.block_on(async {
            for url in &circuit.urls {
                let client = Client::dial(&url.clone().into(), Some(&circuit.key))
                    .await
                    .unwrap();
                while client.servers().await.unwrap().len() < 2 {}
            }
        });
        circuit
    }

    /// One run: how many operations it had. Panics with the seed if it is not one of a channel.
    fn run(&self, seed: u64) -> usize {
        let begun = Instant::now();
        let plan = Plan::of(seed);
        let (history, stuck) = self.clients.block_on(self.history(seed, &plan));
        let took = begun.elapsed().as_secs_f64();
        let mut wrong = check(&history);
        wrong.extend(stuck);
        let operations = history.operations();
        eprintln!("seed {seed}: {operations} operations in {took:.1} s, {plan:?}");
        if !wrong.is_empty() {
            wrong.truncate(20);
            panic!("seed {seed}, to be replayed with scripts/soak 60 {seed}: {wrong:#?}");
        }
        operations
    }

    async fn history(&self, seed: u64, plan: &Plan) -> (History, Option<String>) {
        let path = format!("/{}/soak/{seed}", self.urls[0].server.unwrap().id);
        let owner = Client::dial(&self.urls[0].clone().into(), Some(&self.key))
            .await
            .unwrap();
        let anchor = owner.walk(&path).unwrap();
        let chan = anchor.make_chan(plan.capacity).await.unwrap();
        let mut logs = Vec::new();
        let mut actor = async |number: u64, habits: Habits| {
            let address = self.urls[number as usize % 2].clone().into();
            let log = Log::new();
            logs.push(log.clone());
            let actor = Actor::new(&address, &self.key, &path, number, seed, habits, log).await;
            actor.unwrap()
        };
        let (mut senders, mut receivers) = (JoinSet::new(), JoinSet::new());
        for number in 0..plan.senders {
            let mut sender = actor(number, plan.habits).await;
            let count = MESSAGES / plan.senders;
            senders.spawn(async move { sender.send(count).await });
        }
        for number in 0..plan.receivers {
            let mut receiver = actor(100 + number, plan.habits).await;
            receivers.spawn(async move { receiver.receive().await });
        }
        let calm = Habits {
            lets_go: 0,
            lets_go_early: false,
            hangs_up: 0,
        };
        let mut one = actor(200, calm).await;
        let mut other = actor(201, calm).await;
        let all = async {
            match plan.end {
                End::Close => while senders.join_next().await.is_some() {},
                End::CloseEarly => {
                    tokio::time::sleep(plan.early).await;
                    // Two at once: one is told that it was closed already.
                    tokio::join!(one.close(), other.close());
                }
                End::Scrub => {
                    tokio::time::sleep(plan.early).await;
                    one.scrub().await;
                }
            }
            while senders.join_next().await.is_some() {}
            if plan.end != End::Scrub {
                one.close().await;
            }
            while receivers.join_next().await.is_some() {}
        };
        let ended = tokio::time::timeout(STUCK, all).await.is_ok();
        let status = chan.peek().await.ok();
        let stuck = (!ended).then(|| format!("after {STUCK:?} somebody waits still: {status:?}"));
        let mut history = History {
            capacity: plan.capacity,
            received: status
                .as_ref()
                .filter(|_| ended)
                .map(|status| status.num_recv),
            ..History::default()
        };
        for log in &logs {
            history.add(&log.events(), None);
        }
        if plan.end != End::Scrub {
            chan.scrub().await.unwrap();
        }
        (history, stuck)
    }
}

/// How a run goes, by its seed.
#[derive(Debug)]
struct Plan {
    capacity: u64,
    senders: u64,
    receivers: u64,
    habits: Habits,
    end: End,
    /// When it is closed or scrubbed early.
    early: Duration,
}

#[derive(Debug, PartialEq)]
enum End {
    Close,
    CloseEarly,
    Scrub,
}

impl Plan {
    fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed);
        let mut one_of = |values: &[u64]| values[random.below(values.len() as u64) as usize];
        Plan {
            capacity: one_of(&[0, 0, 1, 3, 100, 5000]),
            senders: one_of(&[1, 2, 4, 6]),
            receivers: one_of(&[1, 2, 4, 6]),
            habits: Habits {
                lets_go: one_of(&[0, 5, 20]),
                lets_go_early: one_of(&[0, 1]) == 1,
                hangs_up: one_of(&[0, 30]),
            },
            end: match one_of(&[0, 0, 0, 0, 0, 0, 1, 2]) {
                0 => End::Close,
                1 => End::CloseEarly,
                _ => End::Scrub,
            },
            early: Duration::from_millis(one_of(&[100, 300, 900, 1500])),
        }
    }
}
