//! The parts together, from the child's end of a pipe to a reader.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use rustix::fs::OFlags;

use super::writer::{Disk, System};
use super::*;
use crate::runtime::task::Failures;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

const BIG: u64 = 1 << 40;

fn source(instance: u64) -> Source {
    Source {
        slot: 1,
        instance,
        stream: Stream::Stdout,
    }
}

/// A life of a server, as far as its logs go.
struct Life {
    logs: Logs,
    failures: Failures,
}

impl Life {
    fn new(dir: &Path) -> Life {
        Life::on(dir, BIG, Arc::new(System))
    }

    fn on(dir: &Path, bound: u64, disk: Arc<dyn Disk>) -> Life {
        let (alarm, failures) = Alarm::new();
        let descriptors = Descriptors::of_process();
        let logs = Logs::start_on(dir, Some(bound), &alarm, &descriptors, disk).unwrap();
        Life { logs, failures }
    }

    fn open(&self) -> Log {
        self.logs.open("web", DEFAULT_BYTES).unwrap()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        assert!(self.failures.try_recv().is_err());
    }
}

/// Writes as a child does: waits while the pipe is full.
fn write(end: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let count = rustix::io::write(end, bytes).unwrap();
        bytes = &bytes[count..];
    }
}

/// What a child writes from its beginning to its end.
async fn run(log: &Log, name: &str, source: Source, bytes: &[u8]) {
    let (pipe, end) = log.pipe(name, source, None).unwrap();
    write(&end, bytes);
    pipe.end().await;
}

async fn read(log: &Log, query: Query) -> Vec<Item> {
    let mut reader = log.read(query).unwrap();
    let mut items = Vec::new();
    while let Some(some) = reader.next().await.unwrap() {
        items.extend(some);
    }
    items
}

fn text(item: &Item) -> String {
    match item {
        Item::Entry(entry) => String::from_utf8_lossy(&entry.bytes).into_owned(),
        Item::Lost(lost) => format!("{:?} {}", lost.cause, lost.bytes),
    }
}

async fn texts(log: &Log, query: Query) -> Vec<String> {
    read(log, query).await.iter().map(text).collect()
}

fn numbered(from: usize, to: usize) -> Vec<u8> {
    let lines = (from..to).map(|number| format!("line {number}\n"));
    lines.collect::<String>().into_bytes()
}

/// Checks that these are whole lines of [`numbered`], one after the other; the number of the first.
fn check_numbered(lines: &[Item], end: usize) -> usize {
    let first = end - lines.len();
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(text(line), format!("line {}", first + index));
    }
    first
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("kept/web")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A disk that waits, or fails, when it is told to, and that is slow.
#[derive(Debug, Default)]
struct Bad {
    state: Mutex<BadState>,
    wake: Condvar,
    writes: AtomicU64,
}

#[derive(Debug, Default)]
struct BadState {
    hangs: bool,
    /// Somebody waits for it.
    waited_for: bool,
    /// How many bytes are free.
    free: Option<usize>,
    slow: Duration,
    patience: Option<Duration>,
}

impl Bad {
    fn set(&self, change: impl FnOnce(&mut BadState)) {
        change(&mut self.state.lock());
        self.wake.notify_all();
    }

    /// Waits until the writer hangs.
    fn hung(&self) {
        let mut state = self.state.lock();
        self.wake.wait_while(&mut state, |state| !state.waited_for);
    }
}

impl Disk for Bad {
    fn patience(&self) -> Duration {
        self.state.lock().patience.unwrap_or(queue::PATIENCE)
    }

    fn write(&self, file: &File, pieces: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        while state.hangs {
            state.waited_for = true;
            self.wake.notify_all();
            self.wake.wait(&mut state);
        }
        state.waited_for = false;
        let slow = state.slow;
        let Some(free) = &mut state.free else {
            drop(state);
            std::thread::sleep(slow);
            return System.write(file, pieces, at);
        };
        // As a full disk: the first bytes, then none.
        let mut bytes = pieces.iter().flat_map(|piece| piece.iter().copied());
        let some: Vec<u8> = bytes.by_ref().take(*free).collect();
        if some.is_empty() {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        *free -= some.len();
        System.write(file, &[IoSlice::new(&some)], at)
    }
}

#[tokio::test]
async fn output_is_read_back_with_its_source_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    let before = SystemTime::now();
    let errors = Source {
        stream: Stream::Stderr,
        ..source(7)
    };
    run(
        &log,
        "a.stdout",
        source(7),
        b"one\n\ntwo\r\n\xff\x00\nlast words",
    )
    .await;
    run(&log, "a.stderr", errors, b"three\n").await;
    let items = read(&log, Query::default()).await;
    let got: Vec<(&[u8], bool, Source)> = items
        .iter()
        .map(|item| match item {
            Item::Entry(entry) => {
                assert!(before <= entry.time && entry.time <= SystemTime::now());
                (entry.bytes.as_slice(), entry.ended, entry.source)
            }
            Item::Lost(lost) => panic!("{lost:?}"),
        })
        .collect();
    let expected: [(&[u8], bool, Source); 6] = [
        (b"one", true, source(7)),
        (b"", true, source(7)),
        (b"two\r", true, source(7)),
        (b"\xff\x00", true, source(7)),
        (b"last words", false, source(7)),
        (b"three", true, errors),
    ];
    assert_eq!(got, expected);
    assert_eq!(life.logs.pipes().unwrap(), [""; 0]);
    assert_eq!((log.written(), log.stat().dropped), (29, 0));
}

