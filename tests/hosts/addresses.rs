//! Addresses that go, come back and change while a server runs.

use std::time::{Duration, Instant};

use super::{DISCOVER, REMOVAL, circuit_on, hosts, logged, measured, on_hosts, removed};
use super::{whole, work_together};
use crate::support::{Server, eventually_within};

/// Waits until each of these servers has as many in its view.
fn all_there(servers: &[&Server]) {
    eventually_within(Duration::from_secs(10), "all views are whole", || {
        let whole = |server: &&Server| server.ls("/").len() == servers.len();
        servers.iter().all(whole).then_some(())
    });
}

#[test]
fn an_address_that_goes_and_comes_back() {
    on_hosts(|| {
        let [a, b, c] = hosts();
        let servers = circuit_on(&[&a, &b, &c], DISCOVER);
        let [one, two, away] = &servers[..] else {
            unreachable!("there are three");
        };
        let before = logged(&[one, two]);
        c.ip("addr del 10.7.0.3/24 dev eth0");
        let took = removed(&[one, two], &before, away, REMOVAL);
        measured(
            "its address is gone, and it from the others' views after",
            took,
        );
        c.ip("addr add 10.7.0.3/24 dev eth0");
        let begin = Instant::now();
        all_there(&[one, two, away]);
        measured(
            "… its address is back, and it in all views after",
            begin.elapsed(),
        );
        work_together(&[one, two, away]);
    });
}

#[test]
fn explore_another_address() {
    on_hosts(|| {
        let [a, b, c] = hosts();
        let others = circuit_on(&[&a, &b], DISCOVER);
        let moving = c.start("-discover 228.8.8.8:7711");
        let all = [&others[0], &others[1], &moving];
        whole(&all);
        c.ip("addr add 10.7.0.33/24 dev eth0\naddr del 10.7.0.3/24 dev eth0");
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_secs(2));
            let n = others[0].ls("/").len();
            let out = others[0].circuit("run h3 -- echo hi").unchecked();
            let url = format!("circuit://10.7.0.33:{}", moving.address().port());
            let m = c.circuit(format!("peek -d {url} /h3")).unchecked();
            eprintln!("{:?}: {n} {out} {m}", begin.elapsed());
        }
        eprintln!("{}\n{}", others[0].log(), moving.log());
    });
}
