//! Channels: one producer and one consumer, each with a connection and a thread of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use circuit_client::{Address, Chan, Client, Key, Path, ServerId};

use crate::table::{Table, median, short};
use crate::{Ended, Result, runtime};

/// How to reach the circuit, from any thread.
#[derive(Clone)]
pub(crate) struct Circuit {
    /// How rows are marked.
    pub(crate) over: &'static str,
    /// The server that hosts the channels.
    pub(crate) host: Address,
    /// Another server of the circuit.
    pub(crate) other: Address,
    /// The id of the host.
    pub(crate) id: ServerId,
    /// The key.
    pub(crate) key: Key,
}

const ROUNDS: usize = 5;
const SMALL: usize = 64;

/// All that is measured of channels.
pub(crate) fn measure(table: &mut Table, circuits: &[Circuit]) -> Result<()> {
    let redis = Redis::start()?;
    for circuit in circuits {
        measure_one(table, circuit, redis.as_ref())?;
    }
    Ok(())
}

fn measure_one(table: &mut Table, circuit: &Circuit, redis: Option<&Redis>) -> Result<()> {
    let over = circuit.over;
    for capacity in [0, 100] {
        const MESSAGES: usize = 3000;
        let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let our = singles(circuit, capacity, MESSAGES)?;
            let their = match redis {
                Some(redis) => redis.messages(MESSAGES)?,
                None => f64::NAN,
            };
            if round > 0 {
                ours.push(our);
                theirs.push(their);
                ratios.push(our / their);
            }
        }
        let yardstick = match redis {
            Some(_) => format!(
                "{} × Redis' {}/s",
                short(median(&ratios)),
                short(median(&theirs))
            ),
            None => "skipped: needs redis-server".to_owned(),
        };
        let what = format!("single messages of 64 B, capacity {capacity}{over}");
        table.add(&what, "/s", &ours, Some(yardstick), "≥ 6,000");
    }
    for (length, messages, what, goal) in [
        (SMALL, 200_000, "many messages of 64 B", "≥ 150,000"),
        (4096, 20_000, "many messages of 4 KiB", ""),
    ] {
        let mut rates = Vec::new();
        for round in 0..=ROUNDS {
            let rate = many(circuit, length, messages)?;
            if round > 0 {
                rates.push(rate);
            }
        }
        table.add(&format!("{what}{over}"), "/s", &rates, None, goal);
    }
    for (through, what, goal) in [
        (&circuit.host, "a message of 256 MiB", "≥ 300"),
        (&circuit.other, "the same through another server", ""),
    ] {
        let mut rates = Vec::new();
        for round in 0..=ROUNDS {
            let rate = long(circuit, through)?;
            if round > 0 {
                rates.push(rate);
            }
        }
        table.add(&format!("{what}{over}"), "MB/s", &rates, None, goal);
    }
    Ok(())
}

/// Makes a channel on the host, has both sides work at it, and takes the time.
fn timed<P, C>(
    circuit: &Circuit,
    through: &Address,
    capacity: u64,
    producer: impl FnOnce(Chan) -> P + Send + 'static,
    consumer: impl FnOnce(Chan) -> C,
) -> Result<Duration>
where
    P: Future<Output = std::result::Result<(), circuit_client::Error>>,
    C: Future<Output = std::result::Result<(), circuit_client::Error>>,
{
    let path = Path::of_server(circuit.id).join("bench/channel")?;
    let runtime = runtime()?;
    let client = runtime.block_on(Client::dial(through, Some(&circuit.key)))?;
    let chan = runtime.block_on(client.anchor(path.clone()).make_chan(capacity))?;
    let (ready, go) = std::sync::mpsc::channel();
    let (address, key) = (through.clone(), circuit.key.clone());
    let producing = thread::spawn(move || -> std::result::Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let runtime = crate::runtime().map_err(|e| text(&e))?;
        runtime.block_on(async {
            let client = Client::dial(&address, Some(&key))
                .await
                .map_err(|e| text(&e))?;
            let chan = client.anchor(path).chan();
            // The consumer begins when the producer is connected.
            ready.send(()).map_err(|e| text(&e))?;
            producer(chan).await.map_err(|e| text(&e))?;
            client.close().await;
            Ok(())
        })
    });
    go.recv()?;
    let begin = Instant::now();
    let consumed = runtime.block_on(consumer(chan.clone()));
    let took = begin.elapsed();
    producing.join().map_err(|_| "the producer panicked")??;
    consumed?;
    runtime.block_on(async {
        let scrubbed = chan.scrub().await;
        client.close().await;
        scrubbed
    })?;
    Ok(took)
}

