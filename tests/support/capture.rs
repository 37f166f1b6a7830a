//! A thread that collects the output of a pipe or a terminal.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// The bytes that came so far. Clones share them.
#[derive(Clone)]
pub(crate) struct Capture {
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Capture {
    /// Takes in what comes until the end.
    pub(crate) fn of(mut pipe: impl Read + Send + 'static) -> Capture {
        let capture = Capture {
            shared: Arc::default(),
        };
        let writer = capture.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                // A terminal that nobody has open any more errs instead of ending.
                let count = pipe.read(&mut buffer).unwrap_or(0);
                let mut state = writer.lock();
                state.bytes.extend_from_slice(&buffer[..count]);
                state.ended = count == 0;
                let ended = state.ended;
                drop(state);
                writer.shared.1.notify_all();
                if ended {
                    return;
                }
            }
        });
        capture
    }

    /// The output so far, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// The output so far.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// Waits until what came, as text, satisfies `found`.
    pub(crate) fn wait_for<T>(
        &self,
        deadline: Duration,
        found: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.wait(deadline, |state| {
            found(&String::from_utf8_lossy(&state.bytes))
        })
    }

    /// Waits for the end; whether it came.
    pub(crate) fn wait_for_end(&self, deadline: Duration) -> bool {
        self.wait(deadline, |state| state.ended.then_some(()))
            .is_some()
    }

    fn wait<T>(&self, deadline: Duration, found: impl Fn(&State) -> Option<T>) -> Option<T> {
        let begin = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(answer) = found(&state) {
                return Some(answer);
            }
            let left = deadline.checked_sub(begin.elapsed())?;
            if state.ended {
                return None;
            }
            state = self.shared.1.wait_timeout(state, left).unwrap().0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }
}
