//! Hands out the descriptors that the process may have open.
//!
//! A caller that makes descriptors on behalf of others takes them here first, and gives them back
//! when it has closed them. When too few are left, the caller is refused early, and told who has them,
//! instead of failing half-way with the system's own words.
//!
//! The soft limit of open files is raised to the hard one, once, at the start; children begin with the
//! limit that the process was started with.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::process::{Resource, Rlimit};

/// How many descriptors are kept for the server itself beside those that it has open at the start:
/// for sockets of groups, for connections to an Engine that end soon, for files that are read. Of a
/// low limit it is an eighth. Chosen, not measured.
const RESERVE: u64 = 96;

/// The limit that the process was started with, once it is raised.
static ORIGINAL_LIMIT: OnceLock<Rlimit> = OnceLock::new();

/// The limit of open files that children are to begin with, if it is not the process's own any more.
pub fn original_limit() -> Option<Rlimit> {
    ORIGINAL_LIMIT.get().copied()
}

/// Says who has descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Process elements.
    Processes,
    /// Container elements.
    Containers,
    /// DNS servers and their clients' connections.
    Dns,
    /// Tethers.
    Tethers,
    /// Connections of clients on this host.
    Clients,
}

impl User {
    /// All of them, in the order of their numbers.
    pub const ALL: [User; 5] = [
        User::Processes,
        User::Containers,
        User::Dns,
        User::Tethers,
        User::Clients,
    ];
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            User::Processes => "processes",
            User::Containers => "containers",
            User::Dns => "DNS servers",
            User::Tethers => "tethers",
            User::Clients => "clients on this host",
        })
    }
}

/// The descriptors of the process.
#[derive(Debug)]
pub struct Descriptors {
    limit: u64,
    /// How many are kept for the server itself, which it may not have open now.
    reserve: u64,
    /// All that are in use, and the reserve.
    all: AtomicU64,
    /// By [`User`].
    used: [AtomicU64; User::ALL.len()],
}

/// Some descriptors, given back when this is dropped.
#[derive(Debug)]
pub struct Taken {
    descriptors: Arc<Descriptors>,
    user: User,
    count: u64,
}

/// Says that there are too few descriptors, and who has them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{used} of {limit} descriptors are in use{}", listed(.by))]
pub struct Short {
    /// How many are in use, those kept for the server itself included.
    pub used: u64,
    /// How many the process may have.
    pub limit: u64,
    /// How many each user has, of those that have any.
    pub by: Vec<(User, u64)>,
}

fn listed(by: &[(User, u64)]) -> String {
    let by: Vec<String> = by
        .iter()
        .map(|(user, count)| format!("{count} by {user}"))
        .collect();
    match by.as_slice() {
        [] => String::new(),
        by => format!(" ({})", by.join(", ")),
    }
}

impl Descriptors {
    /// Those of this process, of which some are open already. Raises the limit to what the system allows.
    pub fn of_process() -> Arc<Descriptors> {
        raise();
        let limit = rustix::process::getrlimit(Resource::Nofile);
        // Where raising it was refused, the soft limit is what there is.
        let limit = limit.current.unwrap_or(u64::MAX);
        // Where /proc is missing, the reserve has to do.
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
        Descriptors::new(limit, open, RESERVE.min(limit / 8))
    }

    /// So many, of which the server itself has `open` and keeps `reserve`.
    fn new(limit: u64, open: u64, reserve: u64) -> Arc<Descriptors> {
        Arc::new(Descriptors {
            limit,
            reserve,
            all: AtomicU64::new(open + reserve),
            used: Default::default(),
        })
    }

    /// Takes so many descriptors.
    pub fn take(self: &Arc<Self>, user: User, count: u64) -> Result<Taken, Short> {
        let add = |all: u64| all.checked_add(count).filter(|all| *all <= self.limit);
        self.all
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|_| self.short())?;
        self.used[user as usize].fetch_add(count, Ordering::Relaxed);
        Ok(Taken {
            descriptors: self.clone(),
            user,
            count,
        })
    }

    /// How many are in use, without the reserve.
    pub fn used(&self) -> u64 {
        self.all.load(Ordering::Relaxed) - self.reserve
    }

    /// How many are kept for the server itself beside those that it had at its start.
    pub fn reserve(&self) -> u64 {
        self.reserve
    }

    /// How many the process may have.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many this user has.
    pub fn used_by(&self, user: User) -> u64 {
        self.used[user as usize].load(Ordering::Relaxed)
    }

    fn short(&self) -> Short {
        let by = User::ALL.map(|user| (user, self.used_by(user)));
        Short {
            used: self.used() + self.reserve,
            limit: self.limit,
            by: by.into_iter().filter(|(_, count)| *count > 0).collect(),
        }
    }
}

impl Taken {
    /// Divides off so many, or as many as are left.
    pub fn split(&mut self, count: u64) -> Taken {
        let count = count.min(self.count);
        self.count -= count;
        Taken {
            descriptors: self.descriptors.clone(),
            user: self.user,
            count,
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let Taken {
            descriptors, user, ..
        } = self;
        descriptors.all.fetch_sub(self.count, Ordering::Relaxed);
        descriptors.used[*user as usize].fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// Raises the process's limit to what the system allows, once.
fn raise() {
    ORIGINAL_LIMIT.get_or_init(|| {
        let original = rustix::process::getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: original.maximum,
            maximum: original.maximum,
        };
        if original.current != original.maximum {
            // Where it is refused, there are fewer descriptors before the system says so.
            let _ = rustix::process::setrlimit(Resource::Nofile, raised);
        }
        original
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_for_too_many_is_told_who_has_them() {
        let descriptors = Descriptors::new(100, 30, 10);
        let processes = descriptors.take(User::Processes, 44).unwrap();
        let mut dns = descriptors.take(User::Dns, 15).unwrap();
        let short = descriptors.take(User::Tethers, 2).unwrap_err();
        assert_eq!(
            short.to_string(),
            "99 of 100 descriptors are in use (44 by processes, 15 by DNS servers)"
        );
        drop(descriptors.take(User::Tethers, 1).unwrap());
        let part = dns.split(5);
        drop(dns);
        assert_eq!(descriptors.used_by(User::Dns), 5);
        drop(part);
        assert_eq!(descriptors.used(), 74);
        drop(processes);
        assert_eq!(descriptors.used(), 30);
        assert_eq!(descriptors.used_by(User::Processes), 0);
    }

    #[test]
    fn a_part_is_never_more_than_there_is() {
        let descriptors = Descriptors::new(100, 0, 0);
        let mut taken = descriptors.take(User::Dns, 2).unwrap();
        let part = taken.split(5);
        assert_eq!((taken.count, part.count), (0, 2));
    }
}
