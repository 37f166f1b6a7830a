//! Channels: `mkchan`, `send`, `recv`, `close`.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use circuit_client::{Chan, Code, Error, Path, Receiver, Sender};
use circuit_proto::element::channel::MAX_CAPACITY;
use clap::{Args, Subcommand};
use tokio::io::AsyncReadExt;

use super::arguments::path;
use super::dial::{Dial, dial};
use super::error::Failure;
use super::interrupt::{Asked, Interrupts};
use super::output::{Pipe, Target};
use super::stdin;
use super::{block_on, interruptible};

pub(super) use super::output::print_json as print_status;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a channel
    ///
    /// It holds up to CAPACITY messages for receivers to come; with 0, a send waits for its
    /// receiver.
    Mkchan {
        /// The anchor
        #[arg(value_parser = path)]
        path: Path,
        /// How many messages it holds: at most 16777216
        #[arg(allow_negative_numbers = true, value_parser = capacity)]
        capacity: u64,
        #[command(flatten)]
        dial: Dial,
    },
    /// Send stdin to a channel as a message
    ///
    /// Waits until there is a place for the message, and ends once the channel holds all of it, or
    /// a receiver has it.
    Send {
        /// Send every line as a message, without its line end
        #[arg(long)]
        lines: bool,
        /// The channel
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Receive a message from a channel or subscription, and print it
    ///
    /// The message is gone from the channel once it is printed; a receiver that is interrupted
    /// leaves it to another. With -try and -wait the exit status is 3 if no message was there.
    Recv(Recv),
    /// Close a channel: what it holds is received still, and it takes no more
    Close {
        /// The channel
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
}

#[derive(Debug, Args)]
pub(super) struct Recv {
    /// Print a line end after each message; alone, one message
    #[arg(long)]
    lines: bool,
    /// Receive so many messages
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    #[arg(allow_negative_numbers = true, value_parser = messages)]
    count: Option<u64>,
    /// Receive until the channel is closed
    #[arg(long)]
    follow: bool,
    /// Wait so long at most, for each message
    #[arg(long, value_name = "SECONDS", value_parser = wait)]
    wait: Option<Duration>,
    /// Do not wait for a message
    #[arg(long = "try", conflicts_with = "wait")]
    no_wait: bool,
    /// The channel or subscription
    #[arg(value_parser = path)]
    path: Path,
    #[command(flatten)]
    dial: Dial,
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Mkchan {
                path,
                capacity,
                dial,
            } => interruptible(mkchan(path, capacity, dial)),
            Command::Send { lines, path, dial } => interruptible(send(path, lines, dial)),
            // Interrupted, it commits the messages that it has written.
            Command::Recv(options) => block_on(recv(options)),
            Command::Close { path, dial } => interruptible(close(path, dial)),
        }
    }
}

fn capacity(text: &str) -> Result<u64, String> {
    let capacity = text.parse().ok();
    capacity
        .filter(|capacity| *capacity <= MAX_CAPACITY)
        .ok_or_else(|| format!("not a number of messages from 0 to {MAX_CAPACITY}"))
}

fn messages(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("not a number of messages from 0 to {}", u64::MAX))
}

fn wait(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().unwrap_or(f64::NAN);
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds <= 1e9 => Ok(time),
        _ => Err("not a number of seconds from 0 to 1000000000".to_owned()),
    }
}

/// Makes a channel.
async fn mkchan(path: Path, capacity: u64, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    client.anchor(path).make_chan(capacity).await?;
    Ok(0)
}

/// Closes a channel.
async fn close(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    client.anchor(path).chan().close().await?;
    Ok(0)
}

/// Sends stdin, as one message or a message a line.
async fn send(path: Path, lines: bool, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let chan = client.anchor(path).chan();
    match lines {
        true => send_lines(&chan).await?,
        false => send_one(&chan).await?,
    }
    Ok(0)
}

/// The most that is read from stdin at once.
const READ: usize = 64 << 10;

