//! DNS servers: made, filled, asked with a real resolver and with `dig`, attacked, and ended.

mod nsd;
mod zone;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RecordType;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::process::Signal;

use super::support::{DEADLINE, Home, Server, eventually, skipped};

/// Makes a DNS server, and returns its address.
pub(crate) fn make(server: &Server, path: &str, options: &str) -> SocketAddr {
    server.circuit(format!("mkdns {options} {path}")).run();
    address(server, path)
}

fn address(server: &Server, path: &str) -> SocketAddr {
    let status = server.peek(path);
    status["Address"].as_str().unwrap().parse().unwrap()
}

fn set(server: &Server, path: &str, record: &str) {
    server.circuit(format!("set {path}")).arg(record).run();
}

/// A query for the A records of `a.`.
const QUERY: &[u8] = &[
    0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1,
];

/// Whether it still answers.
pub(crate) fn answers(address: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(address).unwrap();
    let mut buffer = [0; 2048];
    let Ok(length) = socket.send(QUERY).and_then(|_| socket.recv(&mut buffer)) else {
        return false;
    };
    length > 12 && buffer[..2] == QUERY[..2]
}

#[test]
fn the_commands_of_the_reference_work_as_printed() {
    let home = Home::new();
    let server = home.start("one");
    let path = format!("/{}/mydns", server.id());
    let address = make(&server, &path, "");
    assert!(address.ip().is_loopback() && address.port() != 0);
    let empty =
        format!("{{\n\t\"Address\": \"{address}\",\n\t\"Records\": {{}},\n\t\"Zone\": null\n}}\n");
    server.circuit(format!("peek {path}")).stdout(empty).run();
    set(&server, &path, "miek.nl. 3600 IN MX 10 mx.miek.nl.");
    set(&server, &path, "miek.nl. 3600 IN MX 20 mx2.miek.nl.");
    let full = format!(
        "{{\n\t\"Address\": \"{address}\",\n\t\"Records\": {{\n\t\t\"miek.nl.\": [\n\
         \t\t\t\"miek.nl.\\t3600\\tIN\\tMX\\t10 mx.miek.nl.\",\n\
         \t\t\t\"miek.nl.\\t3600\\tIN\\tMX\\t20 mx2.miek.nl.\"\n\t\t]\n\t}},\n\t\"Zone\": null\n}}\n"
    );
    server.circuit(format!("peek {path}")).stdout(full).run();
    server.circuit(format!("unset {path} miek.nl.")).run();
    assert_eq!(server.peek(&path)["Records"], serde_json::json!({}));
    let listed = server.circuit(format!("ls -l /{}", server.id()));
    listed.stdout(format!("dns     {path}\n")).run();
    server.circuit(format!("scrub {path}")).run();
    // Its port is free again, for UDP and TCP.
    UdpSocket::bind(address).unwrap();
    TcpListener::bind(address).unwrap();
}

