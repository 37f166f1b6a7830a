//! Tethers: beside each connection for membership a TCP connection, to the same port number, which
//! says nothing and tells by its end that the process at the other end is gone.
//!
//! QUIC ends with the process, unheard; a TCP connection is the kernel's, which closes it when the
//! process dies, and goes on acknowledging while the process is merely stopped. The end that
//! dialled the QUIC connection dials this one too. Each end shows a token that only the two ends of
//! the QUIC connection know; then both are silent. A tether that is lost before its QUIC connection
//! is opened again, as is one that could not be opened: ever more rarely, should that go on.
//!
//! Whether the other kernel still acknowledges is found out when asked ([`Tether::ask`]): TCP's
//! keep-alive is made to fall due, once, and a moment later the kernel is asked when it last
//! received an acknowledgement.
//!
//! Nothing rests on a tether but time: where there is none, or its end means something else, the
//! machine finds out by asking.
//!
//! **Invariants:** a connection without a valid token costs one of [`MAX_STRANGERS`] places, for at
//! most [`PATIENCE`]. A token opens one tether at a time. A tether at rest has no timer.

use parking_lot::{Mutex, MutexGuard};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::dial::DIAL_TIMEOUT;
use circuit_client::transport::endpoint::plain;
use circuit_proto::membership::{Input, TetherState};
use circuit_proto::{Fingerprint, ServerId};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;

use super::Event;

/// How long a connection may take to show its token.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many connections may be without a token at the same time; those beyond are closed at once.
/// As for QUIC: docs/PROTOCOL.md, "Limits".
const MAX_STRANGERS: usize = 256;

/// How many connections the kernel holds that were not accepted yet. Linux's own usual bound.
const BACKLOG: i32 = 128;

/// How long accepting rests when it fails, as for want of descriptors. Chosen.
const REST: Duration = Duration::from_millis(100);

/// The pause before a tether is opened again, and the longest one: it doubles, until a tether has
/// held for as long as the longest. Chosen: what has lost one packet too many is back at once, and
/// a firewall that eats tethers sees a few packets in five minutes.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How long a tether outlives its connection, whose close the other end is to hear of first: else it
/// takes the tether's end for the process's. Chosen: far longer than the close takes to be sent.
const LINGER: Duration = Duration::from_millis(200);

/// What the tokens are derived with (RFC 9266 has the idea, RFC 8446, section 7.5, the exporter).
const LABEL: &[u8] = b"EXPORTER-circuit/1 tether";

/// TCP's longest wait before a keep-alive, in seconds: as good as never.
const NEVER: Duration = Duration::from_secs(32_767);

/// TCP's shortest: on a connection that has been quiet for as long, it falls due at once.
const NOW: Duration = Duration::from_secs(1);

/// How old an acknowledgement may be.
const RECENT: Duration = Duration::from_secs(1);

/// How often, and how many times, it is looked for after a keep-alive: as long as a probe pings
/// before it can come to a verdict (`PING_EVERY` and `PINGS` of the machine).
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOKS: u32 = 9;

/// What one end of a tether shows.
type Token = [u8; 32];

/// The tokens of the two ends.
struct Tokens {
    dialler: Token,
    acceptor: Token,
}

impl Tokens {
    fn of(connection: &quinn::Connection) -> Option<Tokens> {
        let token = |context| {
            let mut token = Token::default();
            connection
                .export_keying_material(&mut token, LABEL, context)
                .ok()?;
            Some(token)
        };
        Some(Tokens {
            dialler: token(b"dialler")?,
            acceptor: token(b"acceptor")?,
        })
    }
}

/// The tethers of one server.
#[derive(Debug)]
pub struct Tethers {
    /// The address that the server is bound to.
    address: IpAddr,
    /// By the diallers' tokens. The map's hashes are of its own secret, so that how long a token
    /// takes to be found tells nothing of the others.
    expected: Mutex<HashMap<Token, Expected>>,
    /// To whom there are tethers, and how many: of two connections while one replaces the other,
    /// each has its own.
    held: Mutex<BTreeMap<ServerId, usize>>,
}

