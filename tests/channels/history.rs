//! The history of one channel: the events that clients record, and the operations that these make
//! up.
//!
//! Messages are unique, so who received what is never in doubt.

use std::collections::BTreeMap;

use circuit_client::channel::HELD;
use serde::{Deserialize, Serialize};

/// A time in nanoseconds, the same for all processes of a machine.
pub(crate) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// A time that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// Something that a client does or hears. Written down before what is begun can have an effect,
/// and after what has ended has had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// A send begins, of a message that is unique, with so many bytes.
    Sends { message: u64, length: usize },
    /// The message has a place.
    Placed { message: u64 },
    /// The send has ended.
    Sent { message: u64, outcome: Sent },
    /// A receive begins.
    Receives { receive: u64 },
    /// It sees a message, or the beginning of one; nothing that was sent, if `None`.
    Sees { receive: u64, message: Option<u64> },
    /// It is about to say that it has all of the message.
    Accepts { receive: u64 },
    /// The receive has ended.
    Received { receive: u64, outcome: Received },
    /// It was one of several, and is not needed: it never had a message.
    Unused { receive: u64 },
    /// A close begins.
    Closes { close: u64 },
    /// It has ended.
    Closed { close: u64, outcome: Ended },
    /// A scrub begins.
    Scrubs,
    /// It has ended.
    Scrubbed,
}

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Sent {
    /// It succeeded.
    Stored,
    /// The channel was closed.
    Closed,
    /// The channel was scrubbed, or the receiver went away in the middle.
    Aborted,
    /// It failed, or was given up, before all was said: nobody may receive the message.
    Failed,
    /// All was said, and how it went was not heard.
    Unknown,
}

/// How a receive ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Received {
    /// It succeeded.
    Taken,
    /// The channel is closed and empty.
    Closed,
    /// It had no message by the end of its time.
    Empty,
    /// The channel was scrubbed, or the sender went away in the middle.
    Aborted,
    /// It was given up before it said that it had all: somebody else has the message.
    Left,
    /// It said that it had all, and did not hear the answer.
    Unknown,
}

/// How a close ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    /// It succeeded.
    Done,
    /// The channel was closed already.
    Already,
    /// It was not heard, or the channel is gone.
    Unknown,
}

/// A send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Send {
    pub(crate) message: u64,
    pub(crate) length: usize,
    pub(crate) begun: u64,
    /// By when it was in line, if that is known.
    pub(crate) in_line: Option<u64>,
    pub(crate) ended: u64,
    pub(crate) outcome: Sent,
}

impl Send {
    /// Whether no slot holds all of it.
    pub(crate) fn is_long(&self) -> bool {
        self.length > HELD
    }
}

/// A receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receive {
    pub(crate) begun: u64,
    /// When it had something of a message, so that this was its own by then.
    pub(crate) matched: Option<u64>,
    /// The message that it saw, if any; `Some(None)` if nobody sent those bytes.
    pub(crate) saw: Option<Option<u64>>,
    /// When it began to say that it has all.
    pub(crate) accepted: Option<u64>,
    pub(crate) ended: u64,
    pub(crate) outcome: Received,
    /// By when the channel has noticed that it is over.
    pub(crate) noticed: u64,
}

/// A close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Close {
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) outcome: Ended,
}

/// All that was done to a channel.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) capacity: u64,
    pub(crate) sends: Vec<Send>,
    pub(crate) receives: Vec<Receive>,
    pub(crate) closes: Vec<Close>,
    /// When the scrub began and ended.
    pub(crate) scrub: Option<(u64, u64)>,
    /// The value of `NumRecv` when nothing was under way.
    pub(crate) received: Option<u64>,
    /// Whether links were cut: then whoever let go may have been noticed late.
    pub(crate) cut: bool,
}

/// How long the channel may take to notice a client that let go of a stream or connection. Chosen,
/// not measured: far longer than it takes.
pub(crate) const LET_GO: u64 = 2_000_000_000;

/// The same for one that fell silent: QUIC's idle time-out, once for each hop.
pub(crate) const SILENT: u64 = 25_000_000_000;

