//! The connections of one client to the server on its host: each carries one request at a time, and
//! is used again.
//!
//! **Cancellation:** a request that is dropped takes its connection along.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use circuit_proto::ServerId;
use circuit_proto::handshake::Identity;
use parking_lot::Mutex;

use super::dial::{self, Place, SocketError};
use super::{Connection, RecvHalf, SendHalf};
use crate::transport::lost::Lost;

/// How many connections are kept that no request uses. Chosen, not measured: each costs a descriptor
/// here and at the server, and a new one some 20 µs.
const MOST_IDLE: usize = 64;

/// The connections of a client.
#[derive(Debug)]
pub struct Pool {
    itself: Weak<Pool>,
    place: Place,
    identity: Identity,
    id: ServerId,
    timeout: Duration,
    idle: Mutex<Vec<Arc<Connection>>>,
    /// A request was abandoned since the last one was begun.
    abandoned: AtomicBool,
}

impl Pool {
    /// Dials the server whose socket has this path, within `timeout`.
    pub async fn dial(path: &Path, timeout: Duration) -> Result<Arc<Pool>, SocketError> {
        let (connection, place, identity) = dial::dial(path, timeout).await?;
        let id = match identity.life() {
            Some(life) => life.id,
            None => {
                return Err(SocketError::Broken {
                    path: path.to_owned(),
                    reason: "its URL names no server".to_owned(),
                });
            }
        };
        let pool = Arc::new_cyclic(|itself| Pool {
            itself: itself.clone(),
            place,
            identity,
            id,
            timeout,
            idle: Mutex::new(Vec::new()),
            abandoned: AtomicBool::new(false),
        });
        pool.put(connection);
        Ok(pool)
    }

    /// The server that was dialled.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its id.
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// The path of its socket.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// A stream to the server, and whether its connection is new. One that is not may turn out to be
    /// closed when something is written to it.
    pub async fn open(&self) -> Result<(SendHalf, RecvHalf, bool), Lost> {
        // The system may tell the server of a request on another connection before it tells of the end
        // of the one that was abandoned. When it has answered on a connection that was made since, it
        // knows.
        let behind = self.abandoned.swap(false, Ordering::AcqRel);
        let pooled = match behind {
            true => None,
            false => self.take(),
        };
        if let Some(connection) = pooled {
            let (send, recv) = connection.open_of(Some(self.itself.clone()));
            return Ok((send, recv, false));
        }
        let (connection, _, identity) =
            dial::dial(&self.place.path, self.timeout)
                .await
                .map_err(|error| match error {
                    SocketError::NoSocket(_) => Lost::Left,
                    SocketError::Dead(_) => Lost::Died,
                    SocketError::NoAnswer { .. } => Lost::Silent,
                    other => match self.place.lost() {
                        Some(lost) => lost,
                        None => Lost::Transport(other.to_string()),
                    },
                })?;
        if identity.life() != self.identity.life() {
            return Err(Lost::Died);
        }
        let (send, recv) = connection.open_of(Some(self.itself.clone()));
        Ok((send, recv, true))
    }

    /// The connection that was used last, if it still stands.
    fn take(&self) -> Option<Arc<Connection>> {
        loop {
            let connection = self.idle.lock().pop()?;
            if !connection.is_stale() {
                return Some(connection);
            }
        }
    }

    /// Notes that a request was abandoned: those that are begun from now on come behind its end.
    pub(super) fn abandoned(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// Takes a connection back whose last stream has ended in order.
    pub(super) fn put(&self, connection: Arc<Connection>) {
        let mut idle = self.idle.lock();
        if connection.is_in_order() && idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }

    /// Closes the connections that no request uses.
    pub fn close(&self) {
        self.idle.lock().clear();
    }
}
