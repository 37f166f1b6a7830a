//! Dials one of this user's servers on this machine: those that make themselves known in the runtime
//! directory.

use std::collections::BTreeSet;
use std::path::Path as FilePath;
use std::time::Duration;

use circuit_proto::{Key, ServerId};

use super::{SearchError, Warning};
use crate::address::Address;
use crate::client::Client;
use crate::runtime_dir::{LocalServer, RuntimeDir};

/// How long a server of this machine may take to answer where there are others to try, and a quarter
/// of the deadline at most. Chosen: one that works answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// The socket of a server that runs as a service of the system.
pub(super) const SYSTEM: &str = "/run/circuit/circuit.sock";

/// Dials the newest server that answers, if all of them are in one circuit.
pub(super) async fn dial(
    key: Option<&Key>,
    timeout: Duration,
    warn: fn(Warning),
) -> Result<Client, SearchError> {
    let patience = PATIENCE.min(timeout / 4);
    let dir = RuntimeDir::existing().map_err(SearchError::NoServers)?;
    let servers = dir.map(|dir| dir.servers()).unwrap_or_default();
    let mut left = servers.as_slice();
    let client = loop {
        left = match left {
            [] if FilePath::new(SYSTEM).exists() => {
                break Client::dial(&Address::Socket(SYSTEM.into()), key).await?;
            }
            [] => return Err(SearchError::Nothing),
            // The last one has all the time that there is, and says what is wrong.
            [only] => break Client::dial(&only.address(), key).await?,
            [newest, others @ ..] => match dial_patiently(newest, key, patience, warn).await? {
                Some(client) => break client,
                None => others,
            },
        };
    };
    if left.len() > 1 && in_several_circuits(&client, left, key, patience, warn).await? {
        let urls = left.iter().map(|server| server.url.clone());
        return Err(SearchError::Several(urls.collect()));
    }
    Ok(client)
}

/// Dials a server; `None`, and a warning, if it does not answer.
async fn dial_patiently(
    server: &LocalServer,
    key: Option<&Key>,
    patience: Duration,
    warn: fn(Warning),
) -> Result<Option<Client>, SearchError> {
    match tokio::time::timeout(patience, Client::dial(&server.address(), key)).await {
        Ok(dialled) => Ok(Some(dialled?)),
        Err(_) => {
            warn(Warning::Silent(server.url.clone()));
            Ok(None)
        }
    }
}

/// Whether one of these servers answers, and is not in the client's circuit.
async fn in_several_circuits(
    client: &Client,
    servers: &[LocalServer],
    key: Option<&Key>,
    patience: Duration,
    warn: fn(Warning),
) -> Result<bool, SearchError> {
    let seen = client.servers().await?;
    let seen: BTreeSet<ServerId> = seen.into_iter().map(|server| server.id).collect();
    let apart = servers.iter().filter(|server| {
        let id = server.url.server.map(|pinned| pinned.id);
        id.is_some_and(|id| !seen.contains(&id))
    });
    for server in apart {
        // One that hangs is nobody's circuit; one that refuses us is another.
        if !matches!(dial_patiently(server, key, patience, warn).await, Ok(None)) {
            return Ok(true);
        }
    }
    Ok(false)
}
