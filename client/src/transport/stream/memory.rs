//! Streams between two ends in one process, for tests of whatever speaks over streams.
//!
//! A stream behaves as one of QUIC does: a window of bytes that the reader has not taken, a finish,
//! a reset that overtakes the data, a stop, and the loss of the connection beneath.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::backend::Fate;
use super::{RecvHalf, SendHalf, StreamError};
use crate::transport::lost::Lost;

/// One end of a bidirectional stream.
pub type End = (SendHalf, RecvHalf);

/// The connection beneath the two directions of a stream, to be lost at will.
#[derive(Debug, Clone)]
pub struct Connection(Arc<Pipe>, Arc<Pipe>);

/// The sending half of one direction. Dropped, it leaves the direction as it is.
#[derive(Debug)]
pub struct Sender(Arc<Pipe>);

/// The receiving half of one direction. Dropped, it leaves the direction as it is.
#[derive(Debug)]
pub struct Receiver(Arc<Pipe>);

#[derive(Debug)]
struct Pipe(Mutex<State>);

#[derive(Debug)]
struct State {
    /// How many bytes may wait for the reader.
    window: usize,
    pieces: VecDeque<Bytes>,
    held: usize,
    finished: bool,
    reset: bool,
    stopped: bool,
    lost: Option<Lost>,
    /// Those who wait for a change.
    wakers: Vec<Waker>,
}

/// A bidirectional stream whose directions have windows of so many bytes: both ends of it, and the
/// connection.
pub fn pair(window: usize) -> (End, End, Connection) {
    let (here, there) = (Pipe::new(window), Pipe::new(window));
    let end = |to: &Arc<Pipe>, from: &Arc<Pipe>| {
        let send = SendHalf::new(Sender(to.clone()));
        (send, RecvHalf::new(Receiver(from.clone())))
    };
    let ends = (end(&there, &here), end(&here, &there));
    (ends.0, ends.1, Connection(here, there))
}

/// One direction with a window of so many bytes, without the framing above it.
pub fn direction(window: usize) -> (Sender, Receiver, Connection) {
    let pipe = Pipe::new(window);
    let connection = Connection(pipe.clone(), pipe.clone());
    (Sender(pipe.clone()), Receiver(pipe), connection)
}

impl Connection {
    /// Loses the connection: what has arrived is still to be read, and nothing more.
    pub fn lose(&self, why: &Lost) {
        for pipe in [&self.0, &self.1] {
            pipe.change(|state| {
                state.lost.get_or_insert_with(|| why.clone());
            });
        }
    }
}

impl Sender {
    /// Writes bytes at once, whatever the window.
    pub fn write(&mut self, bytes: &[u8]) {
        self.0
            .change(|state| state.push(Bytes::copy_from_slice(bytes)));
    }

    /// Resolves when the reader asks to stop, or the connection is lost.
    pub async fn abandoned(&self) {
        if self.fate().await == Fate::Received {
            std::future::pending::<()>().await;
        }
    }

    /// Ends the direction in order.
    pub fn finish(&mut self) {
        self.0.change(|state| state.finished |= !state.reset);
    }

    /// Abandons the direction, and what of it was not read.
    pub fn reset(&mut self) {
        self.0.change(|state| {
            // A stream that was read to its finish is over.
            if !(state.finished && state.held == 0) {
                state.reset = true;
                state.pieces.clear();
                state.held = 0;
            }
        });
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<Result<usize, StreamError>> {
        let mut state = self.0.lock();
        if let Some(lost) = &state.lost {
            return Poll::Ready(Err(StreamError::Lost(lost.clone())));
        }
        if state.stopped || state.finished || state.reset {
            return Poll::Ready(Err(StreamError::Abandoned));
        }
        if state.held >= state.window {
            state.wait(cx);
            return Poll::Pending;
        }
        let mut whole = 0;
        for piece in pieces {
            let room = state.window - state.held;
            let taken = piece.split_to(piece.len().min(room));
            state.push(taken);
            if !piece.is_empty() {
                break;
            }
            whole += 1;
        }
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(whole))
    }

    pub(super) fn fate(&self) -> impl Future<Output = Fate> + Send + use<> {
        let pipe = self.0.clone();
        poll_fn(move |cx| {
            let mut state = pipe.lock();
            if state.stopped || state.lost.is_some() {
                return Poll::Ready(Fate::Abandoned);
            }
            if state.reset || state.finished && state.held == 0 {
                return Poll::Ready(Fate::Received);
            }
            state.wait(cx);
            Poll::Pending
        })
    }
}

impl Receiver {
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        pieces: &mut [Bytes],
    ) -> Poll<Result<Option<usize>, StreamError>> {
        let mut state = self.0.lock();
        if state.reset || state.stopped {
            return Poll::Ready(Err(StreamError::Abandoned));
        }
        let mut count = 0;
        for (place, piece) in pieces
            .iter_mut()
            .zip(std::iter::from_fn(|| state.pieces.pop_front()))
        {
            *place = piece;
            count += 1;
        }
        if count == 0 {
            if state.finished {
                return Poll::Ready(Ok(None));
            }
            if let Some(lost) = &state.lost {
                return Poll::Ready(Err(StreamError::Lost(lost.clone())));
            }
            state.wait(cx);
            return Poll::Pending;
        }
        state.held = state.pieces.iter().map(Bytes::len).sum();
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(Some(count)))
    }

    /// Asks the sender to stop.
    pub fn stop(&mut self) {
        self.0.change(|state| {
            state.stopped = true;
            state.pieces.clear();
            state.held = 0;
        });
    }
}

impl Pipe {
    fn new(window: usize) -> Arc<Pipe> {
        Arc::new(Pipe(Mutex::new(State {
            window,
            pieces: VecDeque::new(),
            held: 0,
            finished: false,
            reset: false,
            stopped: false,
            lost: None,
            wakers: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.held += piece.len();
            self.pieces.push_back(piece);
        }
    }

    fn wait(&mut self, cx: &Context<'_>) {
        if !self.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.wakers.push(cx.waker().clone());
        }
    }
}
