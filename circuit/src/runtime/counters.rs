//! Counts what happens in a server, for `peek` of it.
//!
//! Each counter is one atomic number that only grows: counting costs a few nanoseconds and takes no
//! lock. What can be asked of its owner, such as the number of clients, is not counted here but read
//! when somebody asks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use circuit_proto::{Code, Error};

/// One number that grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn one(&self) {
        self.add(1);
    }

    /// Counts so many.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many were counted.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of one server.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections of clients that were let in.
    pub clients: Counter,
    /// Links that others dialled.
    pub links: Counter,
    /// Connections over which other servers forward requests, that were let in.
    pub transfers: Counter,
    /// Connections that were turned away, with a reason or for want of a place.
    pub refused: Counter,
    /// Requests that were executed, by outcome.
    pub outcomes: Outcomes,
    /// Requests that were passed on to another server.
    pub forwarded: Counter,
    /// Bytes of UDP that were sent, without headers of IP and UDP.
    pub sent: Counter,
    /// Bytes of UDP that were received, the same.
    pub received: Counter,
    /// Processes that were started.
    pub started: Counter,
    /// Processes that could not be started.
    pub not_started: Counter,
    /// Processes that have ended.
    pub ended: Counter,
    /// Servers that have joined, as this one has heard.
    pub joined: Counter,
    /// Servers that have left or were given up.
    pub left: Counter,
    /// Messages of channels that got their place.
    pub messages_sent: Counter,
    /// Messages of channels and subscriptions that were received.
    pub messages_received: Counter,
}

/// Counts outcomes.
#[derive(Debug, Default)]
pub struct Outcomes {
    ok: Counter,
    /// By the number of the code.
    failed: [Counter; NUMBERS],
}

/// More than there are codes. One beyond would be counted as `Internal`, as older peers read it.
const NUMBERS: usize = 32;

impl Outcomes {
    /// Counts how a request ended.
    pub fn count(&self, failure: Option<&Error>) {
        let Some(error) = failure else {
            return self.ok.one();
        };
        let counter = self.failed.get(error.code as usize);
        counter
            .unwrap_or(&self.failed[Code::Internal as usize])
            .one();
    }

    /// The outcomes that there were, by name, and how often.
    pub fn all(&self) -> BTreeMap<String, u64> {
        let failed = (0..).zip(self.failed.iter().map(Counter::get));
        let happened = failed.filter(|(_, count)| *count > 0);
        let named = happened.map(|(number, count)| (format!("{:?}", Code::from(number)), count));
        named.chain([("Ok".to_owned(), self.ok.get())]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_told_apart() {
        let outcomes = Outcomes::default();
        outcomes.count(None);
        outcomes.count(None);
        outcomes.count(Some(&Error::new(Code::Busy, "")));
        outcomes.count(Some(&Error::new(Code::NoSuchServer, "")));
        let expected = [("Busy", 1), ("NoSuchServer", 1), ("Ok", 2)];
        let expected = expected.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(outcomes.all(), expected.into());
    }
}
