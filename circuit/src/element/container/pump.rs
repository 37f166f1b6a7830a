//! Moves a container's outputs from its Engine into the pipes of its element.
//!
//! The pipes hold as much as a late reader is promised. The rest stays with the Engine, which holds
//! about a megabyte and then has the container wait.
//!
//! **Invariant:** an output's pipe is closed without a failure only if the Engine says that the
//! container has ended.
//!
//! **Cancellation:** what is held for the pipe is lost with the future.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::net::unix::pipe::Sender;
use tokio::sync::watch;

use super::engine::Frames;

/// How much is taken off the Engine ahead of the reader, in bytes, once the container's process has
/// exited: an Engine lets go of what is left in the container's own pipes two seconds later (moby
/// 20.10, `daemon/monitor.go`, `handleContainerExit`). It holds a megabyte (moby, `pkg/ioutils`,
/// `blockThreshold`), and the pipes and the socket a quarter of one.
const LEFT: usize = 4 << 20;

/// Passes on what comes out of a container, as fast as the pipe is read; while `ahead`, the Engine is
/// read ahead of the reader. Returns the pipe at the end of the stream; nothing if nobody reads it
/// any more.
pub(super) async fn drain(
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
