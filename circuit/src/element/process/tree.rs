//! The tree of a process: all its descendants, those included that it has lost.
//!
//! A process belongs to a tree if it descends from the tree's main process, is in its session or group, or
//! carries its mark: the variable [`MARK`] of the environment that it began with. A descendant whose parent has
//! gone becomes a child of this server, which is a subreaper, or of init if the server had ended.
//!
//! Where the main process has a cgroup of its own, the tree is all that are in it, and for the time after that the
//! same as without: a process can be moved elsewhere by others.
//!
//! Without one, what escapes is a process in another session *and* without a readable mark *and* orphaned.
//!
//! Looking at processes reads files below /proc, which may block: callers leave it to a thread of a pool.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::cgroup::Cgroup;

/// The variable that carries an instance's mark.
pub const MARK: &str = "CIRCUIT_INSTANCE";

/// A process, told from all others of this boot that had its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Its number.
    pub pid: Pid,
    /// When it was started, in ticks since boot.
    pub start: u64,
}

/// What is known of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The main process, also once it has gone. It began the session or group that has its number.
    pub main: Identity,
    /// The mark, if there is one.
    pub mark: Option<String>,
    /// Whether it began in a life of the server before this one, or elsewhere: then some of its processes may be
    /// init's children, and not this server's.
    pub is_older: bool,
    /// The cgroup in which the main process began, if it has one of its own.
    pub cgroup: Option<Cgroup>,
}

/// The memory of these processes: the sum of what each has for itself and its part of what several share (Pss);
/// `None` if the kernel does not tell.
fn memory(members: &[Identity]) -> Option<u64> {
    let mut sum = 0;
    for member in members {
        let path = format!("/proc/{}/smaps_rollup", member.pid.as_raw_nonzero());
        match fs::read_to_string(path) {
            Ok(text) => sum += kilobytes(&text, "Pss:")? << 10,
            Err(error) if is_gone(&error) => (),
            Err(_) => return None,
        }
    }
    Some(sum)
}

/// The number behind a field of a file of the kernel's.
fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// All processes at one moment, as far as they can be seen.
#[derive(Debug, Default)]
pub struct Table {
    rows: HashMap<Pid, Row>,
    /// The children of each process.
    children: HashMap<Pid, Vec<Pid>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    state: u8,
    parent: i32,
    group: i32,
    session: i32,
    start: u64,
}

impl Identity {
    /// That of a process, if it is there, dead or alive.
    pub fn of(pid: Pid) -> Option<Identity> {
        Identity::read(pid).ok().flatten()
    }

    /// That of a process; `None` if it is not there. Blocks.
    pub fn read(pid: Pid) -> io::Result<Option<Identity>> {
        let row = seen(Row::read(pid))?;
        Ok(row.map(|Row { start, .. }| Identity { pid, start }))
    }

    /// Sends a signal to this process, and to no other that has its number.
    pub fn signal(self, signal: Signal) -> Result<(), Errno> {
        rustix::process::pidfd_send_signal(self.pidfd()?, signal)
    }

