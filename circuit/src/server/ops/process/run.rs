//! A run: makes a process, attached, and carries its streams and its end over the stream of one
//! request.
//!
//! **Invariant:** what the caller says is always read, and each output waits for the caller's room for
//! it alone. So an output that the caller does not read blocks the process at its own full pipe, as
//! at any pipe, and neither the other output nor the server.
//!
//! **Cancellation:** a caller that goes away has the process hung up.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;

use bytes::Bytes;
use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError};
use circuit_proto::element::process::run::{
    FromCaller, FromServer, LEAST_WINDOW, MOST, STDIN_WINDOW, Which,
};
use circuit_proto::element::process::{Cmd, Sink, Status};
use circuit_proto::{Code, Error};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::make_with;
use crate::element::process::Process;
use crate::element::streams::{Attachable, Reading, Writing};
use crate::server::call::{Call, Gone};

/// Executes a run whose caller has room for so many bytes of each output. It is boxed, as every request
/// would carry it along.
pub(super) fn execute(
    call: &mut Call,
    mut cmd: Cmd,
    window: u64,
) -> Pin<Box<dyn Future<Output = Result<(), Gone>> + Send + '_>> {
    Box::pin(async move {
        if window < LEAST_WINDOW {
            let message = format!("a run takes room for {LEAST_WINDOW} bytes at least");
            let error = Error::new(Code::InvalidArgument, message);
            return call.refuse(error).await;
        }
        // It is forgotten when the caller has all of it, and hung up when the caller goes away.
        (cmd.scrub, cmd.hangup) = (false, true);
        let (process, places) = match make_with(call, cmd, Places::take).await {
            Ok(made) => made,
            Err(error) => return call.refuse(error).await,
        };
        let carried = carry(call, &process, places, window).await;
        match carried {
            Ok(Ok(())) => (),
            Ok(Err(_)) | Err(Gone) => process.attached_gone(),
        }
        if let Err(error) = carried? {
            return call.end(Err(error)).await;
        }
        let status = process.status();
        call.remove(&process).await;
        call.send.queue_end(&Ok(()))?;
        call.send.last_frame(&Ok::<Status, Error>(status)).await?;
        Ok(())
    })
}

/// The places at a process's streams, and among those who wait for its end.
struct Places {
    stdin: Option<Writing>,
    /// Those that are pipes, by [`Which::index`].
    outputs: [Option<Reading>; 2],
    _waits: Arc<()>,
}

impl Places {
    /// Takes all places of a process that nobody knows yet.
    fn take(process: &Arc<Process>, who: &Arc<str>) -> Places {
        let (streams, cmd) = (process.streams(), process.cmd());
        let piped = |sink: &Sink| *sink == Sink::Pipe;
        let reading = |piped: bool, output: &Arc<_>| match piped {
            true => crate::element::streams::Output::attach(output, who).ok(),
            false => None,
        };
        Places {
            stdin: streams.stdin.attach(who).ok(),
            outputs: [
                reading(piped(&cmd.stdout), &streams.stdout),
                reading(piped(&cmd.stderr), &streams.stderr),
            ],
            _waits: streams.attend(),
        }
    }
}

/// Carries the streams until the process has exited and the caller has all of its outputs.
async fn carry(
    call: &mut Call,
    process: &Process,
    places: Places,
    window: u64,
) -> Result<Result<(), Error>, Gone> {
    call.accept().await?;
    let Places {
        stdin: mut writing,
        outputs: [mut stdout, mut stderr],
        _waits,
    } = places;
    let Call { send, recv, .. } = call;
    let abandoned = send.abandoned();
    let send = AsyncMutex::new(send);
    let rooms = [Room::new(window), Room::new(window)];
    let waiting = Waiting::default();
    let carried = async {
        let stdout = give(Which::Stdout, &mut stdout, &rooms, &send);
        let stderr = give(Which::Stderr, &mut stderr, &rooms, &send);
        tokio::try_join!(stdout, stderr)?;
        process.wait().await.map_err(Broken::Failed)
    };
    let ended = tokio::select! {
        biased;
        () = process.streams().scrubbed() => Err(Broken::Failed(scrubbed())),
        carried = carried => carried.map(drop),
        () = hear(recv, &rooms, &waiting) => Err(Broken::Gone),
        () = feed(&mut writing, &waiting, &send) => Err(Broken::Gone),
        () = abandoned => Err(Broken::Gone),
    };
    match ended {
        Ok(()) => {
            for reading in [&stdout, &stderr].into_iter().flatten() {
                reading.finish();
            }
            Ok(Ok(()))
        }
        Err(Broken::Failed(error)) => Ok(Err(error)),
        Err(Broken::Gone) => Err(Gone),
    }
}