#[tokio::test]
async fn files_are_their_owners_and_the_childs_end_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(&dir.path().join("logs"));
    let log = life.open();
    let (pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    let fifo = dir.path().join("logs/pipes/a.stdout");
    let metadata = fifo.metadata().unwrap();
    assert!(metadata.file_type().is_fifo());
    let mode = |path: &str| {
        let metadata = dir.path().join(path).metadata().unwrap();
        metadata.permissions().mode() & 0o777
    };
    let flags = rustix::fs::fcntl_getfl(&end).unwrap();
    assert!(flags.contains(OFlags::RDWR) && !flags.contains(OFlags::NONBLOCK));
    let flags = rustix::io::fcntl_getfd(&end).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(
        rustix::pipe::fcntl_getpipe_size(&end).unwrap(),
        pipe::AT_REST
    );
    write(&end, b"x\n");
    pipe.end().await;
    for path in ["logs", "logs/pipes", "logs/kept", "logs/kept/web"] {
        assert_eq!(mode(path), 0o700, "{path}");
    }
    assert_eq!(mode("logs/kept/web/0000000001"), 0o600);
    let again = log.pipe("b.stdout", source(1), None).unwrap();
    assert_eq!(mode("logs/pipes/b.stdout"), 0o600);
    assert!(log.pipe("b.stdout", source(1), None).is_err());
    drop(again);
}

#[test]
fn names_stay_in_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    for name in ["", ".", "..", "a/b", "../a", "a\0"] {
        assert!(matches!(life.logs.open(name, 1), Err(LogError::Name(_))));
        let log = life.open();
        let pipe = log.pipe(name, source(1), None);
        assert!(matches!(pipe, Err(LogError::Name(_))));
    }
}

#[tokio::test]
async fn no_line_is_lost_or_doubled_over_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.logs.open("web", 256 << 10).unwrap();
    const LINES: usize = 100_000;
    run(&log, "a.stdout", source(1), &numbered(0, LINES)).await;
    assert_eq!(log.written(), numbered(0, LINES).len() as u64);
    let mut items = read(&log, Query::default()).await;
    // The first is what is left of a line.
    items.remove(0);
    let first = check_numbered(&items, LINES);
    let held = log.stat().bytes;
    assert!((200 << 10..=256 << 10).contains(&held), "{held}");
    assert!(first < LINES - 10_000, "{first}");
    assert_eq!(segments(dir.path()).len(), 8);
    assert!(!dir.path().join("kept/web/0000000001").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_readers_and_a_follower_read_everything() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    const LINES: usize = 50_000;
    let follow = Query {
        follow: true,
        ..Query::default()
    };
    let mut follower = log.read(follow).unwrap();
    let followed = tokio::spawn(async move {
        let mut items = Vec::new();
        while items.len() < LINES {
            items.extend(follower.next().await.unwrap().unwrap());
        }
        items
    });
    let (pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    let child = std::thread::spawn(move || write(&end, &numbered(0, LINES)));
    let reading = [log.clone(), log.clone()].map(|log| {
        tokio::spawn(async move {
            loop {
                let lines = read(&log, Query::default()).await;
                let mut whole = lines.as_slice();
                if let Some((Item::Entry(last), rest)) = lines.split_last()
                    && !last.ended
                {
                    whole = rest;
                }
                assert_eq!(check_numbered(whole, whole.len()), 0);
                if whole.len() == LINES {
                    return;
                }
            }
        })
    });
    child.join().unwrap();
    pipe.end().await;
    let followed = tokio::time::timeout(LONG, followed).await.unwrap().unwrap();
    assert_eq!(check_numbered(&followed, LINES), 0);
    for reading in reading {
        tokio::time::timeout(LONG, reading).await.unwrap().unwrap();
    }
}

/// A log with some records, of which each is a line; the file, and where each record ends.
async fn five_lines(dir: &Path) -> (PathBuf, Vec<u8>) {
    let life = Life::new(dir);
    let log = life.open();
    let (pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    for number in 0..5 {
        write(&end, &numbered(number, number + 1));
        while log.written() < 7 * (number as u64 + 1) {
            tokio::task::yield_now().await;
        }
    }
    drop(pipe);
    drop(life);
    let path = segments(dir).remove(0);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 32 + 5 * (32 + 7));
    (path, bytes)
}

#[tokio::test]
async fn a_torn_tail_is_skipped_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = five_lines(dir.path()).await;
    for length in 0..bytes.len() {
        for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        // A hole, as after a failure of power, or the end of the file.
        let mut torn = bytes[..length].to_vec();
        if length % 2 == 0 {
            torn.resize(length + 100, 0);
        }
        std::fs::write(&path, &torn).unwrap();
        let life = Life::new(dir.path());
        let log = life.open();
        let whole = length.saturating_sub(32) / (32 + 7);
        let lines = || (0..whole).map(|number| format!("line {number}"));
        let got = texts(&log, Query::default()).await;
        let got = got.iter().filter(|text| !text.starts_with("Damaged"));
        assert!(got.eq(&lines().collect::<Vec<_>>()), "{length}");
        run(&log, "b.stdout", source(2), b"next\n").await;
        let got = texts(&log, Query::default()).await;
        let got = got.iter().filter(|text| !text.starts_with("Damaged"));
        let expected: Vec<String> = lines().chain(["next".to_owned()]).collect();
        assert!(got.eq(&expected), "{length}");
    }
}

