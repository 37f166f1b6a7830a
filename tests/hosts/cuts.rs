//! A server behind a cut link: gone from the others' views, alive for itself, back after the heal.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::work_together;
use super::{
    DISCOVER, Host, REMOVAL, circuit_on, hosts, logged, measured, on_hosts, removed, whole,
};
use crate::support::{Server, eventually_within, sh};

/// How long a request of no deadline may wait for a server that is gone: QUIC's idle time-out, and
/// what a busy machine adds.
const LOST: Duration = Duration::from_secs(13);

/// Cuts one of three off, and heals.
fn cut_and_heal(how: &str, cut: impl Fn(&Host), heal: impl Fn(&Host)) {
    let [a, b, c] = hosts();
    let servers = circuit_on(&[&a, &b, &c], DISCOVER);
    let [one, two, away] = &servers[..] else {
        unreachable!("there are three");
    };
    let near = [one, two];
    near[0].make(
        "/h3/count",
        sh("for i in $(seq 200); do echo $i; sleep 0.02; done"),
    );
    near[0].make("/h3/cat", r#"{"Path": "cat"}"#);
    let pid = |status: Value| status["Pid"].as_u64().unwrap();
    let cat = pid(near[0].peek("/h3/cat"));
    // These wait for what happens there, through a connection that will be lost, and one who has
    // not dialled yet will ask.
    let mut waiting = near[0]
        .circuit("wait /h3/cat")
        .status(1)
        .any_stderr()
        .spawn();
    let mut reading = near[0].circuit("stdout /h3/cat").spawn();
    eventually_within(Duration::from_secs(5), "somebody reads", || {
        let status = near[0].peek("/h3/cat");
        (status["Stdout"]["Reader"] == true).then_some(())
    });

    let before = logged(&near);
    cut(&c);
    let begin = Instant::now();
    let asking = near.map(|server| server.circuit("peek /h3/cat").spawn());
    removed(&near, &before, away, REMOVAL);
    measured(
        &format!("{how}: gone from the others' views after"),
        begin.elapsed(),
    );
    for asking in asking {
        let output = asking.finish();
        // The deadline of operations that do not block by nature.
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(7), "{took:?}: {output}");
        assert_eq!(output.status.code(), Some(1), "{output}");
        eprintln!("{how}: {}", output.stderr().trim());
    }
    Server::see_each_other(&near);
    work_together(&near);
    near[0]
        .circuit("peek /h3/cat")
        .status(1)
        .stderr(
            "circuit: peek /h3/cat: no server is named h3\n\
             hint: `circuit ls -l /` lists the servers\n",
        )
        .run();

    let isolated = eventually_within(LOST, "it is isolated, and says so", || {
        let status = away.peek("/h3");
        (status["Isolated"] == true).then_some(status)
    });
    measured(
        &format!("{how}: it says that it is isolated after"),
        begin.elapsed(),
    );
    assert_eq!(isolated["Links"], Value::Array(Vec::new()));
    assert_eq!(pid(away.peek("/h3/cat")), cat);
    // Nor does it hand what the process writes to a reader who is not there any more.
    eventually_within(Duration::from_secs(1), "nobody reads", || {
        let status = away.peek("/h3/cat");
        (status["Stdout"]["Reader"] == false).then_some(())
    });
    for command in [&mut waiting, &mut reading] {
        let left = LOST.saturating_sub(begin.elapsed());
        eventually_within(left, "the request has ended", || {
            (!command.is_running()).then_some(())
        });
    }
    for command in [waiting, reading] {
        let output = command.finish();
        assert_eq!(output.status.code(), Some(1), "{output}");
        eprintln!("{how}: {}", output.stderr().trim());
    }

    heal(&c);
    let begin = Instant::now();
    let all = [one, two, away];
    eventually_within(Duration::from_secs(10), "all views are whole", || {
        let whole = |server: &&Server| server.ls("/").len() == 3;
        all.iter().all(whole).then_some(())
    });
    measured(&format!("{how}: back in all views after"), begin.elapsed());
    whole(&all);
    work_together(&all);
    assert_eq!(away.peek("/h3")["Isolated"], false);
    let numbers: Vec<String> = (1..=200).map(|i| format!("{i}\n")).collect();
    near[1]
        .circuit("stdout /h3/count")
        .stdout(numbers.concat())
        .run();
    assert_eq!(pid(near[0].peek("/h3/cat")), cat);
    near[1]
        .circuit("stdin /h3/cat")
        .stdin("still there\n")
        .run();
    near[0]
        .circuit("stdout /h3/cat")
        .stdout("still there\n")
        .run();
}

#[test]
fn a_cable_is_pulled_and_plugged_in_again() {
    on_hosts(|| cut_and_heal("cable pulled", Host::cut, Host::heal));
}

#[test]
fn a_network_loses_everything_for_a_while() {
    on_hosts(|| cut_and_heal("silence", Host::mute, Host::unmute));
}

#[test]
fn two_halves_are_one_again_after_the_heal() {
    on_hosts(|| {
        let [a, b, c, d] = hosts();
        let servers = circuit_on(&[&a, &b, &c, &d], DISCOVER);
        let [one, two, three, four] = &servers[..] else {
            unreachable!("there are four");
        };
        let (left, right) = ([one, two], [three, four]);
        let before = (logged(&left), logged(&right));
        c.move_to("eth0", 1);
        d.move_to("eth0", 1);
        let begin = Instant::now();
        for gone in right {
            removed(&left, &before.0, gone, Duration::from_secs(8));
        }
        for gone in left {
            removed(&right, &before.1, gone, Duration::from_secs(8));
        }
        measured(
            "two halves know of each other's absence after",
            begin.elapsed(),
        );
        Server::see_each_other(&left);
        Server::see_each_other(&right);
        work_together(&left);
        work_together(&right);
        c.move_to("eth0", 0);
        d.move_to("eth0", 0);
        let begin = Instant::now();
        let all = [one, two, three, four];
        eventually_within(Duration::from_secs(10), "all views are whole", || {
            let whole = |server: &&Server| server.ls("/").len() == 4;
            all.iter().all(whole).then_some(())
        });
        measured(
            "… and are one circuit after the heal after",
            begin.elapsed(),
        );
        work_together(&all);
    });
}

#[test]
fn a_stopped_server_is_waited_for_though_one_that_was_cut_off_gave_it_up() {
    on_hosts(|| {
        let [a, b, c, d] = hosts();
        let servers = circuit_on(&[&a, &b, &c, &d], DISCOVER);
        let [one, two, still, away] = &servers[..] else {
            unreachable!("there are four");
        };
        let near = [one, two];
        let before = logged(&near);
        let left = format!("left: {}", still.id());
        let logged_away = away.logged();
        still.signal(Signal::STOP);
        let begin = Instant::now();
        d.mute();
        assert!(away.logs_after(logged_away, &left, Duration::from_secs(11)));
        d.unmute();
        measured(
            "cut off, it gives the stopped one up after",
            begin.elapsed(),
        );
        // It is back, and has told what it thinks.
        eventually_within(Duration::from_secs(3), "it is back", || {
            near.iter()
                .all(|server| server.ls("/").contains(&format!("/{}", away.id())))
                .then_some(())
        });
        while begin.elapsed() < Duration::from_secs(14) {
            for (server, logged) in near.iter().zip(&before) {
                let gone = server.logs_after(*logged, &left, Duration::ZERO);
                assert!(!gone, "after {:?}: {}", begin.elapsed(), server.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        still.signal(Signal::CONT);
        let all = [one, two, still, away];
        whole(&all);
        work_together(&all);
    });
}
