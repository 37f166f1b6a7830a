//! Clients on several hosts use one channel while they are killed and links are cut and healed; the
//! events that they record are the history of a channel.

use std::time::{Duration, Instant};

use super::{DISCOVER, Host, circuit_on, hosts, on_hosts};
use crate::channels::check::check;
use crate::channels::history::{Event, History, NEVER, now};
use crate::channels::random::Random;
use crate::support::{Running, Server, eventually_within};

/// How long clients are started and killed, a link cut and healed meanwhile.
const TROUBLE: Duration = Duration::from_secs(18);

/// How long the cut lasts: longer than QUIC's idle time-out.
const CUT: Duration = Duration::from_secs(12);

/// How long what is lost may take to come back: an idle time-out for each hop, and what a busy
/// machine adds.
const BACK: Duration = Duration::from_secs(40);

/// A client's process.
struct Client {
    running: Running,
    role: &'static str,
    host: usize,
}

/// Clients of one channel, and what those wrote down that are no more.
struct Crowd<'a> {
    hosts: &'a [Host],
    /// The server that a client on each host dials.
    servers: &'a [&'a Server],
    path: String,
    seed: u64,
    number: u64,
    clients: Vec<Client>,
    history: History,
}

impl Crowd<'_> {
    fn start(&mut self, role: &'static str, host: usize) {
        self.number += 1;
        let program = std::env::current_exe().unwrap();
        let arguments = "--exact channels::soak::client --ignored --nocapture";
        let client = self.hosts[host]
            .program(program.to_str().unwrap(), arguments)
            .env("CIRCUIT_SOAK_URL", self.servers[host].url().to_string())
            .env("CIRCUIT_SOAK_PATH", &self.path)
            .env("CIRCUIT_SOAK_NUMBER", self.number.to_string())
            .env("CIRCUIT_SOAK_SEED", self.seed.to_string())
            .env("CIRCUIT_SOAK_ROLE", role);
        self.clients.push(Client {
            running: client.spawn(),
            role,
            host,
        });
    }

    /// Kills a client: where it was, and its role.
    fn kill(&mut self, at: usize) -> (&'static str, usize) {
        let mut client = self.clients.swap_remove(at);
        client.running.kill();
        self.add(&client.running, Some(now()));
        (client.role, client.host)
    }

    /// Waits until the clients end by themselves.
    fn end(&mut self, within: Duration) {
        let begin = Instant::now();
        for mut client in std::mem::take(&mut self.clients) {
            let left = within.saturating_sub(begin.elapsed());
            let what = format!(
                "the {} on {} ends",
                client.role,
                self.hosts[client.host].name()
            );
            eventually_within(left, &what, || (!client.running.is_running()).then_some(()));
            let status = client.running.exit_status();
            let said = client.running.stderr().text();
            assert!(status.success(), "{status}: {said}");
            self.add(&client.running, None);
        }
    }

    fn add(&mut self, client: &Running, killed: Option<u64>) {
        client.stdout().wait_for_end(Duration::from_secs(5));
        let text = client.stdout().text();
        let mut events: Vec<(u64, Event)> = Vec::new();
        // The last line may not be whole, and the test harness says something of its own.
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            events.extend(serde_json::from_str::<(u64, Event)>(line));
        }
        self.history.add(&events, killed);
    }
}

/// Has a crowd work at a channel while its clients are killed and the host `b` is cut off.
fn in_trouble(capacity: u64, cut: impl Fn(&Host), heal: impl Fn(&Host)) {
    let seed = std::env::var("CIRCUIT_SOAK_SEED");
    let seed = seed
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(now);
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    let hosts: [Host; 3] = hosts();
    let [a, b, _] = &hosts;
    let servers = circuit_on(&[a, b], DISCOVER);
    let path = format!("/{}/crowd", servers[0].id());
    servers[0]
        .circuit(format!("mkchan {path} {capacity}"))
        .run();
    let mut crowd = Crowd {
        hosts: &hosts,
        // On the third host is no server: its clients dial the first.
        servers: &[&servers[0], &servers[1], &servers[0]],
        path: path.clone(),
        seed,
        number: 0,
        clients: Vec::new(),
        history: History {
            capacity,
            cut: true,
            ..History::default()
        },
    };
    for host in 0..3 {
        crowd.start("send", host);
        crowd.start("recv", host);
    }
    let begin = Instant::now();
    let (mut was_cut, mut healed) = (None, false);
    while begin.elapsed() < TROUBLE || !healed {
        if begin.elapsed() > Duration::from_secs(2) && was_cut.is_none() {
            cut(b);
            was_cut = Some(Instant::now());
        }
        if was_cut.is_some_and(|cut| cut.elapsed() > CUT) && !healed {
            healed = true;
            heal(b);
        }
        std::thread::sleep(Duration::from_millis(100 + random.below(600)));
        let at = random.below(crowd.clients.len() as u64) as usize;
        let (role, host) = crowd.kill(at);
        // A client that starts while its host is cut off does nothing but dial.
        crowd.start(role, host);
    }
    eventually_within(
        Duration::from_secs(120),
        "the circuit is whole again",
        || {
            let whole = |server: &Server| server.ls("/").len() == 2;
            servers.iter().all(whole).then_some(())
        },
    );
    while let Some(at) = crowd
        .clients
        .iter()
        .position(|client| client.role == "send")
    {
        crowd.kill(at);
    }
    crowd.start("close", 0);
    crowd.end(BACK);
    let status = servers[0].peek(&path);
    crowd.history.received = status["NumRecv"].as_u64();
    let wrong = check(&crowd.history);
    let history = &crowd.history;
    let unheard = history
        .sends
        .iter()
        .filter(|send| send.ended == NEVER)
        .count();
    eprintln!(
        "{} operations of {} clients, {status}, {unheard} without an end",
        history.operations(),
        crowd.number
    );
    assert!(
        wrong.is_empty(),
        "seed {seed}: {:#?}",
        &wrong[..wrong.len().min(20)]
    );
    assert!(history.operations() > 10_000, "{}", history.operations());
}

#[test]
fn clients_are_killed_and_a_link_is_cut() {
    on_hosts(|| in_trouble(3, Host::cut, Host::heal));
}

#[test]
fn clients_are_killed_and_a_link_falls_silent() {
    on_hosts(|| in_trouble(0, Host::mute, Host::unmute));
}
