//! Reaps orphans: processes that lost their parent, and were given to this server because it is a subreaper
//! (prctl(2)), or process 1 of a container. Without that they would go to the nearest ancestor that is one,
//! which may never reap them.
//!
//! **Invariant:** no child that the server waits for itself is reaped here. A thread that starts a child
//! holds a gate open until the child is known; orphans are reaped only while nobody holds it.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::signal::unix::SignalKind;

use super::tree::own_children;
use crate::runtime::{Runtime, handlers};

/// Held shared while a child is started and not yet known.
static GATE: RwLock<()> = RwLock::new(());

/// The numbers of the children that the server waits for itself.
static OWN: Mutex<Option<HashSet<Pid>>> = Mutex::new(None);

/// How long the server gathers exits before it looks for orphans among its children. Chosen, not measured:
/// an orphan that has exited costs a number only.
const GATHER: Duration = Duration::from_millis(100);

/// How long the server pauses before it looks again where it could not: a thread that starts a child may
/// take long, where a file system hangs. Chosen, not measured.
const AGAIN: Duration = Duration::from_secs(1);

/// Starts a child, and keeps it from being taken for an orphan.
pub(super) fn starting<T, E>(
    start: impl FnOnce() -> Result<T, E>,
    pid: impl FnOnce(&T) -> Option<Pid>,
) -> Result<T, E> {
    let _gate = GATE.read();
    let started = start()?;
    if let Some(pid) = pid(&started) {
        OWN.lock().get_or_insert_default().insert(pid);
    }
    Ok(started)
}

/// Reaps a child that the server waits for itself. If that succeeds, its number may be an orphan's.
pub(super) fn reap_own<T, E>(
    pid: Pid,
    reap: impl FnOnce() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    // The lock is held: another child with this number is not made known meanwhile.
    let mut own = OWN.lock();
    let reaped = reap();
    if !matches!(reaped, Ok(None)) {
        own.get_or_insert_default().remove(&pid);
    }
    reaped
}

/// Does something while this process reaps none of its children: what has a number keeps it.
pub(super) fn while_nobody_reaps<T>(act: impl FnOnce() -> T) -> T {
    let _own = OWN.lock();
    act()
}

/// Has all that begin below this process, and lose their parent, become its children. It has to
/// [reap] them.
pub fn adopt() {
    // Without it they go to an ancestor.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}

/// Whether processes that lose their parent become this one's children.
pub fn are_given_to_us() -> bool {
    rustix::process::getpid().is_init()
        || rustix::process::child_subreaper().is_ok_and(|reaper| reaper.is_some())
}

/// Reaps orphans for as long as it runs.
pub async fn reap(runtime: Arc<Runtime>) {
    let Ok(mut exits) = handlers::listen(SignalKind::child()) else {
        // Without it they stay, as they would without this task.
        return;
    };
    loop {
        // Most of the time nothing has exited that others do not reap, and the list of children need not be
        // read.
        let all_reaped = match has_exited() {
            true => matches!(runtime.looking.run(reap_all).await, Ok(Ok(true))),
            false => true,
        };
        tokio::select! {
            _ = exits.recv() => (),
            () = tokio::time::sleep(AGAIN), if !all_reaped => (),
        }
        tokio::time::sleep(GATHER).await;
    }
}

const EXITED: WaitIdOptions = WaitIdOptions::EXITED.union(WaitIdOptions::NOHANG);

/// Whether a child has exited, and is not reaped.
fn has_exited() -> bool {
    let exited = rustix::process::waitid(WaitId::All, EXITED | WaitIdOptions::NOWAIT);
    matches!(exited, Ok(Some(_)))
}

/// Reaps all orphans that have exited. Whether it could: while a thread starts a child it cannot. Blocks
/// while a file below /proc does.
fn reap_all() -> io::Result<bool> {
    let Some(_gate) = GATE.try_write() else {
        return Ok(false);
    };
    // A child that ends meanwhile has a signal of its own.
    let children = own_children()?;
    let own = OWN.lock();
    for child in children {
        if own.as_ref().is_some_and(|own| own.contains(&child)) {
            continue;
        }
        let _ = rustix::process::waitid(WaitId::Pid(child), EXITED);
    }
    Ok(true)
}
