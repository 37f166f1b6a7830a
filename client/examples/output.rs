//! Executes a command on every server of a circuit, one after the other, and prints its output.
//!
//! `cargo run -p circuit-client --example output -- COMMAND [ARG]...`

#![expect(clippy::print_stdout, reason = "printing is what the example is for")]

use circuit_client::{Client, Cmd};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().ok_or("usage: output COMMAND [ARG]...")?;
    let cmd = Cmd::new(program).args(arguments);
    let client = Client::from_env().await?;
    for server in client.servers().await? {
        let output = client.server(server.id).output(cmd.clone()).await?;
        let how = output.status.exit.as_deref().unwrap_or("ok");
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{} ({how}): {}", server.name, text.trim_end());
    }
    client.close().await;
    Ok(())
}
