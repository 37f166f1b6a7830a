//! When an instance is ready, and what waits for it.

use serde_json::{Value, json};

use super::{Events, count, marked, pid, script, slot, with};
use crate::support::{Home, Server, eventually, lives, skipped};

/// Makes a service that becomes ready only once the file `go` is there.
fn becomes_ready(home: &Home, server: &Server, definition: &Value) {
    let made = server.circuit("mksvc -nowait /one/a");
    made.stdin(definition.to_string()).run();
    // It has begun, and is not ready.
    server.until("/one/a", |status| status["Slots"][0]["Pid"].is_number());
    eventually("it waits for the file", || {
        home.file("begun").exists().then_some(())
    });
    assert_eq!(slot(server, "/one/a", 1)["State"], "starting");
    home.write("go", "");
    server.circuit("wait -ready /one/a").run();
    let ready = slot(server, "/one/a", 1);
    assert_eq!(
        (&ready["State"], &ready["Starts"]),
        (&json!("ready"), &json!(1))
    );
    server.circuit("down /one/a").run();
    assert_eq!(marked(home), []);
}

/// A Python program that does the second once `go` is there.
fn python(before: &str, after: &str, ready: Value) -> Value {
    let text = format!(
        "import http.server, os, socket, time\n\
         {before}\n\
         open('begun', 'w').close()\n\
         while not os.path.exists('go'): time.sleep(0.02)\n\
         {after}\n\
         time.sleep(1000)\n"
    );
    json!({ "Path": "python3", "Args": ["-u", "-c", text], "Ready": ready })
}

/// A port that is free, as far as one can know.
fn port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn it_is_ready_once_a_command_says_so() {
    let home = Home::new();
    let one = home.start("one");
    let ready = json!({ "Command": ["test", "-e", "go"], "Every": 0.05 });
    becomes_ready(&home, &one, &python("", "", ready));
}

#[test]
fn it_is_ready_once_it_takes_connections() {
    let home = Home::new();
    let one = home.start("one");
    let port = port();
    let listen = format!("s = socket.create_server(('127.0.0.1', {port}))");
    let ready = json!({ "Tcp": format!("127.0.0.1:{port}"), "Every": 0.05 });
    becomes_ready(&home, &one, &python("", &listen, ready));
}

#[test]
fn it_is_ready_once_it_answers_well() {
    let home = Home::new();
    let one = home.start("one");
    let port = port();
    // It answers from the start, but with a failure.
    let serve = format!(
        "class H(http.server.BaseHTTPRequestHandler):\n\
         \x20   def do_GET(self):\n\
         \x20       open('begun', 'w').close()\n\
         \x20       self.send_response(204 if os.path.exists('go') else 503)\n\
         \x20       self.end_headers()\n\
         http.server.HTTPServer(('127.0.0.1', {port}), H).serve_forever()\n"
    );
    let ready = json!({ "Http": format!("http://127.0.0.1:{port}/ok"), "Every": 0.05 });
    let text = format!("import http.server, os\n{serve}");
    let definition = json!({ "Path": "python3", "Args": ["-c", text], "Ready": ready });
    becomes_ready(&home, &one, &definition);
}

#[test]
fn it_is_ready_once_it_notifies() {
    let home = Home::new();
    let one = home.start("one");
    let connect = "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                   s.connect(os.environ['NOTIFY_SOCKET'])\n\
                   s.send(b'STATUS=warming up')";
    let definition = python(
        connect,
        "s.send(b'READY=1\\nSTATUS=serving')",
        json!({ "Notify": true }),
    );
    becomes_ready(&home, &one, &definition);
}

#[test]
fn one_that_runs_as_another_user_may_notify() {
    if !rustix::process::geteuid().is_root() {
        return skipped("root");
    }
    let home = Home::new();
    let one = home.circuit("start -name one -var var").serve();
    let text = "import os, socket, time\n\
                s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                s.connect(os.environ['NOTIFY_SOCKET'])\n\
                s.send(('READY=1\\nSTATUS=%d' % os.getuid()).encode())\n\
                time.sleep(1000)\n";
    let definition = json!({
        // The shell looks for a Python that this user may execute.
        "Path": "/bin/sh", "Args": ["-c", "exec python3 -c \"$TEXT\""], "AddEnv": [format!("TEXT={text}")],
        "Dir": "/", "User": "65534", "Ready": { "Notify": true, "Deadline": 20 },
    });
    super::make(&one, "/one/a", &definition);
    assert_eq!(slot(&one, "/one/a", 1)["Status"], "65534");
}

#[test]
fn one_in_another_directory_than_its_server_may_notify() {
    let home = Home::new();
    let one = home.circuit("start -name one -var var").serve();
    let text = "import os, socket, time\n\
                s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                s.connect(os.environ['NOTIFY_SOCKET'])\n\
                s.send(b'READY=1')\n\
                time.sleep(1000)\n";
    let definition = json!({
        "Path": "python3", "Args": ["-c", text], "Dir": "/",
        "Ready": { "Notify": true, "Deadline": 20 },
    });
    super::make(&one, "/one/a", &definition);
}

#[test]
fn one_whose_server_keeps_its_state_at_a_long_path_may_notify() {
    let home = Home::new();
    let var = "x".repeat(100);
    let start = format!("start -name one -var {var}");
    let one = home.circuit(start).serve();
    let connect = "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                   s.connect(os.environ['NOTIFY_SOCKET'])";
    let definition = python(connect, "s.send(b'READY=1')", json!({ "Notify": true }));
    becomes_ready(&home, &one, &definition);
}

