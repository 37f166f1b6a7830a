//! Measurements.

use std::thread::JoinHandle;

use super::*;

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

/// `cargo test --release -- --ignored --nocapture logs::tests::cost::speed`
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

/// `cargo test -- --ignored --nocapture logs::tests::cost::rest`, alone in its process.
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
