//! Starts a command as a child with its pipes.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use circuit_proto::OsText;
use circuit_proto::element::process::{Cmd, Sink, TerminalSize};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid, WaitId, WaitIdOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::child::{Begins, Child, NotStarted, Output, Owner, Start, Step};
use super::orphans;
use super::tree::MARK;
use crate::element::streams::{self, Descriptor, held_pipe};
use crate::logs::Stream;
use crate::runtime::descriptors::{Taken, original_limit};

/// The longest command, in bytes: its status, which repeats it, is to fit a frame.
const LONGEST_COMMAND: usize = 512 << 10;

/// How many descriptors a start takes: both ends of three pipes, the child's pidfd, and those that the
/// standard library opens for a moment. A child that runs keeps four of them.
pub(super) const DESCRIPTORS: u64 = 10;

/// Takes what is discarded.
const NULL_DEVICE: &str = "/dev/null";

/// A child that runs.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) pid: Pid,
    pub(super) pidfd: Arc<Descriptor>,
    pub(super) stdin: streams::Sink,
    pub(super) stdout: Option<Arc<Descriptor>>,
    pub(super) stderr: Option<Arc<Descriptor>>,
    pub(super) terminal: Option<Arc<OwnedFd>>,
}

/// The reason why a command was not executed. Each names the file or part in question.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The command makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such program.
    #[error("{reason}: {path}")]
    NotFound {
        /// The operating system's words.
        reason: String,
        /// The program.
        path: String,
    },
    /// The program cannot be executed.
    #[error("{reason}: {path}")]
    Exec {
        /// The operating system's words.
        reason: String,
        /// The program.
        path: String,
    },
    /// A directory or file that the command names is not to be had.
    #[error("{reason}: {path} ({field})")]
    File {
        /// The operating system's words.
        reason: String,
        /// The directory or file.
        path: String,
        /// Which part of the command names it.
        field: &'static str,
    },
    /// The server has no more processes or descriptors to give.
    #[error("cannot start a process: {0}")]
    System(String),
    /// The server may not start it so, now or later.
    #[error("cannot start a process: {0}")]
    Refused(String),
}

/// Makes the pipe of an output that is retained, and gives the process's end of it.
pub(super) type Retain<'a> = &'a dyn Fn(Stream) -> Result<OwnedFd, SpawnError>;

/// Starts the command's process, with [`DESCRIPTORS`] that were taken for it. On failure no process is
/// left; a file for an output that was not there stays, as a shell leaves it.
pub(super) fn spawn(
    cmd: &Cmd,
    manner: &Manner,
    retain: Retain<'_>,
    taken: Taken,
) -> Result<Spawned, SpawnError> {
    check(cmd)?;
    let program = find_program(cmd)?;
    match cmd.terminal {
        None => spawn_on_pipes(cmd, &program, manner, retain, taken),
        Some(size) => spawn_on_terminal(cmd, &program, size, manner, taken),
    }
}

fn spawn_on_pipes(
    cmd: &Cmd,
    program: &Path,
    manner: &Manner,
    retain: Retain<'_>,
    mut taken: Taken,
) -> Result<Spawned, SpawnError> {
    let pipe = rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (to_read, stdin) = pipe.map_err(|errno| SpawnError::System(words(&errno.into())))?;
    let output = |to, stream, field| match to {
        &Sink::Log => Ok((retain(stream)?, None)),
        to => output(cmd, to, field),
    };
    let (stdout, from_stdout) = output(&cmd.stdout, Stream::Stdout, "Stdout")?;
    let (stderr, from_stderr) = output(&cmd.stderr, Stream::Stderr, "Stderr")?;
    let open = vec![to_read, stdout, stderr];
    let child = start_as(cmd, program, open, Begins::Group, Beside::default(), manner)?;
    child.wired(|pid, pidfd| {
        let mut descriptor = |fd| Descriptor::new(fd, taken.split(1));
        Ok(Spawned {
            pid,
            pidfd: watched(descriptor(pidfd)?)?,
            stdin: streams::Sink::Pipe(descriptor(stdin)?),
            stdout: from_stdout.map(&mut descriptor).transpose()?,
            stderr: from_stderr.map(&mut descriptor).transpose()?,
            terminal: None,
        })
    })
}

