//! The live servers in a zone, as they come, leave, are killed and return.

use std::time::Instant;

use hickory_resolver::Resolver;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RecordType;
use tokio::runtime::Runtime;

use super::super::support::{Home, Server, eventually};
use super::{make, resolver, set};

const SERVICE: &str = "_circuit._udp.circuit.";

/// A stub resolver that asks one DNS server, with the runtime that it needs.
struct Stub {
    runtime: Runtime,
    resolver: Resolver<TokioRuntimeProvider>,
}

impl Stub {
    fn new(server: &Server, path: &str) -> Stub {
        let address = make(server, path, "-zone circuit.");
        Stub {
            runtime: Runtime::new().unwrap(),
            resolver: resolver(address, false),
        }
    }

    /// Returns the data of the records of a type, sorted.
    fn look_up(&self, name: &str, kind: RecordType) -> Vec<String> {
        let found = self.runtime.block_on(self.resolver.lookup(name, kind));
        let records = found.iter().flat_map(|found| found.answers());
        let mut all: Vec<String> = records.map(|record| record.data.to_string()).collect();
        all.sort();
        all
    }

    fn is_gone(&self, name: &str) -> bool {
        let found = self
            .runtime
            .block_on(self.resolver.lookup(name, RecordType::A));
        found.is_err_and(|error| error.is_nx_domain())
    }
}

/// The name of a server in the zone.
fn name(server: &Server) -> String {
    format!("{}.circuit.", server.id().to_lowercase())
}

/// The list of these servers.
fn list(servers: &[&Server]) -> Vec<String> {
    let all = servers.iter();
    let mut all: Vec<String> = all
        .map(|server| format!("0 0 {} {}", server.address().port(), name(server)))
        .collect();
    all.sort();
    all
}

#[test]
fn the_live_servers_are_in_the_zone_as_they_come_and_go() {
    let home = Home::new();
    let [one, mut two] = home.start_all(["one", "two"]);
    let stub = Stub::new(&one, "/one/d");
    assert_eq!(stub.look_up(SERVICE, RecordType::SRV), list(&[&one, &two]));
    assert_eq!(stub.look_up(&name(&two), RecordType::A), ["127.0.0.1"]);
    let three = home
        .circuit(format!("start -name three -j {}", one.url()))
        .serve();
    eventually("the third is in the zone", || {
        let all = stub.look_up(SERVICE, RecordType::SRV);
        (all == list(&[&one, &two, &three])).then_some(())
    });
    assert_eq!(stub.look_up(&name(&three), RecordType::A), ["127.0.0.1"]);
    two.stop();
    eventually("the second is no longer in the zone", || {
        let all = stub.look_up(SERVICE, RecordType::SRV);
        (all == list(&[&one, &three])).then_some(())
    });
    assert!(stub.is_gone(&name(&two)));
    // Records can be set beside the servers' names, but not at them.
    set(&one, "/one/d", "hello.circuit. A 10.0.0.1");
    assert_eq!(stub.look_up("hello.circuit.", RecordType::A), ["10.0.0.1"]);
    let refused = one
        .circuit("set /one/d")
        .arg(format!("{} A 10.0.0.1", name(&one)));
    let text = format!(
        "circuit: set /one/d: {}: the name is kept for the live servers\n",
        name(&one)
    );
    refused.status(1).stderr(text).run();
    let status = one.peek("/one/d");
    assert_eq!(status["Zone"], "circuit.");
    assert_eq!(status["Records"].as_object().unwrap().len(), 1);
}

#[test]
fn a_server_that_is_killed_is_gone_from_the_zone_until_it_returns() {
    let home = Home::new();
    let one = home.start("one");
    let start = format!("start -name two -var two -j {}", one.url());
    let mut two = home.circuit(&start).serve();
    let three = format!("start -name three -j {}", one.url());
    let three = home.circuit(three).serve();
    Server::see_each_other(&[&one, &two, &three]);
    // Each server that has a zone must know, whether it is a neighbour or not.
    let stubs = [Stub::new(&one, "/one/d"), Stub::new(&three, "/three/d")];
    for stub in &stubs {
        assert_eq!(stub.look_up(&name(&two), RecordType::A), ["127.0.0.1"]);
        let all = list(&[&one, &two, &three]);
        assert_eq!(stub.look_up(SERVICE, RecordType::SRV), all);
    }
    let killed = Instant::now();
    two.kill();
    for stub in &stubs {
        eventually("the killed server's name is not there", || {
            stub.is_gone(&name(&two)).then_some(())
        });
        eprintln!("gone from the zone {:?} after kill -9", killed.elapsed());
        let all = list(&[&one, &three]);
        assert_eq!(stub.look_up(SERVICE, RecordType::SRV), all);
    }
    // It comes back as itself, at another port.
    let gone = name(&two);
    let two = home.circuit(&start).serve();
    assert_eq!(name(&two), gone);
    for stub in &stubs {
        let all = list(&[&one, &two, &three]);
        eventually("the server that returned is listed", || {
            (stub.look_up(SERVICE, RecordType::SRV) == all).then_some(())
        });
        assert_eq!(stub.look_up(&gone, RecordType::A), ["127.0.0.1"]);
    }
}
