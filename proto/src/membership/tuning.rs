//! The constants of the machine. Each says where its value comes from.
//!
//! "Measured" means in the simulator (`scripts/sim`), on the network that it prints.

use std::time::Duration;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How many links a server wants. Measured: with 8, the second eigenvalue of the graph is .65 at
/// any size, and mass failures of 80 % leave one component nearly always.
pub(super) const DEGREE: usize = 8;

/// How many links a server accepts. Chosen, not measured: room for two joins that are under way.
pub(super) const MAX_DEGREE: usize = 10;

/// Up to how many servers everybody is linked with everybody: those that [`DEGREE`] can cover.
pub(super) const COMPLETE: usize = DEGREE + 1;

/// The interval of heartbeats. Measured on quinn: 8 links at 1 s cost 1.5 kB/s.
pub(super) const HEARTBEAT: Duration = ms(1000);

/// After how much silence on a link a probe begins: one heartbeat and a half, so that one that is
/// late is forgiven and one that is missing is not.
pub(super) const SILENCE: Duration = ms(1500);

/// The time between two pings of a probe. Chosen, not measured: three round trips of 50 ms, the
/// slowest of the simulator's network.
pub(super) const PING_EVERY: Duration = ms(150);

/// How many pings go unanswered before witnesses are asked. With 5 % loss each way, three are lost
/// together once in a thousand probes.
pub(super) const PINGS: u8 = 3;

/// The same upon hard evidence, before the server is condemned. Measured (`scripts/sim kill 1024`): with
/// three a killed process is gone everywhere after .85 s, with two after .70.
pub(super) const PINGS_HARD: u8 = 2;

/// How many witnesses are asked.
pub(super) const WITNESSES: usize = 3;

/// How many of them must say no, where there are as many.
pub(super) const NOES: usize = 2;

/// How long a witness tries before it says no: its pings and a round trip.
pub(super) const INDIRECT_PROBE: Duration = ms(450);

/// How recent a sign of life must be for a witness to say yes without trying. A probe begins
/// later than this after the last one that its subject sent to anybody: half of it.
pub(super) const WITNESS_RECENT: Duration = ms(400);

/// How long witnesses are waited for: an [`INDIRECT_PROBE`] and two round trips.
pub(super) const WITNESS_WAIT: Duration = ms(700);

/// How long a suspicion lasts. Measured: 3 s of stall cause no false removal.
pub(super) const SUSPICION: Duration = ms(3000);

/// How long a suspicion lasts at most, whatever the suspicion factor. Chosen, not measured.
pub(super) const SUSPICION_MAX: Duration = ms(15_000);

/// How long a suspicion lasts while the subject's kernel still answers: longer than the stalls
/// that busy machines are known for. Measured (`scripts/sim stall10`): from 128 servers on 10 s of
/// stall cause no false removal; of few servers nearly all are stopped there at any time.
pub(super) const STALL: Duration = ms(15_000);

/// How long a suspicion upon hard evidence lasts: for a restarted server to say so, and for signs
/// of life that were under way.
pub(super) const CONDEMNED: Duration = ms(300);

/// The interval at which an accuser pings the suspect: one answer of many that are lost is enough,
/// for it brings the raised incarnation. Measured (`scripts/sim lossy`): without, a server that
/// loses 80 % of what it sends is given up now and then.
pub(super) const PING_SUSPECT: Duration = ms(500);

/// By how much the first timer must be late for this process to have been stopped: what it has
/// found out about others is then too old to judge by. Chosen, not measured: above a busy machine's
/// delays.
pub(super) const LATE: Duration = ms(500);

/// For how long a server that has raised its count above that of another life of its own does not do
/// so again: where two servers on one identity cannot ask each other, each outbids the other. The rest
/// doubles each time. Chosen, not measured: as long as everybody needs to have heard.
pub(super) const OUTBID: Duration = ms(1000);

/// The longest such rest; after twice as long it is short again. Chosen, not measured: a change of
/// the view a minute disturbs nobody.
pub(super) const OUTBID_MAX: Duration = ms(64_000);

/// After how long a question to another life of this server counts as lost: longer than the driver
/// waits for the answer.
pub(super) const COPY_WAIT: Duration = ms(5000);

/// How many other lives of this server are asked at a time. Chosen, not measured: a directory is
/// rarely copied more often, and the next are asked behind these.
pub(super) const COPIES_ASKED: usize = 8;

/// How long before a suspicion's end its accuser tries again: pings and witnesses.
pub(super) const SECOND_ROUND: Duration = ms(1150);

/// How much later than its accuser the others act, should it have failed too. Chosen, not measured:
/// the accuser and the flood first.
pub(super) const BACKUP: Duration = ms(2000);

/// The spread of that, per known member, so that of thousands a few act. Chosen, not measured.
pub(super) const BACKUP_PER_MEMBER: Duration = ms(5);

/// For how long somebody must have been suspected here for another's word that it is down to be
/// final. The word comes at once where circuits merge; there the subject gets this long to object.
/// And by how much sooner than here others may end the suspicion of one that stands still: they heard
/// of it at different times, and its age is told in whole seconds.
pub(super) const HEARSAY: Duration = ms(1000);

/// How long a suspicion upon another's word lasts: a flood there and back, many times.
pub(super) const HEARSAY_SUSPICION: Duration = ms(2000);

/// The time in which the suspicion factor of a member halves. Chosen, not measured.
pub(super) const SUSPICION_FACTOR_HALVES: Duration = ms(60_000);

/// How long news is gathered before it is flooded. Chosen, not measured: far below a round trip,
/// and long enough for the news that came in one packet to leave in one.
pub(super) const FLUSH: Duration = ms(2);

