//! Ports of a container that are reached from its host.

use std::io::Read;
use std::net::{TcpListener, TcpStream};

use serde_json::json;

use super::engine::Engine;
use super::make;
use crate::support::{Home, eventually, skipped};

#[test]
fn a_published_port_is_answered_by_the_container() {
    let Some(engine) = Engine::of_machine() else {
        return;
    };
    if !engine.has_bridge() {
        return skipped("a Docker Engine with a bridge");
    }
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    let mut container = engine.sh("while :; do echo hello | nc -l -p 80; done");
    // If another program has the port, the error says so, and nothing is left.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    container["Ports"] = json!([format!("127.0.0.1:{port}:80")]);
    let refused = one
        .circuit("mkdkr /one/c")
        .stdin(container.to_string())
        .status(1)
        .any_stderr()
        .run();
    assert!(
        refused.stderr().ends_with("address already in use\n"),
        "{refused}"
    );
    assert_eq!(refused.stderr().lines().count(), 1, "{refused}");
    one.circuit("peek /one/c").stdout("null\n").run();
    assert!(engine.containers().is_empty());
    // The Engine chooses one of the free ports, and `peek` shows it.
    container["Ports"] = json!(["127.0.0.1::80"]);
    make(&one, "/one/c", &container);
    let ports = &one.peek("/one/c")["NetworkSettings"]["Ports"]["80/tcp"];
    assert_eq!(ports[0]["HostIp"], "127.0.0.1");
    let port: u16 = ports[0]["HostPort"].as_str().unwrap().parse().unwrap();
    // The forwarding of the port begins before the container listens.
    eventually("the container answers", || {
        let mut answer = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.read_to_string(&mut answer).ok()?;
        (answer == "hello\n").then_some(())
    });
    one.circuit("signal KILL /one/c").run();
    one.circuit("wait /one/c").any_stdout().run();
    one.circuit("scrub /one/c").run();
    assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
}
