//! `circuit start`: where a server listens, what it prints, how it comes and goes.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Home, Server, skipped};

/// A UDP port on loopback that was free a moment ago.
fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

#[test]
fn the_first_line_is_the_url_and_the_server_is_known_while_it_lives() {
    let home = Home::new();
    let mut one = home.start("one");
    let pinned = one.url().server.unwrap();
    assert_eq!(pinned.pid.cast_signed(), one.pid());
    assert!(one.address().ip().is_loopback());
    assert_eq!(home.registered(), [format!("{}.url", one.id())]);
    let mode = |name| {
        let file = fs::metadata(home.runtime_dir().join(name)).unwrap();
        file.permissions().mode() & 0o777
    };
    assert_eq!(mode("."), 0o700);
    assert_eq!(mode("key"), 0o600);
    assert_eq!(mode(&format!("{}.url", one.id())), 0o600);
    assert_eq!(one.stop().code(), Some(0));
    assert!(home.registered().is_empty());
    one.logs("leaving the circuit");
}

#[test]
fn an_interrupt_stops_it_in_order_too() {
    let home = Home::new();
    let mut one = home.start("one");
    one.signal(Signal::INT);
    assert_eq!(one.exit_status().code(), Some(0));
    assert!(home.registered().is_empty());
}

#[test]
fn leftovers_of_a_killed_server_are_not_taken_for_a_server() {
    let home = Home::new();
    let mut one = home.start("one");
    one.kill();
    assert_eq!(home.registered().len(), 1);
    home.circuit("ls /")
        .status(255)
        .stderr(
            "circuit: ls: no circuit to dial: neither -d, -discover, CIRCUIT, CIRCUIT_DISCOVER nor \
             CIRCUIT_SOCKET is given, no server of yours runs on this machine, and there is no \
             /run/circuit/circuit.sock\n\
             hint: `circuit start` starts one\n",
        )
        .run();
    let two = home.start("two");
    assert_eq!(home.registered(), [format!("{}.url", two.id())]);
}

#[test]
fn it_listens_where_it_is_told() {
    let check = |flags: &str, expected: &str| {
        let home = Home::new();
        let server = home.circuit(format!("start -name one {flags}")).serve();
        let shown = server.url().to_string();
        assert!(shown.starts_with(expected), "{flags}: {shown}");
        server.circuit("peek /one/nothing").stdout("null\n").run();
    };
    check("-a 127.0.0.1", "circuit://127.0.0.1:");
    check("--addr 127.0.0.1", "circuit://127.0.0.1:");
    check("-addr localhost", "circuit://127.0.0.1:");
    check("-if lo", "circuit://127.0.0.1:");
    check("--if=lo", "circuit://127.0.0.1:");
    let port = free_port();
    check(
        &format!("-a 127.0.0.1:{port}"),
        &format!("circuit://127.0.0.1:{port}/"),
    );
    let port = free_port();
    check(
        &format!("-if lo -a :{port}"),
        &format!("circuit://127.0.0.1:{port}/"),
    );
    match UdpSocket::bind("[::1]:0") {
        Ok(_) => {
            check("-a ::1", "circuit://[::1]:");
            check("-a [::1]:0", "circuit://[::1]:");
        }
        Err(_) => skipped("IPv6 on loopback"),
    }
}

#[test]
fn a_server_announces_an_address_or_the_host_that_it_was_told() {
    let check = |flags: &str, expected: &str| {
        let home = Home::new();
        let key = home.write("key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n");
        let server = home
            .circuit(format!("start -hmac {} {flags}", key.display()))
            .serve();
        let shown = server.url().to_string();
        assert!(shown.starts_with(expected), "{flags}: {shown}");
        assert!(
            !shown.contains("0.0.0.0") && !shown.contains("[::]"),
            "{shown}"
        );
    };
    check("-a 0.0.0.0", "circuit://");
    check("-a ::", "circuit://");
    check(
        "-a 127.0.0.1 -advertise 203.0.113.9:7000",
        "circuit://203.0.113.9:7000/",
    );
    check(
        "-a 127.0.0.1 -advertise 203.0.113.9",
        "circuit://203.0.113.9:",
    );
    check(
        "-a 127.0.0.1 -advertise host.example:7000",
        "circuit://host.example:7000/",
    );
    check(
        "-a 127.0.0.1 -advertise 2001:db8::1",
        "circuit://[2001:db8::1]:",
    );
}

