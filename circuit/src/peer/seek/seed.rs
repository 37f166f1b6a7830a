//! One URL that is dialled to find a circuit: which server is to answer there, when the URL is
//! dialled again, and what the log says about it.
//!
//! The module is pure: the loop in [`seek`](super) tells it what happens, and does what it says.

use std::collections::BTreeSet;
use std::time::Duration;

use circuit_client::transport::dial::DialError;
use circuit_client::transport::tls::Pin;
use circuit_proto::{ServerId, Url};

/// The wait after the first failure, and the longest one; it doubles in between. Chosen, not
/// measured: a server that starts a moment later is joined at once, and one that stays away costs
/// two packets a minute.
const FIRST_WAIT: Duration = Duration::from_millis(250);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How many different failures of one URL are logged between two successes. Chosen, not measured:
/// a person who has read so many knows.
const MAX_SAID: usize = 8;

/// Where a URL comes from, and so how long it is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `-j`: for as long as the server runs.
    Seed,
    /// `-j-once`: until its server has been joined.
    Once,
    /// A member of the circuit that the server was in before: until the server is in a circuit.
    Member,
}

/// A URL that is dialled.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) url: Url,
    pub(super) way: Way,
    /// Whether a server proves with the circuit's key that it belongs to the circuit.
    has_key: bool,
    /// The server that was met at the URL first, and last.
    first: Option<ServerId>,
    last: Option<ServerId>,
    /// The next wait, until a server was met.
    wait: Duration,
    /// Whether the next wait is shortened to a random part.
    spread: bool,
    /// The failures that were logged since the last success.
    said: BTreeSet<String>,
}

/// A line for the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Something that may pass.
    Warning(String),
    /// Something that a person must mend.
    Error(String),
}

/// The warning that another server than the expected one answers.
pub(super) fn another(error: &DialError) -> String {
    format!("{error}; it holds our key if it can be joined")
}

impl Seed {
    pub(super) fn new(url: Url, way: Way, has_key: bool) -> Seed {
        Seed {
            url,
            way,
            has_key,
            first: None,
            last: None,
            wait: FIRST_WAIT,
            spread: true,
            said: BTreeSet::new(),
        }
    }

    /// The server that is to answer.
    pub(super) fn pin(&self) -> Pin {
        let named = self.url.server.map(|server| server.id);
        let expected = match self.has_key {
            true => self.last.or(named),
            // Without a key anybody could take the place of a server that is gone.
            false => named.or(self.first),
        };
        expected.map_or(Pin::Anybody, Pin::Id)
    }

    /// Whether another server than the expected one may answer, if it has the circuit's key.
    pub(super) fn takes_others(&self) -> bool {
        self.has_key && self.way != Way::Member
    }

    /// Whether there is nothing to dial for: the server that was met last is in the view, and this
    /// server is not cut off from it. `there` is the member whose own URL has the same address.
    pub(super) fn is_content(
        &mut self,
        isolated: bool,
        there: Option<ServerId>,
        lives: impl Fn(ServerId) -> bool,
    ) -> bool {
        if isolated {
            return false;
        }
        let expected = self.last.or(self.url.server.map(|server| server.id));
        match expected.filter(|id| lives(*id)).or(there) {
            Some(met) => {
                self.on_met(met);
                true
            }
            None => false,
        }
    }

    /// A server was met at the URL, and is in the view.
    pub(super) fn on_met(&mut self, id: ServerId) {
        self.first.get_or_insert(id);
        self.last = Some(id);
        self.said.clear();
    }

    /// Another server than the expected one is at the URL, and may prove that it has the key.
    pub(super) fn on_another(&mut self, error: &DialError) -> Option<Line> {
        self.says(Line::Warning(another(error)))
    }

    /// The URL was dialled in vain. Says so, each reason once.
    pub(super) fn on_failed(&mut self, error: &DialError) -> Option<Line> {
        let url = &self.url;
        let line = match error {
            DialError::WrongServer { .. } if self.first.is_some() && !self.has_key => {
                Line::Error(format!(
                    "cannot join {url} again: {error} Without a key no other server than the first \
                     one is joined there: start that one with -var, or give all the same key"
                ))
            }
            error => Line::Warning(format!("cannot join {url} yet: {error}")),
        };
        self.says(line)
    }

    /// The server at the URL answered, and then was not seen in the circuit.
    pub(super) fn on_unseen(&mut self) -> Option<Line> {
        let url = &self.url;
        let line = format!("cannot join {url} yet: it answered, and then did not join");
        self.says(Line::Warning(line))
    }

    fn says(&mut self, line: Line) -> Option<Line> {
        let (Line::Warning(text) | Line::Error(text)) = &line;
        let new = self.said.len() < MAX_SAID && self.said.insert(text.clone());
        new.then_some(line)
    }

