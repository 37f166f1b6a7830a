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

use circuit_client::{Anchor, Client, Cmd, Key, Proc, ServerEntry, Url, key_file, process};
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
    let url: Url = url.parse()?;
    let client = Client::dial(&url, key()?.as_ref()).await?;
    let (program, args) = command.split_first().ok_or("no command")?;
    // Of a program that runs twice at the same time, each has anchors of its own.
    let name = format!("wait-all-{}", std::process::id());
    let mut running = JoinSet::new();
    for server in client.servers().await? {
        let anchor = client.server(server.id).walk(&name)?;
        let cmd = Cmd {
            args: args.to_vec(),
            ..Cmd::new(program)
        };
        running.spawn(async move {
            let end = execute(&anchor, cmd).await;
            (server, end)
        });
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

/// The circuit's key, if `CIRCUIT_HMAC` names one.
fn key() -> Result<Option<Key>, key_file::KeyFileError> {
    match std::env::var_os("CIRCUIT_HMAC") {
        Some(path) => Ok(Some(key_file::read(path.as_ref())?.0)),
        None => Ok(None),
    }
}

/// Makes the process, waits for it, and removes its element.
async fn execute(
    anchor: &Anchor,
    cmd: Cmd,
) -> Result<(process::Status, String), circuit_client::Error> {
    let process = anchor.make_proc(cmd).await?;
    let end = attend(&process).await;
    // Whatever happened, nothing is to be left behind. Where the server is gone, so is the element.
    let _ = anchor.scrub().await;
    end
}

/// Takes the output while the process runs, so that it never blocks on a full pipe, and its status.
async fn attend(process: &Proc) -> Result<(process::Status, String), circuit_client::Error> {
    let mut stdout = process.stdout().await?;
    let read = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = stdout.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (status, output) = tokio::try_join!(process.wait(), read)?;
    Ok((status, output))
}

/// Says how it ended on one server; whether it succeeded.
fn report(
    server: &ServerEntry,
    end: Result<(process::Status, String), circuit_client::Error>,
) -> bool {
    use circuit_client::Error;
    let who = format!("{} ({})", server.id, server.name);
    match end {
        Ok((status, output)) => {
            let how = status.exit.as_deref().unwrap_or("ok");
            println!("{who}: {how}: {}", output.trim_end());
            status.exit.is_none()
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