#[tokio::test]
async fn damage_in_the_middle_costs_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = five_lines(dir.path()).await;
    for at in 32..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        std::fs::write(&path, &damaged).unwrap();
        let life = Life::new(dir.path());
        let got = texts(&life.open(), Query::default()).await;
        let hit = (at - 32) / (32 + 7);
        let expected: Vec<String> = (0..5)
            .map(|number| match number == hit {
                true => "Damaged 39".to_owned(),
                false => format!("line {number}"),
            })
            .collect();
        assert_eq!(got, expected, "{at}");
    }
}

#[tokio::test]
async fn output_that_looks_like_a_log_is_output() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = five_lines(dir.path()).await;
    let length = bytes.len();
    let life = Life::new(dir.path());
    let log = life.open();
    run(&log, "b.stdout", source(2), &bytes).await;
    drop(life);
    // The header of the record that holds a log is damaged.
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[length + 5] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let life = Life::new(dir.path());
    let mut got = texts(&life.open(), Query::default()).await;
    assert_eq!(got.pop(), Some(format!("Damaged {}", 32 + length)));
    assert_eq!(got.len(), 5);
}

#[tokio::test]
async fn a_disk_that_hangs_blocks_no_child_and_drops_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Bad::default());
    let life = Life::on(dir.path(), BIG, disk.clone());
    let log = life.logs.open("web", 64 << 20).unwrap();
    disk.set(|state| state.hangs = true);
    let (pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    let quiet = Source {
        slot: 2,
        ..source(1)
    };
    let (quiet_pipe, quiet_end) = log.pipe("b.stdout", quiet, None).unwrap();
    write(&quiet_end, b"quiet\n");
    disk.hung();
    const SENT: usize = 200 << 20;
    let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
    let block = line.repeat(64);
    for _ in 0..SENT / block.len() {
        write(&end, &block);
    }
    write(&quiet_end, b"still here\n");
    let ended = pipe.end();
    // All is dropped but a MiB that waits, once what was in the pipe is read.
    let until = Instant::now() + LONG;
    while log.stat().dropped < (SENT - queue::SLOT) as u64 {
        assert!(Instant::now() < until, "{:?}", log.stat());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(log.written(), 0);
    disk.set(|state| state.hangs = false);
    ended.await;
    quiet_pipe.end().await;
    let dropped = log.stat().dropped;
    assert_eq!(log.written() + dropped, SENT as u64 + 6 + 11);
    assert!(log.written() > 700 << 10, "{}", log.written());
    let items = read(&log, Query::default()).await;
    let mut of_quiet = Vec::new();
    let (mut missing, mut bytes) = (0, 0);
    for item in &items {
        match item {
            Item::Lost(lost) => {
                assert_eq!(lost.cause, Cause::Dropped);
                assert_eq!(lost.from.unwrap().0, source(1));
                missing += lost.bytes;
            }
            Item::Entry(entry) if entry.source == quiet => of_quiet.push(text(item)),
            Item::Entry(entry) => bytes += entry.bytes.len() as u64 + u64::from(entry.ended),
        }
    }
    assert_eq!(of_quiet, ["quiet", "still here"]);
    assert_eq!(missing, dropped);
    assert_eq!(bytes + missing, SENT as u64);
}

#[tokio::test]
async fn a_disk_that_is_slow_but_goes_on_loses_nothing_of_a_burst() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Bad::default());
    disk.set(|state| {
        state.slow = Duration::from_millis(10);
        state.patience = Some(LONG);
    });
    let life = Life::on(dir.path(), BIG, disk.clone());
    let log = life.open();
    let lines = numbered(0, 400_000);
    run(&log, "a.stdout", source(1), &lines).await;
    assert_eq!(log.stat().dropped, 0);
    assert_eq!(log.written(), lines.len() as u64);
}

