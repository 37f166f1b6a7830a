//! Several circuits on one segment and one group: each key is a circuit of its own.

use super::{DISCOVER, GROUP, hosts, on_hosts, started, whole};
use crate::support::{Circuit, Server};

const OTHER: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n";
const NOBODYS: &str = "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=\n";

#[test]
fn circuits_with_different_keys_stay_apart() {
    on_hosts(|| {
        let [a, b, client] = hosts();
        let mut starting: Vec<Circuit> = Vec::new();
        for host in [&a, &b, &client] {
            host.home().write("other", OTHER);
            host.home().write("nobodys", NOBODYS);
        }
        let keys = [".hmac", "other", ""];
        for key in keys {
            for host in [&a, &b] {
                starting.push(host.starting(DISCOVER).env("CIRCUIT_HMAC", key));
            }
        }
        let servers = started(starting);
        let pairs: Vec<[&Server; 2]> = servers.chunks(2).map(|two| [&two[0], &two[1]]).collect();
        for pair in &pairs {
            whole(pair);
        }
        for (pair, key) in pairs.iter().zip(keys) {
            let mut listed = pair.map(|server| format!("/{}\n", server.id()));
            listed.sort();
            client
                .circuit(format!("ls -discover {GROUP} /"))
                .env("CIRCUIT_HMAC", key)
                .stdout(listed.concat())
                .run();
        }
        let wrong = "hint: -hmac FILE, or CIRCUIT_HMAC, must name the key of that circuit\n";
        let asked = client
            .circuit(format!("ls -discover {GROUP} /"))
            .env("CIRCUIT_HMAC", "nobodys")
            .status(255)
            .any_stderr()
            .run();
        let said = format!("circuit: ls: no server of ours on the multicast group {GROUP}: ");
        assert!(asked.stderr().starts_with(&said), "{asked}");
        assert!(
            asked.stderr().contains("(answers: ") && asked.stderr().contains(")\nhint: "),
            "{asked}"
        );
        let check = |server: &Server, key: &str, reason: &str, hint: &str| {
            client
                .circuit(format!("ls -d {} /", server.url()))
                .env("CIRCUIT_HMAC", key)
                .status(255)
                .stderr(format!(
                    "circuit: ls: {} refused us: {reason}\n{hint}",
                    server.address()
                ))
                .run();
        };
        check(pairs[0][0], "other", "the circuit has another key", wrong);
        check(
            pairs[0][0],
            "",
            "the circuit has a key, and none was given",
            "hint: name its key with -hmac FILE, or in CIRCUIT_HMAC\n",
        );
        check(
            pairs[2][0],
            ".hmac",
            "a key was given, and the circuit has none",
            "hint: leave -hmac out, and CIRCUIT_HMAC unset, for that circuit\n",
        );
        // Servers are told the same, and go on.
        let stranger = client
            .starting(&format!("-if eth0 -j {}", pairs[1][0].url()))
            .serve();
        stranger.logs("refused us: the circuit has another key");
        for pair in &pairs {
            Server::see_each_other(pair);
        }
    });
}
