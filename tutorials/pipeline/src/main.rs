//! Lines, workers on any host, and results, with channels between them.
//!
//! ```text
//! pipeline circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d work      # as many as you like
//! pipeline circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d < lines   # once
//! ```
//!
//! The second prints the number of words of every line, in their order. Workers may come, go and
//! be killed at any time: a line is done by somebody.

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;

use circuit_client::{Anchor, Chan, Client, Code, Search};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::oneshot;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How many lines wait for workers, and results for us. Enough to keep everybody busy, little
/// enough that whoever feeds feels it when nobody works.
const CAPACITY: u64 = 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [url] => lead(url).await,
        [url, what] if what == "work" => work(url).await,
        _ => {
            eprintln!("usage: pipeline URL [work]");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pipeline: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The place of the two channels: below the first server, for everybody who asks.
async fn place(url: &str) -> Result<(Client, Anchor)> {
    // The key is the one that `CIRCUIT_HMAC` names, if it does.
    let search = Search {
        address: Some(url.parse()?),
        ..Search::default()
    };
    let client = search.dial().await?;
    let servers = client.servers().await?;
    let first = servers.first().ok_or("no server")?;
    let anchor = client.server(first.id).walk("pipeline")?;
    Ok((client, anchor))
}

/// Makes the channels, feeds the lines of stdin, prints the results, and cleans up.
async fn lead(url: &str) -> Result<()> {
    let (client, anchor) = place(url).await?;
    let lines = anchor.walk("lines")?.make_chan(CAPACITY).await?;
    let results = anchor.walk("results")?.make_chan(CAPACITY).await?;
    let (tell, total) = oneshot::channel();
    let done = tokio::try_join!(feed(&lines, tell), print(&results, total));
    // Workers that still work are told by this that the work is over.
    lines.scrub().await?;
    results.scrub().await?;
    client.close().await;
    done.map(|_| ())
}

/// Sends every line with its number, then closes the channel: that is the end for the workers.
/// Tells how many lines there were.
async fn feed(lines: &Chan, total: oneshot::Sender<u64>) -> Result<()> {
    let mut stdin = BufReader::new(tokio::io::stdin()).lines();
    let mut sender = lines.sender().await?;
    let mut number = 0;
    while let Some(line) = stdin.next_line().await? {
        sender.send(format!("{number} {line}").as_bytes()).await?;
        number += 1;
    }
    sender.finish().await?;
    lines.close().await?;
    // If the printer does not listen any more, it has failed, and reports that itself.
    let _ = total.send(number);
    Ok(())
}

/// Prints the results in the order of their lines, until there is one for each.
async fn print(results: &Chan, mut total: oneshot::Receiver<u64>) -> Result<()> {
    let mut receiver = results.receiver().await?;
    let mut early = BTreeMap::new();
    let mut next: u64 = 0;
    let mut end = None;
    while end != Some(next) {
        let batch = tokio::select! {
            batch = receiver.recv_many(100) => batch?,
            count = &mut total, if end.is_none() => {
                end = Some(count?);
                continue;
            }
        };
        for result in batch {
            let text = String::from_utf8(result.to_vec())?;
            let (number, count) = text.split_once(' ').ok_or("a malformed result")?;
            // A worker that was killed between sending its result and accepting its line leaves
            // the line to another: then there are two, and they are the same.
            early.insert(number.parse::<u64>()?, count.to_owned());
        }
        early.retain(|number, _| *number >= next);
        while let Some(count) = early.remove(&next) {
            println!("{count}");
            next += 1;
        }
    }
    Ok(())
}

/// Takes lines, one at a time, and sends their results, until the lines end. They end when all are
/// done by somebody: the channel is closed then, or gone with whoever made it.
async fn work(url: &str) -> Result<()> {
    let (client, anchor) = place(url).await?;
    let (lines, results) = (anchor.walk("lines")?.chan(), anchor.walk("results")?.chan());
    loop {
        match work_on_one(&lines, &results).await {
            Ok(()) => (),
            Err(error)
                if error
                    .downcast_ref()
                    .and_then(circuit_client::Error::code)
                    .is_some_and(ends) =>
            {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    client.close().await;
    Ok(())
}

/// Whether no more lines come.
fn ends(code: Code) -> bool {
    matches!(code, Code::Closed | Code::Aborted | Code::NoSuchElement)
}

async fn work_on_one(lines: &Chan, results: &Chan) -> Result<()> {
    let mut message = lines.recv().await?;
    let mut line = Vec::new();
    while let Some(bytes) = message.chunk().await? {
        line.extend_from_slice(&bytes);
    }
    let text = String::from_utf8_lossy(&line);
    let mut words = text.split_whitespace();
    let number = words.next().ok_or("a malformed line")?;
    let result = format!("{number} {}", words.count());
    results.send_all(result).await?;
    // Only now is it done: if we are killed before, somebody else gets the line.
    message.accept().await?;
    Ok(())
}
