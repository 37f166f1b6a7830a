//! Replacing instances: what a new version that is broken must not do, and what callers must not notice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Events, count, make, marked, pid, script, slot, with};
use crate::support::{Home, Server, eventually, lives};

fn update(server: &Server, definition: &Value) -> crate::support::Circuit {
    let update = server.circuit("mksvc -update /one/a");
    update.stdin(definition.to_string())
}

fn pids(server: &Server) -> Vec<i64> {
    let status = server.peek("/one/a");
    let slots = status["Slots"].as_array().unwrap();
    slots.iter().map(pid).collect()
}

fn start(home: &Home) -> Server {
    home.circuit("start -a 127.0.0.1:0 -name one -var var")
        .serve()
}

#[test]
fn a_broken_new_version_halts_and_the_old_ones_stay_and_it_never_completes_by_itself() {
    let home = Home::new();
    let mut one = start(&home);
    let good = with(
        script("exec sleep 1000"),
        json!({ "Instances": 3, "Surge": true, "Backoff": { "First": 0.02, "Most": 0.02 } }),
    );
    make(&one, "/one/a", &good);
    let before = pids(&one);
    let broken = with(
        good.clone(),
        json!({ "Args": ["-c", "echo broken; exit 8"] }),
    );
    let updated = update(&one, &broken).any_stderr().status(1).run();
    let stderr = "circuit: /one/a: slot 1: exit status 8\n  broken\n";
    assert_eq!(updated.stderr(), stderr);
    let halted = |server: &Server| {
        let status = server.until("/one/a", |status| status["Rolling"]["Halted"].is_string());
        assert_eq!(
            status["Rolling"],
            json!({ "Halted": "slot 1: exit status 8" })
        );
        assert_eq!(
            (&status["Generation"], &status["Previous"]),
            (&json!(2), &json!(1))
        );
        status
    };
    assert_eq!(halted(&one)["Ready"], 3);
    assert_eq!(pids(&one), before);
    // One that ends is started again as it was, also in the next life.
    one.circuit("signal KILL /one/a/2").run();
    let was = before[1];
    one.until("/one/a", |status| {
        status["Ready"] == 3 && status["Slots"][1]["Pid"] != was
    });
    assert_eq!(halted(&one)["Slots"][1]["Generation"], 1);
    one.signal(Signal::KILL);
    one.exit_status();
    let one = start(&home);
    assert_eq!(halted(&one)["Ready"], 3);
    let pid = pids(&one)[2];
    one.circuit("signal KILL /one/a/3").run();
    one.until("/one/a", |status| {
        status["Ready"] == 3 && status["Slots"][2]["Pid"] != pid
    });
    let status = halted(&one);
    for slot in status["Slots"].as_array().unwrap() {
        assert_eq!(slot["Generation"], 1, "{status}");
    }
    // The next update supersedes it.
    let better = with(good, json!({ "Args": ["-c", "exec sleep 999"] }));
    update(&one, &better).run();
    let status = one.peek("/one/a");
    assert_eq!(
        (&status["Rolling"], &status["Ready"]),
        (&Value::Null, &json!(3))
    );
    one.circuit("scrub /one/a").run();
    assert_eq!(marked(&home), []);
}

#[test]
fn without_surge_the_slot_goes_back_to_what_it_last_ran_ready() {
    let home = Home::new();
    let one = home.start("one");
    let good = with(script("exec sleep 1000"), json!({ "Instances": 2 }));
    make(&one, "/one/a", &good);
    let before = pids(&one);
    let never = json!({
        "Args": ["-c", "exec sleep 999"],
        "Ready": { "Command": ["false"], "Every": 0.05, "Deadline": 0.3 },
    });
    let updated = update(&one, &with(good, never))
        .any_stderr()
        .status(1)
        .run();
    let stderr = "circuit: /one/a: slot 1: not ready in 0.3 s\n";
    assert_eq!(updated.stderr(), stderr);
    let status = one.until("/one/a", |status| status["Ready"] == 2);
    assert_eq!(
        status["Rolling"],
        json!({ "Halted": "slot 1: not ready in 0.3 s" })
    );
    assert_eq!(status["Slots"][0]["Generation"], 1);
    assert_eq!(pids(&one)[1], before[1]);
    assert!(!lives(before[0]));
}

