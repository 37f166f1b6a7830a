//! Finds the circuit that a command means, by its flags or else by the client crate's [`Search`], and
//! dials it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use circuit_client::discover::parse_group;
use circuit_client::{
    Address, Client, Key, Search, SearchError, ServerEntry, ServerPart, ServerState,
};
use clap::Args;

use super::error::{Failure, say};

/// How to reach the circuit.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Reaching the circuit")]
pub(super) struct Dial {
    /// Dial this server
    // Named apart from the URL that `join` takes.
    #[arg(id = "dial", short = 'd', long = "dial", value_name = "URL")]
    pub(super) url: Option<Address>,
    /// Ask this multicast group for a server [env: CIRCUIT_DISCOVER]
    #[arg(long, value_name = "GROUP:PORT", value_parser = parse_group)]
    pub(super) discover: Option<SocketAddr>,
    /// The file that holds the circuit's key [env: CIRCUIT_HMAC]
    #[arg(long, value_name = "FILE")]
    pub(super) hmac: Option<PathBuf>,
    /// The deadline of operations that do not block by nature
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = "Reaching the circuit")]
    #[arg(help = "The deadline of operations that do not block by nature [default: 5]")]
    timeout: Option<Duration>,
}

/// The deadline of operations that do not block by nature, unless it is given.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Dial {
    /// The deadline of operations that do not block by nature.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    /// For how long a command watches the effect of what it asked for, if not for as long as it takes.
    pub(super) fn watch_for(&self) -> Option<Duration> {
        self.timeout
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().unwrap_or(f64::NAN);
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && seconds <= 1e9 => Ok(duration),
        _ => Err("not a number of seconds above 0, and at most 1000000000".to_owned()),
    }
}

/// The client of the process's one command: some commands end without closing it.
static DIALLED: OnceLock<Client> = OnceLock::new();

/// Dials the circuit that the flags, the environment or this machine name, the first match.
pub(super) async fn dial(dial: &Dial) -> Result<Client, Failure> {
    let search = Search {
        address: dial.url.clone(),
        group: dial.discover,
        key_file: dial.hmac.clone(),
        timeout: dial.timeout(),
        warn: |warning| say(&format!("circuit: warning: {warning}")),
    };
    let client = search.dial().await.map_err(|error| {
        let names_file = matches!(error, SearchError::File { .. } | SearchError::NoUrl { .. });
        match search.source().filter(|_| !names_file) {
            Some(source) => Failure::from(error).of_address_from(&source.to_string()),
            None => error.into(),
        }
    })?;
    DIALLED.get_or_init(|| client.clone());
    Ok(client)
}

/// How long the circuit may take to say whom it suspects. Chosen, not measured: it does not hold up a
/// command that fails.
const OPINION: Duration = Duration::from_secs(1);

/// The opinion of the server that was dialled on the server of this anchor, if it takes that for failed.
pub(super) async fn suspicion(path: &circuit_client::Path) -> Option<&'static str> {
    let (client, meant) = (DIALLED.get()?, path.server()?);
    let servers = tokio::time::timeout(OPINION, client.servers()).await;
    let servers = servers.ok()?.ok()?;
    let is_meant = |server: &ServerEntry| match meant {
        ServerPart::Id(id) => server.id == id,
        ServerPart::Name(name) => server.name == name,
    };
    let is_suspected = |server: &ServerEntry| server.state == ServerState::Suspected;
    servers.iter().find(|s| is_meant(s) && is_suspected(s))?;
    let trusted = servers.iter().filter(|server| !is_suspected(server));
    Some(match (servers.len(), trusted.count()) {
        (3.., 1) => "the server that was dialled reaches none of the others: it may be cut off",
        _ => "the circuit suspects that this server has failed",
    })
}

/// Tells the circuit, if one was dialled, that this process has no more use for it.
pub(super) async fn farewell() {
    if let Some(client) = DIALLED.get() {
        client.clone().close().await;
    }
}

/// The key that the flag or the environment names.
pub(super) fn key(flag: Option<&Path>) -> Result<Option<Key>, Failure> {
    let search = Search {
        key_file: flag.map(Path::to_owned),
        warn: |warning| say(&format!("circuit: warning: {warning}")),
        ..Search::default()
    };
    Ok(search.key()?)
}
