//! The multicast group, as a server listens and speaks to it: sockets and timers for the machine
//! in [`circuit_proto::discovery`].
//!
//! The server's start opens a [`Multicast`] and spawns [`run`]. Servers that are heard go out
//! through a channel; a closure tells which servers are in the circuit. Nothing here knows how
//! servers are dialled, or reads the packets.
//!
//! There is one listening socket for each interface, so that it is known on which segment a
//! packet arrived, and so that there is no limit to their number (Linux allows a socket 20
//! memberships, `net.ipv4.igmp_max_memberships`). Each is bound to the group's address, not to
//! the wildcard, so that it gets nothing but the group's packets; with `SO_REUSEADDR` every
//! server on the host gets each of them.
//!
//! **Invariant:** no error of the network ends [`run`]. The log says once that an interface fails, and
//! each look at the list of interfaces tries it again.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use circuit_client::discover::group::{Interface, Sender};
use circuit_proto::discovery::packet::MAX_PACKET;
use circuit_proto::discovery::{Input, Machine, Output, Segment};
use circuit_proto::handshake::Identity;
use circuit_proto::{Life, ServerId};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// How often the interfaces are looked at. Chosen, not measured: a look takes well under a
/// millisecond, and somebody who plugs in a cable waits that long.
const LOOK: Duration = Duration::from_secs(10);

/// The interfaces that a server uses: those on which it can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The loopback interface only.
    Loopback,
    /// The interface that has this address.
    Address(IpAddr),
    /// The interface of this name.
    Interface(String),
    /// All of them, the loopback one included.
    All,
}

impl Scope {
    /// The scope of a server that is bound to this address.
    pub fn of_bound(address: IpAddr) -> Scope {
        match address {
            address if address.is_unspecified() => Scope::All,
            address if address.is_loopback() => Scope::Loopback,
            address => Scope::Address(address),
        }
    }

    pub(super) fn contains(&self, interface: &Interface) -> bool {
        match self {
            Scope::Loopback => interface.is_loopback(),
            Scope::Address(address) => interface.addresses.contains(address),
            Scope::Interface(name) => interface.name == *name,
            Scope::All => true,
        }
    }
}

/// A packet that was sent to the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The interface on which it arrived.
    pub segment: Segment,
    /// The sender's address.
    pub from: SocketAddr,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// Returns the life in which a server is in the live view at this moment; `None` if it is not there. It is
/// called often, and must not block.
pub type LifeOf = Arc<dyn Fn(ServerId) -> Option<Life> + Send + Sync>;

/// The sockets of one group.
#[derive(Debug)]
pub struct Multicast {
    group: SocketAddr,
    scope: Scope,
    sender: Sender,
    listeners: Vec<Listener>,
    /// The socket to ask first for a packet, so that a busy one does not starve the others.
    turn: usize,
    /// Interfaces on which something failed, and nothing succeeded since.
    failing: BTreeSet<u32>,
}

#[derive(Debug)]
struct Listener {
    interface: Interface,
    socket: UdpSocket,
}

impl Multicast {
    /// Joins the group on the interfaces in scope that are up. Call it within a tokio runtime.
    ///
    /// Fails if the address is not a group's, or if there are such interfaces and the server can listen
    /// on none of them. It is no error if there is no such interface: one may come up.
    pub fn open(group: SocketAddr, scope: Scope) -> io::Result<Multicast> {
        let sender = Sender::open(group)?;
        let (listeners, failing) = (Vec::new(), BTreeSet::new());
        let mut multicast = Multicast {
            group,
            scope,
            sender,
            listeners,
            turn: 0,
            failing,
        };
        match multicast.look()? {
            Some(error) if multicast.listeners.is_empty() => return Err(error),
            _ => (),
        }
        if multicast.listeners.is_empty() {
            tracing::warn!(%group, "multicast: no interface to listen on yet");
        }
        Ok(multicast)
    }

    /// The segments that are listened on.
    pub fn segments(&self) -> Vec<Segment> {
        self.listeners
            .iter()
            .map(|listener| segment(&listener.interface))
            .collect()
    }

    /// Looks for interfaces that came or went, and joins and leaves the group on them. Returns
    /// the last error of those that could not be joined.
    pub fn look(&mut self) -> io::Result<Option<io::Error>> {
        let mut interfaces = Interface::list()?;
        interfaces.retain(|new| new.address_of(self.group).is_some() && self.scope.contains(new));
        self.failing
            .retain(|index| interfaces.iter().any(|new| new.index == *index));
        // If its addresses are others, it may be another interface with the number of an old one.
        self.listeners
            .retain(|listener| interfaces.contains(&listener.interface));
        let mut failure = None;
        for new in interfaces {
            if self
                .listeners
                .iter()
                .any(|listener| listener.interface == new)
            {
                continue;
            }
            match listen(self.group, &new) {
                Ok(socket) => self.listeners.push(Listener {
                    interface: new,
                    socket,
                }),
                Err(error) => {
                    self.on_failure(&new, "listen", &error);
                    failure = Some(error);
                }
            }
        }
        Ok(failure)
    }

