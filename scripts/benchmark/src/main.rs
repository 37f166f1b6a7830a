//! Measures a circuit on loopback: `scripts/bench` builds everything in release mode and runs it.
//!
//! Machines differ and are noisy, so each figure stands beside a yardstick measured in the same
//! run, in turns: raw QUIC for round trips and throughput, bare spawning for processes. Each
//! figure is the median of several rounds, with the lowest and the highest behind it.

mod channels;
mod dns;
mod placement;
mod raw;
mod table;
mod work;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use circuit_client::{Client, Url};
use table::Table;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(argument) if argument == "raw-server" => runtime()?.block_on(raw::serve()),
        Some(binary) => {
            let parts = arguments.map(|part| part.to_string_lossy().into_owned());
            runtime()?.block_on(bench(&PathBuf::from(binary), &parts.collect::<Vec<_>>()))
        }
        None => Err("usage: circuit-benchmark BINARY [PART…]".into()),
    }
}

/// As the client's command line has it: one thread.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// The measurements that can be chosen by name.
const PARTS: [&str; 8] = [
    "peek",
    "ls",
    "processes",
    "stdout",
    "listing",
    "memory",
    "channels",
    "dns",
];

async fn bench(binary: &Path, parts: &[String]) -> Result<()> {
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        return Err(format!("no part {unknown}: there are {}", PARTS.join(", ")).into());
    }
    let place = std::env::temp_dir().join(format!("circuit-bench-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&place)?;
    let result = measure(binary, &place, parts).await;
    std::fs::remove_dir_all(&place)?;
    result
}

async fn measure(binary: &Path, place: &Path, parts: &[String]) -> Result<()> {
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let (server, url) = start_server(binary, place, &[])?;
    let idle = wanted("memory").then(|| work::resident_megabytes(server.0.id()));
    let key = local_key(place)?;
    let client = Client::dial(&url.clone().into(), Some(&key)).await?;
    let (_raw_server, raw_address) = start_raw()?;
    let raw = raw::dial(raw_address).await?;

    let mut table = Table::new();
    if wanted("peek") {
        for (what, theirs) in [("one processor", 0), ("two processors", 1)] {
            round_trips(&mut table, binary, place, what, theirs).await?;
        }
    }
    if wanted("ls") {
        work::whole_command(&mut table, binary, place, &url)?;
    }
    if wanted("processes") {
        work::processes(&mut table, &client).await?;
    }
    if wanted("stdout") {
        work::stdout(&mut table, &client, &raw).await?;
    }
    if wanted("listing") {
        work::listing(&mut table, &client).await?;
    }
    if let Some(idle) = idle {
        table.add("resident memory, idle server", "MB", &[idle], None, "≤ 12");
    }
    if wanted("channels") {
        table.append(channels(binary, place, url, key).await?);
    }
    if wanted("dns") {
        dns::measure(&mut table, place, &client).await?;
    }
    table.print();
    client.close().await;
    Ok(())
}

/// The servers on one processor, this program on the same or on another.
async fn round_trips(
    table: &mut Table,
    binary: &Path,
    place: &Path,
    what: &str,
    theirs: usize,
) -> Result<()> {
    let placed = placement::keep_on(theirs)?;
    let (_server, url) = start_server(binary, place, &[])?;
    let (_raw_server, raw_address) = start_raw()?;
    drop(placed);
    let _placed = placement::keep_on(0)?;
    let key = local_key(place)?;
    let client = Client::dial(&url.clone().into(), Some(&key)).await?;
    let raw = raw::dial(raw_address).await?;
    work::round_trips(table, &format!("peek, {what}"), &client, &raw).await?;
    client.close().await;
    Ok(())
}

fn local_key(place: &Path) -> Result<circuit_client::Key> {
    let key = std::fs::read_to_string(place.join("circuit/key"))?;
    Ok(circuit_client::Key::parse(&key)?)
}

async fn channels(
    binary: &Path,
    place: &Path,
    host: Url,
    key: circuit_client::Key,
) -> Result<Table> {
    let (_other_server, other) = start_server(binary, place, &["-j", &host.to_string()])?;
    let circuit = channels::Circuit { host, other, key };
    // The threads of its own that it has want their core.
    let (measured, table) = tokio::task::spawn_blocking(move || {
        let mut table = Table::new();
        let measured = channels::measure(&mut table, &circuit).map_err(|e| e.to_string());
        (measured, table)
    })
    .await?;
    measured?;
    Ok(table)
}

/// A child that ends with this program.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // The process has gone already, or goes now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_server(binary: &Path, place: &Path, more: &[&str]) -> Result<(Ended, Url)> {
    let mut command = Command::new(binary);
    command
        .args(["start", "-a", "127.0.0.1"])
        .args(more)
        .env("XDG_RUNTIME_DIR", place);
    let (child, line) = first_line(command.stderr(Stdio::null()))?;
    Ok((child, line.trim().parse()?))
}

fn start_raw() -> Result<(Ended, std::net::SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    let (child, line) = first_line(command.arg("raw-server"))?;
    Ok((child, line.trim().parse()?))
}

fn first_line(command: &mut Command) -> Result<(Ended, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().ok_or("no stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    Ok((Ended(child), line))
}
