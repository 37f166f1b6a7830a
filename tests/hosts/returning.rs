//! Servers that were killed and come back, as themselves or as others.

use std::thread;
use std::time::{Duration, Instant};

use super::{
    DISCOVER, Host, REMOVAL, circuit_on, hosts, is_long, logged, measured, on_hosts, removed,
    started, whole,
};
use super::{said, work_together};
use crate::support::{Server, eventually_within};

#[test]
fn with_var_a_killed_server_is_back_as_itself_at_once() {
    on_hosts(|| {
        let [a, b, c] = hosts();
        let others = circuit_on(&[&a, &b], DISCOVER);
        let others = [&others[0], &others[1]];
        let line = format!("-a 10.7.0.3:7003 -var state -j {}", others[0].url());
        let mut first = c.start(&line);
        whole(&[others[0], others[1], &first]);
        // There are transfer connections to it.
        work_together(&[others[0], &first, others[1]]);
        let before = logged(&others);
        first.kill();
        let begin = Instant::now();
        let again = c.start(&line);
        measured("with -var: it runs again after", begin.elapsed());
        assert_eq!(again.id(), first.id());
        assert_ne!(again.url(), first.url(), "another process");
        let text = format!("joined: {} {}", again.id(), again.url());
        let (_, silent) = said(&others, &before, &text, Duration::from_secs(6));
        measured("with -var: all know of its new life after", begin.elapsed());
        assert!(silent.is_empty(), "{silent:?}");
        for server in others {
            eventually_within(Duration::from_secs(2), "it is reached", || {
                let output = server.circuit("peek /h3").any_stdout().any_stderr();
                let output = output.unchecked();
                let reached =
                    output.status.success() && output.json()["Addr"] == again.url().to_string();
                reached.then_some(())
            });
        }
        measured("with -var: all have reached it after", begin.elapsed());
        let all = [others[0], others[1], &again];
        Server::see_each_other(&all);
        work_together(&all);
        // The life before is not mourned later.
        let before = logged(&all);
        let (_, silent) = said(&all, &before, "left: ", Duration::from_secs(7));
        assert_eq!(silent.len(), 3, "{}", others[0].log());
        Server::see_each_other(&all);
    });
}

#[test]
fn without_var_a_killed_server_comes_back_as_another() {
    on_hosts(|| {
        let [a, b, c] = hosts();
        let others = circuit_on(&[&a, &b], DISCOVER);
        let others = [&others[0], &others[1]];
        let line = format!("-a 10.7.0.3:7003 -j {}", others[0].url());
        let mut first = c.start(&line);
        whole(&[others[0], others[1], &first]);
        let before = logged(&others);
        first.kill();
        let begin = Instant::now();
        let again = c.start(&line);
        assert_ne!(again.id(), first.id());
        let (_, silent) = said(
            &others,
            &before,
            &format!("joined: {}", again.id()),
            REMOVAL,
        );
        assert!(silent.is_empty(), "{silent:?}");
        measured("without -var: the new one is known after", begin.elapsed());
        let left = REMOVAL.saturating_sub(begin.elapsed());
        removed(&others, &before, &first, left);
        measured("without -var: the old one is gone after", begin.elapsed());
        let all = [others[0], others[1], &again];
        Server::see_each_other(&all);
        work_together(&all);
    });
}

/// How long the others may take to know of a server's new life. Measured: .1 s where it finds them
/// or they hear of it, .8 s where they must miss it and ask.
const NOTICED: Duration = Duration::from_secs(3);

/// Eats all TCP.
const NO_TCP: &str = "table inet firewall { chain in { type filter hook input priority 0; \
                      iifname \"eth0\" meta l4proto tcp drop; }; }";

/// The two of three servers that are not this one.
fn others(servers: &[Server], at: usize) -> [&Server; 2] {
    [&servers[(at + 1) % 3], &servers[(at + 2) % 3]]
}

/// Kills one after the other of three servers that keep their state, and has each start again at
/// once: whoever has the lower key, and dialled whom, differs.
fn each_restarts(how: &str, flags: [&str; 3], rounds: usize, tethers: bool) {
    let hosts: [Host; 3] = hosts();
    if !tethers && !hosts.iter().all(|host| host.filter(NO_TCP)) {
        return;
    }
    let start = |at: usize| hosts[at].starting(&format!("-var state {}", flags[at]));
    let mut servers = started((0..3).map(start).collect());
    whole(&servers.iter().collect::<Vec<_>>());
    let mut times = Vec::new();
    for round in 0..rounds {
        let at = round % 3;
        let before = logged(&others(&servers, at));
        servers[at].kill();
        servers[at] = start(at).serve();
        let joined = format!("joined: {} {}", servers[at].id(), servers[at].url());
        let (took, silent) = said(&others(&servers, at), &before, &joined, NOTICED);
        assert!(silent.is_empty(), "{how}, round {round}: {silent:?}");
        times.push(format!("{:.2}", took.as_secs_f64()));
        whole(&servers.iter().collect::<Vec<_>>());
    }
    let tethers = if tethers { "" } else { ", no TCP" };
    eprintln!(
        "measured: {how}{tethers}: known {} s after its URL",
        times.join(", ")
    );
}

#[test]
fn a_restart_is_noticed_at_once_wherever_the_server_is_then() {
    let rounds = if is_long() { 24 } else { 6 };
    let fixed = [
        "-a 10.7.0.1:7001 -j circuit://10.7.0.2:7001",
        "-a 10.7.0.2:7001 -j circuit://10.7.0.3:7001",
        "-a 10.7.0.3:7001 -j circuit://10.7.0.1:7001",
    ];
    // The first is dialled at its port; the others come back at any.
    let moved = [
        "-a 10.7.0.1:7001",
        "-if eth0 -j circuit://10.7.0.1:7001",
        "-if eth0 -j circuit://10.7.0.1:7001",
    ];
    let ways = [
        ("by multicast, any port", [DISCOVER; 3]),
        ("by URL, the same port", fixed),
        ("by URL, any port", moved),
    ];
    on_hosts(|| {
        thread::scope(|scope| {
            for (how, flags) in ways {
                for tethers in [true, false] {
                    scope.spawn(move || each_restarts(how, flags, rounds, tethers));
                }
            }
        });
    });
}
