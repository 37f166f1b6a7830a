//! A process on some host.

use circuit_proto::Path;
use circuit_proto::element::process::{self, Status, TerminalSize};
use circuit_proto::element::streams::{Ended, Op};

use crate::anchor::Anchor;
use crate::error::Error;
use crate::stream::{Reader, Writer};

/// A handle to a process element. Dropping it changes nothing for the process.
#[derive(Debug, Clone)]
pub struct Proc {
    anchor: Anchor,
}

impl Proc {
    pub(crate) fn new(anchor: Anchor) -> Proc {
        Proc { anchor }
    }

    /// The element's path.
    pub fn path(&self) -> &Path {
        self.anchor.path()
    }

    /// Its status now.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// let status = process.peek().await?;
    /// println!("process {} is {:?}", status.pid, status.phase);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn peek(&self) -> Result<Status, Error> {
        match self.anchor.peek().await? {
            Some(circuit_proto::element::Status::Process(status)) => Ok(status),
            other => Err(super::not_a(
                circuit_proto::ElementKind::Process,
                self.path(),
                other,
            )),
        }
    }

    /// Waits for the process to exit; at once if it has. There is no deadline.
    ///
    /// # Errors
    ///
    /// [`Aborted`](crate::Code::Aborted) if the element is scrubbed meanwhile.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// let status = process.wait().await?;
    /// println!("exit status {:?}, signal {:?}", status.code, status.signal);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(&self) -> Result<Status, Error> {
        match self.anchor.wait().await? {
            Ended::Process(status) => Ok(*status),
            Ended::Container(_) => Err(super::not_what_it_was(self.path())),
        }
    }

    /// Sends a signal, by name (`TERM`, `SIGTERM`, any case) or number.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// process.signal("TERM").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn signal(&self, signal: &str) -> Result<(), Error> {
        self.anchor.signal(signal, false).await
    }

    /// Sends a signal to the whole process group that the process leads.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// process.signal_group("KILL").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn signal_group(&self, signal: &str) -> Result<(), Error> {
        self.anchor.signal(signal, true).await
    }

    /// Becomes the one writer of the process's stdin. [`Writer::finish`] (or `shutdown`) closes
    /// the process's stdin; dropping the writer does not.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::Code::Busy) while somebody else writes.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncWriteExt;
    /// let mut stdin = process.stdin().await?;
    /// stdin.write_all(b"hello\n").await?;
    /// stdin.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stdin(&self) -> Result<Writer, Error> {
        self.anchor.writer(Op::Stdin).await
    }

    /// Becomes the one reader of the process's stdout, from where the last one stopped.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::Code::Busy) while somebody else reads.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), Box<dyn std::error::Error>> {
    /// use tokio::io::AsyncReadExt;
    /// let mut text = String::new();
    /// process.stdout().await?.read_to_string(&mut text).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stdout(&self) -> Result<Reader, Error> {
        self.anchor.reader(Op::Stdout).await
    }

    /// Becomes the one reader of the process's stderr, as [`stdout`](Self::stdout).
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// let mut stderr = process.stderr().await?;
    /// while let Some(bytes) = stderr.chunk().await? {
    ///     println!("{} bytes of complaints", bytes.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stderr(&self) -> Result<Reader, Error> {
        self.anchor.reader(Op::Stderr).await
    }

    /// Changes the size of the process's terminal, if it runs on one.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// use circuit_client::TerminalSize;
    /// process.resize(TerminalSize { rows: 24, columns: 80 }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn resize(&self, size: TerminalSize) -> Result<(), Error> {
        self.anchor.call(process::Op::Resize { size }).await
    }

    /// Forgets the element. The process goes on, its output drained and discarded.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// process.wait().await?;
    /// process.scrub().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scrub(&self) -> Result<(), Error> {
        self.anchor.scrub().await
    }
}