/// A tether that the other end is to open.
#[derive(Debug)]
struct Expected {
    answer: Token,
    streams: mpsc::Sender<TcpStream>,
}

/// Whom a tether is to, and who hears of it.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) peer: Fingerprint,
    pub(super) number: u64,
    pub(super) events: mpsc::Sender<Event>,
}

/// One tether, there or to come.
#[derive(Debug)]
pub(super) struct Tether {
    asked: Arc<Notify>,
}

/// The listener for tethers on this address, which says its port.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // Those of a life before may linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Tethers {
    /// None yet, for a server that is bound to this address.
    pub fn new(address: IpAddr) -> Arc<Tethers> {
        Arc::new(Tethers {
            address,
            expected: Mutex::default(),
            held: Mutex::default(),
        })
    }

    /// Beside how many connections to these there is one.
    pub fn beside(&self, servers: &[ServerId]) -> usize {
        let held = self.held();
        servers.iter().filter(|id| held.contains_key(id)).count()
    }

    /// Accepts connections for as long as the server lives.
    pub async fn accept(self: Arc<Self>, listener: std::net::TcpListener) {
        let Ok(listener) = TcpListener::from_std(listener) else {
            return;
        };
        let places = Arc::new(Semaphore::new(MAX_STRANGERS));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(REST).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                continue;
            };
            let tethers = self.clone();
            tokio::spawn(async move {
                let _place = place;
                let _ = tokio::time::timeout(PATIENCE, tethers.greet(stream)).await;
            });
        }
    }

    /// Reads a token, answers it, and hands the connection to whom it is for. Closes it otherwise.
    async fn greet(&self, mut stream: TcpStream) -> Option<()> {
        let mut token = Token::default();
        stream.read_exact(&mut token).await.ok()?;
        let (answer, streams) = self
            .expected()
            .get(&token)
            .map(|expected| (expected.answer, expected.streams.clone()))?;
        stream.write_all(&answer).await.ok()?;
        streams.try_send(stream).ok()
    }

    /// The tether of a connection that the other end has dialled: it will come, or not. From now
    /// on its token is valid.
    pub(super) fn await_dialler(
        self: &Arc<Self>,
        connection: &quinn::Connection,
        subject: Subject,
    ) -> Option<Tether> {
        let tokens = Tokens::of(connection)?;
        let (streams, mut opened) = mpsc::channel(1);
        let expected = Expected {
            answer: tokens.acceptor,
            streams,
        };
        self.expected().insert(tokens.dialler, expected);
        let expectation = Expectation {
            tethers: self.clone(),
            token: tokens.dialler,
        };
        Some(Tether::spawn(connection.clone(), |asked| async move {
            let mut next = opened.recv().await;
            while let Some(stream) = next {
                let held = expectation.tethers.hold(&stream, &asked, &subject);
                next = tokio::select! {
                    () = held => opened.recv().await,
                    // Who opens another has lost this one, though we have not heard of it. What
                    // this one told is not known of the other.
                    another = opened.recv() => {
                        subject.tell(TetherState::Unknown).await;
                        another
                    }
                };
            }
        }))
    }

    /// The tether of a connection that this end has dialled. To be called once the other end has
    /// said something on it: then it expects the token.
    pub(super) fn dial(
        self: &Arc<Self>,
        connection: &quinn::Connection,
        subject: Subject,
    ) -> Option<Tether> {
        let tokens = Tokens::of(connection)?;
        let tethers = self.clone();
        let (from, to) = (self.address, plain(connection.remote_address()));
        Some(Tether::spawn(connection.clone(), |asked| async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let dialled = tokio::time::timeout(DIAL_TIMEOUT, dial(from, to, &tokens)).await;
                match dialled {
                    Ok(Ok(stream)) => {
                        let begin = Instant::now();
                        tethers.hold(&stream, &asked, &subject).await;
                        if begin.elapsed() >= LONGEST_PAUSE {
                            pause = FIRST_PAUSE;
                        }
                    }
                    Ok(Err(error)) => tracing::debug!("no tether to {to}: {error}"),
                    Err(_) => tracing::debug!("no tether to {to}: no answer"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }))
    }

    /// Holds a tether until it ends.
    async fn hold(self: &Arc<Self>, stream: &TcpStream, asked: &Notify, subject: &Subject) {
        let _held = Held::begin(self.clone(), subject.peer.id());
        hold(stream, asked, subject).await;
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<ServerId, usize>> {
        self.held.lock()
    }

    fn expected(&self) -> MutexGuard<'_, HashMap<Token, Expected>> {
        self.expected.lock()
    }
}

