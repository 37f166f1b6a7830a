//! Keeps children from inheriting the signals, descriptors and limits that the server inherited.
//!
//! A child begins with the signals, descriptors and limits that its parent has at that moment. A
//! server under `nohup` ignores hang-ups, one from a script has the script's files open: neither concerns
//! a process element.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;
use rustix::process::{Resource, Signal};
use tokio::signal::unix::{SignalKind, signal};

use crate::runtime::descriptors::original_limit;

/// Sees to it that children get neither ignored signals nor descriptors of whoever started this
/// process. Once, at the start, within the runtime.
pub fn keep_from_children() {
    // Where /proc is missing, children inherit as they always would.
    let _ = close_descriptors_at_exec();
    let _ = catch_ignored_signals();
    // A log that has become longer than the limit of files allows must not end the server: its writes
    // fail instead.
    let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
}

/// Has the command begin with the limit of open files that the server was started with.
#[allow(unsafe_code)]
pub(super) fn keep_limit(command: &mut Command) {
    let Some(limit) = original_limit() else {
        return;
    };
    let hook = move || {
        rustix::process::setrlimit(Resource::Nofile, limit)?;
        Ok(())
    };
    // SAFETY: between fork and exec the hook makes one system call and nothing else: it does not
    // allocate, lock or touch what other threads may hold.
    unsafe {
        command.pre_exec(hook);
    }
}

#[allow(unsafe_code)]
fn close_descriptors_at_exec() -> io::Result<()> {
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        // SAFETY: a flag is set on whatever descriptor has this number, if there is one; nothing
        // is read, written or closed through it, and setting the flag on our own is what the
        // standard library and the runtime did already.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        // The directory that was listed is closed by now.
        let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
    }
    Ok(())
}

/// The signals that the server goes on to ignore. In children, the standard library sets SIGPIPE back
/// itself. A terminal sends the other two to a program in the background, and would send them again
/// with each attempt if they were caught (setpgid(2)).
const LEFT_IGNORED: [Signal; 3] = [Signal::PIPE, Signal::TTIN, Signal::TTOU];

/// The last of the signals that have names of their own (signal(7)).
const LAST_NAMED: i32 = 31;

/// A signal that is caught is at its default in a child, one that is ignored stays so
/// (execve(2)). Caught and not looked at, it is ignored here all the same; but for SIGCHLD, which
/// ignored would have the kernel forget how children ended.
fn catch_ignored_signals() -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let is_ignored = |number: i32| mask.is_some_and(|mask| mask >> (number - 1) & 1 != 0);
    let is_left = |number: i32| LEFT_IGNORED.iter().any(|left| left.as_raw() == number);
    for number in (1..=LAST_NAMED).filter(|number| is_ignored(*number) && !is_left(*number)) {
        // Registered once, it stays caught for good.
        drop(signal(SignalKind::from_raw(number))?);
    }
    Ok(())
}
