//! A server of the circuit.

use circuit_proto::element::server::{Op, Status};
use circuit_proto::{Path, Url};

use crate::anchor::Anchor;
use crate::error::Error;
use crate::stream::Reader;

/// A handle to a server, at its own anchor.
#[derive(Debug, Clone)]
pub struct Server {
    anchor: Anchor,
}

impl Server {
    pub(crate) fn new(anchor: Anchor) -> Server {
        Server { anchor }
    }

    /// The server's path.
    pub fn path(&self) -> &Path {
        self.anchor.path()
    }

    /// Its status now.
    ///
    /// ```no_run
    /// # async fn example(server: circuit_client::Server) -> Result<(), circuit_client::Error> {
    /// let status = server.peek().await?;
    /// println!("{} knows {} servers", status.name, status.servers);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn peek(&self) -> Result<Status, Error> {
        match self.anchor.peek().await? {
            Some(circuit_proto::element::Status::Server(status)) => Ok(status),
            other => Err(super::not_a(
                circuit_proto::ElementKind::Server,
                self.path(),
                other,
            )),
        }
    }

    /// Merges the server's circuit with that of the server at `url`.
    ///
    /// ```no_run
    /// # async fn example(server: circuit_client::Server) -> Result<(), Box<dyn std::error::Error>> {
    /// server.join("circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d".parse()?).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn join(&self, url: Url) -> Result<(), Error> {
        self.anchor.call(Op::Join { url }).await
    }

    /// Makes the server leave the circuit in order and exit.
    ///
    /// ```no_run
    /// # async fn example(server: circuit_client::Server) -> Result<(), circuit_client::Error> {
    /// server.suicide().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn suicide(&self) -> Result<(), Error> {
        self.anchor.call(Op::Suicide).await
    }

    /// What the server's threads and operations are doing, as text for people.
    ///
    /// ```no_run
    /// # async fn example(server: circuit_client::Server) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncReadExt;
    /// let mut text = String::new();
    /// server.stacks().await?.read_to_string(&mut text).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stacks(&self) -> Result<Reader, Error> {
        let client = self.anchor.client();
        let (send, recv) = client.open(self.path(), &Op::Stacks.into()).await?;
        Ok(Reader::new(client.clone(), self.path().clone(), send, recv))
    }
}
