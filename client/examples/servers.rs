//! Lists the servers of a circuit.
//!
//! `cargo run -p circuit-client --example servers -- URL`

#![expect(clippy::print_stdout, reason = "printing is what the example is for")]

use circuit_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("usage: servers URL")?;
    let client = Client::dial(&url.parse()?, None).await?;
    for server in client.servers().await? {
        println!("{} {} {}", server.id, server.name, server.url);
    }
    client.close().await;
    Ok(())
}
