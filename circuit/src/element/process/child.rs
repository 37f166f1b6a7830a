//! Starts a program as a child of this process.
//!
//! The child shares this process's memory until it executes the program, as after vfork(2): so a start
//! costs the same however much memory the server has, where a fork copies its page tables. In between the
//! child makes system calls and nothing else. So it can do what `posix_spawn` cannot: begin a session,
//! change its user and its limits, and write its own number into its environment.
//!
//! A child that changes its user gets a copy of the memory, as after fork(2). The kernel withdraws the right
//! to look into the memory of a process that changes its user (`PR_SET_DUMPABLE` of prctl(2)), and would
//! withdraw it from this process too, for good; and nothing of this process is that user's to read.
//!
//! **Invariant:** between the clone and the execution the child does not allocate, lock, panic or run a
//! signal handler, and the thread that started it stands still.

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};

use super::orphans;
use crate::runtime::handlers;

/// The program that a child executes, and the state in which it does.
#[derive(Debug)]
pub(super) struct Start<'a> {
    /// The program's file.
    pub(super) program: &'a Path,
    /// The arguments, the program's name included.
    pub(super) args: Vec<&'a OsStr>,
    /// The whole environment, as `NAME=value`.
    pub(super) env: Vec<Cow<'static, CStr>>,
    /// The working directory; `None` is this process's own.
    pub(super) dir: Option<&'a OsStr>,
    /// What it has open, each with its number there: 0 is its stdin.
    pub(super) open: Vec<(OwnedFd, RawFd)>,
    /// Files that it opens itself as its user, from its working directory, to append to them.
    pub(super) files: Vec<(&'a OsStr, Output)>,
    /// The group that it begins.
    pub(super) begins: Begins,
    /// Limits in place of this process's own.
    pub(super) limits: Vec<(Resource, Rlimit)>,
    /// The mask of the modes of files that it makes.
    pub(super) umask: Option<u32>,
    /// Its priority.
    pub(super) nice: Option<i32>,
    /// The user that it runs as.
    pub(super) owner: Option<Owner>,
    /// Whether it gets `LISTEN_PID`, its own number.
    pub(super) own_number: bool,
    /// Whether it is killed when the thread that starts it ends.
    pub(super) dies_with_us: bool,
    /// By which it enters a cgroup, if the system lets it.
    pub(super) enters: Option<OwnedFd>,
}

/// What a child begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Begins {
    /// A process group.
    #[default]
    Group,
    /// A session, and a process group in it.
    Session,
    /// A session whose terminal is its stdin.
    Terminal,
}

/// One of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout = 1,
    Stderr = 2,
}

/// A user, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owner {
    /// The user's number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// Its other groups.
    pub groups: Vec<u32>,
}

/// A child that executes its program.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    /// Whether it is in the cgroup that it was to enter.
    pub(super) entered: bool,
}

/// The step at which a child failed, or this process before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Clone,
    Descriptors,
    Session,
    Limits,
    Nice,
    User,
    Directory,
    Stdout,
    Stderr,
    Execute,
}

/// Why there is no child.
#[derive(Debug, Clone, Copy)]
pub(super) struct NotStarted {
    pub(super) step: Step,
    pub(super) errno: Errno,
}

/// The variable that tells a program for which process its sockets are (sd_listen_fds(3)).
const LISTEN_PID: &[u8] = b"LISTEN_PID=";

/// The longest decimal number of a process.
const LONGEST_NUMBER: usize = 10;

/// The size of the child's stack, in bytes. Chosen, not measured: its calls are three deep, and the
/// dynamic linker, which may have to find them, needs some kilobytes.
const STACK: usize = 64 << 10;

