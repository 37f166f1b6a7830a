//! The yardsticks: requests and streams over bare QUIC, with the same transport parameters and
//! certificates, and over a bare Unix socket; nothing of ours on top.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use circuit_client::transport::congestion::Windows;
use circuit_client::transport::endpoint::{dialling, socket, transport_config};
use circuit_client::transport::tls::{self, Certificate, Pin, Verifier};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, VarInt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use crate::Result;

/// The body of a request, about as long as a `peek`.
pub(crate) const REQUEST: [u8; 48] = [1; 48];

/// The body of an answer, about as long as a server's status.
const ANSWER: usize = 160;

/// The first byte of a request for a stream; the other eight are its length.
const STREAM: u8 = 2;

/// A connection to the yardsticks' server.
pub(crate) enum Raw {
    /// Over QUIC.
    Quic(Connection),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// Answers requests until it is killed, over QUIC and over a Unix socket at this path. Prints its
/// address first.
pub(crate) async fn serve(path: &Path) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A caller that has gone needs no answer.
            tokio::spawn(async move { answer_unix(stream).await.is_ok() });
        }
    });
    let (certificate, _) = Certificate::generate()?;
    let crypto = QuicServerConfig::try_from(tls::acceptor(&certificate)?)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = transport_config(&Windows::default());
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1024));
    config.transport_config(Arc::new(transport));
    let socket = socket(([127, 0, 0, 1], 0).into())?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
    println!("{}", endpoint.local_addr()?);
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await?;
        tokio::spawn(async move {
            while let Ok((send, recv)) = connection.accept_bi().await {
                tokio::spawn(answer(send, recv));
            }
        });
    }
    Ok(())
}

/// Answers the requests of one connection, which are told apart by their first byte.
async fn answer_unix(mut stream: UnixStream) -> std::io::Result<()> {
    let mut request = REQUEST;
    loop {
        stream.read_exact(&mut request).await?;
        if request[0] != STREAM {
            stream.write_all(&[3; ANSWER]).await?;
            continue;
        }
        let mut length = [0; 8];
        length.copy_from_slice(&request[1..9]);
        let chunk = vec![0; 64 << 10];
        let mut left = u64::from_be_bytes(length);
        while left > 0 {
            let size = left.min(chunk.len() as u64);
            stream.write_all(&chunk[..size as usize]).await?;
            left -= size;
        }
    }
}

async fn answer(mut send: quinn::SendStream, mut recv: quinn::RecvStream) {
    let Ok(request) = recv.read_to_end(1024).await else {
        return;
    };
    let written = match request.split_first() {
        Some((&STREAM, length)) => {
            let length = length.try_into().map_or(0, u64::from_be_bytes);
            write_stream(&mut send, length).await
        }
        _ => send.write_all(&[3; ANSWER]).await,
    };
    // A caller that has gone needs no answer.
    if written.is_ok() {
        let _ = send.finish();
    }
}

async fn write_stream(
    send: &mut quinn::SendStream,
    mut length: u64,
) -> std::result::Result<(), quinn::WriteError> {
    let chunk = Bytes::from(vec![0; 64 << 10]);
    while length > 0 {
        let size = length.min(chunk.len() as u64);
        send.write_chunk(chunk.slice(..size as usize)).await?;
        length -= size;
    }
    Ok(())
}

/// A connection to [`serve`] over a Unix socket.
pub(crate) async fn connect(path: &Path) -> Result<Raw> {
    Ok(Raw::Unix(UnixStream::connect(path).await?))
}

/// A connection to [`serve`] over QUIC.
pub(crate) async fn dial(address: SocketAddr) -> Result<Raw> {
    let (certificate, _) = Certificate::generate()?;
    let crypto = tls::dialler(&certificate, Verifier::new(Pin::Anybody))?;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto)?));
    config.transport_config(Arc::new(transport_config(&Windows::default())));
    let (endpoint, _) = dialling(&[address])?;
    let connecting = endpoint.connect_with(config, address, "circuit")?;
    Ok(Raw::Quic(connecting.await?))
}

impl Raw {
    /// Its name in the table.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Raw::Quic(_) => "raw QUIC",
            Raw::Unix(_) => "a raw socket",
        }
    }

    /// One request and its answer.
    pub(crate) async fn request(&mut self) -> Result<()> {
        match self {
            Raw::Quic(connection) => request(connection).await,
            Raw::Unix(stream) => {
                stream.write_all(&REQUEST).await?;
                stream.read_exact(&mut [0; ANSWER]).await?;
                Ok(())
            }
        }
    }

    /// Receives a stream of this length.
    pub(crate) async fn stream(&mut self, length: u64) -> Result<()> {
        match self {
            Raw::Quic(connection) => self::stream(connection, length).await,
            Raw::Unix(stream) => {
                let mut request = REQUEST;
                request[0] = STREAM;
                request[1..9].copy_from_slice(&length.to_be_bytes());
                stream.write_all(&request).await?;
                let mut buffer = vec![0; 256 << 10];
                let mut left = length;
                while left > 0 {
                    let most = left.min(buffer.len() as u64) as usize;
                    match stream.read(&mut buffer[..most]).await? {
                        0 => return Err("a short stream".into()),
                        count => left -= count as u64,
                    }
                }
                Ok(())
            }
        }
    }
}

async fn request(connection: &Connection) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?;
    send.write_all(&REQUEST).await?;
    send.finish()?;
    let answer = recv.read_to_end(1024).await?;
    match answer.len() {
        ANSWER => Ok(()),
        _ => Err("a short answer".into()),
    }
}

async fn stream(connection: &Connection, length: u64) -> Result<()> {
    let (mut send, mut recv) = connection.open_bi().await?;
    let mut request = vec![STREAM];
    request.extend_from_slice(&length.to_be_bytes());
    send.write_all(&request).await?;
    send.finish()?;
    let mut pieces: [Bytes; 32] = Default::default();
    let mut received = 0;
    while let Some(count) = recv.read_chunks(&mut pieces).await? {
        received += pieces[..count]
            .iter()
            .map(|piece| piece.len() as u64)
            .sum::<u64>();
    }
    match received == length {
        true => Ok(()),
        false => Err("a short stream".into()),
    }
}
