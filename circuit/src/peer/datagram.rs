//! Small signed packets between servers that have no connection, on the server's one UDP socket.
//!
//! Membership pings servers that it has no link to. A QUIC connection for that costs about 5 kB,
//! a signed packet at most 341 bytes, headers included. They share the socket with QUIC, and are told
//! apart by the first two bits, which in QUIC are never both zero while greasing is off (RFC 9000,
//! sections 17.2 and 17.3; RFC 9443).
//!
//! A packet: one byte [`MARK`], a code that proves the circuit's key (16; zeros where there is
//! none), the sender's Ed25519 public key (32), its signature (64), the message. Signed are a label,
//! the receiver's fingerprint and the message, so that a packet means nothing to anybody else; the
//! code covers all of that.
//!
//! **Invariant:** a packet from somebody without the circuit's key changes nothing and costs one
//! hash, unless it repeats a packet of a member: a few repetitions are taken. No packet costs more
//! than a signature check, and the number of checks in a second is bounded.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use circuit_client::transport::tls::{Certificate, Signed};
use circuit_proto::membership::{MAX_DATAGRAM, Message};
use circuit_proto::{Fingerprint, Key, auth};
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::runtime::Runtime as Means;
use crate::runtime::transient::is_transient;

/// The first byte. The upper two bits are zero.
const MARK: u8 = 1;

/// The length of a packet before the message.
const HEAD: usize = 1 + 16 + 32 + 64;

/// The longest packet.
const MAX_PACKET: usize = HEAD + MAX_DATAGRAM;

/// The label of the signature, which no other signature has.
const LABEL: &[u8] = b"circuit/1 datagram";

/// How many packets may wait. Chosen, not measured: the machine says again what is lost.
const QUEUE: usize = 256;

/// How many signatures are checked a second at most: at 60 µs each, 6 % of a core. Audits after a
/// mass failure bring 20 a second and their replies.
const CHECKS_PER_SECOND: u32 = 1000;

/// How often one and the same packet is taken in a second. Chosen, not measured: above the three
/// times that a ping is sent. One who repeats a recorded packet has little of the checks.
const REPEATS_PER_SECOND: u8 = 6;

/// The sending and receiving side of the packets.
#[derive(Debug)]
pub struct Datagrams {
    socket: std::net::UdpSocket,
    v6: bool,
    certificate: Certificate,
    key: Option<Key>,
    received: mpsc::Receiver<Vec<u8>>,
    second: Second,
}

/// The packets whose signatures were checked in one second.
#[derive(Debug)]
struct Second {
    since: Instant,
    checks: u32,
    /// How often each packet, by its signature; there are no more than checks.
    taken: HashMap<[u8; 64], u8>,
}

impl Second {
    fn new() -> Second {
        Second {
            since: Instant::now(),
            checks: 0,
            taken: HashMap::new(),
        }
    }

    /// Whether the signature of one more packet is to be checked.
    fn takes(&mut self, packet: &[u8]) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Second::new();
        }
        let signature = packet.get(32..).and_then(<[u8]>::first_chunk::<64>);
        let Some(signature) = signature else {
            return false;
        };
        if self.checks >= CHECKS_PER_SECOND {
            return false;
        }
        let count = self.taken.entry(*signature).or_default();
        if *count >= REPEATS_PER_SECOND {
            return false;
        }
        *count += 1;
        self.checks += 1;
        true
    }
}

impl Datagrams {
    /// Divides a socket into QUIC's side and this one.
    pub fn split(
        socket: std::net::UdpSocket,
        certificate: &Certificate,
        key: Option<&Key>,
        runtime: &Arc<Means>,
    ) -> io::Result<(Arc<dyn AsyncUdpSocket>, Datagrams)> {
        let (found, received) = mpsc::channel(QUEUE);
        let datagrams = Datagrams {
            socket: socket.try_clone()?,
            v6: socket.local_addr()?.is_ipv6(),
            certificate: certificate.clone(),
            key: key.cloned(),
            received,
            second: Second::new(),
        };
        let inner = TokioRuntime.wrap_udp_socket(socket)?;
        let divided = Divided {
            inner,
            found,
            runtime: runtime.clone(),
            pause: Mutex::new(None),
        };
        Ok((Arc::new(divided), datagrams))
    }

