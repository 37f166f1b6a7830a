//! Servers: `join`, `suicide`, `stk`.

use std::time::Duration;

use circuit_client::{Client, Error, Path, ServerEntry, ServerId, Url};
use clap::Subcommand;

use super::arguments::path;
use super::dial::{Dial, dial};
use super::error::{Failure, say};
use super::interruptible;
use super::output::{Pipe, Target};

pub(super) use super::output::print_json as print_status;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Merge the circuit of a server with another circuit
    Join {
        /// The server
        #[arg(value_parser = path)]
        path: Path,
        /// A server of the other circuit
        url: Url,
        #[command(flatten)]
        dial: Dial,
    },
    /// Make a server leave the circuit and exit
    ///
    /// Its processes go on, and so do its services if the server has -var.
    Suicide {
        /// Stop its services first; each stays up or down in the server's next life, as it is now
        #[arg(long)]
        stop: bool,
        /// The server
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Print what a server's threads and operations are doing
    Stk {
        /// The server
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Join { path, url, dial } => interruptible(join(path, url, dial)),
            Command::Suicide { stop, path, dial } => interruptible(suicide(path, stop, dial)),
            Command::Stk { path, dial } => interruptible(stk(path, dial)),
        }
    }
}

/// How long the dialled server may take to hear of the one that was joined. Chosen, not measured: news
/// takes a fraction of it.
const NEWS: Duration = Duration::from_secs(2);

/// How often the dialled server is asked meanwhile.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Merges a server's circuit with another. Says so if another server than the one that was meant
/// was there.
async fn join(path: Path, url: Url, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let place = format!("join {path}");
    client.anchor(path).as_server().join(url.clone()).await?;
    if let Some(server) = url.server {
        let (meant, there) = (server.id.in_url(), format!("{}:{}", url.host, url.port));
        let another = |id: &str| format!("{there} is {id}, not {meant}: joined it all the same");
        // The server has joined, even if its new id cannot be asked for.
        let warning = match tokio::time::timeout(NEWS, found_at(&client, &url)).await {
            Ok(Ok(found)) if found == server.id => None,
            Ok(Ok(found)) => Some(another(&found.in_url())),
            Ok(Err(error)) => Some(format!("joined {there}, which may not be {meant}: {error}")),
            Err(_) => Some(another("another")),
        };
        if let Some(warning) = warning {
            say(&format!("circuit: warning: {place}: {warning}"));
        }
    }
    Ok(0)
}

/// The id of the server that a URL means, or else of the one that is there instead, once it is
/// known to the server that was dialled.
async fn found_at(client: &Client, url: &Url) -> Result<ServerId, Error> {
    loop {
        let servers = client.servers().await?;
        let is_meant = |known: &&ServerEntry| url.server.is_some_and(|meant| meant.id == known.id);
        let is_there =
            |known: &&ServerEntry| known.url.host == url.host && known.url.port == url.port;
        let found = servers.iter().find(is_meant);
        if let Some(found) = found.or_else(|| servers.iter().find(is_there)) {
            return Ok(found.id);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Makes a server leave.
async fn suicide(path: Path, stop: bool, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let server = client.anchor(path).as_server();
    match stop {
        true => server.stop().await?,
        false => server.suicide().await?,
    }
    Ok(0)
}

/// Prints what a server is doing.
async fn stk(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let mut text = client.anchor(path).as_server().stacks().await?;
    let mut out = Pipe::new(Target::Stdout);
    while let Some(piece) = text.chunk().await? {
        out.write(piece).await?;
    }
    out.finish().await?;
    drop(text);
    Ok(0)
}