#[test]
fn a_child_of_it_may_notify() {
    let home = Home::new();
    let one = home.start("one");
    let send = "if os.fork() == 0:\n\
                \x20   s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
                \x20   s.connect(os.environ['NOTIFY_SOCKET'])\n\
                \x20   s.send(b'READY=1')\n\
                \x20   os._exit(0)";
    becomes_ready(&home, &one, &python("", send, json!({ "Notify": true })));
}

#[test]
fn it_is_ready_once_it_writes_a_line() {
    let home = Home::new();
    let one = home.start("one");
    let definition = python("", "os.write(10, b'\\n')", json!({ "NotifyFd": 10 }));
    becomes_ready(&home, &one, &definition);
}

#[test]
fn one_that_is_not_ready_in_time_is_a_failed_start() {
    let home = Home::new();
    let one = home.start("one");
    let more = json!({
        "Ready": { "Notify": true, "Deadline": 0.3 }, "Backoff": { "Tries": 2, "First": 0.05 },
    });
    let made = one.circuit("mksvc /one/a");
    let made = made.stdin(with(script("echo trying; exec sleep 1000"), more).to_string());
    made.stderr("circuit: /one/a: slot 1: not ready in 0.3 s\n  trying\n")
        .status(1)
        .run();
    let status = one.until("/one/a", |status| status["Slots"][0]["State"] == "failed");
    assert_eq!(status["Slots"][0]["Last"]["Why"], "not ready in time");
    assert_eq!(marked(&home), []);
}

#[test]
fn a_start_waits_until_the_others_are_ready_and_not_only_begun() {
    let home = Home::new();
    let one = home.start("one");
    let events = Events::of(&one);
    // Made in the wrong order.
    let web = with(script("exec sleep 1000"), json!({ "After": ["db"] }));
    one.circuit("mksvc -nowait /one/web")
        .stdin(web.to_string())
        .any_stderr()
        .run();
    let waits = |waiting: &str| {
        one.until("/one/web", |status| {
            let slot = &status["Slots"][0];
            slot["State"] == "waiting" && slot["Waiting"] == waiting
        });
    };
    waits("db: missing");
    let ready = json!({ "Ready": { "Command": ["test", "-e", "go"], "Every": 0.05 } });
    let db = with(script("exec sleep 1000"), ready);
    one.circuit("mksvc -down /one/db")
        .stdin(db.to_string())
        .run();
    waits("db: down");
    one.circuit("up -nowait /one/db").run();
    waits("db: not ready");
    home.write("go", "");
    one.circuit("wait -ready /one/web").run();
    let events = events.until("both are ready", |events| count(events, "ready") == 2);
    let order: Vec<_> = events
        .iter()
        .filter(|event| event["Event"] == "spawn" || event["Event"] == "ready")
        .map(|event| {
            let path = event["Path"].as_str().unwrap();
            let name = path.rsplit('/').next().unwrap();
            format!("{name} {}", event["Event"].as_str().unwrap())
        })
        .collect();
    assert_eq!(order, ["db spawn", "db ready", "web spawn", "web ready"]);
    // The order is looked at before a start only.
    let running = pid(&slot(&one, "/one/web", 1));
    one.circuit("down /one/db").run();
    assert!(lives(running));
    one.circuit("scrub /one/db").run();
    one.circuit("down /one/web").run();
    one.circuit("up -nowait /one/web").run();
    waits("db: missing");
    one.circuit("scrub /one/web").run();
    // It is told at once.
    let make = one.circuit("mksvc /one/web").stdin(web.to_string());
    let make = make.spawn();
    let told = "circuit: /one/web: waits for db: missing\n";
    eventually("it is told", || {
        (make.stderr().text() == told).then_some(())
    });
    one.circuit("down /one/web").run();
}

#[test]
fn a_circle_is_refused() {
    let home = Home::new();
    let one = home.start("one");
    let after = |name: &str| with(script("exec sleep 1000"), json!({ "After": [name] }));
    let mksvc = |line: &str, name: &str| {
        let made = one.circuit(format!("mksvc {line}"));
        made.stdin(after(name).to_string()).any_stderr().unchecked()
    };
    let refused = "After: the service would wait for itself";
    let own = mksvc("-nowait /one/a", "a");
    assert!(own.stderr().contains(refused), "{own}");
    assert!(mksvc("-nowait /one/a", "b").status.success());
    assert!(mksvc("-nowait /one/b", "c").status.success());
    let circle = mksvc("-nowait /one/c", "/a");
    assert!(circle.stderr().contains(refused), "{circle}");
    assert!(mksvc("-nowait -update /one/c", "d").status.success());
    let circle = mksvc("-nowait -update /one/c", "a");
    assert!(circle.stderr().contains(refused), "{circle}");
}

#[test]
fn a_probe_that_another_instance_would_answer_is_refused() {
    let home = Home::new();
    let one = home.start("one");
    let check = |more: Value| {
        let made = one.circuit("mksvc /one/a");
        let made = made.stdin(with(script("exec sleep 1000"), more).to_string());
        let made = made.any_stderr().status(1).run();
        assert!(
            made.stderr().contains("probe of 127.0.0.1:"),
            "{}",
            made.stderr()
        );
        assert!(one.ls("/one/...").is_empty());
    };
    check(json!({ "Instances": 2, "Ready": { "Tcp": "127.0.0.1:7" } }));
    check(json!({ "Surge": true, "Ready": { "Http": "http://127.0.0.1:7/" } }));
    let port = port();
    check(json!({
        "Sockets": [{ "Name": "web", "Listen": format!("127.0.0.1:{port}") }],
        "Ready": { "Tcp": format!("127.0.0.1:{port}") },
    }));
}
