//! Which circuit a command means: `-d`, `-discover`, `CIRCUIT`, `CIRCUIT_DISCOVER`, this machine.

use std::net::UdpSocket;

use rustix::process::Signal;

use crate::support::{Home, Server};

/// A multicast group that no other test uses.
pub(crate) fn group() -> String {
    let mut random = [0; 5];
    getrandom::fill(&mut random).unwrap();
    let [a, b, c, d, e] = random;
    let port = 20_000 + u16::from_be_bytes([d, e]) % 10_000;
    format!("239.{a}.{b}.{c}:{port}")
}

#[test]
fn the_flag_comes_before_the_variables_and_the_variables_before_this_machine() {
    let home = Home::new();
    let (one, two) = (home.start("one"), home.start("two"));
    home.write(".circuit", &format!("{}\n", two.url()));
    let peek = |line: &str| home.circuit(format!("peek {line}")).any_stdout();
    let check = |output: crate::support::Circuit, name: &str| {
        assert_eq!(output.run().json()["Name"], name);
    };
    let (of_one, of_two) = (format!("/{}", one.id()), format!("/{}", two.id()));
    check(peek(&of_two).env("CIRCUIT", "~/.circuit"), "two");
    check(peek(&of_two).env("CIRCUIT", home.file(".circuit")), "two");
    check(peek(&of_two).env("CIRCUIT", ".circuit"), "two");
    let dialled = format!("-d {} {of_one}", one.url());
    check(peek(&dialled).env("CIRCUIT", "~/.circuit"), "one");
    check(peek(&dialled).env("CIRCUIT_DISCOVER", "239.0.0.1:1"), "one");
    let both = peek(&of_two).env("CIRCUIT_DISCOVER", "239.0.0.1:1");
    check(both.env("CIRCUIT", "~/.circuit"), "two");
    // An empty variable is none.
    drop(one);
    check(
        peek(&of_two).env("CIRCUIT", "").env("CIRCUIT_DISCOVER", ""),
        "two",
    );
}

#[test]
fn flags_may_stand_before_or_after_the_arguments() {
    let home = Home::new();
    let one = home.start("one");
    let url = one.url();
    for line in [
        format!("peek -d {url} /one/x"),
        format!("peek /one/x -d {url}"),
        format!("peek --dial {url} /one/x"),
        format!("peek -dial {url} /one/x"),
        format!("peek -dial={url} /one/x"),
        format!("peek -d{url} /one/x"),
        format!("peek /one/x --timeout 2.5 --dial={url}"),
        format!("peek -timeout 2.5 -d {url} -- /one/x"),
    ] {
        home.circuit(line).stdout("null\n").run();
    }
}

#[test]
fn a_url_without_an_id_takes_whoever_is_there() {
    let home = Home::new();
    let one = home.start("one");
    home.circuit(format!("peek -d circuit://{} /one/x", one.address()))
        .stdout("null\n")
        .run();
    home.circuit(format!(
        "peek -d circuit://localhost:{} /one/x",
        one.url().port
    ))
    .stdout("null\n")
    .run();
}

#[test]
fn another_server_at_the_address_is_named() {
    let home = Home::new();
    let one = home.start("one");
    let found = one.url().server.unwrap().id.in_url();
    home.circuit(format!(
        "ls -d circuit://{}/1/Q0000000000000001 /",
        one.address()
    ))
    .status(255)
    .stderr(format!(
        "circuit: ls: {} is {found}, not Q0000000000000001: was it restarted?\n\
         hint: its new URL is the first line that its `circuit start` printed\n",
        one.address()
    ))
    .run();
}

#[test]
fn nobody_at_the_address_is_said_in_three_seconds() {
    let home = Home::new();
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    home.circuit(format!("ls -d circuit://{address} /"))
        .status(255)
        .stderr(format!(
            "circuit: ls: no answer from {address} within 3 s\n"
        ))
        .run();
    home.circuit("ls -d circuit://no.such.host.invalid:7000 /")
        .status(255)
        .any_stderr()
        .run();
}

#[test]
fn the_file_that_circuit_names_must_hold_a_url() {
    let home = Home::new();
    home.circuit("ls /")
        .env("CIRCUIT", "~/.circuit")
        .status(255)
        .stderr(format!(
            "circuit: ls: cannot read the file {}/.circuit that CIRCUIT names: no such file or \
             directory\nhint: write a server's URL into it, or use -d URL\n",
            home.path().display()
        ))
        .run();
    home.write(".circuit", "10.0.0.1:7000\n");
    home.circuit("ls /")
        .env("CIRCUIT", "~/.circuit")
        .status(255)
        .stderr(format!(
            "circuit: ls: the file {}/.circuit that CIRCUIT names holds no URL: not a circuit URL \
             (circuit://HOST:PORT/PID/Qid): 10.0.0.1:7000\n\
             hint: write a server's URL into it, or use -d URL\n",
            home.path().display()
        ))
        .run();
}

#[test]
fn without_anything_the_newest_server_of_this_machine_is_dialled() {
    let home = Home::new();
    home.circuit("peek /one")
        .status(255)
        .stderr(
            "circuit: peek: no circuit to dial: neither -d, -discover, CIRCUIT, CIRCUIT_DISCOVER nor \
             CIRCUIT_SOCKET is given, no server of yours runs on this machine, and there is no \
             /run/circuit/circuit.sock\n\
             hint: `circuit start` starts one\n",
        )
        .run();
    let [one, two] = home.start_all(["one", "two"]);
    let mut expected = [format!("/{}\n", one.id()), format!("/{}\n", two.id())];
    expected.sort();
    home.circuit("ls").stdout(expected.concat()).run();
}