/// After how long without use a connection that is no link is closed.
pub(super) const IDLE: Duration = ms(1500);

/// How long the answer to a request for a link is waited for.
pub(super) const ASK_WAIT: Duration = ms(2000);

/// How long a connection may take to open before another is tried and the server is pinged.
pub(super) const CONNECT_WAIT: Duration = ms(1000);

/// How many links to servers that are not suspected a server wants at once, where it has
/// fewer: it must not be cut off until its suspicions expire. Chosen, not measured: one may fail as
/// well.
pub(super) const LIFELINES: usize = 2;

/// How many links are sought at the same time.
pub(super) const SEEKING: usize = 4;

/// The same for a server whose neighbours are nearly all in doubt, and which asks each server that
/// it hears: those that it asks already may have failed too. Measured: with 8, a run of `restart`
/// at 16 servers came out otherwise.
pub(super) const CLINGING: usize = 16;

/// How soon missing links are sought again, with as much again at random.
pub(super) const SEEK_AGAIN: Duration = ms(200);

/// How long a server whose link was given up in order waits for the one that is to link with it
/// instead before it seeks another. Chosen, not measured: three messages of 50 ms and a handshake,
/// twice.
pub(super) const HANDOVER: Duration = ms(600);

/// One in how many heartbeats passes a link on that is one too many. Chosen, not measured: its
/// values were not compared.
pub(super) const PASS_ON: usize = 6;

/// For how long a server that refused a link, or did not answer, is not asked again.
pub(super) const AVOID: Duration = ms(2000);

/// For how long a server is not asked that we cannot reach though others can.
pub(super) const AVOID_BLOCKED: Duration = ms(60_000);

/// The interval at which a link is exchanged for another at random. A graph at rest stays as random
/// as it is: exchanges mend what departures and merges have left. Measured (`scripts/sim idle`):
/// each costs about 80 packets in all; at 120 s the worst of 128 servers sends 22.6 packets and
/// 2,060 B a second, at 600 s 21.8 and 1,770.
pub(super) const REWIRE: Duration = ms(600_000);

/// The same while newcomers have not been mixed into the graph yet. Chosen, not measured.
pub(super) const REWIRE_MIXING: Duration = ms(3000);

/// How long after a merge the two circuits are bridged by a link: their sync first.
pub(super) const BRIDGE: Duration = ms(300);

/// The interval of audits at rest. Chosen, not measured: every member is audited by somebody every
/// 10 s, for a tenth of a packet a second.
pub(super) const AUDIT: Duration = ms(10_000);

/// The interval of audits after mass failures: 20 a second.
pub(super) const AUDIT_STORM: Duration = ms(50);

/// For how long after the last failure.
pub(super) const STORM: Duration = ms(3000);

/// How long an audit's first ping has.
pub(super) const AUDIT_WAIT: Duration = ms(500);

/// The interval at which a tombstone is pinged.
pub(super) const TOMBSTONE_PING: Duration = ms(5000);

/// The same while isolated.
pub(super) const TOMBSTONE_PING_ISOLATED: Duration = ms(1000);

/// A tombstone is pinged so seldom that, with all members together, it sees this many pings per
/// [`TOMBSTONE_PING`]: a dead address is not stormed by thousands. Chosen, not measured: 1.6 a
/// second.
pub(super) const TOMBSTONE_PINGS: usize = 8;

/// How many connections are opened at the same time to servers that were thought dead, or that
/// have begun another life.
pub(super) const REUNIONS: usize = 4;

/// How long tombstones are kept.
pub(super) const TOMBSTONE: Duration = Duration::from_secs(24 * 3600);

/// How often it is seen whether some have expired.
pub(super) const EXPIRE: Duration = Duration::from_secs(60);

/// The most tombstones. Chosen, not measured: 1 MB.
pub(super) const MAX_TOMBSTONES: usize = 4096;

/// The most servers of which only their end is remembered, after their tombstones. Chosen, not
/// measured: 1 MB.
pub(super) const MAX_FORGOTTEN: usize = 16_384;

/// The most members, tombstones included. Chosen, not measured: above it full views are no longer
/// the design.
pub(super) const MAX_MEMBERS: usize = 100_000;

/// How many changes are remembered for connections that are about to become links.
pub(super) const MAX_CHANGES: usize = 4096;

/// For how many outputs memory is kept. Chosen, not measured: more than come at rest.
pub(super) const OUTPUTS_KEPT: usize = 64;

/// The most probes, and the most indirect probes for others, at the same time. Chosen, not
/// measured.
pub(super) const MAX_PROBES: usize = 256;

/// The longest name of a server, in bytes.
pub(super) const MAX_NAME: usize = 255;

/// The highest count of a life that is believed: far from overflow, and never reached by counting.
pub(super) const MAX_LIVES: u64 = 1 << 48;

/// The highest incarnation that is believed, for the same reasons.
pub(super) const MAX_INCARNATION: u64 = 1 << 48;

/// How many heartbeats in a row must differ in their digest, on a quiet link, for a sync.
pub(super) const MISMATCHES: u8 = 3;

/// The same where the view does not come to rest. Chosen, not measured: changes are everywhere
/// before the next heartbeat, so that ten in a row that differ are no accident.
pub(super) const MISMATCHES_BUSY: u8 = 10;

/// How long a link must have been quiet for its digests to mean something.
pub(super) const QUIET: Duration = ms(900);

/// The time between two syncs on one connection.
pub(super) const SYNC_EVERY: Duration = ms(1000);

/// How many tombstones a newcomer is told, so that splits heal after everybody was replaced.
pub(super) const TOMBSTONES_TOLD: usize = 64;
