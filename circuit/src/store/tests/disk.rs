//! Disks that are full, read-only, or fail. They need root, and a C compiler for the one that fails.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use super::*;

/// A small file system in memory, gone when this is dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, and said so, where that needs rights that there are not.
    fn new(size: &str) -> Option<Disk> {
        let temp = tempfile::tempdir().unwrap();
        match run(
            &["mount", "-t", "tmpfs", "-o", size, "circuit-test"],
            temp.path(),
        ) {
            true => Some(Disk(temp)),
            false => {
                skipped("root, to mount a small disk");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(&["umount", "-l"], self.0.path());
    }
}

fn run(command: &[&str], path: &Path) -> bool {
    let mut process = Command::new(command[0]);
    let process = process.args(&command[1..]).arg(path).stderr(Stdio::null());
    process.status().is_ok_and(|status| status.success())
}

/// A service whose definition has this many bytes.
fn service(number: usize, bytes: usize) -> Service {
    Service {
        path: format!("/s/{number}"),
        id: number as u64,
        intent: Intent::Up,
        definition: Definition {
            generation: 1,
            text: "x".repeat(bytes),
            looked_up: String::new(),
        },
        others: Vec::new(),
        state: String::new(),
    }
}

fn intent(number: usize, intent: Intent) -> Vec<Change> {
    let path = format!("/s/{number}");
    vec![Change::Intent {
        path,
        id: number as u64,
        intent,
        generations: vec![1],
        state: String::new(),
    }]
}

fn forget(number: usize) -> Vec<Change> {
    let path = format!("/s/{number}");
    vec![Change::ForgetService { path }]
}

fn process(mark: &str) -> Process {
    Process {
        path: "/p".to_owned(),
        mark: mark.to_owned(),
        identity: None,
    }
}

fn until_there_is_room(live: &Live) {
    let begin = std::time::Instant::now();
    while live.store.health().short {
        let health = live.store.health();
        assert!(begin.elapsed().as_secs() < 20, "{health:?}");
        std::thread::yield_now();
    }
}

const BALLAST: u64 = 1 << 20;

/// Makes services until there is no room. Returns how many there are.
fn fill_up(live: &Live) -> usize {
    for number in 0.. {
        let made = live.write(vec![Change::Service(service(number, 100_000))]);
        if let Err(error) = made {
            assert_eq!(error, WriteError::Full);
            return number;
        }
    }
    unreachable!()
}

fn on(disk: &Disk) -> Live {
    Live::at(Directory::kept(disk.path()).unwrap().with_ballast(BALLAST))
}

#[test]
fn on_a_full_disk_removals_and_intents_are_recorded() {
    let Some(disk) = Disk::new("size=6m") else {
        return;
    };
    let ballast = disk.path().join("store.ballast");
    let live = on(&disk);
    assert_eq!(fs::metadata(&ballast).unwrap().len(), BALLAST);
    let made = fill_up(&live);
    assert!(made > 5, "{made}");
    assert_eq!(fs::metadata(&ballast).unwrap().len(), 0);
    let health = live.store.health();
    assert!(health.short);
    for round in 0..200 {
        let wanted = [Intent::Down, Intent::Up][round % 2];
        live.write(intent(round % made, wanted)).unwrap();
    }
    for mark in ["1", "2", "3"] {
        live.note(Note::Process(process(mark)));
    }
    let flushed = live.store.write(vec![Change::Service(service(made, 1))]);
    assert_eq!(wait(flushed.clone()), Err(WriteError::Full));
    assert!(flushed.has_failed());
    // Of two changes none is made if one needs room.
    let mut both = forget(0);
    both.push(Change::Service(service(made, 1)));
    assert_eq!(live.write(both), Err(WriteError::Full));
    live.write(intent(0, Intent::Scrub)).unwrap();
    live.write(intent(1, Intent::Down)).unwrap();
    live.end();
    // The next life begins on a disk that is full.
    let live = on(&disk);
    let found = &live.contents.services;
    assert_eq!(found.len(), made);
    assert_eq!(
        (found[0].intent, found[1].intent),
        (Intent::Scrub, Intent::Down)
    );
    assert_eq!(live.contents.processes, [process("3")]);
    // What is removed gives back the room, and then the ballast comes back.
    for number in 0..made {
        live.write(forget(number)).unwrap();
    }
    live.write(intent(0, Intent::Up)).unwrap_err();
    until_there_is_room(&live);
    assert_eq!(fs::metadata(&ballast).unwrap().len(), BALLAST);
    live.write(vec![Change::Service(service(0, 100_000))])
        .unwrap();
    live.end();
}

#[test]
fn room_that_others_make_is_noticed() {
    let Some(disk) = Disk::new("size=6m") else {
        return;
    };
    let other = disk.path().join("other");
    fs::write(&other, vec![7; 3 << 20]).unwrap();
    let live = on(&disk);
    let made = fill_up(&live);
    fs::remove_file(other).unwrap();
    // Nobody writes.
    until_there_is_room(&live);
    live.write(vec![Change::Service(service(made, 100_000))])
        .unwrap();
    live.end();
}

#[test]
fn room_is_looked_for_where_only_notes_found_none() {
    let Some(disk) = Disk::new("size=6m") else {
        return;
    };
    let other = disk.path().join("other");
    let live = on(&disk);
    // Nothing is left.
    let _ = fs::write(&other, vec![7; 8 << 20]);
    for number in 0.. {
        live.note(Note::Process(process(&number.to_string().repeat(4000))));
        if live.store.health().short {
            break;
        }
    }
    fs::remove_file(other).unwrap();
    // Nobody writes.
    until_there_is_room(&live);
    live.end();
}

#[test]
fn a_server_starts_on_a_full_disk() {
    let Some(disk) = Disk::new("size=6m") else {
        return;
    };
    let live = on(&disk);
    live.write(vec![Change::Service(service(0, 10))]).unwrap();
    live.end();
    let _ = fs::write(disk.path().join("other"), vec![7; 6 << 20]);
    // Another boot: the database of notes is made anew.
    let directory = Directory::kept(disk.path()).unwrap().with_ballast(BALLAST);
    let opened = Store::open(Arc::new(directory), "another").unwrap();
    assert_eq!(opened.contents.services, [service(0, 10)]);
    assert!(opened.store.health().short);
}

#[test]
fn a_disk_that_is_read_only_is_named() {
    let Some(disk) = Disk::new("size=6m") else {
        return;
    };
    let dir = disk.path().join("var");
    fs::create_dir(&dir).unwrap();
    on(&disk).end();
    assert!(run(&["mount", "-o", "remount,ro"], disk.path()));
    for dir in [disk.path(), &dir] {
        let error = contents(dir).unwrap_err();
        let lock = dir.join("store.lock");
        assert_eq!(error.to_string(), format!("cannot use {}", lock.display()));
        let OpenError::Io { source, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(source.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
}

/// Fails system calls with EIO for as long as a file is there: `write` to what is no standard stream
/// if the file has a `w` in it, `fsync` and `fdatasync` if it has an `s`.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(char which) {
    char text[8] = {0};
    int flag = open(getenv("FAILS"), O_RDONLY | O_CLOEXEC);
    if (flag < 0) return 0;
    ssize_t length = read(flag, text, sizeof text - 1);
    close(flag);
    if (length < 1 || !strchr(text, which)) return 0;
    errno = EIO;
    return 1;
}
static int path_is(int descriptor, const char *part) {
    char link[64] = "/proc/self/fd/", path[512] = {0};
    char *end = link + strlen(link);
    do { *end++ = '0' + descriptor % 10; } while (descriptor /= 10);
    for (char *a = link + 14, *b = end - 1; a < b; a++, b--) { char c = *a; *a = *b; *b = c; }
    return readlink(link, path, sizeof path - 1) > 0 && strstr(path, part) != 0;
}
int fsync(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return path_is(descriptor, ".db") && fails('s') ? -1 : real(descriptor);
}
int fdatasync(int descriptor) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    return path_is(descriptor, ".db") && fails('s') ? -1 : real(descriptor);
}
ssize_t write(int descriptor, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
    return descriptor > 2 && path_is(descriptor, ".db") && fails('w') ? -1 : real(descriptor, bytes, count);
}
ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off_t at) {
    ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite64");
    return path_is(descriptor, ".db") && fails('w') ? -1 : real(descriptor, bytes, count, at);
}
"#;

/// The shim, compiled. `None`, and said so, without a compiler.
fn shim(dir: &Path) -> Option<PathBuf> {
    let (source, shim) = (dir.join("shim.c"), dir.join("shim.so"));
    fs::write(&source, SHIM).unwrap();
    let arguments = ["-shared", "-fPIC", "-o"];
    let mut compiler = Command::new("cc");
    let compiler = compiler.args(arguments).arg(&shim).arg(source).arg("-ldl");
    match compiler.output() {
        Ok(output) if output.status.success() => Some(shim),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            skipped("a C compiler");
            None
        }
    }
}

