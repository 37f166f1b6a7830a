//! The sockets that a server holds for a service: bound when the service comes up, and handed to each instance.
//! Instances come and go on them, and nothing that is queued is lost.
//!
//! Each definition that may still be started has its own list, in its order: what two of them name is one socket.
//! A socket is closed when the last definition that names it is forgotten, or when the service goes down.
//!
//! **Invariant:** an instance begins with all sockets of its definition, or not at all.

mod bind;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use circuit_proto::element::service::HeldSocket;
use circuit_proto::{Code, Error};
use tokio::sync::OwnedMutexGuard;
use tracing::warn;

use self::bind::{adjust, bound, text, words};
use super::definition::{Listen, Plan, Socket};
use super::instance::Instance;
use super::machine::{Generation, Want};
use super::shared::{Shared, State};
use crate::element::process::tree::{Table, Tree};
use crate::runtime::descriptors::{Descriptors, Taken, User};

pub(super) use self::bind::Holder;

/// The sockets of a service that is up, by definition.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<Generation, Vec<One>>);

/// A socket that is bound, as a definition names it.
#[derive(Debug, Clone)]
pub(super) struct One {
    socket: Socket,
    bound: Arc<Descriptor>,
}

#[derive(Debug)]
struct Descriptor {
    fd: OwnedFd,
    _taken: Taken,
}

/// The sockets of a definition, bound before the definition is taken. Dropped before that, those that are new are
/// closed again.
#[derive(Debug)]
pub struct Bound {
    all: Vec<One>,
    new: Vec<One>,
    /// One at a time binds the sockets of a service.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Held {
    /// The sockets that are held for a definition; those that it shares with another are the same.
    fn found(&self, generation: Generation, wanted: &[Socket]) -> Vec<Option<One>> {
        // Its own list first, then the newest.
        let own = self.0.get(&generation).into_iter();
        let all: Vec<&One> = own.chain(self.0.values().rev()).flatten().collect();
        let mut found: Vec<Option<One>> = vec![None; wanted.len()];
        // Several may be at port 0: their names tell them apart. One that was renamed stays.
        for with_name in [true, false] {
            for (at, socket) in wanted.iter().enumerate() {
                if found[at].is_some() {
                    continue;
                }
                let is_free = |one: &One| found.iter().flatten().all(|other| !other.is(one));
                let is_it = |held: &Socket| {
                    held.listen == socket.listen && (!with_name || held.name == socket.name)
                };
                let one = all.iter().find(|one| is_it(&one.socket) && is_free(one));
                found[at] = one.map(|one| (*one).clone());
            }
        }
        found
    }

    /// All sockets of a definition, in its order, unless one is missing.
    pub(super) fn whole(&self, generation: Generation, wanted: &[Socket]) -> Option<Vec<One>> {
        let found = self.found(generation, wanted).into_iter().zip(wanted);
        let named = |(one, socket): (Option<One>, &Socket)| {
            let socket = socket.clone();
            one.map(|one| One { socket, ..one })
        };
        found.map(named).collect()
    }

    /// Binds the sockets of a definition that are not held. If one cannot be bound, nothing is left. Blocks.
    pub(super) fn bind(
        &self,
        generation: Generation,
        wanted: &[Socket],
        holders: &[Holder],
        descriptors: &Arc<Descriptors>,
    ) -> Result<Bound, Error> {
        let found = self.found(generation, wanted);
        bind_missing(wanted, found, None, holders, descriptors)
    }

    /// Takes the sockets over that the server's life before held, from the instances that have them still, and
    /// binds those that no instance has. What cannot be bound yet is tried again at each start that needs it.
    pub(super) fn recover<'a>(
        &mut self,
        plans: &BTreeMap<Generation, Arc<Plan>>,
        instances: impl Iterator<Item = &'a Instance>,
        table: &Table,
        descriptors: &Arc<Descriptors>,
    ) {
        let holders = holders(&trees(instances), table);
        for (generation, plan) in plans {
            match self.bind(*generation, &plan.sockets, &holders, descriptors) {
                Ok(bound) => self.put(*generation, bound),
                Err(error) => warn!("after the start: {}", error.message),
            }
        }
    }

    /// Has the sockets of a definition from now on.
    pub(super) fn put(&mut self, generation: Generation, mut bound: Bound) {
        bound.new.clear();
        let before = self.0.insert(generation, std::mem::take(&mut bound.all));
        self.release(before.into_iter().flatten());
    }

    /// A definition is not started any more: closes what no other one names.
    pub(super) fn forget(&mut self, generation: Generation) {
        let before = self.0.remove(&generation);
        self.release(before.into_iter().flatten());
    }

    /// Closes all.
    pub(super) fn close(&mut self) {
        let all = std::mem::take(&mut self.0);
        self.release(all.into_values().flatten());
    }

    fn release(&self, ones: impl Iterator<Item = One>) {
        let left = |one: &One| self.0.values().flatten().any(|other| other.is(one));
        ones.filter(|one| !left(one)).for_each(|one| one.unlink());
    }

    /// As `peek` shows them: those of the newest definition.
    pub(super) fn status(&self) -> Vec<HeldSocket> {
        let one = |held: &One| HeldSocket {
            name: held.socket.name.clone(),
            address: bound(&held.socket.listen, &held.bound.fd),
            held: "server".to_owned(),
        };
        let newest = self.0.values().next_back();
        newest.into_iter().flatten().map(one).collect()
    }
}

