//! How many requests of one connection there may be at the same time: those that are done at once and
//! those that wait have places of their own, so that neither keeps the other out.
//!
//! **Invariant:** the peer may open more streams than there are requests, by more than the eighth of
//! them that QUIC gathers before it lets the peer open more (quinn-proto 0.11,
//! `queue_max_stream_id`). So a stream never waits for the end of another one.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use circuit_proto::{Code, Error};
use parking_lot::Mutex;

/// How many requests there may be (docs/design.md, "The wire").
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Limits {
    /// How many that are done at once, or were not read yet.
    in_flight: usize,
    /// How many that wait for others.
    waiting: usize,
    /// How many of those that wait may be of one origin.
    of_one_origin: usize,
}

/// Of a client.
pub(in super::super) const CLIENT: Limits = Limits {
    in_flight: 1_024,
    waiting: 16_384,
    of_one_origin: 16_384,
};

/// Of a server that forwards.
pub(super) const TRANSFER: Limits = Limits {
    in_flight: 4_096,
    waiting: 16_384,
    of_one_origin: 8_192,
};

/// How many streams a peer may have open before it has used half of them. Chosen, not measured: each
/// costs a few dozen bytes before it is opened, and few connections ever have so many.
pub(in super::super) const STREAMS_AT_FIRST: u32 = 1_280;

/// The places of one connection.
#[derive(Debug)]
pub(in super::super) struct Places {
    limits: Limits,
    taken: Mutex<Taken>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Taken {
    in_flight: usize,
    waiting: usize,
    /// How many requests are about to be refused.
    refused: usize,
    /// How many of those that wait are of each origin. An origin is known by its hash, so that a peer
    /// cannot fill the memory with long ones.
    by_origin: HashMap<u64, usize>,
    /// How many streams the peer may have open.
    streams: u32,
}

/// The place of one request, for as long as this is held.
#[derive(Debug)]
pub(in super::super) struct Place {
    places: Arc<Places>,
    held: Held,
}

#[derive(Debug, Clone, Copy)]
enum Held {
    InFlight,
    /// With the hash of the origin.
    Waiting(u64),
    Refused,
}

impl Places {
    pub(in super::super) fn new(limits: Limits) -> Arc<Places> {
        Arc::new(Places {
            limits,
            taken: Mutex::new(Taken {
                in_flight: 0,
                waiting: 0,
                refused: 0,
                by_origin: HashMap::new(),
                streams: STREAMS_AT_FIRST,
            }),
            hasher: RandomState::new(),
        })
    }

    /// A place for a request that was not read yet, or the place of one that is to be refused.
    pub(in super::super) fn enter(self: &Arc<Self>) -> Place {
        let mut taken = self.taken.lock();
        let held = match taken.in_flight < self.limits.in_flight {
            true => {
                taken.in_flight += 1;
                Held::InFlight
            }
            false => {
                taken.refused += 1;
                Held::Refused
            }
        };
        Place {
            places: self.clone(),
            held,
        }
    }

    /// How many streams the peer may have open from now on, if that is more than before.
    pub(super) fn more_streams(&self) -> Option<u32> {
        let mut taken = self.taken.lock();
        let open = taken.in_flight + taken.waiting + taken.refused;
        // A quarter more than there are places: more than the eighth that the peer may have to wait
        // for.
        let places = self.limits.in_flight + self.limits.waiting;
        let most = u32::try_from(places + places / 4).unwrap_or(u32::MAX);
        if open <= taken.streams as usize / 2 || taken.streams >= most {
            return None;
        }
        taken.streams = most.min(2 * taken.streams);
        Some(taken.streams)
    }
}

impl Place {
    /// Fails for a request that found no place.
    pub(super) fn is_there(&self) -> Result<(), Error> {
        let limit = self.places.limits.in_flight;
        match self.held {
            Held::InFlight | Held::Waiting(_) => Ok(()),
            Held::Refused => Err(busy(format!(
                "{limit} operations are in flight on this connection"
            ))),
        }
    }

