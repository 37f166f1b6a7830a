//! Runs calls that may block on threads of the runtime's pool, with a bound for each purpose.
//!
//! Starting a process touches file systems, and looking a name up asks a resolver: either may hang
//! for minutes. What hangs keeps its thread, but only as many threads as its purpose has: no other
//! purpose waits for it. A call that gets no thread in time fails, so that its caller learns why.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use circuit_proto::{Code, Error};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a call waits for a thread. Chosen, not measured: below the callers' own deadline of five
/// seconds, so that they learn the reason.
const THREAD_WAIT: Duration = Duration::from_secs(2);

/// How many calls may wait for a thread. Chosen, not measured: four clients may each send all the
/// requests that they have.
const WAITING: usize = 4096;

/// The threads of one purpose.
#[derive(Debug)]
pub struct Pool {
    /// Says in errors what the threads are busy with.
    busy_with: &'static str,
    threads: usize,
    wait: Duration,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Says why a call was not made, or did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// All threads are taken, and too many calls wait, or this one has waited for too long.
    #[error("too busy: there are {threads} {busy_with}, and none has come to its end in time")]
    Busy {
        /// The number of threads.
        threads: usize,
        /// The work that the threads are busy with.
        busy_with: &'static str,
    },
    /// The call panicked, or the server ends.
    #[error("{0}")]
    Failed(String),
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Error {
        let code = match &error {
            PoolError::Busy { .. } => Code::Busy,
            PoolError::Failed(_) => Code::Internal,
        };
        Error::new(code, error.to_string())
    }
}

impl Pool {
    /// A pool of so many threads. `busy_with` completes "there are 16 …".
    pub fn new(busy_with: &'static str, threads: usize) -> Pool {
        Pool {
            busy_with,
            threads,
            wait: THREAD_WAIT,
            free: Arc::new(Semaphore::new(threads)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Makes a call on a thread of this pool.
    ///
    /// **Cancellation:** a call that has begun comes to its end, and keeps its thread until then.
    pub async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let place = self.place().await?;
        Pool::call(place, call).await
    }

    /// Makes a call on a thread of this pool, however long the wait for that is: for those who see to it
    /// themselves that not too many wait.
    ///
    /// **Cancellation:** as of [`run`](Self::run).
    pub async fn run_in_turn<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let place = {
            let _waits = Waits::begin(&self.waiting);
            let place = self.free.clone().acquire_owned().await;
            place.map_err(|error| PoolError::Failed(error.to_string()))?
        };
        Pool::call(place, call).await
    }

    async fn call<T: Send + 'static>(
        place: OwnedSemaphorePermit,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let called = tokio::task::spawn_blocking(move || {
            let _place = place;
            call()
        });
        called
            .await
            .map_err(|error| PoolError::Failed(error.to_string()))
    }

    /// How many threads are taken.
    pub fn running(&self) -> usize {
        self.threads - self.free.available_permits()
    }

    /// How many calls wait for a thread.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, PoolError> {
        if let Ok(place) = self.free.clone().try_acquire_owned() {
            return Ok(place);
        }
        let busy = || PoolError::Busy {
            threads: self.threads,
            busy_with: self.busy_with,
        };
        if self.waiting() >= WAITING {
            return Err(busy());
        }
        let _waits = Waits::begin(&self.waiting);
        match tokio::time::timeout(self.wait, self.free.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

/// Counts a call that waits.
struct Waits<'a>(&'a AtomicUsize);

impl Waits<'_> {
    fn begin(count: &AtomicUsize) -> Waits<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Waits(count)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Fills a pool with calls that end when the other end of the result is dropped.
    fn hang(pool: &Arc<Pool>, calls: usize) -> Vec<mpsc::Sender<()>> {
        let begin = |_| {
            let (release, hung) = mpsc::channel::<()>();
            let pool = pool.clone();
            tokio::spawn(async move { pool.run(move || hung.recv().is_ok()).await });
            release
        };
        (0..calls).map(begin).collect()
    }

    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn calls_that_hang_stop_no_other_purpose_and_beyond_the_bound_all_are_refused() {
        let mut spawning = Pool::new("processes being started", 3);
        spawning.wait = Duration::ZERO;
        let spawning = Arc::new(spawning);
        let resolving = Pool::new("names being looked up", 3);
        let hung = hang(&spawning, 2);
        until(|| spawning.running() == 2).await;
        // One thread is left to those that do not hang.
        assert_eq!(spawning.run(|| 1).await, Ok(1));
        assert_eq!(spawning.run(|| 2).await, Ok(2));
        let more = hang(&spawning, 1);
        until(|| spawning.running() == 3).await;
        let refused = Error::from(spawning.run(|| 3).await.unwrap_err());
        assert_eq!(refused.code, Code::Busy);
        assert_eq!(
            refused.message,
            "too busy: there are 3 processes being started, and none has come to its end in time"
        );
        assert_eq!(resolving.run(|| 4).await, Ok(4));
        drop((hung, more));
        until(|| spawning.running() == 0).await;
        assert_eq!(spawning.waiting(), 0);
        assert_eq!(spawning.run(|| 5).await, Ok(5));
    }

    #[tokio::test]
    async fn a_call_that_waits_gets_the_thread_of_one_that_ends() {
        let pool = Arc::new(Pool::new("calls", 1));
        let hung = hang(&pool, 1);
        until(|| pool.running() == 1).await;
        let next = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(|| 1).await }
        });
        until(|| pool.waiting() == 1).await;
        drop(hung);
        assert_eq!(next.await.unwrap(), Ok(1));
    }

    #[tokio::test]
    async fn a_call_in_turn_is_not_refused_for_its_wait() {
        let mut pool = Pool::new("calls", 1);
        pool.wait = Duration::ZERO;
        let pool = Arc::new(pool);
        let hung = hang(&pool, 1);
        until(|| pool.running() == 1).await;
        let next = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run_in_turn(|| 1).await }
        });
        until(|| pool.waiting() == 1).await;
        assert!(pool.run(|| 2).await.is_err());
        drop(hung);
        assert_eq!(next.await.unwrap(), Ok(1));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_free_a_thread_that_hangs() {
        let pool = Arc::new(Pool::new("calls", 1));
        let (release, hung) = mpsc::channel::<()>();
        let call = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || hung.recv().is_ok()).await }
        });
        until(|| pool.running() == 1).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        assert_eq!(pool.running(), 1);
        drop(release);
        until(|| pool.running() == 0).await;
    }
}
