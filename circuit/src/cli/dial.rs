//! Which circuit a command means, and the way in.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use circuit_client::runtime_dir::{LocalServer, RuntimeDir};
use circuit_client::{Client, Key, ServerEntry, ServerId, ServerState, Url, key_file};
use circuit_proto::path::ServerPart;
use clap::Args;

use super::error::{Failure, say};

/// How to reach the circuit.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Reaching the circuit")]
pub(super) struct Dial {
    /// Dial this server
    // Named apart from the URL that `join` takes.
    #[arg(id = "dial", short = 'd', long = "dial", value_name = "URL")]
    pub(super) url: Option<Url>,
    /// Ask this multicast group for a server [env: CIRCUIT_DISCOVER]
    #[arg(long, value_name = "GROUP:PORT", value_parser = group)]
    pub(super) discover: Option<SocketAddr>,
    /// The file that holds the circuit's key [env: CIRCUIT_HMAC]
    #[arg(long, value_name = "FILE")]
    pub(super) hmac: Option<PathBuf>,
    /// The deadline of operations that do not block by nature
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(super) timeout: Duration,
}

/// A multicast group and port.
pub(super) fn group(text: &str) -> Result<SocketAddr, String> {
    let group: SocketAddr = text
        .parse()
        .map_err(|_| "not GROUP:PORT, as in 228.8.8.8:7711".to_owned())?;
    match group {
        group if !group.ip().is_multicast() => Err(
            "not a multicast address: those are 224.0.0.0 to 239.255.255.255, and ff00::/8"
                .to_owned(),
        ),
        group if group.port() == 0 => Err("the port cannot be 0".to_owned()),
        group => Ok(group),
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
    let key = key(dial.hmac.as_deref())?;
    let from_file = match (&dial.url, dial.discover) {
        (None, None) => variable("CIRCUIT").map(home),
        _ => None,
    };
    let choice = choose(dial)?;
    let tried = match &choice {
        Choice::Url(url) => format!("no answer from {}", url.authority()),
        Choice::Group(group) => {
            format!("no server that lets us in answered on the multicast group {group}")
        }
        Choice::Local => "no server of yours on this machine answered".to_owned(),
    };
    let dialled = async {
        Ok::<_, Failure>(match choice {
            Choice::Url(url) => Client::dial(&url, key.as_ref()).await?,
            Choice::Group(group) => Client::discover(group, key.as_ref()).await?,
            Choice::Local => local(key.as_ref(), dial.timeout).await?,
        })
    };
    // What a dial says of its own time-out names the address, so it goes first if it can.
    let client = tokio::time::timeout(dial.timeout, dialled)
        .await
        .unwrap_or_else(|_| {
            let seconds = dial.timeout.as_secs_f32();
            Err(Failure::no_circuit(format!("{tried} within {seconds} s")))
        })
        .map_err(|failure| match &from_file {
            Some(file) => {
                let place = format!("the file {} that CIRCUIT names", file.display());
                failure.of_address_from(&place)
            }
            None => failure,
        })?;
    let client = client.with_timeout(dial.timeout);
    DIALLED.get_or_init(|| client.clone());
    Ok(client)
}

/// How long the circuit may take to say whom it suspects. Chosen: a command that fails is not to be
/// held up.
const OPINION: Duration = Duration::from_secs(1);

/// What the server that was dialled says of the one of this anchor, if it thinks that it has failed.
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

enum Choice {
    Url(Url),
    Group(SocketAddr),
    Local,
}

fn choose(dial: &Dial) -> Result<Choice, Failure> {
    if let Some(url) = &dial.url {
        return Ok(Choice::Url(url.clone()));
    }
    if let Some(group) = dial.discover {
        return Ok(Choice::Group(group));
    }
    if let Some(file) = variable("CIRCUIT") {
        return Ok(Choice::Url(url_in(&home(file))?));
    }
    Ok(match groups_in_environment()?.first() {
        Some(group) => Choice::Group(*group),
        None => Choice::Local,
    })
}

/// An environment variable that is set to something.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The multicast groups that `CIRCUIT_DISCOVER` names, with spaces or commas between them.
pub(super) fn groups_in_environment() -> Result<Vec<SocketAddr>, Failure> {
    let value = variable("CIRCUIT_DISCOVER").unwrap_or_default();
    let value = value.to_string_lossy();
    let groups = value.split([' ', ',']).filter(|group| !group.is_empty());
    groups
        .map(|group| {
            self::group(group)
                .map_err(|error| Failure::usage(format!("CIRCUIT_DISCOVER={group}: {error}")))
        })
        .collect()
}

/// The key that the flag or the environment names.
pub(super) fn key(flag: Option<&Path>) -> Result<Option<Key>, Failure> {
    let from_variable = || variable("CIRCUIT_HMAC").map(home);
    let named = flag.map(Path::to_owned).or_else(from_variable);
    let Some(path) = named else { return Ok(None) };
    let (key, exposed) =
        key_file::read(&path).map_err(|error| Failure::failed(super::error::chain(&error)))?;
    if exposed {
        let path = path.display();
        say(&format!(
            "circuit: warning: others can read the key file {path}: chmod 600 {path}"
        ));
    }
    Ok(Some(key))
}

/// How much of a file that holds a URL is read, in bytes: more than any URL has.
const LONGEST_URL: u64 = 4096;

/// The URL in the file that `CIRCUIT` names.
fn url_in(path: &Path) -> Result<Url, Failure> {
    let shown = path.display();
    let read = || {
        let mut text = Vec::new();
        std::fs::File::open(path)?
            .take(LONGEST_URL)
            .read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = read().map_err(|error: std::io::Error| {
        let what = format!("cannot read the file {shown} that CIRCUIT names");
        Failure::no_circuit(format!("{what}: {}", super::error::chain(&error))).with_hint(
            match path.to_str().filter(|text| text.contains("://")) {
                Some(url) => format!("CIRCUIT names a file that holds a URL; use -d {url}"),
                None => "write a server's URL into it, or use -d URL".to_owned(),
            },
        )
    })?;
    text.parse().map_err(|error| {
        Failure::no_circuit(format!(
            "the file {shown} that CIRCUIT names holds no URL: {error}"
        ))
    })
}

/// A leading `~` is the user's home, even where no shell expanded it.
fn home(path: OsString) -> PathBuf {
    let path = PathBuf::from(path);
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path,
    }
}

/// How long a server of this machine may take to answer where there are others to try, and a quarter
/// of the deadline at most. Chosen: one that works answers in milliseconds.
const LOCAL_PATIENCE: Duration = Duration::from_secs(1);

/// The newest server of this user on this machine that answers, if all of them are in one circuit.
async fn local(key: Option<&Key>, timeout: Duration) -> Result<Client, Failure> {
    let patience = LOCAL_PATIENCE.min(timeout / 4);
    let none_given =
        "no circuit to dial: neither -d, -discover, CIRCUIT nor CIRCUIT_DISCOVER is given, and";
    let dir = RuntimeDir::existing().map_err(|error| {
        let why = super::error::chain(&error);
        Failure::no_circuit(format!(
            "{none_given} your servers cannot be looked up: {why}"
        ))
    })?;
    let servers = dir.map(|dir| dir.servers()).unwrap_or_default();
    let mut left = servers.as_slice();
    let client = loop {
        left = match left {
            [] => {
                return Err(Failure::no_circuit(format!(
                    "{none_given} no server of yours runs on this machine"
                ))
                .with_hint("`circuit start` starts one"));
            }
            // The last one has all the time that there is, and says what is wrong.
            [only] => break Client::dial(&only.url, key).await?,
            [newest, others @ ..] => match dial_patiently(&newest.url, key, patience).await? {
                Some(client) => break client,
                None => others,
            },
        };
    };
    if left.len() > 1 && in_several_circuits(&client, left, key, patience).await? {
        let urls: Vec<String> = left.iter().map(|server| server.url.to_string()).collect();
        let urls = urls.join(", ");
        return Err(
            Failure::no_circuit(format!("several circuits run on this machine: {urls}"))
                .with_hint("choose one with -d URL"),
        );
    }
    Ok(client)
}

/// Dials a server of this machine; `None`, and a warning, if it does not answer.
async fn dial_patiently(
    url: &Url,
    key: Option<&Key>,
    patience: Duration,
) -> Result<Option<Client>, Failure> {
    match tokio::time::timeout(patience, Client::dial(url, key)).await {
        Ok(dialled) => Ok(Some(dialled?)),
        Err(_) => {
            say(&format!(
                "circuit: warning: {url} runs here and does not answer"
            ));
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
) -> Result<bool, Failure> {
    let seen = client.servers().await?;
    let seen: BTreeSet<ServerId> = seen.into_iter().map(|server| server.id).collect();
    let apart = servers.iter().filter(|server| {
        let id = server.url.server.map(|pinned| pinned.id);
        id.is_some_and(|id| !seen.contains(&id))
    });
    for server in apart {
        // One that hangs is nobody's circuit; one that refuses us is another.
        if !matches!(dial_patiently(&server.url, key, patience).await, Ok(None)) {
            return Ok(true);
        }
    }
    Ok(false)
}