#[tokio::test]
async fn a_full_disk_is_told_and_what_follows_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Bad::default());
    let life = Life::on(dir.path(), BIG, disk.clone());
    let log = life.open();
    run(&log, "a.stdout", source(1), b"before\n").await;
    // A part of a record still fits.
    disk.set(|state| state.free = Some(40));
    let (pipe, end) = log.pipe("b.stdout", source(2), None).unwrap();
    for line in [b"lost line\n", b"also lost\n"] {
        let before = log.stat().dropped;
        write(&end, line);
        while log.stat().dropped == before {
            tokio::task::yield_now().await;
        }
    }
    let stat = log.stat();
    assert_eq!(stat.dropped, 20);
    assert_eq!(stat.error.as_deref(), Some("no space left on device"));
    disk.set(|state| state.free = None);
    write(&end, b"after\n");
    pipe.end().await;
    let got = texts(&log, Query::default()).await;
    assert_eq!(got, ["before", "Dropped 20", "after"]);
    assert_eq!(log.written() + log.stat().dropped, 7 + 20 + 6);
}

#[tokio::test]
async fn bytes_dropped_on_a_full_disk_are_told_without_further_output() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Bad::default());
    let life = Life::on(dir.path(), BIG, disk.clone());
    let log = life.open();
    disk.set(|state| state.free = Some(0));
    run(&log, "a.stdout", source(1), b"lost\n").await;
    let mut follower = log
        .read(Query {
            follow: true,
            ..Query::default()
        })
        .unwrap();
    disk.set(|state| state.free = None);
    let items = tokio::time::timeout(LONG, follower.next()).await.unwrap();
    assert_eq!(text(&items.unwrap().unwrap()[0]), "Dropped 5");
}

/// Runs [`fill_a_disk`] on a disk of its own, in a mount namespace of its own.
#[test]
fn a_disk_of_its_own_runs_full() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CIRCUIT_TESTS").is_none_or(|tests| tests != "all"));
        eprintln!("skipped: needs root, to mount a disk");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=256k none \"$FULL_DISK\" && exec \"$0\" \
                  --exact logs::tests::fill_a_disk --ignored --nocapture";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("FULL_DISK", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}

#[tokio::test]
#[ignore = "is run by another test"]
async fn fill_a_disk() {
    let dir = PathBuf::from(std::env::var_os("FULL_DISK").unwrap());
    let life = Life::new(&dir);
    // A tenth of the disk, unless told: here the disk is smaller than the log.
    assert!(tenth(&dir).unwrap() < 30 << 10);
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, [0; 64 << 10]).unwrap();
    let log = life.open();
    let lines = numbered(0, 100_000);
    run(&log, "a.stdout", source(1), &lines).await;
    let stat = log.stat();
    assert_eq!(log.written() + stat.dropped, lines.len() as u64);
    assert!(
        stat.bytes > 100 << 10 && stat.dropped > 500 << 10,
        "{stat:?}"
    );
    assert_eq!(stat.error.as_deref(), Some("no space left on device"));
    // Somebody makes room.
    std::fs::remove_file(&ballast).unwrap();
    run(&log, "b.stdout", source(2), b"after\n").await;
    let items = read(&log, Query::default()).await;
    let dropped = |item: &Item| match item {
        Item::Lost(lost) if lost.cause == Cause::Dropped => lost.bytes,
        _ => 0,
    };
    assert_eq!(items.iter().map(dropped).sum::<u64>(), stat.dropped);
    assert_eq!(text(items.last().unwrap()), "after");
}

#[tokio::test]
async fn a_pipe_belongs_to_the_user_that_writes_it() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CIRCUIT_TESTS").is_none_or(|tests| tests != "all"));
        eprintln!("skipped: needs root, to give a file away");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    let owner = (rustix::fs::Uid::from_raw(12), rustix::fs::Gid::from_raw(34));
    let (pipe, end) = log.pipe("a.stdout", source(1), Some(owner)).unwrap();
    let stat = rustix::fs::fstat(&end).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid), (12, 34));
    pipe.end().await;
}

