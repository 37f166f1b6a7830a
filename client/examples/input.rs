//! Writes to a process's stdin, ends it, and reads what the process makes of it.
//!
//! `cargo run -p circuit-client --example input -- URL`

#![expect(clippy::print_stdout, reason = "printing is what the example is for")]

use circuit_client::{Client, Cmd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("usage: input URL")?;
    let client = Client::dial(&url.parse()?, None).await?;
    let servers = client.servers().await?;
    let first = servers.first().ok_or("no server")?;
    let anchor = client.server(first.id).walk("example-input")?;
    let process = anchor.make_proc(Cmd::new("sort")).await?;
    let mut stdin = process.stdin().await?;
    stdin.write_all(b"pear\napple\nfig\n").await?;
    // Dropping the writer is no end: another could go on where this one stopped.
    stdin.finish().await?;
    let mut text = String::new();
    process.stdout().await?.read_to_string(&mut text).await?;
    print!("{text}");
    anchor.scrub().await?;
    client.close().await;
    Ok(())
}
