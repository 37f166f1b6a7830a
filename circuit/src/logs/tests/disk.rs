//! Disks that hang, fail or are full, and files that are damaged or deleted.

use std::io::IoSlice;
use std::sync::atomic::AtomicU64;

use parking_lot::Condvar;

use super::*;
use crate::logs::writer::Disk;

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
    assert_eq!(segments(dir.path()).len(), 1);
    disk.set(|state| state.free = None);
    write(&end, b"after\n");
    pipe.end().await;
    let got = texts(&log, Query::default()).await;
    assert_eq!(got, ["before", "Dropped 20", "after"]);
    assert_eq!(log.written() + log.stat().dropped, 7 + 20 + 6);
}

#[tokio::test]
async fn a_log_that_begins_on_a_full_disk_has_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Bad::default());
    let life = Life::on(dir.path(), BIG, disk.clone());
    let log = life.open();
    // None of the header fits, then a part of it.
    for free in [0, 20] {
        disk.set(|state| state.free = Some(free));
        for round in 0..5 {
            run(&log, &format!("{free}.{round}"), source(1), b"lost\n").await;
        }
    }
    assert_eq!(segments(dir.path()).len(), 1);
    disk.set(|state| state.free = None);
    run(&log, "b.stdout", source(2), b"after\n").await;
    assert_eq!(texts(&log, Query::default()).await, ["Dropped 50", "after"]);
    drop((life, log));
    let life = Life::new(dir.path());
    let got = texts(&life.open(), Query::default()).await;
    assert_eq!(got, ["Dropped 50", "after"]);
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
                  --exact logs::tests::disk::fill_a_disk --ignored --nocapture";
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
    // As many as have something in them, and one that is to be written.
    let empty = |path: &PathBuf| path.metadata().unwrap().len() == 0;
    assert!(segments(&dir).iter().filter(|path| empty(path)).count() <= 1);
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
