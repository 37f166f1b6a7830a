//! Services: what the supervision of processes costs, and how fast it is.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use circuit_client::service::{Line, Outcome, Query, Status};
use circuit_client::{Anchor, Client, Making, Service};
use tokio::task::JoinSet;

use crate::supervisors::{Daemon, Supervisor};
use crate::table::{Table, median, short};
use crate::work::own_server;
use crate::{Ended, Result, start_server};

/// How many services there are, where many are measured.
const MANY: usize = 1000;

/// A program that stays, ready as soon as it runs.
const STAYS: &str = r#"{"Path": "/bin/sleep", "Args": ["1000000"], "Ready": {"Up": 0}}"#;

/// All that is measured of services.
pub(crate) async fn measure(table: &mut Table, binary: &Path, place: &Path) -> Result<()> {
    let (server, url) = start_server(binary, place, &[])?;
    let client = Client::dial(&crate::socket_of(place, &url)?, None).await?;
    let anchor = own_server(&client).await?;
    restarts(table, &anchor.walk("restarts")?).await?;
    throughput(table, &anchor.walk("throughput")?, place).await?;
    latency(table, &anchor.walk("latency")?).await?;
    many(table, &anchor.walk("many")?, &server).await?;
    client.close().await;
    drop(server);
    supervisors(table, binary, place)
}

async fn made(anchor: &Anchor, definition: &str) -> Result<Service> {
    let (service, intent) = anchor.make_service(definition, Making::default()).await?;
    match intent.outcome().await? {
        Outcome::Reached => Ok(service),
        other => Err(format!("a service was not ready: {other:?}").into()),
    }
}

/// From the end of an instance to the start of the next one, as the server tells them.
async fn restarts(table: &mut Table, anchor: &Anchor) -> Result<()> {
    const ROUNDS: usize = 50;
    let events = anchor.walk("events")?.make_on_service().await?;
    let definition = r#"{"Path": "/bin/sleep", "Args": ["1000000"], "Ready": {"Up": 0},
        "Backoff": {"Steady": 0}}"#;
    let service = made(&anchor.walk("service")?, definition).await?;
    let mut times = Vec::new();
    let mut ended = None;
    while times.len() < ROUNDS {
        let event = events.recv().await?.read_all(1 << 20).await?;
        let text = String::from_utf8_lossy(&event);
        if text.contains(r#""Event":"ready""#) {
            // Restarts after failures are rationed.
            tokio::time::sleep(Duration::from_millis(60)).await;
            service
                .signal_to("KILL", circuit_client::streams::Reach::Main)
                .await?;
        } else if text.contains(r#""Event":"exit""#) {
            ended = Some(Instant::now());
        } else if text.contains(r#""Event":"spawn""#)
            && let Some(ended) = ended.take()
        {
            times.push(ended.elapsed().as_secs_f64() * 1e3);
        }
    }
    service.scrub().await?;
    events.scrub().await?;
    table.add("a crash seen, to the next start", "ms", &times, None, "≤ 2");
    Ok(())
}

/// What one child's output is retained at, in turns with the same program writing to a file.
async fn throughput(table: &mut Table, anchor: &Anchor, place: &Path) -> Result<()> {
    const ROUNDS: usize = 5;
    const LENGTH: u64 = 512 << 20;
    let file = place.join("written");
    let writes = format!("yes 0123456789012345678901234567890123456789 | head -c {LENGTH}");
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut dropped = 0;
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let definition = format!(
            r#"{{"Path": "/bin/sh", "Args": ["-c", "{writes}"], "Restart": "never", "Ready": {{"Up": 0}}}}"#
        );
        let service = made(&anchor.walk("service")?, &definition).await?;
        service.settled(false).await?;
        let our = LENGTH as f64 / 1e6 / begin.elapsed().as_secs_f64();
        if let Status::Service(whole) = service.peek().await? {
            dropped += whole.log.dropped;
        }
        service.scrub().await?;
        let begin = Instant::now();
        let command = format!("{writes} > {}", file.display());
        std::process::Command::new("/bin/sh")
            .args(["-c", &command])
            .status()?;
        let their = LENGTH as f64 / 1e6 / begin.elapsed().as_secs_f64();
        std::fs::remove_file(&file)?;
        ours.push(our);
        theirs.push(their);
        ratios.push(100.0 * our / their);
    }
    let yardstick = format!(
        "{} % of a file's {} MB/s; {dropped} bytes dropped",
        short(median(&ratios)),
        short(median(&theirs))
    );
    table.add("512 MiB of a log", "MB/s", &ours, Some(yardstick), "≥ 400");
    Ok(())
}

