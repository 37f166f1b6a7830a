//! The address under which a server is known: by its interfaces' routes, or as it is told.

use super::host::bare_hosts;
use super::{DISCOVER, GROUP, circuit_on, hosts, on_hosts, whole, work_together};
use crate::support::Server;

/// The host in the URL that a server announces.
fn host_of(server: &Server) -> String {
    server.address().ip().to_string()
}

#[test]
fn a_server_that_listens_everywhere_announces_the_way_to_the_group() {
    on_hosts(|| {
        let [a, b, c] = hosts();
        for (host, number) in [(&a, 1), (&b, 2)] {
            host.plug("eth1", 1);
            host.ip(&format!("addr add 10.7.1.{number}/24 dev eth1"));
            host.wait_for_carrier("eth1");
        }
        // The one has a route to the group, the others none at all.
        a.ip("route add 228.8.8.8/32 dev eth1");
        // The third is on one segment only.
        c.ip("route add 10.7.1.0/24 via 10.7.0.2");
        a.ip("route add 10.7.0.3/32 via 10.7.1.2");
        b.set("net/ipv4/ip_forward", "1");
        let one = a.start(&format!("-discover {GROUP}"));
        let two = b.start(&format!("-discover {GROUP}"));
        let three = c.starting("").env("CIRCUIT_DISCOVER", GROUP).serve();
        assert_eq!(host_of(&one), "10.7.1.1");
        assert_eq!(host_of(&two), "10.7.0.2");
        assert_eq!(host_of(&three), "10.7.0.3");
        whole(&[&one, &two, &three]);
        work_together(&[&one, &two, &three]);
        drop(three);
        let join = c.start(&format!("-a 0.0.0.0 -j {}", two.url()));
        assert_eq!(host_of(&join), "10.7.0.3");
    });
}

#[test]
fn others_dial_the_address_that_a_server_advertises() {
    on_hosts(|| {
        let [a, b, c] = hosts();
        c.ip("addr add 10.7.0.30/24 dev eth0");
        // Nobody gets in under the first.
        let second_only = "table inet t { chain in { type filter hook input priority 0; \
                           ct state established,related accept; ip daddr 10.7.0.3 drop; }; }";
        if !c.filter(second_only) {
            return;
        }
        let others = circuit_on(&[&a, &b], DISCOVER);
        let three = c.start("-a :7003 -advertise 10.7.0.30");
        assert_eq!(three.address().to_string(), "10.7.0.30:7003");
        others[0].circuit(format!("join /h1 {}", three.url())).run();
        let all = [&others[0], &others[1], &three];
        whole(&all);
        work_together(&all);
        let seen = others[1].circuit("ls -l /").any_stdout().run();
        assert!(seen.stdout().contains("10.7.0.30:7003\n"), "{seen}");
    });
}

#[test]
fn a_server_behind_address_translation_is_in_the_circuit_as_advertised() {
    on_hosts(|| {
        let [a, b, router, inside] = hosts();
        router.plug("eth1", 1);
        router.ip("addr add 192.168.7.1/24 dev eth1");
        router.set("net/ipv4/ip_forward", "1");
        let translation = "table ip t { \
            chain pre { type nat hook prerouting priority -100; \
            iifname \"eth0\" udp dport 17000 dnat to 192.168.7.2:7000; }; \
            chain post { type nat hook postrouting priority 100; \
            oifname \"eth0\" masquerade; }; }";
        if !router.filter(translation) {
            return;
        }
        inside.move_to("eth0", 1);
        inside.ip("addr flush dev eth0\naddr add 192.168.7.2/24 dev eth0\n\
                   route add default via 192.168.7.1");
        let outside = circuit_on(&[&a, &b], DISCOVER);
        let hidden = inside.start(&format!(
            "-if eth0 -a :7000 -advertise 10.7.0.3:17000 -j {}",
            outside[0].url()
        ));
        assert_eq!(hidden.address().to_string(), "10.7.0.3:17000");
        let all = [&outside[0], &outside[1]];
        for server in all {
            server.logs(&format!("joined: {}", hidden.id()));
            hidden.logs(&format!("joined: {}", server.id()));
        }
        // From outside to it, and from a client beside it to all: it cannot dial its own address.
        for server in all {
            server
                .circuit("run h4 -- echo from inside")
                .stdout("from inside\n")
                .run();
        }
        let direct = format!("circuit://192.168.7.2:7000/{}", hidden.pid());
        let id = hidden.url().server.unwrap().id.in_url();
        for server in all {
            inside
                .circuit(format!("run -d {direct}/{id} {} -- echo out", server.id()))
                .stdout("out\n")
                .run();
        }
    });
}

#[test]
fn a_host_without_a_network_says_what_cannot_be_reached() {
    on_hosts(|| {
        let host = bare_hosts(1).remove(0);
        let alone = host.start("-discover 239.7.7.7:7711 -a :7000");
        let warning = "circuit: WARNING: announced as 127.0.0.1:7000, where no other host reaches \
                       it: start it once the network is up, or give -a HOST, -if or -advertise";
        assert_eq!(alone.logs("WARNING"), warning);
        drop(alone);
        let own = host.start("-a 127.0.0.1:7000");
        assert!(!own.log().contains("WARNING"), "{}", own.log());
        let interface = host.circuit("start -if eth0").status(2).any_stderr().run();
        assert_eq!(
            interface.stderr(),
            "circuit: start: no network interface named eth0 has an address: those that have one \
             are lo\n"
        );
        host.circuit("ls -d circuit://10.7.0.1:7000 /")
            .status(255)
            .stderr("circuit: ls: no route to 10.7.0.1:7000: network unreachable\n")
            .run();
        // Of the kind of address that the group has, no interface has any.
        host.plug("eth0", 0);
        host.ip("addr add fd07::1/64 dev eth0");
        host.wait_for_carrier("eth0");
        let six = host.start(&format!("-if eth0 -discover {GROUP}"));
        six.logs("multicast: no interface to listen on yet");
    });
}