/// A service of two instances, of which none becomes ready while there is a file `hold`.
fn held_back() -> Value {
    let more = json!({
        "Instances": 2, "Surge": true,
        "Ready": { "Command": ["sh", "-c", "test ! -e hold"], "Every": 0.05 },
    });
    with(script("exec sleep 1000"), more)
}

#[test]
fn a_person_ends_a_roll_with_the_next_word() {
    let home = Home::new();
    let one = home.start("one");
    make(&one, "/one/a", &held_back());
    home.write("hold", "");
    let restart = one.circuit("restart /one/a").spawn();
    one.until("/one/a", |status| status["Rolling"].is_string());
    one.circuit("down /one/a").run();
    let restart = restart.finish();
    assert_eq!(restart.status.code(), Some(1));
    assert_eq!(restart.stderr(), "circuit: /one/a: superseded by down\n");
    assert_eq!(marked(&home), []);
}

#[test]
fn a_client_that_is_killed_while_it_watches_changes_nothing() {
    let home = Home::new();
    let one = home.start("one");
    make(&one, "/one/a", &held_back());
    let before = pids(&one);
    home.write("hold", "");
    let mut killed = one.circuit("restart /one/a").spawn();
    one.until("/one/a", |status| status["Rolling"].is_string());
    killed.kill();
    let interrupted = one.circuit("restart /one/a").status(130).spawn();
    one.is_executing(&["watch-intent"]);
    interrupted.signal(Signal::INT);
    assert_eq!(interrupted.finish().stderr(), "circuit: /one/a: goes on\n");
    let timed = one.circuit("restart -timeout 0.1 /one/a");
    timed.stderr("circuit: /one/a: goes on\n").status(1).run();
    assert!(before.iter().all(|pid| lives(*pid)));
    std::fs::remove_file(home.file("hold")).unwrap();
    one.until("/one/a", |status| {
        status["Rolling"].is_null() && status["Ready"] == 2
    });
    assert!(before.iter().all(|pid| !lives(*pid)));
    // The commands that ask whether they are ready have marks with a fourth part.
    let is_instance = |mark: &String| mark.split('.').count() == 3;
    let instances = marked(&home)
        .into_iter()
        .filter(|(_, mark)| is_instance(mark));
    assert_eq!(instances.count(), 2);
}

/// Serves each connection of the first socket a line, and ends in order.
const SERVE: &str = "import os, signal, socket\n\
    s = socket.socket(fileno=3)\n\
    ends = []\n\
    signal.signal(signal.SIGTERM, lambda *_: ends.append(1))\n\
    n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
    n.connect(os.environ['NOTIFY_SOCKET'])\n\
    s.settimeout(0.02)\n\
    n.send(b'READY=1')\n\
    while not ends:\n\
    \x20   try: c, _ = s.accept()\n\
    \x20   except TimeoutError: continue\n\
    \x20   c.settimeout(5)\n\
    \x20   c.recv(1)\n\
    \x20   c.sendall(str(os.getpid()).encode())\n\
    \x20   c.close()\n";

