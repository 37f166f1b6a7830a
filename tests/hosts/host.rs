//! A host: a network namespace, a user of its own in it, and cables to a switch.

use std::process::Command;
use std::sync::Arc;

use super::sandbox;
use crate::support::{Circuit, Home, Server, eventually, skipped};

/// The header of a packet on a cable, in bytes.
const ETHERNET: u64 = 14;

/// How many segments a switch has.
const SEGMENTS: usize = 2;

/// The key of the circuit, which every user has.
pub(super) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// A network namespace. Dropped, it is deleted with all that runs in it.
struct Netns {
    name: String,
}

/// The switch at the other end of the cables: a namespace with a bridge for each segment.
struct Switch {
    netns: Netns,
}

/// A host, with a user who has the circuit's key in `.hmac`, which `CIRCUIT_HMAC` names.
pub(super) struct Host {
    name: String,
    // Dropped first: what runs in it goes before the network does.
    home: Home,
    netns: Netns,
    switch: Arc<Switch>,
}

/// Hosts named `h1`, `h2`, … with `eth0` on the first segment: 10.7.0.1/24 and so on.
pub(super) fn hosts<const N: usize>() -> [Host; N] {
    many_hosts(N).try_into().ok().unwrap()
}

/// Hosts as [`hosts`] makes them, in any number.
pub(super) fn many_hosts(count: usize) -> Vec<Host> {
    let hosts = bare_hosts(count);
    for (at, host) in hosts.iter().enumerate() {
        host.plug("eth0", 0);
        host.ip(&format!("addr add 10.7.0.{}/24 dev eth0", at + 1));
    }
    for host in &hosts {
        host.wait_for_carrier("eth0");
    }
    hosts
}

/// Hosts without cables.
pub(super) fn bare_hosts(count: usize) -> Vec<Host> {
    let switch = Arc::new(Switch::new());
    (1..=count)
        .map(|number| Host::new(format!("h{number}"), switch.clone()))
        .collect()
}

impl Netns {
    fn new(role: &str) -> Netns {
        let name = sandbox::new_name(role);
        sandbox::ip(&["netns", "add", &name], "");
        let netns = Netns { name };
        netns.ip("link set lo up");
        netns
    }

    /// Changes its network, a line for each change.
    fn ip(&self, lines: &str) {
        sandbox::ip(&["-n", &self.name, "-batch", "-"], lines);
    }

    /// A program in it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(sandbox::tool("ip").unwrap());
        command.args(["netns", "exec", &self.name, program]);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        sandbox::delete(&self.name);
    }
}

impl Switch {
    fn new() -> Switch {
        let netns = Netns::new("switch");
        for segment in 0..SEGMENTS {
            // It passes multicast on to everybody: nobody here tells it who listens.
            netns.ip(&format!(
                "link add br{segment} type bridge mcast_snooping 0\nlink set br{segment} up"
            ));
        }
        Switch { netns }
    }
}

