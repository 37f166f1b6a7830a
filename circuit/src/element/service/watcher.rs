//! Watches the trees of instances that are being stopped, until nobody is left of them.
//!
//! One task looks at all processes for all of them together, for as long as there are any, on a thread of a
//! pool. While nothing is being stopped it costs nothing.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::sync::{Notify, oneshot};

use crate::element::process::tree::{Identity, Table, Tree};
use crate::runtime::Runtime;

/// How long the task pauses after it has looked, at first and at most. It doubles in between, and begins anew
/// when another tree comes. Chosen, not measured: a look takes a millisecond for a hundred processes.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

/// How long a look may take. Chosen, not measured: a look at ten thousand processes takes a tenth of it, and one
/// that hangs at a process is known after half of it.
const LOOK: Duration = Duration::from_secs(2);

/// The trees that are watched.
#[derive(Debug)]
pub(super) struct Watcher {
    runtime: Arc<Runtime>,
    watched: Mutex<Watched>,
    /// Notified when there is another tree, or another thing to do to one.
    news: Notify,
}

#[derive(Debug, Default)]
struct Watched {
    trees: Vec<Entry>,
    /// Whether the task runs.
    running: bool,
}

#[derive(Debug)]
struct Entry {
    tree: Arc<Tree>,
    /// Whether all of it is to be killed.
    kill: bool,
    /// Whether nobody was there at the last look.
    empty: bool,
    done: Vec<oneshot::Sender<()>>,
    left: Vec<Identity>,
}

impl Watcher {
    pub(super) fn new(runtime: &Arc<Runtime>) -> Arc<Watcher> {
        Arc::new(Watcher {
            runtime: runtime.clone(),
            watched: Mutex::default(),
            news: Notify::new(),
        })
    }

    /// Resolves once two looks in a row have found nobody of the tree.
    pub(super) fn empty(self: &Arc<Self>, tree: &Arc<Tree>) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        self.entry(tree, |entry| entry.done.push(done));
        is_done
    }

    /// Kills all of the tree, and whoever joins it until it is empty.
    pub(super) fn kill(self: &Arc<Self>, tree: &Arc<Tree>) {
        self.entry(tree, |entry| entry.kill = true);
    }

    /// Who was left of the tree at the last look.
    pub(super) fn left(&self, tree: &Arc<Tree>) -> Vec<Identity> {
        let watched = self.watched.lock();
        let entry = watched.trees.iter().find(|entry| entry.tree == *tree);
        entry.map_or_else(Vec::new, |entry| entry.left.clone())
    }

    fn entry(self: &Arc<Self>, tree: &Arc<Tree>, change: impl FnOnce(&mut Entry)) {
        let mut watched = self.watched.lock();
        let at = watched.trees.iter().position(|entry| entry.tree == *tree);
        let at = at.unwrap_or_else(|| {
            watched.trees.push(Entry {
                tree: tree.clone(),
                kill: false,
                empty: false,
                done: Vec::new(),
                left: Vec::new(),
            });
            watched.trees.len() - 1
        });
        change(&mut watched.trees[at]);
        if !std::mem::replace(&mut watched.running, true) {
            tokio::spawn(self.clone().run());
        }
        drop(watched);
        self.news.notify_one();
    }

    async fn run(self: Arc<Self>) {
        let mut pause = PAUSES.0;
        loop {
            let trees: Vec<(Arc<Tree>, bool)> = {
                let mut watched = self.watched.lock();
                if watched.trees.is_empty() {
                    watched.running = false;
                    return;
                }
                let entries = watched.trees.iter();
                entries
                    .map(|entry| (entry.tree.clone(), entry.kill))
                    .collect()
            };
            let look = self.runtime.looking.run(move || {
                let members = look(&trees);
                members.map(|members| (trees, members))
            });
            let mut again = false;
            // One that hangs at a process keeps its thread, and the next one leaves that process out.
            if let Ok(Ok(Ok((trees, members)))) = tokio::time::timeout(LOOK, look).await {
                again = self.take(&trees, members);
            }
            if again {
                continue;
            }
            tokio::select! {
                () = self.news.notified() => pause = PAUSES.0,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSES.1),
            }
        }
    }

    /// Takes note of a look. Whether the next is due at once, as a tree was empty for the first time.
    fn take(&self, trees: &[(Arc<Tree>, bool)], members: Vec<Vec<Identity>>) -> bool {
        let mut again = false;
        let mut watched = self.watched.lock();
        for ((tree, _), left) in trees.iter().zip(members) {
            let Some(at) = watched.trees.iter().position(|entry| entry.tree == *tree) else {
                continue;
            };
            let entry = &mut watched.trees[at];
            let empty = left.is_empty();
            entry.left = left;
            match (empty, std::mem::replace(&mut entry.empty, empty)) {
                (true, true) => {
                    for done in watched.trees.swap_remove(at).done {
                        // Whoever waited for it may be gone.
                        let _ = done.send(());
                    }
                }
                (true, false) => again = true,
                (false, _) => (),
            }
        }
        again
    }
}

/// Looks at all processes, and kills those that are to be killed. Who is left of each tree.
fn look(trees: &[(Arc<Tree>, bool)]) -> std::io::Result<Vec<Vec<Identity>>> {
    let wanted: Vec<&Tree> = trees.iter().map(|(tree, _)| &**tree).collect();
    let table = Table::of(&wanted)?;
    let members = table.members(&wanted)?;
    for ((tree, kill), members) in trees.iter().zip(&members) {
        match &tree.cgroup {
            // A tree is watched once its main process is in it, and nobody comes from outside.
            Some(cgroup) if members.is_empty() => cgroup.remove(),
            Some(cgroup) if *kill => cgroup.kill(),
            _ => (),
        }
        for member in members.iter().filter(|_| *kill) {
            // Whoever has gone meanwhile needs no signal; who may not be signalled is stuck.
            let _ = member.signal(Signal::KILL);
        }
    }
    Ok(members)
}
