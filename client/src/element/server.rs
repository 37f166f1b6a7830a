//! A server of the circuit.

use circuit_proto::Url;
use circuit_proto::element::server::Op;

use super::{Handle, kind};
use crate::anchor::Anchor;
use crate::error::Error;
use crate::stream::Reader;

/// A handle to a server, at its own anchor.
pub type Server = Handle<kind::Server>;

impl Handle<kind::Server> {
    /// Merges the server's circuit with that of the server at `url`.
    ///
    /// ```no_run
    /// # async fn example(server: circuit_client::Server) -> Result<(), Box<dyn std::error::Error>> {
    /// server.join("circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d".parse()?).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn join(&self, url: Url) -> Result<(), Error> {
        self.call(Op::Join { url }).await
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
        self.call(Op::Suicide).await
    }

    /// Makes the server stop its services, and then leave the circuit in order and exit. What is wanted of
    /// the services stays: the server's next life has them up again.
    ///
    /// ```no_run
    /// # async fn example(server: circuit_client::Server) -> Result<(), circuit_client::Error> {
    /// server.stop().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stop(&self) -> Result<(), Error> {
        self.call(Op::Stop).await
    }

    /// Opens a text for people that says what the server's threads and operations are doing.
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
        self.anchor().reader(Op::Stacks).await
    }
}

/// Servers.
impl Anchor {
    /// A handle to the server whose anchor this is.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// println!("{}", anchor.as_server().peek().await?.name);
    /// # Ok(())
    /// # }
    /// ```
    pub fn as_server(&self) -> Server {
        Handle::new(self.clone())
    }
}
