//! The common part of the handles to processes and to containers: their streams, their end, and signals.

use circuit_proto::Code;
use circuit_proto::element::streams::{Ended, Op, Reach};

use super::{Handle, Kind};
use crate::anchor::Anchor;
use crate::error::Error;
use crate::signal::Signal;
use crate::stream::{Reader, Writer};

/// A kind of element that runs a program: a process or a container.
pub trait Runs: Kind {
    /// The status of an element that has ended.
    type Ended;

    /// The status, if it is of this kind.
    #[doc(hidden)]
    fn ended_in(ended: Ended) -> Option<Self::Ended>;
}

impl<K: Runs> Handle<K> {
    /// Waits for the process or container to exit; at once if it has. There is no deadline.
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
    pub async fn wait(&self) -> Result<K::Ended, Error> {
        K::ended_in(self.anchor().wait().await?).ok_or_else(|| {
            let message = "another element than this handle is for".to_owned();
            self.refused(Code::WrongKind, message)
        })
    }

    /// Sends the process a signal.
    ///
    /// Of a container its first process gets the signal. Linux shields a first process from
    /// signals for which it has no handler, but `KILL`.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Signal;
    /// process.signal(Signal::TERM).await?;
    /// process.signal("usr1").await?;
    /// process.signal(34).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn signal(&self, signal: impl Into<Signal>) -> Result<(), Error> {
        self.send_signal(signal.into(), Reach::Main).await
    }

    /// Ends the process by `SIGKILL`. That it has exited already is no error.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// process.kill().await?;
    /// println!("{}", process.wait().await?.exit.unwrap_or_default());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn kill(&self) -> Result<(), Error> {
        match self.signal(Signal::KILL).await {
            Err(Error::Refused { error, .. }) if error.code == Code::Closed => Ok(()),
            other => other,
        }
    }

    pub(super) async fn send_signal(&self, signal: Signal, reach: Reach) -> Result<(), Error> {
        let signal = signal.to_string();
        self.call(Op::Signal { signal, reach }).await
    }

    /// Becomes the one writer of the element's stdin. [`Writer::finish`] (or `shutdown`) closes
    /// that stdin; dropping the writer does not.
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
        self.anchor().writer(Op::Stdin).await
    }

    /// Becomes the one reader of the element's stdout, from where the last reader stopped.
    ///
    /// # Errors
    ///
    /// [`Busy`](crate::Code::Busy) while somebody else reads, [`Closed`](crate::Code::Closed) if
    /// somebody has read all of it, or it goes to a file.
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
        self.anchor().reader(Op::Stdout).await
    }

    /// Becomes the one reader of the element's stderr, as [`stdout`](Self::stdout) does of its
    /// stdout.
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
        self.anchor().reader(Op::Stderr).await
    }
}

impl Anchor {
    /// Waits for the process or container here to exit; at once if it has. There is no deadline.
    ///
    /// # Errors
    ///
    /// [`Aborted`](crate::Code::Aborted) if the element is scrubbed meanwhile.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// println!("{}", anchor.wait().await?.exit().unwrap_or("ok"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(&self) -> Result<Ended, Error> {
        self.call_without_deadline(Op::Wait).await
    }
}