#[tokio::test]
async fn the_next_life_adopts_a_pipe_and_goes_on_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    let (pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    write(&end, b"first life\nhalf ");
    while log.written() < 16 {
        tokio::task::yield_now().await;
    }
    drop((pipe, life, log));
    // Nobody reads.
    write(&end, b"a line\nbetween the lives\n");
    let life = Life::new(dir.path());
    assert_eq!(life.logs.pipes().unwrap(), ["a.stdout"]);
    assert_eq!(life.logs.kept().unwrap(), ["web"]);
    let log = life.open();
    assert!(log.adopt("b.stdout", source(1)).unwrap().is_none());
    let pipe = log.adopt("a.stdout", source(1)).unwrap().unwrap();
    write(&end, b"last words");
    drop(end);
    pipe.end().await;
    assert_eq!(
        texts(&log, Query::default()).await,
        [
            "first life",
            "half a line",
            "between the lives",
            "last words"
        ]
    );
    assert_eq!(life.logs.pipes().unwrap(), [""; 0]);
    assert_eq!(segments(dir.path()).len(), 1);
    std::fs::write(dir.path().join("pipes/file"), b"").unwrap();
    assert!(log.adopt("file", source(1)).is_err());
    life.logs.remove_pipe("file").unwrap();
    life.logs.remove_pipe("file").unwrap();
}

#[tokio::test]
async fn last_words_are_written_before_the_server_ends() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    let (pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    write(&end, &numbered(0, 1000));
    let ended = pipe.end();
    drop((life, end));
    ended.await;
    let life = Life::new(dir.path());
    assert_eq!(
        check_numbered(&read(&life.open(), Query::default()).await, 1000),
        0
    );
    assert_eq!(life.logs.pipes().unwrap(), [""; 0]);
}

#[tokio::test]
async fn deleting_a_file_by_hand_loses_that_segment_alone() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    // Segments of 4 KiB.
    let log = life.logs.open("web", 32 << 10).unwrap();
    let follow = Query {
        follow: true,
        ..Query::default()
    };
    let mut follower = log.read(follow).unwrap();
    run(&log, "a.stdout", source(1), b"one\n").await;
    std::fs::remove_file(&segments(dir.path())[0]).unwrap();
    run(&log, "b.stdout", source(1), b"two\n").await;
    assert_eq!(texts(&log, Query::default()).await, ["two"]);
    // All of it, and the directory.
    std::fs::remove_dir_all(dir.path().join("kept/web")).unwrap();
    run(&log, "c.stdout", source(1), b"three\n").await;
    assert_eq!(texts(&log, Query::default()).await, ["three"]);
    let mut got = Vec::new();
    while got.last().is_none_or(|last| last != "three") {
        got.extend(follower.next().await.unwrap().unwrap().iter().map(text));
    }
    // One before another: a segment in the middle.
    run(&log, "d.stdout", source(1), &[b'd'; 3000]).await;
    run(&log, "e.stdout", source(1), &[b'e'; 3000]).await;
    run(&log, "f.stdout", source(1), b"end\n").await;
    let paths = segments(dir.path());
    assert_eq!(paths.len(), 2);
    std::fs::remove_file(&paths[0]).unwrap();
    let got = texts(&log, Query::default()).await;
    assert!(got[0].starts_with("Deleted"), "{got:?}");
    assert_eq!(got[1..], ["e".repeat(3000), "end".to_owned()]);
}

#[tokio::test]
async fn a_file_that_is_cut_off_or_replaced_ends_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    run(&log, "a.stdout", source(1), &numbered(0, 1000)).await;
    let path = segments(dir.path()).remove(0);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(100).unwrap();
    let got = texts(&log, Query::default()).await;
    assert!(got.last().unwrap().starts_with("Damaged"), "{got:?}");
    run(&log, "b.stdout", source(1), b"more\n").await;
    assert_eq!(texts(&log, Query::default()).await.last().unwrap(), "more");
    std::fs::write(&path, b"something else").unwrap();
    let got = texts(&log, Query::default()).await;
    assert!(got[0].starts_with("Damaged"), "{got:?}");
}

#[tokio::test]
async fn a_reader_that_is_overtaken_is_told_how_much_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.logs.open("web", 64 << 10).unwrap();
    let follow = Query {
        follow: true,
        ..Query::default()
    };
    let mut follower = log.read(follow).unwrap();
    run(&log, "a.stdout", source(1), b"first\n").await;
    assert_eq!(text(&follower.next().await.unwrap().unwrap()[0]), "first");
    let seen = log.stat().bytes;
    run(&log, "b.stdout", source(1), &numbered(0, 50_000)).await;
    let mut items = Vec::new();
    loop {
        items.extend(follower.next().await.unwrap().unwrap());
        if text(items.last().unwrap()) == "line 49999" {
            break;
        }
    }
    let Item::Lost(lost) = &items[0] else {
        panic!("{:?}", items[0])
    };
    assert_eq!((lost.cause, lost.from), (Cause::Deleted, None));
    let end = log.inner_end();
    assert_eq!(seen + lost.bytes + log.stat().bytes, end);
    check_numbered(&items[2..], 50_000);
}

