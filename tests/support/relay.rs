//! A relay between servers on loopback: it passes UDP and TCP on from one port to a server's, until
//! it is told to lose packets.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How long a thread waits for a packet before it sees whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// The longest packet on loopback.
const PACKET: usize = 65_536;

/// A port before a server, which is started with `-advertise` of the relay's address. Dropped, it
/// passes nothing on any more.
pub(crate) struct Relay {
    port: Arc<Port>,
    address: SocketAddr,
}

struct Port {
    udp: UdpSocket,
    server: SocketAddr,
    cut: AtomicBool,
    over: AtomicBool,
    dials: AtomicUsize,
    datagrams: AtomicUsize,
    largest: AtomicUsize,
    /// Both ends of each TCP connection.
    streams: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// A port before one that is free.
    pub(crate) fn new() -> Relay {
        let (tcp, udp) = ports();
        let server = ports().1.local_addr().unwrap();
        udp.set_read_timeout(Some(LOOK)).unwrap();
        let address = udp.local_addr().unwrap();
        let port = Arc::new(Port {
            udp,
            server,
            cut: AtomicBool::new(false),
            over: AtomicBool::new(false),
            dials: AtomicUsize::new(0),
            datagrams: AtomicUsize::new(0),
            largest: AtomicUsize::new(0),
            streams: Mutex::default(),
        });
        let (packets, connections) = (port.clone(), port.clone());
        thread::spawn(move || packets.relay_packets());
        thread::spawn(move || connections.relay_connections(&tcp));
        Relay { port, address }
    }

    /// The address at which others dial the server.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address on which the server listens.
    pub(crate) fn behind(&self) -> SocketAddr {
        self.port.server
    }

    /// Loses every packet from now on, and all TCP connections.
    pub(crate) fn cut(&self) {
        self.port.cut.store(true, Ordering::SeqCst);
        self.end_connections();
    }

    /// Loses every packet from now on; TCP connections, on which nothing is said, stay.
    pub(crate) fn fall_silent(&self) {
        self.port.cut.store(true, Ordering::SeqCst);
    }

    /// Passes them on again.
    pub(crate) fn heal(&self) {
        self.port.cut.store(false, Ordering::SeqCst);
    }

    /// How many packets came that begin a QUIC connection (RFC 9000, section 17.2.2), those that
    /// were lost included.
    pub(crate) fn dials(&self) -> usize {
        self.port.dials.load(Ordering::SeqCst)
    }

    /// How many signed datagrams came (docs/PROTOCOL.md), those that were lost included.
    pub(crate) fn datagrams(&self) -> usize {
        self.port.datagrams.load(Ordering::SeqCst)
    }

    /// The length of the largest packet that came back from the server, in bytes.
    pub(crate) fn largest(&self) -> usize {
        self.port.largest.load(Ordering::SeqCst)
    }

    /// Ends all TCP connections: how many there were.
    pub(crate) fn end_connections(&self) -> usize {
        let streams = std::mem::take(&mut *self.port.streams.lock().unwrap());
        for stream in &streams {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
        streams.len() / 2
    }
}

/// Sockets on a port that nobody else has.
fn ports() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // Somebody else may have the same one for UDP.
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return (tcp, udp);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.port.over.store(true, Ordering::SeqCst);
        self.end_connections();
        // This wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Port {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn relay_packets(self: Arc<Self>) {
        let mut ways: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut packet = vec![0; PACKET];
        while !self.is_over() {
            let Ok((length, from)) = self.udp.recv_from(&mut packet) else {
                continue;
            };
            let packet = &packet[..length];
            if packet[0] & 0xf0 == 0xc0 {
                self.dials.fetch_add(1, Ordering::SeqCst);
            }
            if packet[0] == 1 {
                self.datagrams.fetch_add(1, Ordering::SeqCst);
            }
            if self.is_cut() {
                continue;
            }
            let way = ways.entry(from).or_insert_with(|| {
                let way = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                way.set_read_timeout(Some(LOOK)).unwrap();
                let way = Arc::new(way);
                let (port, back) = (self.clone(), way.clone());
                thread::spawn(move || port.relay_back(&back, from));
                way
            });
            // A packet that cannot be sent is lost, as on any network.
            let _ = way.send_to(packet, self.server);
        }
    }

    fn relay_back(&self, way: &UdpSocket, to: SocketAddr) {
        let mut packet = vec![0; PACKET];
        while !self.is_over() {
            let Ok((length, _)) = way.recv_from(&mut packet) else {
                continue;
            };
            self.largest.fetch_max(length, Ordering::SeqCst);
            if !self.is_cut() {
                let _ = self.udp.send_to(&packet[..length], to);
            }
        }
    }

    fn relay_connections(self: Arc<Self>, tcp: &TcpListener) {
        while let Ok((near, _)) = tcp.accept() {
            if self.is_over() {
                return;
            }
            // A connection that cannot be passed on is closed.
            let Ok(far) = TcpStream::connect(self.server) else {
                continue;
            };
            if self.is_cut() {
                continue;
            }
            let ends = [(&near, &far), (&far, &near)].map(|(from, to)| {
                let ends = (from.try_clone().unwrap(), to.try_clone().unwrap());
                thread::spawn(move || relay_bytes(ends.0, ends.1));
                from.try_clone().unwrap()
            });
            self.streams.lock().unwrap().extend(ends);
        }
    }
}

/// Passes on what one end says, and then that it has ended.
fn relay_bytes(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 4096];
    let mut relay = || -> io::Result<()> {
        loop {
            match from.read(&mut bytes)? {
                0 => return Ok(()),
                length => to.write_all(&bytes[..length])?,
            }
        }
    };
    let _ = relay();
    let _ = to.shutdown(Shutdown::Both);
}
