//! What follows an end: restarts, their pauses, and when they are given up.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Events, count, make, pid, script, slot, with};
use crate::support::{Home, eventually, lives};

fn delays(events: &[Value]) -> Vec<f64> {
    let backoff = events.iter().filter(|event| event["Event"] == "backoff");
    backoff
        .map(|event| event["Delay"].as_f64().unwrap())
        .collect()
}

#[test]
fn pauses_grow_to_their_bound_so_that_no_restart_storms() {
    let home = Home::new();
    let one = home.start("one");
    let events = Events::of(&one);
    let backoff = json!({ "Backoff": { "First": 0.1, "Most": 0.3, "Tries": 7 } });
    let begin = Instant::now();
    one.circuit("mksvc -nowait /one/a")
        .stdin(with(script("exit 3"), backoff).to_string())
        .run();
    let events = events.until("it is given up", |events| count(events, "failed") == 1);
    let took = begin.elapsed().as_secs_f64();
    let delays = delays(&events);
    assert_eq!(delays.len(), 6, "{delays:?}");
    for (delay, expected) in delays.iter().zip([0.0, 0.1, 0.2, 0.3, 0.3, 0.3]) {
        assert!(
            (delay - expected).abs() <= 0.2 * expected + 0.001,
            "{delays:?}"
        );
    }
    assert!(took >= delays.iter().sum::<f64>(), "{took}: {delays:?}");
    assert_eq!(count(&events, "spawn"), 7);
    let given_up = slot(&one, "/one/a", 1);
    assert_eq!(given_up["Failures"], 7);
    assert_eq!(given_up["Last"]["Code"], 3);
}

#[test]
fn failures_are_forgotten_once_it_is_steady_and_not_before() {
    let home = Home::new();
    let one = home.start("one");
    let steady = with(
        script("[ -e well ] || exit 1; exec sleep 1000"),
        json!({ "Backoff": { "First": 0.05, "Most": 0.1, "Steady": 0.4 } }),
    );
    one.circuit("mksvc -nowait /one/a")
        .stdin(steady.to_string())
        .run();
    one.until("/one/a", |status| {
        status["Slots"][0]["Failures"].as_u64().unwrap() >= 3
    });
    home.write("well", "");
    let ready = one.until("/one/a", |status| status["Ready"] == 1);
    // Ready, and not yet steady: the next end is one more in the row.
    let failures = ready["Slots"][0]["Failures"].as_u64().unwrap();
    assert!(failures >= 3, "{failures}");
    let steady = one.until("/one/a", |status| status["Slots"][0]["Failures"] == 0);
    let before = pid(&steady["Slots"][0]);
    one.circuit("signal KILL /one/a").run();
    let after = one.until("/one/a", |status| {
        status["Ready"] == 1 && status["Slots"][0]["Pid"] != before
    });
    assert!(after["Slots"][0]["Failures"].as_u64().unwrap() <= 1);
}

#[test]
fn a_slot_that_is_given_up_starts_when_a_person_says_so() {
    let home = Home::new();
    let one = home.start("one");
    let definition = with(
        script("[ -e well ] || exit 1; exec sleep 1000"),
        json!({ "Backoff": { "First": 0.02, "Tries": 2 } }),
    );
    let made = one.circuit("mksvc /one/a").stdin(definition.to_string());
    made.stderr("circuit: /one/a: slot 1: exit status 1\n")
        .status(1)
        .run();
    one.until("/one/a", |status| status["Slots"][0]["State"] == "failed");
    // Those who wait for its end are told.
    one.circuit("wait /one/a")
        .any_stdout()
        .any_stderr()
        .unchecked();
    home.write("well", "");
    one.circuit("up /one/a").run();
    let slot = slot(&one, "/one/a", 1);
    assert_eq!(
        (&slot["State"], &slot["Failures"]),
        (&json!("ready"), &json!(0))
    );
}

#[test]
fn a_persons_start_is_refused_by_nobody_and_clears_the_pause() {
    let home = Home::new();
    let one = home.start("one");
    let definition = with(
        script("[ -e well ] || exit 1; exec sleep 1000"),
        json!({ "Backoff": { "First": 60 } }),
    );
    one.circuit("mksvc -nowait /one/a")
        .stdin(definition.to_string())
        .run();
    let paused = |status: &Value| status["Slots"][0]["State"] == "backoff";
    for _ in 0..5 {
        let status = one.until("/one/a", paused);
        let next = status["Slots"][0]["Next"].as_f64().unwrap();
        assert!(next > 40.0, "{next}");
        one.circuit("up -nowait /one/a").run();
    }
    let status = one.until("/one/a", paused);
    assert!(
        status["Slots"][0]["Starts"].as_u64().unwrap() >= 6,
        "{status}"
    );
    home.write("well", "");
    one.circuit("restart /one/a").run();
    assert_eq!(slot(&one, "/one/a", 1)["State"], "ready");
}