fn singles(circuit: &Circuit, capacity: u64, messages: usize) -> Result<f64> {
    let took = timed(
        circuit,
        &circuit.host,
        capacity,
        move |chan| async move {
            let message = Bytes::from_static(&[7; SMALL]);
            for _ in 0..messages {
                chan.send_all(message.clone()).await?;
            }
            Ok(())
        },
        |chan| async move {
            for _ in 0..messages {
                chan.recv_all(1 << 20).await?;
            }
            Ok(())
        },
    )?;
    Ok(messages as f64 / took.as_secs_f64())
}

fn many(circuit: &Circuit, length: usize, messages: usize) -> Result<f64> {
    let took = timed(
        circuit,
        &circuit.host,
        1000,
        move |chan| async move {
            let message = vec![7; length];
            let mut sender = chan.sender().await?;
            for _ in 0..messages {
                sender.feed(&message).await?;
            }
            sender.finish().await
        },
        |chan| async move {
            let mut receiver = chan.receiver().await?;
            let mut received = 0;
            while received < messages {
                received += receiver.recv_many(1000).await?.len();
            }
            Ok(())
        },
    )?;
    Ok(messages as f64 / took.as_secs_f64())
}

/// The length of the long message.
const LONG: usize = 256 << 20;

fn long(circuit: &Circuit, through: &Address) -> Result<f64> {
    let took = timed(
        circuit,
        through,
        0,
        |chan| async move {
            let chunk = Bytes::from(vec![7; 64 << 10]);
            let mut message = chan.send().await?;
            for _ in 0..LONG / chunk.len() {
                message.send(chunk.clone()).await?;
            }
            message.finish().await
        },
        |chan| async move {
            let mut message = chan.recv().await?;
            while message.chunk().await?.is_some() {}
            message.accept().await
        },
    )?;
    Ok(LONG as f64 / 1e6 / took.as_secs_f64())
}

/// The yardstick: a Redis of our own, on a free port of loopback, that stores nothing.
struct Redis {
    port: u16,
    _server: Ended,
}

impl Redis {
    /// `None` where it is not installed.
    fn start() -> Result<Option<Redis>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let Ok(child) = command.spawn() else {
            return Ok(None);
        };
        let server = Ended(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                return Err("redis-server does not answer".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Some(Redis {
            port,
            _server: server,
        }))
    }

    /// `LPUSH` on one connection, `BRPOP` on another.
    fn messages(&self, messages: usize) -> Result<f64> {
        let connect = || -> Result<TcpStream> {
            let stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let (push, mut pop) = (connect()?, connect()?);
        let producing = thread::spawn(move || -> std::io::Result<()> {
            let mut push = push;
            let mut answers = BufReader::new(push.try_clone()?);
            let body = "7".repeat(SMALL);
            let request = format!("*3\r\n$5\r\nLPUSH\r\n$4\r\nlist\r\n${SMALL}\r\n{body}\r\n");
            let mut line = String::new();
            for _ in 0..messages {
                push.write_all(request.as_bytes())?;
                line.clear();
                answers.read_line(&mut line)?;
            }
            Ok(())
        });
        let begin = Instant::now();
        let mut answer = vec![0; "*2\r\n$4\r\nlist\r\n$64\r\n\r\n".len() + SMALL];
        let mut answers = BufReader::new(pop.try_clone()?);
        for _ in 0..messages {
            pop.write_all(b"*3\r\n$5\r\nBRPOP\r\n$4\r\nlist\r\n$1\r\n0\r\n")?;
            answers.read_exact(&mut answer)?;
        }
        let took = begin.elapsed();
        producing.join().map_err(|_| "the producer panicked")??;
        Ok(messages as f64 / took.as_secs_f64())
    }
}
