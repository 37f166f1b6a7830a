//! The accepting side of tethers: the listener, and the tokens that it waits for.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::endpoint::KEEP_ALIVE;
use circuit_client::transport::tether::{Token, Tokens};
use circuit_proto::membership::TetherState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{Subject, Tether, Tethers, tcp};
use crate::runtime::descriptors::User;
use crate::runtime::transient::is_transient;

/// How long a connection may take to show its token.
const TOKEN_WAIT: Duration = Duration::from_secs(1);

/// How many connections the kernel holds that were not accepted yet: Linux's own usual bound.
const BACKLOG: i32 = 128;

/// How long the listener rests after an error, as for want of descriptors. Chosen, not measured.
const REST: Duration = Duration::from_millis(100);

/// How long packets may be on their way that a process sent before it ended, and how much later than a
/// keep-alive its answer may come, beside round trips. Chosen, not measured.
const ON_THE_WAY: Duration = Duration::from_millis(200);

/// A tether that the other end is to open.
#[derive(Debug)]
pub(super) struct Expected {
    answer: Token,
    streams: mpsc::Sender<TcpStream>,
}

/// Opens the listener for tethers on this address, port included.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    // Connections of a previous server on this port may linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Tethers {
    /// Accepts connections for as long as the server lives.
    pub async fn accept(self: Arc<Self>, listener: std::net::TcpListener) {
        let Ok(listener) = TcpListener::from_std(listener) else {
            return;
        };
        let places = &self.runtime.tokenless;
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_transient(&error) => {
                    tokio::time::sleep(REST).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!("cannot accept on TCP: {error}");
                    return;
                }
            };
            // A connection without a place or a descriptor is closed at once.
            let place = places.enter_connected(from.ip());
            let taken = self.runtime.descriptors.take(User::Tethers, 1);
            let (Some(place), Ok(taken)) = (place, taken) else {
                continue;
            };
            let tethers = self.clone();
            tokio::spawn(async move {
                let _held = (place, taken);
                let _ = tokio::time::timeout(TOKEN_WAIT, tethers.exchange_tokens(stream)).await;
            });
        }
    }

    /// Reads a token, answers it, and hands the connection to the task that waits for it. Closes
    /// every other connection.
    async fn exchange_tokens(&self, mut stream: TcpStream) -> Option<()> {
        let mut token = Token::default();
        stream.read_exact(&mut token).await.ok()?;
        let (answer, streams) = self
            .expected()
            .get(&token)
            .map(|expected| (expected.answer, expected.streams.clone()))?;
        // An answered tether is held by its dialler, who takes its end for the end of this process.
        let place = streams.try_reserve_owned().ok()?;
        stream.write_all(&answer).await.ok()?;
        place.send(stream);
        Some(())
    }

    /// Waits for the tether of a connection that the other end has dialled. The other end may
    /// never open one. From now on its token is valid.
    pub(in crate::peer) fn await_dialler(
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
                    // A dialler that opens another tether has lost this one, though this end has
                    // not heard so. The state of the lost one says nothing about the new one.
                    another = opened.recv() => {
                        subject.tell(TetherState::Unknown).await;
                        another
                    }
                };
            }
        }))
    }
}

/// The tethers of clients.
impl Tethers {
    /// Resolves when the process at the other end of a client's connection has ended, as its kernel has
    /// said. From now on the token of the client's tether is valid; a client may never open one.
    pub async fn client_gone(self: &Arc<Self>, connection: &quinn::Connection) {
        let Some(tokens) = Tokens::of(connection) else {
            return std::future::pending().await;
        };
        let (streams, mut opened) = mpsc::channel(1);
        let expected = Expected {
            answer: tokens.acceptor,
            streams,
        };
        self.expected().insert(tokens.dialler, expected);
        let _expectation = Expectation {
            tethers: self.clone(),
            token: tokens.dialler,
        };
        let mut next = opened.recv().await;
        while let Some(stream) = next {
            let ended = async {
                // Without a descriptor it is held all the same: its end would say nothing true.
                let _taken = self.runtime.descriptors.take(User::Tethers, 1);
                tcp::quieten(&stream);
                tcp::end(&stream).await
            };
            next = tokio::select! {
                state = ended => {
                    if state == TetherState::Broken && falls_silent(connection).await {
                        return;
                    }
                    opened.recv().await
                }
                another = opened.recv() => another,
            };
        }
        std::future::pending().await
    }
}

/// Whether nothing more comes from the other end: one that lives answers a keep-alive.
async fn falls_silent(connection: &quinn::Connection) -> bool {
    let received = || connection.stats().udp_rx.datagrams;
    tokio::time::sleep(ON_THE_WAY + connection.rtt()).await;
    let before = received();
    tokio::time::sleep(KEEP_ALIVE + ON_THE_WAY + connection.rtt()).await;
    received() == before
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Runtime;
    use crate::runtime::admission::Limits;

    /// The accepting side on a free port of loopback.
    fn accepting() -> (Arc<Tethers>, SocketAddr, tokio::task::JoinHandle<()>) {
        let tethers = Tethers::new(IpAddr::from([127, 0, 0, 1]), Runtime::alone());
        let listener = listen(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(tethers.clone().accept(listener));
        (tethers, address, accepting)
    }

    #[tokio::test]
    async fn a_connection_without_a_token_is_closed_in_time() {
        let (tethers, address, accepting) = accepting();
        let begin = tokio::time::Instant::now();
        let mut silent = Vec::new();
        for _ in 0..Limits::UNAUTHENTICATED.all + 50 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        for stream in &mut silent {
            // The server closes the connection, in one way or another.
            assert!(!matches!(stream.read(&mut [0]).await, Ok(1)));
        }
        let took = begin.elapsed();
        assert!(took < TOKEN_WAIT + Duration::from_secs(2), "{took:?}");
        let mut liar = TcpStream::connect(address).await.unwrap();
        liar.write_all(&Token::default()).await.unwrap();
        assert!(!matches!(liar.read(&mut [0]).await, Ok(1)));
        assert!(tethers.held().is_empty());
        accepting.abort();
    }

    #[tokio::test]
    async fn a_token_is_answered_only_where_its_tether_has_a_place() {
        let (tethers, address, accepting) = accepting();
        let (streams, mut opened) = mpsc::channel(1);
        let answer = [2; 32];
        let expected = Expected { answer, streams };
        tethers.expected().insert([1; 32], expected);
        let show = || async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&[1; 32]).await.unwrap();
            let mut answer = Vec::new();
            let mut byte = [0];
            while answer.len() < 32 && matches!(stream.read(&mut byte).await, Ok(1)) {
                answer.push(byte[0]);
            }
            (stream, answer)
        };
        let (first, answered) = show().await;
        assert_eq!(answered, answer);
        // Nobody has taken the first yet: the second would be closed after its answer, which its
        // dialler would take for the end of the process.
        let (_second, answered) = show().await;
        assert!(answered.is_empty());
        assert_eq!(
            opened.recv().await.unwrap().peer_addr().unwrap(),
            first.local_addr().unwrap()
        );
        let (_third, answered) = show().await;
        assert_eq!(answered, answer);
        drop(opened);
        let (_fourth, answered) = show().await;
        assert!(answered.is_empty());
        accepting.abort();
    }
}