    /// A descriptor of this process, and of no other that has its number.
    pub fn pidfd(self) -> Result<OwnedFd, Errno> {
        // Opened first and compared then: whatever the descriptor refers to has the number until it is
        // closed.
        let pidfd = rustix::process::pidfd_open(self.pid, PidfdFlags::empty())?;
        match Row::read(self.pid) {
            Ok(row) if row.start == self.start => Ok(pidfd),
            Ok(_) => Err(Errno::SRCH),
            Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
}

/// What came of a signal to several processes: success if it reached one of them, else why it did not reach
/// one that is there.
pub fn reached(sent: impl IntoIterator<Item = Result<(), Errno>>) -> Result<(), Errno> {
    let mut all = Err(Errno::SRCH);
    for sent in sent {
        match (all, sent) {
            (Ok(()), _) | (_, Err(Errno::SRCH)) => (),
            (Err(_), sent) => all = sent,
        }
    }
    all
}

impl Table {
    /// Reads the processes among which those of some trees are: all that descend from this server, unless one of
    /// the trees is older than it; none for trees whose cgroups are populated.
    pub fn of(trees: &[&Tree]) -> io::Result<Table> {
        let mut read = Vec::new();
        for tree in trees {
            let populated = tree.cgroup.as_ref().map(Cgroup::is_populated);
            if !populated.transpose()?.unwrap_or(false) {
                read.push(tree);
            }
        }
        match !lists_children() || read.iter().any(|tree| tree.is_older) {
            _ if read.is_empty() => Ok(Table::default()),
            true => Table::read(),
            false => Table::read_descendants(),
        }
    }

    /// Reads the processes that descend from this one. It is a subreaper, so that whoever has lost its parent
    /// below it is among them. The kernel may leave one out while another exits (proc_pid_task(5)): whoever has
    /// to be sure reads twice.
    fn read_descendants() -> io::Result<Table> {
        let mut table = Table::default();
        let own = rustix::process::getpid();
        let mut queue = children_of(own)?;
        while let Some(pid) = queue.pop() {
            // Others go meanwhile, and their children are this server's then.
            if let Some(row) = seen(Row::read(pid))? {
                table.add(pid, row);
                queue.extend(children_of(pid)?);
            }
        }
        Ok(table)
    }

    /// Reads all processes.
    pub fn read() -> io::Result<Table> {
        let mut table = Table::default();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(pid) else {
                continue;
            };
            // Others go while the directory is read.
            if let Some(row) = seen(Row::read(pid))? {
                table.add(pid, row);
            }
        }
        Ok(table)
    }

    fn add(&mut self, pid: Pid, row: Row) {
        self.rows.insert(pid, row);
        if let Some(parent) = Pid::from_raw(row.parent) {
            self.children.entry(parent).or_default().push(pid);
        }
    }

    /// Whether a process began the session that it is in.
    pub fn leads(&self, pid: Pid) -> bool {
        let row = self.rows.get(&pid);
        row.is_some_and(|row| row.session == pid.as_raw_nonzero().get())
    }

    /// The living processes of each tree, in the order of the trees. The trees have been watched since their
    /// main processes ended: the system gives the number of a session or group to nobody while that has
    /// members, so that whoever is in it belongs.
    pub fn members(&self, trees: &[&Tree]) -> io::Result<Vec<Vec<Identity>>> {
        let marks = self.marks_of_orphans(trees)?;
        let members = |tree: &&Tree| self.members_of(tree, &marks, |_| true);
        Ok(trees.iter().map(members).collect())
    }

    /// The memory of each tree's processes, in bytes; `None` if the kernel does not tell. Blocks.
    pub fn memory(&self, trees: &[&Tree]) -> io::Result<Vec<Option<u64>>> {
        let accounted = trees
            .iter()
            .map(|tree| tree.cgroup.as_ref().and_then(Cgroup::memory));
        let members = self.members(trees)?;
        let memory = accounted
            .zip(&members)
            .map(|(accounted, members)| accounted.or_else(|| memory(members)));
        Ok(memory.collect())
    }

    /// The living processes of a tree whose main process may have ended unseen, long ago. The number of its
    /// session and group may be that of others by now: of their members those belong whose marks cannot be read,
    /// unless the main process is there.
    pub fn members_of_unwatched(&self, tree: &Tree) -> io::Result<Vec<Identity>> {
        let marks = self.marks_of_orphans(&[tree])?;
        Ok(self.members_of(tree, &marks, is_hidden))
    }

    fn members_of(
        &self,
        tree: &Tree,
        marks: &HashMap<Pid, String>,
        belongs_by_number: impl Fn(Pid) -> bool,
    ) -> Vec<Identity> {
        let confined = tree.cgroup.as_ref().map(Cgroup::members);
        if let Some(members) = confined.filter(|members| !members.is_empty()) {
            return members;
        }
        let own = tree.main.pid;
        let main = self.rows.get(&own);
        let is_there = main.is_some_and(|row| row.start == tree.main.start);
        // Another process that has the number began it anew.
        let may_be_number = is_there || main.is_none();
        let number = own.as_raw_nonzero().get();
        let mut found = HashSet::new();
        let mut queue: Vec<Pid> = Vec::new();
        for (pid, row) in &self.rows {
            let has_number = *pid == own || row.session == number || row.group == number;
            let by_number = may_be_number && has_number && (is_there || belongs_by_number(*pid));
            let by_mark = tree.mark.is_some() && marks.get(pid) == tree.mark.as_ref();
            if by_number || by_mark {
                queue.push(*pid);
            }
        }
        while let Some(pid) = queue.pop() {
            if found.insert(pid) {
                queue.extend(self.children.get(&pid).into_iter().flatten());
            }
        }
        let alive = |pid: Pid| {
            let row = self.rows.get(&pid).filter(|row| row.is_alive())?;
            let start = row.start;
            Some(Identity { pid, start })
        };
        let mut members: Vec<_> = found.into_iter().filter_map(alive).collect();
        members.sort_unstable_by_key(|member| member.pid.as_raw_nonzero());
        members
    }

    /// The marks of processes that have lost their parent, which this server or init has now, or an ancestor
    /// of this server if the server of a life before lost them to that: it may be a subreaper, as the manager
    /// of a user's session is. Those of others need not be read: they descend from such a one, or from a main
    /// process.
    fn marks_of_orphans(&self, trees: &[&Tree]) -> io::Result<HashMap<Pid, String>> {
        let mut marks = HashMap::new();
        if trees.iter().all(|tree| tree.mark.is_none()) {
            return Ok(marks);
        }
        let reapers = self.reapers(rustix::process::getpid());
        let orphans = self
            .rows
            .iter()
            .filter(|(_, row)| row.is_alive() && reapers.contains(&row.parent));
        for (pid, _) in orphans {
            if let Some(mark) = read_mark(*pid)? {
                marks.insert(*pid, mark);
            }
        }
        Ok(marks)
    }

    /// The numbers of those that may be given the processes that lose their parent: init, one of another
    /// namespace, this process, and its ancestors.
    fn reapers(&self, own: Pid) -> HashSet<i32> {
        let mut reapers = HashSet::from([0, 1]);
        let mut next = Some(own);
        while let Some(pid) = next {
            // Rows of different moments may form a circle.
            if !reapers.insert(pid.as_raw_nonzero().get()) {
                break;
            }
            next = self
                .rows
                .get(&pid)
                .and_then(|row| Pid::from_raw(row.parent));
        }
        reapers
    }

    /// The living processes that carry a mark for which `wanted` holds, wherever they are.
    pub fn marked(&self, wanted: impl Fn(&str) -> bool) -> Vec<(Identity, String)> {
        let living = self.rows.iter().filter(|(_, row)| row.is_alive());
        let marked = living.filter_map(|(pid, row)| {
            let mark = mark_of(*pid).filter(|mark| wanted(mark))?;
            let (pid, start) = (*pid, row.start);
            Some((Identity { pid, start }, mark))
        });
        marked.collect()
    }
}

/// The children of this process. Blocks.
pub(super) fn own_children() -> io::Result<Vec<Pid>> {
    let own = rustix::process::getpid();
    match lists_children() {
        true => children_of(own),
        false => Ok(Table::read()?.children.remove(&own).unwrap_or_default()),
    }
}

/// Whether the kernel lists the children of a process (`CONFIG_PROC_CHILDREN`).
fn lists_children() -> bool {
    static LISTS: OnceLock<bool> = OnceLock::new();
    *LISTS.get_or_init(|| Path::new("/proc/thread-self/children").exists())
}

/// The children of all threads of a process.
fn children_of(parent: Pid) -> io::Result<Vec<Pid>> {
    let mut all = Vec::new();
    let threads = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero()));
    for thread in seen(threads)?.into_iter().flatten() {
        // Threads go meanwhile, and their children become those of another thread.
        let Some(thread) = seen(thread)? else {
            continue;
        };
        let children = seen(fs::read_to_string(thread.path().join("children")))?;
        let children = children.unwrap_or_default();
        all.extend(children.split_ascii_whitespace().filter_map(pid));
    }
    Ok(all)
}