    /// Whether the socket reaches IPv6 as well as IPv4.
    pub(super) fn reaches_v6(&self) -> bool {
        self.v6
    }

    /// Sends a message; it may be lost.
    pub fn send(&self, to: Fingerprint, address: SocketAddr, message: &Message) {
        let Ok(body) = circuit_proto::codec::encode(message) else {
            return;
        };
        let signed = self.certificate.sign(&signed_bytes(to, &body));
        let rest = [&signed.public[..], &signed.signature, &body].concat();
        let code = match &self.key {
            Some(key) => auth::packet_mac(key, LABEL, &[&to.0, &rest]),
            None => NO_CODE,
        };
        let packet = [&[MARK][..], &code, &rest].concat();
        let address = match address {
            SocketAddr::V4(v4) if self.v6 => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            other => other,
        };
        // Unreliable by contract: a full socket loses it as the network might.
        let _ = self.socket.send_to(&packet, address);
    }

    /// The next message that was meant for `me`, and the sender that signed it. Anybody who recorded
    /// the packet can send it again, from anywhere.
    ///
    /// **Cancellation:** may be dropped at any time.
    pub async fn recv(&mut self, me: Fingerprint) -> Option<(Fingerprint, Message)> {
        loop {
            let packet = self.received.recv().await?;
            let Some(rest) = admitted(self.key.as_ref(), me, &packet) else {
                continue;
            };
            if !self.second.takes(rest) {
                continue;
            }
            if let Some(read) = read(me, rest) {
                return Some(read);
            }
        }
    }
}

/// The code of packets in a circuit without a key.
const NO_CODE: [u8; 16] = [0; 16];

/// The part of a packet after the code, if the code is right.
fn admitted<'a>(key: Option<&Key>, me: Fingerprint, packet: &'a [u8]) -> Option<&'a [u8]> {
    let (code, rest) = packet.get(1..)?.split_first_chunk::<16>()?;
    let valid = match key {
        Some(key) => auth::verify_packet(key, LABEL, &[&me.0, rest], code),
        None => *code == NO_CODE,
    };
    valid.then_some(rest)
}

fn read(me: Fingerprint, packet: &[u8]) -> Option<(Fingerprint, Message)> {
    let (public, rest) = packet.split_first_chunk::<32>()?;
    let (signature, body) = rest.split_first_chunk::<64>()?;
    let message = Message::decode(body).ok()??;
    let signed = Signed {
        public: *public,
        signature: *signature,
    };
    Some((signed.signer(&signed_bytes(me, body))?, message))
}

/// The body of a fuzz target: a packet of an unauthenticated sender, with the code of the key and without.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(packet: &[u8]) {
    let key = Key::from_random([7; 32]);
    let me = Fingerprint([7; 32]);
    for key in [None, Some(&key)] {
        let _ = admitted(key, me, packet).and_then(|rest| read(me, rest));
    }
    // As if the code were right.
    let _ = packet.get(17..).and_then(|rest| read(me, rest));
}

fn signed_bytes(to: Fingerprint, body: &[u8]) -> Vec<u8> {
    [LABEL, &to.0, body].concat()
}

/// QUIC's side of the socket, which hands the other packets over.
#[derive(Debug)]
struct Divided {
    inner: Arc<dyn AsyncUdpSocket>,
    found: mpsc::Sender<Vec<u8>>,
    runtime: Arc<Means>,
    /// Running after an error, which the next attempt to receive may not find any more.
    pause: Mutex<Option<Pin<Box<Sleep>>>>,
}

/// How long receiving rests after an error that may pass. Chosen, not measured: a lack of memory
/// does not last, and the kernel holds what arrives meanwhile.
const REST: Duration = Duration::from_millis(5);