#[test]
fn a_port_that_is_taken_is_an_error() {
    let home = Home::new();
    let one = home.start("one");
    let address = one.address();
    home.circuit(format!("start -a {address}"))
        .status(1)
        .stderr(format!(
            "circuit: start: cannot listen on {address}: address already in use\n"
        ))
        .run();
    assert_eq!(home.registered().len(), 1, "the failed one left nothing");
}

#[test]
fn with_var_it_comes_back_as_itself() {
    let home = Home::new();
    let start = "start -name one -var state/of/one";
    let mut first = home.circuit(start).serve();
    let id = first.id();
    home.circuit(start)
        .status(1)
        .stderr(format!(
            "circuit: start: state/of/one is in use by process {}, which serves: give each server \
             a directory of its own\n",
            first.pid()
        ))
        .run();
    first.kill();
    let second = home.circuit(start).serve();
    assert_eq!(second.id(), id);
    for file in fs::read_dir(home.file("state/of/one")).unwrap() {
        let mode = file.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let other = home.start("other");
    assert_ne!(other.id(), id);
}

#[test]
fn a_var_that_is_damaged_or_impossible_is_named() {
    let home = Home::new();
    fs::create_dir(home.file("var")).unwrap();
    home.write("var/identity.pem", "rubbish");
    home.circuit("start -var var")
        .status(1)
        .stderr(
            "circuit: start: var/identity.pem is damaged: restore it, or remove it and become a \
             new server: no private key and certificate in PEM: no items found\n",
        )
        .run();
    drop(home.circuit("start -name one -var kept").serve());
    fs::remove_file(home.file("kept/incarnation")).unwrap();
    home.circuit("start -var kept")
        .status(1)
        .stderr(
            "circuit: start: kept/incarnation is missing: restore it, or write into it a number \
             that is greater than its last one, or remove kept/identity.pem and become a new \
             server\n",
        )
        .run();
    home.circuit("start -var /proc/nowhere")
        .status(1)
        .stderr("circuit: start: cannot use /proc/nowhere: no such file or directory\n")
        .run();
}

#[test]
fn a_runtime_directory_that_cannot_be_made_is_named_with_the_remedy() {
    let home = Home::new();
    home.circuit("start")
        .env("XDG_RUNTIME_DIR", "/no/such")
        .status(1)
        .stderr(
            "circuit: start: cannot use the runtime directory /no/such/circuit (XDG_RUNTIME_DIR \
             names another): no such file or directory\n",
        )
        .run();
}

#[test]
fn a_runtime_directory_that_others_can_enter_is_refused() {
    let home = Home::new();
    let dir = home.runtime_dir();
    fs::create_dir(&dir).unwrap();
    let shown = dir.display();
    for (mode, why) in [
        (
            0o755,
            format!("others can look into {shown}: chmod 700 {shown}"),
        ),
        (
            0o777,
            format!(
                "{shown} is not a directory of this user's own with mode 0700: remove it, or set \
                 XDG_RUNTIME_DIR"
            ),
        ),
    ] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
        home.circuit("start")
            .status(1)
            .stderr(format!("circuit: start: {why}\n"))
            .run();
        home.circuit("ls")
            .status(255)
            .stderr(format!(
                "circuit: ls: no circuit to dial: neither -d, -discover, CIRCUIT, \
                 CIRCUIT_DISCOVER nor CIRCUIT_SOCKET is given, and your servers cannot be looked up: {why}\n"
            ))
            .run();
    }
}

#[test]
fn servers_to_join_that_are_not_there_yet_are_waited_for() {
    let home = Home::new();
    let port = free_port();
    let one = home
        .circuit(format!("start -name one -j circuit://127.0.0.1:{port}"))
        .serve();
    let warning = one.logs("cannot join");
    assert!(
        warning.ends_with(&format!(
            "cannot join circuit://127.0.0.1:{port} yet: no answer from 127.0.0.1:{port} within 3 s"
        )),
        "{warning}"
    );
    let two = home
        .circuit(format!("start -name two -a 127.0.0.1:{port}"))
        .serve();
    Server::see_each_other(&[&one, &two]);
}

