//! Which lines readers and followers get.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::logs::cursor::Cursor;

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
    let end = log.inner().index.lock().end();
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
async fn a_read_that_finds_little_has_an_end_soon() {
    let dir = tempfile::tempdir().unwrap();
    let life = Life::new(dir.path());
    let log = life.open();
    const ALL: usize = 9 << 20;
    let rare = Source {
        slot: 2,
        ..source(1)
    };
    run(&log, "a", rare, b"rare\n").await;
    run(&log, "b", source(1), &numbered(0, ALL / 10)).await;
    let query = Query {
        slot: Some(2),
        ..Query::default()
    };
    let never = AtomicBool::new(false);
    let mut cursor = Cursor::new(log.inner(), query, &never).unwrap();
    let first = cursor.next().unwrap();
    assert!(first.items.len() == 1 && !first.at_end);
    assert_eq!(texts(&log, query).await, ["rare"]);
    // Whoever wanted the last line has gone: it is sought no further.
    let last = Query {
        last: Some(2),
        ..query
    };
    let mut cursor = Cursor::new(log.inner(), last, &AtomicBool::new(true)).unwrap();
    let near = cursor.next().unwrap();
    assert!(near.items.is_empty() && near.at_end, "{near:?}");
}
