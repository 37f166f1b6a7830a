//! Keeps children from inheriting the descriptors that the server inherited.
//!
//! A child begins with the descriptors that its parent has at that moment. A server that was started from a
//! script has the script's files open, which do not concern a process element.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::FdFlags;
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

use crate::runtime::handlers;

/// Sees to it that children get no descriptors of whoever started this process. Once, at the start, within
/// the runtime.
pub fn keep_from_children() {
    // Where /proc is missing, children inherit as they always would.
    let _ = close_descriptors_at_exec();
    // A log that has become longer than the limit of files allows must not end the server: its writes
    // fail instead.
    let _ = handlers::listen(SignalKind::from_raw(Signal::XFSZ.as_raw()));
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
