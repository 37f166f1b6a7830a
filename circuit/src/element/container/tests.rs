//! A container element on an Engine that is played here: it never ends a container by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::*;

/// How long a test waits for the element before it fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// The Engine's answer about a container.
const STATE: &str = r#"{"State": {"Running": true, "Pid": 0}}"#;

/// An Engine, and the names of its open connections that last as long as a container.
struct Played {
    open: watch::Receiver<BTreeSet<&'static str>>,
    engine: Arc<Engine>,
    _dir: tempfile::TempDir,
}

impl Played {
    async fn start() -> Played {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (opened, open) = watch::channel(BTreeSet::new());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let opened = opened.clone();
                tokio::spawn(async move {
                    // These tests are about clients that go away, so an error is none.
                    let _ = serve(stream, &opened).await;
                });
            }
        });
        let address = format!("unix://{}", socket.display()).parse().unwrap();
        let engine = Arc::new(Engine::at(address).await.unwrap());
        Played {
            open,
            engine,
            _dir: dir,
        }
    }

    async fn container(&self) -> Arc<Container> {
        let path = "/X88550014d4c82e4d/c".parse().unwrap();
        let runtime = Runtime::alone();
        let (engine, run) = (self.engine.clone(), Run::new("image"));
        Container::start(engine, run, &path, &runtime)
            .await
            .unwrap()
    }

    async fn has_open(&mut self, expected: &[&'static str]) {
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        let same = self.open.wait_for(|open| *open == expected);
        let waited = tokio::time::timeout(DEADLINE, same).await.is_ok();
        let open = self.open.borrow().clone();
        assert!(waited, "open are {open:?}, not {expected:?}");
    }
}

/// Answers the request of a connection. Requests that last as long as the container get the
/// beginning of an answer.
async fn serve(
    mut stream: UnixStream,
    opened: &watch::Sender<BTreeSet<&'static str>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1);
    let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).await?;
    let line = head.lines().next().unwrap();
    let has = |part: &str| line.contains(part);
    let upgraded = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    let lasting = match () {
        () if has("/attach?") && has("stdin=true") => Some(("stdin", upgraded)),
        () if has("/attach?") && has("stdout=true") => Some(("stdout", upgraded)),
        () if has("/attach?") => Some(("stderr", upgraded)),
        () if has("/wait?") => Some((
            "wait",
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        )),
        () => None,
    };
    let Some((name, answer)) = lasting else {
        let (status, body) = match () {
            () if has("/containers/create") => ("201 Created", r#"{"Id": "c0", "Warnings": []}"#),
            () if has("/json") => ("200 OK", STATE),
            () if has("_ping") => ("200 OK", "OK"),
            () => ("204 No Content", ""),
        };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        return stream.write_all(answer.as_bytes()).await;
    };
    stream.write_all(answer.as_bytes()).await?;
    opened.send_modify(|open| {
        open.insert(name);
    });
    // The element closes its end of the connection. This container reads none of its stdin.
    let closed = match name {
        "stdin" => {
            // Unread bytes keep the stream ready. So the readiness is cleared each time, as a read
            // that would block does, until the next event is the end.
            while !stream.ready(Interest::READABLE).await?.is_read_closed() {
                let again = || std::io::Result::<()>::Err(std::io::ErrorKind::WouldBlock.into());
                let _ = stream.try_io(Interest::READABLE, again);
            }
            Ok(())
        }
        _ => stream.read_to_end(&mut Vec::new()).await.map(|_| ()),
    };
    opened.send_modify(|open| {
        open.remove(name);
    });
    closed
}

const ALL: [&str; 4] = ["stderr", "stdin", "stdout", "wait"];

#[tokio::test]
async fn scrubbing_a_running_container_lets_go_of_its_engine() {
    let mut played = Played::start().await;
    let container = played.container().await;
    played.has_open(&ALL).await;
    container.scrub();
    played.has_open(&[]).await;
}

#[tokio::test]
async fn scrubbing_a_container_that_does_not_read_lets_go_of_its_engine() {
    let mut played = Played::start().await;
    let container = played.container().await;
    played.has_open(&ALL).await;
    let mut writing = container.streams.stdin.attach(&"a test".into()).unwrap();
    let data = vec![0; 4 << 20];
    let written = writing.write(&data);
    let blocks = tokio::time::timeout(Duration::from_secs(1), written).await;
    assert!(blocks.is_err(), "more than an Engine holds is taken");
    drop(writing);
    container.scrub();
    played.has_open(&[]).await;
}