/// The mark that a process began with; `None` if it has none, or its environment cannot be read.
pub fn mark_of(pid: Pid) -> Option<String> {
    read_mark(pid).ok().flatten()
}

fn read_mark(pid: Pid) -> io::Result<Option<String>> {
    let Some(_reading) = Reading::begin(pid, Instant::now()) else {
        return Ok(None);
    };
    let environment = seen(fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())))?;
    let environment = environment.unwrap_or_default();
    let entry = environment.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(MARK.as_bytes())?;
        value.strip_prefix(b"=")
    });
    Ok(entry.and_then(|entry| String::from_utf8(entry.to_vec()).ok()))
}

/// An environment that is being read. That waits for as long as the process has its memory locked, which may be
/// for ever if it waits itself for a disk or a file system that hangs.
struct Reading(Option<Pid>);

/// Since when each of them is being read.
static READING: Mutex<BTreeMap<i32, Instant>> = Mutex::new(BTreeMap::new());

/// How long an environment is being read before others take it for one that cannot be read. Chosen, not measured:
/// a thousand times what it takes.
const HANGS: Duration = Duration::from_secs(1);

impl Reading {
    /// Begins to read that of a process, unless somebody hangs at it.
    fn begin(pid: Pid, now: Instant) -> Option<Reading> {
        match READING.lock().entry(pid.as_raw_nonzero().get()) {
            Entry::Vacant(vacant) => {
                vacant.insert(now);
                Some(Reading(Some(pid)))
            }
            Entry::Occupied(since) if now.saturating_duration_since(*since.get()) >= HANGS => None,
            Entry::Occupied(_) => Some(Reading(None)),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            READING.lock().remove(&pid.as_raw_nonzero().get());
        }
    }
}