#[test]
fn records_are_kept_in_order_and_replaced_in_place() {
    let home = Home::new();
    let server = home.start("one");
    make(&server, "/one/d", "");
    for record in [
        "b. A 10.0.0.2",
        "B. 60 TXT x",
        "a. 5 A 10.0.0.1",
        "b. A 10.0.0.3",
        "b. A 10.0.0.2",
        "b. 7 A 10.0.0.2",
    ] {
        set(&server, "/one/d", record);
    }
    let expected = serde_json::json!({
        "a.": ["a.\t5\tIN\tA\t10.0.0.1"],
        "b.": ["b.\t7\tIN\tA\t10.0.0.2", "B.\t60\tIN\tTXT\t\"x\"", "b.\t3600\tIN\tA\t10.0.0.3"],
    });
    assert_eq!(server.peek("/one/d")["Records"], expected);
    server.circuit("unset /one/d B A").run();
    let expected = serde_json::json!({
        "a.": ["a.\t5\tIN\tA\t10.0.0.1"],
        "b.": ["B.\t60\tIN\tTXT\t\"x\""],
    });
    assert_eq!(server.peek("/one/d")["Records"], expected);
    server.circuit("unset /one/d nothing.").run();
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let home = Home::new();
    let server = home.start("one");
    let taken = make(&server, "/one/d", "");
    set(&server, "/one/d", "a. A 10.0.0.1");
    let check = |command: &str, argument: &str, expected: &str| {
        let mut circuit = server.circuit(command).status(1);
        if !argument.is_empty() {
            circuit = circuit.arg(argument);
        }
        circuit.stderr(format!("circuit: {expected}\n")).run();
    };
    check(
        "set /one/d",
        "a. A 10.0.0.999",
        "set /one/d: the record, column 6: not an IPv4 address: 10.0.0.999",
    );
    check(
        "set /one/d",
        "a. CNAME b.",
        "set /one/d: a.: a CNAME stands alone at its name: unset what is there first",
    );
    check(
        "unset /one/d a. MXX",
        "",
        "unset /one/d: the type, column 1: no type (there are A, AAAA, CAA, CERT, CNAME, HINFO, MX, NAPTR, NS, OPENPGPKEY, PTR, SMIMEA, SOA, SRV, SSHFP, TLSA, TXT, and TYPEn): MXX",
    );
    check(
        "set /one/nothing",
        "a. A 10.0.0.1",
        "set /one/nothing: nothing there",
    );
    check(
        "set /one",
        "a. A 10.0.0.1",
        "set /one: a server does not take set",
    );
    check(
        &format!("mkdns /one/e {taken}"),
        "",
        &format!(
            "mkdns /one/e: cannot listen on {taken}: address already in use (port 0 takes any free one)"
        ),
    );
    check(
        "mkdns /one/e 127.0.0.1:x",
        "",
        "mkdns /one/e: not an address (HOST[:PORT]): 127.0.0.1:x",
    );
    check(
        "mkdns -zone a..b /one/e",
        "",
        "mkdns /one/e: the zone, column 1: a name with an empty part: a..b",
    );
    check(
        "mkdns /one/e 192.0.2.1:0",
        "",
        "mkdns /one/e: cannot listen on 192.0.2.1:0: cannot assign requested address (not an address of the server's host)",
    );
    // Everybody forgets the quotes once.
    let unquoted = server.circuit("set /one/d a. 60 A 10.0.0.1").status(2);
    let text = "circuit: set: a record is one argument: quote it\nhint: circuit set /one/d 'a. 60 A 10.0.0.1'\n";
    unquoted.stderr(text).run();
    // The commands that failed left nothing behind.
    server.circuit("peek /one/e").stdout("null\n").run();
    make(&server, "/one/e", "");
    let output = server.circuit("mkdns /one/e").unchecked();
    assert!(output.stderr().contains("occupied by a dns"), "{output}");
}

#[test]
fn a_port_that_is_taken_over_tcp_alone_makes_nothing() {
    let home = Home::new();
    let server = home.start("one");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = server
        .circuit(format!("mkdns /one/d {address}"))
        .unchecked();
    assert!(output.stderr().contains(&address.to_string()), "{output}");
    assert_eq!(output.status.code(), Some(1));
    server.circuit("peek /one/d").stdout("null\n").run();
    // The port is still free over UDP.
    UdpSocket::bind(address).unwrap();
}

#[test]
fn a_server_that_ends_ends_its_dns_servers() {
    let home = Home::new();
    let mut server = home.start("one");
    let address = make(&server, "/one/d", "");
    assert!(answers(address));
    server.signal(Signal::TERM);
    assert!(server.exit_status().success());
    UdpSocket::bind(address).unwrap();
}

fn resolver(address: SocketAddr, tcp: bool) -> Resolver<TokioRuntimeProvider> {
    let mut connection = match tcp {
        true => ConnectionConfig::tcp(),
        false => ConnectionConfig::udp(),
    };
    connection.port = address.port();
    let server = NameServerConfig::new(address.ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, vec![], vec![server]);
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().cache_size = 0;
    builder.build().unwrap()
}

