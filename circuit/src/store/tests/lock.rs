//! Directories: one server at a time, and what a killed one leaves.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_directory_in_use_is_refused_after_a_while() {
    let temp = tempfile::tempdir().unwrap();
    let first = Directory::kept(temp.path()).unwrap();
    let wait = Duration::from_millis(50);
    let begin = Instant::now();
    let error = Directory::within(temp.path(), wait).unwrap_err();
    assert!(begin.elapsed() >= wait);
    let dir = temp.path().display();
    assert_eq!(
        error.to_string(),
        format!("{dir} is in use by another server: give each server a directory of its own")
    );
    drop(first);
    Directory::within(temp.path(), Duration::ZERO).unwrap();
}

/// A child that is not executed yet has all descriptors of the server, the lock among them. Here a
/// child holds it as its standard input.
#[test]
fn a_lock_that_a_child_still_holds_is_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    let lock = std::fs::File::create(temp.path().join("store.lock")).unwrap();
    lock.try_lock().unwrap();
    let mut child = {
        let mut command = Command::new("sleep");
        command.arg("60").stdin(Stdio::from(lock)).spawn().unwrap()
    };
    Directory::within(temp.path(), Duration::ZERO).unwrap_err();
    let killer = std::thread::spawn(move || {
        child.kill().unwrap();
        child.wait().unwrap();
    });
    Directory::kept(temp.path()).unwrap();
    killer.join().unwrap();
}

#[test]
fn the_lock_is_held_until_both_threads_have_ended() {
    let temp = tempfile::tempdir().unwrap();
    let live = Live::open(temp.path());
    let Live { store, threads, .. } = live;
    let now = || Directory::within(temp.path(), Duration::ZERO);
    now().unwrap_err();
    // The last handle closes the store.
    drop(store);
    for thread in threads {
        thread.join().unwrap();
    }
    now().unwrap();
}

#[test]
fn a_private_directory_tells_the_next_server_what_was_running() {
    let runtime = tempfile::tempdir().unwrap();
    let directory = Directory::private(runtime.path()).unwrap();
    let path = directory.path().to_owned();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(&format!("state-{}-", std::process::id())));
    let live = Live::at(directory);
    let process = Process {
        path: "/p".to_owned(),
        mark: "mark".to_owned(),
        identity: None,
    };
    live.note(Note::Process(process.clone()));
    // No ballast: it may be in memory.
    assert!(!path.join("store.ballast").exists());
    let abandoned = || {
        let (left, errors) = Directory::abandoned(runtime.path());
        assert!(errors.is_empty(), "{errors:?}");
        left
    };
    assert!(abandoned().is_empty(), "its server lives");
    live.end();
    // A file of that name, and a link, are none.
    std::fs::write(runtime.path().join("state-1-file"), "").unwrap();
    std::os::unix::fs::symlink(&path, runtime.path().join("state-1-link")).unwrap();
    // A child of another test that is not executed yet may hold the lock.
    let left = loop {
        let left = abandoned();
        if !left.is_empty() {
            break left;
        }
    };
    let [left] = &left[..] else {
        panic!("{left:?}");
    };
    assert!(abandoned().is_empty(), "one server deals with it");
    assert_eq!(left.read(BOOT).unwrap().processes, [process]);
    assert_eq!(left.read("another").unwrap(), Contents::default());
    left.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_private_directory_in_which_nothing_was_made_is_a_leftover_too() {
    let runtime = tempfile::tempdir().unwrap();
    std::fs::create_dir(runtime.path().join("state-1-00000000")).unwrap();
    let (left, _) = Directory::abandoned(runtime.path());
    let [left] = &left[..] else {
        panic!("{left:?}");
    };
    assert_eq!(left.read(BOOT).unwrap(), Contents::default());
    left.remove().unwrap();
    assert_eq!(std::fs::read_dir(runtime.path()).unwrap().count(), 0);
}

#[test]
fn a_kept_directory_is_never_removed() {
    let temp = tempfile::tempdir().unwrap();
    let directory = Directory::kept(temp.path()).unwrap();
    directory.remove().unwrap();
    assert!(temp.path().exists());
}

#[test]
fn one_directory_that_cannot_be_locked_hides_no_other() {
    let runtime = tempfile::tempdir().unwrap();
    for name in ["state-1-00000000", "state-2-00000000", "state-3-00000000"] {
        std::fs::create_dir(runtime.path().join(name)).unwrap();
    }
    let lock = runtime.path().join("state-2-00000000/store.lock");
    std::fs::create_dir(&lock).unwrap();
    let (left, errors) = Directory::abandoned(runtime.path());
    assert_eq!(left.len(), 2);
    let [error] = &errors[..] else {
        panic!("{errors:?}");
    };
    let text = error.to_string();
    assert!(text.contains(&lock.display().to_string()), "{text}");
}

#[test]
fn a_directory_is_used_once_anything_is_kept_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let is_used = || Directory::is_used(dir.path()).unwrap();
    for other in ["identity", "incarnation", "logs", "store.lock"] {
        std::fs::write(dir.path().join(other), "").unwrap();
    }
    assert!(!is_used());
    for ours in ["store.db", "store.db-wal", "store.ballast", "running-1.db"] {
        let path = dir.path().join(ours);
        std::fs::write(&path, "").unwrap();
        assert!(is_used(), "{ours}");
        std::fs::remove_file(&path).unwrap();
    }
    Directory::is_used(&dir.path().join("missing")).unwrap_err();
}
