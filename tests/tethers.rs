//! Tethers: who is killed is gone at once, who is stopped is waited for, and nobody else gets
//! anything out of the port.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Home, Server, eventually_within};

/// How long news of a killed server may take: below what silence alone takes by seconds, above
/// what was measured (.6 s) by what a busy machine adds.
const KILLED: Duration = Duration::from_secs(2);

/// Waits until each server has a tether beside each of its links.
fn tethered(servers: &[&Server]) {
    for server in servers {
        let path = format!("/{}", server.id());
        server.until(&path, |status| {
            status["Degree"] == servers.len() - 1 && status["Tethers"] == servers.len() - 1
        });
    }
}

#[test]
fn a_killed_server_is_gone_at_once() {
    let home = Home::new();
    let [one, mut two, three] = home.start_all(["one", "two", "three"]);
    tethered(&[&one, &two, &three]);
    let rest = [&one, &three];
    let logged = rest.map(Server::logged);
    two.kill();
    let begin = Instant::now();
    for (server, logged) in rest.iter().zip(logged) {
        let left = format!("left: {}", two.id());
        assert!(server.logs_after(logged, &left, KILLED), "{}", server.log());
    }
    eprintln!("measured: killed, gone after {:?}", begin.elapsed());
    tethered(&rest);
}

#[test]
fn a_stopped_server_is_suspected_and_waited_for() {
    let home = Home::new();
    let [one, two, three] = home.start_all(["one", "two", "three"]);
    tethered(&[&one, &two, &three]);
    let logged = one.logged();
    two.signal(Signal::STOP);
    let suspected = |line: &str| line.contains(&two.id()) && line.ends_with("suspected");
    eventually_within(Duration::from_secs(6), "it is suspected", || {
        one.ls_long("/")
            .iter()
            .any(|line| suspected(line))
            .then_some(())
    });
    assert_eq!(one.peek("/one")["Suspected"], serde_json::json!([two.id()]));
    // Silence alone would have it removed by then.
    let left = format!("left: {}", two.id());
    assert!(
        !one.logs_after(logged, &left, Duration::from_secs(8)),
        "{}",
        one.log()
    );
    two.signal(Signal::CONT);
    eventually_within(Duration::from_secs(5), "nobody is suspected", || {
        let lines = one.ls_long("/");
        (lines.len() == 3 && !lines.iter().any(|line| suspected(line))).then_some(())
    });
    assert!(
        !one.logs_after(logged, &left, Duration::ZERO),
        "{}",
        one.log()
    );
}

#[test]
fn hostile_connections_are_closed_and_harm_nothing() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    tethered(&[&one, &two]);
    let connect = || {
        let stream = TcpStream::connect(one.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
    };
    let begin = Instant::now();
    let mut strangers: Vec<TcpStream> = (0..300).map(|_| connect()).collect();
    for (at, stranger) in strangers.iter_mut().enumerate() {
        let mut bytes = vec![0; at];
        getrandom::fill(&mut bytes).unwrap();
        // It may have been closed already.
        let _ = stranger.write_all(&bytes);
    }
    for stranger in &mut strangers {
        let mut said = Vec::new();
        // A reset is an end as good as any; a time-out is none.
        if let Err(error) = stranger.read_to_end(&mut said) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
        assert_eq!(said, b"");
    }
    assert!(
        begin.elapsed() < Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    tethered(&[&one, &two]);
    two.circuit("peek /one/nothing").stdout("null\n").run();
}

#[test]
fn a_server_whose_port_is_not_free_for_tcp_says_so_and_does_without() {
    let home = Home::new();
    let one = home.start("one");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let start = format!("start -name two -a {address} -j {}", one.url());
    let mut two = home.circuit(start).serve();
    let said = two.logs(&format!("cannot listen on TCP {address}: "));
    assert!(
        said.contains("the others learn of it from its silence"),
        "{said}"
    );
    let three = home
        .circuit(format!("start -name three -j {}", one.url()))
        .serve();
    Server::see_each_other(&[&one, &two, &three]);
    // Another program that is connected at that port does not pass for the server.
    let logged = one.logged();
    two.kill();
    let left = format!("left: {}", two.id());
    assert!(
        one.logs_after(logged, &left, Duration::from_secs(8)),
        "{}",
        one.log()
    );
    Server::see_each_other(&[&one, &three]);
}
