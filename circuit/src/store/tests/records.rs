//! What is written is what is read.

use super::*;

#[test]
fn each_record_comes_back_as_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let live = Live::open(temp.path());
    assert_eq!(live.contents, Contents::default());
    let service = Service {
        path: "/db/wéb\0".to_owned(),
        id: u64::MAX,
        intent: Intent::Down,
        definition: Definition {
            generation: 1 << 63,
            text: "{\"Path\": \"/bin/true\"}\n".to_owned(),
            looked_up: "{\"Owner\": 7}".to_owned(),
        },
        others: [0, 7]
            .map(|generation| Definition {
                generation,
                text: String::new(),
                looked_up: String::new(),
            })
            .to_vec(),
        state: "{\"Roll\": null}".to_owned(),
    };
    let plain = Service {
        path: String::new(),
        id: 0,
        others: Vec::new(),
        state: String::new(),
        ..service.clone()
    };
    let slot = Slot {
        service: u64::MAX,
        slot: 3,
        state: "failed".to_owned(),
    };
    let identity = Some(Identity {
        boot: BOOT.to_owned(),
        pid_namespace: u64::MAX,
        pid: u32::MAX,
        start: u64::MAX,
    });
    let instance = Instance {
        service: u64::MAX,
        slot: u32::MAX,
        number: u64::MAX,
        mark: "a mark".to_owned(),
        identity: identity.clone(),
        cgroup: Some("/circuit/1".to_owned()),
        generation: u64::MAX,
        state: "{\"Backoff\": 1.5}".to_owned(),
    };
    let spawning = Instance {
        number: 0,
        identity: None,
        cgroup: None,
        ..instance.clone()
    };
    let process = Process {
        path: "/p".to_owned(),
        mark: "another".to_owned(),
        identity,
    };
    let starting = Process {
        path: "/q".to_owned(),
        identity: None,
        ..process.clone()
    };
    live.write(vec![
        Change::Service(service.clone()),
        Change::Service(plain.clone()),
        Change::Slot {
            path: service.path.clone(),
            id: service.id,
            slot: slot.slot,
            state: slot.state.clone(),
        },
    ])
    .unwrap();
    live.note(Note::Instance(instance.clone()));
    live.note(Note::Instance(spawning.clone()));
    live.note(Note::Process(process.clone()));
    live.note(Note::Process(starting.clone()));
    live.end();
    let expected = Contents {
        services: vec![plain, service],
        slots: vec![slot],
        // -1 is before 0: the number of the first has its highest bit.
        instances: vec![instance, spawning],
        processes: vec![process, starting],
    };
    assert_eq!(contents(temp.path()).unwrap(), expected);
}

#[test]
fn a_state_never_stands_beside_definitions_that_it_does_not_fit() {
    let temp = tempfile::tempdir().unwrap();
    let live = Live::open(temp.path());
    let definition = |generation| Definition {
        generation,
        text: format!("{generation}"),
        looked_up: String::new(),
    };
    let service = Service {
        path: "/a".to_owned(),
        id: 7,
        intent: Intent::Up,
        definition: definition(2),
        others: vec![definition(1)],
        state: "of 1 and 2".to_owned(),
    };
    live.write(vec![Change::Service(service.clone())]).unwrap();
    let intent = |id, generations: &[u64]| Change::Intent {
        path: "/a".to_owned(),
        id,
        intent: Intent::Down,
        generations: generations.to_vec(),
        state: format!("of {generations:?}"),
    };
    // The definition of generation 3 could not be written.
    live.write(vec![intent(7, &[2, 3])]).unwrap();
    // One that was scrubbed is not brought back by its successor at the same path.
    let missing = Err(WriteError::Missing("/a".to_owned()));
    assert_eq!(live.write(vec![intent(8, &[2])]), missing);
    live.end();
    let down = Service {
        intent: Intent::Down,
        ..service
    };
    let found = contents(temp.path()).unwrap().services;
    assert_eq!(found, std::slice::from_ref(&down));
    let live = Live::open(temp.path());
    live.write(vec![intent(7, &[2])]).unwrap();
    live.end();
    let rolled = Service {
        others: Vec::new(),
        state: "of [2]".to_owned(),
        ..down
    };
    assert_eq!(contents(temp.path()).unwrap().services, [rolled]);
}

