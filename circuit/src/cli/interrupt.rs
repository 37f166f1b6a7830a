//! SIGINT and SIGTERM: the exit status that they give, and a moment to end in order.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::error::Failure;

/// The signals, which no longer end this process by themselves.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

/// Resolves when a command is to end in order.
pub(super) type Asked = oneshot::Receiver<()>;

impl Interrupts {
    pub(super) fn listen() -> Result<Interrupts, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::operation("cannot catch signals", &error));
        Ok(Interrupts {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Resolves at the next, with the exit status that shells give to a process which such a signal
    /// ended.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 128 + 2,
            _ = self.terminate.recv() => 128 + 15,
        }
    }

    /// Does something that is cut short by an interrupt: then `Err` has the exit status.
    pub(super) async fn unless<T>(&mut self, what: impl Future<Output = T>) -> Result<T, u8> {
        tokio::select! {
            done = what => Ok(done),
            status = self.next() => Err(status),
        }
    }

    /// Does something that is asked to end at an interrupt, and is given so long to. At a second
    /// one it is cut short.
    pub(super) async fn in_order<W: Future<Output = Result<(), Failure>>>(
        &mut self,
        patience: Duration,
        what: impl FnOnce(Asked) -> W,
    ) -> Result<u8, Failure> {
        let (ask, asked) = oneshot::channel();
        let what = what(asked);
        tokio::pin!(what);
        let status = match self.unless(&mut what).await {
            Ok(done) => return done.map(|()| 0),
            Err(status) => status,
        };
        // It may just have ended by itself.
        let _ = ask.send(());
        match self.unless(tokio::time::timeout(patience, what)).await {
            Ok(Ok(Ok(()))) => Ok(status),
            Ok(Ok(Err(failure))) => Err(failure.of_interrupted(status)),
            Ok(Err(_)) => {
                let seconds = patience.as_secs_f32();
                let text = format!("interrupted, and what had come was not written in {seconds} s");
                Err(Failure::failed(text).of_interrupted(status))
            }
            Err(status) => Ok(status),
        }
    }
}
