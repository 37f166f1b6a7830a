//! The measurements.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use circuit_client::{Address, Anchor, Client, Cmd, Sink};
use tokio::task::JoinSet;

use crate::Result;
use crate::raw::Raw;
use crate::table::{Table, median, short};

/// The program that is spawned.
const PROGRAM: &str = "/bin/true";

/// Round trips of `peek` on a warm connection, in turns with raw requests.
pub(crate) async fn round_trips(
    table: &mut Table,
    what: &str,
    client: &Client,
    raw: &mut Raw,
) -> Result<()> {
    const ROUNDS: usize = 15;
    const EACH: u32 = 500;
    // A channel: its status is small, and does not grow with what servers count.
    let chan = own_server(client).await?.walk("peek")?.make_chan(0).await?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let begin = Instant::now();
        for _ in 0..EACH {
            chan.peek().await?;
        }
        let our = micros(begin.elapsed()) / f64::from(EACH);
        let begin = Instant::now();
        for _ in 0..EACH {
            raw.request().await?;
        }
        let their = micros(begin.elapsed()) / f64::from(EACH);
        // The first round warms up.
        if round > 0 {
            ours.push(our);
            theirs.push(their);
            ratios.push(our / their);
        }
    }
    chan.scrub().await?;
    let yardstick = format!(
        "{} × {}'s {} µs",
        short(median(&ratios)),
        raw.name(),
        short(median(&theirs))
    );
    let goal = match raw {
        Raw::Quic(_) => "≤ 1.2 × raw QUIC",
        Raw::Unix(_) => "≤ 1.5 × a raw socket",
    };
    table.add(what, "µs", &ours, Some(yardstick), goal);
    Ok(())
}

/// `circuit ls /`, from the start of the process to its end, in turns with `circuit --version`, which
/// asks nobody.
pub(crate) fn whole_command(
    table: &mut Table,
    binary: &Path,
    place: &Path,
    over: &str,
    address: &Address,
) -> Result<()> {
    const ROUNDS: usize = 40;
    let timed = |arguments: &[&str]| -> Result<f64> {
        let mut command = Command::new(binary);
        command.args(arguments).env("XDG_RUNTIME_DIR", place);
        let begin = Instant::now();
        match command.stdout(Stdio::null()).status()?.success() {
            true => Ok(micros(begin.elapsed()) / 1e3),
            false => Err(format!("circuit {} failed", arguments.join(" ")).into()),
        }
    };
    let (mut times, mut more) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS + 5 {
        let ours = timed(&["ls", "-d", &address.to_string(), "/"])?;
        let bare = timed(&["--version"])?;
        if round >= 5 {
            times.push(ours);
            more.push(ours - bare);
        }
    }
    let yardstick = format!("{} ms more than --version", short(median(&more)));
    let what = format!("circuit ls /, whole process{over}");
    table.add(&what, "ms", &times, Some(yardstick), "≤ 1 ms more");
    Ok(())
}

/// Processes made and waited for, against bare spawning, in turns.
pub(crate) async fn processes(table: &mut Table, over: &str, client: &Client) -> Result<()> {
    for (at_once, what, goal) in [
        (1, "mkproc + wait, one after another", "≥ 85 % of bare"),
        (16, "mkproc + wait, 16 at once", "≥ 92 % of bare"),
    ] {
        const ROUNDS: usize = 9;
        const EACH: usize = 320;
        let (mut ours, mut bare, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let our = EACH as f64 / elements(client, at_once, EACH).await?.as_secs_f64();
            let their = EACH as f64 / spawned(at_once, EACH)?.as_secs_f64();
            if round > 0 {
                ours.push(our);
                bare.push(their);
                ratios.push(100.0 * our / their);
            }
        }
        let yardstick = format!(
            "{} % of bare spawning's {}/s",
            short(median(&ratios)),
            short(median(&bare))
        );
        let what = format!("{what}{over}");
        table.add(&what, "/s", &ours, Some(yardstick), goal);
    }
    Ok(())
}