#[tokio::test]
async fn the_last_lines_are_the_end_of_all_lines() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    // Lines of two streams and two slots, in records that end within lines.
    let sources = [
        (1, Stream::Stdout),
        (1, Stream::Stderr),
        (2, Stream::Stdout),
    ];
    let mut ends = Vec::new();
    for (index, (slot, stream)) in sources.into_iter().enumerate() {
        let source = Source {
            slot,
            instance: 1,
            stream,
        };
        ends.push(log.pipe(&format!("{index}"), source, None).unwrap());
    }
    let mut sent = 0;
    for number in 0..600 {
        let piece = format!("{}{number}", "-".repeat(number * 37 % 4000));
        let piece = match number % 3 {
            0 => format!("{piece}\n{piece}\n"),
            1 => piece,
            _ => format!("{piece}\n"),
        };
        write(&ends[number % 5 % 3].1, piece.as_bytes());
        sent += piece.len() as u64;
        while log.written() < sent {
            tokio::task::yield_now().await;
        }
    }
    for stream in [None, Some(Stream::Stdout), Some(Stream::Stderr)] {
        for slot in [None, Some(1), Some(2), Some(3)] {
            let query = Query {
                stream,
                slot,
                ..Query::default()
            };
            let all = read(&log, query).await;
            assert_eq!(
                all.is_empty(),
                slot == Some(3) || (slot, stream) == (Some(2), Some(Stream::Stderr))
            );
            for last in [0, 1, 2, 10, 100, 300, 10_000] {
                let query = Query {
                    last: Some(last),
                    ..query
                };
                let got = read(&log, query).await;
                let expected = &all[all.len().saturating_sub(last as usize)..];
                assert!(got == expected, "{query:?}: {} lines", got.len());
            }
        }
    }
    for (pipe, _) in ends {
        pipe.end().await;
    }
}

#[tokio::test]
async fn sources_that_were_quiet_for_long_lose_no_line_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    let slot = |slot: u16| Source { slot, ..source(1) };
    let (pipe, end) = log.pipe("2.stdout", slot(2), None).unwrap();
    let (half_pipe, half_end) = log.pipe("3.stdout", slot(3), None).unwrap();
    write(&end, b"quiet\n");
    write(&half_end, b"beginning ");
    run(&log, "a.stdout", source(1), &numbered(0, 100_000)).await;
    let query = Query {
        last: Some(3),
        ..Query::default()
    };
    let follow = Query {
        follow: true,
        ..query
    };
    let mut follower = log.read(follow).unwrap();
    let items = follower.next().await.unwrap().unwrap();
    assert_eq!(check_numbered(&items, 100_000), 99_997);
    write(&end, b"a whole line\n");
    pipe.end().await;
    write(&half_end, b"end\n");
    half_pipe.end().await;
    let mut got = Vec::new();
    while got.len() < 2 {
        got.extend(follower.next().await.unwrap().unwrap().iter().map(text));
    }
    // The beginning of the other is further from the end than this reader began.
    assert_eq!(got, ["a whole line", "end"]);
    assert_eq!(
        texts(&log, query).await,
        ["line 99999", "a whole line", "beginning end"]
    );
}

#[tokio::test]
async fn a_disk_that_hangs_slows_no_child_whatever_it_writes() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Bad::default());
    let life = Life::on(dir.path(), BIG, disk.clone());
    let log = life.open();
    disk.set(|state| state.hangs = true);
    let errors = Source {
        stream: Stream::Stderr,
        ..source(1)
    };
    let (_pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    let (_errors_pipe, errors_end) = log.pipe("a.stderr", errors, None).unwrap();
    let begin = Instant::now();
    let mut sent = 0;
    // Large chunks that are dropped for small ones leave some room, though the disk still hangs.
    for _ in 0..400 {
        write(&end, &[b'x'; 256 << 10]);
        write(&errors_end, b"x\n");
        sent += (256 << 10) + 2;
    }
    while log.stat().dropped < sent - 2 * queue::SLOT as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Less than a tenth of what it takes if each of them waits.
    let took = begin.elapsed();
    assert!(took < 40 * queue::PATIENCE, "{took:?}");
    disk.set(|state| state.hangs = false);
}

