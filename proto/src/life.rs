//! Which life of a server is meant: the one thing by which lives are told apart.
//!
//! A server that is started again with the same key is the same server, in another life. Process
//! ids and start times do not tell its lives apart: in a container every server is process 1, and
//! clocks are wrong. They are text for people, and nothing compares them.
//!
//! A directory that holds a key can be copied. Then two servers live on one identity, and a
//! [`Tenure`] decides which of them goes on.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ServerId;

/// One life of one server.
///
/// Lives are compared with `==`. Of two lives of one server the greater one is the later:
///
/// ```
/// use circuit_proto::{Life, ServerId};
/// let life = |id, count| Life { id: ServerId(id), count, instance: 7 };
/// assert!(life(1, 2) > life(1, 1));
/// assert_ne!(life(1, 2), life(2, 2));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Whose life it is.
    pub id: ServerId,
    /// How many lives that server had before. The server keeps this number with its key (`-var`)
    /// and raises it at each start. Without `-var` it is 0, and the id is new in each life.
    pub count: u64,
    /// The random number that the process drew at its start. It tells two lives of one count apart:
    /// those of two servers on copies of one directory.
    pub instance: u64,
}

/// Lives that are at most so far apart count as equally long: the two ends of a question measure
/// them at different moments. Chosen, not measured: many times a round trip.
pub const EQUALLY_LONG: Duration = Duration::from_secs(1);

/// The claim of one process to its identity, as it tells it to another process with the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenure {
    /// [`Life::count`].
    pub count: u64,
    /// [`Life::instance`].
    pub instance: u64,
    /// For how long the process has lived, in milliseconds of a clock that is never set.
    pub lived: u64,
}

impl Tenure {
    /// Whether the owner of this claim goes on, and the owner of the other one ends: the one that
    /// has lived for longer goes on, whatever its count; of two that have lived
    /// [equally long](EQUALLY_LONG) the one with the smaller number.
    ///
    /// Of two claims exactly one outlasts the other, so that both ends of a question come to the
    /// same decision.
    pub fn outlasts(&self, other: &Tenure) -> bool {
        let apart = Duration::from_millis(self.lived.abs_diff(other.lived));
        match apart <= EQUALLY_LONG {
            true => self.instance < other.instance,
            false => self.lived > other.lived,
        }
    }

    /// [`lived`](Self::lived) as a duration.
    pub fn age(&self) -> Duration {
        Duration::from_millis(self.lived)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenure(count: u64, instance: u64, lived: u64) -> Tenure {
        Tenure {
            count,
            instance,
            lived,
        }
    }

    #[test]
    fn the_one_that_has_lived_for_longer_goes_on() {
        let check = |one: (u64, u64, u64), other: (u64, u64, u64), expected: bool| {
            let (one, other) = (
                tenure(one.0, one.1, one.2),
                tenure(other.0, other.1, other.2),
            );
            assert_eq!(one.outlasts(&other), expected, "{one:?} {other:?}");
        };
        check((1, 9, 60_000), (7, 1, 2000), true);
        check((7, 1, 2000), (1, 9, 60_000), false);
        // Within a second the number decides.
        check((1, 9, 3000), (7, 1, 2000), false);
        check((1, 1, 2000), (7, 9, 3000), true);
        check((1, 9, 3001), (7, 1, 2000), true);
    }

    proptest! {
        #[test]
        fn of_two_claims_exactly_one_outlasts_the_other(
            counts in any::<[u64; 2]>(),
            instances in any::<[u64; 2]>(),
            lived in prop::array::uniform2(prop_oneof![0..5000u64, any::<u64>()]),
        ) {
            prop_assume!(instances[0] != instances[1]);
            let one = tenure(counts[0], instances[0], lived[0]);
            let other = tenure(counts[1], instances[1], lived[1]);
            prop_assert_ne!(one.outlasts(&other), other.outlasts(&one));
        }
    }
}
