//! Subscribers on every host of a circuit of twelve hear of each change once.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::events::Events;
use super::{
    DISCOVER, REMOVAL, circuit_on, is_long, logged, many_hosts, measured, on_hosts, removed, whole,
    work_together,
};
use crate::support::{Server, eventually_within};

/// How long news may take that is known already.
const NEWS: Duration = Duration::from_secs(5);

/// Each of these servers, and how often.
fn each<'a>(servers: &[&'a Server], times: usize) -> Vec<(&'a Server, usize)> {
    servers.iter().map(|server| (*server, times)).collect()
}

#[test]
fn every_subscriber_hears_of_each_change_once() {
    on_hosts(|| {
        let hosts = many_hosts(12);
        let mut servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        let mut events = Events::of(&servers.iter().collect::<Vec<_>>());
        {
            let all: Vec<&Server> = servers.iter().collect();
            for server in &all {
                events.are(server, &each(&all, 1), &[], NEWS);
            }
        }

        // One is killed, one leaves in order, and a new one comes.
        let mut killed = servers.pop().unwrap();
        let leaver = servers.pop().unwrap();
        let rest: Vec<&Server> = servers.iter().collect();
        let before = logged(&rest);
        events.without(&killed);
        events.without(&leaver);
        killed.kill();
        leaver.signal(Signal::TERM);
        let took = removed(&rest, &before, &killed, REMOVAL);
        measured("one of twelve was killed, gone from all views after", took);
        removed(&rest, &before, &leaver, REMOVAL);
        let comer = hosts[11].start(DISCOVER);
        let first: Vec<&Server> = rest.iter().copied().chain([&killed, &leaver]).collect();
        let joined: Vec<&Server> = first.iter().copied().chain([&comer]).collect();
        for server in &rest {
            events.are(
                server,
                &each(&joined, 1),
                &each(&[&killed, &leaver], 1),
                REMOVAL,
            );
        }
        let now: Vec<&Server> = rest.iter().copied().chain([&comer]).collect();
        whole(&now);
        events.agree_with_views(&now);
    });
}

#[test]
fn subscribers_on_both_sides_of_a_cut_hear_of_it_and_of_the_heal() {
    on_hosts(|| {
        let hosts = many_hosts(12);
        let servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        let all: Vec<&Server> = servers.iter().collect();
        let events = Events::of(&all);
        let (left, right) = all.split_at(6);
        let before = (logged(left), logged(right));
        for host in &hosts[6..] {
            host.move_to("eth0", 1);
        }
        let begin = Instant::now();
        for gone in right {
            removed(left, &before.0, gone, Duration::from_secs(10));
        }
        for gone in left {
            removed(right, &before.1, gone, Duration::from_secs(10));
        }
        measured("halves of six know of the cut after", begin.elapsed());
        if is_long() {
            std::thread::sleep(Duration::from_secs(30).saturating_sub(begin.elapsed()));
        }
        for server in left {
            events.are(server, &each(&all, 1), &each(right, 1), NEWS);
        }
        for server in right {
            events.are(server, &each(&all, 1), &each(left, 1), NEWS);
        }
        for host in &hosts[6..] {
            host.move_to("eth0", 0);
        }
        let begin = Instant::now();
        eventually_within(Duration::from_secs(15), "all views are whole", || {
            let whole = |server: &&Server| server.ls("/").len() == 12;
            all.iter().all(whole).then_some(())
        });
        measured(
            "… and are one circuit after the heal after",
            begin.elapsed(),
        );
        work_together(&all);
        for server in left {
            let joins = [each(left, 1), each(right, 2)].concat();
            events.are(server, &joins, &each(right, 1), NEWS);
        }
        for server in right {
            let joins = [each(right, 1), each(left, 2)].concat();
            events.are(server, &joins, &each(left, 1), NEWS);
        }
        events.agree_with_views(&all);
    });
}
