//! A process that a program runs attached: its three streams and its end, over the stream of one
//! request.
//!
//! Whoever waits for one of them drives the stream for all: what comes for another is queued, within
//! the window that each output has, and wakes whoever waits for it.
//!
//! **Cancellation:** a future that is dropped loses nothing that came. When all parts are dropped
//! before the end, the process is hung up.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use circuit_proto::Code;
use circuit_proto::codec::CodecError;
use circuit_proto::element::process::run::{FromCaller, FromServer, MOST, STDIN_WINDOW, Which};
use circuit_proto::element::process::{Cmd, Op, Status};
use parking_lot::Mutex;

use super::Proc;
use crate::anchor::Anchor;
use crate::error::Error;
use crate::transport::stream::{RecvHalf, SendHalf, StreamError};

/// How many bytes of an output may wait here. Chosen, not measured: as much as QUIC's window for a
/// stream of its own.
const WINDOW: u64 = 1 << 20;

/// A process that runs attached to this program: see [`Anchor::attach`].
///
/// Its parts can be used at the same time, and moved apart. While one of them is there, the process
/// is attached; when the last of them is dropped before the end, it is hung up.
#[derive(Debug)]
pub struct Attached {
    /// The handle to the process, for signals.
    pub process: Proc,
    /// Its stdin.
    pub stdin: AttachedStdin,
    /// Its stdout.
    pub stdout: AttachedOutput,
    /// Its stderr.
    pub stderr: AttachedOutput,
    /// Its end.
    pub end: AttachedEnd,
}

/// The stdin of a process that runs attached.
#[derive(Debug)]
pub struct AttachedStdin(Arc<Shared>);

/// An output of a process that runs attached.
#[derive(Debug)]
pub struct AttachedOutput {
    shared: Arc<Shared>,
    which: Which,
}

/// The end of a process that runs attached.
#[derive(Debug)]
pub struct AttachedEnd(Arc<Shared>);

/// Processes that run attached.
impl Anchor {
    /// Executes a command here, attached: this program writes its stdin and reads its stdout and
    /// stderr as it goes, and is told of its end. The element is gone afterwards. At a server's own
    /// anchor the element is at a [fresh](Anchor::fresh) one.
    ///
    /// All of it is one request, so that nothing of a short command is lost. An output that is not
    /// read makes the process wait at its next write there, once a megabyte waits here; the other
    /// output and stdin go on. Each output is to be read or [closed](AttachedOutput::close), and
    /// stdin to be [ended](AttachedStdin::finish).
    ///
    /// When the parts of the result are dropped before the end, or this program is killed, the process
    /// is hung up, as by a terminal that closes.
    ///
    /// # Errors
    ///
    /// Those of [`make_proc`](Anchor::make_proc).
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// use circuit_client::{Attached, Cmd};
    /// let sort = anchor.attach(Cmd::new("sort")).await?;
    /// let Attached { mut stdin, mut stdout, stderr, mut end, .. } = sort;
    /// stderr.close().await?;
    /// stdin.send("b\na\n".into()).await?;
    /// stdin.finish().await?;
    /// while let Some(bytes) = stdout.chunk().await? {
    ///     print!("{}", String::from_utf8_lossy(&bytes));
    /// }
    /// println!("{:?}", end.wait().await?.code);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn attach(&self, cmd: Cmd) -> Result<Attached, Error> {
        let anchor = self.for_a_run()?;
        let window = WINDOW;
        let (send, recv) = anchor.open(Op::Run { cmd, window }).await?;
        let shared = Arc::new(Shared {
            anchor: anchor.clone(),
            seats: Arc::default(),
            state: Mutex::new(State {
                send,
                recv,
                outputs: Default::default(),
                stdin: Some(STDIN_WINDOW),
                unwritable: false,
                behind: false,
                end: None,
            }),
        });
        let output = |which| AttachedOutput {
            shared: shared.clone(),
            which,
        };
        Ok(Attached {
            process: Proc::new(anchor),
            stdin: AttachedStdin(shared.clone()),
            stdout: output(Which::Stdout),
            stderr: output(Which::Stderr),
            end: AttachedEnd(shared.clone()),
        })
    }

    /// The anchor at which a run makes its process: at a server's own a fresh one.
    pub(super) fn for_a_run(&self) -> Result<Anchor, Error> {
        match self.path().names() {
            [_server] => Ok(self.fresh("run")?),
            _ => Ok(self.clone()),
        }
    }
}

