//! The dialling side of tethers: opens one beside each connection that this server has dialled,
//! and opens it again when it is lost.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::dial::DIAL_TIMEOUT;
use circuit_client::transport::endpoint::plain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::{Subject, Tether, Tethers, Token, Tokens};
use crate::runtime::descriptors::User;

/// The pause before a tether is opened again, and the longest one: it doubles, until a tether has
/// held for as long as the longest. Chosen, not measured: a tether that lost one packet too many is
/// back at once, and a firewall that eats tethers sees a few packets in five minutes.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

impl Tethers {
    /// Opens the tether of a connection that this end has dialled. To be called once the other
    /// end has said something on the connection: then it expects the token.
    pub(in crate::peer) fn dial(
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
                let dialled = async {
                    let taken = tethers.runtime.descriptors.take(User::Tethers, 1);
                    let _taken = taken.map_err(io::Error::other)?;
                    dial(from, to, &tokens).await
                };
                let dialled = tokio::time::timeout(DIAL_TIMEOUT, dialled).await;
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
}

async fn dial(from: IpAddr, to: SocketAddr, tokens: &Tokens) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if !from.is_unspecified() && from.is_ipv4() == to.is_ipv4() {
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
