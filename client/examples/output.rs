//! Executes a command on every server of a circuit, one after the other, and prints its output.
//!
//! `cargo run -p circuit-client --example output -- URL COMMAND [ARG]...`

#![expect(clippy::print_stdout, reason = "printing is what the example is for")]

use circuit_client::{Client, Cmd};
use tokio::io::AsyncReadExt;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("usage: output URL COMMAND [ARG]...".into());
    };
    let args: Vec<String> = arguments.collect();
    let client = Client::dial(&url.parse()?, None).await?;
    for server in client.servers().await? {
        let anchor = client.server(server.id).walk("example-output")?;
        let cmd = Cmd {
            args: args.clone(),
            ..Cmd::new(&program)
        };
        let process = anchor.make_proc(cmd).await?;
        let mut text = String::new();
        process.stdout().await?.read_to_string(&mut text).await?;
        let status = process.wait().await?;
        anchor.scrub().await?;
        let how = status.exit.as_deref().unwrap_or("ok");
        println!("{} ({how}): {}", server.name, text.trim_end());
    }
    client.close().await;
    Ok(())
}