impl AttachedStdin {
    /// Sends bytes; waits while the process does not read and enough wait for it.
    ///
    /// **Cancellation:** of a future that is dropped a part of the bytes may have been sent.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::Code::Closed) if the process does not read its stdin any more.
    ///
    /// ```no_run
    /// # async fn example(mut process: circuit_client::Attached) -> Result<(), circuit_client::Error> {
    /// process.stdin.send("hello\n".into()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn send(&mut self, mut bytes: Bytes) -> Result<(), Error> {
        while !bytes.is_empty() {
            let sent = self.0.wait(Seat::Stdin, |state, written| {
                if let Some(error) = state.stdin_error() {
                    return Some(Err(error));
                }
                let room = state.stdin.filter(|room| *room > 0 && written)?;
                let count = bytes
                    .len()
                    .min(MOST)
                    .min(usize::try_from(room).unwrap_or(MOST));
                state.stdin = Some(room - count as u64);
                let mark = FromCaller::Stdin.bytes().into();
                state.send.queue_chunk(vec![mark, bytes.split_to(count)]);
                Some(Ok(()))
            });
            sent.await.map_err(|error| self.0.failed(error))?;
        }
        Ok(())
    }

    /// Ends stdin.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Attached) -> Result<(), circuit_client::Error> {
    /// process.stdin.finish().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn finish(self) -> Result<(), Error> {
        self.0.say(Seat::Stdin, FromCaller::Stdin).await
    }

    /// Resolves when the process takes no more, and says why: it has closed its stdin or exited, was
    /// scrubbed, or its server is lost. A program waits for it while it has nothing to send.
    ///
    /// ```no_run
    /// # async fn example(mut process: circuit_client::Attached) {
    /// eprintln!("{}", process.stdin.failed().await);
    /// # }
    /// ```
    pub async fn failed(&mut self) -> Error {
        let error = self.0.wait(Seat::Stdin, |state, _| state.stdin_error());
        self.0.failed(error.await)
    }
}

impl AttachedOutput {
    /// The next bytes, without copying them; `None` when the process has exited and all of both outputs
    /// has come.
    ///
    /// ```no_run
    /// # async fn example(mut process: circuit_client::Attached) -> Result<(), circuit_client::Error> {
    /// while let Some(bytes) = process.stdout.chunk().await? {
    ///     println!("{} bytes", bytes.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let which = self.which;
        let chunk = self
            .shared
            .wait(Seat::of(which), |state, _| state.take(which));
        chunk.await.map_err(|error| self.shared.failed(error))
    }

    /// Closes for good: what the process writes there from now on is discarded, so that it never
    /// blocks for want of a reader.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Attached) -> Result<(), circuit_client::Error> {
    /// process.stderr.close().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn close(self) -> Result<(), Error> {
        let seat = Seat::of(self.which);
        self.shared.say(seat, FromCaller::Discard(self.which)).await
    }
}

impl AttachedEnd {
    /// Waits until the process has exited and all of its outputs has come or was discarded, and its
    /// element is gone.
    ///
    /// # Errors
    ///
    /// [`Aborted`](crate::Code::Aborted) if somebody scrubs the element meanwhile.
    ///
    /// ```no_run
    /// # async fn example(mut process: circuit_client::Attached) -> Result<(), circuit_client::Error> {
    /// let status = process.end.wait().await?;
    /// println!("exit status {:?}, signal {:?}", status.code, status.signal);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn wait(&mut self) -> Result<Status, Error> {
        let end = self.0.wait(Seat::End, |state, _| state.end.clone());
        match end.await {
            Ok(status) => Ok(*status),
            Err(error) => Err(self.0.failed(error)),
        }
    }
}