/// From a line's own time, just before it is written, to a follower.
async fn latency(table: &mut Table, anchor: &Anchor) -> Result<()> {
    const LINES: usize = 100;
    let writes = "while :; do date +%s%N; sleep 0.02; done";
    let definition = format!(r#"{{"Path": "/bin/sh", "Args": ["-c", "{writes}"]}}"#);
    let service = made(&anchor.walk("service")?, &definition).await?;
    let query = Query {
        last: Some(0),
        since: None,
        stream: None,
        follow: true,
    };
    let mut lines = service.logs(query).await?;
    let mut times = Vec::new();
    while times.len() < LINES {
        let Some(Line::Line { text, .. }) = lines.next().await? else {
            return Err("the log ended".into());
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let then: u128 = String::from_utf8_lossy(&text).trim().parse()?;
        times.push(now.saturating_sub(then) as f64 / 1e6);
    }
    service.scrub().await?;
    table.add(
        "a line, to a follower of its log",
        "ms",
        &times,
        None,
        "≤ 5",
    );
    Ok(())
}

/// What many services at rest cost.
async fn many(table: &mut Table, anchor: &Anchor, server: &Ended) -> Result<()> {
    const REST: Duration = Duration::from_secs(60);
    let daemon = Daemon(server.0.id());
    let (memory, descriptors) = (daemon.resident(), daemon.descriptors());
    let begin = Instant::now();
    let mut making = JoinSet::new();
    for n in 0..MANY {
        let anchor = anchor.walk(&n.to_string())?;
        making.spawn(async move {
            made(&anchor, STAYS)
                .await
                .map_err(|error| error.to_string())
        });
        if making.len() >= 64 {
            making.join_next().await.transpose()?.transpose()?;
        }
    }
    while let Some(done) = making.join_next().await {
        done??;
    }
    let took = begin.elapsed().as_secs_f64();
    let each = |more: f64| more / MANY as f64;
    let what = format!("{MANY} services made and ready");
    table.add(&what, "s", &[took], None, "");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = each((daemon.resident() - memory) / 1e3);
    table.add("memory of each", "kB", &[grown], None, "≤ 8");
    let opened = each((daemon.descriptors() - descriptors) as f64);
    table.add("descriptors of each", "", &[opened], None, "");
    let before = daemon.processor_time();
    tokio::time::sleep(REST).await;
    let busy = 100.0 * (daemon.processor_time() - before) / REST.as_secs_f64();
    let what = format!("processor time of {MANY} at rest, a minute");
    table.add(&what, "%", &[busy], None, "0");
    Ok(())
}

/// The same hundred programs under each supervisor that is installed.
fn supervisors(table: &mut Table, binary: &Path, place: &Path) -> Result<()> {
    for supervisor in Supervisor::installed(binary, place)? {
        let name = supervisor.name();
        match supervisor.measure()? {
            None => table.add(&format!("{name}: not installed"), "", &[], None, ""),
            Some(measured) => {
                let rows = [
                    ("100 programs running after", "ms", measured.start * 1e3),
                    ("memory", "MB", measured.memory / 1e6),
                    ("a crash, to the next start", "ms", measured.reaction * 1e3),
                    ("processor time at rest", "%", measured.rest * 100.0),
                ];
                for (what, unit, value) in rows {
                    table.add(&format!("{name}: {what}"), unit, &[value], None, "");
                }
            }
        }
    }
    Ok(())
}
