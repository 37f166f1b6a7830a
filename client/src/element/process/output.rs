//! A process from its start to its end in one call: `output` and `status`.
//!
//! All of it is one request, on which the caller says nothing more: it has room for all that comes.
//!
//! **Cancellation:** a call that is dropped hangs its process up.

use circuit_proto::element::process::run::{FromServer, Which};
use circuit_proto::element::process::{Cmd, Op, Sink, Status};

use crate::anchor::Anchor;
use crate::error::Error;
use crate::transport::stream::{RecvHalf, StreamError};

/// The end of a process, and all that it wrote to its pipes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub status: Status,
    /// What it wrote to stdout; nothing if that went elsewhere.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr; nothing if that went elsewhere.
    pub stderr: Vec<u8>,
}

/// Processes that are waited for.
impl Anchor {
    /// Executes a command here with an empty stdin, and waits for its end and for all of its output,
    /// however soon it exits and however much that is. The element is gone afterwards. At a server's
    /// own anchor the element is at a [fresh](Anchor::fresh) one.
    ///
    /// That the program fails is no error: see [`Status::success`].
    ///
    /// A future that is dropped hangs the process up, as a terminal that closes does.
    ///
    /// # Errors
    ///
    /// Those of [`make_proc`](Anchor::make_proc), and [`Aborted`](crate::Code::Aborted) if somebody
    /// scrubs the element meanwhile. The process is hung up then too.
    ///
    /// ```no_run
    /// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Cmd;
    /// for server in client.servers().await? {
    ///     let output = client.server(server.id).output(Cmd::new("uptime")).await?;
    ///     println!("{}: {}", server.name, String::from_utf8_lossy(&output.stdout));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn output(&self, cmd: Cmd) -> Result<Output, Error> {
        run(self, cmd).await
    }

    /// Executes a command as [`output`](Anchor::output) does, and discards what it writes to its
    /// pipes.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::Cmd;
    /// let status = anchor.status(Cmd::new("test").args(["-e", "/etc/motd"])).await?;
    /// println!("{}", status.success());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn status(&self, mut cmd: Cmd) -> Result<Status, Error> {
        // A terminal takes both.
        if cmd.terminal.is_none() {
            for sink in [&mut cmd.stdout, &mut cmd.stderr] {
                if *sink == Sink::Pipe {
                    *sink = Sink::Discard;
                }
            }
        }
        Ok(run(self, cmd).await?.status)
    }
}

/// The room for an output that is read in any case, however long it is.
const ALL: u64 = u64::MAX;

async fn run(anchor: &Anchor, cmd: Cmd) -> Result<Output, Error> {
    let anchor = anchor.for_a_run()?;
    let (client, path) = (anchor.client(), anchor.path());
    let op = Op::Run { cmd, window: ALL };
    let (_send, recv) = client.open_to_hear(path, &op.into()).await?;
    let output = hear(recv).await;
    output.map_err(|error| client.failed(path, error))
}

/// Hears what the process writes, and how it ends.
async fn hear(mut recv: RecvHalf) -> Result<Output, StreamError> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    while let Some(chunk) = recv.whole_chunk().await? {
        match FromServer::read(&chunk)? {
            FromServer::Output(Which::Stdout) => stdout.extend_from_slice(&chunk[1..]),
            FromServer::Output(Which::Stderr) => stderr.extend_from_slice(&chunk[1..]),
            FromServer::Room(_) | FromServer::StdinClosed => (),
        }
    }
    let status: Result<Status, circuit_proto::Error> = recv.frame().await?;
    let status = status.map_err(StreamError::Failed)?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}
