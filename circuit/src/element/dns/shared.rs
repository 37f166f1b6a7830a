//! The records of a DNS server, as the element and the thread that answers share them.
//!
//! The thread of the network brings notices of servers that joined or left under a lock of the
//! membership's, so it must not wait for an answer that is being made. It puts them into a queue,
//! whose lock is held for a moment only. The thread that answers empties the queue before it reads
//! the records, and when it is woken.
//!
//! **Invariant:** a notice is in every answer that is begun after [`Shared::notice`] has returned.
//! **Invariant:** the queue has one notice of a server at most.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use circuit_proto::ServerId;
use circuit_proto::membership::Notice;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::live::Live;
use super::records::Records;

/// The records, the zone of live servers if there is one, and the notices that are not yet in them.
#[derive(Debug)]
pub(super) struct Shared {
    records: RwLock<Records>,
    /// Counts the changes of the records and the notices that are to change them.
    changes: AtomicU64,
    /// Locked before `records`.
    live: Option<Mutex<Live>>,
    /// The last notice of each server; a later one makes an earlier one void.
    notices: Mutex<BTreeMap<ServerId, Notice>>,
    noticed: Notify,
}

impl Shared {
    pub(super) fn new(records: Records, live: Option<Live>) -> Shared {
        Shared {
            records: RwLock::new(records),
            changes: AtomicU64::new(0),
            live: live.map(Mutex::new),
            notices: Mutex::default(),
            noticed: Notify::new(),
        }
    }

    /// The records. [`catch_up`](Self::catch_up) comes first where notices matter.
    pub(super) fn records(&self) -> &RwLock<Records> {
        &self.records
    }

    /// How many changes there were; [`catch_up`](Self::catch_up) brings the records up to it.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Changes the records.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Records) -> T) -> T {
        self.catch_up();
        let mut records = self.records.write();
        let result = change(&mut records);
        // Before the lock is free: whoever reads the old records knows them to be old.
        self.changes.fetch_add(1, Ordering::Release);
        result
    }

    /// Queues that a server has joined or left.
    pub(super) fn notice(&self, notice: &Notice) {
        let (Notice::Join(server) | Notice::Leave(server)) = notice;
        let id = server.fingerprint.id();
        self.notices.lock().insert(id, notice.clone());
        // After the notice is in the queue: whoever reads this count finds the notice there.
        self.changes.fetch_add(1, Ordering::Release);
        self.noticed.notify_one();
    }

    /// Changes the records as the queued notices say.
    pub(super) fn catch_up(&self) {
        let Some(live) = &self.live else { return };
        // Held throughout: whoever finds the queue empty finds the notices in the records.
        let mut live = live.lock();
        let notices = std::mem::take(&mut *self.notices.lock());
        for notice in notices.into_values() {
            // Locked for one at a time, so that others have their turn.
            let mut records = self.records.write();
            match notice {
                Notice::Join(server) => live.join(&mut records, &server),
                Notice::Leave(server) => live.leave(&mut records, server.fingerprint.id()),
            }
        }
    }

    /// Empties the queue whenever a notice comes, asked or not, so that it does not grow.
    pub(super) async fn follow(&self) {
        loop {
            self.noticed.notified().await;
            self.catch_up();
        }
    }
}
