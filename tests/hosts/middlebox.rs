//! Boxes between hosts that meddle with silent connections.

use std::time::Duration;

use rustix::process::Signal;

use super::{DISCOVER, circuit_on, hosts, logged, on_hosts, said, whole, work_together};
use crate::support::Server;

/// Answers every TCP packet with a reset, as a firewall does that has forgotten the connections.
const RESETS: &str = "table inet firewall { chain in { type filter hook input priority 0; \
                      iifname \"eth0\" meta l4proto tcp reject with tcp reset; }; }";

/// How long the server stands still: longer than a server is waited for whose process is known to
/// be gone, shorter than one that is merely silent.
const STALL: Duration = Duration::from_millis(3500);

#[test]
fn a_stall_behind_a_box_that_resets_tethers_removes_nobody() {
    on_hosts(|| {
        let hosts = hosts::<3>();
        let servers = circuit_on(&hosts.each_ref(), DISCOVER);
        let all: Vec<&Server> = servers.iter().collect();
        for server in &all {
            server.until(&format!("/{}", server.id()), |status| {
                status["Tethers"] == 2
            });
        }
        if !hosts[2].filter(RESETS) {
            return;
        }
        let others = [all[0], all[1]];
        let before = logged(&others);
        servers[2].signal(Signal::STOP);
        let left = format!("left: {}", servers[2].id());
        let (_, silent) = said(&others, &before, &left, STALL);
        servers[2].signal(Signal::CONT);
        assert_eq!(silent.len(), 2, "{}", others[0].log());
        whole(&all);
        work_together(&all);
    });
}
