//! Copies: other servers that live on this server's identity, because its `-var` directory was
//! copied.
//!
//! The membership machine says where to ask, and everything that dials says where another server
//! with this identity was met. Here such a server is asked, and asks; both ends decide by the same
//! two [`Tenure`]s which of them goes on. The other one ends without a word to the circuit: what it
//! said there would be said of the one that goes on.
//!
//! **Invariant:** of two servers that have asked each other, at most one ends. While a server asks,
//! it answers only those with a greater number, so that of many that ask at the same time not all
//! end.

use std::sync::Arc;
use std::time::Duration;

use circuit_client::transport::dial::DialError;
use circuit_client::transport::endpoint::close;
use circuit_client::transport::tls::Pin;
use circuit_proto::handshake::{Close, Identity, Refused};
use circuit_proto::membership::{Input, Record, Verdict};
use circuit_proto::{Fingerprint, Life, Tenure, Url};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Event, Peer};
use crate::runtime::task::Failure;

/// How long an answer is waited for. Chosen, not measured: lost first packets are repeated after .3
/// and .9 s, and a server whose directory was set back waits for as long before it is let in.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How soon a server is asked again that was asking somebody itself. Chosen, not measured: an
/// answer comes within a round trip.
const ASK_AGAIN: Duration = Duration::from_millis(150);

impl Peer {
    /// Asks whether somebody lives this life of this server, and decides who goes on.
    pub(super) async fn ask(&self, to: Arc<Record>) {
        let begin = Instant::now();
        loop {
            let mine = self.outbound.tenure();
            let pin = Pin::Fingerprint(to.fingerprint);
            let asked = self.outbound.ask(&to.url, pin, mine, ASK_TIMEOUT).await;
            let refusal = match asked {
                Ok(accepted) => {
                    close(&accepted.connection, Close::Done);
                    None
                }
                Err(DialError::Refused { reason, .. }) => Some(reason),
                Err(_) => None,
            };
            match refusal {
                Some(Refused::Copy(theirs)) if theirs.instance != mine.instance => {
                    if theirs.instance != to.instance {
                        self.settled(to.instance, Verdict::Unknown).await;
                    }
                    return self.settle(&to.url, mine, theirs).await;
                }
                Some(Refused::Busy) if begin.elapsed() < ASK_TIMEOUT => {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
                Some(Refused::Busy) => return self.settled(to.instance, Verdict::Unknown).await,
                // It has the identity's secret, and ends: another question was faster.
                Some(Refused::Leaving) => {
                    let verdict = Verdict::Outlasts(to.count);
                    return self.settled(to.instance, verdict).await;
                }
                _ => {
                    info!(
                        "nobody lives life {} of this server at {}",
                        to.count,
                        to.url.authority()
                    );
                    return self.settled(to.instance, Verdict::Nobody(to.count)).await;
                }
            }
        }
    }

    /// Answers a server that says that it has this server's identity.
    pub fn on_asked(self: &Arc<Self>, by: Fingerprint, url: Url, theirs: Tenure) -> Refused {
        let mine = self.outbound.tenure();
        if by != self.me().fingerprint {
            return Refused::Identity;
        }
        if theirs.instance == mine.instance {
            return Refused::Myself;
        }
        if self.machine().is_asking() && theirs.instance < mine.instance {
            return Refused::Busy;
        }
        let peer = self.clone();
        tokio::spawn(async move { peer.settle(&url, mine, theirs).await });
        Refused::Copy(mine)
    }

    /// Both claims are known: one of the two servers ends.
    async fn settle(&self, url: &Url, mine: Tenure, theirs: Tenure) {
        let there = url.authority();
        let (here, lived) = (age(mine.age()), age(theirs.age()));
        if mine.outlasts(&theirs) {
            warn!(
                "another server with this server's identity is at {there}: it ends, after {lived}, \
                 and this one, which has run for {here}, goes on; give each server a -var directory \
                 of its own"
            );
            let verdict = Verdict::Outlasts(theirs.count);
            return self.settled(theirs.instance, verdict).await;
        }
        self.outbound
            .runtime()
            .alarm
            .raise(Failure::Copied { there, lived, here });
    }

    async fn settled(&self, instance: u64, verdict: Verdict) {
        let input = Input::Settled { instance, verdict };
        let _ = self.events.send(Event::Input { number: 0, input }).await;
    }

    /// Another server with this server's identity was heard of, by somebody who is no peer.
    pub(super) async fn heard_of_copy(&self, identity: Identity) {
        let record = Arc::new(Record {
            fingerprint: self.me().fingerprint,
            url: identity.url,
            name: identity.name,
            count: identity.count,
            instance: identity.instance,
        });
        let input = Input::Copy { record };
        let _ = self.events.send(Event::Input { number: 0, input }).await;
    }

    /// Whether a dial has failed because of another server with this server's identity, which is
    /// then asked.
    pub(super) async fn failed_by_copy(&self, url: &Url, error: &DialError) -> bool {
        let DialError::Refused { reason, .. } = error else {
            return false;
        };
        let identity = match reason {
            Refused::Taken(identity) => Identity::clone(identity),
            Refused::Copy(theirs) => Identity {
                url: url.clone(),
                name: String::new(),
                count: theirs.count,
                instance: theirs.instance,
            },
            _ => return false,
        };
        self.heard_of_copy(identity).await;
        true
    }

    /// The neighbour that has this fingerprint, if it lives a later life than this one and nothing
    /// is held against it: then two servers have one identity, or the earlier life is a recording.
    pub fn taken(&self, fingerprint: &Fingerprint, life: Life) -> Option<Identity> {
        let machine = self.machine();
        let other = machine.trusted_neighbour(fingerprint)?;
        let later = other.life() > life && other.instance != life.instance;
        later.then(|| Identity {
            url: other.url.clone(),
            name: other.name.clone(),
            count: other.count,
            instance: other.instance,
        })
    }
}

/// A duration as people say it.
fn age(age: Duration) -> String {
    match age.as_secs() {
        0 => format!("{} ms", age.as_millis()),
        1..10 => format!("{:.1} s", age.as_secs_f64()),
        seconds @ 10..600 => format!("{seconds} s"),
        seconds @ 600..36_000 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_said_roughly() {
        let check =
            |millis, expected: &str| assert_eq!(age(Duration::from_millis(millis)), expected);
        check(40, "40 ms");
        check(1340, "1.3 s");
        check(65_000, "65 s");
        check(3_600_000, "60 min");
        check(200_000_000, "55 h");
    }
}