fn spawn_on_terminal(
    cmd: &Cmd,
    program: &Path,
    size: TerminalSize,
    manner: &Manner,
    mut taken: Taken,
) -> Result<Spawned, SpawnError> {
    let system = |errno: Errno| SpawnError::System(format!("no terminal: {errno}"));
    let (master, slave) = open_terminal(size).map_err(system)?;
    let copy = || slave.try_clone().map_err(|e| SpawnError::System(words(&e)));
    let open = vec![copy()?, copy()?, copy()?];
    drop(slave);
    let child = start_as(
        cmd,
        program,
        open,
        Begins::Terminal,
        Beside::default(),
        manner,
    )?;
    let master = Arc::new(master);
    child.wired(|pid, pidfd| {
        let stdout = Some(Descriptor::new(master.try_clone()?, taken.split(1))?);
        let stdin = Descriptor::new(master.try_clone()?, taken.split(1))?;
        let stdin = streams::Sink::Terminal(stdin);
        // The terminal itself goes with the process, and counts as a part of this.
        let pidfd = watched(Descriptor::new(pidfd, taken.split(2))?)?;
        Ok(Spawned {
            pid,
            pidfd,
            stdin,
            stdout,
            stderr: None,
            terminal: Some(master),
        })
    })
}

/// How a command is executed, besides what it says itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manner {
    /// The user that it runs as.
    pub owner: Option<Owner>,
    /// The mask of the modes of files that it makes.
    pub umask: Option<u32>,
    /// Its priority.
    pub nice: Option<i32>,
    /// Limits in place of the server's.
    pub limits: Vec<(Resource, Rlimit)>,
    /// Whether it gets its own number as `LISTEN_PID`.
    pub own_number: bool,
    /// Variables on top of the command's, as `NAME=value`.
    pub variables: Vec<String>,
}

impl Manner {
    /// The user and group that files made for it belong to, if they are not the server's own.
    pub fn owner_numbers(&self) -> Option<(Uid, Gid)> {
        let owner = self.owner.as_ref()?;
        Some((Uid::from_raw(owner.uid), Gid::from_raw(owner.gid)))
    }
}

/// What a child has beside its first descriptors.
#[derive(Debug, Default)]
pub struct Beside {
    /// A descriptor, and its number there.
    pub open: Option<(OwnedFd, RawFd)>,
    /// By which it enters a cgroup, if the system lets it.
    pub enters: Option<OwnedFd>,
}

/// Starts a command in a session of its own, with these descriptors open, the first as its stdin.
pub(super) fn start_session(
    cmd: &Cmd,
    open: Vec<OwnedFd>,
    beside: Beside,
    manner: &Manner,
) -> Result<Child, SpawnError> {
    check(cmd)?;
    let program = find_program(cmd)?;
    start_as(cmd, &program, open, Begins::Session, beside, manner)
}

/// Starts the command's child, with these descriptors open, numbered from 0 on.
fn start_as(
    cmd: &Cmd,
    program: &Path,
    open: Vec<OwnedFd>,
    begins: Begins,
    beside: Beside,
    manner: &Manner,
) -> Result<Child, SpawnError> {
    let args = [&cmd.path].into_iter().chain(&cmd.args);
    let original = original_limit().map(|limit| (Resource::Nofile, limit));
    let start = Start {
        program,
        args: args.map(|arg| &**arg).collect(),
        env: environment(cmd, &manner.variables)?,
        dir: directory(cmd),
        open: open.into_iter().zip(0..).chain(beside.open).collect(),
        files: own_files(cmd, manner).collect(),
        begins,
        limits: original
            .into_iter()
            .chain(manner.limits.iter().copied())
            .collect(),
        umask: manner.umask,
        nice: manner.nice,
        owner: manner.owner.clone(),
        own_number: manner.own_number,
        dies_with_us: false,
        enters: beside.enters,
    };
    start
        .start()
        .map_err(|failed| explain(cmd, program, failed))
}