#[test]
fn random_histories_leave_what_they_should() {
    for seed in 0..20 {
        let temp = in_memory();
        let mut random = Random(seed);
        let mut model = Model::default();
        for _ in 0..3 {
            let live = Live::open(temp.path());
            assert_eq!(live.contents, model.contents(), "seed {seed}");
            for _ in 0..20 {
                let count = 1 + random.below(3);
                let changes: Vec<Change> = (0..count).map(|_| random.change()).collect();
                let expected = model.write(&changes).map_err(WriteError::Missing);
                assert_eq!(live.write(changes), expected, "seed {seed}");
                let note = random.note();
                model.note(note.clone());
                live.store.note(note);
            }
            live.end();
        }
        assert_eq!(
            contents(temp.path()).unwrap(),
            model.contents(),
            "seed {seed}"
        );
    }
}

#[test]
fn a_note_takes_the_place_of_one_that_is_not_written() {
    let temp = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::kept(temp.path()).unwrap().with_ballast(0));
    let opened = Store::open(directory, BOOT).unwrap();
    let store = opened.store;
    let process = |path: &str, mark: &str| Process {
        path: path.to_owned(),
        mark: mark.to_owned(),
        identity: None,
    };
    for mark in ["1", "2", "3"] {
        store.note(Note::Process(process("/a", mark)));
    }
    assert_eq!(store.health().unwritten, 1);
    // What came and went leaves nothing.
    store.note(Note::Process(process("/b", "1")));
    let path = "/b".to_owned();
    store.note(Note::ProcessGone { path });
    assert_eq!(store.health().unwritten, 1);
    let [changes, notes] = opened.writers;
    store.close();
    notes.run().unwrap();
    drop((store, changes));
    let found = contents(temp.path()).unwrap();
    assert_eq!(found.processes, [process("/a", "3")]);
}

#[test]
fn a_store_that_is_closed_says_so_and_one_that_is_full_of_requests_too() {
    let temp = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::kept(temp.path()).unwrap().with_ballast(0));
    let opened = Store::open(directory, BOOT).unwrap();
    let forget = || {
        let path = "/a".to_owned();
        vec![Change::ForgetService { path }]
    };
    let waiting: Vec<Flushed> = (0..16_384).map(|_| opened.store.write(forget())).collect();
    assert_eq!(opened.store.health().waiting, 16_384);
    let refused = wait(opened.store.write(forget())).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "too busy: 16384 changes wait for the disk"
    );
    // The thread ends without having run.
    drop(opened.writers);
    opened.store.close();
    let closed = wait(opened.store.write(forget())).unwrap_err();
    assert_eq!(closed.to_string(), "the store is closed");
    drop(opened.store);
    for flushed in waiting {
        assert_eq!(wait(flushed), Err(WriteError::Closed));
    }
}

#[tokio::test]
async fn many_writers_share_a_flush() {
    let temp = tempfile::tempdir().unwrap();
    let live = Live::open(temp.path());
    let before = live.store.health().commits;
    let service = Random(1).service();
    let flushed: Vec<Flushed> = (0..640)
        .map(|_| live.store.write(vec![Change::Service(service.clone())]))
        .collect();
    for answer in flushed {
        answer.done().await.unwrap();
    }
    let health = live.store.health();
    assert_eq!((health.waiting, health.error), (0, None));
    assert!(health.commits - before < 64, "{} commits", health.commits);
    assert!(health.bytes > 0);
    live.end();
}

#[test]
fn notes_of_another_boot_are_gone() {
    let temp = tempfile::tempdir().unwrap();
    let live = Live::open(temp.path());
    let note = Note::Process(Process {
        path: "/p".to_owned(),
        mark: String::new(),
        identity: None,
    });
    live.note(note);
    let service = Random(1).service();
    live.write(vec![Change::Service(service.clone())]).unwrap();
    live.end();
    let other = "another-boot";
    let directory = Directory::kept(temp.path()).unwrap();
    let opened = Store::open(Arc::new(directory), other).unwrap();
    let expected = Contents {
        services: vec![service],
        ..Contents::default()
    };
    assert_eq!(opened.contents, expected);
    drop(opened);
    assert_eq!(contents(temp.path()).unwrap(), expected);
    let directory = Arc::new(Directory::kept(temp.path()).unwrap());
    let error = Store::open(directory, "../x").unwrap_err();
    assert_eq!(error.to_string(), "\"../x\" is no id of a boot");
}

#[test]
fn only_the_owner_reads_what_is_kept() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let live = Live::open(temp.path());
    live.write(vec![Change::Service(Random(1).service())])
        .unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(temp.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{entry:?}");
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    let notes = format!("running-{BOOT}.db");
    let expected = [
        notes.as_str(),
        &format!("{notes}-extent"),
        &format!("{notes}-wal"),
        "store.ballast",
        "store.db",
        "store.db-extent",
        "store.db-wal",
        "store.lock",
    ];
    assert_eq!(names, expected);
    live.end();
}
