//! SIGINT, SIGTERM and SIGHUP: the exit status that they give, and a moment to end in order.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::error::Failure;

/// The signals, which no longer end this process by themselves.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    /// `None` under nohup(1), which has it ignored.
    hangup: Option<Signal>,
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
            hangup: match is_hangup_ignored() {
                true => None,
                false => Some(listen(SignalKind::hangup())?),
            },
        })
    }

    /// Resolves at the next, with the exit status that shells give to a process which such a signal
    /// ended.
    pub(super) async fn next(&mut self) -> u8 {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => 128 + 2,
            _ = self.terminate.recv() => 128 + 15,
            _ = hangup => 128 + 1,
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

/// Whether this process was started with SIGHUP ignored, as proc(5) tells.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 != 0)
}