impl Child {
    /// Takes the child's descriptors over, and ends the child if that fails.
    pub(super) fn wired<T>(
        self,
        wire: impl FnOnce(Pid, OwnedFd) -> io::Result<T>,
    ) -> Result<T, SpawnError> {
        let Child { pid, pidfd, .. } = self;
        wire(pid, pidfd).map_err(|error| {
            // Nobody has reaped it, so that the number is its own.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let wait = |options| rustix::process::waitid(WaitId::Pid(pid), options);
            let _ = wait(WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let reap = || wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            let _ = orphans::reap_own(pid, reap);
            SpawnError::System(words(&error))
        })
    }
}

/// Has the runtime watch a descriptor at once, as nobody could be told later that it cannot.
pub(super) fn watched(descriptor: Arc<Descriptor>) -> io::Result<Arc<Descriptor>> {
    descriptor.watch()?;
    Ok(descriptor)
}

/// Refuses commands that no operating system would execute.
fn check(cmd: &Cmd) -> Result<(), SpawnError> {
    let invalid = |what: String| Err(SpawnError::Invalid(what));
    if cmd.path.is_empty() {
        return invalid("the command has no Path".to_owned());
    }
    for (field, sink) in [("Stdout", &cmd.stdout), ("Stderr", &cmd.stderr)] {
        if cmd.terminal.is_some() && *sink != Sink::Pipe {
            return invalid(format!(
                "{field} goes to the Terminal: leave one of them out"
            ));
        }
    }
    let field = match (&cmd.env, cmd.add_env.is_empty()) {
        (Some(_), false) => {
            return invalid("Env and AddEnv are both given: leave one of them out".to_owned());
        }
        (Some(_), true) => "Env",
        (None, _) => "AddEnv",
    };
    if let Some(at) = variables(cmd)
        .position(|entry| name_and_value(entry).is_none_or(|(name, _)| name.is_empty()))
    {
        // The entry may be a secret, and what is said here is logged: its place must do.
        let number = at + 1;
        return invalid(format!("entry {number} of {field} is not NAME=value"));
    }
    let texts = || {
        variables(cmd)
            .chain(&cmd.args)
            .chain(&cmd.dir)
            .chain([&cmd.path])
    };
    if texts().map(|text| text.len()).sum::<usize>() > LONGEST_COMMAND {
        return invalid(format!(
            "the command is longer than {} KiB",
            LONGEST_COMMAND >> 10
        ));
    }
    if texts().any(|text| text.as_bytes().contains(&0)) {
        return Err(with_zero());
    }
    Ok(())
}

/// The variables that the command sets, as `NAME=value`.
fn variables(cmd: &Cmd) -> impl DoubleEndedIterator<Item = &OsText> {
    cmd.env.iter().flatten().chain(&cmd.add_env)
}

/// The name and value of an entry of an environment.
fn name_and_value(entry: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let entry = entry.as_bytes();
    let at = entry.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&entry[..at], &entry[at + 1..]);
    Some((OsStr::from_bytes(name), OsStr::from_bytes(value)))
}

/// The variables of this server that describe the server itself, and nobody else: whoever inherited them
/// would speak to the server's own supervisor, or take its sockets (systemd.exec(5)).
const OWN_VARIABLES: [&str; 12] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "JOURNAL_STREAM",
    // Those of an instance in which this server runs.
    MARK,
    "CIRCUIT_SLOT",
    "CIRCUIT_PATH",
    "CIRCUIT_SOCKET",
];

fn with_zero() -> SpawnError {
    SpawnError::Invalid("the command holds a zero byte".to_owned())
}

