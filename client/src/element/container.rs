//! A container on some host.

use circuit_proto::Path;
use circuit_proto::element::Status as AnyStatus;
use circuit_proto::element::container::{Inspected, Status};
use circuit_proto::element::streams::{Ended, Op};

use crate::anchor::Anchor;
use crate::error::Error;
use crate::stream::{Reader, Writer};

/// A handle to a container element. Dropping it changes nothing for the container.
#[derive(Debug, Clone)]
pub struct Container {
    anchor: Anchor,
}

impl Container {
    pub(crate) fn new(anchor: Anchor) -> Container {
        Container { anchor }
    }

    /// The element's path.
    pub fn path(&self) -> &Path {
        self.anchor.path()
    }

    /// Its status now, and what the Engine tells of it: the JSON that `docker inspect` prints of
    /// one container.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::Code::Closed) if somebody else removed the container,
    /// [`Busy`](crate::Code::Busy) if its Engine does not answer.
    ///
    /// ```no_run
    /// # async fn example(container: circuit_client::Container) -> Result<(), circuit_client::Error> {
    /// let inspected = container.peek().await?;
    /// println!("{} is {:?}", inspected.status.name, inspected.status.phase);
    /// println!("{}", inspected.inspect);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn peek(&self) -> Result<Inspected, Error> {
        match self.anchor.peek().await? {
            Some(AnyStatus::Container(inspected)) => Ok(*inspected),
            other => Err(super::not_a(
                circuit_proto::ElementKind::Container,
                self.path(),
                other,
            )),
        }
    }

    /// Waits for the container to exit; at once if it has. There is no deadline.
    ///
    /// # Errors
    ///
    /// [`Aborted`](crate::Code::Aborted) if the element is scrubbed meanwhile.
    ///
    /// ```no_run
    /// # async fn example(container: circuit_client::Container) -> Result<(), circuit_client::Error> {
    /// let status = container.wait().await?;
    /// println!("exit status {:?}, signal {:?}", status.code, status.signal);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(&self) -> Result<Status, Error> {
        match self.anchor.wait().await? {
            Ended::Container(status) => Ok(*status),
            Ended::Process(_) => Err(super::not_what_it_was(self.path())),
        }
    }

    /// Sends the container's first process a signal, by name (`TERM`, `SIGTERM`, any case) or
    /// number. Linux shields a first process from signals for which it has no handler, but `KILL`.
    ///
    /// ```no_run
    /// # async fn example(container: circuit_client::Container) -> Result<(), circuit_client::Error> {
    /// container.signal("KILL").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn signal(&self, signal: &str) -> Result<(), Error> {
        self.anchor.signal(signal, false).await
    }

    /// Becomes the one writer of the container's stdin. [`Writer::finish`] (or `shutdown`) closes
    /// the container's stdin; dropping the writer does not.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::Code::Busy) while somebody else writes.
    ///
    /// ```no_run
    /// # async fn example(container: circuit_client::Container) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncWriteExt;
    /// let mut stdin = container.stdin().await?;
    /// stdin.write_all(b"hello\n").await?;
    /// stdin.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stdin(&self) -> Result<Writer, Error> {
        self.anchor.writer(Op::Stdin).await
    }

    /// Becomes the one reader of the container's stdout, from where the last one stopped.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::Code::Busy) while somebody else reads.
    ///
    /// ```no_run
    /// # async fn example(container: circuit_client::Container) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncReadExt;
    /// let mut text = String::new();
    /// container.stdout().await?.read_to_string(&mut text).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stdout(&self) -> Result<Reader, Error> {
        self.anchor.reader(Op::Stdout).await
    }

    /// Becomes the one reader of the container's stderr, as [`stdout`](Self::stdout).
    ///
    /// ```no_run
    /// # async fn example(container: circuit_client::Container) -> Result<(), circuit_client::Error> {
    /// let mut stderr = container.stderr().await?;
    /// while let Some(bytes) = stderr.chunk().await? {
    ///     println!("{} bytes of complaints", bytes.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stderr(&self) -> Result<Reader, Error> {
        self.anchor.reader(Op::Stderr).await
    }

    /// Forgets the element, and removes the container if it has ended. One that runs goes on; if
    /// it was made with `scrub`, its Engine removes it when it exits.
    ///
    /// ```no_run
    /// # async fn example(container: circuit_client::Container) -> Result<(), circuit_client::Error> {
    /// container.wait().await?;
    /// container.scrub().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scrub(&self) -> Result<(), Error> {
        self.anchor.scrub().await
    }
}
