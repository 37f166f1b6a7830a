//! Containers on a real Docker Engine, of images that the tests build themselves.

mod engine;
mod engines;
mod faults;
mod podman;
mod ports;
mod pulls;
mod registry;

use serde_json::{Value, json};

use crate::support::{Home, Server, skipped};
use engine::Engine;

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
    if let Some(engine) = Engine::of_machine() {
        from_making_to_end(&engine);
    }
}

fn from_making_to_end(engine: &Engine) {
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
    let inspect = || -> Value {
        let inspected: Value = serde_json::from_str(&engine.docker(&["inspect", &name])).unwrap();
        inspected[0].clone()
    };
    // Podman goes on for a while to clean up after a container that has ended.
    let peeked = crate::support::eventually("peek tells what the Engine does", || {
        let (before, peeked) = (inspect(), one.peek("/one/a/b"));
        (before == peeked).then_some(peeked)
    });
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
        return skipped("two processors, as the reference's example does");
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
        // The Engine made these directories for the volume.
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

/// Makes a container, and waits for its end.
fn run(server: &Server, path: &str, container: &Value) -> Value {
    make(server, path, container);
    wait(server, path)
}

#[test]
fn a_hundred_megabytes_pass_whole_both_ways_and_through_another_server() {
    if let Some(engine) = Engine::of_machine() {
        a_hundred_megabytes(&engine);
    }
}

fn a_hundred_megabytes(engine: &Engine) {
    let home = Home::new();
    let two = engine.server(&home, "-name two");
    let one = home
        .circuit(format!("start -name one -j {}", two.url()))
        .serve();
    Server::see_each_other(&[&one, &two]);
    make(
        &one,
        "/two/c",
        &json!({"Image": engine.image, "Path": "/bin/cat"}),
    );
    let data: Vec<u8> = (0..100_000_000_u32).map(|n| (n % 251) as u8).collect();
    let reader = one.circuit("stdout /two/c").spawn();
    one.circuit("stdin /two/c").stdin(data.clone()).run();
    assert!(reader.finish().stdout == data, "what came back differs");
    assert_eq!(wait(&one, "/two/c")["Exit"], json!(null));
}

#[test]
fn readers_and_writers_take_turns_as_at_a_process() {
    if let Some(engine) = Engine::of_machine() {
        readers_and_writers(&engine);
    }
}

fn readers_and_writers(engine: &Engine) {
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    make(
        &one,
        "/one/c",
        &engine.sh("while read line; do echo $line; done; echo end"),
    );
    let mut first = one.circuit("stdout /one/c").spawn();
    let mut writer = one.circuit("stdin /one/c").stdin_open().spawn();
    writer.write("first\n");
    first.prints("first\n");
    for (command, busy) in [("stdout", "reading it"), ("stdin", "writing to it")] {
        let refused = one
            .circuit(format!("{command} /one/c"))
            .status(1)
            .any_stderr()
            .run();
        let begins = format!("circuit: {command} /one/c: somebody else is {busy}");
        assert!(refused.stderr().starts_with(&begins), "{refused}");
    }
    first.kill();
    // The disappearance of a writer is no end.
    writer.kill();
    crate::support::eventually("both places are free", || {
        let refused = one.circuit("stk /one").any_stdout().run();
        let held = refused.stdout().contains("stdout") || refused.stdout().contains("stdin");
        (!held).then_some(())
    });
    let second = one.circuit("stdout /one/c").spawn();
    one.circuit("stdin /one/c").stdin("again\n").run();
    assert_eq!(second.finish().stdout(), "again\nend\n");
    one.circuit("stdin /one/c")
        .stdin("late\n")
        .status(1)
        .stderr("circuit: stdin /one/c: the process does not read its stdin any more\n")
        .run();
    one.circuit("stdin /one/c").run();
}

/// An Engine forgets what is left in a container's pipes two seconds after its exit: at some
/// lengths, which depend on what sockets hold, the end would be missing.
#[test]
fn a_late_reader_misses_nothing_however_much_there_is() {
    let Some(engine) = Engine::of_machine() else {
        return;
    };
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    let lengths = || (1_200_000..2_000_000).step_by(50_000).chain([20_000]);
    for length in lengths() {
        let script = format!("echo err >&2; head -c {length} /dev/zero");
        make(&one, &format!("/one/{length}"), &engine.sh(&script));
    }
    // Containers whose output fits the pipes have ended; the others wait for a reader. The test waits
    // until the Engine's two seconds are over, of which there is no event.
    assert_eq!(wait(&one, "/one/20000")["Stdout"]["Held"], 20_000);
    std::thread::sleep(std::time::Duration::from_secs(3));
    for length in lengths() {
        let path = format!("/one/{length}");
        let read = one.circuit(format!("stdout {path}")).any_stdout().run();
        assert_eq!(read.stdout.len(), length, "of {path}");
        one.circuit(format!("stderr {path}")).stdout("err\n").run();
        assert_eq!(wait(&one, &path)["Exit"], json!(null));
    }
}

#[test]
fn the_engine_blocks_rather_than_the_server_holding_more() {
    if let Some(engine) = Engine::of_machine() {
        holds_no_more(&engine);
    }
}

fn holds_no_more(engine: &Engine) {
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    make(
        &one,
        "/one/c",
        &engine.sh("head -c 50000000 /dev/zero; echo done >&2"),
    );
    let client = tokio::runtime::Runtime::new().unwrap();
    let held = client.block_on(async {
        let client = one.client(&home).await;
        let container = client.walk("/one/c").unwrap().container();
        loop {
            let status = container.peek().await.unwrap().status;
            if status.blocked.as_deref() == Some("stdout") {
                return status.stdout.held;
            }
        }
    });
    assert_eq!(held, 32 << 10);
    // The container still runs, and its full stdout does not hold up its stderr.
    let stderr = one.circuit("stderr /one/c").spawn();
    assert_eq!(stderr.stdout().text(), "");
    let read = one.circuit("stdout /one/c").any_stdout().run();
    assert_eq!(read.stdout.len(), 50_000_000);
    assert_eq!(stderr.finish().stdout(), "done\n");
}

#[test]
fn exit_statuses_and_signals() {
    if let Some(engine) = Engine::of_machine() {
        statuses_and_signals(&engine);
    }
}

fn statuses_and_signals(engine: &Engine) {
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    let ended = |path: &str| {
        let status = wait(&one, path);
        (
            status["Exit"].clone(),
            status["Phase"].clone(),
            status["Signal"].clone(),
        )
    };
    make(&one, "/one/ok", &engine.sh("exit 0"));
    assert_eq!(
        ended("/one/ok"),
        (json!(null), json!("exited"), json!(null))
    );
    make(&one, "/one/failed", &engine.sh("exit 42"));
    assert_eq!(
        ended("/one/failed"),
        (json!("exit status 42"), json!("exited"), json!(null))
    );
    make(&one, "/one/killed", &engine.sh("sleep 1000"));
    let waiting = one.circuit("waitall").stdin("/one/killed\n").spawn();
    one.circuit("signal kill /one/killed").run();
    assert_eq!(waiting.finish().stdout(), "/one/killed\tsignal: killed\n");
    assert_eq!(
        ended("/one/killed"),
        (json!("signal: killed"), json!("signaled"), json!("SIGKILL"))
    );
    make(
        &one,
        "/one/trap",
        &engine.sh("trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.1; done"),
    );
    let reader = one.circuit("stdout /one/trap").spawn();
    reader.prints("ready\n");
    one.circuit("signal SIGUSR1 /one/trap").run();
    assert_eq!(reader.finish().stdout(), "ready\ncaught\n");
    assert_eq!(ended("/one/trap").0, json!("exit status 7"));
    let refused = |line: &str, error: &str| {
        one.circuit(format!("signal {line}"))
            .status(1)
            .stderr(format!("circuit: signal /one/trap: {error}\n"))
            .run();
    };
    refused("TERM /one/trap", "the container has exited");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(async {
        let client = one.client(&home).await;
        let container = client.walk("/one/trap").unwrap().container();
        container.signal("FOO").await.unwrap_err()
    });
    assert_eq!(
        error.to_string(),
        "/one/trap: no such signal: \"FOO\" (a name such as TERM, or its number)"
    );
    refused(
        "-group TERM /one/trap",
        "an Engine signals a container's first process only: leave out -group (KILL ends the others too)",
    );
}

#[test]
fn limits_are_seen_inside() {
    let Some(engine) = Engine::of_machine() else {
        return;
    };
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    // The file is of the first generation of control groups, or else of the second.
    let script = "cd /sys/fs/cgroup; \
        cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max; \
        cat cpuset/cpuset.cpus 2>/dev/null || cat cpuset.cpus; \
        cat cpu/cpu.shares 2>/dev/null || echo 512";
    for fields in [
        json!({"Memory": 67_108_864, "CpuShares": 512, "Lxc": ["lxc.cgroup.cpuset.cpus = 0"]}),
        json!({"Lxc": [
            "lxc.cgroup.cpuset.cpus=0", "lxc.cgroup.cpuset.mems = 0",
            "lxc.cgroup.memory.limit_in_bytes = 64M", "lxc.cgroup.cpu.shares = 512",
        ]}),
    ] {
        let mut container = engine.sh(script);
        for (name, value) in fields.as_object().unwrap() {
            container[name] = value.clone();
        }
        make(&one, "/one/c", &container);
        one.circuit("stdout /one/c")
            .stdout("67108864\n0\n512\n")
            .run();
        one.circuit("wait /one/c").any_stdout().run();
        one.circuit("scrub /one/c").run();
    }
}

#[test]
fn volumes_environment_and_the_rest() {
    let Some(engine) = Engine::of_machine() else {
        return;
    };
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    std::fs::create_dir(home.file("shared")).unwrap();
    home.write("shared/from-host", "host\n");
    let shared = home.file("shared").display().to_string();
    let script = "cat /rw/from-host; echo inside > /rw/from-inside; \
        touch /ro/x 2>/dev/null || echo read-only; touch /anonymous/x && echo anonymous; pwd; \
        echo $A-$PATH; echo $0 $1; ls /sys/class/net";
    let mut container = json!({
        "image": engine.image,
        "Entry": "/bin/sh",
        "Args": ["-c", script, "zero", "one"],
        "Volume": [format!("{shared}:/rw"), format!("{shared}:/ro:ro"), "/anonymous"],
        "Env": ["A=b", "PATH=/bin"],
        "Dir": "/tmp",
        "Network": "none",
        "Ports": ["127.0.0.1:45678:80", "53/udp"],
        "Labels": {"team": "db"},
    });
    let end = run(&one, "/one/c", &container);
    assert_eq!(end["Exit"], json!(null), "{end}");
    one.circuit("stdout /one/c")
        .stdout("host\nread-only\nanonymous\n/tmp\nb-/bin\nzero one\nlo\n")
        .run();
    assert_eq!(
        std::fs::read_to_string(home.file("shared/from-inside")).unwrap(),
        "inside\n"
    );
    let peeked = one.peek("/one/c");
    assert_eq!(peeked["Config"]["Labels"]["team"], "db");
    let ports = &peeked["HostConfig"]["PortBindings"];
    assert_eq!(
        ports["80/tcp"],
        json!([{"HostIp": "127.0.0.1", "HostPort": "45678"}])
    );
    assert!(ports["53/udp"].is_array(), "{ports}");
    let mounts = peeked["Mounts"].as_array().unwrap();
    let volume = mounts
        .iter()
        .find(|mount| mount["Type"] == "volume")
        .unwrap();
    let volume = volume["Name"].as_str().unwrap();
    assert!(engine.docker(&["volume", "ls", "-q"]).contains(volume));
    one.circuit("scrub /one/c").run();
    assert!(
        !engine.docker(&["volume", "ls", "-q"]).contains(volume),
        "{volume} is left"
    );
    container["Labels"] = json!({"circuit.path": "/x"});
    one.circuit("mkdkr /one/c")
        .stdin(container.to_string())
        .status(1)
        .stderr("circuit: mkdkr /one/c: Labels: circuit.path is circuit's own\n")
        .run();
}

#[test]
fn scrub_removes_what_has_ended_and_leaves_alone_what_runs() {
    if let Some(engine) = Engine::of_machine() {
        scrub(&engine);
    }
}

fn scrub(engine: &Engine) {
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    let base = format!("circuit-{}-c", one.id());
    let idle = engine.sh("sleep 1000");
    make(&one, "/one/c", &idle);
    let waiting = one.circuit("wait /one/c").status(1).spawn();
    one.is_executing(&["wait"]);
    one.circuit("scrub /one/c").run();
    assert_eq!(
        waiting.finish().stderr(),
        "circuit: wait /one/c: the element was scrubbed\n"
    );
    assert_eq!(engine.containers(), std::slice::from_ref(&base));
    let running = ["inspect", "-f", "{{.State.Running}}", &base];
    assert_eq!(engine.docker(&running), "true\n");
    // The container still has its name.
    make(&one, "/one/c", &idle);
    assert_eq!(one.peek("/one/c")["Name"], format!("/{base}-2"));
    one.circuit("signal KILL /one/c").run();
    wait(&one, "/one/c");
    one.circuit("scrub /one/c").run();
    assert_eq!(engine.containers(), [base]);
}

#[test]
fn one_made_with_scrub_goes_at_its_exit() {
    if let Some(engine) = Engine::of_machine() {
        scrubs_itself(&engine);
    }
}

fn scrubs_itself(engine: &Engine) {
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    for forget_first in [false, true] {
        one.circuit("mkdkr -scrub /one/c")
            .stdin(engine.sh("read x; echo got $x").to_string())
            .run();
        if forget_first {
            // Its stdin ends, and so the container ends.
            one.circuit("scrub /one/c").run();
        } else {
            let reader = one.circuit("stdout /one/c").spawn();
            let waiting = one.circuit("waitall").stdin("/one/c\n").spawn();
            one.is_executing(&["wait", "stdout"]);
            one.circuit("stdin /one/c").stdin("it\n").run();
            assert_eq!(reader.finish().stdout(), "got it\n");
            assert_eq!(waiting.finish().stdout(), "/one/c\tok\n");
        }
        crate::support::eventually("element and container are gone", || {
            (one.ls("/one/...").is_empty() && engine.containers().is_empty()).then_some(())
        });
    }
}