impl One {
    fn is(&self, other: &One) -> bool {
        Arc::ptr_eq(&self.bound, &other.bound)
    }

    /// A copy for an instance.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        self.bound.fd.try_clone()
    }

    /// The file of a Unix socket goes with it.
    fn unlink(&self) {
        if let Listen::Unix(path) = &self.socket.listen {
            // Somebody else may have removed it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.new.iter().for_each(One::unlink);
    }
}

/// The variables that tell an instance of its sockets (sd_listen_fds(3)).
pub(super) fn variables(sockets: &[One]) -> Vec<String> {
    if sockets.is_empty() {
        return Vec::new();
    }
    let names: Vec<_> = sockets.iter().map(|one| &*one.socket.name).collect();
    vec![
        format!("LISTEN_FDS={}", names.len()),
        format!("LISTEN_FDNAMES={}", names.join(":")),
    ]
}

fn bind_missing(
    wanted: &[Socket],
    found: Vec<Option<One>>,
    turn: Option<OwnedMutexGuard<()>>,
    holders: &[Holder],
    descriptors: &Arc<Descriptors>,
) -> Result<Bound, Error> {
    let mut result = Bound {
        all: Vec::new(),
        new: Vec::new(),
        _turn: turn,
    };
    for (socket, found) in wanted.iter().zip(found) {
        let failed = |error: io::Error| {
            let message = format!(
                "cannot listen on {}: {}",
                text(&socket.listen),
                words(&error)
            );
            Error::new(Code::Refused, message)
        };
        let one = match found {
            Some(One {
                socket: before,
                bound,
            }) => {
                adjust(&before, socket, &bound.fd).map_err(failed)?;
                let socket = socket.clone();
                One { socket, bound }
            }
            None => {
                let taken = descriptors.take(User::Processes, 1);
                let taken = taken.map_err(|short| Error::new(Code::Busy, short.to_string()))?;
                let copied = holders.iter().find_map(|holder| holder.copy(socket));
                let fd = copied.map_or_else(|| bind::bind(socket), Ok);
                let one = One {
                    socket: socket.clone(),
                    bound: Arc::new(Descriptor {
                        fd: fd.map_err(failed)?,
                        _taken: taken,
                    }),
                };
                result.new.push(one.clone());
                one
            }
        };
        result.all.push(one);
    }
    Ok(result)
}

impl Shared {
    /// Binds the sockets of a definition that are not held, or takes them back from instances that have them still.
    pub(super) async fn bind(&self, generation: Generation, plan: &Plan) -> Result<Bound, Error> {
        let turn = self.binding.clone().lock_owned().await;
        let wanted = plan.sockets.clone();
        let (found, trees) = {
            let state = self.state.lock();
            let trees = trees(state.instances.values());
            (state.sockets.found(generation, &wanted), trees)
        };
        let descriptors = self.services.runtime.descriptors.clone();
        let bound = self.services.runtime.spawning.run_in_turn(move || {
            let wanted_trees: Vec<&Tree> = trees.iter().map(|(tree, _)| &**tree).collect();
            let holders = match found.iter().all(Option::is_some) || trees.is_empty() {
                true => Vec::new(),
                false => holders(&trees, &Table::of(&wanted_trees).unwrap_or_default()),
            };
            bind_missing(&wanted, found, Some(turn), &holders, &descriptors)
        });
        bound.await?
    }

    /// The sockets for an instance that is about to start.
    pub(super) async fn sockets(
        &self,
        generation: Generation,
        plan: &Plan,
    ) -> Result<Vec<One>, Error> {
        let held = self.state.lock().sockets.whole(generation, &plan.sockets);
        if let Some(held) = held {
            return Ok(held);
        }
        let bound = self.bind(generation, plan).await?;
        let mut state = self.state.lock();
        // It may belong to the newest definition by now.
        let generation = match state.plans.contains_key(&generation) {
            true => generation,
            false => state.machine.generation(),
        };
        state.hold(generation, bound);
        let held = state.sockets.whole(generation, &plan.sockets);
        held.ok_or_else(|| Error::new(Code::Closed, "the service is down"))
    }
}

impl State {
    /// Has sockets from now on, unless the service has gone down meanwhile.
    pub(super) fn hold(&mut self, generation: Generation, bound: Bound) {
        if self.machine.want() == Want::Up {
            self.sockets.put(generation, bound);
        }
    }
}

/// The trees of the instances that were handed sockets.
fn trees<'a>(instances: impl Iterator<Item = &'a Instance>) -> Vec<(Arc<Tree>, Vec<Socket>)> {
    let trees = instances.filter_map(|instance| {
        let sockets = instance.sockets.clone();
        Some((instance.tree()?, sockets)).filter(|(_, sockets)| !sockets.is_empty())
    });
    trees.collect()
}

/// All processes that may have sockets.
fn holders(trees: &[(Arc<Tree>, Vec<Socket>)], table: &Table) -> Vec<Holder> {
    let wanted: Vec<&Tree> = trees.iter().map(|(tree, _)| &**tree).collect();
    // Without a look nobody is asked, and they are bound anew.
    let members = table.members(&wanted).unwrap_or_default();
    let members = members.into_iter().zip(trees);
    let holders = members.flat_map(|(members, (_, sockets))| {
        members.into_iter().map(|process| Holder {
            process,
            sockets: sockets.clone(),
        })
    });
    holders.collect()
}

#[cfg(test)]
mod tests;
