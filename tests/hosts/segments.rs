//! Circuits on two segments that become one: by a cable, and by a server that is on both.

use std::time::{Duration, Instant};

use super::{DISCOVER, Host, circuit_on, hosts, measured, on_hosts, whole, work_together};
use crate::support::{Server, eventually_within};

/// Puts hosts on the second segment, with `eth0` as 10.7.1.N/24.
fn on_the_second(hosts: &[(&Host, u8)]) {
    for (host, number) in hosts {
        host.move_to("eth0", 1);
        host.ip(&format!(
            "addr flush dev eth0\naddr add 10.7.1.{number}/24 dev eth0"
        ));
    }
}

/// Gives a host an interface on each segment: 10.7.0.N and 10.7.1.N.
fn on_both(host: &Host, number: u8) {
    host.plug("eth1", 1);
    host.ip(&format!("addr add 10.7.1.{number}/24 dev eth1"));
    host.wait_for_carrier("eth1");
}

#[test]
fn two_circuits_become_one_when_their_segments_do() {
    on_hosts(|| {
        let [a, b, c, d] = hosts();
        c.move_to("eth0", 1);
        d.move_to("eth0", 1);
        let left = circuit_on(&[&a, &b], DISCOVER);
        let right = circuit_on(&[&c, &d], DISCOVER);
        Server::see_each_other(&[&left[0], &left[1]]);
        c.move_to("eth0", 0);
        d.move_to("eth0", 0);
        let begin = Instant::now();
        let all = [&left[0], &left[1], &right[0], &right[1]];
        whole(&all);
        measured(
            "two circuits whose segments became one are one after",
            begin.elapsed(),
        );
        work_together(&all);
    });
}

#[test]
fn a_server_on_two_segments_makes_their_circuits_one() {
    on_hosts(|| {
        let [a, b, c, d, between] = hosts();
        on_the_second(&[(&c, 3), (&d, 4)]);
        on_both(&between, 5);
        between.set("net/ipv4/ip_forward", "1");
        for host in [&a, &b] {
            host.ip("route add default via 10.7.0.5");
        }
        for host in [&c, &d] {
            host.ip("route add default via 10.7.1.5");
        }
        let left = circuit_on(&[&a, &b], DISCOVER);
        let right = circuit_on(&[&c, &d], DISCOVER);
        let begin = Instant::now();
        let both = between.start("-discover 228.8.8.8:7711");
        let all = [&left[0], &left[1], &right[0], &right[1], &both];
        whole(&all);
        measured(
            "a server on two segments has made them one after",
            begin.elapsed(),
        );
        work_together(&all);
    });
}

#[test]
fn servers_that_cannot_reach_each_other_are_in_one_circuit_all_the_same() {
    on_hosts(|| {
        let [a, c, between] = hosts();
        on_the_second(&[(&c, 2)]);
        on_both(&between, 3);
        // Each reaches it under the address that it announces, and it passes nothing on.
        a.ip("route add 10.7.1.3 via 10.7.0.3");
        c.ip("route add 10.7.0.3 via 10.7.1.3");
        between.set("net/ipv4/ip_forward", "0");
        let one = a.start(DISCOVER);
        let two = c.start(DISCOVER);
        let both = between.start("-discover 228.8.8.8:7711");
        let all = [&one, &two, &both];
        whole(&all);
        let logged = super::logged(&all);
        work_together(&[&one, &both]);
        work_together(&[&two, &both]);
        let begin = Instant::now();
        let output = one
            .circuit(format!("peek /{}/p", two.id()))
            .status(1)
            .any_stderr()
            .run();
        assert!(begin.elapsed() < Duration::from_secs(6), "{output}");
        eprintln!("said: {}", output.stderr().trim());
        // For longer than a server may be silent.
        let (_, silent) = super::said(&all, &logged, "left: ", Duration::from_secs(8));
        assert_eq!(silent.len(), 3, "somebody was removed: {}", both.log());
        eventually_within(Duration::from_secs(1), "all are there", || {
            let counts = all.map(|server| server.ls("/").len());
            (counts == [3; 3]).then_some(())
        });
    });
}
