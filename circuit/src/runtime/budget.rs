//! Has a loop whose input may never run dry yield to the other tasks of the thread.
//!
//! tokio does so by itself for its own sockets and queues, but neither for a watched descriptor that
//! stays readable nor for QUIC's streams.

/// An amount of work after which a loop yields.
#[derive(Debug)]
pub struct Budget {
    whole: usize,
    left: usize,
}

impl Budget {
    /// Allows this much work, in whatever unit the loop counts, between two yields.
    pub const fn new(whole: usize) -> Budget {
        Budget { whole, left: whole }
    }

    /// Takes work that was done off the budget. Yields when the budget is spent, and begins anew.
    ///
    /// **Cancellation:** may be dropped at any time.
    pub async fn spend(&mut self, work: usize) {
        if work < self.left {
            self.left -= work;
            return;
        }
        self.left = self.whole;
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    /// Polls a future once and says whether it was ready.
    async fn ready_at_once(future: impl Future<Output = ()>) -> bool {
        let mut future = std::pin::pin!(future);
        poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_ready())).await
    }

    #[tokio::test]
    async fn it_yields_when_it_is_spent_and_not_before() {
        let mut budget = Budget::new(10);
        assert!(ready_at_once(budget.spend(9)).await);
        assert!(!ready_at_once(budget.spend(1)).await);
        assert!(ready_at_once(budget.spend(9)).await);
        assert!(!ready_at_once(budget.spend(100)).await);
    }
}
