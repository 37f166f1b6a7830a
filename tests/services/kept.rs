//! What outlives a server that is killed at any moment: what people wanted, and one instance in each slot. And
//! what outlives harm to the retained output.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{make, marked, number, pid, script, slot, with};
use crate::support::{Home, Server, eventually, lives};

fn start(home: &Home) -> Server {
    home.circuit("start -a 127.0.0.1:0 -name one -var var")
        .serve()
}

/// Random numbers that depend on the seed alone (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// What was acknowledged of a service: whether it is up, and its number of slots.
type Model = BTreeMap<String, (bool, u64)>;

/// A command, and what it makes of the model.
fn step(random: &mut Random, model: &Model) -> (String, String, Model) {
    let name = ["a", "b"][usize::try_from(random.below(2)).unwrap()];
    let mut after = model.clone();
    let mut stdin = String::new();
    let line = match (model.get(name), random.below(5)) {
        (None, _) => {
            let instances = 1 + random.below(3);
            after.insert(name.to_owned(), (true, instances));
            let more = json!({ "Instances": instances, "Stop": { "Seconds": 1 } });
            stdin = with(script("exec sleep 1000"), more).to_string();
            format!("mksvc -nowait /one/{name}")
        }
        (Some((up, slots)), kind) => {
            let now = match kind {
                0 => (true, *slots),
                1 => (false, *slots),
                2 | 3 => (*up, random.below(4)),
                _ => (*up, *slots),
            };
            after.insert(name.to_owned(), now);
            match kind {
                0 => format!("up -nowait /one/{name}"),
                1 => format!("down -nowait /one/{name}"),
                2 | 3 => format!("scale -nowait /one/{name} {}", now.1),
                // Refused while it is down.
                _ => format!("restart -nowait /one/{name}"),
            }
        }
    };
    (line, stdin, after)
}

/// What the server has.
fn found(server: &Server) -> Model {
    let mut found = Model::new();
    for path in server.ls("/one/...") {
        let name = path.rsplit('/').next().unwrap();
        if name.parse::<f64>().is_ok() {
            continue;
        }
        let status = server.peek(&path);
        let slots = status["Service"]["Instances"].as_u64().unwrap();
        found.insert(name.to_owned(), (status["Want"] == "up", slots));
    }
    found
}

