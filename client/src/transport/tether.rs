//! Tethers as both ends have them: a silent TCP connection beside a QUIC connection, to the same port
//! number. Its end by the other kernel (FIN) says that the process at the other end has ended.
//!
//! A server has them beside its links. A client has one while it holds something at the server that it
//! dialled: a message, a place, a process. If the client is killed, the server need not wait for the
//! connection's idle time-out. Where there is none, as behind a firewall, it does wait.
//!
//! **Invariant:** a client that has let go of all says so before it closes its tether.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;

use super::dial::DIAL_TIMEOUT;
use super::endpoint::plain;

/// The label that the tokens are derived with (the idea is that of RFC 9266, the exporter that of
/// RFC 8446, section 7.5).
const LABEL: &[u8] = b"EXPORTER-circuit/1 tether";

/// The pause before a tether is opened again, and the longest one: it doubles, until a tether has
/// held for as long as the longest. Chosen, not measured: a tether that lost one packet too many is
/// back at once, and a firewall that eats tethers sees a few packets in five minutes.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// See [`FIRST_PAUSE`].
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// For how long a client must hold something before it opens its tether. Chosen, not measured: most
/// requests are done by then, and whoever waits for longer waits for somebody else.
const HELD: Duration = Duration::from_millis(200);

/// For how long a client that holds nothing keeps its tether. Chosen, not measured: one that sends or
/// receives again and again opens it once.
const KEPT: Duration = Duration::from_secs(10);

/// The word of a client that has let go of all: what is closed behind it says nothing.
const FAREWELL: &[u8] = b".";

/// The bytes that one end of a tether shows.
pub type Token = [u8; 32];

/// The tokens of the two ends.
#[derive(Debug)]
pub struct Tokens {
    /// Of the end that dialled.
    pub dialler: Token,
    /// Of the end that accepted.
    pub acceptor: Token,
}

impl Tokens {
    /// The tokens of a tether beside this connection.
    pub fn of(connection: &quinn::Connection) -> Option<Tokens> {
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

/// Opens a tether, from this address if it is one of a host's.
pub async fn dial(from: Option<IpAddr>, to: SocketAddr, tokens: &Tokens) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    let from = from.filter(|from| !from.is_unspecified() && from.is_ipv4() == to.is_ipv4());
    if let Some(from) = from {
        let mut own = SocketAddr::from((from, 0));
        if let (SocketAddr::V6(own), SocketAddr::V6(to)) = (&mut own, to) {
            // A link-local address is complete with its zone only.
            own.set_scope_id(to.scope_id());
        }
        socket.bind(own)?;
    }
    let mut stream = socket.connect(to).await?;
    stream.write_all(&tokens.dialler).await?;
    let mut answer = Token::default();
    stream.read_exact(&mut answer).await?;
    // Another program may listen there.
    match answer == tokens.acceptor {
        true => Ok(stream),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// How many things a client holds at the server that it dialled.
#[derive(Debug, Default)]
pub struct Holds {
    count: AtomicUsize,
    /// How often the client has begun to hold something, having held nothing.
    begun: AtomicUsize,
    first: Notify,
}

/// One thing that a client holds, for as long as this is there.
#[derive(Debug)]
pub struct Hold(Arc<Holds>);

impl Holds {
    /// Has a tether opened beside a client's connection whenever the client holds something.
    pub fn beside(connection: &quinn::Connection) -> Arc<Holds> {
        let holds = Arc::<Holds>::default();
        let (connection, tethered) = (connection.clone(), holds.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = tethered.tether(&connection) => (),
                _ = connection.closed() => (),
            }
        });
        holds
    }

    /// Holds one thing more.
    pub fn hold(self: &Arc<Self>) -> Hold {
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            self.begun.fetch_add(1, Ordering::Relaxed);
            self.first.notify_one();
        }
        Hold(self.clone())
    }

    fn is_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    async fn tether(&self, connection: &quinn::Connection) {
        let to = plain(connection.remote_address());
        let mut pause = FIRST_PAUSE;
        loop {
            while !self.is_any() {
                self.first.notified().await;
            }
            let begun = self.begun();
            tokio::time::sleep(HELD).await;
            // One quick request after the other holds nothing.
            if !self.is_any() || self.begun() != begun {
                continue;
            }
            let Some(tokens) = Tokens::of(connection) else {
                return;
            };
            let dialled = dial(None, to, &tokens);
            if let Ok(Ok(stream)) = tokio::time::timeout(DIAL_TIMEOUT, dialled).await
                && self.keep(stream).await
            {
                pause = FIRST_PAUSE;
                continue;
            }
            // The server may have none to give, and a firewall may be in the way.
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// Keeps a tether until nothing was held for a while; whether it was there until then.
    async fn keep(&self, mut stream: TcpStream) -> bool {
        loop {
            let begun = self.begun();
            let mut byte = [0];
            tokio::select! {
                _ = stream.read(&mut byte) => return false,
                () = tokio::time::sleep(KEPT) => (),
            }
            if !self.is_any() && self.begun() == begun {
                // Where it cannot be said, the connection is lost, and the tether with it.
                let _ = stream.write_all(FAREWELL).await;
                return true;
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}
