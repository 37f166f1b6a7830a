//! Lists the servers of a circuit.
//!
//! `cargo run -p circuit-client --example servers`

#![expect(clippy::print_stdout, reason = "printing is what the example is for")]

use circuit_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The circuit that the tool finds, as from this shell.
    let client = Client::from_env().await?;
    for server in client.servers().await? {
        println!("{} {} {}", server.id, server.name, server.url);
    }
    client.close().await;
    Ok(())
}
