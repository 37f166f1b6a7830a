//! Processes and containers that are there: `stdin`, `stdout`, `stderr`, `wait`, `waitall`, `signal`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use circuit_client::streams::Reach;
use circuit_client::{AttachedStdin, Ended, Error, Path, Proc, Writer};
use clap::Subcommand;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::arguments::{ArgumentError, is_number, path};
use super::dial::{Dial, dial};
use super::error::{Failure, say};
use super::interrupt::{Asked, Interrupts};
use super::output::{Pipe, Target, json_line, print_json};
use super::run::exit_status;
use super::stdin;
use super::{block_on, interruptible};
use crate::element::signals;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write stdin to a process's or container's stdin, and close it
    Stdin {
        /// The process or container
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Print a process's or container's stdout, live
    Stdout {
        /// The process or container
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Print a process's or container's stderr, live, on stdout
    Stderr {
        /// The process or container
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Wait for a process or container to exit, and print its status as JSON
    ///
    /// Of a service: until all its slots are down, finished or failed.
    Wait {
        /// Wait until all slots of a service are ready, and print nothing
        #[arg(long, conflicts_with = "status")]
        ready: bool,
        /// Exit as the process did
        #[arg(long)]
        status: bool,
        /// The process, container, service or slot
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Wait for all the processes and containers whose paths are on stdin, one per line
    ///
    /// Prints a line for each as it exits: its path, a tab, and `ok`, `exit status N` or
    /// `signal: NAME`.
    Waitall {
        /// Exit as the first process that failed did
        #[arg(long)]
        status: bool,
        /// Print a JSON object for each instead, with Path, Exit and Status
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        dial: Dial,
    },
    /// Send a signal to a process, or to a container's first process
    Signal {
        /// To the process's whole group
        #[arg(long)]
        group: bool,
        /// To the process and all its descendants; of a service, those of all its instances
        #[arg(long, conflicts_with = "group")]
        tree: bool,
        /// Its name, with or without SIG, in any case, or its number
        #[arg(allow_negative_numbers = true, value_parser = signal_name)]
        signal: String,
        /// The process, container, service or slot
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Stdin { path, dial } => interruptible(stdin(path, dial)),
            // Interrupted, they print the bytes that had come.
            Command::Stdout { path, dial } => block_on(output(path, Which::Stdout, dial)),
            Command::Stderr { path, dial } => block_on(output(path, Which::Stderr, dial)),
            Command::Wait {
                ready: true,
                path,
                dial,
                ..
            } => interruptible(wait_ready(path, dial)),
            Command::Wait {
                status, path, dial, ..
            } => {
                let waited = interruptible(wait(path, status, dial));
                waited.map_err(|failure| failure.beside(status))
            }
            Command::Waitall { status, json, dial } => {
                let waited = interruptible(waitall(status, json, dial));
                waited.map_err(|failure| failure.beside(status))
            }
            Command::Signal {
                group,
                tree,
                signal: name,
                path,
                dial,
            } => {
                let reach = match (group, tree) {
                    (true, _) => Reach::Group,
                    (false, true) => Reach::Tree,
                    (false, false) => Reach::Main,
                };
                interruptible(signal(name, path, reach, dial))
            }
        }
    }
}

/// Writes stdin to a process's stdin, and closes it.
async fn stdin(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let mut writer = client.anchor(path).proc().stdin().await?;
    copy(stdin::open(), &mut writer).await?;
    writer.finish().await?;
    Ok(0)
}

/// A process's stdin, as one who has it writes to it.
pub(super) trait Input {
    /// Sends bytes.
    async fn send(&mut self, bytes: Bytes) -> Result<(), Error>;

    /// Resolves when no more is taken, with the reason.
    async fn failed(&mut self) -> Error;
}

impl Input for Writer {
    async fn send(&mut self, bytes: Bytes) -> Result<(), Error> {
        Writer::send(self, bytes).await
    }

    async fn failed(&mut self) -> Error {
        Writer::failed(self).await
    }
}

impl Input for AttachedStdin {
    async fn send(&mut self, bytes: Bytes) -> Result<(), Error> {
        AttachedStdin::send(self, bytes).await
    }

    async fn failed(&mut self) -> Error {
        AttachedStdin::failed(self).await
    }
}

/// Sends everything that can be read.
pub(super) async fn copy(
    mut from: impl AsyncRead + Unpin,
    to: &mut impl Input,
) -> Result<(), Copied> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(64 << 10);
        let count = tokio::select! {
            count = from.read_buf(&mut buffer) => count,
            // A person who types nothing is told as well.
            failure = to.failed() => return Err(Copied::NotTaken(failure.into())),
        };
        let count = count
            .map_err(|error| Copied::NotRead(Failure::operation("cannot read stdin", &error)))?;
        if count == 0 {
            return Ok(());
        }
        let sent = to.send(buffer.split().freeze()).await;
        sent.map_err(|error| Copied::NotTaken(error.into()))?;
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum Copied {
    /// The source was not read.
    NotRead(Failure),
    /// The process did not take the data.
    NotTaken(Failure),
}

impl From<Copied> for Failure {
    fn from(copied: Copied) -> Failure {
        match copied {
            Copied::NotRead(failure) | Copied::NotTaken(failure) => failure,
        }
    }
}

/// Which output of a process.
#[derive(Debug, Clone, Copy)]
enum Which {
    Stdout,
    Stderr,
}

/// Prints an output of a process, live. Interrupted, it prints what was handed to it by then, and
/// leaves the rest to the next reader.
async fn output(path: Path, which: Which, options: Dial) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let client = match interrupts.unless(dial(&options)).await {
        Ok(client) => client?,
        Err(status) => return Ok(status),
    };
    let process = client.anchor(path).proc();
    let print = |asked| print_output(process, which, asked);
    let status = interrupts.in_order(options.timeout(), print).await?;
    Ok(status)
}

async fn print_output(process: Proc, which: Which, mut asked: Asked) -> Result<(), Failure> {
    let mut reader = match which {
        Which::Stdout => process.stdout().await?,
        Which::Stderr => process.stderr().await?,
    };
    let mut out = Pipe::new(Target::Stdout);
    let mut left = false;
    loop {
        let piece = tokio::select! {
            piece = reader.chunk() => piece?,
            _ = &mut asked, if !left => {
                left = true;
                reader.leave().await?;
                continue;
            }
        };
        match piece {
            Some(piece) => out.write(piece).await?,
            None => return out.finish().await,
        }
    }
}

/// Waits until a service is ready.
async fn wait_ready(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    client.anchor(path).service().settled(true).await?;
    Ok(0)
}

/// Waits for a process, and prints its status.
async fn wait(path: Path, as_it: bool, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let ended = client.anchor(path).wait().await?;
    match &ended {
        Ended::Process(status) => print_json(status)?,
        Ended::Container(status) => print_json(status)?,
        Ended::Service(status) => super::service::print_status(status)?,
    }
    Ok(if as_it { status_of(&ended) } else { 0 })
}

/// The exit status that a shell gives to a process which ended so.
fn status_of(ended: &Ended) -> u8 {
    match ended {
        Ended::Process(status) => exit_status(status.code, status.signal_number),
        Ended::Container(status) => exit_status(status.code, status.signal_number),
        Ended::Service(status) => u8::from(status.exit().is_some()),
    }
}

/// A line of `waitall -json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Waited<'a> {
    path: &'a Path,
    exit: Option<&'a str>,
    status: u8,
}