#[test]
fn after_kills_at_random_moments_there_is_what_was_acknowledged_once() {
    let seed = std::env::var("CIRCUIT_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) + 1);
    eprintln!("CIRCUIT_SEED={seed}");
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let home = Home::new();
    let mut model = Model::new();
    let mut one = start(&home);
    for _ in 0..20 {
        let moment = Duration::from_millis(random.below(250));
        // The next command is begun until one fails: that one may have been taken or not.
        let server = one.pid();
        let killer = thread::spawn(move || {
            // This is the moment that is drawn.
            thread::sleep(moment);
            let pid = rustix::process::Pid::from_raw(server).unwrap();
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
        });
        let maybe = loop {
            let (line, stdin, after) = step(&mut random, &model);
            let mut command = one.circuit(&line).stdin(stdin).spawn();
            let ended = eventually("the command or the server ends", || {
                let ended = !command.is_running();
                (ended || killer.is_finished()).then_some(ended)
            });
            if !ended {
                // It would go on to look for its server.
                break after;
            }
            let output = command.finish();
            match output.status.success() {
                true => model = after,
                false if output.stderr().contains("is down: up it first") => (),
                false => break after,
            }
        };
        killer.join().unwrap();
        one.exit_status();
        one = start(&home);
        let now = found(&one);
        assert!(
            now == model || now == maybe,
            "{now:?} is neither {model:?} nor {maybe:?}"
        );
        model = now;
    }
    for (name, (up, slots)) in &model {
        let path = format!("/one/{name}");
        let status = eventually("it is as it was wanted", || {
            let status = one.peek(&path);
            let all = status["Slots"].as_array().unwrap();
            let is_so = all.len() as u64 == *slots
                && all.iter().all(|slot| {
                    let state = if *up { "ready" } else { "down" };
                    slot["State"] == state && slot["Old"] == json!([])
                });
            is_so.then_some(status)
        });
        assert!(status["Rolling"].is_null() || !up, "{status}");
    }
    let wanted = |(up, slots): &(bool, u64)| if *up { *slots } else { 0 };
    let wanted: u64 = model.values().map(wanted).sum();
    let mut pids = Vec::new();
    for (name, (up, _)) in &model {
        let status = one.peek(&format!("/one/{name}"));
        let slots = status["Slots"].as_array().unwrap();
        pids.extend(slots.iter().filter(|_| *up).map(pid));
    }
    pids.sort_unstable();
    assert_eq!(pids.len() as u64, wanted, "{model:?}");
    // One whose start was not recorded yet is in no slot. It is killed meanwhile.
    eventually("nobody else is left", || {
        let all: Vec<i64> = marked(&home).into_iter().map(|(pid, _)| pid).collect();
        (all == pids).then_some(())
    });
    // None is left once all is forgotten.
    for name in model.keys() {
        one.circuit(format!("scrub /one/{name}")).run();
    }
    assert_eq!(marked(&home), []);
    assert!(one.stop().success());
    let one = start(&home);
    assert!(one.ls("/one/...").is_empty());
}

#[test]
fn a_child_of_a_wrapper_that_ends_between_two_lives_is_not_left_beside_a_new_one() {
    let home = Home::new();
    let mut one = start(&home);
    let wrapper = "(setsid sh -c 'mkdir lock || echo beside another; trap \"rmdir lock; exit\" TERM
            while :; do sleep 0.02; done' &)
        while [ ! -d lock ]; do sleep 0.01; done; echo begun; exec sleep 1000";
    make(&one, "/one/a", &script(wrapper));
    let running = pid(&slot(&one, "/one/a", 1));
    one.signal(Signal::KILL);
    one.exit_status();
    let main = rustix::process::Pid::from_raw(running.try_into().unwrap()).unwrap();
    rustix::process::kill_process(main, Signal::KILL).unwrap();
    eventually("it has gone", || (!lives(running)).then_some(()));
    let left = marked(&home);
    assert!(!left.is_empty());
    let one = start(&home);
    one.until("/one/a", |status| status["Ready"] == 1);
    let follower = one.circuit("logs -follow -stdout /one/a").spawn();
    follower.prints("begun\nbegun\n");
    assert!(left.iter().all(|(pid, _)| !lives(*pid)));
    one.circuit("scrub /one/a").run();
    assert_eq!(marked(&home), []);
}

/// A program that writes over its environment, as those do that write their title there (redis): its mark
/// cannot be read any more.
fn overwrites() -> Value {
    let overwrite = "import ctypes, time\n\
        start, end = map(int, open('/proc/self/stat').read().rsplit(')', 1)[1].split()[47:49])\n\
        ctypes.memset(start, 0, end - start)\n\
        open('over', 'w').close()\n\
        time.sleep(1000)\n";
    json!({
        "Path": "python3", "Args": ["-c", overwrite],
        "Ready": { "Command": ["test", "-e", "over"], "Every": 0.05 },
    })
}

#[test]
fn a_program_whose_environment_is_overwritten_is_adopted_and_not_doubled() {
    let home = Home::new();
    let mut one = start(&home);
    let definition = overwrites();
    make(&one, "/one/a", &definition);
    let running = pid(&slot(&one, "/one/a", 1));
    let environ = std::fs::read(format!("/proc/{running}/environ")).unwrap();
    assert!(environ.iter().all(|byte| *byte == 0), "it is overwritten");
    one.signal(Signal::KILL);
    one.exit_status();
    let one = start(&home);
    let adopted = slot(&one, "/one/a", 1);
    assert_eq!(
        (pid(&adopted), &adopted["Adopted"]),
        (running, &json!(true))
    );
    one.circuit("down /one/a").run();
    assert!(!lives(running));
}

#[test]
fn a_server_that_is_killed_while_it_stops_goes_on_stopping() {
    let home = Home::new();
    let mut one = start(&home);
    let slow = "trap 'echo asked > asked; while [ ! -e go ]; do sleep 0.02; done; exit' TERM
        while :; do sleep 0.02; done";
    make(&one, "/one/a", &script(slow));
    make(&one, "/one/b", &script(slow));
    let running = ["a", "b"].map(|name| pid(&slot(&one, &format!("/one/{name}"), 1)));
    one.circuit("down -nowait /one/a").run();
    eventually("it is asked to stop", || {
        home.file("asked").exists().then_some(())
    });
    let mut scrub = one.circuit("scrub /one/b").any_stderr().spawn();
    one.until("/one/b", |status| status["Want"] == "scrubbed");
    one.signal(Signal::KILL);
    one.exit_status();
    scrub.exit_status();
    let one = start(&home);
    assert!(running.iter().all(|pid| lives(*pid)));
    home.write("go", "");
    one.until("/one/a", |status| status["Slots"][0]["State"] == "down");
    eventually("the other is forgotten", || {
        let left = one.ls("/one/...");
        let gone = |path: &String| !path.ends_with("/b") && !path.ends_with("/b/1");
        left.iter().all(gone).then_some(())
    });
    eventually("both have ended", || marked(&home).is_empty().then_some(()));
}

#[test]
fn output_goes_on_after_its_file_was_deleted() {
    let home = Home::new();
    let one = start(&home);
    let talk = "echo first; trap 'echo again' USR1; while :; do sleep 0.02; done";
    make(&one, "/one/a", &script(talk));
    let followers = [(); 2].map(|()| one.circuit("logs -follow /one/a").spawn());
    for follower in &followers {
        follower.prints("first\n");
    }
    let mut deleted = 0;
    let mut dirs = vec![home.file("var/logs")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            } else if kind.is_file() {
                std::fs::remove_file(entry.path()).unwrap();
                deleted += 1;
            }
        }
    }
    assert!(deleted > 0);
    one.circuit("signal USR1 /one/a").run();
    for follower in &followers {
        follower.shows("again\n");
    }
    one.circuit("logs -follow /one/a").spawn().shows("again\n");
    assert_eq!(slot(&one, "/one/a", 1)["State"], "ready");
    one.circuit("scrub /one/a").run();
}

