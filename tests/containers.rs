//! Containers, on a real Docker Engine, of images that the tests build themselves.

mod engine;

use serde_json::{Value, json};

use crate::support::{Home, Server};
use engine::{Daemon, Engine};

/// Makes a container.
fn make(server: &Server, path: &str, container: &Value) {
    server
        .circuit(format!("mkdkr {path}"))
        .stdin(container.to_string())
        .run();
}

/// The status that `wait` prints.
fn wait(server: &Server, path: &str) -> Value {
    let waited = server.circuit(format!("wait {path}")).any_stdout().run();
    waited.json()
}

#[test]
fn a_container_from_its_making_to_its_end() {
    let Some(engine) = Engine::of_machine() else {
        return;
    };
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    make(
        &one,
        "/one/a/b",
        &engine.sh("echo out; echo err >&2; read x; echo got $x; exit 3"),
    );
    one.circuit("ls -l /one/...")
        .stdout("·       /one/a\ndocker  /one/a/b\n")
        .run();
    let stdout = one.circuit("stdout /one/a/b").spawn();
    let stderr = one.circuit("stderr /one/a/b").spawn();
    stdout.prints("out\n");
    stderr.prints("err\n");
    assert_eq!(one.peek("/one/a/b")["State"]["Status"], "running");
    one.circuit("stdin /one/a/b").stdin("this\n").run();
    assert_eq!(stdout.finish().stdout(), "out\ngot this\n");
    assert_eq!(stderr.finish().stdout(), "err\n");
    let status = wait(&one, "/one/a/b");
    assert_eq!(
        (
            &status["Exit"],
            &status["Phase"],
            &status["Code"],
            &status["Signal"]
        ),
        (
            &json!("exit status 3"),
            &json!("exited"),
            &json!(3),
            &json!(null)
        )
    );
    one.circuit("waitall")
        .stdin("/one/a/b\n")
        .stdout("/one/a/b\texit status 3\n")
        .run();
    let name = format!("circuit-{}-a-b", one.id());
    let inspected: Value = serde_json::from_str(&engine.docker(&["inspect", &name])).unwrap();
    let peeked = one.peek("/one/a/b");
    assert_eq!(peeked, inspected[0]);
    assert_eq!(peeked["Name"], format!("/{name}"));
    let labels = &peeked["Config"]["Labels"];
    assert_eq!(labels["circuit.server"], one.id());
    assert_eq!(labels["circuit.path"], format!("/{}/a/b", one.id()));
    one.circuit("scrub /one/a/b").run();
    one.circuit("peek /one/a/b").stdout("null\n").run();
    assert!(engine.containers().is_empty());
}

#[test]
fn the_reference_s_example_as_printed() {
    let Some(engine) = Engine::of_machine_with("ubuntu") else {
        return;
    };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return eprintln!("skipped: needs two processors, as the reference's example does");
    }
    let home = Home::new();
    let one = engine.server(&home, "");
    let path = format!("/{}/docky", one.id());
    let example = "{\n\t\"Image\": \"ubuntu\",\n\t\"Memory\": 1000000000,\n\t\"CpuShares\": 3,\n\
        \t\"Lxc\": [\"lxc.cgroup.cpuset.cpus = 0,1\"],\n\
        \t\"Volume\": [\"/webapp\", \"/src/webapp:/opt/webapp:ro\"],\n\t\"Dir\": \"/\",\n\
        \t\"Entry\": \"\",\n\t\"Env\": [\"PATH=/usr/bin\"],\n\t\"Path\": \"/bin/ls\",\n\
        \t\"Args\": [\"/\"],\n}\n";
    let bound = std::path::Path::new("/src/webapp").exists();
    one.circuit(format!("mkdkr {path}")).stdin(example).run();
    let listed = one.circuit(format!("stdout {path}")).any_stdout().run();
    for name in ["bin", "opt", "webapp"] {
        assert!(listed.stdout().lines().any(|line| line == name), "{listed}");
    }
    assert_eq!(wait(&one, &path)["Exit"], json!(null));
    let config = one.peek(&path);
    assert_eq!(config["HostConfig"]["CpuShares"], 3);
    assert_eq!(config["HostConfig"]["CpusetCpus"], "0,1");
    assert_eq!(config["HostConfig"]["Memory"], 1_000_000_000);
    one.circuit(format!("scrub {path}")).run();
    if !bound {
        // What the Engine made for it.
        let _ = std::fs::remove_dir("/src/webapp");
        let _ = std::fs::remove_dir("/src");
    }
}

