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

/// How long a seed that is started again may be without its circuit: the others dial it every 30 s.
const REDIALLED: Duration = Duration::from_secs(35);

/// A seed that was not told whom to join, and a server that joined it. The seed is stopped in order
/// and started again at its port.
fn seed_restarts(var: bool, key: bool) {
    let [a, b] = hosts();
    let how = format!("-var {var}, a key {key}");
    let starting = |host: &Host, flags: &str| match key {
        true => host.starting(flags),
        false => host.starting(flags).env("CIRCUIT_HMAC", ""),
    };
    let flags = format!("-a 10.7.0.1:7001{}", if var { " -var state" } else { "" });
    let mut seed = starting(&a, &flags).serve();
    let join = "-a 10.7.0.2:7001 -j circuit://10.7.0.1:7001";
    let other = starting(&b, join).serve();
    whole(&[&seed, &other]);
    let before = other.logged();
    assert_eq!(seed.stop().code(), Some(0));
    assert!(other.logs_after(before, &format!("left: {}", seed.id()), REMOVAL));
    if var {
        // The seed is not to find its circuit by itself.
        std::fs::remove_file(a.home().file("state/members")).unwrap();
    }
    let before = other.logged();
    let again = starting(&a, &flags).serve();
    let begin = Instant::now();
    if var || key {
        let joined = format!("joined: {}", again.id());
        assert!(
            other.logs_after(before, &joined, REDIALLED),
            "{how}: two circuits still"
        );
        measured(
            &format!("a seed is back, {how}: one circuit after"),
            begin.elapsed(),
        );
        let both = [&again, &other];
        Server::see_each_other(&both);
        work_together(&both);
    } else {
        let wrong = "cannot join circuit://10.7.0.1:7001 again: 10.7.0.1:7001 is ";
        assert!(
            other.logs_after(before, wrong, REDIALLED),
            "{how}: it is silent"
        );
        assert_eq!(other.log().matches(wrong).count(), 1);
        assert_eq!(other.ls("/").len(), 1);
    }
}

#[test]
fn a_seed_that_is_started_again_is_joined_without_a_hand() {
    on_hosts(|| {
        thread::scope(|scope| {
            for (var, key) in [(true, true), (true, false), (false, true), (false, false)] {
                scope.spawn(move || seed_restarts(var, key));
            }
        });
    });
}

#[test]
fn a_seed_of_ten_that_crashed_and_came_back_as_another_is_joined() {
    on_hosts(|| {
        let hosts = hosts::<10>();
        let starting = |at: usize| {
            let join = if at == 0 {
                ""
            } else {
                " -j circuit://10.7.0.1:7001"
            };
            hosts[at].starting(&format!("-a 10.7.0.{}:7001{join}", at + 1))
        };
        let mut seed = starting(0).serve();
        let others = started((1..10).map(starting).collect());
        let rest: Vec<&Server> = others.iter().collect();
        whole(&[&[&seed], &rest[..]].concat());
        let before = logged(&rest);
        seed.kill();
        removed(&rest, &before, &seed, REMOVAL);
        let before = logged(&rest);
        let again = starting(0).serve();
        assert_ne!(again.id(), seed.id());
        let joined = format!("joined: {}", again.id());
        let (took, silent) = said(&rest, &before, &joined, REDIALLED);
        assert!(silent.is_empty(), "two circuits still: {silent:?}");
        measured("a seed of ten is back as another: one circuit after", took);
        let all = [&[&again], &rest[..]].concat();
        whole(&all);
        work_together(&all);
    });
}
