//! Runs a command on every server of a circuit at the same time, and waits for all of them.
//!
//! ```text
//! wait-all circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d [COMMAND [ARG]...]
//! ```
//!
//! One line is printed for each server as its command ends, in the order in which they end. A
//! server that dies meanwhile costs its own line and nothing else.

use std::error::Error;
use std::process::ExitCode;

use circuit_client::{Cmd, Output, Search, ServerEntry};
use tokio::task::JoinSet;

/// The command if none is given: a second of work and a line of output.
const DEFAULT: [&str; 3] = ["sh", "-c", "sleep 1; echo done by process $$"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(url) = arguments.next() else {
        eprintln!("usage: wait-all URL [COMMAND [ARG]...]");
        return ExitCode::from(2);
    };
    let mut command: Vec<String> = arguments.collect();
    if command.is_empty() {
        command = DEFAULT.map(str::to_owned).to_vec();
    }
    match wait_all(&url, &command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("wait-all: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the command succeeded everywhere.
async fn wait_all(url: &str, command: &[String]) -> Result<bool, Box<dyn Error>> {
    // The key is the one that `CIRCUIT_HMAC` names, if it does.
    let search = Search {
        address: Some(url.parse()?),
        ..Search::default()
    };
    let client = search.dial().await?;
    let (program, args) = command.split_first().ok_or("no command")?;
    let cmd = Cmd::new(program).args(args);
    let mut running = JoinSet::new();
    for server in client.servers().await? {
        let (anchor, cmd) = (client.server(server.id), cmd.clone());
        running.spawn(async move { (server, anchor.output(cmd).await) });
    }
    let count = running.len();
    let mut succeeded = 0;
    while let Some(joined) = running.join_next().await {
        let (server, end) = joined?;
        succeeded += usize::from(report(&server, end));
    }
    println!("{succeeded} of {count} succeeded");
    client.close().await;
    Ok(succeeded == count)
}

/// Says how it ended on one server; whether it succeeded.
fn report(server: &ServerEntry, end: Result<Output, circuit_client::Error>) -> bool {
    use circuit_client::Error;
    let who = format!("{} ({})", server.id, server.name);
    match end {
        Ok(output) => {
            let how = output.status.exit.as_deref().unwrap_or("ok");
            let text = String::from_utf8_lossy(&output.stdout);
            println!("{who}: {how}: {}", text.trim_end());
            output.status.success()
        }
        // The others are reached through the server that was dialled, and are still there.
        Err(Error::ServerGone { error, .. }) => {
            println!("{who}: lost: {error}");
            false
        }
        Err(error) => {
            println!("{who}: failed: {error}");
            false
        }
    }
}
