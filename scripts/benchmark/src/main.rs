//! Measures a circuit on loopback: `scripts/bench` builds everything in release mode and runs it.
//!
//! Machines differ and are noisy, so each figure stands beside a yardstick measured in the same
//! run, in turns: raw QUIC for round trips and throughput, bare spawning for processes. Each
//! figure is the median of several rounds, with the lowest and the highest behind it.

mod raw;
mod table;
mod work;

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use circuit_client::{Client, Url};
use table::Table;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(argument) if argument == "raw-server" => runtime()?.block_on(raw::serve()),
        Some(binary) => runtime()?.block_on(bench(&PathBuf::from(binary))),
        None => Err("usage: circuit-benchmark BINARY".into()),
    }
}

/// As the client's command line has it: one thread.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn bench(binary: &Path) -> Result<()> {
    let place = std::env::temp_dir().join(format!("circuit-bench-{}", std::process::id()));
    std::fs::create_dir_all(&place)?;
    let result = measure(binary, &place).await;
    std::fs::remove_dir_all(&place)?;
    result
}

async fn measure(binary: &Path, place: &Path) -> Result<()> {
    let (server, url) = start_server(binary, place)?;
    let idle = work::resident_megabytes(server.0.id());
    let key = std::fs::read_to_string(place.join("circuit/key"))?;
    let key = circuit_client::Key::parse(&key)?;
    let client = Client::dial(&url, Some(&key)).await?;
    let (_raw_server, raw_address) = start_raw()?;
    let raw = raw::dial(raw_address).await?;

    let mut table = Table::new();
    work::round_trips(&mut table, &client, &raw).await?;
    work::whole_command(&mut table, binary, place, &url)?;
    work::processes(&mut table, &client).await?;
    work::stdout(&mut table, &client, &raw).await?;
    work::listing(&mut table, &client).await?;
    table.add("resident memory, idle server", "MB", &[idle], None, "≤ 12");
    table.print();
    client.close().await;
    Ok(())
}

/// A child that ends with this program.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Gone already, or gone now.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_server(binary: &Path, place: &Path) -> Result<(Ended, Url)> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::remove_dir_all(place)?;
    std::fs::DirBuilder::new().mode(0o700).create(place)?;
    let mut command = Command::new(binary);
    command
        .args(["start", "-a", "127.0.0.1"])
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