/// The whole environment, as `NAME=value`, each name once: the last value of several.
fn environment(cmd: &Cmd, more: &[String]) -> Result<Vec<Cow<'static, CStr>>, SpawnError> {
    let more = more.iter().map(OsStr::new);
    let own = variables(cmd)
        .map(|entry| &**entry)
        .chain(more)
        .filter_map(name_and_value);
    let mut all = Vec::new();
    let mut names: BTreeSet<&OsStr> = BTreeSet::new();
    let own: Vec<_> = own.collect();
    for (name, value) in own.into_iter().rev() {
        if names.insert(name) {
            let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
            // The command was checked.
            let entry = CString::new(entry).map_err(|_| with_zero())?;
            all.push(Cow::Owned(entry));
        }
    }
    if cmd.env.is_none() {
        let inherited = inherited().iter();
        let inherited = inherited.filter(|(name, _)| !names.contains(name.as_os_str()));
        all.extend(inherited.map(|(_, entry)| Cow::Borrowed(entry.as_c_str())));
    }
    Ok(all)
}

/// What children inherit of this process's environment, which does not change: names and entries.
fn inherited() -> &'static [(OsString, CString)] {
    static INHERITED: OnceLock<Vec<(OsString, CString)>> = OnceLock::new();
    INHERITED.get_or_init(|| {
        let all = std::env::vars_os();
        let kept = all.filter(|(name, _)| is_inherited(name));
        let entry = |(name, value): (OsString, OsString)| {
            let entry = [name.as_bytes(), b"=", value.as_bytes()].concat();
            Some((name, CString::new(entry).ok()?))
        };
        kept.filter_map(entry).collect()
    })
}

fn is_inherited(name: &OsStr) -> bool {
    OWN_VARIABLES.iter().all(|own| name != *own)
}

fn directory(cmd: &Cmd) -> Option<&OsStr> {
    cmd.dir.as_deref().filter(|dir| !dir.is_empty())
}

/// The program's file: a name without a slash is looked up in the command's own `PATH` if it sets
/// one, else in the server's.
fn find_program(cmd: &Cmd) -> Result<PathBuf, SpawnError> {
    if cmd.path.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(&cmd.path));
    }
    let own = variables(cmd)
        .filter_map(|entry| name_and_value(entry))
        .rfind(|(name, _)| *name == "PATH");
    let search = match own {
        Some((_, path)) => Some(path.to_owned()),
        None => std::env::var_os("PATH"),
    };
    let search = search.unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let files = || {
        std::env::split_paths(&search)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(&cmd.path))
    };
    if let Some(program) = files().find(|file| is_executable(file)) {
        return Ok(program);
    }
    Err(match files().find(|file| file.is_file()) {
        Some(file) => SpawnError::Exec {
            reason: "not executable".to_owned(),
            path: file.display().to_string(),
        },
        None => SpawnError::NotFound {
            reason: "no such program in PATH".to_owned(),
            path: cmd.path.to_string(),
        },
    })
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The file, or the null device, that an output of a session goes to. A pipe or a log is the caller's. Instead
/// of a file that the child opens itself it is the null device.
pub fn sink(
    cmd: &Cmd,
    manner: &Manner,
    sink: &Sink,
    field: &'static str,
) -> Result<OwnedFd, SpawnError> {
    let sink = match sink {
        Sink::File(_) if manner.owner.is_some() => &Sink::Discard,
        other => other,
    };
    Ok(output(cmd, sink, field)?.0)
}

