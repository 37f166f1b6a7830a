//! Services: what is made, what people want of it, and what they are told.

mod cgroups;
mod kept;
mod lives;
mod readiness;
mod restarts;
mod rolling;
mod trees;

use serde_json::{Value, json};

use crate::support::{Home, Running, Server, eventually, lives};

/// The definition of a service that runs a script.
fn script(text: &str) -> Value {
    json!({ "Path": "/bin/sh", "Args": ["-c", text], "Ready": { "Up": 0.05 } })
}

/// The definition with more fields.
fn with(mut definition: Value, more: Value) -> Value {
    let fields = definition.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    definition
}

fn make(server: &Server, path: &str, definition: &Value) {
    let make = server.circuit(format!("mksvc {path}"));
    make.stdin(definition.to_string()).run();
}

/// The status of a slot.
fn slot(server: &Server, path: &str, slot: usize) -> Value {
    server.peek(path)["Slots"][slot - 1].clone()
}

fn pid(slot: &Value) -> i64 {
    slot["Pid"].as_i64().unwrap()
}

/// The service events of a server, as they come.
struct Events(Running);

impl Events {
    fn of(server: &Server) -> Events {
        server.circuit("mk@svc /one/events").run();
        Events(server.circuit("recv -lines -follow /one/events").spawn())
    }

    /// Waits until these events are there for which `wanted` holds.
    fn until(&self, what: &str, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        eventually(what, || {
            let text = self.0.stdout().text();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let events: Vec<Value> = whole
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            done(&events).then_some(events)
        })
    }
}

/// How many events of this name there are.
fn count(events: &[Value], name: &str) -> usize {
    events.iter().filter(|event| event["Event"] == name).count()
}

/// The living processes of this home that carry the mark of an instance, with their marks.
fn marked(home: &Home) -> Vec<(i64, String)> {
    let own = format!("HOME={}", home.path().display());
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found: Vec<(i64, String)> = all
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let environ = std::fs::read(entry.path().join("environ")).ok()?;
            let environ = String::from_utf8_lossy(&environ).into_owned();
            let mut variables = environ.split('\0');
            let mark = variables.find_map(|it| it.strip_prefix("CIRCUIT_INSTANCE="))?;
            let ours = environ.split('\0').any(|it| it == own);
            (ours && lives(pid)).then(|| (pid, mark.to_owned()))
        })
        .collect();
    found.sort_unstable();
    found
}

/// The number in a file that a process writes.
fn number(home: &Home, file: &str) -> i64 {
    eventually(&format!("{file} has a number"), || {
        let text = std::fs::read_to_string(home.file(file)).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    })
}

#[test]
fn a_service_is_made_and_each_slot_is_an_anchor() {
    let home = Home::new();
    let one = home.start("one");
    make(
        &one,
        "/one/db/web",
        &with(script("exec sleep 1000"), json!({ "Instances": 2 })),
    );
    let listed = one.ls_long("/one/...");
    let kinds: Vec<_> = listed
        .iter()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert_eq!(kinds, ["·", "svc", "slot", "slot"]);
    assert!(listed[1].ends_with("  2/2 ready"), "{}", listed[1]);
    let status = one.peek("/one/db/web");
    assert_eq!(status["Want"], "up");
    assert_eq!(status["Ready"], 2);
    assert_eq!(status["Service"]["Instances"], 2);
    assert_eq!(one.peek("/one/db/web/2")["State"], "ready");
    one.circuit("scrub /one/db/web").run();
    assert!(one.ls("/one/...").is_empty());
}

#[test]
fn the_common_case_needs_no_json() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("mksvc -nowait /one/a --")
        .arg("sleep")
        .arg("1000")
        .run();
    let status = one.peek("/one/a");
    assert_eq!(
        status["Service"],
        json!({ "Path": "sleep", "Args": ["1000"] })
    );
    one.circuit("wait -ready /one/a").run();
    one.circuit("down /one/a").run();
    assert_eq!(slot(&one, "/one/a", 1)["State"], "down");
}

#[test]
fn a_start_that_fails_is_told_with_the_last_lines_of_its_output() {
    let home = Home::new();
    let one = home.start("one");
    let definition = script("echo one; echo two >&2; exit 7");
    let made = one.circuit("mksvc /one/a").stdin(definition.to_string());
    let stderr = "circuit: /one/a: slot 1: exit status 7\n  one\n  two\n";
    made.stderr(stderr).status(1).run();
    let status = one.until("/one/a", |status| status["Slots"][0]["State"] == "backoff");
    assert_eq!(status["Want"], "up");
    assert_eq!(status["Slots"][0]["Last"]["Code"], 7);
    one.circuit("down /one/a").run();
}