#[test]
fn a_flood_of_output_blocks_no_child_and_what_is_missing_is_said() {
    let home = Home::new();
    let one = home.start("one");
    let flood = "seq 1 300000; echo done > flooded; exec sleep 1000";
    let more = json!({ "Log": { "Bytes": 262_144 } });
    make(&one, "/one/a", &with(script(flood), more));
    eventually("it is through", || {
        home.file("flooded").exists().then_some(())
    });
    let follower = one.circuit("logs -follow -n 1 /one/a").spawn();
    follower.shows("300000\n");
    let log = &one.peek("/one/a")["Log"];
    assert!(log["Bytes"].as_u64().unwrap() <= 300_000, "{log}");
}

#[test]
fn an_adopted_instance_is_heard_and_a_watchdog_that_falls_silent_is_replaced() {
    let home = Home::new();
    let mut one = start(&home);
    let say = "import os, socket, time\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        while True:\n\
        \x20   status = 'again' if os.path.exists('again') else 'first'\n\
        \x20   text = f'WATCHDOG=1\\nSTATUS={status}'.encode()\n\
        \x20   try:\n\
        \x20       if not os.path.exists('silent'): s.sendto(text, os.environ['NOTIFY_SOCKET'])\n\
        \x20   except OSError: pass\n\
        \x20   time.sleep(0.05)\n";
    let definition = json!({
        "Path": "python3", "Args": ["-c", say], "Ready": { "Up": 0.05 },
        "Alive": { "Notify": true, "Every": 1 },
    });
    make(&one, "/one/a", &definition);
    let says = |server: &Server, text: &str| {
        server.until("/one/a", |status| status["Slots"][0]["Status"] == text)
    };
    let running = pid(&says(&one, "first")["Slots"][0]);
    one.signal(Signal::KILL);
    one.exit_status();
    home.write("again", "");
    let one = start(&home);
    assert_eq!(pid(&says(&one, "again")["Slots"][0]), running);
    home.write("silent", "");
    eventually("it is ended", || (!lives(running)).then_some(()));
    std::fs::remove_file(home.file("silent")).unwrap();
    let status = one.until("/one/a", |status| {
        let slot = &status["Slots"][0];
        slot["Status"] == "again" && slot["Pid"].is_number() && slot["Pid"] != running
    });
    assert_eq!(status["Slots"][0]["Last"]["Why"], "alive");
    one.circuit("scrub /one/a").run();
}

