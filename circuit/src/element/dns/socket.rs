//! Moves the packets of one DNS server: one thread reads a socket for UDP and one for TCP.
//!
//! The thread remembers answers over UDP until a record changes. **Cancellation:** [`Serving::run`] ends
//! when it is told to; connections are cut.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::runtime::admission::{Admission, Limits};
use crate::runtime::descriptors::{Descriptors, User};
use crate::runtime::transient::is_transient;

use super::answer::{Transport, answer};
use super::shared::Shared;

/// How many datagrams are taken from the kernel at once. Chosen, not measured: half of the queries
/// that a busy resolver has in flight.
const AT_ONCE: usize = 32;

/// The longest query over UDP: no sensible one is longer. A longer one is cut, and so malformed.
const LONGEST_QUERY: usize = 4096;

/// How long a connection may idle, or take for an answer: RFC 7766, section 6.2.3, some seconds.
const IDLE: Duration = Duration::from_secs(10);

/// How many free ports are tried for UDP until one is free for TCP too. Chosen, not measured.
const TRIES: usize = 16;

/// Both sockets, on one port.
#[derive(Debug)]
pub(super) struct Sockets {
    udp: std::net::UdpSocket,
    tcp: std::net::TcpListener,
    address: SocketAddr,
}

impl Sockets {
    /// Binds both, or neither.
    pub(super) fn bind(address: SocketAddr) -> io::Result<Sockets> {
        let mut tries = 0;
        loop {
            let udp = std::net::UdpSocket::bind(address)?;
            let bound = udp.local_addr()?;
            match std::net::TcpListener::bind(bound) {
                Ok(tcp) => {
                    udp.set_nonblocking(true)?;
                    tcp.set_nonblocking(true)?;
                    let address = bound;
                    return Ok(Sockets { udp, tcp, address });
                }
                Err(error) => {
                    tries += 1;
                    let taken = error.kind() == io::ErrorKind::AddrInUse;
                    if !taken || address.port() != 0 || tries == TRIES {
                        return Err(error);
                    }
                }
            }
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Hands them to the runtime that serves them.
    pub(super) fn into_serving(
        self,
        runtime: &Runtime,
        shared: Arc<Shared>,
        descriptors: Arc<Descriptors>,
    ) -> io::Result<Serving> {
        let _within = runtime.enter();
        let udp = UdpSocket::from_std(self.udp)?;
        let state = UdpSocketState::new((&udp).into())?;
        Ok(Serving {
            udp,
            state,
            tcp: TcpListener::from_std(self.tcp)?,
            shared,
            // RFC 7766, section 6.2.2, wants few connections per client.
            places: Admission::new(Limits::UNAUTHENTICATED),
            descriptors,
        })
    }
}

/// The sockets, as the thread serves them.
#[derive(Debug)]
pub(super) struct Serving {
    udp: UdpSocket,
    state: UdpSocketState,
    tcp: TcpListener,
    shared: Arc<Shared>,
    places: Arc<Admission>,
    descriptors: Arc<Descriptors>,
}

impl Serving {
    /// Answers until the other end of `stopped` is gone. Fails if a socket does for good.
    pub(super) fn run(self, runtime: &Runtime, stopped: oneshot::Receiver<()>) -> io::Result<()> {
        runtime.block_on(async {
            tokio::select! {
                error = self.datagrams() => Err(error),
                error = self.connections() => Err(error),
                () = self.shared.follow() => Ok(()),
                _ = stopped => Ok(()),
            }
        })
    }

    async fn datagrams(&self) -> io::Error {
        let stride = LONGEST_QUERY * self.state.gro_segments();
        let mut buffer = vec![0; stride * AT_ONCE];
        let mut metas = [RecvMeta::default(); AT_ONCE];
        let mut memory = Memory::default();
        loop {
            let mut slices = buffer.chunks_mut(stride).map(IoSliceMut::new);
            let mut slices: [IoSliceMut<'_>; AT_ONCE] =
                std::array::from_fn(|_| slices.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
            let received = self
                .udp
                .async_io(Interest::READABLE, || {
                    let socket = (&self.udp).into();
                    self.state.recv(socket, &mut slices, &mut metas)
                })
                .await;
            let count = match received {
                Ok(count) => count,
                // The error is about one packet, or the system lacks memory for a moment.
                Err(error) if is_transient(&error) => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                Err(error) => return error,
            };
            for (slice, meta) in slices.iter().zip(&metas).take(count) {
                let stride = meta.stride.max(1);
                for packet in slice[..meta.len].chunks(stride) {
                    self.answer_datagram(&mut memory, packet, meta);
                }
            }
            // Connections get a turn.
            tokio::task::yield_now().await;
        }
    }

    fn answer_datagram(&self, memory: &mut Memory, packet: &[u8], meta: &RecvMeta) {
        let Some(contents) = memory.answer(&self.shared, packet) else {
            return;
        };
        let transmit = Transmit {
            destination: meta.addr,
            ecn: None,
            contents,
            segment_size: None,
            // Resolvers believe only the address that they asked.
            src_ip: meta.dst_ip,
        };
        // If the kernel does not take the answer, the client asks again.
        let _ = self.state.try_send((&self.udp).into(), &transmit);
    }

    /// Accepts connections. Those that find no place or no descriptor are closed at once.
    async fn connections(&self) -> io::Error {
        loop {
            match self.tcp.accept().await {
                Ok((stream, from)) => {
                    let place = self.places.enter_connected(from.ip());
                    let taken = self.descriptors.take(User::Dns, 1);
                    let (Some(place), Ok(taken)) = (place, taken) else {
                        continue;
                    };
                    let shared = self.shared.clone();
                    tokio::spawn(async move {
                        // An error means that the client is gone.
                        let _ = serve(stream, &shared).await;
                        drop((place, taken));
                    });
                }
                // Without descriptors, no connection can be accepted until another is closed.
                Err(error) if is_transient(&error) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => return error,
            }
        }
    }
}

/// Answers what comes on a connection, in order: RFC 7766.
async fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut packet = Vec::new();
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            packet.resize(length.into(), 0);
            stream.read_exact(&mut packet).await
        };
        tokio::time::timeout(IDLE, read).await??;
        shared.catch_up();
        let Some(answer) = answer(shared.records(), &packet, Transport::Tcp) else {
            return Ok(());
        };
        let mut framed = Vec::with_capacity(2 + answer.len());
        // An answer is a message, of at most 65,535 bytes.
        framed.extend_from_slice(&(answer.len() as u16).to_be_bytes());
        framed.extend_from_slice(&answer);
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// How many answers are remembered. Chosen, not measured: few questions are asked often; at most 7 MB.
const REMEMBERED: usize = 4096;

/// The longest query that is remembered: a name, and an OPT record with a short option or two.
const LONGEST_REMEMBERED: usize = 320;

/// Answers over UDP, by what was asked: the same query is answered with the same bytes, but for its
/// id.
#[derive(Debug, Default)]
pub(super) struct Memory {
    answers: HashMap<Vec<u8>, Vec<u8>>,
    /// The number of changes of the records that the answers are from.
    changes: u64,
    answer: Vec<u8>,
}

impl Memory {
    pub(super) fn answer(&mut self, shared: &Shared, packet: &[u8]) -> Option<&[u8]> {
        // The count is read before the records: an answer from later records is only forgotten too
        // early.
        let changes = shared.changes();
        if changes != self.changes {
            shared.catch_up();
            self.answers.clear();
            self.changes = changes;
        }
        let (id, query) = packet.split_first_chunk::<2>()?;
        if let Some(remembered) = self.answers.get(query) {
            self.answer.clone_from(remembered);
            self.answer[..2].copy_from_slice(id);
            return Some(&self.answer);
        }
        self.answer = answer(shared.records(), packet, Transport::Udp)?;
        if query.len() <= LONGEST_REMEMBERED {
            if self.answers.len() == REMEMBERED {
                self.answers.clear();
            }
            self.answers.insert(query.to_vec(), self.answer.clone());
        }
        Some(&self.answer)
    }
}

#[cfg(test)]
mod tests;
