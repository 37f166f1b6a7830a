//! Watches over the tasks and threads without which a server is none.
//!
//! Each has a name. When one of them ends that is to last, or panics, the [`Supervisor`] says which:
//! the server then logs it, leaves the circuit in order, and exits with a status of failure, instead
//! of going on without it. Tasks that serve one connection or one request are not supervised: a
//! defect there ends that connection or request alone.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::thread::JoinHandle;

use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};

/// How many failures may wait to be looked at. The first one decides, so few are enough.
const QUEUE: usize = 8;

/// Says which task or thread failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It ended, and was to last as long as the server.
    #[error("the {0} ended")]
    Ended(&'static str),
    /// It reported an error that it cannot go on with.
    #[error("the {name} ended: {error}")]
    Failed {
        /// Its name.
        name: &'static str,
        /// The error.
        error: String,
    },
    /// No task has failed: another server has this server's identity, and goes on.
    #[error(
        "another server with this server's identity is at {there} and has run for {lived}, this one \
         for {here}: this one ends; was its -var directory copied? give it one of its own"
    )]
    Copied {
        /// The other server's address.
        there: String,
        /// For how long the other server has run.
        lived: String,
        /// For how long this one has.
        here: String,
    },
    /// It panicked, which is a defect.
    #[error("the {name} panicked: {message}")]
    Panicked {
        /// Its name.
        name: &'static str,
        /// The message of the panic.
        message: String,
    },
}

/// Whether a task may end before the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Term {
    Lasting,
    Ending,
}

/// The supervised tasks of a server.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    names: HashMap<Id, (&'static str, Term)>,
    alarm: Alarm,
    failures: Failures,
    #[cfg(test)]
    saboteur: tests::Saboteur,
}

/// The way in which threads, which no runtime watches, report their failures. Clones are equal.
#[derive(Debug, Clone)]
pub struct Alarm(mpsc::Sender<Failure>);

/// The failures that came through an [`Alarm`].
pub type Failures = mpsc::Receiver<Failure>;

impl Supervisor {
    /// Watches over nothing yet.
    pub fn new() -> Supervisor {
        let (alarm, failures) = Alarm::new();
        Supervisor {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            alarm,
            failures,
            #[cfg(test)]
            saboteur: tests::Saboteur::default(),
        }
    }

    /// The way in for threads.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Starts a task that is to last as long as the server.
    pub fn lasting(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, Term::Lasting, task);
    }

    /// Starts a task that may come to its end.
    pub fn ending(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(name, Term::Ending, task);
    }

    fn spawn(
        &mut self,
        name: &'static str,
        term: Term,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        #[cfg(test)]
        let task = self.saboteur.apply(name, task);
        let id = self.tasks.spawn(task).id();
        self.names.insert(id, (name, term));
    }

    /// Lasts until a task or thread fails.
    ///
    /// **Cancellation:** may be dropped at any time.
    pub async fn failed(&mut self) -> Failure {
        loop {
            let joined = tokio::select! {
                Some(joined) = self.tasks.join_next_with_id() => joined,
                Some(failure) = self.failures.recv() => return failure,
                // The supervisor holds an alarm itself.
                else => std::future::pending().await,
            };
            let id = match &joined {
                Ok((id, ())) => *id,
                Err(error) => error.id(),
            };
            let Some((name, term)) = self.names.remove(&id) else {
                continue;
            };
            match joined {
                Ok(_) if term == Term::Ending => (),
                Ok(_) => return Failure::Ended(name),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => {
                        return Failure::Panicked {
                            name,
                            message: message(&*panic),
                        };
                    }
                    // Nobody cancels a task but `shutdown`.
                    Err(_) => return Failure::Ended(name),
                },
            }
        }
    }

    /// Ends all tasks.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }

    #[cfg(test)]
    pub(crate) fn saboteur(&self) -> tests::Saboteur {
        self.saboteur.clone()
    }
}

impl Default for Supervisor {
    fn default() -> Supervisor {
        Supervisor::new()
    }
}

impl Alarm {
    /// An alarm, and where its failures arrive.
    pub fn new() -> (Alarm, Failures) {
        let (alarm, failures) = mpsc::channel(QUEUE);
        (Alarm(alarm), failures)
    }

    /// Reports a failure.
    pub fn raise(&self, failure: Failure) {
        // Where the queue is full, others have failed before.
        let _ = self.0.try_send(failure);
    }

    /// Starts a thread. Its panic is a failure, and so is an error that it returns; `Ok` is its end
    /// in order.
    pub fn thread(
        &self,
        name: &'static str,
        body: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let alarm = self.clone();
        let builder = std::thread::Builder::new().name(name.to_owned());
        builder.spawn(move || alarm.watch(name, body))
    }

    /// Runs the body of a thread.
    pub fn watch(&self, name: &'static str, body: impl FnOnce() -> io::Result<()>) {
        // After a panic the server ends, so nobody sees the state that the panic left half done.
        let body = std::panic::AssertUnwindSafe(body);
        let failure = match std::panic::catch_unwind(body) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Failure::Failed {
                name,
                error: error.to_string(),
            },
            Err(panic) => Failure::Panicked {
                name,
                message: message(&*panic),
            },
        };
        self.raise(failure);
    }
}

/// The message of a panic, if it has one.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without a message".to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::watch;

    /// Makes tasks panic, as a defect in them would.
    #[derive(Debug, Clone)]
    pub(crate) struct Saboteur(Arc<watch::Sender<&'static str>>);

    impl Default for Saboteur {
        fn default() -> Saboteur {
            Saboteur(Arc::new(watch::Sender::new("")))
        }
    }

    impl Saboteur {
        /// Has the task of this name panic.
        pub(crate) fn strike(&self, name: &'static str) {
            self.0.send_replace(name);
        }

        pub(super) fn apply(
            &self,
            name: &'static str,
            task: impl Future<Output = ()> + Send + 'static,
        ) -> impl Future<Output = ()> + Send + 'static {
            let mut struck = self.0.subscribe();
            async move {
                tokio::select! {
                    () = task => (),
                    Ok(_) = struck.wait_for(|struck| *struck == name) => panic!("struck"),
                }
            }
        }
    }

    #[tokio::test]
    async fn an_end_is_a_failure_only_of_what_is_to_last() {
        let mut supervisor = Supervisor::new();
        supervisor.ending("short", async {});
        supervisor.lasting("long", std::future::pending());
        supervisor.lasting("driver", tokio::task::yield_now());
        assert_eq!(supervisor.failed().await, Failure::Ended("driver"));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_of_any_task() {
        let mut supervisor = Supervisor::new();
        supervisor.ending("short", async { panic!("at {}", "once") });
        let failure = supervisor.failed().await;
        assert_eq!(failure.to_string(), "the short panicked: at once");
    }

    #[tokio::test]
    async fn threads_fail_too() {
        let mut supervisor = Supervisor::new();
        let alarm = supervisor.alarm().clone();
        let in_order = alarm.thread("in order", || Ok(())).unwrap();
        in_order.join().unwrap();
        let broken = alarm.thread("broken", || Err(io::ErrorKind::BrokenPipe.into()));
        broken.unwrap().join().unwrap();
        assert_eq!(
            supervisor.failed().await.to_string(),
            "the broken ended: broken pipe"
        );
        alarm.thread("mad", || panic!("mad")).unwrap();
        assert_eq!(
            supervisor.failed().await.to_string(),
            "the mad panicked: mad"
        );
    }
}