#[tokio::test]
async fn a_resolver_believes_it() {
    let home = Home::new();
    let server = home.start("one");
    let client = server.client(&home).await;
    let anchor = client.walk("/one/d").unwrap();
    let dns = anchor.make_dns(None).await.unwrap();
    for record in [
        "example. 300 SOA ns.example. h.example. 1 3600 600 86400 60",
        "www.example. A 10.0.0.1",
        "www.example. A 10.0.0.2",
        "alias.example. CNAME WWW.example.",
        "example. MX 10 mail.example.",
        "t.example. TXT \"a b\" \"\\000\\255\"",
        "_s._tcp.example. SRV 1 2 3 www.example.",
        "*.wild.example. AAAA fd00::1",
    ] {
        dns.set(record).await.unwrap();
    }
    let address = dns.peek().await.unwrap().address.parse().unwrap();
    for tcp in [false, true] {
        let resolver = resolver(address, tcp);
        let look_up = async |name: &str, kind| {
            let found = resolver.lookup(name, kind).await;
            let found = found.unwrap_or_else(|error| panic!("{name} {kind}: {error}"));
            let data = found.answers().iter().map(|record| record.data.to_string());
            data.collect::<Vec<_>>()
        };
        let addresses = ["10.0.0.1", "10.0.0.2"];
        assert_eq!(look_up("www.example.", RecordType::A).await, addresses);
        let alias = look_up("alias.example.", RecordType::A).await;
        assert_eq!(alias, ["WWW.example.", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(
            look_up("example.", RecordType::MX).await,
            ["10 mail.example."]
        );
        assert_eq!(
            look_up("_s._tcp.example.", RecordType::SRV).await,
            ["1 2 3 www.example."]
        );
        assert_eq!(
            look_up("x.wild.example.", RecordType::AAAA).await,
            ["fd00::1"]
        );
        let text = resolver
            .lookup("t.example.", RecordType::TXT)
            .await
            .unwrap();
        let text = format!("{:?}", text.answers()[0].data);
        assert!(
            text.contains("[97, 32, 98]") && text.contains("[0, 255]"),
            "{text}"
        );
        let missing = resolver
            .lookup("no.example.", RecordType::A)
            .await
            .unwrap_err();
        assert!(missing.is_nx_domain(), "{missing}");
        let nodata = resolver
            .lookup("www.example.", RecordType::MX)
            .await
            .unwrap_err();
        assert!(
            nodata.is_no_records_found() && !nodata.is_nx_domain(),
            "{nodata}"
        );
    }
    dns.unset("www.example.", None).await.unwrap();
    let error = resolver(address, false)
        .lookup("www.example.", RecordType::A)
        .await;
    assert!(error.unwrap_err().is_nx_domain());
    dns.scrub().await.unwrap();
    assert!(anchor.get().await.unwrap().is_none());
}

/// The output of `dig`; `None` where it is not installed.
fn dig(address: SocketAddr, arguments: &str) -> Option<String> {
    let mut command = Command::new("dig");
    command
        .arg(format!("@{}", address.ip()))
        .args(["-p", &address.port().to_string(), "+tries=1", "+time=10"])
        .args(arguments.split_whitespace());
    let Ok(output) = command.output() else {
        skipped("dig (bind9-dnsutils)");
        return None;
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "dig {arguments}: {text}");
    Some(text)
}

#[test]
fn dig_understands_it() {
    let home = Home::new();
    let server = home.start("one");
    let address = make(&server, "/one/d", "");
    for record in [
        "example. SOA ns.example. h.example. 1 2 3 4 60",
        "t.example. TXT \"a;b\" \"\\200\"",
    ] {
        set(&server, "/one/d", record);
    }
    for number in 0..60 {
        set(
            &server,
            "/one/d",
            &format!("many.example. A 10.0.0.{number}"),
        );
    }
    let check = |arguments: &str, expected: &[&str], unwanted: &[&str]| {
        let Some(text) = dig(address, arguments) else {
            return;
        };
        for part in expected {
            assert!(text.contains(part), "{arguments}: no {part} in {text}");
        }
        for part in unwanted
            .iter()
            .chain(&["WARNING", "malformed", "extra bytes"])
        {
            assert!(!text.contains(part), "{arguments}: {part} in {text}");
        }
    };
    check(
        "+norec T.example TXT",
        &["NOERROR", " aa;", "T.example.", "\"a;b\" \"\\200\""],
        &[],
    );
    check(
        "+norec no.example",
        &["NXDOMAIN", "SOA\tns.example. h.example. 1 2 3 4 60"],
        &[],
    );
    check("+norec elsewhere", &["REFUSED"], &[]);
    check("+norec +edns=1 +noednsneg t.example TXT", &["BADVERS"], &[]);
    check(
        "+norec +noedns +ignore many.example",
        &[" tc", "ANSWER: 0"],
        &[],
    );
    // It asks again over TCP by itself.
    check("+norec +noedns many.example", &["ANSWER: 60"], &[" tc"]);
    check(
        "+norec +bufsize=4096 many.example",
        &["ANSWER: 60"],
        &[" tc"],
    );
    check("+norec +nocookie +notcp t.example ANY", &["ANSWER: 1"], &[]);
    check("+norec +cookie t.example TXT", &["ANSWER: 1"], &[]);
    check(
        "+norec +tcp +keepopen t.example TXT t.example MX",
        &["ANSWER: 1", "ANSWER: 0"],
        &[],
    );
    check("+norec CH version.bind TXT", &["REFUSED"], &[]);
}

#[test]
fn every_wildcard_address_answers_from_where_it_was_asked() {
    let home = Home::new();
    let server = home.start("one");
    server.circuit("mkdns /one/d 0.0.0.0:0").run();
    let port = address(&server, "/one/d").port();
    // A connected socket takes answers from this address alone.
    for ip in ["127.0.0.1", "127.0.0.2", "127.3.2.1"] {
        assert!(answers(format!("{ip}:{port}").parse().unwrap()), "{ip}");
    }
}

#[test]
fn random_packets_neither_stop_it_nor_hold_it_up() {
    let home = Home::new();
    let server = home.start("one");
    let address = make(&server, "/one/d", "");
    set(&server, "/one/d", "a. A 10.0.0.1");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let packets = proptest::collection::vec(any::<u8>(), 0..600);
    let tame = (proptest::collection::vec(any::<u8>(), 0..60), any::<u8>());
    let mut runner = TestRunner::new(Config::with_cases(500));
    let sent = runner.run(&(packets, tame), |(packet, (tail, count))| {
        socket.send_to(&packet, address).unwrap();
        let mut tame = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, count & 3];
        tame.extend(&tail);
        socket.send_to(&tame, address).unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        let length = u16::try_from(packet.len()).unwrap();
        // The server may close the connection at once.
        let _ = stream.write_all(&length.to_be_bytes());
        let _ = stream.write_all(&packet);
        prop_assert!(answers(address));
        Ok(())
    });
    sent.unwrap();
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn connections_that_say_nothing_hold_up_nobody() {
    let home = Home::new();
    let server = home.start("one");
    let address = make(&server, "/one/d", "");
    set(&server, "/one/d", "a. A 10.0.0.1");
    let silent: Vec<TcpStream> = (0..150)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    // Two queries are sent at once, and the second in pieces: RFC 7766, section 6.2.1.1.
    let framed = [&(QUERY.len() as u16).to_be_bytes(), QUERY].concat();
    stream
        .write_all(&[&framed[..], &framed[..7]].concat())
        .unwrap();
    stream.write_all(&framed[7..]).unwrap();
    for _ in 0..2 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer.len(), QUERY.len() + 16);
    }
    assert!(answers(address));
    drop(silent);
}

