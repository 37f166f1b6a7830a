//! The command lines of the reference's README, as printed there.

use serde_json::json;

use crate::support::Home;

#[test]
fn run_the_servers_and_point_the_tool_to_them() {
    let home = Home::new();
    let first = home.circuit("start -a 127.0.0.1").serve();
    let second = home
        .circuit(format!("start -a 127.0.0.1 -j {}", first.url()))
        .serve();
    crate::support::Server::see_each_other(&[&first, &second]);
    let mut ids = [format!("/{}\n", first.id()), format!("/{}\n", second.id())];
    ids.sort();
    home.circuit(format!("ls -d {} /", first.url()))
        .stdout(ids.concat())
        .run();
    home.write(".circuit", &format!("{}\n", first.url()));
    home.circuit("ls /")
        .env("CIRCUIT", "~/.circuit")
        .stdout(ids.concat())
        .run();
    home.circuit("ls /...")
        .env("CIRCUIT", "~/.circuit")
        .stdout(ids.concat())
        .run();
}

#[test]
fn make_a_process() {
    let home = Home::new();
    let server = home.circuit("start").serve();
    let path = format!("/{}/pippi", server.id());
    home.circuit(format!("mkproc {path}"))
        .stdin("{\n\t\"Path\": \"/bin/ls\", \n\t\"Args\":[\"/\"]\n}\n")
        .run();
    let status = home
        .circuit(format!("peek {path}"))
        .any_stdout()
        .run()
        .json();
    assert_eq!(status["Cmd"]["Args"], json!(["/"]));
    home.circuit(format!("stdin {path}")).run();
    let output = home.circuit(format!("stdout {path}")).any_stdout().run();
    assert!(
        output.stdout().lines().any(|line| line == "bin"),
        "{output}"
    );
    home.circuit(format!("scrub {path}")).run();
    home.circuit(format!("peek {path}")).stdout("null\n").run();
}

#[test]
fn security() {
    let home = Home::new();
    let key = home.circuit("keygen").any_stdout().run();
    home.write(".hmac", key.stdout());
    let server = home.circuit("start -a 127.0.0.1 -hmac .hmac").serve();
    let listed = format!("/{}\n", server.id());
    home.circuit("ls -hmac .hmac /...").stdout(&*listed).run();
    home.circuit("ls /...")
        .env("CIRCUIT_HMAC", ".hmac")
        .stdout(&*listed)
        .run();
    // On its own host the server's user needs no key; over the network everybody does.
    home.circuit("ls /...").stdout(&*listed).run();
    home.circuit(format!("ls -d {} /...", server.url()))
        .status(255)
        .any_stderr()
        .run();
}
