//! Finds and connects to Unix sockets in the file system, also at paths that are longer than an
//! address of a socket takes.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The longest path that an address takes, in bytes: `sun_path` of unix(7), less the zero behind it.
const LONGEST: usize = 107;

/// The longest name in a path that is longer, in bytes: what is left behind `/proc/self/fd/`, the number of
/// a descriptor, which has ten digits at most, and a slash.
const LONGEST_NAME: usize = LONGEST - 14 - 10 - 1;

/// An address that leads to a path.
#[derive(Debug)]
pub struct Address {
    address: SocketAddrUnix,
    /// The directory, for as long as the address leads through its descriptor.
    _directory: Option<OwnedFd>,
}

impl Address {
    /// The address for this path. Fails if the path is too long and its directory cannot be opened.
    pub fn of(path: &Path) -> io::Result<Address> {
        if path.as_os_str().len() <= LONGEST {
            return Ok(Address {
                address: SocketAddrUnix::new(path)?,
                _directory: None,
            });
        }
        let (directory, name) = split(path)?;
        if name.len() > LONGEST_NAME {
            return Err(io::Error::new(
                io::ErrorKind::InvalidFilename,
                format!(
                    "a path of more than {LONGEST} bytes whose name has more than {LONGEST_NAME}: give \
                     the socket a shorter name"
                ),
            ));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        let through = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        Ok(Address {
            address: SocketAddrUnix::new(through.join(name))?,
            _directory: Some(directory),
        })
    }

    /// The address as the system takes it.
    pub fn get(&self) -> &SocketAddrUnix {
        &self.address
    }
}

/// The directory and the name in it.
pub fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let Some(name) = path.file_name() else {
        let message = "it names no file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    };
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    Ok((directory, name))
}

/// What is at a path that is no socket; `None` if it is one, or cannot be told.
pub fn other_than_socket(path: &Path) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    let found = std::fs::metadata(path).ok()?.file_type();
    Some(match found {
        found if found.is_socket() => return None,
        found if found.is_dir() => "a directory",
        found if found.is_file() => "a regular file",
        found if found.is_fifo() => "a named pipe",
        _ => "a device",
    })
}

/// A socket that does not block, and that no child inherits.
pub fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        flags,
        None,
    )?)
}

/// Connects at once. Fails with `WouldBlock` while too many others wait to be accepted, with
/// `NotFound` where there is no file, and with `ConnectionRefused` where nobody listens any more.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let address = Address::of(path)?;
    let socket = socket()?;
    rustix::net::connect(&socket, address.get())?;
    Ok(socket)
}
