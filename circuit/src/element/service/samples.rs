//! Measures the memory of instances: those that are due at about the same time share one look at the processes of
//! the host.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::element::process::tree::{Table, Tree};
use crate::runtime::Runtime;

/// How long others are waited for that are due soon. Chosen, not measured: a tenth of the time between two samples
/// of an instance.
const GATHER: Duration = Duration::from_millis(500);

/// The instances whose memory is to be measured.
#[derive(Debug)]
pub(super) struct Samples {
    runtime: Arc<Runtime>,
    due: Mutex<Due>,
}

/// Who is told the bytes; `None` if the kernel does not tell.
type Tell = oneshot::Sender<Option<u64>>;

#[derive(Debug, Default)]
struct Due {
    trees: Vec<(Arc<Tree>, Tell)>,
    /// Whether the task runs.
    running: bool,
}

impl Samples {
    pub(super) fn new(runtime: &Arc<Runtime>) -> Arc<Samples> {
        Arc::new(Samples {
            runtime: runtime.clone(),
            due: Mutex::default(),
        })
    }

    /// Measures the memory of a tree: resolves to its bytes, or `None` if the kernel does not tell.
    pub(super) fn measure(self: &Arc<Self>, tree: &Arc<Tree>) -> oneshot::Receiver<Option<u64>> {
        let (tell, told) = oneshot::channel();
        let mut due = self.due.lock();
        due.trees.push((tree.clone(), tell));
        if !std::mem::replace(&mut due.running, true) {
            tokio::spawn(self.clone().run());
        }
        told
    }

    async fn run(self: Arc<Self>) {
        loop {
            tokio::time::sleep(GATHER).await;
            let due = {
                let mut due = self.due.lock();
                if due.trees.is_empty() {
                    due.running = false;
                    return;
                }
                std::mem::take(&mut due.trees)
            };
            let measured = self.runtime.looking.run(move || {
                let trees: Vec<&Tree> = due.iter().map(|(tree, _)| &**tree).collect();
                let measured = Table::of(&trees).and_then(|table| table.memory(&trees));
                let measured = measured.unwrap_or_else(|_| vec![None; due.len()]);
                for ((_, tell), bytes) in due.into_iter().zip(measured) {
                    // The instance may have gone meanwhile.
                    let _ = tell.send(bytes);
                }
            });
            // Where there is no thread nothing was measured: who waits is told by the end of its channel.
            let _ = measured.await;
        }
    }
}
