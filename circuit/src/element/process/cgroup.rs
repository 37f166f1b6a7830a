//! A cgroup of its own for each instance of a service, where the system has delegated one to this server
//! (cgroups(7), version 2): all descendants are in it, whatever they do to hide, unless root moves them elsewhere.
//!
//! Only files of the kernel's are read and written here, which may block: callers leave it to a thread of a pool.
//! Callers decide who gets a cgroup, and keep what the next life needs of it.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::Pid;

use super::tree::Identity;

/// The marks of a cgroup that is delegated to those who run in it, or below it: systemd sets the first as root,
/// and the second for users.
const DELEGATED: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// A cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// As `/proc/PID/cgroup` has it.
    path: String,
    /// Where its files are.
    dir: PathBuf,
}

/// The cgroups that this server sees, and those that it may make.
#[derive(Debug, Clone, Default)]
pub struct Cgroups {
    mount: Option<Mount>,
    /// The one below which it may make others.
    delegated: Option<Cgroup>,
}

/// Where cgroups are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    /// The cgroup that is seen at the directory.
    root: String,
    dir: PathBuf,
}

impl Cgroups {
    /// Looks for cgroups, and for the one that is delegated to this server. Blocks.
    pub fn find() -> Cgroups {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let Some(own) = path_in(&read("/proc/self/cgroup")) else {
            return Cgroups::default();
        };
        let mounts = mounts_in(&read("/proc/self/mountinfo"));
        let seen = mounts.into_iter().find_map(|mount| {
            let own = mount.cgroup(&own)?;
            Some((mount, own))
        });
        let Some((mount, own)) = seen else {
            return Cgroups::default();
        };
        let delegated = delegated(&mount, own);
        let mount = Some(mount);
        Cgroups { mount, delegated }
    }

    /// The path of the cgroup that is delegated to this server, if there is one.
    pub fn delegated(&self) -> Option<&str> {
        self.delegated.as_ref().map(Cgroup::path)
    }

    /// A cgroup with this name, which is not made yet; `None` if none is delegated.
    pub fn named(&self, name: &str) -> Option<Cgroup> {
        Some(self.delegated.as_ref()?.child(name))
    }

    /// The cgroup with this path, which a life before has recorded, if it can be seen.
    pub fn recorded(&self, path: &str) -> Option<Cgroup> {
        if path.split('/').any(|part| part == "..") {
            return None;
        }
        self.mount.as_ref()?.cgroup(path)
    }

    /// All cgroups beside those that a server makes now, and beside those with these paths. Blocks.
    pub fn beside<'a>(&self, recorded: impl Iterator<Item = &'a str>) -> Vec<Cgroup> {
        let above = recorded.filter_map(|path| Some(path.rsplit_once('/')?.0));
        let parents: BTreeSet<&str> = above.chain(self.delegated()).collect();
        let parents = parents.into_iter().filter_map(|path| self.recorded(path));
        parents.flat_map(|parent| parent.children()).collect()
    }
}

impl Cgroup {
    /// Its path, as `/proc/PID/cgroup` has it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its name.
    pub fn name(&self) -> &str {
        let name = self.path.rsplit_once('/');
        name.map_or(&self.path, |(_, name)| name)
    }

    /// Makes it. Who writes `0` to the descriptor is in it. Blocks.
    pub fn make(&self) -> io::Result<OwnedFd> {
        match fs::create_dir(&self.dir) {
            // A server that was killed has made it.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => (),
        }
        let file = OpenOptions::new()
            .write(true)
            .open(self.file("cgroup.procs"));
        Ok(file?.into())
    }

    /// Its living processes, and those of the cgroups below it. Blocks.
    pub fn members(&self) -> Vec<Identity> {
        let mut members = Vec::new();
        // Most looks are at those that are empty, or have gone.
        if self.is_populated().unwrap_or(true) {
            self.add_members(self, &mut members);
        }
        members
    }

    fn add_members(&self, whole: &Cgroup, members: &mut Vec<Identity>) {
        let numbers = fs::read_to_string(self.file("cgroup.procs")).unwrap_or_default();
        for number in numbers.lines() {
            // 0 is a process of another pid namespace.
            let pid = number.parse().ok().filter(|pid| *pid > 0);
            let Some(pid) = pid.and_then(Pid::from_raw) else {
                continue;
            };
            // The number may have become another's since. Looked at in this order, it is not taken for a member.
            let identity = Identity::of(pid);
            if whole.has(pid) {
                members.extend(identity);
            }
        }
        for child in self.children() {
            child.add_members(whole, members);
        }
    }