#[test]
fn what_is_wanted_takes_effect_and_the_newest_wins() {
    let home = Home::new();
    let one = home.start("one");
    make(&one, "/one/a", &script("exec sleep 1000"));
    let before = pid(&slot(&one, "/one/a", 1));
    one.circuit("restart /one/a").run();
    let after = pid(&slot(&one, "/one/a", 1));
    assert_ne!(before, after);
    assert!(!lives(before));
    one.circuit("scale /one/a +2").stdout("1 -> 3\n").run();
    assert_eq!(one.peek("/one/a")["Ready"], 3);
    one.circuit("scale /one/a 1").run();
    assert_eq!(one.ls("/one/a/...").len(), 1);
    assert_eq!(one.peek("/one/a")["Service"]["Instances"], 1);
    one.circuit("down /one/a").run();
    assert!(!lives(after));
    let refused = "circuit: restart /one/a: a is down: up it first\n";
    one.circuit("restart /one/a")
        .stderr(refused)
        .status(1)
        .run();
    one.circuit("up /one/...").run();
    assert_eq!(one.peek("/one/a")["Ready"], 1);
}

#[test]
fn an_update_replaces_only_instances_whose_process_would_differ() {
    let home = Home::new();
    let one = home.start("one");
    let definition = script("exec sleep 1000");
    make(&one, "/one/a", &definition);
    let before = pid(&slot(&one, "/one/a", 1));
    let update = |definition: &Value| {
        one.circuit("mksvc -update /one/a")
            .stdin(definition.to_string())
            .run();
        pid(&slot(&one, "/one/a", 1))
    };
    let patient = with(definition.clone(), json!({ "Stop": { "Seconds": 3 } }));
    assert_eq!(update(&patient), before);
    let check = one
        .circuit("mksvc -check /one/a")
        .stdin(script("exec sleep 999").to_string());
    check
        .stdout("would change: Args, Stop\nall instances would be replaced\n")
        .run();
    assert_ne!(update(&script("exec sleep 999")), before);
    assert_eq!(one.peek("/one/a")["Generation"], 3);
}

#[test]
fn an_update_in_place_changes_the_signal_that_stops_an_instance() {
    let home = Home::new();
    let one = home.start("one");
    let definition = script("exec sleep 1000");
    make(&one, "/one/a", &definition);
    let before = pid(&slot(&one, "/one/a", 1));
    let stop = json!({ "Stop": { "Signal": "USR1" } });
    one.circuit("mksvc -update /one/a")
        .stdin(with(definition, stop).to_string())
        .run();
    assert_eq!(pid(&slot(&one, "/one/a", 1)), before);
    one.circuit("down /one/a").run();
    assert_eq!(slot(&one, "/one/a", 1)["Last"]["Signal"], "SIGUSR1");
}

#[test]
fn one_who_waits_goes_on_waiting_while_later_intents_are_reached() {
    let home = Home::new();
    let one = home.start("one");
    let more = json!({
        "Reload": { "Signal": "CONT" },
        "Ready": { "Command": ["sh", "-c", "test -e well"], "Every": 0.05 },
    });
    let made = one
        .circuit("mksvc /one/a")
        .stdin(with(script("exec sleep 1000"), more).to_string())
        .spawn();
    one.is_executing(&["watch-intent"]);
    one.circuit("reload /one/a").run();
    home.write("well", "");
    let made = made.finish();
    assert_eq!((made.stderr(), made.status.code()), ("", Some(0)));
}

#[test]
fn a_slot_takes_what_makes_sense_for_it_and_says_so_of_the_rest() {
    let home = Home::new();
    let one = home.start("one");
    make(
        &one,
        "/one/a",
        &script("trap 'echo got usr1' USR1; while :; do sleep 0.05; done"),
    );
    one.circuit("signal USR1 /one/a/1").run();
    one.circuit("logs -follow /one/a/1")
        .spawn()
        .prints("got usr1\n");
    let check = |line: &str, stderr: &str| {
        one.circuit(line)
            .stderr(format!("circuit: {stderr}\n"))
            .status(1)
            .run();
    };
    check(
        "up /one/a/1",
        "up /one/a/1: a slot does not take up: it is for the whole service, a",
    );
    check(
        "scrub /one/a/1",
        "scrub /one/a/1: a slot goes with its service: scale a instead",
    );
    check(
        "stdout /one/a",
        "stdout /one/a: a service does not take stdout: its output is retained: read it with logs",
    );
    check(
        "reload /one/a",
        "reload /one/a: a has no Reload in its definition: there is nothing to do",
    );
    one.circuit("scrub /one/a").run();
}

#[test]
fn nothing_is_made_below_a_service_nor_a_service_above_something() {
    let home = Home::new();
    let one = home.start("one");
    let hint = "hint: `circuit peek` shows what is there, `circuit scrub` removes it\n";
    make(&one, "/one/a", &script("exec sleep 1000"));
    let stderr = format!("circuit: mkchan /one/a/b: occupied: it is below a service, a\n{hint}");
    one.circuit("mkchan /one/a/b 1")
        .stderr(stderr)
        .status(1)
        .run();
    one.circuit("mkchan /one/c/d 1").run();
    let stderr = format!("circuit: mksvc /one/c: occupied: there are elements below it\n{hint}");
    let made = one
        .circuit("mksvc /one/c")
        .stdin(script("exit 0").to_string());
    made.stderr(stderr).status(1).run();
}

