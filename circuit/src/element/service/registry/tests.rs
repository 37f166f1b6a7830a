//! The start and the end of all services.

use std::time::Duration;

use super::*;
use crate::logs::{Query, Source, Stream};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

fn services(var: Option<&Path>, runtime: Option<&Path>) -> Arc<Services> {
    let place = Place {
        server: "/x".to_owned(),
        socket: None,
        var: var.map(Path::to_owned),
        runtime: runtime.map(Path::to_owned),
        logs: Some(1 << 30),
    };
    Services::new(place, &Tree::new(), &Runtime::alone())
}

#[tokio::test]
async fn the_end_writes_last_words_and_ends_the_store_and_the_logs() {
    let dir = tempfile::tempdir().unwrap();
    let life = services(Some(dir.path()), None);
    let log = life.log(1, DEFAULT_BYTES).await.unwrap();
    let from = Source {
        slot: 1,
        instance: 1,
        stream: Stream::Stdout,
    };
    let (pipe, end) = log.pipe("last", from, None).unwrap();
    let follow = Query {
        follow: true,
        ..Query::default()
    };
    let mut follower = log.read(follow).unwrap();
    rustix::io::write(&end, b"last words\n").unwrap();
    drop(pipe.end());
    life.close().await;
    let all = async {
        let mut lines = 0;
        while let Some(items) = follower.next().await.unwrap() {
            lines += items.len();
        }
        lines
    };
    assert_eq!(tokio::time::timeout(LONG, all).await, Ok(1));
    assert!(log.pipe("later", from, None).is_err());
    // The store is closed: its log is in its database.
    assert!(dir.path().join("store.db").exists());
    assert!(!dir.path().join("store.db-wal").exists());
}

#[tokio::test]
async fn the_end_leaves_no_private_directory() {
    let runtime = tempfile::tempdir().unwrap();
    let life = services(None, Some(runtime.path()));
    life.kept().await.unwrap();
    assert_eq!(std::fs::read_dir(runtime.path()).unwrap().count(), 1);
    life.close().await;
    assert_eq!(std::fs::read_dir(runtime.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_store_that_is_missing_refuses_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let life = services(Some(dir.path()), None);
    life.start().await.unwrap();
    assert!(life.dir().is_none());
    life.kept().await.unwrap();
    life.close().await;
    drop(life);
    std::fs::remove_file(dir.path().join("store.db")).unwrap();
    let life = services(Some(dir.path()), None);
    let error = life.start().await.unwrap_err();
    assert!(error.message.contains("store.db"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_read_of_a_killed_server_stays() {
    let runtime = tempfile::tempdir().unwrap();
    let [empty, damaged] = ["state-1-00000000", "state-2-00000000"].map(|name| {
        let dir = runtime.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    });
    std::fs::write(damaged.join("store.db"), "no database").unwrap();
    let life = services(None, Some(runtime.path()));
    life.start().await.unwrap();
    let gone = async {
        while empty.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
    assert!(damaged.join("store.db").exists());
}
