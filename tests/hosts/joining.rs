//! Circuits made of join URLs alone, in any order.

use std::thread;

use super::{DISCOVER, GROUP, Host, circuit_on, hosts, on_hosts, started, whole, work_together};
use crate::support::Server;

#[test]
fn a_server_that_starts_later_is_joined_then() {
    on_hosts(|| {
        let [a, b] = hosts();
        let two = b.start("-if eth0 -j circuit://10.7.0.1:7001");
        two.logs("cannot join circuit://10.7.0.1:7001 yet: no answer from 10.7.0.1:7001");
        let one = a.start("-a 10.7.0.1:7001");
        whole(&[&one, &two]);
        work_together(&[&one, &two]);
    });
}

#[test]
fn a_chain_of_joins_at_once_is_one_circuit() {
    on_hosts(|| {
        let hosts = hosts::<5>();
        // Each joins the next, and the last one joins the first.
        let starting = hosts.iter().enumerate().map(|(at, host)| {
            let (own, next) = (at + 1, (at + 1) % 5 + 1);
            host.starting(&format!(
                "-a 10.7.0.{own}:7001 -j circuit://10.7.0.{next}:7001"
            ))
        });
        let servers = started(starting.collect());
        let all: Vec<&Server> = servers.iter().collect();
        whole(&all);
        work_together(&all);
    });
}

#[test]
fn two_circuits_that_are_joined_become_one() {
    on_hosts(|| {
        let [a, b, c, d] = hosts();
        let first = circuit_on(&[&a, &b], DISCOVER);
        // The others are on the same segment, and do not listen to the group.
        let three = c.start("-if eth0");
        let four = d.start(&format!("-if eth0 -j {}", three.url()));
        whole(&[&three, &four]);
        Server::see_each_other(&[&first[0], &first[1]]);
        first[0].circuit(format!("join /h2 {}", four.url())).run();
        let all = [&first[0], &first[1], &three, &four];
        whole(&all);
        work_together(&all);
    });
}

/// Two servers on one segment and group, of which each has one of these keys: whether each says
/// what is wrong, once, and that it found nobody.
fn stay_alone(keys: [&'static str; 2], said: [&'static str; 2]) {
    let [a, b] = hosts();
    let start = |host: &Host, key: &str| {
        host.home()
            .write("other", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n");
        host.starting(DISCOVER).env("CIRCUIT_HMAC", key)
    };
    let servers = started(vec![start(&a, keys[0]), start(&b, keys[1])]);
    for (server, said) in servers.iter().zip(said) {
        let wrong = format!("on the multicast group {GROUP}: {said} (answers: 1)");
        server.logs(&wrong);
        server.logs(&format!(
            "found no other server within 10 s by -discover {GROUP}; it goes on looking"
        ));
        assert_eq!(server.log().matches(&wrong).count(), 1, "{}", server.log());
        assert_eq!(server.ls("/").len(), 1);
    }
}

#[test]
fn a_server_whose_key_is_not_the_circuits_says_so() {
    let (wrong, missing, superfluous) = (
        "the circuit has another key",
        "the circuit has a key, and none was given",
        "a key was given, and the circuit has none",
    );
    on_hosts(|| {
        thread::scope(|scope| {
            scope.spawn(|| stay_alone([".hmac", "other"], [wrong, wrong]));
            scope.spawn(|| stay_alone([".hmac", ""], [superfluous, missing]));
        });
    });
}
