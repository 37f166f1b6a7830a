//! Reaps orphans: processes that lost their parent, and were given to this server because it is a subreaper
//! (prctl(2)), or process 1 of a container. Without that they would go to the nearest ancestor that is one,
//! which may never reap them.
//!
//! **Invariant:** no child that the server waits for itself is reaped here. A thread that starts a child
//! holds a gate open until the child is known; orphans are reaped only while nobody holds it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustix::process::{Pid, WaitId, WaitIdOptions};
use tokio::signal::unix::SignalKind;

use crate::runtime::handlers;

/// Held shared while a child is started and not yet known.
static GATE: RwLock<()> = RwLock::new(());

/// The numbers of the children that the server waits for itself.
static OWN: Mutex<Option<HashSet<Pid>>> = Mutex::new(None);

/// How long the server gathers exits before it looks for orphans among its children. Chosen, not measured:
/// an orphan that has exited costs a number only.
const GATHER: Duration = Duration::from_millis(100);

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

/// Forgets a child that was waited for.
pub(super) fn forget(pid: Pid) {
    OWN.lock().get_or_insert_default().remove(&pid);
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
pub async fn reap() {
    let Ok(mut exits) = handlers::listen(SignalKind::child()) else {
        // Without it they stay, as they would without this task.
        return;
    };
    loop {
        // A thread that starts a child may keep it for long, where a file system hangs.
        let _ = reap_all();
        tokio::select! {
            _ = exits.recv() => (),
            () = tokio::time::sleep(Duration::from_secs(1)) => (),
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// Reaps all orphans that have exited.
fn reap_all() -> io::Result<()> {
    let Some(_gate) = GATE.try_write() else {
        return Ok(());
    };
    // Most of the time nothing has exited, and the list of children need not be read.
    let exited = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    if let Ok(None) | Err(_) = rustix::process::waitid(WaitId::All, exited | WaitIdOptions::NOWAIT)
    {
        return Ok(());
    }
    let own = OWN.lock();
    for thread in fs::read_dir("/proc/self/task")? {
        let children = fs::read_to_string(thread?.path().join("children"))?;
        let children = children.split_whitespace();
        let children = children.filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        for child in children {
            if own.as_ref().is_some_and(|own| own.contains(&child)) {
                continue;
            }
            let _ = rustix::process::waitid(WaitId::Pid(child), exited);
        }
    }
    Ok(())
}