    /// Waits for the next packet to the group; for ever if there is no interface. Longer packets
    /// than any of ours are cut.
    ///
    /// **Cancellation:** may be dropped at any moment; no packet is lost by it.
    pub async fn recv(&mut self) -> Received {
        poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Received> {
        // One byte more, so that a longer packet is seen to be one.
        let mut buffer = [0; MAX_PACKET + 1];
        let mut tried = 0;
        while tried < self.listeners.len() {
            self.turn = (self.turn + 1) % self.listeners.len();
            let listener = &self.listeners[self.turn];
            let mut bytes = ReadBuf::new(&mut buffer);
            match listener.socket.poll_recv_from(context, &mut bytes) {
                Poll::Ready(Ok(from)) => {
                    let segment = segment(&listener.interface);
                    return Poll::Ready(Received {
                        segment,
                        from,
                        bytes: bytes.filled().to_vec(),
                    });
                }
                // The next look at the interfaces opens it again, if it is still there.
                Poll::Ready(Err(error)) => {
                    let Listener { interface, .. } = self.listeners.swap_remove(self.turn);
                    self.on_failure(&interface, "listen", &error);
                    tried = 0;
                }
                Poll::Pending => tried += 1,
            }
        }
        Poll::Pending
    }

    /// Sends a packet to the group on a segment. A failure is logged, once until it succeeds.
    ///
    /// **Cancellation:** may be dropped at any moment; the packet is sent whole or not at all.
    pub async fn send(&mut self, to: Segment, bytes: &[u8]) {
        let mut all = self.listeners.iter().map(|listener| &listener.interface);
        let Some(interface) = all.find(|interface| segment(interface) == to).cloned() else {
            return;
        };
        match self.sender.multicast(&interface, bytes).await {
            Ok(()) if self.failing.remove(&interface.index) => {
                tracing::info!(group = %self.group, interface = interface.name, "multicast works again");
            }
            Ok(()) => {}
            Err(error) => self.on_failure(&interface, "send", &error),
        }
    }

    /// Sends a packet to one address, from a port of its own.
    pub async fn send_to(&self, to: SocketAddr, bytes: &[u8]) {
        if let Err(error) = self.sender.send(to, bytes).await {
            tracing::debug!(%to, %error, "a client that asked the group cannot be answered");
        }
    }

    fn on_failure(&mut self, interface: &Interface, what: &str, error: &io::Error) {
        if self.failing.insert(interface.index) {
            let interface = &interface.name;
            tracing::warn!(group = %self.group, interface, %error, "multicast: cannot {what}");
        }
    }
}

/// Drives the machine until the future is dropped, or until nobody receives from the channel.
///
/// A server that is heard while the channel is full is dropped: it will be heard again.
///
/// **Cancellation:** may be dropped at any moment; others notice nothing but silence.
pub async fn run(
    mut multicast: Multicast,
    mut machine: Machine,
    life_of: LifeOf,
    heard: mpsc::Sender<Identity>,
) {
    let begin = Instant::now();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let handle = |machine: &mut Machine, input: Input<'_>| {
        machine.handle(input, begin.elapsed(), &*life_of);
    };
    loop {
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Multicast { segment, bytes } => multicast.send(segment, &bytes).await,
                Output::Unicast { to, bytes } => multicast.send_to(to, &bytes).await,
                Output::Heard(candidate) => {
                    let Identity { url, name, .. } = &candidate;
                    tracing::debug!(%url, name, "heard of a server that is not in the circuit");
                    if let Err(mpsc::error::TrySendError::Closed(_)) = heard.try_send(candidate) {
                        return;
                    }
                }
            }
        }
        let timeout = machine.poll_timeout().map(|at| begin + at);
        tokio::select! {
            received = multicast.recv() => {
                let Received { segment, from, bytes } = received;
                handle(&mut machine, Input::Packet { segment, from, bytes: &bytes });
            }
            () = sleep_until(timeout.unwrap_or(begin)), if timeout.is_some() => {
                handle(&mut machine, Input::Timeout);
            }
            // The first tick is at once.
            _ = looks.tick() => {
                if let Err(error) = multicast.look() {
                    tracing::warn!(%error, "cannot list the network interfaces");
                }
                handle(&mut machine, Input::Segments(&multicast.segments()));
            }
            () = heard.closed() => return,
        }
    }
}

fn segment(interface: &Interface) -> Segment {
    Segment(interface.index)
}

/// A socket that gets the packets to the group on this interface.
fn listen(group: SocketAddr, interface: &Interface) -> io::Result<UdpSocket> {
    let group = interface
        .address_of(group)
        .ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    // On Linux SO_REUSEADDR is enough, and SO_REUSEPORT would be refused to other users' servers.
    #[cfg(not(target_os = "linux"))]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    {
        // This takes only packets that arrive on this interface. Kernels before 5.7 let only root set it; there
        // IP_MULTICAST_ALL does the same for IPv4, and for IPv6 a packet counts on all segments.
        let _ = socket.bind_device(Some(interface.name.as_bytes()));
        match group {
            SocketAddr::V4(_) => socket.set_multicast_all_v4(false)?,
            SocketAddr::V6(_) => socket.set_multicast_all_v6(false)?,
        }
    }
    match group.ip() {
        IpAddr::V4(ip) => {
            socket.bind(&group.into())?;
            let index = InterfaceIndexOrAddress::Index(interface.index);
            socket.join_multicast_v4_n(&ip, &index)?;
        }
        IpAddr::V6(ip) => {
            socket.set_only_v6(true)?;
            socket.bind(&group.into())?;
            socket.join_multicast_v6(&ip, interface.index)?;
        }
    }
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests;
