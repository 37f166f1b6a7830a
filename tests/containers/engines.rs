//! Engines that a server works with, and Engines that it refuses.

use std::process::Command;

use serde_json::json;

use super::engine::{Daemon, Engine};
use super::podman::Podman;
use super::registry::{Manner, Registry};
use super::{make, wait};
use crate::support::{Circuit, Home};

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
    let output = home
        .circuit("start -docker")
        .env("DOCKER_HOST", "tcp://127.0.0.1:1")
        .env("DOCKER_TLS_VERIFY", "1")
        .status(1)
        .any_stderr()
        .run();
    let tls = "circuit: start: -docker: DOCKER_TLS_VERIFY: Engines behind TLS are not supported: ";
    assert!(output.stderr().starts_with(tls), "{output}");
    assert_eq!(output.stderr().lines().count(), 1, "{output}");
    // The socket belongs to another program.
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
fn an_engine_is_spoken_to_over_tcp() {
    let Some(daemon) = Daemon::shared() else {
        return;
    };
    let Some(engine) = Engine::of(daemon.host()) else {
        return;
    };
    let home = Home::new();
    let mut inside = home.clean(Command::new("nsenter"));
    inside
        .arg(format!("--net={}", daemon.network().display()))
        .arg(env!("CARGO_BIN_EXE_circuit"));
    let one = Circuit::new(inside, "start -docker -name one")
        .env("DOCKER_HOST", Daemon::TCP)
        .serve();
    one.logs("the Docker Engine at 127.0.0.1:2375");
    make(
        &one,
        "/one/c",
        &engine.sh("echo err >&2; head -c 1000000; exit 3"),
    );
    let stdout = one.circuit("stdout /one/c").spawn();
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    one.circuit("stdin /one/c").stdin(data.clone()).run();
    assert!(stdout.finish().stdout == data, "what came back differs");
    one.circuit("stderr /one/c").stdout("err\n").run();
    assert_eq!(wait(&one, "/one/c")["Exit"], "exit status 3");
    let name = one.peek("/one/c")["Name"].clone();
    assert_eq!(name, format!("/circuit-{}-c", one.id()));
    one.circuit("scrub /one/c").run();
    assert!(engine.containers().is_empty());
}

#[test]
fn podman_s_service_takes_an_engine_s_place() {
    let Some(podman) = Podman::start() else {
        return;
    };
    let Some(engine) = Engine::of(podman.host()) else {
        return;
    };
    for test in [
        super::from_making_to_end,
        super::statuses_and_signals,
        super::readers_and_writers,
        super::scrub,
        super::scrubs_itself,
        super::holds_no_more,
    ] {
        test(&engine);
        engine.clear();
    }
}

#[test]
fn podman_fetches_images() {
    let Some(podman) = Podman::start() else {
        return;
    };
    let registry = Registry::at(&podman.network(), Podman::REGISTRY, Manner::Whole);
    let image = registry.image();
    let engine = Engine::fetching(podman.host(), &image);
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    let fetched = one
        .circuit("mkdkr /one/a")
        .stdin(json!({"Image": image, "Network": "none"}).to_string())
        .any_stderr()
        .run();
    assert!(
        fetched.stderr().contains("Download complete\n"),
        "{fetched}"
    );
    assert_eq!(wait(&one, "/one/a")["Exit"], json!(null));
    let unknown = image.replace(":1", ":2");
    let failed = one
        .circuit("mkdkr /one/b")
        .stdin(json!({"Image": unknown}).to_string())
        .status(1)
        .any_stderr()
        .run();
    assert!(failed.stderr().contains("manifest unknown"), "{failed}");
    one.circuit("peek /one/b").stdout("null\n").run();
}
