//! A multicast group on this host: the interfaces through which it is reached, and the sockets
//! that send to it.
//!
//! Clients ask with it, servers announce with it. The receivers of the group's packets are in
//! the server, `circuit/src/peer/multicast.rs`. This file does not read the packets.
//!
//! **Invariant:** packets do not leave the segment: their time to live is 1. An announcement says
//! where a server listens, which is no business of other networks, and the circuit's users share
//! a segment; circuits across segments join by URL.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::task::Poll;

use circuit_proto::discovery::packet::MAX_PACKET;
use rustix::net::sockopt::set_ip_multicast_if_with_ifindex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

/// How many interfaces are used. Chosen, not measured: a host of containers may have thousands, and
/// each costs a server a socket.
const MAX_INTERFACES: usize = 64;

/// A network interface that is up and has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name: `eth0`.
    pub name: String,
    /// Its number, which the kernel knows it by.
    pub index: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// The interfaces that are up now, in the order of their numbers; at most 64.
    pub fn list() -> io::Result<Vec<Interface>> {
        let mut found: BTreeMap<u32, Interface> = BTreeMap::new();
        for entry in if_addrs::get_if_addrs()? {
            let Some(index) = entry.index.filter(|_| entry.is_oper_up()) else {
                continue;
            };
            let address = entry.ip();
            let interface = found.entry(index).or_insert_with(|| Interface {
                // `eth0:1` is a label of an address of `eth0`.
                name: entry.name.split(':').next().unwrap_or_default().to_owned(),
                index,
                addresses: Vec::new(),
            });
            interface.addresses.push(address);
        }
        Ok(found.into_values().take(MAX_INTERFACES).collect())
    }

    /// Whether it is the one that leads to this host only.
    pub fn is_loopback(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_loopback)
    }

    /// The address under which this interface reaches the group; `None` if it cannot, for want of
    /// an address of the group's family, or as the group names another interface.
    ///
    /// An IPv6 group is an IPv4 one on the loopback interface, on which Linux has no route to
    /// IPv6 groups: 239.255.0.0/16 (RFC 2365, section 6.1) with the last 16 bits of the group's.
    pub fn address_of(&self, group: SocketAddr) -> Option<SocketAddr> {
        match group {
            SocketAddr::V4(_) => self.ipv4().map(|_| group),
            SocketAddr::V6(v6) if ![0, self.index].contains(&v6.scope_id()) => None,
            SocketAddr::V6(v6) if self.is_loopback() => {
                let [.., high, low] = v6.ip().octets();
                self.ipv4()
                    .map(|_| ([239, 255, high, low], v6.port()).into())
            }
            SocketAddr::V6(v6) => {
                let scoped = SocketAddrV6::new(*v6.ip(), v6.port(), v6.flowinfo(), self.index);
                self.addresses
                    .iter()
                    .any(IpAddr::is_ipv6)
                    .then_some(scoped.into())
            }
        }
    }

    /// Its first IPv4 address.
    fn ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }
}