/// What the parts share.
#[derive(Debug)]
struct Shared {
    anchor: Anchor,
    state: Mutex<State>,
    seats: Arc<Seats>,
}

#[derive(Debug)]
struct State {
    send: SendHalf,
    recv: RecvHalf,
    /// By [`Which::index`].
    outputs: [Queue; 2],
    /// How many bytes of stdin the server has room for; `None` once the process reads no more.
    stdin: Option<u64>,
    /// The server takes nothing more; what it said is still to be read.
    unwritable: bool,
    /// All outputs have come, and the status comes next.
    behind: bool,
    end: Option<Result<Box<Status>, StreamError>>,
}

/// The bytes of an output that have come.
#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    /// How many bytes have come that the server was not told of yet that there is room again.
    outstanding: u64,
    /// How many of those were taken.
    taken: u64,
}

/// The parts, as those who wait.
#[derive(Debug, Clone, Copy)]
enum Seat {
    Stdin,
    Stdout,
    Stderr,
    End,
}

impl Seat {
    fn of(which: Which) -> Seat {
        match which {
            Which::Stdout => Seat::Stdout,
            Which::Stderr => Seat::Stderr,
        }
    }
}

/// Those who wait: a transport knows one waker, and that of whoever asked last may be dropped.
#[derive(Debug, Default)]
struct Seats(Mutex<[Option<Waker>; 4]>);

impl Wake for Seats {
    fn wake(self: Arc<Self>) {
        let seated = std::mem::take(&mut *self.0.lock());
        seated.into_iter().flatten().for_each(Waker::wake);
    }
}

impl Seats {
    /// Wakes those whom something concerns that this one has heard.
    fn wake_for(&self, by: Seat, concerned: Concerned) {
        let mut seats = self.0.lock();
        for (at, waker) in seats.iter_mut().enumerate() {
            let concerned = match concerned {
                Concerned::One(seat) => seat as usize == at,
                Concerned::All => true,
            };
            if concerned
                && at != by as usize
                && let Some(waker) = waker.take()
            {
                waker.wake();
            }
        }
    }
}

/// Whom something concerns that the server has said.
#[derive(Debug, Clone, Copy)]
enum Concerned {
    One(Seat),
    All,
}

impl Shared {
    /// Waits until `look` finds something. It is told whether all that was said is on its way.
    async fn wait<T>(&self, seat: Seat, mut look: impl FnMut(&mut State, bool) -> Option<T>) -> T {
        poll_fn(|cx| self.poll(seat, cx, &mut look)).await
    }

    fn poll<T>(
        &self,
        seat: Seat,
        cx: &mut Context<'_>,
        look: &mut impl FnMut(&mut State, bool) -> Option<T>,
    ) -> Poll<T> {
        let mut state = self.state.lock();
        self.seats.0.lock()[seat as usize] = Some(cx.waker().clone());
        let all = Waker::from(self.seats.clone());
        let mut all = Context::from_waker(&all);
        loop {
            let written = state.write(&mut all);
            if let Some(found) = look(&mut state, written) {
                // What it has to say goes now, as far as there is room.
                state.write(&mut all);
                return Poll::Ready(found);
            }
            if state.end.is_some() {
                return Poll::Pending;
            }
            self.seats.wake_for(seat, ready!(state.hear(&mut all)));
        }
    }

