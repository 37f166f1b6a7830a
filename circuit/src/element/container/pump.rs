//! Moves a container's streams between its Engine and the pipes of its element: a task for stdin,
//! one for stdout and one for stderr, which the element starts with the container.
//!
//! The pipes of the outputs hold as much as a late reader is promised. The rest stays with the Engine,
//! which holds about a megabyte and then has the container wait.
//!
//! **Invariant:** an output's pipe is closed without a failure only if the Engine says that the
//! container has ended.
//!
//! **Cancellation:** a task that is dropped loses the bytes that it holds for a pipe.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes};
use circuit_proto::{Code, Error};
use futures_util::StreamExt;
use tokio::io::{AsyncWriteExt, BufReader, copy_buf};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::watch;
use tracing::warn;

use super::engine::{EngineError, Frames, Sink};
use super::{Container, RETRY, output_pipe, take, wire};

/// How much is taken off the Engine ahead of the reader, in bytes, once the container's process has
/// exited: an Engine lets go of what is left in the container's own pipes two seconds later (moby
/// 20.10, `daemon/monitor.go`, `handleContainerExit`). It holds a megabyte (moby, `pkg/ioutils`,
/// `blockThreshold`), and the pipes and the socket a quarter of one.
const LEFT: usize = 4 << 20;

/// How long a container that was scrubbed has to read what was written to its stdin. Chosen, not
/// measured.
const REST: Duration = Duration::from_secs(2);

/// How much of an input is passed on at once: what its pipe can hold.
const PIECE: usize = 64 << 10;

impl Container {
    /// Passes on what is written to its stdin. A scrubbed element passes on what was written before,
    /// for a while: a container that does not read would hold the connection to its Engine for ever.
    pub(super) async fn feed(self: Arc<Self>, from: Receiver, into: Sink) {
        let scrubbed = async {
            self.streams.scrubbed().await;
            tokio::time::sleep(REST).await;
        };
        tokio::select! {
            () = self.pass_on(from, into) => (),
            () = scrubbed => (),
        }
    }

    /// Passes on what is written to its stdin, also to an Engine that comes back.
    async fn pass_on(&self, from: Receiver, mut into: Sink) {
        let mut from = BufReader::with_capacity(PIECE, from);
        let mut losses = 0;
        while copy_buf(&mut from, &mut into).await.is_err() {
            let state = self.engine.state(&self.id).await;
            let lost = state.is_err_and(|error| !error.is_not_found());
            let before = std::mem::replace(&mut losses, self.losses.load(Ordering::Relaxed));
            if !lost && losses == before {
                // The Engine answers and takes no input: the container has closed its stdin.
                return;
            }
            let again = self.attached_again(|| self.engine.attach_input(&self.id));
            let Some(sink) = again.await else { return };
            into = sink;
        }
        // The end of the pipe is the end of the container's stdin. A container that is gone needs none.
        let _ = into.shutdown().await;
    }

    /// Passes on the container's stdout, or else its stderr, until it ends. If the Engine is lost, the
    /// reader gets an error; if the container outlives the loss, its later output follows.
    pub(super) async fn drain(self: Arc<Self>, from: Frames, into: Sender, stdout: bool) {
        tokio::select! {
            () = self.drain_to_end(from, into, stdout) => (),
            () = self.streams.scrubbed() => (),
        }
    }

    async fn drain_to_end(&self, mut from: Frames, mut into: Sender, stdout: bool) {
        let output = match stdout {
            true => self.streams.stdout.clone(),
            false => self.streams.stderr.clone(),
        };
        loop {
            let drained = move_frames(from, into, self.ahead.subscribe()).await;
            let Some(drained) = drained else { return };
            let ended = self.ended_in_order().await;
            let lost = ended.as_ref().is_err_and(|error| error.code == Code::Busy);
            // The reader sees the end of the pipe, so the failure is noted before it.
            if let Err(error) = ended {
                output.fail(error);
            }
            drop(drained);
            if !lost {
                break;
            }
            let again = self.attached_again(|| self.engine.attach_output(&self.id, stdout));
            let Some(frames) = again.await else { break };
            // Without a pipe, readers hear of the failure and of nothing after it.
            let taken = take(&self.descriptors, 1);
            let pipes = taken.map(output_pipe);
            let Ok(Ok((source, pipe))) = pipes else {
                break;
            };
            output.resume(source);
            (from, into) = (frames, pipe);
        }
        output.settle();
    }

    /// Attaches to the container once the Engine has come back; nothing if the container has ended
    /// by then, or the element is scrubbed before.
    async fn attached_again<T, F>(&self, attach: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, EngineError>>,
    {
        let attached = async {
            let mut pause = RETRY.0;
            loop {
                match self.engine.state(&self.id).await {
                    Ok(state) if state.running => match attach().await {
                        Ok(attached) => return Some(attached),
                        Err(error) => warn!("container {}: {error}", self.name),
                    },
                    Ok(_) => return None,
                    Err(error) if error.is_not_found() => return None,
                    Err(_) => (),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        };
        tokio::select! {
            attached = attached => attached,
            _ = self.streams.over() => None,
        }
    }

    /// Whether a stream that is at its end is so because the container is.
    async fn ended_in_order(&self) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            match self.engine.state(&self.id).await {
                // The streams of an Engine may end a moment before it says that the container has.
                Ok(state) if state.running && tries < 10 => {
                    tries += 1;
                    tokio::time::sleep(RETRY.0).await;
                }
                Ok(state) if state.running => {
                    let message = "the Docker Engine let go of the stream while the container runs: \
                                   some of it may be missing";
                    return Err(Error::new(Code::Exec, message));
                }
                Ok(_) => return Ok(()),
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => {
                    let mut error = wire(error);
                    error.message += "; some of the stream may be missing";
                    return Err(error);
                }
            }
        }
    }
}

/// Passes on what comes out of a container, as fast as the pipe is read; while `ahead`, the Engine is
/// read ahead of the reader. Returns the pipe at the end of the stream; nothing if nobody reads it
/// any more.
async fn move_frames(
    mut from: Frames,
    into: Sender,
    mut ahead: watch::Receiver<bool>,
) -> Option<Sender> {
    let mut held: VecDeque<Bytes> = VecDeque::new();
    let mut size = 0;
    let mut open = true;
    while open || !held.is_empty() {
        let room = held.is_empty() || (*ahead.borrow() && size < LEFT);
        tokio::select! {
            frame = from.next(), if open && room => match frame {
                Some(Ok(frame)) => {
                    let bytes = frame.into_bytes();
                    size += bytes.len();
                    held.extend((!bytes.is_empty()).then_some(bytes));
                }
                // The caller asks the Engine for the reason.
                Some(Err(_)) | None => open = false,
            },
            ready = into.writable(), if !held.is_empty() => {
                ready.ok()?;
                let Some(front) = held.front_mut() else { continue };
                match into.try_write(front) {
                    Ok(count) => {
                        front.advance(count);
                        size -= count;
                        if front.is_empty() {
                            held.pop_front();
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
                    Err(_) => return None,
                }
            }
            // The sender lives as long as the element, whose task this is.
            _ = ahead.changed() => (),
        }
    }
    Some(into)
}