/// Withdraws a token when nobody waits for its tether any more.
struct Expectation {
    tethers: Arc<Tethers>,
    token: Token,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.tethers.expected().remove(&self.token);
    }
}

/// Counts a tether.
struct Held {
    tethers: Arc<Tethers>,
    to: ServerId,
}

impl Held {
    fn begin(tethers: Arc<Tethers>, to: ServerId) -> Held {
        *tethers.held().entry(to).or_default() += 1;
        Held { tethers, to }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.tethers.held().entry(self.to) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

async fn dial(from: IpAddr, to: SocketAddr, tokens: &Tokens) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if !from.is_unspecified() && from.is_ipv4() == to.is_ipv4() {
        socket.bind((from, 0).into())?;
    }
    let mut stream = socket.connect(to).await?;
    stream.write_all(&tokens.dialler).await?;
    let mut answer = Token::default();
    stream.read_exact(&mut answer).await?;
    // Who listens there may be somebody else.
    match answer == tokens.acceptor {
        true => Ok(stream),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Tether {
    /// Holds what is to be held beside a connection until a moment after that is closed.
    fn spawn<T>(connection: quinn::Connection, held: impl FnOnce(Arc<Notify>) -> T) -> Tether
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let asked = Arc::new(Notify::new());
        let held = held(asked.clone());
        tokio::spawn(async move {
            let closed = async {
                connection.closed().await;
                tokio::time::sleep(LINGER).await;
            };
            tokio::select! {
                () = held => (),
                () = closed => (),
            }
        });
        Tether { asked }
    }

    /// Finds out whether the other kernel still acknowledges; the answer comes as an event.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }
}

/// Holds a tether until it ends.
async fn hold(stream: &TcpStream, asked: &Notify, subject: &Subject) {
    let rest = TcpKeepalive::new().with_time(NEVER).with_interval(NOW);
    let _ = SockRef::from(stream).set_tcp_keepalive(&rest);
    let answer = async {
        let mut told = TetherState::Unknown;
        loop {
            asked.notified().await;
            let mut state = acknowledgement(stream);
            if state == TetherState::Unknown {
                // What was true is so no longer, while nothing else is known.
                if told != state {
                    subject.tell(state).await;
                    told = state;
                }
                state = acknowledgement_after_keepalive(stream).await;
            }
            if told != state {
                subject.tell(state).await;
                told = state;
            }
        }
    };
    tokio::select! {
        state = end(stream) => subject.tell(state).await,
        () = answer => (),
    }
}

/// Whether the other kernel has acknowledged something of late.
fn acknowledgement(stream: &TcpStream) -> TetherState {
    match since_acknowledgement(stream) {
        Some(since) if since < RECENT => TetherState::Acknowledged,
        _ => TetherState::Unknown,
    }
}

/// The same, once it had something to acknowledge.
async fn acknowledgement_after_keepalive(stream: &TcpStream) -> TetherState {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(NOW));
    let mut state = TetherState::Unknown;
    for _ in 0..LOOKS {
        tokio::time::sleep(LOOK_EVERY).await;
        state = acknowledgement(stream);
        if state == TetherState::Acknowledged {
            break;
        }
    }
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(NEVER));
    state
}

