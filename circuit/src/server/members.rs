//! The addresses of the last members, kept with `-var`: a server that is started with neither `-j`
//! nor `-discover` dials them, and so finds its circuit again.
//!
//! [`run`] keeps them while the server runs. A person who ends a server with `suicide` means it to
//! go, which clears them; a signal, which a reboot sends as well, does not.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

use circuit_proto::Url;
use tracing::warn;

use super::var_dir::{VarDir, VarDirError};
use crate::peer::Peer;

/// The file in the directory: a URL a line, the most recently seen member first.
const FILE: &str = "members";

/// How many members are kept. Chosen, not measured: one that still lives and has not moved is
/// enough.
const KEPT: usize = 16;

/// How long changes of the view gather before they are written. Chosen, not measured: a file a
/// second is little even while a large circuit starts.
const GATHER: Duration = Duration::from_secs(1);

/// The kept addresses.
#[derive(Debug)]
pub(super) struct Members {
    dir: Arc<VarDir>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The most recently seen member first.
    list: Vec<Url>,
    /// Nothing is kept any more.
    cleared: bool,
    /// Whether the log has said that the file cannot be written.
    failed: bool,
}

impl Members {
    /// Reads what the previous life of the server has kept.
    pub(super) fn open(dir: Arc<VarDir>) -> Result<Arc<Members>, VarDirError> {
        let text = dir.read(FILE)?.unwrap_or_default();
        let mut list = Vec::new();
        for line in String::from_utf8_lossy(&text).lines() {
            match line.parse::<Url>() {
                Ok(url) if url.server.is_some() => list.push(url),
                // An address without an identity is dialled by nobody.
                _ => warn!("{FILE}: not the URL of a member: {line}"),
            }
        }
        list.truncate(KEPT);
        let state = Mutex::new(State {
            list,
            ..State::default()
        });
        Ok(Arc::new(Members { dir, state }))
    }

    /// The kept addresses, each with an identity.
    pub(super) fn known(&self) -> Vec<Url> {
        self.state.lock().list.clone()
    }

    /// Keeps the members that live now, and behind them the most recent of those before. Blocks on
    /// the disk.
    pub(super) fn keep(&self, live: Vec<Url>) {
        let mut state = self.state.lock();
        let list = most_recent(&state.list, live);
        if state.cleared || list == state.list {
            return;
        }
        let text: String = list.iter().map(|url| format!("{url}\n")).collect();
        match self.dir.replace(FILE, text.as_bytes()) {
            Ok(()) => (state.list, state.failed) = (list, false),
            // It is tried again at the next change.
            Err(error) if !state.failed => {
                warn!("the last members are not kept: {}", whole(&error));
                state.failed = true;
            }
            Err(_) => (),
        }
    }

    /// Forgets all, and keeps nothing from now on. Blocks on the disk.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        state.cleared = true;
        if let Err(error) = self.dir.remove(FILE) {
            warn!("the last members are still kept: {}", whole(&error));
        }
    }
}

/// An error and its cause.
fn whole(error: &VarDirError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Keeps the members of the view for as long as the server lives.
pub(super) async fn run(members: Arc<Members>, peer: Arc<Peer>) {
    let mut changes = peer.changes();
    // The view may have changed before.
    changes.mark_changed();
    while changes.changed().await.is_ok() {
        tokio::time::sleep(GATHER).await;
        changes.mark_unchanged();
        let (members, live) = (members.clone(), others(&peer));
        // The network thread does not wait for the disk.
        let _ = tokio::task::spawn_blocking(move || members.keep(live)).await;
    }
}

/// The URLs of all live members but this server.
pub(super) fn others(peer: &Peer) -> Vec<Url> {
    let me = peer.me().fingerprint.id();
    let others = peer.servers().into_iter().filter(|server| server.id != me);
    others.map(|server| server.url).collect()
}

/// The live members, then the others of the list, as many as are kept. Those that were in the list
/// keep their order, so that it changes seldom.
fn most_recent(list: &[Url], mut live: Vec<Url>) -> Vec<Url> {
    let id = |url: &Url| url.server.map(|server| server.id);
    let place = |url: &Url| list.iter().position(|other| id(other) == id(url));
    live.sort_by_key(|url| place(url).unwrap_or(list.len()));
    let gone = list
        .iter()
        .filter(|url| !live.iter().any(|other| id(other) == id(url)));
    let mut all: Vec<Url> = live.iter().chain(gone).cloned().collect();
    all.truncate(KEPT);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::var_dir;

    fn url(number: u16) -> Url {
        format!("circuit://10.0.0.1:{number}/1/Q{number:016x}")
            .parse()
            .unwrap()
    }

    fn check(list: &[u16], live: &[u16], expected: &[u16]) {
        let urls = |numbers: &[u16]| numbers.iter().map(|n| url(*n)).collect::<Vec<_>>();
        assert_eq!(most_recent(&urls(list), urls(live)), urls(expected));
    }

    #[test]
    fn the_most_recently_seen_come_first() {
        check(&[], &[], &[]);
        check(&[], &[2, 1], &[2, 1]);
        check(&[1, 2, 3], &[3, 2, 1], &[1, 2, 3]);
        check(&[1, 2, 3], &[3], &[3, 1, 2]);
        check(&[1, 2, 3], &[], &[1, 2, 3]);
        check(&[1, 2], &[4, 2], &[2, 4, 1]);
        let many: Vec<u16> = (1..=20).collect();
        check(&[20], &many, &[&[20], &many[..15]].concat());
    }

    #[test]
    fn a_member_that_moved_has_its_new_address() {
        let mut moved = url(1);
        moved.port = 99;
        assert_eq!(most_recent(&[url(1)], vec![moved.clone()]), [moved]);
    }

    #[tokio::test]
    async fn what_is_kept_is_read_again_until_it_is_cleared() {
        let temp = tempfile::tempdir().unwrap();
        let dir = var_dir::open(temp.path()).await.unwrap().dir.unwrap();
        let open = || Members::open(dir.clone()).unwrap();
        assert_eq!(open().known(), []);
        open().keep(vec![url(1), url(2)]);
        assert_eq!(open().known(), [url(1), url(2)]);
        // A server that is alone forgets nobody.
        open().keep(Vec::new());
        assert_eq!(open().known(), [url(1), url(2)]);
        std::fs::write(temp.path().join(FILE), format!("rubbish\n{}\n", url(3))).unwrap();
        assert_eq!(open().known(), [url(3)]);
        let members = open();
        members.clear();
        members.keep(vec![url(1)]);
        assert_eq!(open().known(), []);
        open().clear();
    }
}