/// Makes and waits for so many processes; what was made is scrubbed outside of the time.
async fn elements(client: &Client, at_once: usize, count: usize) -> Result<Duration> {
    let server = own_server(client).await?;
    let begin = Instant::now();
    let mut workers = JoinSet::new();
    for worker in 0..at_once {
        let anchor = server.walk(&format!("bench/{worker}"))?;
        workers.spawn(async move {
            for n in 0..count / at_once {
                let process = anchor
                    .walk(&n.to_string())?
                    .make_proc(Cmd::new(PROGRAM))
                    .await?;
                process.wait().await?;
            }
            Ok::<_, circuit_client::Error>(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    let took = begin.elapsed();
    scrub(&server).await?;
    Ok(took)
}

async fn scrub(server: &Anchor) -> Result<()> {
    let mut scrubbing = JoinSet::new();
    for entry in server.walk("bench")?.list().await? {
        if entry.kind.is_some() {
            scrubbing.spawn(async move { entry.anchor.scrub().await });
        }
        if scrubbing.len() >= 256 {
            scrubbing.join_next().await.transpose()?.transpose()?;
        }
    }
    while let Some(done) = scrubbing.join_next().await {
        done??;
    }
    Ok(())
}

/// The same processes, spawned with the same three pipes and waited for by this program.
fn spawned(at_once: usize, count: usize) -> Result<Duration> {
    let begin = Instant::now();
    let spawn = |count: usize| {
        for _ in 0..count {
            let mut command = Command::new(PROGRAM);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            command.spawn()?.wait()?;
        }
        Ok::<_, std::io::Error>(())
    };
    match at_once {
        1 => spawn(count)?,
        _ => std::thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once)
                .map(|_| scope.spawn(|| spawn(count / at_once)))
                .collect();
            for worker in workers {
                worker.join().map_err(|_| "a spawning thread panicked")??;
            }
            Ok::<_, Box<dyn std::error::Error>>(())
        })?,
    }
    Ok(begin.elapsed())
}

/// 256 MiB of a process's stdout, in turns with a raw stream of the same length.
pub(crate) async fn stdout(
    table: &mut Table,
    over: &str,
    client: &Client,
    raw: &mut Raw,
) -> Result<()> {
    const ROUNDS: usize = 7;
    const LENGTH: u64 = 256 << 20;
    let anchor = own_server(client).await?.walk("bench/stdout")?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let cmd = Cmd {
            args: vec!["-c".into(), LENGTH.to_string().into(), "/dev/zero".into()],
            stderr: Sink::Discard,
            ..Cmd::new("head")
        };
        let begin = Instant::now();
        let process = anchor.make_proc(cmd).await?;
        let mut reader = process.stdout().await?;
        let mut received = 0;
        while let Some(piece) = reader.chunk().await? {
            received += piece.len() as u64;
        }
        let our = LENGTH as f64 / 1e6 / begin.elapsed().as_secs_f64();
        process.scrub().await?;
        if received != LENGTH {
            return Err("a short stdout".into());
        }
        let begin = Instant::now();
        raw.stream(LENGTH).await?;
        let their = LENGTH as f64 / 1e6 / begin.elapsed().as_secs_f64();
        if round > 0 {
            ours.push(our);
            theirs.push(their);
            ratios.push(100.0 * our / their);
        }
    }
    let yardstick = format!(
        "{} % of {}'s {} MB/s",
        short(median(&ratios)),
        raw.name(),
        short(median(&theirs))
    );
    table.add(
        &format!("256 MiB of a process's stdout{over}"),
        "MB/s",
        &ours,
        Some(yardstick),
        match raw {
            Raw::Quic(_) => "≥ 300",
            Raw::Unix(_) => "≥ 60 % of a raw socket",
        },
    );
    Ok(())
}

/// Listing 10,000 anchors in one request.
pub(crate) async fn listing(table: &mut Table, client: &Client) -> Result<()> {
    const ANCHORS: usize = 10_000;
    const ROUNDS: usize = 20;
    let server = own_server(client).await?;
    let mut making = JoinSet::new();
    for n in 0..ANCHORS {
        let anchor = server.walk(&format!("bench/{n:05}"))?;
        making.spawn(async move { anchor.make_proc(Cmd::new(PROGRAM)).await.map(drop) });
        if making.len() >= 64 {
            making.join_next().await.transpose()?.transpose()?;
        }
    }
    while let Some(done) = making.join_next().await {
        done??;
    }
    let bench = server.walk("bench")?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let count = bench.list().await?.len();
        times.push(micros(begin.elapsed()) / 1e3);
        if count != ANCHORS {
            return Err(format!("{count} anchors were listed").into());
        }
    }
    table.add("listing of 10,000 anchors", "ms", &times, None, "≤ 3");
    scrub(&server).await
}

/// The memory that a process has in use, in megabytes; measured once it has come to rest.
pub(crate) fn resident_megabytes(pid: u32) -> f64 {
    std::thread::sleep(Duration::from_secs(2));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1e3
}

pub(crate) async fn own_server(client: &Client) -> Result<Anchor> {
    let url = &client.dialled().url;
    let id = url.server.ok_or("a server's own URL names it")?.id;
    Ok(client.server(id))
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
