//! Subscriptions tell of each server in the circuit, each join and each leave once.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::support::{Home, Server, eventually, eventually_within};

fn path(server: &Server) -> String {
    format!("/{}", server.id())
}

/// The lines that a command prints, in no order.
fn set(text: &str) -> BTreeSet<String> {
    text.lines().map(str::to_owned).collect()
}

#[test]
fn joins_begin_with_those_that_are_there() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    one.circuit("mk@join /one/joins").run();
    assert_eq!(
        one.peek("/one/joins"),
        json!({"Source": "join", "Pending": 2, "Closed": false, "Dropped": 0})
    );
    // Events can be received from any server, each once.
    let first = two.circuit("recv /one/joins").any_stdout().run();
    let second = one.circuit("recv -lines /one/joins").any_stdout().run();
    assert_eq!(
        BTreeSet::from([
            first.stdout().to_owned(),
            second.stdout().trim_end().to_owned()
        ]),
        BTreeSet::from([path(&one), path(&two)])
    );
    assert_eq!(one.peek("/one/joins")["Pending"], 0);
    let mut waiting = one.circuit("recv /one/joins").any_stdout().spawn();
    one.is_executing(&["recv"]);
    assert!(waiting.is_running());
    let three = home
        .circuit(format!("start -name three -j {}", two.url()))
        .serve();
    assert_eq!(waiting.finish().stdout(), path(&three));
    assert_eq!(one.peek("/one/joins")["Pending"], 0);
}

#[test]
fn leaves_begin_with_nobody() {
    let home = Home::new();
    let [one, mut two, mut three] = home.start_all(["one", "two", "three"]);
    one.circuit("mk@leave /one/leaves").run();
    assert_eq!(
        one.peek("/one/leaves"),
        json!({"Source": "leave", "Pending": 0, "Closed": false, "Dropped": 0})
    );
    two.stop();
    let told = one.circuit("recv -lines /one/leaves").any_stdout().run();
    assert_eq!(told.stdout(), format!("{}\n", path(&two)));
    three.kill();
    let told = one.circuit("recv /one/leaves").any_stdout().run();
    assert_eq!(told.stdout(), path(&three));
    assert_eq!(one.peek("/one/leaves")["Pending"], 0);
}

#[test]
fn each_life_of_a_server_joins_and_leaves_once() {
    let home = Home::new();
    let one = home.start("one");
    let start = format!("start -name two -var two -j {}", one.url());
    let mut two = home.circuit(&start).serve();
    Server::see_each_other(&[&one, &two]);
    one.circuit("mk@join /one/joins").run();
    one.circuit("mk@leave /one/leaves").run();
    let follow = |kind: &str| {
        one.circuit(format!("recv -lines -follow /one/{kind}"))
            .any_stdout()
            .spawn()
    };
    let (joins, leaves) = (follow("joins"), follow("leaves"));
    for lives in 2..5 {
        match lives % 2 {
            0 => two.kill(),
            _ => drop(two.stop()),
        }
        two = home.circuit(&start).serve();
        let times = |text: String| text.lines().filter(|line| *line == path(&two)).count();
        eventually_within(Duration::from_secs(8), "each was told once", || {
            let told = (times(joins.stdout().text()), times(leaves.stdout().text()));
            assert!(told.0 <= lives && told.1 < lives, "{told:?}");
            (told == (lives, lives - 1)).then_some(())
        });
        Server::see_each_other(&[&one, &two]);
    }
}

#[test]
fn receivers_share_one_queue() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("mk@join /one/joins").run();
    let followers: Vec<_> = (0..3)
        .map(|_| {
            one.circuit("recv -lines -follow /one/joins")
                .any_stdout()
                .any_stderr()
                .spawn()
        })
        .collect();
    let others: Vec<Server> = (0..4)
        .map(|n| {
            home.circuit(format!("start -name s{n} -j {}", one.url()))
                .serve()
        })
        .collect();
    let expected: BTreeSet<String> = others.iter().chain([&one]).map(path).collect();
    let told = || -> String { followers.iter().map(|f| f.stdout().text()).collect() };
    eventually("all were told", || (set(&told()) == expected).then_some(()));
    assert_eq!(told().lines().count(), expected.len(), "each by one");
    // A scrub ends those that still wait.
    one.circuit("scrub /one/joins").run();
    for follower in followers {
        let output = follower.finish();
        assert_eq!(output.status.code(), Some(1), "{output}");
        assert!(
            output.stderr().starts_with("circuit: recv /one/joins: "),
            "{output}"
        );
        assert!(
            output.stderr().ends_with("the subscription was scrubbed\n"),
            "{output}"
        );
    }
    one.circuit("peek /one/joins").stdout("null\n").run();
}

#[test]
fn a_subscription_refuses_other_operations() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("mk@join /one/j").run();
    one.circuit("mk@leave /one/l").run();
    let lines = one.ls_long("/one/...");
    assert_eq!(lines, ["@join   /one/j", "@leave  /one/l"]);
    let fails = |line: &str, why: &str| {
        one.circuit(line)
            .status(1)
            .stderr(format!("circuit: {line}: {why}\n"))
            .run();
    };
    for (at, kind) in [("j", "@join"), ("l", "@leave")] {
        for command in ["send", "close", "stdin", "stdout", "wait"] {
            fails(
                &format!("{command} /one/{at}"),
                &format!("a {kind} does not take {command}"),
            );
        }
    }
    let hint = "hint: `circuit peek` shows what is there, `circuit scrub` removes it";
    for command in ["mk@join", "mk@leave"] {
        fails(
            &format!("{command} /one/j"),
            &format!("occupied by a @join\n{hint}"),
        );
        fails(
            &format!("{command} /"),
            "the root holds no element: name a server, as in /X…/name",
        );
        fails(
            &format!("{command} /one"),
            "occupied by a server\nhint: name an anchor below the server's own, as in /X…/name",
        );
    }
    fails("recv /one", "a server does not take recv");
    fails("recv /one/nothing", "nothing there");
    // Nothing of that was an event.
    assert_eq!(one.peek("/one/l")["Pending"], 0);
}