impl Host {
    fn new(name: String, switch: Arc<Switch>) -> Host {
        let netns = Netns::new(&name);
        let home = Home::new();
        home.write(".hmac", KEY);
        let host = Host {
            name,
            home,
            netns,
            switch,
        };
        // An address is the host's at once, not after a second in which others may object.
        host.set("net/ipv6/conf/default/accept_dad", "0");
        host
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The user's directory.
    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// A command line after `circuit`, its words separated by spaces.
    pub(super) fn circuit(&self, line: impl AsRef<str>) -> Circuit {
        let command = self.netns.command(env!("CARGO_BIN_EXE_circuit"));
        let mut command = self.home.clean(command);
        command.env("CIRCUIT_HMAC", self.home.file(".hmac"));
        Circuit::new(command, line.as_ref())
    }

    /// Another program, as [`Host::circuit`] would run the binary.
    pub(super) fn program(&self, program: &str, arguments: &str) -> Circuit {
        let mut command = self.home.clean(self.netns.command(program));
        command.env("CIRCUIT_HMAC", self.home.file(".hmac"));
        Circuit::new(command, arguments)
    }

    /// `circuit start` with these flags and the host's name.
    pub(super) fn starting(&self, flags: &str) -> Circuit {
        self.circuit(format!("start -name {} {flags}", self.name))
    }

    /// A server with these flags and the host's name.
    pub(super) fn start(&self, flags: &str) -> Server {
        self.starting(flags).serve()
    }

    /// Runs a script in a shell that has `circuit` and no key, and gives its output.
    pub(super) fn shell(&self, script: &str) -> String {
        let circuit = std::path::Path::new(env!("CARGO_BIN_EXE_circuit"));
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.home.clean(self.netns.command("timeout"));
        command
            .args(["20", "bash", "-euo", "pipefail", "-c", script])
            .env(
                "PATH",
                format!("{}:{path}", circuit.parent().unwrap().display()),
            );
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {script}: {stderr}",
            output.status
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Changes its network: `addr add 10.7.0.9/24 dev eth0`.
    pub(super) fn ip(&self, lines: &str) {
        self.netns.ip(lines);
    }

    /// Sets a parameter of its kernel: `net/ipv4/ip_forward`.
    pub(super) fn set(&self, parameter: &str, value: &str) {
        let script = format!("echo {value} > /proc/sys/{parameter}");
        let mut command = self.netns.command("sh");
        let (set, why) = sandbox::run(command.args(["-c", &script]), "");
        assert!(set, "{parameter}: {why}");
    }

    /// Gives it rules for its packet filter. False, and said, if there is none.
    pub(super) fn filter(&self, rules: &str) -> bool {
        let Some(nft) = sandbox::tool("nft") else {
            skipped("nft (nftables)");
            return false;
        };
        let mut command = self.netns.command(nft.to_str().unwrap());
        let (set, why) = sandbox::run(command.args(["-f", "-"]), rules);
        if !set {
            skipped(&format!("nftables: {why}"));
        }
        set
    }

    /// Has `eth0` lose one in so many of the packets that arrive. False, and said, if it cannot.
    pub(super) fn lose_one_in(&self, count: u32) -> bool {
        self.filter(&format!(
            "table inet loss {{ chain in {{ type filter hook input priority 0; \
             iifname \"eth0\" numgen random mod {count} == 0 drop; }}; }}"
        ))
    }

    /// Gives it another interface, with a cable to a segment.
    pub(super) fn plug(&self, interface: &str, segment: usize) {
        let port = self.port(interface);
        self.switch.netns.ip(&format!(
            "link add {port} type veth peer name {interface} netns {host}\n\
             link set {port} master br{segment} up",
            host = self.netns.name,
        ));
        self.ip(&format!("link set {interface} up"));
    }

    /// Puts the other end of a cable into another segment.
    pub(super) fn move_to(&self, interface: &str, segment: usize) {
        let port = self.port(interface);
        self.switch
            .netns
            .ip(&format!("link set {port} master br{segment}"));
    }

    /// Pulls the cable of `eth0`: the host sees that it has no carrier.
    pub(super) fn cut(&self) {
        let port = self.port("eth0");
        self.switch.netns.ip(&format!("link set {port} down"));
    }

    /// Plugs it in again.
    pub(super) fn heal(&self) {
        let port = self.port("eth0");
        self.switch.netns.ip(&format!("link set {port} up"));
    }

    /// Loses all that is sent to `eth0` or from it: the host sees nothing.
    pub(super) fn mute(&self) {
        let port = self.port("eth0");
        self.switch.netns.ip(&format!("link set {port} nomaster"));
    }

    /// Undoes [`Host::mute`].
    pub(super) fn unmute(&self) {
        self.move_to("eth0", 0);
    }

    /// Waits until the kernel holds an interface to be up, which takes it up to a second.
    pub(super) fn wait_for_carrier(&self, interface: &str) {
        eventually("the interface is up", || {
            let mut command = self.netns.command("cat");
            let state = command
                .arg(format!("/sys/class/net/{interface}/operstate"))
                .output()
                .unwrap();
            (state.stdout == b"up\n").then_some(())
        });
    }

    /// How many packets `eth0` has sent, and how many bytes in them from the IP header on.
    pub(super) fn sent(&self) -> (u64, u64) {
        let count = |what: &str| -> u64 {
            let mut command = self.switch.netns.command("cat");
            let path = format!("/sys/class/net/{}/statistics/rx_{what}", self.port("eth0"));
            let output = command.arg(path).output().unwrap();
            String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse()
                .unwrap()
        };
        let packets = count("packets");
        (packets, count("bytes") - packets * ETHERNET)
    }

    /// The name of the switch's end of the cable.
    fn port(&self, interface: &str) -> String {
        format!("{}-{interface}", self.name)
    }
}