/// A file in a directory that fails on demand.
#[test]
#[ignore = "a process of the test below"]
fn failing() {
    let Some(dir) = told() else {
        return;
    };
    let dir = Path::new(&dir);
    let flag = std::env::var("FAILS").unwrap();
    let path = dir.join("store.db");
    let expected = |number: i32| {
        let reason = std::io::Error::from_raw_os_error(number).to_string();
        WriteError::Failed {
            path: path.clone(),
            reason,
        }
    };
    let eio = expected(5);
    let live = Live::open(dir);
    let mut kept = 0;
    let keep = |live: &Live, kept: &mut usize, count: usize| {
        for _ in 0..count {
            live.write(vec![Change::Service(service(*kept, 3000))])
                .unwrap();
            *kept += 1;
        }
    };
    keep(&live, &mut kept, 3);
    for calls in ["s", "w", "sw", "s", "w"] {
        fs::write(&flag, calls).unwrap();
        for size in [60_000, 30_000, 10] {
            let failed = live.write(vec![Change::Service(service(1000, size))]);
            assert_eq!(failed, Err(eio.clone()), "{calls}");
            let said = live.store.health().error.unwrap();
            assert_eq!(said, eio.to_string());
        }
        if calls == "s" {
            // Notes are never flushed.
            live.note(Note::Process(process(&kept.to_string())));
        }
        fs::remove_file(&flag).unwrap();
        keep(&live, &mut kept, 20);
        assert_eq!(live.store.health().error, None);
    }
    // As after `kill -9`: nothing is closed.
    let _ = Command::new("kill")
        .args(["-9", &std::process::id().to_string()])
        .status();
    unreachable!();
}

#[test]
fn a_failed_write_or_flush_is_answered_and_the_next_go_on() {
    let temp = tempfile::tempdir().unwrap();
    let Some(shim) = shim(temp.path()) else {
        return;
    };
    let dir = temp.path().join("var");
    fs::create_dir(&dir).unwrap();
    let output = child("store::tests::disk::failing", dir.to_str().unwrap())
        .env("LD_PRELOAD", shim)
        .env("FAILS", temp.path().join("flag"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let killed = output.status.code().is_none();
    assert!(killed, "{}{said}", String::from_utf8_lossy(&output.stdout));
    let found = contents(&dir).unwrap();
    let mut expected: Vec<Service> = (0..103).map(|number| service(number, 3000)).collect();
    expected.sort_by(|one, other| one.path.cmp(&other.path));
    assert_eq!(found.services.len(), expected.len());
    assert!(found.services == expected);
    assert_eq!(found.processes, [process("63")]);
}