#[test]
fn readiness_that_is_said_between_two_lives_is_not_lost() {
    let home = Home::new();
    let mut one = start(&home);
    let say = "echo $$ > begun; while [ ! -e go ]; do sleep 0.02; done; echo >&9; exec sleep 1000";
    let definition = with(script(say), json!({ "Ready": { "NotifyFd": 9 } }));
    let made = one.circuit("mksvc -nowait /one/a");
    made.stdin(definition.to_string()).run();
    let running = number(&home, "begun");
    one.signal(Signal::KILL);
    one.exit_status();
    home.write("go", "");
    let one = start(&home);
    one.circuit("wait -ready /one/a").run();
    assert_eq!(pid(&slot(&one, "/one/a", 1)), running);
    one.circuit("scrub /one/a").run();
}

#[test]
fn a_program_whose_environment_is_overwritten_is_not_left_behind_without_a_directory() {
    let home = Home::new();
    let mut one = home.start("one");
    make(&one, "/one/a", &overwrites());
    let running = pid(&slot(&one, "/one/a", 1));
    one.signal(Signal::KILL);
    one.exit_status();
    assert!(lives(running));
    let _two = home.start("two");
    eventually("it is ended", || (!lives(running)).then_some(()));
}

#[test]
fn children_are_found_where_another_reaper_than_init_has_them() {
    let home = Home::new();
    // The manager of a user's session is such a one: it has the orphans of a server that was killed.
    let manager = "import ctypes, subprocess, sys\n\
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n\
        while True: subprocess.run(sys.argv[1:])\n";
    let manager = home
        .program("python3", "-c")
        .arg(manager)
        .arg(env!("CARGO_BIN_EXE_circuit"));
    let line = ["start", "-a", "127.0.0.1:0", "-name", "one", "-var", "var"];
    let manager = line.iter().fold(manager, |manager, word| manager.arg(word));
    let one = manager.serve();
    let hide = "(setsid sh -c 'trap \"\" TERM; echo $$ > child; exec sleep 1000' &)
        exec sleep 1000";
    let stop = json!({ "Stop": { "Seconds": 0.2 } });
    let make = home.circuit(format!("mksvc -d {} /one/a", one.url()));
    make.stdin(with(script(hide), stop).to_string()).run();
    let child = number(&home, "child");
    let server = one.url().server.unwrap().pid;
    let server = rustix::process::Pid::from_raw(server.try_into().unwrap()).unwrap();
    rustix::process::kill_process(server, Signal::KILL).unwrap();
    eventually("the next life has adopted it", || {
        let peek = home.circuit("peek /one/a").any_stdout().any_stderr();
        let peek = peek.unchecked();
        let status = peek.status.success().then(|| peek.json())?;
        (status["Slots"][0]["Adopted"] == true).then_some(())
    });
    home.circuit("down /one/a").run();
    assert!(!lives(child));
}
