//! Starts a command as a child with its pipes.
//!
//! Children are spawned without a hook between fork and exec, so that the standard library can use
//! `posix_spawn`, which costs half as much; the process group is set by it. Only a child with a
//! terminal needs the hook, to make the terminal its own.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use circuit_proto::OsText;
use circuit_proto::element::process::{Cmd, Sink, TerminalSize};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::{inherited, orphans};
use crate::element::streams::{self, Descriptor, held_pipe};
use crate::runtime::descriptors::Taken;

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
}

/// Starts the command's process, with [`DESCRIPTORS`] that were taken for it. On failure no process is
/// left; a file for an output that was not there stays, as a shell leaves it.
pub(super) fn spawn(cmd: &Cmd, taken: Taken) -> Result<Spawned, SpawnError> {
    check(cmd)?;
    let program = find_program(cmd)?;
    let mut command = Command::new(&program);
    command.arg0(&cmd.path).args(&cmd.args);
    if cmd.env.is_some() {
        command.env_clear();
    }
    command.envs(variables(cmd).filter_map(|entry| name_and_value(entry)));
    if let Some(dir) = directory(cmd) {
        command.current_dir(dir);
    }
    match cmd.terminal {
        None => spawn_on_pipes(cmd, &program, command, taken),
        Some(size) => spawn_on_terminal(cmd, &program, command, size, taken),
    }
}

fn spawn_on_pipes(
    cmd: &Cmd,
    program: &Path,
    mut command: Command,
    mut taken: Taken,
) -> Result<Spawned, SpawnError> {
    let (stdout, from_stdout) = output(cmd, &cmd.stdout, "Stdout")?;
    let (stderr, from_stderr) = output(cmd, &cmd.stderr, "Stderr")?;
    command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
    command.process_group(0);
    inherited::keep_limit(&mut command);
    let mut child = start(&mut command).map_err(|error| explain(cmd, program, &error))?;
    // It holds the pipes' writing ends, which only the child is to hold.
    drop(command);
    let pid = pid_of(&child)?;
    let stdin = child.stdin.take().map(OwnedFd::from);
    let wired = || {
        let stdin = stdin.ok_or(io::ErrorKind::NotFound)?;
        let pidfd = watched_pidfd(pid, taken.split(1))?;
        let mut descriptor = |fd| Descriptor::new(fd, taken.split(1));
        Ok(Spawned {
            pid,
            pidfd,
            stdin: streams::Sink::Pipe(descriptor(stdin)?),
            stdout: from_stdout.map(&mut descriptor).transpose()?,
            stderr: from_stderr.map(&mut descriptor).transpose()?,
            terminal: None,
        })
    };
    or_killed(child, wired())
}

fn spawn_on_terminal(
    cmd: &Cmd,
    program: &Path,
    mut command: Command,
    size: TerminalSize,
    mut taken: Taken,
) -> Result<Spawned, SpawnError> {
    let system = |errno: Errno| SpawnError::System(format!("no terminal: {errno}"));
    let (master, slave) = open_terminal(size).map_err(system)?;
    let end = || {
        slave
            .try_clone()
            .map(Stdio::from)
            .map_err(|e| SpawnError::System(words(&e)))
    };
    command.stdin(end()?).stdout(end()?).stderr(end()?);
    inherited::keep_limit(&mut command);
    own_terminal(&mut command);
    let mut child = start(&mut command).map_err(|error| explain(cmd, program, &error))?;
    drop((command, slave));
    let pid = pid_of(&child)?;
    let master = Arc::new(master);
    child.stdin = None;
    let wired = || {
        let stdout = Some(Descriptor::new(master.try_clone()?, taken.split(1))?);
        let stdin = Descriptor::new(master.try_clone()?, taken.split(1))?;
        let stdin = streams::Sink::Terminal(stdin);
        // The terminal itself goes with the process, and counts as a part of this.
        let pidfd = watched_pidfd(pid, taken.split(2))?;
        Ok(Spawned {
            pid,
            pidfd,
            stdin,
            stdout,
            stderr: None,
            terminal: Some(master),
        })
    };
    or_killed(child, wired())
}

/// Starts a child, which is this server's own from then on.
fn start(command: &mut Command) -> io::Result<std::process::Child> {
    orphans::starting(|| command.spawn(), |child| pid_of(child).ok())
}

/// Ends the child if its pipes could not be set up.
fn or_killed(
    mut child: std::process::Child,
    wired: io::Result<Spawned>,
) -> Result<Spawned, SpawnError> {
    wired.map_err(|error| {
        let _ = child.kill();
        let pid = pid_of(&child);
        let _ = child.wait();
        if let Ok(pid) = pid {
            orphans::forget(pid);
        }
        SpawnError::System(words(&error))
    })
}

/// The descriptor that tells of the child's end: watched at once, as nobody could be told later
/// that it cannot be.
fn watched_pidfd(pid: Pid, taken: Taken) -> io::Result<Arc<Descriptor>> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let pidfd = Descriptor::new(pidfd, taken)?;
    pidfd.watch()?;
    Ok(pidfd)
}

fn pid_of(child: &std::process::Child) -> Result<Pid, SpawnError> {
    let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| SpawnError::System("the system gave no process id".to_owned()))
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
        return invalid("the command holds a zero byte".to_owned());
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

/// Where an output goes, as the standard library wants it; of a pipe also the reading end.
fn output(
    cmd: &Cmd,
    sink: &Sink,
    field: &'static str,
) -> Result<(Stdio, Option<OwnedFd>), SpawnError> {
    let path = match sink {
        Sink::Pipe => {
            let (read, write) = held_pipe().map_err(|e| SpawnError::System(words(&e)))?;
            return Ok((write.into(), Some(read)));
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
fn explain(cmd: &Cmd, program: &Path, error: &io::Error) -> SpawnError {
    if let Some(dir) = directory(cmd)
        && let Err(error) = std::fs::read_dir(dir).map(drop).or_else(|error| {
            // A directory may be entered without being readable.
            match rustix::fs::access(dir, rustix::fs::Access::EXEC_OK) {
                Ok(()) if Path::new(dir).is_dir() => Ok(()),
                _ => Err(error),
            }
        })
    {
        return SpawnError::File {
            reason: words(&error),
            path: dir.display().to_string(),
            field: "Dir",
        };
    }
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::AGAIN | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => {
            SpawnError::System(words(error))
        }
        Some(Errno::NOENT) if program.exists() => SpawnError::Exec {
            reason: "its interpreter does not exist".to_owned(),
            path: cmd.path.to_string(),
        },
        Some(Errno::NOENT) => SpawnError::NotFound {
            reason: words(error),
            path: cmd.path.to_string(),
        },
        _ => SpawnError::Exec {
            reason: words(error),
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

/// Has the child begin a session of its own, whose terminal is its stdin.
#[allow(unsafe_code)]
fn own_terminal(command: &mut Command) {
    let hook = || {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    };
    // SAFETY: between fork and exec the hook makes two system calls and nothing else: it does not
    // allocate, lock or touch what other threads may hold.
    unsafe {
        command.pre_exec(hook);
    }
}
