//! Servers that are killed, stopped and told to leave.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{
    DISCOVER, KILLED, REMOVAL, circuit_on, logged, many_hosts, measured, on_hosts, removed, whole,
    work_together,
};
use crate::support::{Server, eventually_within};

/// Kills one server of so many.
fn kill_one_of(count: usize) {
    let hosts = many_hosts(count);
    let mut servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
    let mut victim = servers.pop().unwrap();
    let rest: Vec<&Server> = servers.iter().collect();
    let before = logged(&rest);
    victim.kill();
    let took = removed(&rest, &before, &victim, KILLED);
    measured(
        &format!("one of {count} was killed, gone from all views after"),
        took,
    );
    Server::see_each_other(&rest);
    work_together(&rest);
}

#[test]
fn a_killed_server_is_gone_at_once() {
    on_hosts(|| {
        thread::scope(|scope| {
            for count in [2, 3, 12] {
                scope.spawn(move || kill_one_of(count));
            }
        });
    });
}

#[test]
fn without_tethers_silence_decides() {
    on_hosts(|| {
        let hosts = many_hosts(4);
        let rules = "table inet tethers { chain in { type filter hook input priority 0; \
                     iifname \"eth0\" meta l4proto tcp drop; }; }";
        if !hosts.iter().all(|host| host.filter(rules)) {
            return;
        }
        let mut servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        assert_eq!(servers[0].peek("/h1")["Tethers"], 0);
        let mut victim = servers.pop().unwrap();
        let rest: Vec<&Server> = servers.iter().collect();
        let before = logged(&rest);
        victim.kill();
        let took = removed(&rest, &before, &victim, REMOVAL);
        measured("without tethers one of four was killed, gone after", took);
        Server::see_each_other(&rest);
        work_together(&rest);
    });
}

#[test]
fn half_of_twelve_servers_killed_at_once_are_gone() {
    on_hosts(|| {
        let hosts = many_hosts(12);
        // More than are linked each with each.
        let mut killed = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        let rest = killed.split_off(6);
        let rest: Vec<&Server> = rest.iter().collect();
        let before = logged(&rest);
        let begin = Instant::now();
        for server in &mut killed {
            server.kill();
        }
        for server in &killed {
            removed(&rest, &before, server, Duration::from_secs(8));
        }
        measured("six of twelve were killed, gone after", begin.elapsed());
        Server::see_each_other(&rest);
        work_together(&rest);
    });
}

#[test]
fn the_last_of_five_goes_on_alone() {
    on_hosts(|| {
        let hosts = many_hosts(5);
        let mut servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        let last = servers.pop().unwrap();
        last.make("/h5/p", r#"{"Path": "cat"}"#);
        let before = logged(&[&last]);
        let begin = Instant::now();
        for server in &mut servers {
            server.kill();
        }
        for server in &servers {
            removed(&[&last], &before, server, Duration::from_secs(10));
        }
        measured("four of five were killed, gone after", begin.elapsed());
        Server::see_each_other(&[&last]);
        assert_eq!(last.peek("/h5/p")["Phase"], "running");
        eprintln!("isolated: {}", last.peek("/h5")["Isolated"]);
        // A server that starts finds it.
        let again = hosts[0].start(DISCOVER);
        whole(&[&last, &again]);
        work_together(&[&last, &again]);
    });
}

#[test]
fn a_server_that_leaves_in_order_is_gone_at_once() {
    on_hosts(|| {
        let hosts = many_hosts(5);
        let mut servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        let mut leaver = servers.pop().unwrap();
        let rest: Vec<&Server> = servers.iter().collect();
        let before = logged(&rest);
        leaver.signal(Signal::TERM);
        let took = removed(&rest, &before, &leaver, Duration::from_secs(1));
        measured("one of five left in order, gone from all views after", took);
        assert_eq!(leaver.exit_status().code(), Some(0));
        Server::see_each_other(&rest);
        work_together(&rest);
    });
}

#[test]
fn a_server_that_stands_still_for_a_moment_stays() {
    on_hosts(|| {
        let hosts = many_hosts(3);
        let servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        let [one, two, still] = &servers[..] else {
            unreachable!("there are three");
        };
        let all = [one, two, still];
        let others = [one, two];
        let before = logged(&others);
        still.signal(Signal::STOP);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            for server in others {
                let output = server.circuit("ls /").any_stdout().run();
                assert_eq!(output.stdout().lines().count(), 3, "{output}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        still.signal(Signal::CONT);
        work_together(&all);
        // Time for whatever it provoked to have an effect.
        let (_, silent) = super::said(&others, &before, "left: ", Duration::from_secs(4));
        assert_eq!(silent.len(), 2, "{}\n{}", one.log(), two.log());
        Server::see_each_other(&all);

        let before = logged(&others);
        still.signal(Signal::STOP);
        let (_, silent) = super::said(&others, &before, "left: ", Duration::from_secs(4));
        still.signal(Signal::CONT);
        assert_eq!(silent.len(), 2, "{}\n{}", one.log(), two.log());
        let begin = Instant::now();
        eventually_within(Duration::from_secs(10), "all are there again", || {
            all.iter()
                .all(|server| server.ls("/").len() == 3)
                .then_some(())
        });
        measured("… and all are in all views after", begin.elapsed());
    });
}

#[test]
fn a_network_that_loses_a_fifth_of_all_packets_loses_no_server() {
    on_hosts(|| {
        let hosts = many_hosts(4);
        let servers = circuit_on(&hosts.iter().collect::<Vec<_>>(), DISCOVER);
        let all: Vec<&Server> = servers.iter().collect();
        // A connection that is there already is to be found out to be good, not made.
        work_together(&all);
        let before = logged(&all);
        for host in &hosts {
            if !host.lose_one_in(5) {
                return;
            }
        }
        let (_, silent) = super::said(&all, &before, "left: ", Duration::from_secs(10));
        assert_eq!(silent.len(), 4, "somebody was removed");
        let text = "0123456789abcde\n".repeat(10_000);
        for (at, server) in all.iter().enumerate() {
            let next = all[(at + 1) % all.len()];
            server
                .circuit(format!("run -timeout 15 {} -- cat", next.id()))
                .stdin(text.as_str())
                .stdout(text.as_str())
                .run();
        }
        Server::see_each_other(&all);
    });
}