    /// Exchanges the place for one of those that wait, if there is one.
    pub(in super::super) fn wait(&mut self, origin: &str) -> Result<(), Error> {
        let Places { limits, hasher, .. } = &*self.places;
        let origin = hasher.hash_one(origin);
        let mut taken = self.places.taken.lock();
        if taken.waiting >= limits.waiting {
            let limit = limits.waiting;
            return Err(busy(format!("{limit} operations wait on this connection")));
        }
        let of_origin = taken.by_origin.entry(origin).or_default();
        if *of_origin >= limits.of_one_origin {
            let limit = limits.of_one_origin;
            return Err(busy(format!(
                "{limit} operations of this client wait on this connection"
            )));
        }
        *of_origin += 1;
        taken.waiting += 1;
        taken.leave(self.held);
        self.held = Held::Waiting(origin);
        Ok(())
    }
}

impl Taken {
    fn leave(&mut self, held: Held) {
        match held {
            Held::InFlight => self.in_flight -= 1,
            Held::Refused => self.refused -= 1,
            Held::Waiting(origin) => {
                self.waiting -= 1;
                if let Some(count) = self.by_origin.get_mut(&origin) {
                    *count -= 1;
                    if *count == 0 {
                        self.by_origin.remove(&origin);
                    }
                }
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().leave(self.held);
    }
}

fn busy(message: String) -> Error {
    Error::new(Code::Busy, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limits = Limits {
        in_flight: 2,
        waiting: 4,
        of_one_origin: 3,
    };

    /// A request that waits.
    fn waiting(places: &Arc<Places>, origin: &str) -> Result<Place, Error> {
        let mut place = places.enter();
        place.is_there()?;
        place.wait(origin)?;
        Ok(place)
    }

    fn message<T>(result: Result<T, Error>) -> Option<String> {
        let error = result.err()?;
        assert_eq!(error.code, Code::Busy);
        Some(error.message)
    }

    #[test]
    fn those_that_wait_keep_nobody_out_who_does_not() {
        let places = Places::new(SMALL);
        let held: Vec<_> = (0..3).map(|_| waiting(&places, "a").unwrap()).collect();
        let of_one = "3 operations of this client wait on this connection";
        assert_eq!(message(waiting(&places, "a")).as_deref(), Some(of_one));
        let other = waiting(&places, "b").unwrap();
        let all = "4 operations wait on this connection";
        assert_eq!(message(waiting(&places, "c")).as_deref(), Some(all));
        let in_flight = [places.enter(), places.enter()];
        assert!(in_flight.iter().all(|place| place.is_there().is_ok()));
        let too_many = places.enter().is_there();
        let in_all = "2 operations are in flight on this connection";
        assert_eq!(message(too_many).as_deref(), Some(in_all));
        drop(in_flight);
        drop(other);
        assert_eq!(message(waiting(&places, "a")).as_deref(), Some(of_one));
        drop(held);
        waiting(&places, "a").unwrap();
        let taken = places.taken.lock();
        let left = (taken.in_flight, taken.waiting, taken.refused);
        assert_eq!((left, taken.by_origin.len()), ((0, 0, 0), 0));
    }

    /// However many requests there are, so many streams may be opened that QUIC lets the peer open
    /// more before it has none left.
    #[test]
    fn there_are_always_streams_to_spare() {
        for limits in [CLIENT, TRANSFER] {
            let places = Places::new(limits);
            let mut streams = STREAMS_AT_FIRST as usize;
            let mut held = Vec::new();
            for number in 0..limits.waiting + limits.in_flight {
                let mut place = places.enter();
                if let Some(more) = places.more_streams() {
                    assert!(more as usize > streams);
                    streams = more as usize;
                }
                place.is_there().unwrap();
                if number < limits.waiting {
                    place.wait(&(number % 2).to_string()).unwrap();
                }
                held.push(place);
                assert!(streams - held.len() > streams / 8, "{number}: {streams}");
            }
            assert!(places.enter().is_there().is_err());
        }
    }
}