/// Refuses an address that is no multicast group.
pub fn check(group: SocketAddr) -> io::Result<()> {
    if group.ip().is_multicast() && group.port() != 0 {
        return Ok(());
    }
    let text = format!("not a multicast group and port (as 228.8.8.8:7711): {group}");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// Sends to a group, on whatever interface, and to and from single addresses.
///
/// **Cancellation:** all its futures may be dropped; a packet is sent whole or not at all, and
/// none that arrived is lost.
#[derive(Debug)]
pub struct Sender {
    group: SocketAddr,
    /// One of the group's family, and for an IPv6 group one for the loopback interface.
    sockets: Vec<UdpSocket>,
}

impl Sender {
    /// Sockets on free ports. Call it within a tokio runtime.
    pub fn open(group: SocketAddr) -> io::Result<Sender> {
        check(group)?;
        let mut sockets = vec![open(Domain::for_address(group))?];
        if group.is_ipv6() {
            sockets.extend(open(Domain::IPV4).ok());
        }
        Ok(Sender { group, sockets })
    }

    /// Sends a packet to the group on this interface. Servers on this host receive it too.
    pub async fn multicast(&mut self, interface: &Interface, bytes: &[u8]) -> io::Result<()> {
        let to = interface
            .address_of(self.group)
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = self.socket_for(to)?;
        point_at(socket, interface, to)?;
        socket.send_to(bytes, to).await.map(drop)
    }

    /// Sends a packet to one address.
    pub async fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        self.socket_for(to)?.send_to(bytes, to).await.map(drop)
    }

    /// Waits for a packet to one of the sockets' own ports; its length and sender. Longer packets
    /// than any of ours are cut, and seen to be longer. Only one task may wait.
    pub async fn recv(&self, buffer: &mut [u8; MAX_PACKET + 1]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|context| {
            for socket in &self.sockets {
                let mut read = ReadBuf::new(&mut buffer[..]);
                if let Poll::Ready(from) = socket.poll_recv_from(context, &mut read) {
                    return Poll::Ready(from.map(|from| (read.filled().len(), from)));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn socket_for(&self, to: SocketAddr) -> io::Result<&UdpSocket> {
        let fits = |socket: &&UdpSocket| {
            socket
                .local_addr()
                .is_ok_and(|own| own.is_ipv4() == to.is_ipv4())
        };
        Ok(self
            .sockets
            .iter()
            .find(fits)
            .ok_or(io::ErrorKind::AddrNotAvailable)?)
    }
}

/// A socket for sending to groups of this family and for receiving answers.
fn open(family: Domain) -> io::Result<UdpSocket> {
    let socket = Socket::new(family, Type::DGRAM, Some(Protocol::UDP))?;
    let any: SocketAddr = if family == Domain::IPV4 {
        socket.set_multicast_ttl_v4(1)?;
        socket.set_multicast_loop_v4(true)?;
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        socket.set_only_v6(true)?;
        socket.set_multicast_hops_v6(1)?;
        socket.set_multicast_loop_v6(true)?;
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    socket.set_nonblocking(true)?;
    socket.bind(&any.into())?;
    UdpSocket::from_std(socket.into())
}

/// Makes packets to a group leave through this interface.
fn point_at(socket: &UdpSocket, interface: &Interface, group: SocketAddr) -> io::Result<()> {
    if group.is_ipv6() {
        return SockRef::from(socket).set_multicast_if_v6(interface.index);
    }
    // The address, so that on the loopback interface packets come from 127.0.0.1: the kernel
    // would take another interface's. The number, because two interfaces may share one address.
    let address = interface.ipv4().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let any = Ipv4Addr::UNSPECIFIED;
    set_ip_multicast_if_with_ifindex(socket, &any, &address, interface.index)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_reaches_a_group_with_an_address_of_its_family() {
        let check = |addresses: &[&str], group: &str, expected: Option<&str>| {
            let addresses = addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect();
            let interface = Interface {
                name: "x".into(),
                index: 7,
                addresses,
            };
            let found = interface.address_of(group.parse().unwrap());
            assert_eq!(
                found.map(|address| address.to_string()).as_deref(),
                expected,
                "{group}"
            );
        };
        check(&["10.0.0.1"], "228.8.8.8:7711", Some("228.8.8.8:7711"));
        check(&["fd00::1"], "228.8.8.8:7711", None);
        check(&["10.0.0.1"], "[ff05::1]:7711", None);
        check(
            &["10.0.0.1", "fd00::1"],
            "[ff05::1]:7711",
            Some("[ff05::1%7]:7711"),
        );
        check(&["fd00::1"], "[ff02::1%7]:7711", Some("[ff02::1%7]:7711"));
        check(&["fd00::1"], "[ff02::1%8]:7711", None);
        check(&["127.0.0.1"], "[ff02::1%8]:7711", None);
        check(
            &["127.0.0.1", "::1"],
            "[ff05::102]:7711",
            Some("239.255.1.2:7711"),
        );
        check(&["::1"], "[ff05::102]:7711", None);
    }

    #[test]
    fn refuses_what_is_not_a_group() {
        let is_group = |text: &str| super::check(text.parse().unwrap()).is_ok();
        assert!(is_group("228.8.8.8:7711") && is_group("[ff02::1]:1"));
        assert!(!is_group("228.8.8.8:0") && !is_group("10.0.0.1:7711") && !is_group("[fd00::1]:1"));
    }

    #[test]
    fn lists_the_loopback_interface() {
        let all = Interface::list().unwrap();
        let loopback = all
            .iter()
            .find(|interface| interface.is_loopback())
            .unwrap();
        assert!(
            loopback
                .addresses
                .contains(&IpAddr::V4(Ipv4Addr::LOCALHOST))
        );
    }
}
