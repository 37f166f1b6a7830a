//! The users and processes of this host that are connected over a Unix socket.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::net::unix::UCred;

use crate::server::requests::{CLIENT, Places};

/// The users that are connected, and their processes.
#[derive(Debug, Default)]
pub(crate) struct Users {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The places of each user's requests.
    places: HashMap<u32, Weak<Places>>,
    /// How many connections each process has. Those of a process that this one cannot see are 0's.
    processes: HashMap<(u32, i32), usize>,
}

/// One connection of a user.
#[derive(Debug)]
pub(super) struct Presence {
    users: Arc<Users>,
    process: (u32, i32),
    places: Arc<Places>,
    first: bool,
}

impl Users {
    /// Counts a connection for as long as the result is held.
    pub(super) fn enter(self: &Arc<Self>, cred: &UCred) -> Presence {
        let process = (cred.uid(), cred.pid().unwrap_or(0));
        let mut state = self.state.lock();
        let places = state.places.get(&cred.uid()).and_then(Weak::upgrade);
        let places = places.unwrap_or_else(|| {
            let places = Places::new(CLIENT);
            state.places.retain(|_, places| places.strong_count() > 0);
            state.places.insert(cred.uid(), Arc::downgrade(&places));
            places
        });
        let count = state.processes.entry(process).or_default();
        *count += 1;
        Presence {
            users: self.clone(),
            process,
            places,
            first: *count == 1,
        }
    }

    /// How many processes are connected.
    pub(crate) fn processes(&self) -> usize {
        self.state.lock().processes.len()
    }
}

impl Presence {
    /// The places of the requests of this connection's user.
    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Whether the process had no other connection.
    pub(super) fn is_first(&self) -> bool {
        self.first
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut state = self.users.state.lock();
        if let Some(count) = state.processes.get_mut(&self.process) {
            *count -= 1;
            if *count == 0 {
                state.processes.remove(&self.process);
            }
        }
    }
}