/// Whether it cannot be known which mark a process began with.
fn is_hidden(pid: Pid) -> bool {
    let opened = fs::File::open(format!("/proc/{}/environ", pid.as_raw_nonzero()));
    opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// What was read of a process; `None` if the process has gone, or is another's and not to be seen. Any other
/// error is this server's: with that nobody knows who is there.
fn seen<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a process went while it was looked at.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::SRCH)
    )
}

fn pid(text: &str) -> Option<Pid> {
    Pid::from_raw(i32::from_str(text).ok().filter(|pid| *pid > 0)?)
}

impl Row {
    fn read(pid: Pid) -> io::Result<Row> {
        let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // The kernel gives the whole line at once, and the fields that are wanted are its first.
        let mut line = [0; 1024];
        let length = rustix::io::read(file, &mut line)?;
        Row::parse(&line[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// proc_pid_stat(5). The second field is the program's name in parentheses, which may hold anything.
    fn parse(stat: &[u8]) -> Option<Row> {
        let behind_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
        let rest = std::str::from_utf8(&stat[behind_name..]).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.bytes().next()?;
        let mut number = || i32::from_str(fields.next()?).ok();
        let (parent, group, session) = (number()?, number()?, number()?);
        // The 22nd field; the seventh is next.
        let start = u64::from_str(fields.nth(15)?).ok()?;
        Some(Row {
            state,
            parent,
            group,
            session,
            start,
        })
    }

    /// Whether it is neither a zombie nor dead.
    fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pid: i32, start: u64) -> Identity {
        let pid = Pid::from_raw(pid).unwrap();
        Identity { pid, start }
    }

    fn row(parent: i32, group: i32, session: i32, start: u64) -> Row {
        let state = b'S';
        Row {
            state,
            parent,
            group,
            session,
            start,
        }
    }

    fn table(rows: &[(i32, Row)]) -> Table {
        let mut table = Table::default();
        for (pid, row) in rows {
            table.add(Pid::from_raw(*pid).unwrap(), *row);
        }
        table
    }

    fn members(table: &Table, main: Identity) -> Vec<i32> {
        let tree = Tree {
            main,
            mark: None,
            is_older: false,
            cgroup: None,
        };
        let members = table.members(&[&tree]).unwrap().remove(0);
        members
            .iter()
            .map(|found| found.pid.as_raw_nonzero().get())
            .collect()
    }

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name_holds() {
        let stat = b"7 (a) S 1 ) (b) R 5 6 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        let expected = Row {
            state: b'R',
            ..row(5, 6, 7, 987_654)
        };
        assert_eq!(Row::parse(stat), Some(expected));
        for end in 0..stat.len() - 8 {
            let _ = Row::parse(&stat[..end]);
        }
        assert_eq!(Row::parse(b"7 (a) R 5 6 7"), None);
    }

    #[test]
    fn descendants_and_those_of_the_session_belong() {
        let table = table(&[
            (10, row(2, 10, 10, 5)),
            (11, row(10, 10, 10, 6)),
            // It began a session of its own, and has a child.
            (12, row(11, 12, 12, 7)),
            (13, row(12, 12, 12, 8)),
            // It lost its parent.
            (14, row(1, 10, 10, 9)),
            (20, row(1, 20, 20, 5)),
        ]);
        assert_eq!(members(&table, at(10, 5)), [10, 11, 12, 13, 14]);
        // Another process has the number now.
        assert_eq!(members(&table, at(10, 4)), [0; 0]);
    }

    #[test]
    fn a_number_that_nobody_has_watched_may_be_another_groups() {
        // The main process, 10, has gone, and so has another that had its number and left one whose environment
        // can be read: here it is this process.
        let left = rustix::process::getpid().as_raw_nonzero().get();
        let table = table(&[(left, row(1, 10, 10, 6)), (20, row(1, 20, 20, 7))]);
        let tree = Tree {
            main: at(10, 5),
            mark: None,
            is_older: true,
            cgroup: None,
        };
        assert_eq!(table.members_of_unwatched(&tree).unwrap(), []);
        assert_eq!(members(&table, at(10, 5)), [left]);
    }

    #[test]
    fn only_a_process_that_has_gone_or_is_not_to_be_seen_is_left_out() {
        let read = |errno: Errno| seen(Err::<(), _>(errno.into())).map_err(|error| error.kind());
        for errno in [Errno::NOENT, Errno::SRCH, Errno::ACCESS, Errno::PERM] {
            assert_eq!(read(errno), Ok(None), "{errno}");
        }
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(read(errno).is_err(), "{errno}");
        }
    }

