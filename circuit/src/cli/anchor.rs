//! `ls`, `peek` and `scrub`, the commands for any anchor.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use circuit_client::{Client, ElementKind, Entry, Path, Pattern, ServerEntry, ServerState};
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::arguments::{path, pattern};
use super::command::print_status;
use super::dial::{Dial, dial};
use super::error::{Failure, say};
use super::interruptible;
use super::output::{print, print_json};
use super::streams::AT_ONCE;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List anchors
    Ls(Ls),
    /// Print the status of an element as JSON; null if there is none
    Peek {
        /// Exit with status 1 if there is none
        #[arg(short = 'e', long)]
        exists: bool,
        /// The anchor
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Remove an element; a process or container that runs goes on, forgotten
    ///
    /// A container that has ended is removed from its Engine too.
    Scrub {
        /// The anchor
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Show what each anchor holds, and of servers the name and address
    #[arg(short = 'l', long)]
    long: bool,
    /// Print servers by name instead of by id, those whose names are unique
    #[arg(long)]
    names: bool,
    /// Print a JSON array of objects, with Path and Kind, and of servers Name, Url and State
    #[arg(long, conflicts_with = "long")]
    json: bool,
    /// Print what is below an anchor before the anchor
    #[arg(long)]
    depth: bool,
    /// An anchor, whose children are listed, or PATH/... for all that is below it
    #[arg(default_value = "/", value_parser = pattern)]
    pattern: Pattern,
    #[command(flatten)]
    dial: Dial,
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Ls(options) => interruptible(ls(options)),
            Command::Peek { exists, path, dial } => interruptible(peek(path, exists, dial)),
            Command::Scrub { path, dial } => interruptible(scrub(path, dial)),
        }
    }
}

/// Lists anchors. A server that does not answer is named, and the rest is printed all the same.
async fn ls(options: Ls) -> Result<u8, Failure> {
    let client = dial(&options.dial).await?;
    let (mut entries, silent) = entries(&client, &options.pattern).await?;
    match options.depth {
        true => entries.sort_by(|a, b| leaves_first(a.anchor.path(), b.anchor.path())),
        false => entries.sort_by(|a, b| a.anchor.path().cmp(b.anchor.path())),
    }
    let names = match options.names {
        true => names(&client).await?,
        false => HashMap::new(),
    };
    let paths: Vec<String> = entries.iter().map(|entry| shown(entry, &names)).collect();
    match (options.json, options.long) {
        (true, _) => print_json(&json(&entries, &paths))?,
        (false, true) => print(&long_lines(&entries, &paths))?,
        (false, false) => print(
            &paths
                .iter()
                .map(|path| format!("{path}\n"))
                .collect::<String>(),
        )?,
    }
    for (server, failure) in &silent {
        let reason = reason(failure, server);
        let state = word(server.state).map_or(String::new(), |word| format!(" ({word})"));
        say(&format!(
            "circuit: ls /{} ({}): {reason}{state}",
            server.id, server.name
        ));
    }
    let mut servers = entries.iter().filter_map(|entry| entry.server.as_ref());
    if let Some(alone) = servers.find(|server| server.state == ServerState::Isolated) {
        say(&format!(
            "circuit: warning: {} at {} has lost all its links, and cannot know who is alive",
            alone.name,
            alone.url.authority()
        ));
    }
    Ok(u8::from(!silent.is_empty()))
}

/// The names of the servers, by id, that no other server has.
async fn names(client: &Client) -> Result<HashMap<String, String>, Failure> {
    let servers = client.servers().await?;
    let is_unique = |name: &str| servers.iter().filter(|server| server.name == name).count() == 1;
    let unique = servers.iter().filter(|server| is_unique(&server.name));
    let named = unique.map(|server| (server.id.to_string(), server.name.clone()));
    Ok(named.collect())
}

/// The path of an entry, with its server's name if that is known.
fn shown(entry: &Entry, names: &HashMap<String, String>) -> String {
    let path = entry.anchor.path();
    let name = path.names().first().and_then(|id| names.get(id));
    match name {
        Some(name) => {
            let below = path.below_server().iter().map(String::as_str);
            let all: Vec<&str> = std::iter::once(name.as_str()).chain(below).collect();
            format!("/{}", all.join("/"))
        }
        None => path.to_string(),
    }
}

/// An object of `ls -json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed<'a> {
    path: &'a str,
    kind: Option<String>,
    #[serde(flatten)]
    server: Option<ListedServer<'a>>,
}

/// The fields that an object of `ls -json` has only for a server.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListedServer<'a> {
    name: &'a str,
    url: String,
    state: &'static str,
}

