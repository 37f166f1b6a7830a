//! Servers and clients find each other by multicast, as the reference's README shows it.

use std::time::Instant;

use super::{DISCOVER, GROUP, hosts, measured, on_hosts, started, whole, work_together};
use crate::support::Server;

/// The lines that `ls` prints for these servers.
fn listed(servers: &[Server]) -> String {
    let mut lines: Vec<String> = servers.iter().map(|s| format!("/{}\n", s.id())).collect();
    lines.sort();
    lines.concat()
}

#[test]
fn the_same_command_on_four_hosts_at_once_makes_one_circuit() {
    on_hosts(|| {
        let hosts = hosts::<4>();
        let line = format!("start {DISCOVER} -hmac .hmac");
        let starting = hosts.each_ref().map(|host| {
            let name = host.name();
            host.circuit(format!("{line} -name {name}"))
        });
        let begin = Instant::now();
        let servers = started(starting.into());
        let up = begin.elapsed();
        for server in &servers {
            for other in servers.iter().filter(|other| other.id() != server.id()) {
                server.logs(&format!("joined: {}", other.id()));
            }
        }
        measured("four servers print their URLs after", up);
        measured("… and have found each other after", begin.elapsed());
        let all: Vec<&Server> = servers.iter().collect();
        whole(&all);
        work_together(&all);
        for (at, (host, server)) in hosts.iter().zip(&servers).enumerate() {
            let address = format!("10.7.0.{}", at + 1);
            assert_eq!(server.address().ip().to_string(), address);
            host.circuit(format!("ls -discover {GROUP} -hmac .hmac /"))
                .env("CIRCUIT_HMAC", "")
                .stdout(listed(&servers))
                .run();
        }
    });
}

#[test]
fn the_references_command_lines_work_as_printed() {
    on_hosts(|| {
        let hosts = hosts::<3>();
        let [a, b, client] = &hosts;
        let start = |host: &super::Host| {
            host.circuit("start -if eth0 -discover 228.8.8.8:7711")
                .env("CIRCUIT_HMAC", "")
        };
        let servers = started(vec![
            start(a),
            b.circuit("start -if eth0")
                .env("CIRCUIT_HMAC", "")
                .env("CIRCUIT_DISCOVER", GROUP),
        ]);
        whole(&[&servers[0], &servers[1]]);
        let printed = client.shell("circuit ls -discover 228.8.8.8:7711 /...");
        assert_eq!(printed, listed(&servers));
        let printed = client.shell("export CIRCUIT_DISCOVER=228.8.8.8:7711\ncircuit ls /...");
        assert_eq!(printed, listed(&servers));
        let url = servers[0].url();
        let printed = client.shell(&format!("circuit ls -d {url} /"));
        assert_eq!(printed, listed(&servers));
        let printed = client.shell(&format!(
            "echo {url} > ~/.circuit\nexport CIRCUIT=\"~/.circuit\"\ncircuit ls /"
        ));
        assert_eq!(printed, listed(&servers));
        for server in &servers {
            let id = server.id();
            let printed = client.shell(&format!(
                r#"export CIRCUIT_DISCOVER=228.8.8.8:7711
circuit mkproc /{id}/pippi << EOF
{{
	"Path": "/bin/ls", 
	"Args":["/"]
}}
EOF
circuit peek /{id}/pippi
cat /dev/null | circuit stdin /{id}/pippi
circuit stdout /{id}/pippi
circuit scrub /{id}/pippi
circuit peek /{id}/pippi"#
            ));
            assert!(printed.starts_with("{\n\t\"Cmd\": {"), "{printed}");
            assert!(printed.contains("\nbin\n"), "{printed}");
            assert!(printed.ends_with("\nnull\n"), "{printed}");
        }
    });
}

#[test]
fn discovery_and_join_urls_work_together() {
    on_hosts(|| {
        let [a, b, c, d] = hosts();
        let fixed = "-a 10.7.0.1:7001 -name h1";
        let join = "-j circuit://10.7.0.1:7001";
        // Two hear of each other and join the same third, which hears of nobody.
        let servers = started(vec![
            b.starting(&format!("{DISCOVER} {join}")),
            c.starting(&format!("{DISCOVER} {join}")),
            d.starting(DISCOVER),
            a.circuit(format!("start {fixed}")),
        ]);
        let all: Vec<&Server> = servers.iter().collect();
        whole(&all);
        work_together(&all);
    });
}