    /// Whether a process is in it or below it. Blocks.
    fn has(&self, pid: Pid) -> bool {
        let file = format!("/proc/{}/cgroup", pid.as_raw_nonzero());
        let path = path_in(&fs::read_to_string(file).unwrap_or_default());
        let below = path
            .as_deref()
            .and_then(|path| path.strip_prefix(&self.path));
        below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether a living process is in it or below it. Nobody is in one that has gone. Fails if the system does
    /// not let this server look: then nobody knows. Blocks.
    pub fn is_populated(&self) -> io::Result<bool> {
        match fs::read_to_string(self.file("cgroup.events")) {
            Ok(events) => Ok(events.lines().any(|line| line == "populated 1")),
            Err(error) => match Errno::from_io_error(&error) {
                // It is removed while the file is open.
                Some(Errno::NOENT | Errno::NODEV) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Kills all that are in it, those included that begin meanwhile. Blocks.
    pub fn kill(&self) {
        // Where it has gone nobody is left.
        let _ = fs::write(self.file("cgroup.kill"), "1");
    }

    /// The memory of all that are in it, without that of files which the system can drop at once; `None` where
    /// the system does not account for it. Blocks.
    pub fn memory(&self) -> Option<u64> {
        let current = fs::read_to_string(self.file("memory.current")).ok()?;
        let current: u64 = current.trim().parse().ok()?;
        let stat = fs::read_to_string(self.file("memory.stat")).ok()?;
        Some(current.saturating_sub(inactive_file(&stat)?))
    }

    /// Removes it and those below it, unless somebody is in it. Blocks.
    pub fn remove(&self) {
        for child in self.children() {
            child.remove();
        }
        let _ = fs::remove_dir(&self.dir);
    }

    fn child(&self, name: &str) -> Cgroup {
        Cgroup {
            path: format!("{}/{name}", self.path.trim_end_matches('/')),
            dir: self.dir.join(name),
        }
    }

    fn children(&self) -> Vec<Cgroup> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let named = dirs.filter_map(|entry| Some(self.child(entry.file_name().to_str()?)));
        named.collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether it is said to be delegated.
    fn is_delegated(&self) -> bool {
        DELEGATED.iter().any(|attribute| {
            let mut value = [0; 2];
            let found = rustix::fs::getxattr(&self.dir, *attribute, &mut value);
            found.is_ok_and(|length| value[..length] == *b"1")
        })
    }

    /// Whether this server may make others in it and have processes enter them, and the system can kill those.
    fn is_usable(&self) -> bool {
        let can_write = |file: &Path| rustix::fs::access(file, Access::WRITE_OK).is_ok();
        can_write(&self.dir)
            && can_write(&self.file("cgroup.procs"))
            && self.file("cgroup.kill").exists()
    }

    /// Has the memory of those below it accounted for, if the system can.
    fn account_memory(&self) {
        let has = |file| {
            let names = fs::read_to_string(self.file(file)).unwrap_or_default();
            names.split_ascii_whitespace().any(|name| name == "memory")
        };
        if has("cgroup.controllers") && !has("cgroup.subtree_control") {
            // Fails while a process is in it. Then memory is measured by process.
            let _ = fs::write(self.file("cgroup.subtree_control"), "+memory");
        }
    }
}

/// The cgroup that is delegated to a process in this one.
fn delegated(mount: &Mount, own: Cgroup) -> Option<Cgroup> {
    // The root of a namespace is another's cgroup; the real root has no type.
    let is_root_of_namespace = own.path == "/" && own.file("cgroup.type").exists();
    if is_root_of_namespace || own.is_delegated() {
        // The server is in it: where controllers are enabled for those below it nobody may be.
        return Some(own).filter(Cgroup::is_usable);
    }
    let (above, name) = own.path.rsplit_once('/')?;
    if name.contains('.') {
        // It is that of a unit of a user's manager, or of an instance of another server: what is above it is
        // delegated to those.
        return None;
    }
    let above = mount.cgroup(above)?;
    let usable = above.is_delegated() && above.is_usable();
    usable.then(|| {
        above.account_memory();
        above
    })
}

impl Mount {
    /// The cgroup with this path, if it is seen here.
    fn cgroup(&self, path: &str) -> Option<Cgroup> {
        let below = path.strip_prefix(self.root.trim_end_matches('/'))?;
        let below = match below.strip_prefix('/') {
            Some(below) => below,
            None if below.is_empty() => below,
            // Another one, whose name begins with the root's.
            None => return None,
        };
        Some(Cgroup {
            path: path.to_owned(),
            dir: self.dir.join(below),
        })
    }
}

/// The path of a process in the hierarchy of version 2, from its `/proc/PID/cgroup`.
fn path_in(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    // Outside of this process's namespace nothing is seen.
    (!path.starts_with("/..")).then(|| path.to_owned())
}

/// Where cgroups of version 2 are mounted, from a `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn mounts_in(mountinfo: &str) -> Vec<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let kind = rest.split(' ').next()?;
        let mut fields = mount.split(' ').skip(3);
        let (root, dir) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Mount {
            root: unescaped(root),
            dir: unescaped(dir).into(),
        })
    });
    mounts.collect()
}

/// A field of a mountinfo, in which the kernel writes four characters as `\` and three octal digits.
fn unescaped(field: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let replace = |text: String, (escape, plain): (&str, &str)| text.replace(escape, plain);
    escapes.into_iter().fold(field.to_owned(), replace)
}

/// The bytes of files that are in memory and were not used of late, from a `memory.stat`.
fn inactive_file(stat: &str) -> Option<u64> {
    let mut lines = stat.lines();
    let value = lines.find_map(|line| line.strip_prefix("inactive_file "))?;
    value.parse().ok()
}

#[cfg(test)]
mod tests;