#[test]
fn a_thousand_connections_over_ten_rolling_restarts_see_no_error() {
    let home = Home::new();
    let one = home.start("one");
    let events = Events::of(&one);
    let definition = json!({
        "Path": "python3", "Args": ["-c", SERVE], "Instances": 2, "Parallel": 2,
        "Ready": { "Notify": true },
        "Sockets": [{ "Name": "web", "Listen": "127.0.0.1:0" }],
    });
    make(&one, "/one/a", &definition);
    let address = one.peek("/one/a")["Sockets"][0]["Address"].clone();
    let address = address.as_str().unwrap().to_owned();
    let (done, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let askers: Vec<_> = (0..4)
        .map(|_| {
            let (done, asked, address) = (done.clone(), asked.clone(), address.clone());
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) || asked.load(Ordering::Relaxed) < 1000 {
                    let mut stream = TcpStream::connect(&address).unwrap();
                    let patience = Some(Duration::from_secs(10));
                    stream.set_read_timeout(patience).unwrap();
                    stream.write_all(b"?").unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    answer.parse::<i32>().unwrap();
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..10 {
        one.circuit("restart /one/a").run();
    }
    done.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.join().unwrap();
    }
    let told = events.until("all are ready", |events| count(events, "ready") == 22);
    assert_eq!(count(&told, "backoff"), 0);
    // What is ready is never less than what was.
    let mut ready = 0;
    for event in &told {
        match event["Event"].as_str().unwrap() {
            "ready" => ready += 1,
            "stopping" => {
                ready -= 1;
                assert!(ready >= 2, "{event}");
            }
            _ => (),
        }
    }
}

#[test]
fn a_service_is_up_again_while_an_instance_that_has_its_sockets_still_ends() {
    let home = Home::new();
    let one = home.start("one");
    let events = Events::of(&one);
    // It goes on serving until the file is there.
    let drains = SERVE.replace("while not ends:", "while not os.path.exists('go'):");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = free.local_addr().unwrap().to_string();
    drop(free);
    let definition = json!({
        "Path": "python3", "Args": ["-c", drains], "Ready": { "Notify": true },
        "Sockets": [{ "Name": "web", "Listen": listen }], "Stop": { "Seconds": 60 },
    });
    make(&one, "/one/a", &definition);
    let before = one.peek("/one/a")["Sockets"].clone();
    one.circuit("down -nowait /one/a").run();
    events.until("it ends", |events| count(events, "stopping") == 1);
    assert_eq!(one.peek("/one/a")["Sockets"], json!([]));
    one.circuit("up -nowait /one/a").run();
    assert_eq!(one.peek("/one/a")["Sockets"], before);
    home.write("go", "");
    one.circuit("wait -ready /one/a").run();
}

#[test]
fn an_instance_of_its_greatest_age_is_replaced_and_that_is_no_failure() {
    let home = Home::new();
    let one = home.start("one");
    let events = Events::of(&one);
    let aging = json!({ "MaxAge": 0.4, "Instances": 2, "Surge": true });
    make(&one, "/one/a", &with(script("exec sleep 1000"), aging));
    let events = events.until("two were replaced", |events| count(events, "exit") >= 4);
    let mut ends = events.iter().filter(|event| event["Event"] == "exit");
    assert!(ends.all(|event| event["Why"] == "max age"), "{events:?}");
    assert_eq!(count(&events, "backoff"), 0);
    assert_eq!(slot(&one, "/one/a", 1)["Failures"], 0);
}

#[test]
fn the_memory_of_all_processes_counts_and_not_of_the_main_one_alone() {
    let home = Home::new();
    let one = home.start("one");
    let child = "import time\nheld = bytearray(b'x' * (64 << 20))\ntime.sleep(1000)\n";
    let more = json!({ "MaxMemory": 48 << 20, "AddEnv": [format!("CHILD={child}")] });
    make(
        &one,
        "/one/a",
        &with(script("python3 -c \"$CHILD\" & wait"), more),
    );
    let before = pid(&slot(&one, "/one/a", 1));
    eventually("it is replaced", || (!lives(before)).then_some(()));
    let status = one.until("/one/a", |status| status["Ready"] == 1);
    assert_eq!(status["Slots"][0]["Last"]["Why"], "max memory");
}

#[test]
fn many_restarts_at_once_leave_one_instance_in_each_slot() {
    let home = Home::new();
    let one = home.start("one");
    let more = json!({ "Instances": 3, "Surge": true, "Parallel": 3 });
    make(&one, "/one/a", &with(script("exec sleep 1000"), more));
    for _ in 0..8 {
        one.circuit("restart -nowait /one/a").run();
    }
    one.circuit("restart /one/a").run();
    one.until("/one/a", |status| {
        let slots = status["Slots"].as_array().unwrap();
        status["Rolling"].is_null() && slots.iter().all(|slot| slot["Old"] == json!([]))
    });
    assert_eq!(marked(&home).len(), 3);
    assert_eq!(one.ls("/one/a/...").len(), 3);
}