/// The descriptors that a server has open.
fn descriptors(server: &Server) -> usize {
    let all = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    all.count()
}

#[test]
fn connections_beyond_a_hosts_share_are_closed_and_cost_no_descriptors() {
    let home = Home::new();
    let server = home.start("one");
    let address = make(&server, "/one/d", "");
    let before = descriptors(&server);
    let open = || TcpStream::connect(address).unwrap();
    let mut silent: Vec<TcpStream> = (0..300).map(|_| open()).collect();
    // They are accepted in order: this machine's share is 192.
    for mut stream in silent.drain(192..) {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The server has closed it.
        assert!(!matches!(stream.read(&mut [0]), Ok(1)));
    }
    let held = descriptors(&server) - before;
    // A command that runs meanwhile may have one or two of its own.
    assert!((192..196).contains(&held), "{held}");
    assert!(answers(address));
    // Connections that are closed give their places back.
    drop(silent);
    let framed = [&(QUERY.len() as u16).to_be_bytes(), QUERY].concat();
    eventually("another is served", || {
        let mut stream = open();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(&framed).ok()?;
        stream.read_exact(&mut [0; 2]).ok()
    });
}

#[test]
fn a_full_element_says_so_and_can_be_peeked() {
    let home = Home::new();
    let server = home.start("one");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = server.client(&home).await;
        let dns = client.walk("/one/d").unwrap().make_dns(None).await.unwrap();
        let text = "\\255".repeat(250);
        let mut count = 0;
        let full = loop {
            match dns.set(&format!("n{count}.example. TXT {text}")).await {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.code(), Some(circuit_client::Code::TooLarge), "{full}");
        assert_eq!(dns.peek().await.unwrap().records.len(), count);
        assert!(count > 900, "{count}");
    });
}