impl Divided {
    /// Receives. An error that may pass makes it rest for a moment: to QUIC's endpoint any error but
    /// a reset is its end.
    fn poll_lasting(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut pause = self.pause.lock();
        loop {
            if let Some(rest) = pause.as_mut() {
                ready!(rest.as_mut().poll(cx));
                *pause = None;
            }
            match ready!(self.inner.poll_recv(cx, buffers, meta)) {
                Err(error) if is_transient(&error) => {
                    *pause = Some(Box::pin(tokio::time::sleep(REST)));
                }
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncUdpSocket for Divided {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)?;
        let length = transmit.contents.len() as u64;
        self.runtime.counters.sent.add(length);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.poll_lasting(cx, buffers, meta))?;
        let length = meta.iter().take(count).map(|meta| meta.len as u64).sum();
        self.runtime.counters.received.add(length);
        for (buffer, meta) in buffers.iter().zip(&*meta).take(count) {
            // Of packets that the kernel has joined the last may be shorter than the others.
            for packet in buffer[..meta.len].chunks(meta.stride.max(1)) {
                if packet.len() <= MAX_PACKET && packet.first() == Some(&MARK) {
                    // A full queue loses it, as the network might.
                    let _ = self.found.try_send(packet.to_vec());
                }
            }
        }
        // QUIC gets them too, and drops packets without its fixed bit.
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_random([byte; 32])
    }

    /// A packet from `sender` to `to`, as [`Datagrams::send`] makes it.
    fn packet(sender: &Certificate, to: Fingerprint, key: Option<&Key>, body: &[u8]) -> Vec<u8> {
        let signed = sender.sign(&signed_bytes(to, body));
        let rest = [&signed.public[..], &signed.signature, body].concat();
        let code = key.map_or(NO_CODE, |key| auth::packet_mac(key, LABEL, &[&to.0, &rest]));
        [&[MARK][..], &code, &rest].concat()
    }

    #[test]
    fn one_packet_repeated_leaves_room_for_others() {
        let (sender, _) = Certificate::generate().unwrap();
        let me = Fingerprint([1; 32]);
        let one = packet(&sender, me, Some(&key(1)), b"recorded");
        let other = packet(&sender, me, Some(&key(1)), b"fresh");
        let mut second = Second::new();
        let taken = (0..2000).filter(|_| second.takes(&one[17..])).count();
        assert_eq!(taken, usize::from(REPEATS_PER_SECOND));
        assert!(second.takes(&other[17..]));
    }

    /// A socket of which each attempt to receive fails, and then one more does not.
    #[derive(Debug)]
    struct Failing {
        errors: Mutex<Vec<io::Error>>,
    }

    impl AsyncUdpSocket for Failing {
        fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
            panic!("nothing is sent")
        }

        fn try_send(&self, _: &Transmit<'_>) -> io::Result<()> {
            panic!("nothing is sent")
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(self.errors.lock().pop().map_or(Ok(0), Err))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            panic!("nobody asks")
        }
    }

    #[tokio::test]
    async fn an_error_that_passes_does_not_end_the_endpoint_and_another_does() {
        let check = async |errors: &[rustix::io::Errno]| {
            let errors = errors.iter().map(|errno| (*errno).into()).collect();
            let inner = Failing {
                errors: Mutex::new(errors),
            };
            let divided = Divided {
                inner: Arc::new(inner),
                found: mpsc::channel(1).0,
                runtime: Means::alone(),
                pause: Mutex::new(None),
            };
            std::future::poll_fn(|cx| divided.poll_recv(cx, &mut [], &mut [])).await
        };
        use rustix::io::Errno;
        let passing = [Errno::CONNREFUSED, Errno::NOBUFS, Errno::NOMEM];
        assert_eq!(check(&passing).await.unwrap(), 0);
        let broken = check(&[Errno::BADF, Errno::NOBUFS]).await.unwrap_err();
        assert_eq!(broken.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    }

    #[test]
    fn only_who_holds_the_key_is_heard() {
        let (sender, _) = Certificate::generate().unwrap();
        let (me, _) = Certificate::generate().unwrap();
        let me = me.fingerprint();
        let mine = key(1);
        let check = |theirs: Option<&Key>, ours: Option<&Key>| {
            admitted(ours, me, &packet(&sender, me, theirs, b"x")).is_some()
        };
        assert!(check(Some(&mine), Some(&mine)));
        assert!(!check(None, Some(&mine)), "without a key");
        assert!(!check(Some(&key(2)), Some(&mine)), "with another");
        assert!(!check(Some(&mine), None), "with one where there is none");
        assert!(check(None, None));
        let other = Fingerprint([9; 32]);
        let misdirected = packet(&sender, other, Some(&mine), b"x");
        assert!(
            admitted(Some(&mine), me, &misdirected).is_none(),
            "meant for another"
        );
        for end in 0..misdirected.len() {
            assert!(admitted(Some(&mine), me, &misdirected[..end]).is_none());
        }
    }
}