/// How many requests are under way at once; a connection takes 1,024.
pub(super) const AT_ONCE: usize = 1000;

/// Waits for the processes whose paths are on stdin.
async fn waitall(as_they: bool, json: bool, options: Dial) -> Result<u8, Failure> {
    // All paths are read and understood before anything is waited for.
    let mut paths: Vec<Path> = Vec::new();
    let mut lines = BufReader::new(stdin::open()).lines();
    let failed = |error| Failure::operation("cannot read stdin", &error);
    let mut number = 0;
    while let Some(line) = lines.next_line().await.map_err(failed)? {
        number += 1;
        if !line.trim().is_empty() {
            let wrong =
                |error: ArgumentError| Failure::failed(format!("line {number} of stdin: {error}"));
            paths.push(path(line.trim()).map_err(wrong)?);
        }
    }
    let client = dial(&options).await?;
    let mut waiting = JoinSet::new();
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    for path in paths {
        let anchor = client.anchor(path);
        let slots = slots.clone();
        waiting.spawn(async move {
            // Never closed, so there is always a slot to come.
            let _slot = slots.acquire().await;
            let ended = anchor.wait().await;
            (anchor.path().clone(), ended)
        });
    }
    let mut result = 0;
    let mut out = Pipe::new(Target::Stdout);
    while let Some(done) = waiting.join_next().await {
        match done {
            Ok((path, Ok(ended))) => {
                let (path, exit, status) = (&path, ended.exit(), status_of(&ended));
                if as_they && result == 0 {
                    result = status;
                }
                let line = match json {
                    true => json_line(&Waited { path, exit, status })?,
                    false => format!("{path}\t{}\n", exit.unwrap_or("ok")),
                };
                out.write(line.into()).await?;
            }
            Ok((_, Err(error))) => {
                let failure = Failure::from(error);
                let colon = if failure.text().starts_with('/') {
                    ""
                } else {
                    ":"
                };
                say(&format!("circuit: waitall{colon} {}", failure.text()));
                if result == 0 {
                    result = if as_they { 255 } else { 1 };
                }
            }
            Err(error) => return Err(Failure::operation("waitall", &error)),
        }
    }
    out.finish().await?;
    Ok(result)
}

/// Sends a signal.
async fn signal(signal: String, path: Path, reach: Reach, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    // The operation is the same for whatever runs a program.
    client
        .anchor(path)
        .service()
        .signal_to(signal, reach)
        .await?;
    Ok(0)
}

/// The signal's name or number; a number also as `kill` takes it, `-9`.
fn signal_name(text: &str) -> Result<String, String> {
    let number = text.strip_prefix('-').filter(|rest| is_number(rest));
    let text = number.unwrap_or(text);
    match signals::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("not a signal: a name such as TERM, or its number".to_owned()),
    }
}
