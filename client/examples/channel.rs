//! Sends a message through a channel to a task that receives it, then many on one stream.
//!
//! `cargo run -p circuit-client --example channel -- URL`

#![expect(clippy::print_stdout, reason = "printing is what the example is for")]

use circuit_client::{Client, Code};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("usage: channel URL")?;
    let client = Client::dial(&url.parse()?, None).await?;
    let servers = client.servers().await?;
    let first = servers.first().ok_or("no server")?;
    let anchor = client.server(first.id).walk("example-channel")?;
    // With capacity 0 a send waits for its receiver.
    let chan = anchor.make_chan(0).await?;
    let (sent, received) = tokio::join!(chan.send_all("hello"), chan.recv_all(1 << 20));
    sent?;
    println!("{}", String::from_utf8_lossy(&received?));

    let sending = async {
        let mut sender = chan.sender().await?;
        for number in 1..=1000 {
            sender.feed(format!("{number}").as_bytes()).await?;
        }
        sender.finish().await?;
        chan.close().await
    };
    let receiving = async {
        let mut receiver = chan.receiver().await?;
        let mut last = Vec::new();
        loop {
            match receiver.recv_many(100).await {
                Ok(messages) => last = messages.last().map_or(last, |last| last.to_vec()),
                // It is closed, and empty.
                Err(error) if error.code() == Some(Code::Closed) => return Ok(last),
                Err(error) => return Err(error),
            }
        }
    };
    let ((), last) = tokio::try_join!(sending, receiving)?;
    println!("the last is {}", String::from_utf8_lossy(&last));
    chan.scrub().await?;
    client.close().await;
    Ok(())
}
