//! The queue of starts: of all programs of services, instances and commands beside them, only so many are being
//! started at a time. The others wait, however long that takes: a wait is no failure.
//!
//! One service whose starts hang, on a file system that does not answer, keeps a share of the places, and not all.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many starts of services are in flight at the same time. Chosen, not measured: half of the threads that start
/// processes, so that `mkproc` always finds one.
const STARTS: usize = 64;

/// How many of them are one service's. Chosen, not measured: a start takes a millisecond of a processor, so that
/// more at once are no faster.
const SHARE: usize = 16;

/// So many places.
#[derive(Debug, Clone)]
pub(super) struct Places(Arc<Semaphore>);

/// A place, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _share: OwnedSemaphorePermit,
    _start: OwnedSemaphorePermit,
}

impl Places {
    /// Those of a server.
    pub(super) fn of_server() -> Places {
        Places(Arc::new(Semaphore::new(STARTS)))
    }

    /// Those that a service may have of them.
    pub(super) fn of_service() -> Places {
        Places(Arc::new(Semaphore::new(SHARE)))
    }

    /// Waits for a place of a service's among the server's. Whoever came first is served first.
    pub(super) async fn place(&self, server: &Places) -> Place {
        let share = self.free().await;
        let start = server.free().await;
        Place {
            _share: share,
            _start: start,
        }
    }

    async fn free(&self) -> OwnedSemaphorePermit {
        match self.0.clone().acquire_owned().await {
            Ok(permit) => permit,
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn a_service_whose_starts_hang_leaves_places_to_others() {
        let server = Places::of_server();
        let (hangs, other) = (Places::of_service(), Places::of_service());
        let mut hung = Vec::new();
        for _ in 0..SHARE {
            hung.push(hangs.place(&server).await);
        }
        let waits = hangs.place(&server);
        tokio::pin!(waits);
        // Asked once, it has none.
        let now = Duration::ZERO;
        assert!(tokio::time::timeout(now, &mut waits).await.is_err());
        drop(other.place(&server).await);
        hung.pop();
        waits.await;
    }
}