/// Why a run is not carried to its end.
enum Broken {
    /// The caller is told so.
    Failed(Error),
    /// The caller is gone.
    Gone,
}

impl From<StreamError> for Broken {
    fn from(_: StreamError) -> Broken {
        Broken::Gone
    }
}

fn scrubbed() -> Error {
    Error::new(Code::Aborted, "the element was scrubbed")
}

/// The sending half, which the outputs and the words about stdin share.
type Sending<'a> = AsyncMutex<&'a mut SendHalf>;

/// The caller's room for an output.
struct Room {
    /// How many bytes; `None` if the caller wants no more.
    left: Mutex<Option<u64>>,
    changed: Notify,
}

impl Room {
    fn new(window: u64) -> Room {
        Room {
            left: Mutex::new(Some(window)),
            changed: Notify::new(),
        }
    }

    fn add(&self, more: u64) {
        let mut left = self.left.lock();
        *left = left.map(|left| left.saturating_add(more));
        self.changed.notify_one();
    }

    fn close(&self) {
        *self.left.lock() = None;
        self.changed.notify_one();
    }

    /// Waits for so much room, and takes it; `false` if the caller wants no more.
    async fn take(&self, bytes: usize) -> bool {
        loop {
            {
                let mut left = self.left.lock();
                match &mut *left {
                    None => return false,
                    Some(left) if *left >= bytes as u64 => {
                        *left -= bytes as u64;
                        return true;
                    }
                    Some(_) => (),
                }
            }
            self.changed.notified().await;
        }
    }

    /// Resolves when the caller wants no more.
    async fn closed(&self) {
        while self.left.lock().is_some() {
            self.changed.notified().await;
        }
    }
}

/// Hands an output to the caller, up to its end, or until the caller wants no more of it.
async fn give(
    which: Which,
    reading: &mut Option<Reading>,
    rooms: &[Room; 2],
    send: &Sending<'_>,
) -> Result<(), Broken> {
    let Some(reading) = reading else {
        return Ok(());
    };
    let room = &rooms[which.index()];
    let mark = Bytes::from(FromServer::Output(which).bytes());
    loop {
        let chunk = tokio::select! {
            biased;
            () = room.closed() => {
                reading.discard();
                return Ok(());
            }
            chunk = reading.next() => chunk.map_err(Broken::Failed)?,
        };
        let Some(mut chunk) = chunk else {
            return Ok(());
        };
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(MOST));
            if !room.take(piece.len()).await {
                reading.discard();
                return Ok(());
            }
            send.lock().await.chunk(vec![mark.clone(), piece]).await?;
        }
        reading.handed();
    }
}

/// What has come for stdin and was not written yet: [`STDIN_WINDOW`] bytes at most.
#[derive(Default)]
struct Waiting {
    state: Mutex<Queue>,
    changed: Notify,
}

#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    /// How many bytes the caller has sent that it was not told of yet that there is room again.
    outstanding: u64,
    ended: bool,
    /// The process reads no more.
    closed: bool,
}

impl Waiting {
    /// Fails if there is no room for the piece.
    fn push(&self, piece: Bytes) -> Result<(), Gone> {
        let mut queue = self.state.lock();
        queue.outstanding += piece.len() as u64;
        if queue.outstanding > STDIN_WINDOW || queue.ended {
            return Err(Gone);
        }
        if !queue.closed {
            queue.pieces.push_back(piece);
            self.changed.notify_one();
        }
        Ok(())
    }

    fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_one();
    }

    /// The next piece; `None` at the end.
    async fn next(&self) -> Option<Bytes> {
        loop {
            {
                let mut queue = self.state.lock();
                if let Some(piece) = queue.pieces.pop_front() {
                    return Some(piece);
                }
                if queue.ended {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// The process reads no more: what comes is dropped.
    fn close(&self) {
        let mut queue = self.state.lock();
        queue.closed = true;
        queue.pieces.clear();
    }
}

/// Writes to the process's stdin what comes for it, and tells the caller when there is room again. Resolves
/// only if the caller is gone.
async fn feed(writing: &mut Option<Writing>, waiting: &Waiting, send: &Sending<'_>) {
    let Some(writing) = writing else {
        return std::future::pending().await;
    };
    let mut written = 0;
    while let Some(piece) = waiting.next().await {
        let said = match writing.write(&piece).await {
            Ok(()) => {
                written += piece.len() as u64;
                if written < STDIN_WINDOW / 2 {
                    continue;
                }
                waiting.state.lock().outstanding -= written;
                FromServer::Room(std::mem::take(&mut written))
            }
            Err(_) => {
                waiting.close();
                FromServer::StdinClosed
            }
        };
        let said = vec![Bytes::from(said.bytes())];
        if send.lock().await.chunk(said).await.is_err() {
            return;
        }
        if waiting.state.lock().closed {
            return std::future::pending().await;
        }
    }
    // Of a process that has exited there is nothing to end.
    let _ = writing.end().await;
    std::future::pending().await
}

/// Hears what the caller says. Resolves if the caller is gone, or breaks the protocol.
async fn hear(recv: &mut RecvHalf, rooms: &[Room; 2], waiting: &Waiting) {
    loop {
        let chunk = match recv.at_finish().await {
            Ok(true) => break,
            Ok(false) => recv.whole_chunk().await,
            Err(_) => return,
        };
        let chunk = match chunk {
            Ok(Some(chunk)) => chunk,
            Ok(None) => {
                // The server's end of a connection is to know that nothing follows.
                let _ = pin!(recv.at_finish()).await;
                break;
            }
            Err(_) => return,
        };
        match FromCaller::read(&chunk) {
            Ok(FromCaller::Stdin) if chunk.len() == 1 => waiting.end(),
            Ok(FromCaller::Stdin) => {
                if let Err(Gone) = waiting.push(chunk.slice(1..)) {
                    return;
                }
            }
            Ok(FromCaller::Room(which, more)) => rooms[which.index()].add(more),
            Ok(FromCaller::Discard(which)) => rooms[which.index()].close(),
            Err(_) => return,
        }
    }
    // A caller that has nothing more to say waits for the end.
    waiting.end();
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn an_output_has_the_room_that_its_reader_gave() {
        let room = Room::new(10);
        assert_eq!(room.take(8).now_or_never(), Some(true));
        assert_eq!(room.take(8).now_or_never(), None);
        assert!(room.closed().now_or_never().is_none());
        room.add(u64::MAX);
        assert_eq!(room.take(8).now_or_never(), Some(true));
        room.add(u64::MAX);
        room.close();
        assert!(room.closed().now_or_never().is_some());
        assert_eq!(room.take(1).now_or_never(), Some(false));
    }

    #[test]
    fn a_caller_that_sends_more_for_stdin_than_there_is_room_for_breaks_the_protocol() {
        let waiting = Waiting::default();
        let piece = Bytes::from(vec![0; STDIN_WINDOW as usize / 2]);
        assert!(waiting.push(piece.clone()).is_ok());
        assert!(waiting.push(piece.clone()).is_ok());
        assert!(waiting.push(piece.slice(..1)).is_err());
        assert_eq!(waiting.next().now_or_never(), Some(Some(piece)));
        // So does one that goes on behind the end.
        let waiting = Waiting::default();
        waiting.end();
        assert!(waiting.push(Bytes::from_static(b"x")).is_err());
        assert_eq!(waiting.next().now_or_never(), Some(None));
    }
}