/// Waits for a place first: stdin is not read before, and then as it comes.
async fn send_one(chan: &Chan) -> Result<(), Failure> {
    let mut stdin = stdin::open();
    let mut message = chan.send().await?;
    let mut buffer = BytesMut::new();
    loop {
        let count = tokio::select! {
            count = read(&mut stdin, &mut buffer) => count?,
            error = message.failed() => return Err(error.into()),
        };
        if count == 0 {
            return Ok(message.finish().await?);
        }
        message.send(buffer.split().freeze()).await?;
    }
}

/// The longest line, in bytes. Chosen, not measured: it is held in memory.
const LONGEST_LINE: usize = 64 << 20;

async fn send_lines(chan: &Chan) -> Result<(), Failure> {
    let mut sender = chan.sender().await?;
    match feed_lines(&mut sender).await {
        Ok(()) => Ok(sender.finish().await?),
        Err(Fed::NotRead(failure)) => {
            // The lines that were read are sent all the same.
            sender.flush().await?;
            Err(failure)
        }
        Err(Fed::NotTaken(error)) => {
            let (stored, sent) = (sender.stored(), sender.sent());
            let hint = format!("{stored} of the first {sent} lines were sent");
            Err(Failure::from(error).with_hint(hint))
        }
    }
}

/// Which side failed.
enum Fed {
    NotRead(Failure),
    NotTaken(Error),
}

impl From<Error> for Fed {
    fn from(error: Error) -> Fed {
        Fed::NotTaken(error)
    }
}

async fn feed_lines(sender: &mut Sender) -> Result<(), Fed> {
    let mut stdin = stdin::open();
    let mut buffer = BytesMut::new();
    // How much of the buffer is known to hold no line end.
    let mut searched = 0;
    loop {
        while let Some(found) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(searched + found);
            buffer.advance(1);
            searched = 0;
            sender.feed(&line).await?;
        }
        searched = buffer.len();
        if searched > LONGEST_LINE {
            let what = "a line of more than 64 MiB: send it without -lines";
            return Err(Fed::NotRead(Failure::failed(what.to_owned())));
        }
        // The lines that were read are sent now: the next one may be long in coming.
        sender.push().await?;
        let count = tokio::select! {
            count = read(&mut stdin, &mut buffer) => count.map_err(Fed::NotRead)?,
            error = sender.failed() => return Err(error.into()),
        };
        if count == 0 {
            break;
        }
    }
    if !buffer.is_empty() {
        sender.feed(&buffer).await?;
    }
    sender.flush().await?;
    Ok(())
}

async fn read(stdin: &mut stdin::Stdin, buffer: &mut BytesMut) -> Result<usize, Failure> {
    buffer.reserve(READ);
    stdin
        .read_buf(buffer)
        .await
        .map_err(|error| Failure::operation("cannot read stdin", &error))
}

/// Prints one message, or many. Interrupted, it still tells the channel which ones it has written.
async fn recv(options: Recv) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let client = match interrupts.unless(dial(&options.dial)).await {
        Ok(client) => client?,
        Err(status) => return Ok(status),
    };
    let many = options.follow || options.count.is_some() || options.lines;
    let most = match (options.follow, options.count) {
        (true, _) => None,
        (false, count) => Some(count.unwrap_or(1)),
    };
    let wait = match options.no_wait {
        true => Some(Duration::ZERO),
        false => options.wait,
    };
    // Of a subscription too: the server knows which.
    let chan = client.anchor(options.path).chan();
    let (chan, lines) = (&chan, options.lines);
    let receive = async move |asked| match many {
        true => recv_many(chan, most, wait, lines, asked).await,
        false => recv_one(chan, wait, asked).await,
    };
    let status = interrupts.in_order(options.dial.timeout(), receive).await?;
    Ok(status)
}

/// The failure of a wait that came to its end.
fn nothing(chan: &Chan, wait: Option<Duration>) -> Failure {
    let why = match wait.is_none_or(|wait| wait.is_zero()) {
        true => "no message is there".to_owned(),
        false => format!(
            "no message came in {} s",
            wait.unwrap_or_default().as_secs_f32()
        ),
    };
    Failure::not_had(chan.path(), &why)
}

