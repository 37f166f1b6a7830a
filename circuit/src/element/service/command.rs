//! The commands beside an instance: before its start, at its stop, at a reload, and those that ask whether it
//! is ready or alive. Each is a tree of its own, whose output goes to the service's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use circuit_proto::OsText;
use parking_lot::Mutex;

use super::definition::{Plan, Reload};
use super::launch::{Launch, Launched};
use super::machine::{Command, Generation, Input, InstanceId};
use super::shared::{Shared, State};
use super::watcher::Watcher;
use crate::element::process::SpawnError;
use crate::element::process::session;
use crate::element::process::tree::Tree;

/// A command that runs, or is about to.
#[derive(Debug, Clone, Default)]
pub(super) struct RunningCommand(Arc<Running>);

#[derive(Debug, Default)]
struct Running {
    tree: Mutex<Option<Arc<Tree>>>,
    killed: AtomicBool,
}

impl RunningCommand {
    /// Kills all of it, now or as soon as it has begun.
    pub(super) fn kill(&self, watcher: &Arc<Watcher>) {
        self.0.killed.store(true, Ordering::Relaxed);
        if let Some(tree) = &*self.0.tree.lock() {
            watcher.kill(tree);
        }
    }

    fn begun(&self, tree: &Arc<Tree>, watcher: &Arc<Watcher>) {
        *self.0.tree.lock() = Some(tree.clone());
        if self.0.killed.load(Ordering::Relaxed) {
            watcher.kill(tree);
        }
    }
}

impl super::Instance {
    pub(super) fn kill_command(&self, command: Command, watcher: &Arc<Watcher>) {
        if let Some(running) = self.commands.get(&command) {
            running.kill(watcher);
        }
    }
}

impl Shared {
    /// Runs a command of a definition for an instance.
    pub(super) fn run(
        self: &Arc<Self>,
        state: &mut State,
        id: InstanceId,
        command: Command,
        generation: Generation,
    ) {
        let plan = state.plan(generation);
        let running = RunningCommand::default();
        let commands = &mut self.instance(state, id).commands;
        commands.insert(command, running.clone());
        let shared = self.clone();
        tokio::spawn(async move {
            let words = plan.as_ref().and_then(|plan| match command {
                Command::Before => plan.before.clone(),
                Command::Stop => plan.stop_command.clone(),
                Command::Reload => match &plan.reload {
                    Some(Reload::Command(words)) => Some(words.clone()),
                    _ => None,
                },
            });
            let name = match command {
                Command::Before => "before",
                Command::Stop => "stop",
                Command::Reload => "reload",
            };
            let ok = match plan.zip(words) {
                Some((plan, words)) => shared.execute(&plan, id, name, &words, &running).await,
                None => false,
            };
            if let Some(instance) = shared.state.lock().instances.get_mut(&id) {
                instance.commands.remove(&command);
            }
            shared.handle(Input::CommandEnded {
                instance: id,
                command,
                ok,
            });
        });
    }

    /// Executes a command to the end of its tree. Whether it succeeded.
    pub(super) async fn execute(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        id: InstanceId,
        name: &str,
        words: &[OsText],
        running: &RunningCommand,
    ) -> bool {
        let mark = format!("{}.{name}", self.mark(id));
        let place = self.place().await;
        let started = self.start_command(plan, id, &mark, words).await;
        drop(place);
        let Launched { session, pipes, .. } = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::warn!("the {name} command of {}: {error}", self.path());
                return false;
            }
        };
        let watcher = &self.services.watcher;
        let tree = Arc::new(Tree {
            main: session.identity(),
            mark: Some(mark),
            is_older: false,
            cgroup: None,
        });
        running.begun(&tree, watcher);
        let end = session.ended().await;
        // The watcher ends with the server only.
        let _ = watcher.empty(&tree).await;
        for pipe in pipes {
            drop(pipe.end());
        }
        end == session::End::Code(0)
    }

    async fn start_command(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        id: InstanceId,
        mark: &str,
        words: &[OsText],
    ) -> Result<Launched, SpawnError> {
        let mut manner = self.manner(plan, id, mark);
        manner.own_number = false;
        let system = |why: &str| SpawnError::System(why.to_owned());
        let launch = Launch {
            cmd: plan.beside(words, id.slot),
            manner,
            log: self
                .open_log()
                .ok_or_else(|| system("the service is being scrubbed"))?,
            from: (id.slot, id.number),
            // The last words of the same command before it may still be read.
            pipes: format!("{mark}.{:016x}", self.services.random()),
            sockets: Vec::new(),
            line: None,
            cgroup: None,
        };
        launch.launched(&self.services.runtime).await
    }
}