#[test]
fn wrong_definitions_are_refused_by_field() {
    let home = Home::new();
    let one = home.start("one");
    let check = |definition: Value, expected: &str| {
        let made = one.circuit("mksvc /one/a").stdin(definition.to_string());
        let made = made.any_stderr().status(1).run();
        let first = made.stderr().lines().next().unwrap().to_owned();
        assert!(first.contains(expected), "{first}");
        assert!(one.ls("/one/...").is_empty());
    };
    check(json!({}), "the definition has no Path");
    check(json!({ "Path": "x", "Pth": 1 }), "unknown field \"Pth\"");
    check(
        json!({ "Path": "x", "Stop": { "After": 1 } }),
        "unknown field `After`",
    );
    check(
        json!({ "Path": "x", "Announce": "web" }),
        "Announce is not yet supported",
    );
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap();
    let sockets = json!([{ "Name": "web", "Listen": address.to_string() }]);
    check(
        json!({ "Path": "x", "Sockets": sockets }),
        &format!("cannot listen on {address}: address already in use"),
    );
}

#[test]
fn an_instance_finds_itself_and_its_sockets_in_its_environment() {
    let home = Home::new();
    let one = home.start("one");
    let env = "echo $CIRCUIT_PATH $CIRCUIT_SLOT $LISTEN_FDS $LISTEN_FDNAMES $A; \
               [ $LISTEN_PID = $$ ] && echo mine; [ -S /proc/self/fd/3 ] && echo socket; exec sleep 1000";
    let more = json!({
        "Sockets": [{ "Name": "web", "Listen": "127.0.0.1:0" }],
        "AddEnv": ["A=slot-{slot}"],
    });
    make(&one, "/one/a", &with(script(env), more));
    let expected = format!("/{}/a/1 1 1 web slot-1\nmine\nsocket\n", one.id());
    one.circuit("logs /one/a").stdout(expected).run();
}

#[test]
fn events_are_told_in_order() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("mk@svc /one/events").run();
    make(&one, "/one/a", &script("exec sleep 1000"));
    one.circuit("down /one/a").run();
    let received = one
        .circuit("recv -lines -count 6 /one/events")
        .any_stdout()
        .run();
    let events: Vec<Value> = received
        .stdout()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<_> = events
        .iter()
        .map(|event| event["Event"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["up", "spawn", "ready", "down", "stopping", "exit"]);
    assert_eq!(events[5]["Exit"], "signal: terminated");
    assert_eq!(events[1]["Path"], format!("/{}/a", one.id()));
}

#[test]
fn retained_output_has_many_readers_and_says_where_it_is_from() {
    let home = Home::new();
    let one = home.start("one");
    let talk = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; exec sleep 1000";
    make(&one, "/one/a", &script(talk));
    make(
        &one,
        "/one/b",
        &script("printf 'raw \\377\\n'; exec sleep 1000"),
    );
    one.circuit("logs -stdout /one/a")
        .stdout("out 1\nout 2\nout 3\n")
        .run();
    one.circuit("logs -stderr -n 1 /one/a")
        .stdout("err 3\n")
        .run();
    let json = one.circuit("logs -json /one/b").any_stdout().run().json();
    assert_eq!(json["Base64"], "cmF3IP8=");
    assert_eq!(json["Stream"], "stdout");
    let merged = one.circuit("logs -stdout /one/a /one/b").any_stdout().run();
    assert!(merged.stdout.starts_with(b"/one/a: out 1\n"));
    let followers = [(); 2].map(|()| one.circuit("logs -follow -stdout /one/a").spawn());
    for follower in &followers {
        follower.prints("out 1\nout 2\nout 3\n");
    }
    one.circuit("scrub /one/a").run();
}

#[test]
fn sockets_are_held_while_instances_come_and_go() {
    let home = Home::new();
    let one = home.start("one");
    let serve = "import socket, os\n\
        s = socket.socket(fileno=3)\n\
        while True:\n\
        \x20   c, _ = s.accept()\n\
        \x20   c.recv(1)\n\
        \x20   c.sendall(str(os.getpid()).encode())\n\
        \x20   c.close()\n";
    let definition = json!({
        "Path": "python3", "Args": ["-c", serve], "Ready": { "Up": 0.3 },
        "Sockets": [{ "Name": "web", "Listen": "127.0.0.1:0" }],
    });
    make(&one, "/one/a", &definition);
    let address = one.peek("/one/a")["Sockets"][0]["Address"]
        .as_str()
        .unwrap()
        .to_owned();
    let ask = move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        stream.write_all(b"?").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let before = ask();
    one.circuit("signal KILL /one/a").run();
    // A process that is woken by its death may take one more connection.
    let gone = || (!lives(before.parse().unwrap())).then_some(());
    eventually("it is gone", gone);
    // Whoever comes in between waits in the queue of the socket.
    let after = ask();
    assert_ne!(before, after);
}