    #[test]
    fn an_environment_at_which_somebody_hangs_is_left_alone() {
        let pid = Pid::from_raw(i32::MAX).unwrap();
        let now = Instant::now();
        let hangs = Reading::begin(pid, now).unwrap();
        assert!(Reading::begin(pid, now + HANGS / 2).is_some());
        assert!(Reading::begin(pid, now + HANGS).is_none());
        drop(hangs);
        assert!(Reading::begin(pid, now + HANGS).is_some());
    }

    #[test]
    fn a_signal_is_refused_only_if_it_reached_nobody() {
        let (gone, refused) = (Err(Errno::SRCH), Err(Errno::PERM));
        assert_eq!(reached([]), gone);
        assert_eq!(reached([gone, gone]), gone);
        assert_eq!(reached([gone, refused, gone]), refused);
        assert_eq!(reached([refused, Ok(()), refused]), Ok(()));
    }

    #[test]
    fn zombies_do_not_belong_but_what_they_left_does() {
        let zombie = Row {
            state: b'Z',
            ..row(2, 10, 10, 5)
        };
        let table = table(&[(10, zombie), (11, row(1, 10, 10, 6))]);
        assert_eq!(members(&table, at(10, 5)), [11]);
    }

    #[test]
    fn a_child_of_any_thread_is_found() {
        let spawn = || {
            let mut sleep = std::process::Command::new("sleep");
            sleep.arg("1000").spawn().unwrap()
        };
        let mut child = std::thread::spawn(spawn).join().unwrap();
        let pid = Pid::from_child(&child);
        let main = Identity::of(pid).unwrap();
        let tree = Tree {
            main,
            mark: None,
            is_older: false,
            cgroup: None,
        };
        let table = Table::of(&[&tree]).unwrap();
        let members = table.members(&[&tree]).unwrap().remove(0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(members, [main]);
    }

    #[test]
    fn orphans_may_be_an_ancestors() {
        let table = table(&[
            (10, row(2, 10, 10, 5)),
            (11, row(10, 10, 10, 6)),
            (12, row(11, 12, 12, 7)),
            // Its parent has come after it.
            (2, row(12, 2, 2, 8)),
        ]);
        let mut reapers: Vec<_> = table
            .reapers(Pid::from_raw(11).unwrap())
            .into_iter()
            .collect();
        reapers.sort_unstable();
        assert_eq!(reapers, [0, 1, 2, 10, 11, 12]);
    }

    #[test]
    fn this_very_process_is_found() {
        let own = Identity::of(rustix::process::getpid()).unwrap();
        let tree = Tree {
            main: own,
            mark: None,
            is_older: true,
            cgroup: None,
        };
        let table = Table::read().unwrap();
        assert!(table.members(&[&tree]).unwrap()[0].contains(&own));
        let other = Identity {
            start: own.start + 1,
            ..own
        };
        assert_eq!(other.signal(Signal::CONT), Err(Errno::SRCH));
    }
}
