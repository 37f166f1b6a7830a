//! A client on a host of its own needs to reach one server only.

use super::{DISCOVER, GROUP, Host, circuit_on, hosts, on_hosts};
use crate::support::Server;

/// Checks that a client on this host, which can dial the first server, has all of the circuit.
fn has_all_of_it(client: &Host, servers: &[Server]) {
    let mut listed: Vec<String> = servers.iter().map(|s| format!("/{}\n", s.id())).collect();
    listed.sort();
    let url = servers[0].url();
    client
        .circuit(format!("ls -d {url}"))
        .stdout(listed.concat())
        .run();
    client
        .circuit(format!("ls -d {url} /..."))
        .stdout(listed.concat())
        .run();
    for server in servers {
        let id = server.id();
        // The text is longer than the windows of both directions.
        let text = "0123456789abcde\n".repeat(200_000);
        client
            .circuit(format!("run -d {url} {id} -- cat"))
            .stdin(text.as_str())
            .stdout(text.as_str())
            .run();
        client
            .circuit(format!("mkproc -d {url} /{id}/p"))
            .stdin(r#"{"Path": "false"}"#)
            .run();
        let status = client
            .circuit(format!("wait -d {url} /{id}/p"))
            .any_stdout()
            .run()
            .json();
        assert_eq!(status["Exit"], "exit status 1");
        client.circuit(format!("scrub -d {url} /{id}/p")).run();
    }
}

#[test]
fn a_host_without_a_server_reaches_all_servers_through_one() {
    on_hosts(|| {
        let [a, b, c, client] = hosts();
        let servers = circuit_on(&[&a, &b, &c], DISCOVER);
        has_all_of_it(&client, &servers);
        let mut listed: Vec<String> = servers.iter().map(|s| format!("/{}\n", s.id())).collect();
        listed.sort();
        let listed = listed.concat();
        client
            .circuit(format!("ls -discover {GROUP} /..."))
            .stdout(&*listed)
            .run();
        client
            .circuit("ls /...")
            .env("CIRCUIT_DISCOVER", GROUP)
            .stdout(&*listed)
            .run();
        client
            .home()
            .write(".circuit", &format!("{}\n", servers[1].url()));
        client
            .circuit("ls /...")
            .env("CIRCUIT", "~/.circuit")
            .stdout(&*listed)
            .run();
        client
            .circuit("ls /")
            .status(255)
            .stderr(
                "circuit: ls: no circuit to dial: neither -d, -discover, CIRCUIT, \
                 CIRCUIT_DISCOVER nor CIRCUIT_SOCKET is given, no server of yours runs on this machine, \
                 and there is no /run/circuit/circuit.sock\n\
                 hint: `circuit start` starts one\n",
            )
            .run();
    });
}

#[test]
fn a_client_that_nobody_can_reach_needs_no_more_than_answers() {
    on_hosts(|| {
        let [a, b, client] = hosts();
        let servers = circuit_on(&[&a, &b], DISCOVER);
        let answers_only = "table inet t { chain in { type filter hook input priority 0; policy \
                            drop; iif lo accept; ct state established,related accept; }; }";
        if !client.filter(answers_only) {
            return;
        }
        has_all_of_it(&client, &servers);
        // An answer to a packet that was sent to a group is none to a packet filter.
        client
            .circuit(format!("ls -discover {GROUP} /"))
            .status(255)
            .stderr(format!(
                "circuit: ls: no server answered on the multicast group {GROUP}\n"
            ))
            .run();
    });
}

#[test]
fn a_client_behind_address_translation_is_one_like_others() {
    on_hosts(|| {
        let [a, b, router, client] = hosts();
        router.plug("eth1", 1);
        router.ip("addr add 192.168.7.1/24 dev eth1");
        router.set("net/ipv4/ip_forward", "1");
        let masquerade = "table ip t { chain out { type nat hook postrouting priority 100; \
                          oifname \"eth0\" masquerade; }; }";
        if !router.filter(masquerade) {
            return;
        }
        client.move_to("eth0", 1);
        client.ip("addr flush dev eth0\naddr add 192.168.7.2/24 dev eth0\n\
             route add default via 192.168.7.1");
        let servers = circuit_on(&[&a, &b], DISCOVER);
        has_all_of_it(&client, &servers);
    });
}

#[test]
fn a_server_without_a_key_warns_and_one_on_loopback_is_alone() {
    on_hosts(|| {
        let [a, b] = hosts();
        let mut open = a.starting("-if eth0").env("CIRCUIT_HMAC", "").serve();
        let warning = format!(
            "circuit: WARNING: no key: anybody who reaches {} may run programs on this host \
             (make a key with `circuit keygen FILE`, give it with -hmac FILE)",
            open.address()
        );
        assert_eq!(open.logs("WARNING"), warning);
        b.circuit(format!("run -d {} h1 -- echo run", open.url()))
            .env("CIRCUIT_HMAC", "")
            .stdout("run\n")
            .run();
        open.stop();

        let keyed = a.start("-if eth0");
        assert!(!keyed.log().contains("WARNING"), "{}", keyed.log());
        drop(keyed);

        let alone = a.starting("").env("CIRCUIT_HMAC", "").serve();
        assert!(!alone.log().contains("WARNING"), "{}", alone.log());
        let port = alone.address().port();
        b.circuit(format!("ls -d circuit://10.7.0.1:{port} /"))
            .status(255)
            .stderr(format!(
                "circuit: ls: no answer from 10.7.0.1:{port} within 3 s\n"
            ))
            .run();
        // Another user of the same host: with a runtime directory, and so a local key, of their own.
        let other = b.home().file("run");
        b.circuit("start").env("CIRCUIT_HMAC", "").serve().stop();
        a.circuit(format!("ls -d {} /", alone.url()))
            .env("CIRCUIT_HMAC", "")
            .env("XDG_RUNTIME_DIR", other)
            .status(255)
            .stderr(format!(
                "circuit: ls: {} refused us: the circuit has another key\n\
                 hint: -hmac FILE, or CIRCUIT_HMAC, must name the key of that circuit\n",
                alone.address()
            ))
            .run();
        alone
            .circuit("ls /")
            .stdout(format!("/{}\n", alone.id()))
            .run();
    });
}