    /// Says something, and waits until it is on its way. That the run has ended is no error.
    async fn say(&self, seat: Seat, what: FromCaller) -> Result<(), Error> {
        let chunk = vec![what.bytes().into()];
        self.state.lock().send.queue_chunk(chunk);
        let written = self.wait(seat, |state, written| match &state.end {
            Some(end) => Some(end.as_ref().map(drop).map_err(Clone::clone)),
            None => (written || state.unwritable).then_some(Ok(())),
        });
        written.await.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: StreamError) -> Error {
        self.anchor.client().failed(self.anchor.path(), error)
    }
}

impl State {
    /// Sends what is queued; whether all of it is on its way.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        if self.unwritable {
            return false;
        }
        match self.send.poll_drain(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
            // Why is still to be read.
            Poll::Ready(Err(StreamError::Abandoned)) => {
                self.unwritable = true;
                false
            }
            Poll::Ready(Err(error)) => {
                self.unwritable = true;
                self.end.get_or_insert(Err(error));
                false
            }
        }
    }

    /// Hears one thing that the server says.
    fn hear(&mut self, cx: &mut Context<'_>) -> Poll<Concerned> {
        let heard = match self.behind {
            true => ready!(self.recv.poll_frame(cx)).and_then(|status| self.ended(status)),
            false => match ready!(self.recv.poll_whole_chunk(cx)) {
                Ok(Some(chunk)) => self.told(chunk),
                Ok(None) => {
                    self.behind = true;
                    return self.hear(cx);
                }
                Err(error) => Err(error),
            },
        };
        Poll::Ready(heard.unwrap_or_else(|error| {
            self.end.get_or_insert(Err(error));
            Concerned::All
        }))
    }

    /// Takes note of the status that the process has ended with.
    fn ended(
        &mut self,
        status: Result<Status, circuit_proto::Error>,
    ) -> Result<Concerned, StreamError> {
        let status = status.map_err(StreamError::Failed)?;
        self.end = Some(Ok(Box::new(status)));
        self.send.finish();
        Ok(Concerned::All)
    }

    /// Understands a chunk from the server.
    fn told(&mut self, chunk: Bytes) -> Result<Concerned, StreamError> {
        match FromServer::read(&chunk)? {
            FromServer::Output(which) => {
                let queue = &mut self.outputs[which.index()];
                let piece = chunk.slice(1..);
                queue.outstanding += piece.len() as u64;
                if queue.outstanding > WINDOW {
                    return Err(CodecError::Malformed.into());
                }
                queue.pieces.push_back(piece);
                Ok(Concerned::One(Seat::of(which)))
            }
            FromServer::Room(more) => {
                self.stdin = self.stdin.map(|room| room.saturating_add(more));
                Ok(Concerned::One(Seat::Stdin))
            }
            FromServer::StdinClosed => {
                self.stdin = None;
                Ok(Concerned::One(Seat::Stdin))
            }
        }
    }

    /// The next bytes of an output; nothing while there are none yet.
    fn take(&mut self, which: Which) -> Option<Result<Option<Bytes>, StreamError>> {
        let queue = &mut self.outputs[which.index()];
        if let Some(piece) = queue.pieces.pop_front() {
            queue.taken += piece.len() as u64;
            if queue.taken >= WINDOW / 2 && self.end.is_none() {
                let room = std::mem::take(&mut queue.taken);
                queue.outstanding -= room;
                let room = FromCaller::Room(which, room).bytes();
                self.send.queue_chunk(vec![room.into()]);
            }
            return Some(Ok(Some(piece)));
        }
        let end = self.end.as_ref()?;
        Some(end.as_ref().map(|_| None).map_err(Clone::clone))
    }

    /// The reason why stdin takes no more, if it does not.
    fn stdin_error(&self) -> Option<StreamError> {
        match (&self.end, self.stdin) {
            (Some(Err(error)), _) => Some(error.clone()),
            (Some(Ok(_)), _) | (None, None) => {
                let message = "the process does not read its stdin any more";
                let error = circuit_proto::Error::new(Code::Closed, message);
                Some(StreamError::Failed(error))
            }
            (None, Some(_)) => None,
        }
    }
}