#[test]
fn two_servers_that_join_each_other_at_the_same_time_are_one_circuit() {
    let home = Home::new();
    let (a, b) = (free_port(), free_port());
    let start = |name, own, other| {
        home.circuit(format!(
            "start -name {name} -a 127.0.0.1:{own} -j circuit://127.0.0.1:{other}"
        ))
        .serve()
    };
    let (one, two) = (start("one", a, b), start("two", b, a));
    Server::see_each_other(&[&one, &two]);
}

#[test]
fn to_join_oneself_is_nothing() {
    let home = Home::new();
    let port = free_port();
    let one = home
        .circuit(format!(
            "start -name one -a 127.0.0.1:{port} -j circuit://127.0.0.1:{port}"
        ))
        .serve();
    assert_eq!(one.peek("/one")["Servers"], 1);
}

#[test]
fn the_log_can_be_json() {
    let home = Home::new();
    let mut one = home.circuit("start -name one -log json").serve();
    one.peek("/one");
    one.stop();
    let log = one.log();
    assert!(log.lines().count() >= 2, "{log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn the_name_is_the_hosts_unless_told() {
    let home = Home::new();
    let server = home.circuit("start").serve();
    let host = rustix::system::uname()
        .nodename()
        .to_str()
        .unwrap()
        .to_owned();
    assert_eq!(server.peek(&format!("/{}", server.id()))["Name"], host);
    let named = home.circuit("start --name=o.K_-9").serve();
    assert_eq!(named.peek("/o.K_-9")["Name"], "o.K_-9");
}

#[test]
fn a_stdout_that_nobody_reads_is_no_reason_not_to_serve() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let _server = home.circuit("start -name one").spawn_into(writer);
    crate::support::eventually("it registers", || {
        (home.registered().len() == 1).then_some(())
    });
    home.circuit("peek /one/nothing").stdout("null\n").run();
}

#[test]
fn flags_that_cannot_be_are_refused() {
    let home = Home::new();
    let check = |flags: &str, status, error: &str| {
        home.circuit(format!("start {flags}"))
            .status(status)
            .stderr(format!("circuit: {error}\n"))
            .run();
        assert!(home.registered().is_empty(), "{flags}");
    };
    check(
        "-a 127.0.0.1:x",
        2,
        "start: not an address (HOST[:PORT]): 127.0.0.1:x",
    );
    check(
        "-a 192.0.2.1",
        1,
        "start: cannot listen on 192.0.2.1:0: cannot assign requested address",
    );
    check(
        "-a 127.0.0.1 -if lo",
        2,
        "start: -a HOST and -if both say where to listen: give one (-a :PORT goes with -if)",
    );
    check(
        "-advertise 0.0.0.0",
        2,
        "start: -advertise: not an address (HOST[:PORT]): 0.0.0.0",
    );
    check(
        "-name X0000000000000001",
        2,
        "start: -name \"X0000000000000001\": a name must not look like an id",
    );
    check(
        "-name a/b",
        2,
        "start: -name \"a/b\": a server's name is of letters (a to z, A to Z), digits, '.', '_' and '-'",
    );
    check(
        "-name ..",
        2,
        "start: -name \"..\": a server's name begins with a letter or a digit",
    );
    check(
        "-j 10.0.0.1:11022",
        2,
        "invalid value '10.0.0.1:11022' for '-j <URL>': not a circuit URL \
         (circuit://HOST:PORT/PID/Qid): 10.0.0.1:11022\n\
         hint: write it as circuit://10.0.0.1:11022",
    );
    check(
        "-discover 10.0.0.1:7711",
        2,
        "invalid value '10.0.0.1:7711' for '-discover <GROUP:PORT>': not a multicast address: \
         those are 224.0.0.0 to 239.255.255.255, and ff00::/8",
    );
    check(
        "-log xml",
        2,
        "invalid value 'xml' for '-log <FORM>' [possible values: text, json]",
    );
    check(
        "-hmac /no/key",
        1,
        "start: cannot read the key file /no/key: no such file or directory",
    );
    home.write("file", "");
    check("-var file", 1, "start: cannot use file: not a directory");
    let interface = home.circuit("start -if nope0").status(2).any_stderr().run();
    let named =
        "circuit: start: no network interface named nope0 has an address: those that have one are ";
    assert!(
        interface.stderr().starts_with(named),
        "{}",
        interface.stderr()
    );
    home.circuit("start")
        .env("CIRCUIT_DISCOVER", "10.0.0.1:7711")
        .status(2)
        .stderr(
            "circuit: start: CIRCUIT_DISCOVER=10.0.0.1:7711: not a multicast address: those are \
             224.0.0.0 to 239.255.255.255, and ff00::/8\n",
        )
        .run();
}