/// The files that a child opens as its user: this process may open more than that user, who could have put a
/// link there.
fn own_files<'a>(
    cmd: &'a Cmd,
    manner: &Manner,
) -> impl Iterator<Item = (&'a OsStr, Output)> + use<'a> {
    let outputs = [(&cmd.stdout, Output::Stdout), (&cmd.stderr, Output::Stderr)];
    let is_own = manner.owner.is_some();
    outputs
        .into_iter()
        .filter_map(move |(sink, output)| match sink {
            Sink::File(path) if is_own => Some((&**path, output)),
            _ => None,
        })
}

/// The null device, as a stdin.
pub fn nothing() -> Result<OwnedFd, SpawnError> {
    let null = std::fs::File::open(NULL_DEVICE);
    null.map(OwnedFd::from).map_err(|error| SpawnError::File {
        reason: words(&error),
        path: NULL_DEVICE.to_owned(),
        field: "Stdin",
    })
}

/// Where an output goes, for the child; of a pipe also the reading end.
fn output(
    cmd: &Cmd,
    sink: &Sink,
    field: &'static str,
) -> Result<(OwnedFd, Option<OwnedFd>), SpawnError> {
    let path = match sink {
        Sink::Pipe => {
            let (read, write) = held_pipe().map_err(|e| SpawnError::System(words(&e)))?;
            return Ok((write, Some(read)));
        }
        Sink::Discard => {
            let null = OpenOptions::new().write(true).open(NULL_DEVICE);
            let null = null.map_err(|error| SpawnError::File {
                reason: words(&error),
                path: NULL_DEVICE.to_owned(),
                field,
            })?;
            return Ok((null.into(), None));
        }
        Sink::Log => {
            // Whoever retains output makes its pipe before.
            let what = format!("{field} is retained by nobody");
            return Err(SpawnError::Invalid(what));
        }
        Sink::File(path) => path,
    };
    let place = Path::new(directory(cmd).unwrap_or(OsStr::new("."))).join(path);
    // Without blocking: a FIFO that nobody reads would stop the server.
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o666)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(place);
    let opened = opened.and_then(|file| {
        rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
        Ok(file)
    });
    match opened {
        Ok(file) => Ok((file.into(), None)),
        Err(error) => Err(SpawnError::File {
            reason: words(&error),
            path: path.to_string(),
            field,
        }),
    }
}

/// Which of the command's parts the operating system did not like.
fn explain(cmd: &Cmd, program: &Path, failed: NotStarted) -> SpawnError {
    let NotStarted { step, errno } = failed;
    let error = io::Error::from(errno);
    if let (Step::Directory, Some(dir)) = (step, directory(cmd)) {
        return SpawnError::File {
            reason: words(&error),
            path: dir.display().to_string(),
            field: "Dir",
        };
    }
    let file = |sink: &Sink, field| SpawnError::File {
        reason: words(&error),
        path: match sink {
            Sink::File(path) => path.to_string(),
            _ => String::new(),
        },
        field,
    };
    let refused = match step {
        Step::Execute => None,
        Step::Stdout => return file(&cmd.stdout, "Stdout"),
        Step::Stderr => return file(&cmd.stderr, "Stderr"),
        Step::Limits => Some("the limits"),
        Step::Nice => Some("the priority"),
        Step::User => Some("the user"),
        Step::Clone | Step::Descriptors | Step::Session | Step::Directory => Some("the process"),
    };
    if let Some(what) = refused {
        let text = format!("{what}: {}", words(&error));
        return match errno {
            Errno::PERM | Errno::ACCESS | Errno::INVAL => SpawnError::Refused(text),
            _ => SpawnError::System(text),
        };
    }
    match errno {
        Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE => {
            SpawnError::System(words(&error))
        }
        Errno::NOENT if program.exists() => SpawnError::Exec {
            reason: "its interpreter does not exist".to_owned(),
            path: cmd.path.to_string(),
        },
        Errno::NOENT => SpawnError::NotFound {
            reason: words(&error),
            path: cmd.path.to_string(),
        },
        _ => SpawnError::Exec {
            reason: words(&error),
            path: cmd.path.to_string(),
        },
    }
}

/// The operating system's words, in lower case and without the number.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn open_terminal(size: TerminalSize) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let path = Path::new(OsStr::from_bytes(name.as_bytes()));
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    set_size(master.as_fd(), size)?;
    Ok((master, slave))
}

/// Sets the size of a terminal.
pub(super) fn set_size(terminal: BorrowedFd<'_>, size: TerminalSize) -> Result<(), Errno> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_in_an_instance_hands_on_nothing_of_its_own_server() {
        for name in ["CIRCUIT_PATH", "CIRCUIT_SOCKET", "CIRCUIT_SLOT", MARK] {
            assert!(!is_inherited(OsStr::new(name)), "{name}");
        }
        assert!(is_inherited(OsStr::new("PATH")));
    }
}
