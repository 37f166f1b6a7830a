//! A process's stdin: one writer at a time, and an explicit end.
//!
//! **Invariant:** only a writer's orderly end closes the process's stdin, never its disappearance.
//!
//! **Cancellation:** a dropped [`Writing`] gives its place back. Of the data that it was writing a part
//! may have been written, as at any pipe.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

use circuit_proto::element::streams::Input as InputStatus;
use circuit_proto::{Code, Error};
use rustix::io::Errno;

use super::Attached;
use super::descriptor::Descriptor;
use crate::runtime::budget::Budget;

/// A process's stdin.
#[derive(Debug)]
pub struct Input {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sink: Option<Sink>,
    writer: Option<Attached>,
}

/// Where the data goes.
#[derive(Debug, Clone)]
pub enum Sink {
    /// A pipe: closing it is the end.
    Pipe(Arc<Descriptor>),
    /// A terminal: its end-of-file character is the end.
    Terminal(Arc<Descriptor>),
}

/// The character that a terminal in its usual mode takes for the end of its input: Ctrl-D.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// How many bytes are written before the other tasks of the thread have their turn. Chosen, not
/// measured: as for outputs.
const TURN: usize = 256 << 10;

/// The one writer's hold on an input.
#[derive(Debug)]
pub struct Writing {
    input: Arc<Input>,
    turn: Budget,
    /// The last byte that was written: a terminal's line is unfinished if it is no line end.
    last: Option<u8>,
}

impl Input {
    /// The input that goes into this end.
    pub fn new(sink: Sink) -> Arc<Input> {
        Arc::new(Input {
            state: Mutex::new(State {
                sink: Some(sink),
                writer: None,
            }),
        })
    }

    /// The state, as `peek` prints it.
    pub fn status(&self) -> InputStatus {
        let state = self.lock();
        InputStatus {
            open: state.sink.is_some(),
            writer: state.writer.is_some(),
        }
    }

    /// Becomes the writer, under this name. Fails with `Busy` while there is another.
    pub fn attach(self: &Arc<Self>, who: &Arc<str>) -> Result<Writing, Error> {
        let mut state = self.lock();
        if let Some(writer) = &state.writer {
            let message = format!("somebody else is writing to it: {writer}");
            return Err(Error::new(Code::Busy, message));
        }
        state.writer = Some(Attached::now(who));
        Ok(Writing {
            input: self.clone(),
            turn: Budget::new(TURN),
            last: None,
        })
    }

    /// Closes the input, as the process has exited or is forgotten: writers fail from now on.
    pub fn abandon(&self) {
        self.lock().sink = None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Writing {
    /// The error of a writer to a process that reads no more.
    pub fn closed() -> Error {
        Error::new(Code::Closed, "the process does not read its stdin any more")
    }

    /// Writes all of the data; waits while the process does not read. Fails with `Closed` when the
    /// process has gone or its stdin was closed.
    pub async fn write(&mut self, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            let Some(sink) = self.input.lock().sink.clone() else {
                return Err(Writing::closed());
            };
            let fd = sink.fd();
            let Ok(mut ready) = fd.writable().await else {
                return Err(Writing::closed());
            };
            match rustix::io::write(fd, data) {
                Ok(count) => {
                    self.last = data[..count].last().copied().or(self.last);
                    data = &data[count..];
                    self.turn.spend(count).await;
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => (),
                // EPIPE from a pipe, EIO from a terminal: nobody reads any more.
                Err(_) => {
                    self.input.lock().sink = None;
                    return Err(Writing::closed());
                }
            }
        }
        Ok(())
    }

    /// Ends the process's stdin in order.
    pub async fn end(&mut self) -> Result<(), Error> {
        let terminal = matches!(self.input.lock().sink, Some(Sink::Terminal(_)));
        if terminal {
            // Behind an unfinished line the first only hands the line over. Ending without data
            // always succeeds.
            let unfinished = !matches!(self.last, None | Some(b'\n' | b'\r' | 4));
            if unfinished {
                let _ = self.write(END_OF_TRANSMISSION).await;
            }
            let _ = self.write(END_OF_TRANSMISSION).await;
        }
        self.input.lock().sink = None;
        Ok(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.input.lock().writer = None;
    }
}

impl Sink {
    fn fd(&self) -> &Descriptor {
        match self {
            Sink::Pipe(fd) | Sink::Terminal(fd) => fd,
        }
    }
}