#[test]
fn what_a_person_stops_is_no_failure() {
    let home = Home::new();
    let one = home.start("one");
    let events = Events::of(&one);
    // Whatever its exit code, and long before it is steady.
    let angry = "trap 'exit 9' TERM; while :; do sleep 0.02; done";
    make(
        &one,
        "/one/a",
        &with(script(angry), json!({ "Backoff": { "Tries": 2 } })),
    );
    for _ in 0..3 {
        one.circuit("restart /one/a").run();
    }
    one.circuit("down /one/a").run();
    one.circuit("up /one/a").run();
    one.circuit("scale /one/a 2").run();
    one.circuit("scale /one/a 1").run();
    assert_eq!(slot(&one, "/one/a", 1)["Failures"], 0);
    let events = events.until("all have ended", |events| count(events, "exit") == 5);
    assert_eq!(count(&events, "backoff"), 0);
    assert_eq!(count(&events, "failed"), 0);
}

#[test]
fn codes_say_what_follows() {
    let home = Home::new();
    let one = home.start("one");
    let check = |name: &str, text: &str, more: Value, expected: &str| {
        let path = format!("/one/{name}");
        let made = one.circuit(format!("mksvc -nowait {path}"));
        made.stdin(with(script(text), more).to_string()).run();
        let state = |status: &Value| status["Slots"][0]["State"] == expected;
        let status = one.until(&path, state);
        assert_eq!(status["Slots"][0]["Starts"], 1, "{status}");
    };
    let failure = |codes: Value| json!({ "Restart": "failure", "OkCodes": codes });
    check(
        "done",
        "exit 0",
        json!({ "Restart": "failure" }),
        "finished",
    );
    check("other", "exit 7", failure(json!([0, 7])), "finished");
    check("once", "exit 0", json!({ "Restart": "never" }), "finished");
    check("wrong", "exit 4", json!({ "Restart": "never" }), "finished");
    check("fatal", "exit 5", json!({ "FatalCodes": [5] }), "failed");
}

#[test]
fn a_start_waits_for_the_command_before_it() {
    let home = Home::new();
    let one = home.start("one");
    let before = json!({
        "Before": ["sh", "-c", "echo before; test -e well"],
        "Backoff": { "First": 0.05, "Most": 0.05 },
    });
    let definition = with(script("echo begun; exec sleep 1000"), before);
    let made = one.circuit("mksvc /one/a").stdin(definition.to_string());
    let made = made.any_stderr().status(1).run();
    let first = "circuit: /one/a: slot 1: the command before the start failed\n";
    assert!(made.stderr().starts_with(first), "{}", made.stderr());
    let failing = one.until("/one/a", |status| {
        status["Slots"][0]["Failures"].as_u64().unwrap() >= 3
    });
    assert_eq!(failing["Slots"][0]["Last"]["Why"], "before failed");
    let logs = one.circuit("logs /one/a").any_stdout().run();
    assert!(!logs.stdout().contains("begun"));
    home.write("well", "");
    one.circuit("wait -ready /one/a").run();
    let logs = one.circuit("logs /one/a").any_stdout().run();
    assert!(
        logs.stdout().ends_with("before\nbegun\n"),
        "{}",
        logs.stdout()
    );
}

#[test]
fn an_instance_that_is_not_alive_is_replaced() {
    let home = Home::new();
    let one = home.start("one");
    let alive = json!({
        "Alive": { "Command": ["test", "!", "-e", "sick"], "Every": 0.05, "Fails": 2 },
    });
    make(&one, "/one/a", &with(script("exec sleep 1000"), alive));
    let before = pid(&slot(&one, "/one/a", 1));
    home.write("sick", "");
    eventually("it is ended", || (!lives(before)).then_some(()));
    std::fs::remove_file(home.file("sick")).unwrap();
    let status = one.until("/one/a", |status| status["Ready"] == 1);
    assert_ne!(pid(&status["Slots"][0]), before);
    assert_eq!(status["Slots"][0]["Last"]["Why"], "alive");
}

#[test]
fn a_watchdog_that_falls_silent_is_replaced() {
    let home = Home::new();
    let one = home.start("one");
    let say = "import os, socket, time\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.connect(os.environ['NOTIFY_SOCKET'])\n\
        s.send(b'STATUS=well')\n\
        while True:\n\
        \x20   if not os.path.exists('silent'): s.send(b'WATCHDOG=1')\n\
        \x20   time.sleep(0.05)\n";
    let definition = json!({
        "Path": "python3", "Args": ["-c", say], "Ready": { "Up": 0.05 },
        "Alive": { "Notify": true, "Every": 1.0 },
    });
    make(&one, "/one/a", &definition);
    let status = one.until("/one/a", |status| status["Slots"][0]["Status"] == "well");
    let before = pid(&status["Slots"][0]);
    home.write("silent", "");
    eventually("it is ended", || (!lives(before)).then_some(()));
    std::fs::remove_file(home.file("silent")).unwrap();
    let status = one.until("/one/a", |status| status["Ready"] == 1);
    assert_eq!(status["Slots"][0]["Last"]["Why"], "alive");
}

#[test]
fn what_cannot_be_executed_says_why() {
    let home = Home::new();
    let one = home.start("one");
    let made = one.circuit("mksvc /one/a").stdin(r#"{"Path": "/no/such"}"#);
    let made = made.any_stderr().status(1).run();
    assert!(
        made.stderr().contains("cannot execute"),
        "{}",
        made.stderr()
    );
    let status = one.until("/one/a", |status| status["Slots"][0]["State"] == "backoff");
    assert_eq!(status["Want"], "up");
    one.circuit("scrub /one/a").run();
}