#[test]
fn a_server_that_leaves_blames_nobody_whom_it_was_joining() {
    let home = Home::new();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let mut one = home
        .circuit(format!("start -name one -j circuit://{address}"))
        .serve();
    silent.recv(&mut [0; 1500]).unwrap();
    assert_eq!(one.stop().code(), Some(0));
    assert!(!one.log().contains("cannot join"), "{}", one.log());
}

#[test]
fn a_kept_identity_that_others_can_read_draws_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    drop(home.circuit("start -name one -var var").serve());
    let identity = home.file("var/identity.pem");
    std::fs::set_permissions(&identity, std::fs::Permissions::from_mode(0o644)).unwrap();
    let one = home.circuit("start -name one -var var").serve();
    one.logs("others can enter or read var/identity.pem: chmod 0600 var/identity.pem");
}

#[test]
fn any_address_can_be_advertised() {
    let home = Home::new();
    let check = |given: &str, announced: &str| {
        let one = home
            .circuit(format!("start -a 127.0.0.1 -name one -advertise {given}"))
            .serve();
        let url = one.url().to_string();
        assert!(
            url.starts_with(&format!("circuit://{announced}")),
            "{given}: {url}"
        );
        assert!(
            !url.starts_with(&format!("circuit://{announced}1/")),
            "{given}: {url}"
        );
    };
    check("10.0.0.1", "10.0.0.1:");
    check("10.0.0.1:7", "10.0.0.1:7");
    check("host.example:7", "host.example:7");
    check("2001:db8::1:2", "[2001:db8::1:2]:");
    check("fd00:1:2:3:4:5:6:7", "[fd00:1:2:3:4:5:6:7]:");
    check("[fd00:1:2:3:4:5:6:7]", "[fd00:1:2:3:4:5:6:7]:");
    check("[fd00:1:2:3:4:5:6:7]:7", "[fd00:1:2:3:4:5:6:7]:7");
}

#[test]
fn a_server_that_came_back_as_another_is_joined_if_it_has_the_key() {
    let home = Home::new();
    home.circuit("keygen key").run();
    home.circuit("keygen another").run();
    let two = home.circuit("start -name two -hmac key").serve();
    let mut before = two.url().clone();
    if let Some(server) = &mut before.server {
        server.id.0 ^= 1;
    }
    let joining = |key: &str| {
        home.circuit(format!("start -name one -hmac {key} -j {before}"))
            .serve()
    };
    let is_another = format!(
        "{} is {}, not {}: was it restarted?",
        two.address(),
        two.url().server.unwrap().id.in_url(),
        before.server.unwrap().id.in_url()
    );
    let one = joining("key");
    let warning = one.logs("it holds our key if it can be joined");
    assert!(warning.contains(&is_another), "{warning}");
    one.logs(&format!("joined: {}", two.id()));
    two.logs(&format!("joined: {}", one.id()));
    let stranger = joining("another");
    let warning = stranger.logs("cannot join");
    assert!(warning.contains("another key"), "{warning}");
    assert!(!stranger.log().contains("joined: "), "{}", stranger.log());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let home = Home::new();
    let [mut one, two] = home.start_all(["one", "two"]);
    // The server waits a little for a peer that does not confirm the close.
    two.signal(Signal::STOP);
    one.signal(Signal::STOP);
    one.signal(Signal::TERM);
    one.signal(Signal::INT);
    one.signal(Signal::CONT);
    assert_eq!(one.exit_status().code(), Some(1));
    two.signal(Signal::CONT);
}

#[test]
fn the_supervisor_hears_when_the_server_is_ready_and_when_it_stops() {
    use std::os::unix::net::UnixDatagram;
    let home = Home::new();
    let path = home.file("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor
        .set_read_timeout(Some(crate::support::DEADLINE))
        .unwrap();
    let told = || {
        let mut told = [0; 64];
        let length = supervisor.recv(&mut told).unwrap();
        String::from_utf8(told[..length].to_vec()).unwrap()
    };
    let start = home.circuit("start").env("NOTIFY_SOCKET", &path);
    let mut server = start.serve();
    assert_eq!(told(), "READY=1");
    assert!(server.stop().success());
    assert_eq!(told(), "STOPPING=1");
}