impl Start<'_> {
    /// Starts the child. It is this server's own from then on: whoever calls this reaps it.
    pub(super) fn start(self) -> Result<Child, NotStarted> {
        let start = || self.clone_and_execute();
        orphans::starting(start, |child| Some(child.pid))
    }

    fn clone_and_execute(self) -> Result<Child, NotStarted> {
        // The texts hold no zero bytes: the command was checked.
        let text =
            |bytes: &[u8]| CString::new(bytes).map_err(|_| Step::Execute.failed(Errno::INVAL));
        let program = text(self.program.as_os_str().as_bytes())?;
        let args = self.args.iter().map(|arg| text(arg.as_bytes()));
        let args = args.collect::<Result<Vec<_>, _>>()?;
        let dir = self.dir.map(|dir| text(dir.as_bytes())).transpose()?;
        let mut number = [LISTEN_PID, &[0; LONGEST_NUMBER + 1]].concat();
        let mut env = pointers(&self.env);
        if self.own_number {
            env.insert(0, number.as_ptr().cast());
        }
        let open = self.open.iter();
        let open: Vec<_> = open.map(|(fd, number)| (fd.as_raw_fd(), *number)).collect();
        let limits = self.limits.iter().map(|(resource, limit)| {
            let side = |side: Option<u64>| side.unwrap_or(libc::RLIM_INFINITY);
            let limit = libc::rlimit {
                rlim_cur: side(limit.current),
                rlim_max: side(limit.maximum),
            };
            (*resource as u32, limit)
        });
        let files = self.files.iter();
        let files = files.map(|(path, output)| Ok((text(path.as_bytes())?, *output)));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let told = Told::new(self.owner.is_some()).map_err(|errno| Step::Clone.failed(errno))?;
        let mut plan = Plan {
            program: program.as_ptr(),
            args: pointers(&args),
            env,
            dir: dir.as_ref().map_or(ptr::null(), |dir| dir.as_ptr()),
            open,
            files: files
                .iter()
                .map(|(path, output)| (path.as_ptr(), *output))
                .collect(),
            begins: self.begins,
            limits: limits.collect(),
            umask: self.umask,
            nice: self.nice,
            owner: self.owner,
            number: match self.own_number {
                true => number[LISTEN_PID.len()..].as_mut_ptr(),
                false => ptr::null_mut(),
            },
            parent: self.dies_with_us.then(rustix::process::getpid),
            altered: handlers::altered().collect(),
            enters: self.enters.as_ref().map_or(-1, AsRawFd::as_raw_fd),
            step: Step::Clone,
            told: told.place,
        };
        let (pid, pidfd) = plan.clone().map_err(|errno| Step::Clone.failed(errno))?;
        let Report { entered, failed } = told.report();
        match failed {
            None => Ok(Child {
                pid,
                pidfd,
                entered,
            }),
            Some((step, errno)) => {
                let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
                Err(step.failed(Errno::from_raw_os_error(errno)))
            }
        }
    }
}

impl Step {
    fn failed(self, errno: Errno) -> NotStarted {
        NotStarted { step: self, errno }
    }
}

impl From<NotStarted> for io::Error {
    fn from(failed: NotStarted) -> io::Error {
        failed.errno.into()
    }
}

/// The texts as the system wants them: pointers, and a null pointer behind them.
fn pointers(texts: &[impl AsRef<CStr>]) -> Vec<*const c_char> {
    let pointers = texts.iter().map(|text| text.as_ref().as_ptr());
    pointers.chain([ptr::null()]).collect()
}

/// What the child tells this process.
#[derive(Debug, Clone, Copy, Default)]
struct Report {
    /// Whether it has entered its cgroup.
    entered: bool,
    /// At which step it failed, and why.
    failed: Option<(Step, c_int)>,
}

/// Where the child writes its report.
struct Told {
    place: *mut Report,
    is_mapped: bool,
}

