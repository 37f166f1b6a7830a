//! Hosts that have IPv6 and nothing else.

use std::net::Ipv6Addr;
use std::time::Instant;

use super::host::{Host, bare_hosts};
use super::{measured, on_hosts, started, whole, work_together};
use crate::support::{Server, eventually};

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
        for group in [
            "[ff02::7711]:7711",
            "[ff05::7711]:7711",
            "[ff02::7712%eth0]:7711",
        ] {
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

/// The link-local address of an interface, once the kernel has given it one.
fn link_local(host: &Host, interface: &str) -> Ipv6Addr {
    eventually("the interface has a link-local address", || {
        let table = host.shell("cat /proc/net/if_inet6");
        let line = table
            .lines()
            .find(|line| line.starts_with("fe80") && line.ends_with(&format!(" {interface}")))?;
        let digits = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        Some(Ipv6Addr::from(digits))
    })
}

#[test]
fn a_circuit_on_a_segment_with_link_local_addresses_only() {
    on_hosts(|| {
        let hosts: [Host; 4] = bare_hosts(4).try_into().ok().unwrap();
        for host in &hosts {
            // The other interface is on another segment, where nobody is: it has the lower number.
            host.plug("eth9", 1);
            host.plug("eth0", 0);
        }
        for host in &hosts {
            host.wait_for_carrier("eth0");
            link_local(host, "eth9");
        }
        let [a, b, c, client] = &hosts;
        let [_, on_b, on_c] = [a, b, c].map(|host| link_local(host, "eth0"));
        let group = "[ff02::7711]:7711";
        let one = a.start(&format!("-if eth0 -discover {group}"));
        let two = b.start(&format!("-a {on_b}%eth0 -discover {group}"));
        whole(&[&one, &two]);
        let begin = format!("circuit://[{on_b}]:");
        assert!(two.url().to_string().starts_with(&begin), "{}", two.url());
        let zoned = format!("circuit://[{on_b}%eth0]:{}", two.url().port);
        // Without a zone, as it was printed.
        let mut three = c.start(&format!("-if eth0 -j {}", two.url()));
        whole(&[&one, &two, &three]);
        three.stop();
        // Everywhere: the zone says which address is to be announced.
        let mut three = c.start(&format!("-a :7003 -j {zoned}"));
        let begin = format!("circuit://[{on_c}]:7003");
        assert!(
            three.url().to_string().starts_with(&begin),
            "{}",
            three.url()
        );
        whole(&[&one, &two, &three]);
        three.stop();
        let three = c.start(&format!("-a [{on_c}%eth0]:7003 -j {zoned}"));
        let all = [&one, &two, &three];
        whole(&all);
        work_together(&all);
        let mut listed: Vec<String> = all.iter().map(|s| format!("/{}\n", s.id())).collect();
        listed.sort();
        let listed = listed.concat();
        let pasted = format!("circuit://[{on_b}%25eth0]:{}", two.url().port);
        for way in [
            format!("-discover {group}"),
            format!("-d {}", two.url()),
            format!("-d {zoned}"),
            format!("-d {pasted}"),
        ] {
            client.circuit(format!("ls {way} /")).stdout(&*listed).run();
        }
        let wrong = format!("circuit://[{on_b}%eth7]:{}", two.url().port);
        client
            .circuit(format!("ls -d {wrong} /"))
            .any_stderr()
            .unchecked()
            .stderr()
            .contains("there is no network interface eth7")
            .then_some(())
            .expect("the interface is named");
    });
}