#[test]
fn several_circuits_on_this_machine_are_listed() {
    let home = Home::new();
    let one = home.start("one");
    let two = home.start("two");
    home.circuit("ls /")
        .status(255)
        .stderr(format!(
            "circuit: ls: several circuits run on this machine: {}, {}\n\
             hint: choose one with -d URL\n",
            two.url(),
            one.url()
        ))
        .run();
    drop(two);
    home.circuit("ls /")
        .stdout(format!("/{}\n", one.id()))
        .run();
}

#[test]
fn servers_and_commands_find_each_other_on_a_multicast_group() {
    let home = Home::new();
    home.circuit("keygen .hmac").run();
    let group = group();
    let one = home
        .circuit(format!(
            "start -name one -if lo -discover {group} -hmac .hmac"
        ))
        .serve();
    let two = home
        .circuit("start -name two -if lo")
        .env("CIRCUIT_DISCOVER", &group)
        .env("CIRCUIT_HMAC", ".hmac")
        .serve();
    one.logs(&format!("joined: {}", two.id()));
    two.logs(&format!("joined: {}", one.id()));
    let mut both = [format!("/{}\n", one.id()), format!("/{}\n", two.id())];
    both.sort();
    home.circuit(format!("ls -hmac .hmac -discover {group} /"))
        .stdout(both.concat())
        .run();
    home.circuit("ls -hmac .hmac /...")
        .env("CIRCUIT_DISCOVER", &group)
        .stdout(both.concat())
        .run();
    // The flag goes before the file.
    home.circuit(format!("ls -hmac .hmac -discover {group} /"))
        .env("CIRCUIT", "no/such/file")
        .stdout(both.concat())
        .run();
    home.circuit(format!("ls --discover {group} /"))
        .env("XDG_RUNTIME_DIR", home.path())
        .status(255)
        .stderr(format!(
            "circuit: ls: no server of ours on the multicast group {group}: the circuit has a \
             key, and none was given (answers: 2)\n\
             hint: name its key with -hmac FILE, or in CIRCUIT_HMAC\n"
        ))
        .run();
}

#[test]
fn the_local_key_opens_ones_own_servers_on_a_group_too() {
    let home = Home::new();
    let group = group();
    let one = home
        .circuit(format!("start -name one -a 127.0.0.1 -discover {group}"))
        .serve();
    home.circuit(format!("ls -discover {group} /"))
        .stdout(format!("/{}\n", one.id()))
        .run();
}

#[test]
fn a_group_on_which_nobody_answers_is_said() {
    let home = Home::new();
    let group = group();
    home.circuit(format!("ls -discover {group} /"))
        .status(255)
        .stderr(format!(
            "circuit: ls: no server answered on the multicast group {group}\n"
        ))
        .run();
}

#[test]
fn two_circuits_that_hear_of_each_other_become_one() {
    let home = Home::new();
    let group = group();
    let one = home.start("one");
    let two = home
        .circuit(format!("start -name two -a 127.0.0.1 -discover {group}"))
        .serve();
    let three = home
        .circuit(format!(
            "start -name three -a 127.0.0.1 -discover {group} -j {}",
            one.url()
        ))
        .serve();
    Server::see_each_other(&[&one, &two, &three]);
}

#[test]
fn a_server_of_this_machine_that_hangs_is_named_and_passed_over() {
    let home = Home::new();
    let one = home.start("one");
    let two = home.start("two");
    let warning = format!(
        "circuit: warning: {} runs here and does not answer\n",
        two.url()
    );
    // The newest server stops first, and then another.
    two.signal(Signal::STOP);
    home.circuit("ls /")
        .stdout(format!("/{}\n", one.id()))
        .stderr(warning.clone())
        .run();
    let three = home
        .circuit(format!("start -name three -j {}", one.url()))
        .serve();
    Server::see_each_other(&[&one, &three]);
    let mut both = [format!("/{}\n", one.id()), format!("/{}\n", three.id())];
    both.sort();
    home.circuit("ls /")
        .stdout(both.concat())
        .stderr(warning)
        .run();
}

#[test]
fn a_file_name_that_is_not_utf8_is_one_still() {
    use std::os::unix::ffi::OsStrExt;
    let home = Home::new();
    let name = std::ffi::OsStr::from_bytes(b"~/\xff");
    let end = home
        .circuit("ls /")
        .env("CIRCUIT", name)
        .status(255)
        .any_stderr()
        .run();
    let expected = format!(
        "circuit: ls: cannot read the file {}/",
        home.path().display()
    );
    assert!(end.stderr().starts_with(&expected), "{}", end.stderr());
}

#[test]
fn the_wildcard_is_no_address_to_dial() {
    let home = Home::new();
    for url in ["circuit://0.0.0.0:7711", "circuit://[::]:7711"] {
        for (line, flag) in [("ls", "-d <URL>"), ("start", "-j <URL>")] {
            let given = flag.split(' ').next().unwrap();
            let text = format!(
                "invalid value '{url}' for '{flag}': 0.0.0.0 and [::] stand for all \
                 addresses of the host that listens, and are none to dial: give the one that the \
                 server printed, or 127.0.0.1 for this host: {url}"
            );
            let output = home.circuit(format!("{line} {given} {url}"));
            let output = output.any_stdout().any_stderr().status(2).run();
            assert!(output.stderr().contains(&text), "{}", output.stderr());
        }
    }
}