async fn recv_one(chan: &Chan, wait: Option<Duration>, mut asked: Asked) -> Result<(), Failure> {
    let mut out = Pipe::new(Target::Stdout);
    let written = async {
        let message = match wait {
            Some(wait) => chan.recv_within(wait).await?,
            None => Some(chan.recv().await?),
        };
        let mut message = message.ok_or_else(|| nothing(chan, wait))?;
        while let Some(piece) = message.chunk().await? {
            out.write(piece).await?;
        }
        Ok::<_, Failure>(message)
    };
    let message = tokio::select! {
        message = written => message?,
        _ = &mut asked => return Ok(()),
    };
    // The message is received only once it is written.
    out.finish().await?;
    Ok(message.accept().await?)
}

/// How many messages are asked for at once. Chosen, not measured: rarely more come while the last ones
/// are written.
const AT_ONCE: u64 = 1024;

/// The longest of many messages, in bytes. Chosen, not measured: it is held in memory.
const LONGEST_OF_MANY: usize = 1 << 30;

async fn recv_many(
    chan: &Chan,
    most: Option<u64>,
    wait: Option<Duration>,
    lines: bool,
    mut asked: Asked,
) -> Result<(), Failure> {
    let mut receiver = chan.receiver().await?.with_limit(LONGEST_OF_MANY);
    let mut out = Pipe::new(Target::Stdout);
    let mut left = most.unwrap_or(u64::MAX);
    while left > 0 {
        let most_now = left.min(AT_ONCE) as u32;
        match batch(&mut receiver, most_now, wait, &mut out, lines, &mut asked).await {
            Ok(0) => {
                let failure = nothing(chan, wait);
                receiver.finish().await;
                return Err(match most {
                    Some(most) if most > 1 => {
                        let hint = format!("{} of {most} messages were received", most - left);
                        failure.with_hint(hint)
                    }
                    _ => failure,
                });
            }
            Ok(count) => left -= count,
            Err(Stop::Interrupted) => break,
            // Whoever follows a channel to its end has come to it.
            Err(Stop::Closed(_)) if most.is_none() => break,
            Err(Stop::Closed(error)) => {
                let most = most.unwrap_or_default();
                let hint = format!("{} of {most} messages were received", most - left);
                return Err(Failure::from(error).with_hint(hint));
            }
            Err(Stop::Failed(failure)) => return Err(failure),
        }
    }
    receiver.finish().await;
    Ok(())
}

/// Why no more messages come.
enum Stop {
    Closed(Error),
    Failed(Failure),
    Interrupted,
}

/// Receives the messages that are there, and writes them. Returns how many: none if the wait ends
/// before one is there. A message is received only once it is written.
async fn batch(
    receiver: &mut Receiver,
    most: u32,
    wait: Option<Duration>,
    out: &mut Pipe,
    lines: bool,
    asked: &mut Asked,
) -> Result<u64, Stop> {
    let failed = |error: Error| Stop::Failed(error.into());
    let received = async {
        match wait {
            Some(wait) => receiver.batch_within(most, wait).await,
            None => receiver.batch(most).await,
        }
    };
    let messages = tokio::select! {
        biased;
        _ = asked => return Err(Stop::Interrupted),
        messages = received => messages,
    };
    let messages = match messages {
        Ok(messages) => messages,
        Err(error) if error.code() == Some(Code::Closed) => return Err(Stop::Closed(error)),
        Err(error) => return Err(failed(error)),
    };
    let count = messages.len() as u64;
    let mut text = BytesMut::new();
    for message in messages {
        text.extend_from_slice(message);
        if lines {
            text.extend_from_slice(b"\n");
        }
    }
    let written: Bytes = text.freeze();
    out.write(written).await.map_err(Stop::Failed)?;
    out.flush().await.map_err(Stop::Failed)?;
    receiver.commit().await.map_err(failed)?;
    Ok(count)
}
