//! Circuits made of join URLs alone, in any order.

use super::{DISCOVER, circuit_on, hosts, on_hosts, started, whole, work_together};
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
        // Each joins the next, the last one the first.
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