impl History {
    /// Makes operations of the events of one client, in their order. If it was killed, that was at
    /// this time.
    pub(crate) fn add(&mut self, events: &[(u64, Event)], killed: Option<u64>) {
        let mut sends: BTreeMap<u64, Send> = BTreeMap::new();
        let mut receives: BTreeMap<u64, Receive> = BTreeMap::new();
        let mut closes: BTreeMap<u64, Close> = BTreeMap::new();
        let end = killed.unwrap_or(NEVER);
        let silent = killed.is_some() || self.cut;
        let notice = if silent { SILENT } else { LET_GO };
        for (time, event) in events {
            let time = *time;
            match *event {
                Event::Sends { message, length } => {
                    let send = Send {
                        message,
                        length,
                        begun: time,
                        in_line: None,
                        ended: end,
                        outcome: Sent::Unknown,
                    };
                    sends.insert(message, send);
                }
                Event::Placed { message } => {
                    sends.entry(message).and_modify(|s| s.in_line = Some(time));
                }
                Event::Sent { message, outcome } => {
                    sends.entry(message).and_modify(|send| {
                        (send.ended, send.outcome) = (time, outcome);
                        if outcome == Sent::Stored {
                            send.in_line.get_or_insert(time);
                        }
                    });
                }
                Event::Receives { receive } => {
                    let begun = Receive {
                        begun: time,
                        matched: None,
                        saw: None,
                        accepted: None,
                        ended: end,
                        outcome: Received::Left,
                        noticed: end.saturating_add(notice),
                    };
                    receives.insert(receive, begun);
                }
                Event::Sees { receive, message } => {
                    receives.entry(receive).and_modify(|receive| {
                        receive.matched.get_or_insert(time);
                        receive.saw = Some(message);
                    });
                }
                Event::Accepts { receive } => {
                    receives.entry(receive).and_modify(|receive| {
                        receive.accepted = Some(time);
                        receive.outcome = Received::Unknown;
                    });
                }
                Event::Received { receive, outcome } => {
                    receives.entry(receive).and_modify(|receive| {
                        (receive.ended, receive.outcome) = (time, outcome);
                        receive.noticed = time.saturating_add(notice);
                    });
                }
                Event::Unused { receive } => {
                    receives.remove(&receive);
                }
                Event::Closes { close } => {
                    let begun = Close {
                        begun: time,
                        ended: end,
                        outcome: Ended::Unknown,
                    };
                    closes.insert(close, begun);
                }
                Event::Closed { close, outcome } => {
                    closes
                        .entry(close)
                        .and_modify(|close| (close.ended, close.outcome) = (time, outcome));
                }
                Event::Scrubs => self.scrub = Some((time, NEVER)),
                Event::Scrubbed => {
                    if let Some((_, ended)) = &mut self.scrub {
                        *ended = time;
                    }
                }
            }
        }
        self.sends.extend(sends.into_values());
        self.receives.extend(receives.into_values());
        self.closes.extend(closes.into_values());
    }

    /// How many operations it has.
    pub(crate) fn operations(&self) -> usize {
        self.sends.len()
            + self.receives.len()
            + self.closes.len()
            + usize::from(self.scrub.is_some())
    }
}

/// The bytes of a message: its number, its length, and a pattern that only it has.
pub(crate) fn content(message: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length.max(HEADER));
    bytes.extend_from_slice(&message.to_be_bytes());
    bytes.extend_from_slice(&(length.max(HEADER) as u64).to_be_bytes());
    while bytes.len() < length {
        bytes.push(
            (message as usize)
                .wrapping_mul(31)
                .wrapping_add(bytes.len()) as u8,
        );
    }
    bytes
}

/// The length of the shortest message.
pub(crate) const HEADER: usize = 16;

/// The number of the message that begins so.
pub(crate) fn begins(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_be_bytes)
}

/// The number of the message that has exactly these bytes.
pub(crate) fn whole(bytes: &[u8]) -> Option<u64> {
    let message = begins(bytes)?;
    (content(message, bytes.len()) == bytes).then_some(message)
}
