//! Measures a circuit on loopback: `scripts/bench` builds everything in release mode and runs it.
//!
//! Machines differ and are noisy, so each figure stands beside a yardstick measured in the same
//! run, in turns: raw QUIC or a raw Unix socket for round trips and throughput, bare spawning for
//! processes. What goes over the server's Unix socket is marked so. Each
//! figure is the median of several rounds, with the lowest and the highest behind it.

mod channels;
mod dns;
mod placement;
mod raw;
mod services;
mod supervisors;
mod table;
mod work;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use circuit_client::{Address, Client, Url};
use table::Table;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(argument) if argument == "raw-server" => {
            let path = arguments
                .next()
                .ok_or("usage: circuit-benchmark raw-server PATH")?;
            runtime()?.block_on(raw::serve(Path::new(&path)))
        }
        Some(binary) => {
            let parts = arguments.map(|part| part.to_string_lossy().into_owned());
            runtime()?.block_on(bench(&PathBuf::from(binary), &parts.collect::<Vec<_>>()))
        }
        None => Err("usage: circuit-benchmark BINARY [PART…]".into()),
    }
}

/// Marks rows of what went over the server's Unix socket.
const SOCKET: &str = ", socket";

/// As the client's command line has it: one thread.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// The measurements that can be chosen by name.
const PARTS: [&str; 9] = [
    "peek",
    "ls",
    "processes",
    "stdout",
    "listing",
    "memory",
    "channels",
    "dns",
    "services",
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
    let socket = socket_of(place, &url)?;
    let client = Client::dial(&url.clone().into(), Some(&key)).await?;
    let local = Client::dial(&socket, None).await?;
    let (_raw_server, raw_address, raw_path) = start_raw(place)?;
    let mut raw = raw::dial(raw_address).await?;
    let mut raw_socket = raw::connect(&raw_path).await?;

    let mut table = Table::new();
    if wanted("peek") {
        for (what, theirs) in [("one processor", 0), ("two processors", 1)] {
            round_trips(&mut table, binary, place, what, theirs).await?;
        }
    }
    if wanted("ls") {
        work::whole_command(&mut table, binary, place, "", &url.clone().into())?;
        work::whole_command(&mut table, binary, place, SOCKET, &socket)?;
    }
    if wanted("processes") {
        work::processes(&mut table, "", &client).await?;
        work::processes(&mut table, SOCKET, &local).await?;
    }
    if wanted("stdout") {
        work::stdout(&mut table, "", &client, &mut raw).await?;
        work::stdout(&mut table, SOCKET, &local, &mut raw_socket).await?;
    }
    if wanted("listing") {
        work::listing(&mut table, &client).await?;
    }
    if let Some(idle) = idle {
        table.add("resident memory, idle server", "MB", &[idle], None, "≤ 9");
    }
    if wanted("channels") {
        table.append(channels(binary, place, url, key).await?);
    }
    if wanted("dns") {
        dns::measure(&mut table, place, &client).await?;
    }
    if wanted("services") {
        services::measure(&mut table, binary, place).await?;
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
    let (_raw_server, raw_address, raw_path) = start_raw(place)?;
    drop(placed);
    let _placed = placement::keep_on(0)?;
    let key = local_key(place)?;
    let client = Client::dial(&url.clone().into(), Some(&key)).await?;
    let mut raw = raw::dial(raw_address).await?;
    work::round_trips(table, &format!("peek, {what}"), &client, &mut raw).await?;
    client.close().await;
    let client = Client::dial(&socket_of(place, &url)?, None).await?;
    let mut raw = raw::connect(&raw_path).await?;
    let what = format!("peek, {what}{SOCKET}");
    work::round_trips(table, &what, &client, &mut raw).await?;
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
    let id = host.server.ok_or("a server's own URL names it")?.id;
    let circuits = [
        ("", host.clone().into(), other.clone().into()),
        (SOCKET, socket_of(place, &host)?, socket_of(place, &other)?),
    ]
    .map(|(over, host, other)| channels::Circuit {
        over,
        host,
        other,
        id,
        key: key.clone(),
    });
    // The threads of its own that it has want their core.
    let (measured, table) = tokio::task::spawn_blocking(move || {
        let mut table = Table::new();
        let measured = channels::measure(&mut table, &circuits).map_err(|e| e.to_string());
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

/// The yardsticks' server: its address for QUIC, and the path of its Unix socket.
fn start_raw(place: &Path) -> Result<(Ended, std::net::SocketAddr, PathBuf)> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = place.join(format!("raw-{number}"));
    let mut command = Command::new(std::env::current_exe()?);
    let (child, line) = first_line(command.arg("raw-server").arg(&path))?;
    Ok((child, line.trim().parse()?, path))
}

/// The Unix socket of a server.
fn socket_of(place: &Path, url: &Url) -> Result<Address> {
    let id = url.server.ok_or("a server's own URL names it")?.id;
    Ok(Address::Socket(place.join(format!("circuit/{id}.socket"))))
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