    /// How long to wait before looking again: ever longer until a server was met. From then on the
    /// longest wait, of which the first is shortened to a random part, `random` of 1: so the many
    /// servers that lost the same seed do not dial it all at once.
    pub(super) fn wait(&mut self, random: f64) -> Duration {
        match self.first {
            None => {
                let wait = self.wait;
                self.wait = (wait * 2).min(LONGEST_WAIT);
                wait
            }
            Some(_) => {
                let part = if self.spread {
                    random.clamp(0., 1.)
                } else {
                    1.
                };
                self.spread = false;
                LONGEST_WAIT.mul_f64(part)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use circuit_proto::Fingerprint;

    use super::*;

    const ONE: ServerId = ServerId(1);
    const TWO: ServerId = ServerId(2);

    fn seed(url: &str, has_key: bool) -> Seed {
        Seed::new(url.parse().unwrap(), Way::Seed, has_key)
    }

    fn is_another() -> DialError {
        DialError::WrongServer {
            address: SocketAddr::from(([10, 0, 0, 1], 7001)),
            expected: ONE.in_url(),
            found: Fingerprint([2; 32]),
        }
    }

    const URL: &str = "circuit://10.0.0.1:7001";
    const PINNED: &str = "circuit://10.0.0.1:7001/9/Q0000000000000001";

    #[test]
    fn a_seed_is_content_while_the_server_that_was_met_last_is_there() {
        let all = |_| true;
        let nobody = |_| false;
        let mut seed = seed(URL, true);
        assert!(!seed.is_content(false, None, all), "nobody was met");
        seed.on_met(ONE);
        assert!(seed.is_content(false, None, |id| id == ONE));
        assert!(!seed.is_content(true, None, all), "isolated");
        assert!(!seed.is_content(false, None, nobody), "it left");
        seed.on_met(TWO);
        assert!(
            !seed.is_content(false, None, |id| id == ONE),
            "it was replaced"
        );
        assert!(seed.is_content(false, None, |id| id == TWO));
    }

    #[test]
    fn a_server_that_was_joined_in_another_way_need_not_be_dialled() {
        let mut pinned = seed(PINNED, true);
        assert!(pinned.is_content(false, None, |id| id == ONE), "by its id");
        let mut open = seed(URL, true);
        assert!(
            open.is_content(false, Some(ONE), |_| false),
            "by its address"
        );
        assert!(
            open.is_content(false, None, |id| id == ONE),
            "it counts as met"
        );
        assert!(!open.is_content(true, Some(ONE), |_| true), "isolated");
    }

    #[test]
    fn without_a_key_only_the_first_that_was_met_is_dialled() {
        let mut open = seed(URL, false);
        assert!(matches!(open.pin(), Pin::Anybody));
        open.on_met(ONE);
        // Another one that has joined by itself changes nothing.
        assert!(open.is_content(false, Some(TWO), |_| false));
        assert!(matches!(open.pin(), Pin::Id(ONE)));
        assert!(!open.takes_others());
        let mut pinned = seed(PINNED, false);
        assert!(pinned.is_content(false, Some(TWO), |_| false));
        assert!(matches!(pinned.pin(), Pin::Id(ONE)), "the URL names it");
    }

    #[test]
    fn with_a_key_any_server_is_taken() {
        let mut open = seed(PINNED, true);
        assert!(matches!(open.pin(), Pin::Id(ONE)));
        assert!(open.takes_others());
        open.on_met(ONE);
        let Some(Line::Warning(line)) = open.on_another(&is_another()) else {
            panic!("another server is worth a line");
        };
        assert!(
            line.contains("Q0202020202020202, not Q0000000000000001"),
            "{line}"
        );
        assert_eq!(open.on_another(&is_another()), None, "once");
        open.on_met(TWO);
        assert!(matches!(open.pin(), Pin::Id(TWO)), "asked for first");
    }

    #[test]
    fn a_member_of_before_is_itself_or_nobody() {
        let member = Seed::new(PINNED.parse().unwrap(), Way::Member, true);
        assert!(matches!(member.pin(), Pin::Id(ONE)));
        assert!(!member.takes_others());
    }

    #[test]
    fn each_reason_is_said_once_until_a_server_is_met() {
        let mut open = seed(URL, false);
        let no_answer = DialError::NoAnswer {
            address: SocketAddr::from(([10, 0, 0, 1], 7001)),
            after: Duration::from_secs(3),
        };
        assert!(matches!(open.on_failed(&no_answer), Some(Line::Warning(_))));
        assert_eq!(open.on_failed(&no_answer), None);
        open.on_met(ONE);
        assert!(open.on_failed(&no_answer).is_some());
        let Some(Line::Error(line)) = open.on_failed(&is_another()) else {
            panic!("another server is an error");
        };
        assert!(
            line.starts_with("cannot join circuit://10.0.0.1:7001 again: "),
            "{line}"
        );
        for _ in 0..5 {
            assert_eq!(open.on_failed(&no_answer), None);
            assert_eq!(open.on_failed(&is_another()), None);
        }
    }

    #[test]
    fn a_seed_is_dialled_every_30_s_at_most_once_it_was_met() {
        let mut open = seed(URL, true);
        let waits: Vec<u64> = (0..9).map(|_| open.wait(0.).as_millis() as u64).collect();
        assert_eq!(
            waits,
            [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        );
        open.on_met(ONE);
        assert_eq!(open.wait(0.25), LONGEST_WAIT / 4, "all at different times");
        for _ in 0..3 {
            open.on_met(TWO);
            assert_eq!(open.wait(0.25), LONGEST_WAIT);
        }
    }
}