/// Lasts until the tether ends; what its end says.
async fn end(stream: &TcpStream) -> TetherState {
    loop {
        let read = match stream.readable().await {
            Ok(()) => stream.try_read(&mut [0]),
            Err(error) => Err(error),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Ok(0) => return TetherState::Broken,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return TetherState::Broken;
            }
            // It was to be silent; or the network ended it.
            Ok(_) | Err(_) => return TetherState::Unknown,
        }
    }
}

/// How long ago the other kernel last acknowledged anything: `tcpi_last_ack_recv` of tcp(7).
#[allow(unsafe_code)]
fn since_acknowledgement(stream: &TcpStream) -> Option<Duration> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which are there, and integers of any value
    // are a `tcp_info`; what an older kernel does not write is zero.
    let info = unsafe {
        let result = libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        );
        (result == 0).then(|| info.assume_init())
    }?;
    Some(Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

impl Subject {
    async fn tell(&self, state: TetherState) {
        let peer = self.peer;
        let event = Event::Input {
            number: self.number,
            input: Input::Tether { peer, state },
        };
        // Without a driver there is nobody to tell.
        let _ = self.events.send(event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tether's two ends, without what comes before it is silent.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (dialled, accepted) = tokio::join!(dialled, listener.accept());
        let ends = (dialled.unwrap(), accepted.unwrap().0);
        for end in [&ends.0, &ends.1] {
            let rest = TcpKeepalive::new().with_time(NEVER).with_interval(NOW);
            SockRef::from(end).set_tcp_keepalive(&rest).unwrap();
        }
        ends
    }

    #[tokio::test]
    async fn a_kernel_acknowledges_when_asked_and_not_before() {
        let (one, _other) = pair().await;
        // What opened it was acknowledged.
        assert_eq!(acknowledgement(&one), TetherState::Acknowledged);
        tokio::time::sleep(RECENT + LOOK_EVERY).await;
        // The process at the other end does nothing at all, before as after.
        assert_eq!(acknowledgement(&one), TetherState::Unknown);
        let state = acknowledgement_after_keepalive(&one).await;
        assert_eq!(state, TetherState::Acknowledged);
    }

    #[tokio::test]
    async fn only_the_other_kernel_breaks_a_tether() {
        let (one, other) = pair().await;
        drop(other);
        assert_eq!(end(&one).await, TetherState::Broken, "closed");
        let (one, other) = pair().await;
        // What it has not read makes its kernel reset the connection.
        one.try_write(b"unread").unwrap();
        other.readable().await.unwrap();
        drop(other);
        assert_eq!(end(&one).await, TetherState::Broken, "reset");
        let (one, mut other) = pair().await;
        other.write_all(b"chatter").await.unwrap();
        assert_eq!(end(&one).await, TetherState::Unknown, "it is to be silent");
    }

    #[tokio::test]
    async fn a_connection_without_a_token_is_closed_in_time() {
        let tethers = Tethers::new(IpAddr::from([127, 0, 0, 1]));
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(tethers.clone().accept(listener));
        let begin = tokio::time::Instant::now();
        let mut silent = Vec::new();
        for _ in 0..MAX_STRANGERS + 50 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        for stream in &mut silent {
            // Closed, in one way or another.
            assert!(!matches!(stream.read(&mut [0]).await, Ok(1)));
        }
        let took = begin.elapsed();
        assert!(took < PATIENCE + Duration::from_secs(2), "{took:?}");
        let mut liar = TcpStream::connect(address).await.unwrap();
        liar.write_all(&Token::default()).await.unwrap();
        assert!(!matches!(liar.read(&mut [0]).await, Ok(1)));
        assert!(tethers.held().is_empty());
        accepting.abort();
    }
}
