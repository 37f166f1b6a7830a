//! The machine's timers.

use crate::Fingerprint;

/// Something that comes due at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Heartbeats are to be sent on all links.
    Heartbeat,
    /// News is to be sent.
    Flush,
    /// A link may have been silent for too long.
    Silence(Fingerprint),
    /// A connection that is no link may have been idle for too long.
    Idle(Fingerprint),
    /// A request for a link was not answered.
    Asked(Fingerprint),
    /// A connection takes long to open.
    Connecting(Fingerprint),
    /// Two merged circuits want a link between them.
    Bridge(Fingerprint),
    /// A probe goes on.
    Probe(Fingerprint),
    /// An indirect probe goes on.
    IndirectProbe(Fingerprint),
    /// A suspicion nears its end.
    Suspicion(Fingerprint),
    /// Missing links are to be sought.
    Seek,
    /// A link is to be exchanged for a random one.
    Rewire,
    /// A member is to be audited.
    Audit,
    /// A tombstone is to be pinged.
    Tombstone,
    /// What was said of other lives of this server is listened to again.
    Copies,
    /// Old tombstones are to be dropped.
    Expire,
}