#[test]
fn what_cannot_run_is_said_and_leaves_nothing() {
    let Some(engine) = Engine::of_machine() else {
        return;
    };
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    let refused = |container: Value, reason: &str| {
        let output = one
            .circuit("mkdkr /one/a")
            .stdin(container.to_string())
            .status(1)
            .any_stderr()
            .run();
        assert!(
            output.stderr().starts_with("circuit: mkdkr /one/a: "),
            "{output}"
        );
        assert!(output.stderr().contains(reason), "{output}");
        assert_eq!(output.stderr().lines().count(), 1, "{output}");
        one.circuit("peek /one/a").stdout("null\n").run();
        assert!(engine.containers().is_empty());
    };
    let image = &engine.image;
    let with = |field: &str, value: Value| {
        let mut container = engine.sh("true");
        container[field] = value;
        container
    };
    refused(
        json!({"Image": image, "Path": "/no/such"}),
        ": exec: \"/no/such\": stat /no/such: no such file or directory\n",
    );
    refused(json!({"Image": image}), "no command specified");
    refused(with("Entry", json!("/no/entry")), "/no/entry");
    refused(with("Dir", json!("tmp")), "needs to be an absolute path");
    refused(with("Memory", json!(1)), "minimum memory limit");
    refused(
        with("Lxc", json!(["lxc.aa_profile = x"])),
        "Lxc: lxc.aa_profile has no equivalent",
    );
    refused(with("Volume", json!(["relative:/a:ro:x"])), "invalid");
    refused(
        with("Ports", json!(["x"])),
        "Ports: not [[HOST:]PORT:]PORT[/tcp|udp|sctp]: \"x\"",
    );
    refused(
        with("Network", json!("nowhere")),
        "network nowhere not found",
    );
    refused(
        json!({"Image": "no such image"}),
        "not an image's name: \"no such image\"",
    );
    // Nobody listens there.
    let missing = "127.0.0.1:1/no/such";
    refused(
        json!({"Image": missing, "Pull": "never"}),
        "no such image: 127.0.0.1:1/no/such",
    );
    let fetch = "cannot fetch the image 127.0.0.1:1/no/such: ";
    refused(json!({"Image": missing}), fetch);
    refused(json!({"Image": missing, "Pull": "always"}), fetch);
    make(&one, "/one/a", &with("Args", json!(["-c", "echo free"])));
    one.circuit("stdout /one/a").stdout("free\n").run();
}

#[test]
fn a_server_without_an_engine_says_what_to_do() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("mkdkr /one/a")
        .stdin(r#"{"Image": "ubuntu"}"#)
        .status(1)
        .stderr("circuit: mkdkr /one/a: this server hosts no containers: start it with -docker\n")
        .run();
    let check = |host: &str, error: &str| {
        home.circuit("start -docker")
            .env("DOCKER_HOST", host)
            .status(1)
            .stderr(format!("circuit: start: -docker: {error}\n"))
            .run();
    };
    let nowhere = home.file("no.sock");
    let nowhere = nowhere.display();
    check(
        &format!("unix://{nowhere}"),
        &format!("the Docker Engine at {nowhere} does not answer: no such file or directory"),
    );
    check(
        "tcp://127.0.0.1:1",
        "the Docker Engine at 127.0.0.1:1 does not answer: connection refused",
    );
    check(
        "ssh://host",
        "DOCKER_HOST: not unix://PATH or tcp://HOST:PORT: ssh://host",
    );
    // Somebody else's socket.
    let deaf = home.file("deaf.sock");
    let listener = std::os::unix::net::UnixListener::bind(&deaf).unwrap();
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let error = format!("the Docker Engine at {} does not answer: ", deaf.display());
    let output = home
        .circuit("start -docker")
        .env("DOCKER_HOST", format!("unix://{}", deaf.display()))
        .status(1)
        .any_stderr()
        .run();
    assert!(output.stderr().contains(&error), "{output}");
    assert_eq!(output.stderr().lines().count(), 1, "{output}");
}

#[test]
fn an_engine_that_stops_in_the_middle_is_told_and_waited_for() {
    if Engine::of_machine().is_none() {
        return;
    }
    let Some(mut daemon) = Daemon::start() else {
        return;
    };
    let Some(engine) = Engine::of(&daemon) else {
        return;
    };
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    make(&one, "/one/c", &engine.sh("echo said; sleep 1000"));
    let reader = one.circuit("stdout /one/c").spawn();
    reader.prints("said\n");
    let mut waiting = one.circuit("waitall").stdin("/one/c\n").spawn();
    crate::support::eventually("somebody waits", || {
        let stk = one.circuit("stk /one").any_stdout().run();
        stk.stdout().contains("wait").then_some(())
    });
    daemon.kill();
    let lost = format!("the Docker Engine at {} does not answer: ", daemon.socket());
    let cut = reader.finish();
    assert_eq!(cut.stdout(), "said\n");
    assert!(
        cut.stderr().starts_with("circuit: stdout /one/c: "),
        "{cut}"
    );
    assert!(cut.stderr().contains(&lost), "{cut}");
    assert!(
        cut.stderr()
            .ends_with("some of the stream may be missing\n"),
        "{cut}"
    );
    for command in ["peek", "scrub", "signal TERM"] {
        let output = one
            .circuit(format!("{command} /one/c"))
            .status(1)
            .any_stderr()
            .run();
        assert!(output.stderr().contains(&lost), "{output}");
    }
    let output = one
        .circuit("mkdkr /one/d")
        .stdin(engine.sh("true").to_string())
        .status(1)
        .any_stderr()
        .run();
    assert!(output.stderr().contains(&lost), "{output}");
    one.circuit("peek /one/d").stdout("null\n").run();
    assert!(
        waiting.is_running(),
        "nobody knows that the container has ended"
    );
    // One that comes back ends what it finds running.
    assert!(daemon.run(), "dockerd starts again");
    let waited = waiting.finish();
    assert!(waited.stdout().starts_with("/one/c\t"), "{waited}");
    assert_eq!(one.peek("/one/c")["State"]["Running"], false);
    one.circuit("scrub /one/c").run();
    assert!(engine.containers().is_empty());
    drop(one);
    drop(engine);
}