#[tokio::test]
async fn only_lines_since_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    run(&log, "a.stdout", source(1), b"before\n").await;
    // The clock of the records, finer than any that writes them.
    let since = SystemTime::now();
    run(&log, "b.stdout", source(1), b"after\nand later\n").await;
    let mut query = Query {
        since: Some(since),
        ..Query::default()
    };
    assert_eq!(texts(&log, query).await, ["after", "and later"]);
    query.last = Some(1);
    assert_eq!(texts(&log, query).await, ["and later"]);
    query.since = Some(SystemTime::now() + LONG);
    assert_eq!(texts(&log, query).await, [""; 0]);
}

#[tokio::test]
async fn a_follower_gets_new_lines_though_the_clock_was_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    run(&log, "a.stdout", source(1), b"before\n").await;
    let query = Query {
        since: Some(SystemTime::now() + LONG),
        follow: true,
        ..Query::default()
    };
    let mut follower = log.read(query).unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(50), follower.next());
    assert!(waiting.await.is_err());
    run(&log, "b.stdout", source(1), b"after\n").await;
    let items = follower.next().await.unwrap().unwrap();
    assert_eq!(text(&items[0]), "after");
}

#[tokio::test]
async fn a_long_line_comes_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    let bytes = [b"x".repeat(150_000), b"\nshort\n".to_vec()].concat();
    run(&log, "a.stdout", source(1), &bytes).await;
    let items = read(&log, Query::default()).await;
    let lengths: Vec<(usize, bool)> = items
        .iter()
        .map(|item| match item {
            Item::Entry(entry) => (entry.bytes.len(), entry.ended),
            Item::Lost(lost) => panic!("{lost:?}"),
        })
        .collect();
    assert_eq!(
        lengths,
        [(65536, false), (65536, false), (18928, true), (5, true)]
    );
}

#[tokio::test]
async fn a_follower_gets_a_line_soon_and_ends_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    run(&log, "a.stdout", source(1), &numbered(0, 300)).await;
    let query = Query {
        last: Some(2),
        follow: true,
        ..Query::default()
    };
    let mut follower = log.read(query).unwrap();
    let items = follower.next().await.unwrap().unwrap();
    assert_eq!(check_numbered(&items, 300), 298);
    let (pipe, end) = log.pipe("b.stdout", source(2), None).unwrap();
    // A reader that is dropped while it waits loses nothing.
    let waiting = tokio::time::timeout(Duration::from_millis(1), follower.next());
    assert!(waiting.await.is_err());
    let mut waits = Vec::new();
    for number in 0..50 {
        let begin = Instant::now();
        write(&end, &numbered(number, number + 1));
        let items = follower.next().await.unwrap().unwrap();
        waits.push(begin.elapsed());
        assert_eq!(text(&items[0]), format!("line {number}"));
    }
    waits.sort();
    assert!(waits[25] <= Duration::from_millis(5), "{:?}", waits[25]);
    write(&end, b"last words");
    pipe.end().await;
    let items = follower.next().await.unwrap().unwrap();
    assert_eq!(text(&items[0]), "last words");
    let gone = log.forget();
    assert!(follower.next().await.unwrap().is_none());
    gone.await;
    assert!(!dir.path().join("kept/web").exists());
}

#[tokio::test]
async fn a_log_that_is_forgotten_leaves_nothing_and_its_name_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Bad::default());
    let life = Life::on(dir.path(), BIG, disk.clone());
    let log = life.open();
    let (pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    disk.set(|state| state.hangs = true);
    write(&end, b"old\n");
    disk.hung();
    write(&end, b"older\n");
    let gone = log.clone().forget();
    let new = life.open();
    run_later(&new, "b.stdout", b"new\n");
    disk.set(|state| state.hangs = false);
    gone.await;
    write(&end, b"thrown away\n");
    pipe.end().await;
    log.clone().forget().await;
    while new.written() < 4 {
        tokio::task::yield_now().await;
    }
    assert_eq!(texts(&new, Query::default()).await, ["new"]);
    assert_eq!(life.logs.held(), new.stat().bytes);
    assert_eq!(life.logs.pipes().unwrap(), [""; 0]);
}

/// Has a child write and end.
fn run_later(log: &Log, name: &str, bytes: &[u8]) {
    let (pipe, end) = log.pipe(name, source(1), None).unwrap();
    write(&end, bytes);
    drop(pipe.end());
}

