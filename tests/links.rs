//! Two servers have one link at a time, whatever happens to it, and it carries membership only.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use circuit_client::transport::congestion::Windows;
use circuit_client::transport::dial::Dialler;
use circuit_client::transport::endpoint::{dialling, transport_config};
use circuit_client::transport::tls::{Certificate, Pin};
use circuit_client::{Client, Path};
use circuit_proto::handshake::{Identity, Role};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

use crate::support::{DEADLINE, Home, Relay, Server, eventually};

/// How many times two servers dial each other at the same moment.
const DUELS: usize = 50;

/// How often a link is cut and healed, for a short and for a longer while.
const FLAPS: u32 = 6;

/// By how many bytes a server may grow meanwhile. Chosen, not measured: what the allocator keeps of
/// a few connections, many times; a connection that is not let go has some 100 kB.
const MORE_MEMORY: usize = 4 << 20;

/// How much is carried at the same time to each of three servers, in bytes.
const LOAD: usize = 128 << 20;

/// Waits until a server has so many QUIC connections besides those of clients, as `stk` tells. By
/// one connection of our own: those of commands linger for a moment after their end.
fn has_connections(home: &Home, server: &Server, expected: std::ops::RangeInclusive<usize>) {
    let path: Path = format!("/{}", server.id()).parse().unwrap();
    Runtime::new().unwrap().block_on(async {
        let client = server.client(home).await;
        let server = client.anchor(path).as_server();
        let begin = Instant::now();
        loop {
            let mut text = Vec::new();
            let mut stacks = server.stacks().await.unwrap();
            stacks.read_to_end(&mut text).await.unwrap();
            let text = String::from_utf8(text).unwrap();
            let line = text.split_once("\nconnections: ").unwrap().1;
            let (all, clients) = line.split_once(" (").unwrap();
            let (clients, _) = clients.split_once(' ').unwrap();
            let number = |text: &str| text.parse::<usize>().unwrap();
            if expected.contains(&(number(all) - number(clients))) {
                break;
            }
            assert!(begin.elapsed() < DEADLINE, "not {expected:?} but {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
}

fn status(server: &Server) -> Value {
    server.peek(&format!("/{}", server.id()))
}

/// Waits until these two have one connection, which is the link of both, and its tether.
fn one_link(home: &Home, servers: [&Server; 2]) {
    for (server, other) in [(servers[0], servers[1]), (servers[1], servers[0])] {
        server.until(&format!("/{}", server.id()), |status| {
            status["Links"] == json!([other.id()]) && status["Tethers"] == 1
        });
    }
    for server in servers {
        has_connections(home, server, 1..=1);
    }
}

#[test]
fn packets_grow_with_the_path() {
    let home = Home::new();
    let relay = Relay::new();
    let (address, behind) = (relay.address(), relay.behind());
    let server = home
        .circuit(format!("start -name one -a {behind} -advertise {address}"))
        .serve();
    server.make(
        "/one/p",
        r#"{"Path": "head", "Args": ["-c", "100000000", "/dev/zero"]}"#,
    );
    let url = server.url();
    home.circuit(format!("stdout -d {url} /one/p"))
        .any_stdout()
        .run();
    // The largest exceed what Ethernet carries, and keep to the limit of docs/PROTOCOL.md.
    let largest = relay.largest();
    assert!((6_000..=6_500).contains(&largest), "{largest}");
}

#[test]
fn two_that_dial_each_other_at_the_same_time_keep_one_link() {
    let home = Home::new();
    let mut crossed = 0;
    for _ in 0..DUELS {
        let (one, two) = (home.start("one"), home.start("two"));
        Runtime::new().unwrap().block_on(async {
            let clients = (one.client(&home).await, two.client(&home).await);
            let anchor = |client: &Client, server: &Server| {
                let path: Path = format!("/{}", server.id()).parse().unwrap();
                client.anchor(path).as_server()
            };
            let (a, b) = (anchor(&clients.0, &one), anchor(&clients.1, &two));
            let joins = tokio::join!(a.join(two.url().clone()), b.join(one.url().clone()));
            joins.0.unwrap();
            joins.1.unwrap();
        });
        one_link(&home, [&one, &two]);
        let dialled = |server: &Server| server.log().contains("linked by");
        crossed += usize::from(dialled(&one) && dialled(&two));
        assert_eq!(status(&one)["Suspected"], json!([]));
        assert!(!one.log().contains("left: ") && !two.log().contains("left: "));
    }
    eprintln!("both were dialled in {crossed} of {DUELS}");
    assert!(crossed > DUELS / 5, "{crossed} of {DUELS}");
}

/// Two servers that reach each other through relays alone.
fn relayed(home: &Home) -> ([Server; 2], [Relay; 2]) {
    relayed_at(home, "127.0.0.1")
}

/// The same, known at this name of loopback.
fn relayed_at(home: &Home, host: &str) -> ([Server; 2], [Relay; 2]) {
    let relays = [Relay::new(), Relay::new()];
    let start = |at: usize, more: &str| {
        let (name, relay) = (["one", "two"][at], &relays[at]);
        let (port, behind) = (relay.address().port(), relay.behind());
        let line = format!("start -name {name} -a {behind} -advertise {host}:{port} {more}");
        home.circuit(line).serve()
    };
    let one = start(0, "");
    let two = start(1, &format!("-j {}", one.url()));
    ([one, two], relays)
}

/// The resident memory of a server, in bytes, and how many descriptors it has open.
fn size(server: &Server) -> (usize, usize) {
    let proc = format!("/proc/{}", server.pid());
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.unwrap().split_whitespace().nth(1).unwrap();
    let descriptors = fs::read_dir(format!("{proc}/fd")).unwrap().count();
    (kilobytes.parse::<usize>().unwrap() << 10, descriptors)
}

/// The lines that a server has logged, without the operations of this test.
fn lines(server: &Server) -> usize {
    let log = server.log();
    log.lines()
        .filter(|line| !line.contains(" operation: "))
        .count()
}

#[test]
fn a_link_that_flaps_costs_little() {
    let home = Home::new();
    let (servers, relays) = relayed(&home);
    let both = [&servers[0], &servers[1]];
    one_link(&home, both);
    let flap = |cut: u64, healed: u64| {
        relays.iter().for_each(Relay::cut);
        thread::sleep(Duration::from_millis(cut));
        relays.iter().for_each(Relay::heal);
        thread::sleep(Duration::from_millis(healed));
    };
    // The first cuts cost some memory once.
    flap(7000, 1000);
    one_link(&home, both);
    let dials = || relays.iter().map(Relay::dials).sum::<usize>();
    let (before, logged, dialled) = (both.map(size), both.map(lines), dials());
    let begin = Instant::now();
    for _ in 0..FLAPS {
        // Too short to be noticed; long enough for a suspicion.
        flap(400, 400);
        flap(2000, 600);
    }
    // These cuts last long enough for the others to give it up.
    flap(7000, 0);
    // Our own commands will dial through the relays as well.
    let dials = dials() - dialled;
    let healing = Instant::now();
    one_link(&home, both);
    eprintln!(
        "measured: link and tether again after {:?}",
        healing.elapsed()
    );
    let seconds = begin.elapsed().as_secs_f64();
    let dials = dials as f64 / seconds;
    let lines = (0..2).map(|at| lines(both[at]) - logged[at]).max().unwrap();
    let lines = lines as f64 / seconds;
    eprintln!("measured: {dials:.2} packets that dial a second, {lines:.2} lines logged a second");
    assert!(dials < 2.0, "{dials} packets a second that dial");
    assert!(lines < 1.0, "{lines} lines a second: {}", servers[0].log());
    for (server, before) in both.iter().zip(before) {
        let after = size(server);
        eprintln!("measured: {before:?} bytes and descriptors before, {after:?} after");
        assert!(
            after.0 < before.0 + MORE_MEMORY,
            "{before:?}, then {after:?}"
        );
        assert!(after.1 <= before.1 + 1, "{before:?}, then {after:?}");
    }
    for server in both {
        server
            .circuit("run /one -- echo whole")
            .stdout("whole\n")
            .run();
    }
}

#[test]
fn servers_that_are_known_by_name_are_sent_datagrams_too() {
    let home = Home::new();
    let (servers, relays) = relayed_at(&home, "localhost");
    let both = [&servers[0], &servers[1]];
    one_link(&home, both);
    relays.iter().for_each(Relay::cut);
    for (server, other) in [(both[0], both[1]), (both[1], both[0])] {
        server.logs(&format!("left: {}", other.id()));
    }
    // A server that was given up is knocked at, by datagrams alone.
    let before = relays.each_ref().map(Relay::datagrams);
    for (relay, before) in relays.iter().zip(before) {
        eventually("somebody knocks", || {
            (relay.datagrams() > before).then_some(())
        });
    }
    relays.iter().for_each(Relay::heal);
    one_link(&home, both);
}

#[test]
fn a_tether_that_is_lost_is_opened_again() {
    let home = Home::new();
    let (servers, relays) = relayed(&home);
    let both = [&servers[0], &servers[1]];
    for round in 0..3 {
        one_link(&home, both);
        let logged = both.map(Server::logged);
        // The link's own relay is the one that was dialled through.
        let ended: usize = relays.iter().map(Relay::end_connections).sum();
        assert_eq!(ended, 1, "round {round}");
        for (server, logged) in both.iter().zip(logged) {
            assert!(server.logs_after(logged, "tether broke: ", Duration::from_secs(5)));
        }
    }
    let begin = Instant::now();
    one_link(&home, both);
    eprintln!("measured: the fourth tether after {:?}", begin.elapsed());
    for server in both {
        assert!(!server.log().contains("left: "), "{}", server.log());
    }
}

#[test]
fn load_makes_no_heartbeat_late() {
    let home = Home::new();
    let servers = home.start_all(["one", "two", "three"]);
    let [_, two, three] = &servers;
    for server in &servers {
        server.until(&format!("/{}", server.id()), |status| status["Degree"] == 2);
    }
    // From a client of the second through it to the third, and as much to the first.
    let script = format!("head -c {LOAD} /dev/zero");
    let begin = Instant::now();
    thread::scope(|scope| {
        let loads: Vec<_> = [("/one", two), ("/three", two), ("/two", three)]
            .into_iter()
            .map(|(to, by)| {
                let script = &script;
                scope.spawn(move || {
                    let output = by
                        .circuit(format!("run {to} --"))
                        .arg("sh")
                        .arg("-c")
                        .arg(script)
                        .any_stdout()
                        .run();
                    assert_eq!(output.stdout().len(), LOAD);
                })
            })
            .collect();
        while !loads.iter().all(|load| load.is_finished()) {
            for server in &servers {
                let status = status(server);
                assert_eq!(status["Suspected"], json!([]), "{}", server.log());
                assert_eq!(status["Degree"], 2, "{}", server.log());
            }
        }
    });
    let took = begin.elapsed();
    eprintln!("measured: three times {LOAD} bytes through a forwarder in {took:?}");
    // A probe that has begun ends within a second.
    thread::sleep(Duration::from_secs(1));
    for server in &servers {
        assert_eq!(status(server)["Suspected"], json!([]));
        let log = server.log();
        assert!(
            !log.contains("left: ") && !log.contains("tether broke"),
            "{log}"
        );
        // To each of the others a link and at least one connection for what was forwarded.
        has_connections(&home, server, 3..=6);
    }
}

#[tokio::test]
async fn a_link_carries_no_requests() {
    let home = Home::new();
    let one = home.start("one");
    let (endpoint, _) = dialling(&[one.address()]).unwrap();
    let (certificate, _) = Certificate::generate().unwrap();
    let dialler = Dialler {
        endpoint: &endpoint,
        certificate: &certificate,
        key: Some(&home.key()),
        transport: &std::sync::Arc::new(transport_config(&Windows::default())),
    };
    let url = format!(
        "circuit://127.0.0.1:9/1/{}",
        certificate.fingerprint().id().in_url()
    );
    let identity = Identity {
        url: url.parse().unwrap(),
        name: "two".to_owned(),
        count: 0,
        instance: 0,
    };
    let timeout = Duration::from_secs(3);
    let opens = async |role: Role| {
        let dialled = dialler
            .dial(one.address(), Pin::Anybody, role, timeout)
            .await;
        let connection = dialled.unwrap().connection;
        let stream = tokio::time::timeout(Duration::from_secs(1), connection.open_bi()).await;
        stream.is_ok_and(|opened| opened.is_ok())
    };
    assert!(
        opens(Role::Transfer(identity.clone())).await,
        "where requests belong"
    );
    assert!(!opens(Role::Link(identity, Vec::new())).await, "a link");
}
