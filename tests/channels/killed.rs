//! Clients on the server's own host use one channel over Unix sockets while they are killed; the events
//! that they record are the history of a channel.

use std::time::{Duration, Instant};

use super::check::check;
use super::history::{Event, History, now};
use super::random::Random;
use crate::support::{Home, Running, Server, eventually_within};

/// How long clients are started and killed.
const TROUBLE: Duration = Duration::from_secs(6);

/// How long those that are left may take to end: a killed client is known to be gone at once.
const BACK: Duration = Duration::from_secs(30);

/// Clients of one channel, and what those wrote down that are no more.
struct Crowd<'a> {
    home: &'a Home,
    servers: [Server; 2],
    path: String,
    seed: u64,
    number: u64,
    clients: Vec<(&'static str, Running)>,
    history: History,
}

impl Crowd<'_> {
    /// Starts a client, of the one server and the other in turn.
    fn start(&mut self, role: &'static str) {
        self.number += 1;
        let server = &self.servers[self.number as usize % 2];
        let key = self.home.runtime_dir().join("key");
        let arguments = "--exact channels::soak::client --ignored --nocapture";
        let client = self
            .home
            .program(std::env::current_exe().unwrap(), arguments)
            .env("CIRCUIT_HMAC", key)
            .env(
                "CIRCUIT_SOAK_URL",
                format!("unix:{}", server.socket().display()),
            )
            .env("CIRCUIT_SOAK_PATH", &self.path)
            .env("CIRCUIT_SOAK_NUMBER", self.number.to_string())
            .env("CIRCUIT_SOAK_SEED", self.seed.to_string())
            .env("CIRCUIT_SOAK_ROLE", role);
        self.clients.push((role, client.spawn()));
    }

    /// Kills a client, and gives its role.
    fn kill(&mut self, at: usize) -> &'static str {
        let (role, mut client) = self.clients.swap_remove(at);
        client.kill();
        self.add(&client, Some(now()));
        role
    }

    /// Waits until the clients end by themselves.
    fn end(&mut self) {
        for (role, mut client) in std::mem::take(&mut self.clients) {
            eventually_within(BACK, &format!("the {role} ends"), || {
                (!client.is_running()).then_some(())
            });
            let status = client.exit_status();
            assert!(status.success(), "{status}: {}", client.stderr().text());
            self.add(&client, None);
        }
    }

    fn add(&mut self, client: &Running, killed: Option<u64>) {
        client.stdout().wait_for_end(Duration::from_secs(5));
        let text = client.stdout().text();
        // The last line may not be whole, and the test harness says something of its own.
        let lines = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let events = lines.flat_map(serde_json::from_str::<(u64, Event)>);
        self.history.add(&events.collect::<Vec<_>>(), killed);
    }
}

fn killed_at_random(capacity: u64) {
    let seed = std::env::var("CIRCUIT_SOAK_SEED").ok();
    let seed = seed.and_then(|text| text.parse().ok()).unwrap_or_else(now);
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    let home = Home::new();
    let servers = home.start_all(["one", "two"]);
    let path = "/one/crowd".to_owned();
    servers[0]
        .circuit(format!("mkchan {path} {capacity}"))
        .run();
    let mut crowd = Crowd {
        home: &home,
        servers,
        path: path.clone(),
        seed,
        number: 0,
        clients: Vec::new(),
        history: History {
            capacity,
            ..History::default()
        },
    };
    for role in ["send", "recv", "send", "recv", "send", "recv"] {
        crowd.start(role);
    }
    let begin = Instant::now();
    while begin.elapsed() < TROUBLE {
        std::thread::sleep(Duration::from_millis(20 + random.below(200)));
        let role = crowd.kill(random.below(crowd.clients.len() as u64) as usize);
        crowd.start(role);
    }
    while let Some(at) = crowd.clients.iter().position(|(role, _)| *role == "send") {
        crowd.kill(at);
    }
    crowd.start("close");
    crowd.end();
    let status = crowd.servers[0].peek(&path);
    crowd.history.received = status["NumRecv"].as_u64();
    let wrong = check(&crowd.history);
    let operations = crowd.history.operations();
    eprintln!(
        "{operations} operations of {} clients, {status}",
        crowd.number
    );
    assert!(
        wrong.is_empty(),
        "seed {seed}: {:#?}",
        &wrong[..wrong.len().min(20)]
    );
    assert!(operations > 1_000, "{operations}");
}

#[test]
fn local_clients_are_killed_at_a_channel_without_slots() {
    killed_at_random(0);
}

#[test]
fn local_clients_are_killed_at_a_channel_with_slots() {
    killed_at_random(3);
}