#[tokio::test]
async fn all_logs_together_keep_to_their_bound() {
    let dir = tempfile::tempdir().unwrap();
    let bound = 1 << 20;
    let life = Life::on(dir.path(), bound, Arc::new(System));
    let quiet = life.logs.open("quiet", DEFAULT_BYTES).unwrap();
    run(&quiet, "q", source(1), b"quiet\n").await;
    let loud = ["a", "b", "c"].map(|name| life.logs.open(name, DEFAULT_BYTES).unwrap());
    for round in 0..6 {
        for (index, log) in loud.iter().enumerate() {
            let name = format!("{index}.{round}");
            run(log, &name, source(round), &numbered(0, 20_000)).await;
            assert!(life.logs.held() <= bound, "{}", life.logs.held());
        }
    }
    let held = |name: &str| {
        let entries = std::fs::read_dir(dir.path().join("kept").join(name)).unwrap();
        entries
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum::<u64>()
    };
    let all: u64 = ["quiet", "a", "b", "c"].map(held).iter().sum();
    assert_eq!(all, life.logs.held());
    assert!(all > bound / 2, "{all}");
    assert_eq!(texts(&quiet, Query::default()).await, ["quiet"]);
    for log in &loud {
        let lines = read(
            log,
            Query {
                last: Some(100),
                ..Query::default()
            },
        )
        .await;
        assert_eq!(check_numbered(&lines, 20_000), 19_900);
    }
}

#[tokio::test]
async fn a_pipe_is_large_only_while_it_is_busy() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    let (pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    let size = || rustix::pipe::fcntl_getpipe_size(&end).unwrap();
    write(&end, &[b'x'; 1 << 20]);
    assert_eq!(size(), 1 << 20);
    let until = Instant::now() + LONG;
    while size() != pipe::AT_REST {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pipe.end().await;
}

/// A child that writes as fast as it can, for a while; how many bytes it wrote.
fn writes_for(end: OwnedFd, time: Duration) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let block = numbered(1_000_000, 1_005_000);
        let (begin, mut sent) = (Instant::now(), 0);
        while begin.elapsed() < time {
            write(&end, &block);
            sent += block.len() as u64;
        }
        sent
    })
}

/// `cargo test --release -- --ignored --nocapture logs::tests::speed`
#[tokio::test]
#[ignore = "a measurement"]
async fn speed() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    let (pipe, end) = log.pipe("a.stdout", source(1), None).unwrap();
    let begin = Instant::now();
    let sent = writes_for(end, Duration::from_secs(5)).join().unwrap();
    pipe.end().await;
    let seconds = begin.elapsed().as_secs_f64();
    let rate = |bytes: u64| bytes as f64 / seconds / 1e6;
    let (written, dropped) = (log.written(), log.stat().dropped);
    assert_eq!(written + dropped, sent);
    eprintln!(
        "{:.0} MB/s written, {:.0} MB/s dropped",
        rate(written),
        rate(dropped)
    );
    let begin = Instant::now();
    let lines = read(&log, Query::default()).await.len();
    eprintln!("{lines} lines read in {:?}", begin.elapsed());
    let begin = Instant::now();
    let last = Query {
        last: Some(100),
        ..Query::default()
    };
    assert_eq!(read(&log, last).await.len(), 100);
    eprintln!("the last 100 in {:?}", begin.elapsed());
}

/// `cargo test -- --ignored --nocapture logs::tests::rest`, alone in its process.
#[tokio::test]
#[ignore = "a measurement"]
async fn rest() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let memory = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let (before, before_memory) = (open(), memory());
    let mut pipes = Vec::new();
    for number in 0..1000_u64 {
        let log = life.logs.open(&format!("{number}"), DEFAULT_BYTES).unwrap();
        let (pipe, end) = log.pipe(&format!("{number}.o"), source(1), None).unwrap();
        write(&end, b"hello\n");
        while log.written() < 6 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        pipes.push((pipe, end, log));
    }
    // How often the two threads have run.
    let runs = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let status = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")));
        let ours = status
            .map(Result::unwrap)
            .filter(|status| status.contains("\tlog "));
        let count = |status: String| {
            let line = status
                .lines()
                .find(|line| line.starts_with("voluntary"))
                .unwrap();
            line.split('\t').nth(1).unwrap().parse::<u64>().unwrap()
        };
        let counts: Vec<u64> = ours.map(count).collect();
        assert_eq!(counts.len(), 2);
        counts.iter().sum::<u64>()
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ran = runs();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let descriptors = open() - before - pipes.len();
    let memory = (memory() - before_memory) / pipes.len();
    eprintln!(
        "a thousand pipes in a thousand logs: {descriptors} descriptors without the children's"
    );
    eprintln!(
        "{memory} bytes of memory each, {} wake-ups in 5 s",
        runs() - ran
    );
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    std::fs::remove_dir(dir.path().join("pipes")).unwrap();
    let error = log.pipe("a", source(1), None).unwrap_err();
    let path = dir.path().join("pipes/a");
    assert_eq!(error.to_string(), format!("cannot use {}", path.display()));
}
