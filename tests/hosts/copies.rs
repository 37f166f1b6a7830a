//! Two servers, and five, on copies of one `-var` directory, on hosts that a partition keeps apart.

use std::time::Duration;

use super::{Host, hosts, on_hosts};
use crate::copies::{ENDS, GOES_ON, copy};
use crate::support::{Server, eventually_within};

#[test]
fn across_a_partition_the_one_that_has_lived_longer_goes_on() {
    on_hosts(|| {
        let all: [Host; 4] = hosts();
        let [a, b, p, q] = &all;
        // Both join by both bystanders, and find one of them.
        let joins = "-j circuit://10.7.0.3:7000 -j circuit://10.7.0.4:7000";
        let line = format!("-name x -a :7001 -var state {joins}");
        let start = |host: &Host, line: &str| host.circuit(format!("start {line}")).serve();
        let mut made = start(a, "-name x -a :7001 -var state");
        assert!(made.stop().success());
        copy(&a.home().file("state"), &b.home().file("state"));
        let bystanders = [p, q].map(|host| host.start(&format!("-a :7000 {joins}")));
        let [p_server, q_server] = &bystanders;
        Server::see_each_other(&[p_server, q_server]);
        for host in [b, q] {
            host.move_to("eth0", 1);
        }
        let first = start(a, &line);
        Server::see_each_other(&[p_server, &first]);
        std::thread::sleep(Duration::from_millis(1300));
        let mut second = start(b, &line);
        Server::see_each_other(&[q_server, &second]);
        assert_eq!(first.id(), second.id());
        for host in [b, q] {
            host.move_to("eth0", 0);
        }
        eventually_within(Duration::from_secs(30), "the later one ends", || {
            second.log().contains(ENDS).then_some(())
        });
        assert_eq!(second.exit_status().code(), Some(1));
        first.logs(GOES_ON);
        Server::see_each_other(&[p_server, q_server, &first]);
        for server in &bystanders {
            eventually_within(Duration::from_secs(20), "it is reached", || {
                let ran = server.circuit("run x -- cat /proc/self/stat");
                let ran = ran.any_stdout().any_stderr().unchecked();
                ran.status.success().then_some(())
            });
            assert_eq!(server.peek("/x")["Addr"], first.url().to_string());
        }
    });
}

#[test]
fn of_five_across_a_partition_one_goes_on_at_each_side_and_then_one() {
    on_hosts(|| {
        let all: [Host; 7] = hosts();
        let [p, q, copies @ ..] = &all;
        let joins = "-j circuit://10.7.0.1:7000 -j circuit://10.7.0.2:7000";
        let line = format!("-name x -a :7001 -var state {joins}");
        let start = |host: &Host| host.circuit(format!("start {line}")).serve();
        let mut made = copies[0]
            .circuit("start -name x -a :7001 -var state")
            .serve();
        assert!(made.stop().success());
        for host in &copies[1..] {
            copy(&copies[0].home().file("state"), &host.home().file("state"));
        }
        let bystanders = [p, q].map(|host| host.start(&format!("-a :7000 {joins}")));
        let [p_server, q_server] = &bystanders;
        Server::see_each_other(&[p_server, q_server]);
        let beyond = [q, &copies[3], &copies[4]];
        for host in beyond {
            host.move_to("eth0", 1);
        }
        // Each lives for clearly longer than the next, on its side and altogether.
        let older = || std::thread::sleep(Duration::from_millis(1300));
        let ends = |server: &mut Server| {
            eventually_within(Duration::from_secs(30), "it ends", || {
                server.log().contains(ENDS).then_some(())
            });
            assert_eq!(server.exit_status().code(), Some(1));
        };
        let first = start(&copies[0]);
        Server::see_each_other(&[p_server, &first]);
        older();
        let mut second = start(&copies[3]);
        Server::see_each_other(&[q_server, &second]);
        older();
        for host in [&copies[1], &copies[2], &copies[4]] {
            ends(&mut start(host));
        }
        for host in beyond {
            host.move_to("eth0", 0);
        }
        ends(&mut second);
        first.logs(GOES_ON);
        Server::see_each_other(&[p_server, q_server, &first]);
        for server in &bystanders {
            assert_eq!(server.peek("/x")["Addr"], first.url().to_string());
        }
    });
}
