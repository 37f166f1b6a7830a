//! The requests of a client: how each is sent, and how its answer is read.
//!
//! Anchors and handles call these. Which server is reached, and by which transport, the
//! [client](super) knows.
//!
//! **Cancellation:** a request that is dropped is abandoned; the server may have executed it, or not.

use std::future::Future;

use bytes::Bytes;
use circuit_proto::element::anchor::{self, Listed};
use circuit_proto::request::{Op, Reply, Request};
use circuit_proto::{Code, Path, codec};
use serde::de::DeserializeOwned;

use super::{Client, Transport};
use crate::error::Error;
use crate::transport::stream::{RecvHalf, SendHalf, StreamError};

/// What the client sends behind a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Behind {
    /// Nothing: the direction ends with the request.
    Nothing,
    /// Data, once the server has accepted the request.
    DataLater,
    /// Data that the caller puts into the queue at once: the request waits there to go with it.
    DataAtOnce,
}

impl Client {
    /// A request that is answered by one value, within the deadline.
    pub(crate) async fn call<T: DeserializeOwned>(&self, path: &Path, op: &Op) -> Result<T, Error> {
        self.within(path, self.call_without_deadline(path, op))
            .await
    }

    /// A request that is answered by one value, whenever that is.
    pub(crate) async fn call_without_deadline<T: DeserializeOwned>(
        &self,
        path: &Path,
        op: &Op,
    ) -> Result<T, Error> {
        let (_send, mut recv) = self.request(path, op, Behind::Nothing).await?;
        let value = self.reply(path, &mut recv).await?;
        codec::decode(&value).map_err(|error| Error::protocol(path, error))
    }

    /// The server's acceptance of a request, within the deadline.
    pub(crate) async fn accepted(&self, path: &Path, recv: &mut RecvHalf) -> Result<(), Error> {
        self.within(path, async { self.reply(path, recv).await.map(drop) })
            .await
    }

    /// A request that opens a stream; the server's acceptance comes within the deadline.
    pub(crate) async fn open(&self, path: &Path, op: &Op) -> Result<(SendHalf, RecvHalf), Error> {
        self.within(path, async {
            let (send, mut recv) = self.request(path, op, Behind::DataLater).await?;
            self.reply(path, &mut recv).await?;
            Ok((send, recv))
        })
        .await
    }

    /// A request that opens a stream on which the caller says nothing more; the server's acceptance
    /// comes within the deadline.
    pub(crate) async fn open_to_hear(
        &self,
        path: &Path,
        op: &Op,
    ) -> Result<(SendHalf, RecvHalf), Error> {
        self.within(path, async {
            let (send, mut recv) = self.request(path, op, Behind::Nothing).await?;
            self.reply(path, &mut recv).await?;
            Ok((send, recv))
        })
        .await
    }

    /// All that a listing gives.
    pub(crate) async fn list(&self, path: &Path, recursive: bool) -> Result<Vec<Listed>, Error> {
        let op = anchor::Op::List { recursive }.into();
        self.within(path, async {
            let (_send, mut recv) = self.request(path, &op, Behind::Nothing).await?;
            self.reply(path, &mut recv).await?;
            let mut all = Vec::new();
            let failed = |error| self.failed(path, error);
            while let Some(chunk) = recv.whole_chunk().await.map_err(failed)? {
                let entries = codec::decode_all::<Listed>(&chunk);
                all.extend(entries.map_err(|error| Error::protocol(path, error))?);
            }
            Ok(all)
        })
        .await
    }

    pub(crate) fn failed(&self, path: &Path, error: StreamError) -> Error {
        Error::from_stream(path, error, self.dialled())
    }

    /// The error of who has said all, and waits to hear that it was taken note of: where the
    /// other side is gone, it may have been.
    pub(crate) fn failed_at_end(&self, path: &Path, error: StreamError) -> Error {
        match error {
            StreamError::Failed(error) if error.code != Code::Unreachable => {
                Error::from_reply(path, error)
            }
            other => Error::Unknown {
                path: path.clone(),
                reason: self.failed(path, other).reason(),
            },
        }
    }

    async fn within<T>(
        &self,
        path: &Path,
        what: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, what).await {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut {
                path: path.clone(),
                after: self.timeout,
            }),
        }
    }

    /// Sends a request, and does not wait for its answer.
    pub(crate) async fn request(
        &self,
        path: &Path,
        op: &Op,
        behind: Behind,
    ) -> Result<(SendHalf, RecvHalf), Error> {
        let request = encoded(path, op)?;
        loop {
            let opened = self.open_stream().await;
            let (mut send, recv, is_new) = opened.map_err(|error| self.failed(path, error))?;
            let sent = match behind {
                Behind::Nothing => send.last_frame(&request).await,
                Behind::DataLater => send.frame(&request).await,
                Behind::DataAtOnce => send.queue_frame(&request),
            };
            match sent {
                Ok(()) => return Ok((send, recv)),
                // The server had closed this one meanwhile, and has not read the request.
                Err(StreamError::Abandoned) if !is_new => (),
                Err(error) => return Err(self.failed(path, error)),
            }
        }
    }

    /// A stream to the server, and whether its connection has carried none before.
    async fn open_stream(&self) -> Result<(SendHalf, RecvHalf, bool), StreamError> {
        match &self.shared.transport {
            Transport::Quic {
                connection, holds, ..
            } => {
                let (send, recv) = connection.open_bi().await?;
                let recv = RecvHalf::new((recv, holds.hold()));
                Ok((SendHalf::new(send), recv, true))
            }
            Transport::Socket(pool) => pool.open().await.map_err(StreamError::Lost),
        }
    }

    async fn reply(&self, path: &Path, recv: &mut RecvHalf) -> Result<Bytes, Error> {
        let reply: Reply = recv
            .frame()
            .await
            .map_err(|error| self.failed(path, error))?;
        reply
            .map(|value| Bytes::from(value.0))
            .map_err(|error| Error::from_reply(path, error))
    }
}

/// The request for an operation at a path.
fn encoded(path: &Path, op: &Op) -> Result<Request, Error> {
    let encoded = codec::encode(op).map_err(|error| {
        let error = circuit_proto::Error::new(Code::TooLarge, error.to_string());
        Error::Refused {
            path: path.clone(),
            error,
        }
    })?;
    Ok(Request {
        path: path.clone(),
        op: encoded,
        origin: String::new(),
        forwarded: false,
    })
}
