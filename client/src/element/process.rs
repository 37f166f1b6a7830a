//! A process on some host.

mod attached;
mod output;

use circuit_proto::element::process::{Cmd, Op, Status, TerminalSize};
use circuit_proto::element::service::Query;
use circuit_proto::element::streams::{Ended, Reach};

pub use attached::{Attached, AttachedEnd, AttachedOutput, AttachedStdin};
pub use output::Output;

use super::service::Lines;
use super::streams::Runs;
use super::{Bound, Handle, kind};
use crate::anchor::Anchor;
use crate::error::Error;
use crate::signal::Signal;

/// A handle to a process.
pub type Proc = Handle<kind::Process>;

impl Runs for kind::Process {
    type Ended = Status;

    fn ended_in(ended: Ended) -> Option<Status> {
        match ended {
            Ended::Process(status) => Some(*status),
            Ended::Container(_) | Ended::Service(_) => None,
        }
    }
}

impl Handle<kind::Process> {
    /// Sends a signal to the whole process group that the process leads.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// process.signal_group("KILL").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn signal_group(&self, signal: impl Into<Signal>) -> Result<(), Error> {
        self.send_signal(signal.into(), Reach::Group).await
    }

    /// Sends a signal to the process and all its descendants, those included that have lost their parent.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// process.signal_tree("TERM").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn signal_tree(&self, signal: impl Into<Signal>) -> Result<(), Error> {
        self.send_signal(signal.into(), Reach::Tree).await
    }

    /// Reads its retained output, as the query says, if its stdout or stderr is a
    /// log.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// use circuit_client::service::{Line, Query};
    /// let query = Query { last: None, since: None, stream: None, follow: true };
    /// let mut lines = process.logs(query).await?;
    /// while let Some(Line::Line { text, .. }) = lines.next().await? {
    ///     println!("{}", String::from_utf8_lossy(&text));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn logs(&self, query: Query) -> Result<Lines, Error> {
        self.anchor().service().logs(query).await
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
        self.call(Op::Resize { size }).await
    }
}

/// Processes.
impl Anchor {
    /// Executes a command as a process element here.
    ///
    /// # Errors
    ///
    /// [`Occupied`](crate::Code::Occupied) if the anchor holds an element,
    /// [`NoSuchProgram`](crate::Code::NoSuchProgram) or [`Exec`](crate::Code::Exec) with the operating
    /// system's reason; then nothing was made.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Cmd;
    /// let process = anchor.make_proc(Cmd::new("/bin/ls").arg("/")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_proc(&self, cmd: Cmd) -> Result<Proc, Error> {
        self.make(Op::Make(cmd)).await
    }

    /// Executes a command here as [`make_proc`](Anchor::make_proc) does; the process and its element go
    /// when the handle does: see [`Bound`].
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Cmd;
    /// let worker = anchor.make_bound_proc(Cmd::new("./worker")).await?;
    /// println!("it runs as {}, for as long as this program does", worker.peek().await?.pid);
    /// worker.wait().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn make_bound_proc(&self, cmd: Cmd) -> Result<Bound<kind::Process>, Error> {
        Bound::make(self, Op::MakeBound(cmd)).await
    }

    /// A handle to the process that the anchor is known to hold.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let status = anchor.proc().peek().await?;
    /// println!("{:?}", status.phase);
    /// # Ok(())
    /// # }
    /// ```
    pub fn proc(&self) -> Proc {
        Handle::new(self.clone())
    }
}
