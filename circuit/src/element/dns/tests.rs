use std::net::UdpSocket;
use std::sync::mpsc;
use std::time::Duration;

use circuit_proto::Fingerprint;
use circuit_proto::membership::Record as Server;

use super::*;

const ME: ServerId = ServerId(1);

/// How long a test waits for another thread before it fails.
const DEADLINE: Duration = Duration::from_secs(10);

fn start(zone: &str) -> Arc<Dns> {
    let runtime = crate::runtime::Runtime::alone();
    Dns::start("127.0.0.1:0".parse().unwrap(), Some(zone), ME, &runtime).unwrap()
}

fn server(number: u64) -> Arc<Server> {
    let mut fingerprint = Fingerprint([0; 32]);
    fingerprint.0[..8].copy_from_slice(&number.to_be_bytes());
    Arc::new(Server {
        fingerprint,
        url: "circuit://10.0.0.1:1".parse().unwrap(),
        name: "a".to_owned(),
        count: 1,
        instance: 0,
    })
}

/// The code and the number of the answers to a query for the A records of a server in the zone `z.`.
fn ask(dns: &Dns, number: u64) -> (u8, u8) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.connect(dns.address).unwrap();
    let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 17];
    query.extend(format!("x{number:016x}").bytes());
    query.extend([1, b'z', 0, 0, 1, 0, 1]);
    socket.send(&query).unwrap();
    let mut answer = [0; 2048];
    let length = socket.recv(&mut answer).unwrap();
    assert!(length > 12 && answer[..2] == query[..2]);
    (answer[3] & 0xf, answer[7])
}

#[test]
fn a_notice_does_not_wait_for_an_answer_that_is_being_made() {
    let dns = start("z.");
    // The thread that answers holds the records in the same way.
    let records = dns.shared.records();
    let reading = records.read();
    let (done, is_done) = mpsc::channel();
    let notified = dns.clone();
    let network = std::thread::spawn(move || {
        notified.notice(&Notice::Join(server(7)));
        done.send(()).unwrap();
    });
    let waited = is_done.recv_timeout(DEADLINE);
    drop(reading);
    network.join().unwrap();
    waited.expect("the notice waits for the lock on the records");
}

#[test]
fn a_notice_is_in_every_later_answer() {
    const NXDOMAIN: u8 = 3;
    let dns = start("z.");
    dns.notice(&Notice::Join(server(7)));
    for _ in 0..100 {
        dns.notice(&Notice::Join(server(8)));
        assert_eq!(ask(&dns, 8), (0, 1));
        dns.notice(&Notice::Leave(server(8)));
        assert_eq!(ask(&dns, 8), (NXDOMAIN, 0));
    }
    assert_eq!(ask(&dns, 7), (0, 1));
}

#[test]
fn the_names_of_the_zone_are_the_circuit_s() {
    let dns = start("z.");
    let check = |record: &str, expected: Result<(), &str>| {
        let result = dns.set(record).map_err(|error| error.message);
        assert_eq!(
            result.as_ref().map_err(String::as_str),
            expected.as_ref().map(|_| &()).map_err(|e| *e),
            "{record}"
        );
    };
    check("a.z. A 10.0.0.1", Ok(()));
    check("*.a.z. A 10.0.0.1", Ok(()));
    check("*.y. A 10.0.0.1", Ok(()));
    check("_sip._udp.z. SRV 0 0 1 a.z.", Ok(()));
    for (name, data) in [
        ("x0123456789abcdef.z.", "A 10.0.0.1"),
        ("X0123456789ABCDEF.z.", "A 10.0.0.1"),
        // This record would answer for a server that has left, with NOERROR.
        ("a.x0123456789abcdef.z.", "A 10.0.0.1"),
        ("*.z.", "A 10.0.0.1"),
        ("a.*.z.", "A 10.0.0.1"),
        ("_circuit._udp.z.", "SRV 0 0 1 a.z."),
        ("a._circuit._udp.z.", "A 10.0.0.1"),
        // This record would hide the list of the servers.
        ("_udp.z.", "NS a.z."),
    ] {
        let refused = format!("{name}: the name is kept for the live servers");
        check(&format!("{name} {data}"), Err(&refused));
    }
}
