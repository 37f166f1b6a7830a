//! A process from its start to its end in one call: `output` and `status`.
//!
//! The process is made to hang up, so that nothing is left of it when the caller goes away in the
//! middle: the call is attached to it from its start to its end.
//!
//! **Cancellation:** a call that is dropped hangs its process up.

use circuit_proto::Code;
use circuit_proto::element::process::{Cmd, Sink, Status};

use super::Proc;
use crate::anchor::Anchor;
use crate::error::Error;
use crate::stream::Reader;

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

async fn run(anchor: &Anchor, mut cmd: Cmd) -> Result<Output, Error> {
    let piped = [&cmd.stdout, &cmd.stderr].map(|sink| *sink == Sink::Pipe);
    // It is forgotten when all of it has been read, and not before.
    (cmd.scrub, cmd.hangup) = (false, true);
    let place = match anchor.path().names() {
        [_server] => anchor.fresh("run")?,
        _ => anchor.clone(),
    };
    let process = place.make_proc(cmd).await?;
    let output = attend(&process, piped).await?;
    match process.scrub().await {
        // Somebody else was faster.
        Err(Error::Refused { error, .. }) if error.code == Code::NoSuchElement => Ok(output),
        other => other.map(|()| output),
    }
}

/// Waits for the process, and reads the outputs that are pipes. All of these begin at once, the
/// waiting first: while it lasts the process knows that somebody is there.
async fn attend(process: &Proc, [stdout, stderr]: [bool; 2]) -> Result<Output, Error> {
    let stdout = async {
        match stdout {
            true => read(process.stdout().await?).await,
            false => Ok(Vec::new()),
        }
    };
    let stderr = async {
        match stderr {
            true => read(process.stderr().await?).await,
            false => Ok(Vec::new()),
        }
    };
    let stdin = async {
        // Of a process that has exited there is nothing to end.
        match process.stdin().await?.finish().await {
            Err(error) if error.code() == Some(Code::Closed) => Ok(()),
            other => other,
        }
    };
    let (status, stdout, stderr, ()) = tokio::try_join!(process.wait(), stdout, stderr, stdin)?;
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

async fn read(mut reader: Reader) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(bytes) = reader.chunk().await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}
