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
fn a_server_whose_address_changed_is_reached_after_a_restart() {
    on_hosts(|| {
        let [a, b, c] = hosts();
        let others = circuit_on(&[&a, &b], DISCOVER);
        let line = "-a :7003 -var state -discover 228.8.8.8:7711";
        let mut moving = c.start(line);
        whole(&[&others[0], &others[1], &moving]);
        moving.make("/h3/p", r#"{"Path": "cat"}"#);
        c.ip("addr del 10.7.0.3/24 dev eth0\naddr add 10.7.0.33/24 dev eth0");
        // The address that it announced is gone, until it starts again. Callers hear so, in time.
        let asked = Instant::now();
        let output = others[0].circuit("peek /h3/p").status(1).any_stderr().run();
        assert!(asked.elapsed() < Duration::from_secs(6), "{output}");
        eprintln!("said: {}", output.stderr().trim());

        moving.stop();
        let again = c.start(line);
        assert_eq!(again.id(), moving.id());
        assert_eq!(again.address().to_string(), "10.7.0.33:7003");
        let all = [&others[0], &others[1], &again];
        all_there(&all);
        eventually_within(Duration::from_secs(5), "it is reached there", || {
            let output = others[0].circuit("peek /h3").any_stdout().unchecked();
            let same = output.status.success() && output.json()["Addr"] == again.url().to_string();
            same.then_some(())
        });
        work_together(&all);
    });
}
