//! The parts together, from the child's end of a pipe to a reader.

mod cost;
mod disk;
mod reading;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::writer::System;
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

#[test]
fn a_pipe_without_a_name_is_as_a_fifo_for_both_ends() {
    let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
    assert!(pipe::is_of_disk(&full));
    assert!(!pipe::is_of_disk(&io::ErrorKind::AlreadyExists.into()));
    let (ours, child) = pipe::nameless(None).unwrap();
    let mut bytes = [0; 8];
    // Ours does not wait, and has no end of file.
    let none = rustix::io::read(&ours, &mut bytes);
    assert_eq!(none, Err(rustix::io::Errno::AGAIN));
    // The child's may be read too, and so is never without a reader.
    let flags = rustix::fs::fcntl_getfl(&child).unwrap();
    assert_eq!(flags & (OFlags::RDWR | OFlags::NONBLOCK), OFlags::RDWR);
    rustix::io::write(&child, b"said").unwrap();
    drop(child);
    assert_eq!(rustix::io::read(&ours, &mut bytes), Ok(4));
    assert_eq!(
        rustix::io::read(&ours, &mut bytes),
        Err(rustix::io::Errno::AGAIN)
    );
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
