//! Hosts that have IPv6 and nothing else.

use std::time::Instant;

use super::host::{Host, bare_hosts};
use super::{measured, on_hosts, started, whole, work_together};
use crate::support::Server;

#[test]
fn a_circuit_on_a_segment_with_ipv6_only() {
    on_hosts(|| {
        let hosts: [Host; 4] = bare_hosts(4).try_into().ok().unwrap();
        for (at, host) in hosts.iter().enumerate() {
            host.plug("eth0", 0);
            host.ip(&format!("addr add fd07::{}/64 dev eth0", at + 1));
        }
        for host in &hosts {
            host.wait_for_carrier("eth0");
        }
        let [a, b, c, client] = &hosts;
        for group in ["[ff02::7711]:7711", "[ff05::7711]:7711"] {
            let discover = format!("-if eth0 -discover {group}");
            let begin = Instant::now();
            let servers = started(vec![a.starting(&discover), b.starting(&discover)]);
            whole(&[&servers[0], &servers[1]]);
            measured(
                &format!("two servers are one circuit by {group} after"),
                begin.elapsed(),
            );
            for (at, server) in servers.iter().enumerate() {
                let url = server.url().to_string();
                let begin = format!("circuit://[fd07::{}]:", at + 1);
                assert!(url.starts_with(&begin), "{url}");
            }
            let everywhere = c.start(&format!("-j {}", servers[1].url()));
            assert!(everywhere.address().is_ipv6(), "{}", everywhere.url());
            assert_eq!(everywhere.address().ip().to_string(), "fd07::3");
            let all: [&Server; 3] = [&servers[0], &servers[1], &everywhere];
            whole(&all);
            work_together(&all);
            let mut listed: Vec<String> = all.iter().map(|s| format!("/{}\n", s.id())).collect();
            listed.sort();
            let listed = listed.concat();
            client
                .circuit(format!("ls -discover {group} /"))
                .stdout(&*listed)
                .run();
            client
                .circuit(format!("ls -d {} /...", everywhere.url()))
                .stdout(&*listed)
                .run();
            client
                .circuit(format!("run -d {} h2 -- echo six", servers[0].url()))
                .stdout("six\n")
                .run();
        }
    });
}
