//! Twelve servers, too many to be linked each with each, become one circuit, and every subscriber
//! hears of stops, restarts and moves.
//!
//! The test that measures a circuit at rest takes two minutes, and is run with `--include-ignored`.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::events::Events;
use super::{DISCOVER, REMOVAL, circuit_on, logged, many_hosts, measured, on_hosts};
use super::{removed, started, whole, work_together};
use crate::support::{Server, eventually_within};

/// How long news may take that is known already.
const NEWS: Duration = Duration::from_secs(5);

/// How long a circuit of twelve may take to be whole, on a busy machine.
const WHOLE: Duration = Duration::from_secs(10);

fn each<'a>(servers: &[&'a Server], times: usize) -> Vec<(&'a Server, usize)> {
    servers.iter().map(|server| (*server, times)).collect()
}

/// Starts twelve servers at once, and listens on each from its first moment on.
fn find_together(how: &str, flags: impl Fn(usize) -> String) {
    let hosts = many_hosts(12);
    let begin = Instant::now();
    let commands = hosts
        .iter()
        .zip(1..)
        .map(|(host, n)| host.starting(&flags(n)));
    let servers = started(commands.collect());
    let all: Vec<&Server> = servers.iter().collect();
    let events = Events::of(&all);
    whole(&all);
    measured(
        &format!("twelve, {how}: one circuit after"),
        begin.elapsed(),
    );
    for server in &all {
        events.are(server, &each(&all, 1), &[], NEWS);
    }
    events.agree_with_views(&all);
    // Of connections that crossed one is closed, and its tether: nobody takes that for an end.
    for server in &all {
        let log = server.log();
        assert!(!log.contains("tether broke"), "{log}");
    }
}

#[test]
fn they_find_together_by_multicast_alone() {
    on_hosts(|| find_together("multicast", |_| DISCOVER.to_owned()));
}

#[test]
fn they_find_together_by_join_urls_alone() {
    on_hosts(|| {
        find_together("join URLs", |n| {
            format!("-a 10.7.0.{n}:7001 -j circuit://10.7.0.1:7001")
        });
    });
}

#[test]
fn they_find_together_by_both() {
    on_hosts(|| {
        find_together("both", |n| {
            format!("-a 10.7.0.{n}:7001 -j circuit://10.7.0.1:7001 -discover 228.8.8.8:7711")
        });
    });
}

#[test]
fn nobody_hears_of_a_server_that_stands_still() {
    on_hosts(|| {
        let hosts = many_hosts(12);
        let servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        let all: Vec<&Server> = servers.iter().collect();
        let events = Events::of(&all);
        for (still, seconds) in [(all[3], 2), (all[7], 4)] {
            let before = logged(&all);
            still.signal(Signal::STOP);
            thread::sleep(Duration::from_secs(seconds));
            still.signal(Signal::CONT);
            let begin = Instant::now();
            work_together(&all);
            eventually_within(REMOVAL, "nobody is suspected", || {
                let calm = |server: &&Server| {
                    let lines = server.ls_long("/");
                    lines.len() == 12 && !lines.iter().any(|line| line.contains("suspected"))
                };
                all.iter().all(calm).then_some(())
            });
            let what = format!("twelve, one stopped for {seconds} s: all is forgotten after");
            measured(&what, begin.elapsed());
            for (server, before) in all.iter().zip(before) {
                assert!(!server.logs_after(before, "left: ", Duration::ZERO));
            }
        }
        for server in &all {
            events.are(server, &each(&all, 1), &[], NEWS);
        }
        events.agree_with_views(&all);
    });
}

