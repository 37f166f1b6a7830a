//! A container on some host.

use circuit_proto::element::container::{Op, Run, Status};
use circuit_proto::element::streams::Ended;

use super::streams::Runs;
use super::{Handle, kind};
use crate::anchor::Anchor;
use crate::error::Error;

/// A handle to a container.
///
/// Its [`peek`](Handle::peek) gives the element's status, and the JSON that `docker inspect` prints
/// of the container.
pub type Container = Handle<kind::Container>;

impl Runs for kind::Container {
    type Ended = Status;

    fn ended_in(ended: Ended) -> Option<Status> {
        match ended {
            Ended::Container(status) => Some(*status),
            Ended::Process(_) | Ended::Service(_) => None,
        }
    }
}

/// Containers.
impl Anchor {
    /// Runs a container as an element here, on a server that was started with `-docker`. The
    /// server first fetches an image that its Engine does not have, however long that takes.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element,
    /// [`Refused`](crate::Code::Refused) by a server without `-docker`,
    /// [`InvalidArgument`](crate::Code::InvalidArgument) for a field that makes no sense,
    /// [`Exec`](crate::Code::Exec) with the Engine's reason; then nothing was made.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Run;
    /// let run = Run { path: Some("/bin/ls".into()), args: vec!["/".into()], ..Run::new("ubuntu") };
    /// let container = anchor.make_docker(run).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_docker(&self, run: Run) -> Result<Container, Error> {
        self.make_docker_showing(run, |_| ()).await
    }

    /// [`make_docker`](Self::make_docker), which gives the progress of fetching the image to
    /// `show`, as pieces of text.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Run;
    /// let run = Run::new("ubuntu");
    /// let container = anchor.make_docker_showing(run, |text| eprint!("{text}")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_docker_showing(
        &self,
        run: Run,
        mut show: impl FnMut(&str),
    ) -> Result<Container, Error> {
        // The stream is held until the end: letting go of it says that nobody wants the container.
        let (_send, mut recv) = self.open(Op::Make(run)).await?;
        loop {
            match recv.data().await {
                Ok(Some(text)) => show(&String::from_utf8_lossy(&text)),
                Ok(None) => return Ok(self.container()),
                Err(error) => return Err(self.client().failed_at_end(self.path(), error)),
            }
        }
    }

    /// A handle to the container that the anchor is known to hold.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// println!("{}", anchor.container().peek().await?.status.name);
    /// # Ok(())
    /// # }
    /// ```
    pub fn container(&self) -> Container {
        Handle::new(self.clone())
    }
}