fn json<'a>(entries: &'a [Entry], paths: &'a [String]) -> Vec<Listed<'a>> {
    let listed = entries.iter().zip(paths).map(|(entry, path)| Listed {
        path,
        kind: entry.kind.map(|kind| kind.to_string()),
        server: entry.server.as_ref().map(|server| ListedServer {
            name: &server.name,
            url: server.url.to_string(),
            state: word(server.state).unwrap_or("alive"),
        }),
    });
    listed.collect()
}

/// The remark about a server that is suspected or isolated.
fn word(state: ServerState) -> Option<&'static str> {
    match state {
        ServerState::Alive => None,
        ServerState::Suspected => Some("suspected"),
        ServerState::Isolated => Some("isolated"),
    }
}

/// The message without the path that it begins with.
fn reason<'a>(failure: &'a Failure, server: &ServerEntry) -> &'a str {
    let path = format!("/{}: ", server.id);
    failure.text().strip_prefix(&path).unwrap_or(failure.text())
}

/// All that the pattern means, and the servers that did not tell.
pub(super) async fn entries(
    client: &Client,
    pattern: &Pattern,
) -> Result<(Vec<Entry>, Vec<(ServerEntry, Failure)>), Failure> {
    let base = client.anchor(pattern.base.clone());
    if !pattern.recursive {
        return Ok((base.view().await?, Vec::new()));
    }
    let mut all = base.list().await?;
    let mut silent = Vec::new();
    if pattern.base.is_root() {
        // All servers at once: the slowest decides how long it takes.
        let mut asked = JoinSet::new();
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        for server in all.iter().filter_map(|entry| entry.server.clone()) {
            let anchor = client.server(server.id);
            let slots = slots.clone();
            asked.spawn(async move {
                // Never closed, so there is always a slot to come.
                let _slot = slots.acquire().await;
                (server, anchor.list().await)
            });
        }
        while let Some(answer) = asked.join_next().await {
            match answer {
                Ok((_, Ok(below))) => all.extend(below),
                Ok((server, Err(error))) => silent.push((server, Failure::from(error))),
                Err(error) => return Err(Failure::operation("ls", &error)),
            }
        }
        silent.sort_by_key(|(server, _)| server.id);
    }
    Ok((all, silent))
}

/// Orders by name, but puts the anchors below an anchor before it.
fn leaves_first(a: &Path, b: &Path) -> Ordering {
    let (a, b) = (a.names(), b.names());
    if a.starts_with(b) || b.starts_with(a) {
        return b.len().cmp(&a.len());
    }
    a.cmp(b)
}

fn long_lines(entries: &[Entry], paths: &[String]) -> String {
    let width = |length: fn(&Entry) -> usize| entries.iter().map(length).max().unwrap_or(0);
    let of_servers = entries
        .iter()
        .zip(paths)
        .filter(|(entry, _)| entry.server.is_some());
    let path_width = of_servers
        .map(|(_, path)| path.chars().count())
        .max()
        .unwrap_or(0);
    let name_width = width(|entry| {
        entry
            .server
            .as_ref()
            .map_or(0, |server| server.name.chars().count())
    });
    entries
        .iter()
        .zip(paths)
        .map(|(entry, path)| {
            let kind = entry
                .kind
                .map_or("·".to_owned(), |kind: ElementKind| kind.to_string());
            match &entry.server {
                Some(server) => {
                    let state =
                        word(server.state).map_or(String::new(), |word| format!("  {word}"));
                    let (name, address) = (&server.name, server.url.authority());
                    format!(
                        "{kind:<6}  {path:<path_width$}  {name:<name_width$}  {address}{state}\n"
                    )
                }
                None if entry.note.is_empty() => format!("{kind:<6}  {path}\n"),
                None => format!("{kind:<6}  {path}  {}\n", entry.note),
            }
        })
        .collect()
}

/// Prints the status of an element; `null` where there is none.
async fn peek(path: Path, exists: bool, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    match client.anchor(path).peek().await? {
        Some(status) => print_status(&status)?,
        None => {
            print_json(&())?;
            return Ok(u8::from(exists));
        }
    }
    Ok(0)
}

/// Removes an element.
async fn scrub(path: Path, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    client.anchor(path).scrub().await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_come_first() {
        let mut paths: Vec<Path> = ["/a", "/a/b", "/a/b/c", "/a/d", "/e"]
            .iter()
            .map(|path| path.parse().unwrap())
            .collect();
        paths.sort_by(leaves_first);
        let shown: Vec<String> = paths.iter().map(Path::to_string).collect();
        assert_eq!(shown, ["/a/b/c", "/a/b", "/a/d", "/a", "/e"]);
    }
}