#[test]
fn a_half_that_is_restarted_leaves_and_joins_once() {
    on_hosts(|| {
        let hosts = many_hosts(12);
        let start = |n: usize| {
            let flags = format!("-var state -a 10.7.0.{n}:7001 -discover 228.8.8.8:7711");
            hosts[n - 1].starting(&flags)
        };
        let mut servers = started((1..=12).map(start).collect());
        whole(&servers.iter().collect::<Vec<_>>());
        let mut events = Events::of(&servers.iter().collect::<Vec<_>>());
        let mut old = servers.split_off(6);
        for server in &mut old {
            events.without(server);
            server.kill();
        }
        let begin = Instant::now();
        let new = started((7..=12).map(start).collect());
        let stayed: Vec<&Server> = servers.iter().collect();
        let back: Vec<&Server> = new.iter().collect();
        let all = [&stayed[..], &back].concat();
        for server in &stayed {
            let joins = [each(&stayed, 1), each(&back, 2)].concat();
            events.are(server, &joins, &each(&back, 1), WHOLE);
        }
        Server::see_each_other(&all);
        measured(
            "twelve, six killed and restarted: whole after",
            begin.elapsed(),
        );
        events.agree_with_views(&all);
        work_together(&all);
    });
}

#[test]
fn a_host_that_was_cut_off_is_back_with_another_address() {
    on_hosts(|| {
        let hosts = many_hosts(12);
        let flags = "-var state -if eth0 -discover 228.8.8.8:7711";
        let mut servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), flags);
        let mut events = Events::of(&servers.iter().collect::<Vec<_>>());
        let mut away = servers.pop().unwrap();
        let rest: Vec<&Server> = servers.iter().collect();
        let before = logged(&rest);
        hosts[11].move_to("eth0", 1);
        let took = removed(&rest, &before, &away, Duration::from_secs(8));
        measured("twelve, one cut off: gone from all views after", took);
        for server in &rest {
            let joins = [each(&rest, 1), each(&[&away], 1)].concat();
            events.are(server, &joins, &each(&[&away], 1), NEWS);
        }
        events.without(&away);
        away.stop();
        hosts[11].ip("addr flush dev eth0\naddr add 10.7.0.99/24 dev eth0");
        let again = hosts[11].start(flags);
        assert_eq!(again.id(), away.id());
        hosts[11].move_to("eth0", 0);
        let begin = Instant::now();
        let all = [&rest[..], &[&again]].concat();
        for server in &rest {
            let joins = [each(&rest, 1), each(&[&again], 2)].concat();
            events.are(server, &joins, &each(&[&again], 1), WHOLE);
        }
        Server::see_each_other(&all);
        measured("twelve, one back elsewhere: whole after", begin.elapsed());
        events.agree_with_views(&all);
        work_together(&all);
    });
}

#[test]
#[ignore = "takes two minutes"]
fn twelve_servers_at_rest_send_little() {
    on_hosts(|| {
        let hosts = many_hosts(12);
        let servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        let all: Vec<&Server> = servers.iter().collect();
        // The newcomers are mixed into the graph, and discovery falls silent.
        thread::sleep(Duration::from_secs(60));
        let sent = || hosts.iter().map(super::Host::sent).collect::<Vec<_>>();
        let before = sent();
        let begin = Instant::now();
        thread::sleep(Duration::from_secs(60));
        let (after, seconds) = (sent(), begin.elapsed().as_secs_f64());
        let mut rates: Vec<(f64, f64)> = before
            .iter()
            .zip(after)
            .map(|(before, after)| {
                let packets = (after.0 - before.0) as f64 / seconds;
                (packets, (after.1 - before.1) as f64 / seconds)
            })
            .collect();
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mean = |part: fn(&(f64, f64)) -> f64| rates.iter().map(part).sum::<f64>() / 12.0;
        let links: u64 = all
            .iter()
            .map(|server| server.peek(&format!("/{}", server.id())))
            .map(|status| status["Degree"].as_u64().unwrap())
            .sum();
        let (packets, bytes) = (mean(|rate| rate.0), mean(|rate| rate.1));
        eprintln!(
            "measured: twelve at rest: each sends {packets:.1} packets and {bytes:.0} bytes a \
             second, from {:.1} to {:.1} packets, with {:.1} links",
            rates[0].0,
            rates[11].0,
            links as f64 / 12.0
        );
        // The simulator has the same targets.
        assert!(packets <= 22.0 && bytes <= 1800.0, "the target");
        work_together(&all);
    });
}
