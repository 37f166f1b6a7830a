//! A service as `peek` shows it, and its events as subscribers read them.

use std::time::{Duration, SystemTime};

use circuit_proto::element::service as wire;
use serde_json::{Map, Value, json};

use super::instance::Instance;
use super::machine::{End, Event, InstanceId, Rolling, SlotView, Summary, View as Seen, Want, Why};
use super::registry::{Services, now};
use super::shared::{Shared, State};
use crate::element::process::rfc3339;
use crate::element::signals;

impl Shared {
    /// The processes of a slot that cannot be stopped.
    fn left_of(&self, state: &State, seen: &SlotView) -> String {
        if let Some(why) = &state.held_back {
            return why.clone();
        }
        let instance = seen.instance.and_then(|id| state.instances.get(&id));
        if let Some(why) = instance.and_then(Instance::why) {
            return why.to_owned();
        }
        let tree = instance.and_then(Instance::tree);
        let left = tree.map_or_else(Vec::new, |tree| self.services.watcher.left(&tree));
        match left.as_slice() {
            [] => "its processes".to_owned(),
            left => {
                let pids = left
                    .iter()
                    .map(|left| left.pid.as_raw_nonzero().to_string());
                format!("the end of {}", pids.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// The pids of all that cannot be stopped, for people.
    pub(super) fn stuck(&self) -> String {
        let state = self.state.lock();
        let seen = state.machine.view();
        let stuck = seen
            .slots
            .iter()
            .filter(|slot| slot.state == super::machine::State::Stuck);
        let each = stuck.map(|slot| {
            format!(
                "slot {} waits for {}",
                slot.slot,
                self.left_of(&state, slot)
            )
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// The status of the whole, or of one slot.
    pub(super) fn status(&self, slot: Option<u32>) -> wire::Status {
        let state = self.state.lock();
        let seen = state.machine.view();
        if let Some(slot) = slot {
            let found = seen.slots.iter().find(|seen| seen.slot == slot);
            return wire::Status::Slot(Box::new(match found {
                Some(found) => self.slot_status(&state, found),
                None => gone(slot),
            }));
        }
        let mut whole = self.whole_status(&state, &seen);
        fit(&mut whole);
        wire::Status::Service(Box::new(whole))
    }

    fn whole_status(&self, state: &State, seen: &Seen) -> wire::Whole {
        let stat = self.log.lock().as_ref().map(crate::logs::Log::stat);
        wire::Whole {
            service: state
                .newest()
                .map_or_else(|| "null".to_owned(), |plan| plan.text.clone()),
            generation: seen.generation,
            previous: seen.previous,
            want: match seen.want {
                Want::Up => "up",
                Want::Down => "down",
                Want::Scrubbed => "scrubbed",
            }
            .to_owned(),
            ready: small(seen.ready),
            rolling: seen.rolling.as_ref().map(|rolling| match rolling {
                Rolling::Halted(failure) => wire::Rolling::Halted(failure.to_string()),
                Rolling::Unfinished {
                    update,
                    now,
                    pending,
                } => wire::Rolling::Unfinished(format!(
                    "{}: replacing {}, then {}",
                    if *update { "update" } else { "restart" },
                    list(now),
                    list(pending)
                )),
            }),
            kept: self.services.is_lasting(),
            sockets: state.sockets.status(),
            log: stat.map_or_else(wire::Log::default, |stat| wire::Log {
                bytes: stat.bytes,
                dropped: stat.dropped,
                error: stat.error,
            }),
            slots: seen
                .slots
                .iter()
                .map(|slot| self.slot_status(state, slot))
                .collect(),
        }
    }

    fn slot_status(&self, state: &State, seen: &SlotView) -> wire::Slot {
        let instance = seen.instance.and_then(|id| state.instances.get(&id));
        let says = instance.and_then(|instance| instance.says.clone());
        let tree = instance.and_then(Instance::tree);
        let confined = tree.is_some_and(|tree| tree.cgroup.is_some());
        let waiting = || match seen.waiting.as_slice() {
            [] => "its turn".to_owned(),
            others => {
                let one = |(name, state): &(String, super::machine::AfterState)| {
                    format!("{name}: {}", after_word(*state))
                };
                others.iter().map(one).collect::<Vec<_>>().join(", ")
            }
        };
        wire::Slot {
            slot: small(seen.slot),
            state: seen.state.word().to_owned(),
            why: seen.why.as_ref().map(Why::to_string),
            pid: seen.pid,
            generation: seen.generation,
            since: wall(seen.since),
            adopted: seen.adopted,
            tree: if confined { "cgroup" } else { "marked" }.to_owned(),
            status: says,
            waiting: match seen.state {
                super::machine::State::Waiting => Some(waiting()),
                super::machine::State::Stuck => Some(self.left_of(state, seen)),
                _ => None,
            },
            starts: seen.starts,
            failures: seen.failures,
            next: seen.next.map(|next| {
                let left = next.saturating_sub(now());
                u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
            }),
            last: seen.last.as_ref().map(|last| {
                let (code, signal) = match last.end {
                    Some(End::Code(code)) => (Some(code), None),
                    Some(End::Signal(signal)) => (None, Some(signal)),
                    Some(End::Unknown) | None => (None, None),
                };
                wire::Last {
                    exit: signals::exit(code, signal),
                    code,
                    signal: signal.map(signals::name),
                    unknown: last.end == Some(End::Unknown),
                    why: last.why.to_string(),
                    ended: wall(last.at),
                }
            }),
            old: seen
                .old
                .iter()
                .map(|old| wire::Old {
                    name: format!("{}.{}", old.instance.slot, old.instance.number),
                    pid: old.pid,
                    generation: old.generation,
                    state: old.state.word().to_owned(),
                    since: wall(old.since),
                })
                .collect(),
        }
    }
}

/// How many bytes of a status are what its instances and the system say. Chosen: with the longest definition and
/// the most slots, the whole fits a frame.
const TEXTS: usize = 192 << 10;

/// How many such texts a slot has.
const TEXTS_OF_SLOT: usize = 4;

/// Cuts texts that come from elsewhere, so that the status fits a frame. That of a slot has more of them.
fn fit(whole: &mut wire::Whole) {
    let longest = TEXTS / (TEXTS_OF_SLOT * whole.slots.len().max(1));
    for slot in &mut whole.slots {
        let texts = [&mut slot.why, &mut slot.status, &mut slot.waiting];
        let last = slot.last.as_mut().map(|last| &mut last.why);
        for text in texts.into_iter().flatten().chain(last) {
            if text.len() > longest {
                *text = crate::text::cut(text, longest).into_owned();
            }
        }
    }
}

/// Why a service is not wholly ready, in a word for listings; `None` if that passes by itself.
pub(super) fn remark(seen: &Summary) -> Option<&'static str> {
    use super::machine::State::{Backoff, Failed, Finished, Stuck, Waiting};
    if seen.want == Want::Down {
        return Some("down");
    }
    if seen.is_halted {
        return Some("halted");
    }
    let worst = [Stuck, Failed, Backoff, Waiting, Finished].into_iter();
    let mut worst = worst.filter(|state| seen.states.contains(state));
    worst.next().map(super::machine::State::word)
}

/// The status of a slot that has just gone.
fn gone(slot: u32) -> wire::Slot {
    wire::Slot {
        slot: small(slot),
        state: "down".to_owned(),
        why: Some(Why::Scale.to_string()),
        pid: None,
        generation: 0,
        since: wall(now()),
        adopted: false,
        tree: "marked".to_owned(),
        status: None,
        waiting: None,
        starts: 0,
        failures: 0,
        next: None,
        last: None,
        old: Vec::new(),
    }
}

/// The number of a slot, or a count of slots: there are at most 1,024.
fn small(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn list(slots: &[u32]) -> String {
    match slots {
        [] => "none".to_owned(),
        slots => {
            let slots: Vec<_> = slots.iter().map(u32::to_string).collect();
            slots.join(", ")
        }
    }
}

fn after_word(state: super::machine::AfterState) -> &'static str {
    use super::machine::AfterState::{Down, Missing, NotReady, Ready};
    match state {
        Ready => "ready",
        NotReady => "not ready",
        Down => "down",
        Missing => "missing",
    }
}

/// The wall clock's time of a time since boot, as it is now.
fn wall(time: Duration) -> String {
    let ago = now().saturating_sub(time);
    rfc3339(
        SystemTime::now()
            .checked_sub(ago)
            .unwrap_or(SystemTime::UNIX_EPOCH),
    )
}

/// An event as a line of JSON, without its end.
pub(super) fn event(services: &Services, shared: &Shared, event: &Event) -> String {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("Time", rfc3339(SystemTime::now()).into());
    put(
        "Path",
        format!("{}/{}", services.server, shared.path()).into(),
    );
    let instance = |put: &mut dyn FnMut(&str, Value), id: &InstanceId| {
        put("Slot", id.slot.into());
        put("Number", id.number.into());
    };
    let name = match event {
        Event::Spawn {
            instance: id,
            pid,
            generation,
        }
        | Event::Adopted {
            instance: id,
            pid,
            generation,
        } => {
            instance(&mut put, id);
            put("Pid", (*pid).into());
            put("Generation", (*generation).into());
            match event {
                Event::Adopted { .. } => "adopted",
                _ => "spawn",
            }
        }
        Event::Ready { instance: id } => {
            instance(&mut put, id);
            "ready"
        }
        Event::Unready { instance: id } => {
            instance(&mut put, id);
            "unready"
        }
        Event::Stopping { instance: id, why } => {
            instance(&mut put, id);
            put("Why", why.to_string().into());
            "stopping"
        }
        Event::Exit {
            instance: id,
            end,
            why,
        } => {
            instance(&mut put, id);
            let (code, signal) = match end {
                End::Code(code) => (Some(*code), None),
                End::Signal(signal) => (None, Some(*signal)),
                End::Unknown => (None, None),
            };
            put("Exit", json!(signals::exit(code, signal)));
            put("Why", why.to_string().into());
            "exit"
        }
        Event::Backoff {
            slot,
            failures,
            delay,
            why,
        } => {
            put("Slot", (*slot).into());
            put("Failures", (*failures).into());
            put("Delay", delay.as_secs_f64().into());
            put("Why", why.to_string().into());
            "backoff"
        }
        Event::Failed {
            slot,
            failures,
            why,
        } => {
            put("Slot", (*slot).into());
            put("Failures", (*failures).into());
            put("Why", why.to_string().into());
            "failed"
        }
        Event::Stuck { instance: id } => {
            instance(&mut put, id);
            "stuck"
        }
        Event::Up => "up",
        Event::Down => "down",
        Event::Scale { from, to } => {
            put("From", (*from).into());
            put("To", (*to).into());
            "scale"
        }
        Event::Reload { instance: id } => {
            instance(&mut put, id);
            "reload"
        }
        Event::Update { generation } => {
            put("Generation", (*generation).into());
            "update"
        }
        Event::Rolled { generation } => {
            put("Generation", (*generation).into());
            "rolled"
        }
        Event::Halted { failure } => {
            put("Slot", failure.slot.into());
            put("Why", failure.what.to_string().into());
            "halted"
        }
    };
    put("Event", name.into());
    Value::Object(fields).to_string()
}

#[cfg(test)]
mod tests {
    use circuit_proto::codec;
    use circuit_proto::element::Status;

    use super::super::definition;
    use super::*;

    #[test]
    fn the_status_of_the_greatest_service_fits_a_frame() {
        let text = "x".repeat(4096);
        let when = wall(now());
        let old = wire::Old {
            name: "1024.123456".to_owned(),
            pid: Some(4_000_000),
            generation: 100_000,
            state: "stopping".to_owned(),
            since: when.clone(),
        };
        let slot = wire::Slot {
            why: Some(text.clone()),
            pid: Some(4_000_000),
            generation: 100_000,
            status: Some(text.clone()),
            waiting: Some(text.clone()),
            last: Some(wire::Last {
                exit: Some("signal: terminated".to_owned()),
                code: None,
                signal: Some("terminated".to_owned()),
                unknown: false,
                why: text,
                ended: when,
            }),
            old: vec![old; 2],
            ..gone(1024)
        };
        let mut whole = wire::Whole {
            service: "x".repeat(definition::LONGEST),
            generation: 100_000,
            previous: None,
            want: "up".to_owned(),
            ready: 0,
            rolling: None,
            kept: true,
            sockets: Vec::new(),
            log: wire::Log::default(),
            slots: vec![slot; usize::from(wire::MAX_SLOTS)],
        };
        fit(&mut whole);
        let status = Status::Service(wire::Status::Service(Box::new(whole)));
        let mut bytes = Vec::new();
        codec::append(&mut bytes, &status).unwrap();
    }
}