impl Told {
    /// A place in the memory that both have, or in memory of its own that they share.
    #[allow(unsafe_code)]
    fn new(is_mapped: bool) -> Result<Told, Errno> {
        let place = match is_mapped {
            false => Box::into_raw(Box::new(Report::default())),
            true => {
                let access = libc::PROT_READ | libc::PROT_WRITE;
                let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
                // SAFETY: the system chooses the place.
                let place =
                    unsafe { libc::mmap(ptr::null_mut(), Told::SIZE, access, flags, -1, 0) };
                if place == libc::MAP_FAILED {
                    return Err(
                        Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::NOMEM)
                    );
                }
                let place: *mut Report = place.cast();
                // SAFETY: it is a page of this process alone, so that it fits and is aligned.
                unsafe { place.write(Report::default()) };
                place
            }
        };
        Ok(Told { place, is_mapped })
    }

    const SIZE: usize = size_of::<Report>();

    /// What the child wrote, once it has executed its program or exited.
    #[allow(unsafe_code)]
    fn report(&self) -> Report {
        // SAFETY: the place is valid until this is dropped. The child has written, or never will.
        unsafe { self.place.read_volatile() }
    }
}

impl Drop for Told {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: `new` made it in one of the two ways, and nobody uses it any more.
        unsafe {
            match self.is_mapped {
                true => drop(libc::munmap(self.place.cast(), Told::SIZE)),
                false => drop(Box::from_raw(self.place)),
            }
        }
    }
}

/// What the child does, made ready before it is there. It writes the step at which it fails.
struct Plan {
    program: *const c_char,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    dir: *const c_char,
    open: Vec<(RawFd, RawFd)>,
    files: Vec<(*const c_char, Output)>,
    begins: Begins,
    limits: Vec<(u32, libc::rlimit)>,
    umask: Option<u32>,
    nice: Option<i32>,
    owner: Option<Owner>,
    number: *mut u8,
    parent: Option<Pid>,
    altered: Vec<c_int>,
    enters: RawFd,
    step: Step,
    told: *mut Report,
}

