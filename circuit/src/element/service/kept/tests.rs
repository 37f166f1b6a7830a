use std::sync::Arc;
use std::time::Duration;

use super::super::machine::{End, Found, InstanceRecord, Machine, Policy, Restart, State};
use super::*;
use crate::store::{Contents, Directory, Opened};

const BOOT: &str = "0a1b2c3d-0000-4000-8000-000000000001";

/// A store whose writer runs when it is told to.
fn opened(dir: &std::path::Path) -> Opened {
    Store::open(Arc::new(Directory::kept(dir).unwrap()), BOOT).unwrap()
}

/// What is on the disk once all has been written.
fn written(opened: Opened, dir: &std::path::Path) -> Contents {
    opened.store.close();
    for writer in opened.writers {
        writer.run().unwrap();
    }
    drop(opened.store);
    self::opened(dir).contents
}

fn service(generations: &[Generation], state: &str) -> store::Service {
    let mut definitions: Vec<_> = generations
        .iter()
        .map(|generation| store::Definition {
            generation: *generation,
            text: format!("{generation}"),
            looked_up: String::new(),
        })
        .collect();
    store::Service {
        path: "/a".to_owned(),
        id: 7,
        intent: store::Intent::Up,
        definition: definitions.pop().unwrap(),
        others: definitions,
        state: state.to_owned(),
    }
}

/// The answer to a write of a store that is closed.
fn failed(dir: &std::path::Path) -> Flushed {
    let opened = opened(dir);
    opened.store.close();
    opened.store.write(Vec::new())
}

#[test]
fn a_definition_that_could_not_be_written_is_written_with_the_next_intent() {
    let temp = tempfile::tempdir().unwrap();
    let mut kept = Written {
        generations: BTreeSet::from([1]),
        definitions: Some(failed(temp.path())),
        slots: BTreeMap::new(),
    };
    let opened = opened(temp.path());
    drop(kept.service(&opened.store, service(&[1], "down")));
    let found = written(opened, temp.path());
    assert_eq!(found.services, [service(&[1], "down")]);
}

#[test]
fn a_definition_is_written_once_and_all_that_are_needed_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let mut kept = Written::default();
    let opened = opened(temp.path());
    let store = &opened.store;
    drop(kept.service(store, service(&[1, 2, 3], "rolling")));
    // This would be written if the definitions were written again.
    let mut rolled = service(&[1, 3], "rolled");
    rolled.definition.text = "another number of slots".to_owned();
    drop(kept.service(store, rolled));
    let found = written(opened, temp.path());
    assert_eq!(found.services, [service(&[1, 3], "rolled")]);
    // The next life knows what is kept.
    let opened = self::opened(temp.path());
    let mut kept = Written::before([1, 3]);
    drop(kept.service(&opened.store, service(&[3], "over")));
    let found = written(opened, temp.path());
    assert_eq!(found.services, [service(&[3], "over")]);
}

fn record(pid: Option<u32>) -> SlotRecord {
    SlotRecord {
        slot: 1,
        next: 2,
        ran_ready: None,
        starts: 1,
        failures: 0,
        delay: Duration::ZERO,
        rest: RestRecord::Free,
        last: None,
        instances: vec![InstanceRecord {
            number: 1,
            generation: 1,
            pid,
            spawned: pid.map(|_| Duration::from_secs(1)),
            was_ready: false,
            ready: None,
            age: None,
            ended: None,
            stopping: None,
        }],
    }
}

/// The state of a slot of work that must not run twice, after the host was started again.
fn after_reboot(state: &str) -> State {
    let policy = Policy {
        instances: 1,
        restart: Restart::Never,
        ..Policy::default()
    };
    let service = Machine::new(policy.clone(), 1, Duration::ZERO).service_record();
    let slot: SlotRecord = serde_json::from_str(state).unwrap();
    let slots = vec![slot.after_reboot()];
    let policies = BTreeMap::from([(1, policy)]);
    let mut up = service;
    up.want = Want::Up;
    let gone = Found::Gone { end: End::Unknown };
    let found = BTreeMap::from([(InstanceId { slot: 1, number: 1 }, gone)]);
    let mut machine = Machine::resume(up, slots, policies, &found, 1, Duration::ZERO);
    machine.handle(super::super::machine::Input::Tick, Duration::ZERO);
    machine.state(1).unwrap()
}

#[test]
fn work_that_has_begun_is_known_to_have_after_a_start_of_the_host() {
    let temp = tempfile::tempdir().unwrap();
    let mut kept = Written::default();
    let opened = opened(temp.path());
    let store = &opened.store;
    drop(kept.service(store, service(&[1], "")));
    for pid in [None, Some(7)] {
        let record = record(pid);
        let text = serde_json::to_string(&record).unwrap();
        kept.slot(store, "/a".to_owned(), 7, &record, &text);
    }
    let found = written(opened, temp.path());
    assert_eq!(after_reboot(&found.slots[0].state), State::Finished);
}

#[test]
fn a_slot_that_could_not_be_written_is_written_again() {
    let temp = tempfile::tempdir().unwrap();
    let record = record(Some(7));
    let lasting = Lasting::of(&record);
    let mut kept = Written::before([1]);
    kept.slots.insert(1, (lasting, failed(temp.path())));
    let opened = opened(temp.path());
    drop(opened.store.write(vec![Change::Service(service(&[1], ""))]));
    kept.slot(&opened.store, "/a".to_owned(), 7, &record, "again");
    let found = written(opened, temp.path());
    assert_eq!(found.slots[0].state, "again");
}