impl Plan {
    /// Makes the child, and returns once it has executed its program or failed.
    #[allow(unsafe_code)]
    fn clone(&mut self) -> Result<(Pid, OwnedFd), Errno> {
        let mut stack: Vec<u128> = Vec::with_capacity(STACK / size_of::<u128>());
        let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
        let memory = match self.owner {
            None => libc::CLONE_VM,
            Some(_) => 0,
        };
        let flags = memory | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        let mut pidfd: c_int = -1;
        // SAFETY: the masks are plain data, which the calls fill.
        let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above; the mask of this thread is set back below.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        }
        // SAFETY: the child runs `execute` on a stack of its own, which lives until this returns: that is
        // when the child has executed its program or exited, as CLONE_VFORK says. Until then this thread
        // stands still, so that the plan, and the place that the two share, are the child's alone. No
        // signal handler runs in the child, as all signals are blocked but two of the C library's own, which
        // it sends only where a process changes its user or ends a thread.
        let pid = unsafe {
            libc::clone(
                execute,
                top.cast(),
                flags,
                ptr::from_mut(self).cast(),
                &raw mut pidfd,
            )
        };
        let failed = io::Error::last_os_error();
        // SAFETY: the mask is the one that this thread had.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        }
        match Pid::from_raw(pid) {
            // SAFETY: the kernel made the descriptor for this call, and nobody else has it.
            Some(pid) if pid.as_raw_pid() > 0 => Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
            _ => Err(Errno::from_io_error(&failed).unwrap_or(Errno::AGAIN)),
        }
    }

    /// Does all that comes before the execution. It runs in the child.
    ///
    /// # Safety
    ///
    /// The process is a child of [`clone`](Plan::clone), and the pointers of the plan are valid.
    #[allow(unsafe_code)]
    unsafe fn prepare(&mut self) -> Result<(), ()> {
        // SAFETY: system calls only, on values that the plan holds.
        unsafe {
            if self.enters >= 0 {
                // Before anything that could be counted, and before the number is another descriptor's. A child
                // that may not enter is told from others by less.
                (*self.told).entered = libc::write(self.enters, c"0".as_ptr().cast(), 1) == 1;
            }
            self.step = Step::Descriptors;
            // Out of the way of the numbers that they are to have.
            let mut above = 0;
            for (_, number) in &self.open {
                above = above.max(*number + 1);
            }
            for (fd, _) in &mut self.open {
                *fd = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, above);
                done(*fd)?;
            }
            for (fd, number) in &self.open {
                done(libc::dup2(*fd, *number))?;
            }
            self.step = Step::Session;
            match self.begins {
                Begins::Group => done(libc::setpgid(0, 0))?,
                Begins::Session => done(libc::setsid())?,
                Begins::Terminal => {
                    done(libc::setsid())?;
                    done(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                }
            }
            self.step = Step::Limits;
            for (resource, limit) in &self.limits {
                done(libc::setrlimit(*resource as _, limit))?;
            }
            if let Some(mask) = self.umask {
                libc::umask(mask);
            }
            self.step = Step::Nice;
            if let Some(nice) = self.nice {
                done(libc::setpriority(libc::PRIO_PROCESS, 0, nice))?;
            }
            self.step = Step::User;
            if let Some(owner) = &self.owner {
                // The library's functions would change the threads of this process too.
                let (count, groups) = (owner.groups.len(), owner.groups.as_ptr());
                let (uid, gid) = (owner.uid, owner.gid);
                called(libc::syscall(libc::SYS_setgroups, count, groups))?;
                called(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
                called(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
            }
            self.step = Step::Directory;
            if !self.dir.is_null() {
                done(libc::chdir(self.dir))?;
            }
            for (path, output) in &self.files {
                self.step = match output {
                    Output::Stdout => Step::Stdout,
                    Output::Stderr => Step::Stderr,
                };
                // Without blocking: it may be a FIFO that nobody reads.
                let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
                let fd = libc::open(*path, flags | libc::O_NOCTTY | libc::O_NONBLOCK, 0o666);
                done(fd)?;
                done(libc::fcntl(fd, libc::F_SETFL, libc::O_APPEND))?;
                done(libc::dup2(fd, *output as RawFd))?;
            }
            self.step = Step::Execute;
            if !self.number.is_null() {
                write_number(self.number, libc::getpid().unsigned_abs());
            }
            if let Some(parent) = self.parent {
                done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                // It may have died before that.
                if libc::getppid() != parent.as_raw_pid() {
                    libc::_exit(127);
                }
            }
            default_signals(&self.altered);
        }
        Ok(())
    }
}

/// The child's only function.
#[allow(unsafe_code)]
extern "C" fn execute(plan: *mut c_void) -> c_int {
    // SAFETY: `clone` gives its plan, which is this child's alone until it has executed its program.
    unsafe {
        let plan = &mut *plan.cast::<Plan>();
        if plan.prepare().is_ok() {
            libc::execve(plan.program, plan.args.as_ptr(), plan.env.as_ptr());
        }
        (*plan.told).failed = Some((plan.step, *libc::__errno_location()));
        libc::_exit(127)
    }
}

/// Sets all signals to what a program expects: at their defaults, and none blocked. Without that, the
/// child would keep those that this process ignores.
///
/// # Safety
///
/// The process is a child that shares no handlers with another.
#[allow(unsafe_code)]
unsafe fn default_signals(altered: &[c_int]) {
    // SAFETY: the structures are plain data.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        for signal in altered {
            libc::sigaction(*signal, &raw const action, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

fn done(result: c_int) -> Result<(), ()> {
    if result < 0 { Err(()) } else { Ok(()) }
}

fn called(result: libc::c_long) -> Result<(), ()> {
    if result < 0 { Err(()) } else { Ok(()) }
}

/// Writes a number in decimal digits, and a zero byte.
///
/// # Safety
///
/// There is room for [`LONGEST_NUMBER`] digits and the zero byte.
#[allow(unsafe_code)]
unsafe fn write_number(to: *mut u8, number: u32) {
    let mut divisor = 1;
    while number / divisor >= 10 {
        divisor *= 10;
    }
    let mut at = to;
    // SAFETY: a number has ten digits at most, and the caller says that there is room.
    unsafe {
        while divisor > 0 {
            *at = b'0' + (number / divisor % 10) as u8;
            at = at.add(1);
            divisor /= 10;
        }
        *at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts a shell as this user, to its end.
    fn run_as(uid: u32, script: &str, files: Vec<(&OsStr, Output)>) -> Result<(), NotStarted> {
        let null = || {
            OwnedFd::from(
                std::fs::File::options()
                    .write(true)
                    .open("/dev/null")
                    .unwrap(),
            )
        };
        let start = Start {
            program: Path::new("/bin/sh"),
            args: ["sh", "-c", script].map(OsStr::new).to_vec(),
            env: Vec::new(),
            dir: Some(OsStr::new("/")),
            open: vec![(null(), 0), (null(), 1), (null(), 2)],
            files,
            begins: Begins::Session,
            limits: Vec::new(),
            umask: None,
            nice: None,
            owner: Some(Owner {
                uid,
                gid: uid,
                groups: Vec::new(),
            }),
            own_number: false,
            dies_with_us: false,
            enters: None,
        };
        let child = start.start()?;
        let ended = orphans::reap_own(child.pid, || {
            rustix::process::waitpid(Some(child.pid), rustix::process::WaitOptions::empty())
        });
        let (_, status) = ended.unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0), "{script}");
        Ok(())
    }

    fn is_root() -> bool {
        let is_root = rustix::process::geteuid().is_root();
        if !is_root {
            assert!(std::env::var_os("CIRCUIT_TESTS").is_none_or(|tests| tests != "all"));
            eprintln!("skipped: needs root, to start a process as another user");
        }
        is_root
    }

    #[test]
    fn a_child_that_changes_its_user_leaves_the_servers_memory_as_it_was() {
        if !is_root() {
            return;
        }
        let before = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(before, rustix::process::DumpableBehavior::Dumpable);
        run_as(65_534, "test $(id -u) = 65534", Vec::new()).unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), before);
        let nowhere = OsStr::new("/nowhere/file");
        let failed = run_as(65_534, "", vec![(nowhere, Output::Stderr)]).unwrap_err();
        assert_eq!((failed.step, failed.errno), (Step::Stderr, Errno::NOENT));
    }

    #[test]
    fn a_child_opens_its_files_as_its_user() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if !is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let modes = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        modes(dir.path(), 0o777);
        let [own, secret] = ["own", "secret"].map(|name| dir.path().join(name));
        for _ in 0..2 {
            let files = vec![(own.as_os_str(), Output::Stdout)];
            run_as(65_534, "echo written", files).unwrap();
        }
        assert_eq!(std::fs::read(&own).unwrap(), b"written\nwritten\n");
        assert_eq!(own.metadata().unwrap().uid(), 65_534);
        // A file of root's, to which that user has put a link.
        std::fs::write(&secret, "").unwrap();
        modes(&secret, 0o600);
        std::fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink(&secret, &own).unwrap();
        let files = vec![(own.as_os_str(), Output::Stdout)];
        let failed = run_as(65_534, "echo written", files).unwrap_err();
        assert_eq!((failed.step, failed.errno), (Step::Stdout, Errno::ACCESS));
    }

    #[test]
    #[allow(unsafe_code)]
    fn numbers_are_written_as_they_are_read() {
        for number in [0, 1, 9, 10, 4_194_304, u32::MAX] {
            let mut text = [b'x'; LONGEST_NUMBER + 1];
            // SAFETY: there is room.
            unsafe { write_number(text.as_mut_ptr(), number) };
            let end = text.iter().position(|byte| *byte == 0).unwrap();
            assert_eq!(text[..end], *number.to_string().as_bytes());
        }
    }
}
