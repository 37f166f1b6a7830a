//! The socket on which an instance says that it is ready and alive (sd_notify(3)).
//!
//! There is one socket for each instance, with a short path in a directory that all users may enter: the state
//! directory's, or one outside where that is another user's or its path is too long. A message counts only if a process of the instance's own user, or root, sent it.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

use super::definition::{Plan, Probe};
use super::machine::{Input, InstanceId};
use super::shared::Shared;
use crate::element::streams::Descriptor;
use crate::runtime::descriptors::User;

/// The longest message, in bytes: longer ones are cut (systemd takes 4 KiB).
const LONGEST: usize = 4096;

/// Where the sockets of a server of root's are that another user's instances speak to. Their names are marks, which
/// no two servers share.
const SYSTEM: &str = "/run/circuit-notify";

/// The longest path of a Unix socket, in bytes (unix(7)).
const LONGEST_PATH: usize = 107;

/// How the FIFO of a notification is opened: without an end of file, whoever lives.
const LINE: OFlags = OFlags::RDWR.union(OFlags::CLOEXEC);

/// The file of a socket or FIFO, removed with this.
#[derive(Debug)]
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        // The next life removes it, if this fails.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A socket or FIFO on which an instance is heard.
#[derive(Debug)]
struct Bound {
    socket: Arc<Descriptor>,
    _place: Place,
}

/// How many messages of an instance are heard without a pause, and how long the pause is. Chosen, not measured: 1,600
/// a second of each instance. An instance that says more waits, because its socket or FIFO is full then.
const IN_A_ROW: u32 = 16;
const PAUSE: Duration = Duration::from_millis(10);

/// Keeps an instance that never stops talking from holding the thread.
#[derive(Debug, Default)]
struct Pace {
    heard: u32,
}

impl Pace {
    /// To be awaited before each message.
    async fn keep(&mut self) {
        if self.heard == IN_A_ROW {
            self.heard = 0;
            tokio::time::sleep(PAUSE).await;
        }
        self.heard += 1;
    }
}

/// Where an instance speaks: the variable that names its socket, and the descriptor for a line.
type Ears = (Option<String>, Option<(OwnedFd, RawFd)>);

impl Shared {
    /// Listens to an instance that is about to begin, as its definition says. Blocks.
    pub(super) fn ears(
        self: &Arc<Self>,
        id: InstanceId,
        plan: &Plan,
        mark: &str,
    ) -> io::Result<Ears> {
        let socket = match plan.uses_notify() {
            true => Some(self.listen_for(id, plan, mark)?),
            false => None,
        };
        let line = match plan.ready {
            Probe::NotifyFd(number) => {
                let line = self.listen_for_line(id, plan, mark)?;
                Some((line, RawFd::from(number)))
            }
            _ => None,
        };
        Ok((socket, line))
    }

    /// The variable that tells an instance where its socket is.
    fn listen_for(self: &Arc<Self>, id: InstanceId, plan: &Plan, mark: &str) -> io::Result<String> {
        let path = self.notify_path(plan, mark)?;
        let _ = std::fs::remove_file(&path);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path)?)?;
        let place = Place(path.clone());
        let uid = match &plan.manner.owner {
            Some(owner) => {
                chown(&path, Some(owner.uid), Some(owner.gid))?;
                owner.uid
            }
            None => rustix::process::geteuid().as_raw(),
        };
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let variable = format!("NOTIFY_SOCKET={}", path.display());
        let taken = self.services.runtime.descriptors.take(User::Processes, 1);
        let socket = Descriptor::new(socket, taken.map_err(io::Error::other)?)?;
        let bound = Bound {
            socket,
            _place: place,
        };
        let hearing = tokio::spawn(self.clone().hear(id, bound, uid));
        self.hearing(id, hearing.abort_handle());
        Ok(variable)
    }

    /// Listens for the line that an instance writes once it is ready, to a FIFO that outlives this server. Its
    /// other end.
    fn listen_for_line(
        self: &Arc<Self>,
        id: InstanceId,
        plan: &Plan,
        mark: &str,
    ) -> io::Result<OwnedFd> {
        let path = self.notify_dir()?.join(format!("{mark}.fd"));
        let _ = std::fs::remove_file(&path);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR)?;
        if let Some(owner) = &plan.manner.owner {
            chown(&path, Some(owner.uid), Some(owner.gid))?;
        }
        let theirs = rustix::fs::open(&path, LINE, Mode::empty())?;
        self.listen_to_line(id, path)?;
        Ok(theirs)
    }

    /// Listens again to an instance that this life has adopted, at the same places as before. Whatever it wrote
    /// to its FIFO meanwhile is still there.
    pub(super) fn listen_again(
        self: &Arc<Self>,
        id: InstanceId,
        plan: &Plan,
        mark: &str,
    ) -> io::Result<()> {
        if plan.uses_notify() {
            self.listen_for(id, plan, mark)?;
        }
        if let Probe::NotifyFd(_) = plan.ready {
            let line = self.listen_to_line(id, self.notify_dir()?.join(format!("{mark}.fd")));
            // One that has written its line has none any more.
            if !matches!(&line, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                line?;
            }
        }
        Ok(())
    }

    fn listen_to_line(self: &Arc<Self>, id: InstanceId, path: PathBuf) -> io::Result<()> {
        let ours = rustix::fs::open(&path, LINE | OFlags::NONBLOCK, Mode::empty())?;
        let place = Place(path);
        let taken = self.services.runtime.descriptors.take(User::Processes, 1);
        let socket = Descriptor::new(ours, taken.map_err(io::Error::other)?)?;
        let bound = Bound {
            socket,
            _place: place,
        };
        let hearing = tokio::spawn(self.clone().hear_line(id, bound));
        self.hearing(id, hearing.abort_handle());
        Ok(())
    }

    async fn hear_line(self: Arc<Self>, id: InstanceId, bound: Bound) {
        let mut bytes = [0; 64];
        let mut pace = Pace::default();
        loop {
            pace.keep().await;
            let Ok(mut ready) = bound.socket.readable().await else {
                return;
            };
            match rustix::io::read(&*bound.socket, &mut bytes) {
                Ok(count) if bytes[..count].contains(&b'\n') => {
                    return self.handle(Input::Ready { instance: id });
                }
                Ok(0) => return,
                Ok(_) => (),
                Err(Errno::AGAIN | Errno::INTR) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }

    fn hearing(&self, id: InstanceId, task: tokio::task::AbortHandle) {
        match self.state.lock().instances.get_mut(&id) {
            Some(instance) => instance.notify.push(task),
            None => task.abort(),
        }
    }

    /// Where the socket of an instance is: the same in each life.
    fn notify_path(&self, plan: &Plan, mark: &str) -> io::Result<PathBuf> {
        let own = rustix::process::geteuid();
        let other = plan.manner.owner.as_ref();
        let other = other.is_some_and(|owner| owner.uid != own.as_raw());
        let near = self.services.dir().map(|dir| dir.join("notify"));
        let far = match own.is_root() {
            true => Some(PathBuf::from(SYSTEM)),
            false => self.services.runtime_dir().map(|dir| dir.join("notify")),
        };
        // Nobody else may enter the directories in which the server's own is.
        let all = near.filter(|_| !other).into_iter().chain(far);
        // The instance may be in another directory than the server.
        let mut paths = all.filter_map(|dir| std::path::absolute(dir.join(mark)).ok());
        let path = paths.find(|path| path.as_os_str().len() <= LONGEST_PATH);
        let path = path.ok_or_else(|| {
            io::Error::other("there is no directory for its notify socket that it could reach")
        })?;
        // It was joined to a directory.
        make(path.parent().unwrap_or(&path))?;
        Ok(path)
    }

    /// Where the FIFOs of instances are, which they get open.
    fn notify_dir(&self) -> io::Result<PathBuf> {
        // There is a service, and so there is a directory.
        let dir = self.services.dir().ok_or(io::ErrorKind::NotFound)?;
        let dir = dir.join("notify");
        make(&dir)?;
        Ok(dir)
    }

    async fn hear(self: Arc<Self>, id: InstanceId, bound: Bound, uid: u32) {
        let mut pace = Pace::default();
        loop {
            pace.keep().await;
            let Ok(mut ready) = bound.socket.readable().await else {
                return;
            };
            let received = receive(&*bound.socket);
            match received {
                Ok((from, text)) if from == uid || from == 0 => self.says(id, &text),
                // Nobody else speaks for it.
                Ok(_) => (),
                Err(Errno::AGAIN | Errno::INTR) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }

    fn says(self: &Arc<Self>, id: InstanceId, text: &str) {
        for line in text.lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => self.handle(Input::Ready { instance: id }),
                Some(("WATCHDOG", "1")) => self.handle(Input::Watchdog { instance: id }),
                Some(("STATUS", status)) => {
                    let status = crate::text::one_line(status);
                    if let Some(instance) = self.state.lock().instances.get_mut(&id) {
                        instance.says = Some(status);
                    }
                }
                _ => (),
            }
        }
    }
}

/// Makes a directory that all users may enter, and none may list.
fn make(dir: &Path) -> io::Result<()> {
    let failed =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(0o711).create(dir);
    made.map_err(failed)?;
    let found = std::fs::symlink_metadata(dir).map_err(failed)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(failed(io::Error::other("it is another user's, or a link")));
    }
    std::fs::set_permissions(dir, Permissions::from_mode(0o711)).map_err(failed)
}

/// Removes the sockets and FIFOs that an earlier life has left in its directory, but for those of instances that are
/// still there.
pub(super) fn clear(directory: &Path, is_there: impl Fn(&str) -> bool) {
    let entries = std::fs::read_dir(directory.join("notify"));
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        let mark = name.to_str().map(|name| name.trim_end_matches(".fd"));
        if !mark.is_some_and(&is_there) {
            // What cannot be removed is tried again by the next life.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Removes the sockets of other servers that were killed. One whose server has a next life is made again by that.
pub(super) fn sweep() {
    let entries = std::fs::read_dir(SYSTEM).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(&path));
        if asked.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            // Another server may have done so.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The next message, and the user of its sender.
fn receive(socket: impl AsFd) -> Result<(u32, String), Errno> {
    let mut text = [0; LONGEST];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut text)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(socket, &mut parts, &mut control, flags)?;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(who) => Some(who.uid.as_raw()),
        _ => None,
    });
    let text = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
    // Without credentials the sender is nobody that anybody knows.
    Ok((sender.unwrap_or(u32::MAX), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_instances_that_are_gone_are_removed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("notify");
        std::fs::create_dir(&dir).unwrap();
        for name in ["a.1.1", "a.1.1.fd", "a.1.2", "a.1.2.fd"] {
            std::fs::write(dir.join(name), "").unwrap();
        }
        clear(temp.path(), |mark| mark == "a.1.2");
        let left = std::fs::read_dir(&dir).unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<String> = left.collect();
        left.sort();
        assert_eq!(left, ["a.1.2", "a.1.2.fd"]);
    }

    #[tokio::test]
    async fn one_that_never_stops_talking_leaves_the_thread_to_others() {
        let mut pace = Pace::default();
        for _ in 0..IN_A_ROW {
            assert!(is_ready(pace.keep()).await);
        }
        assert!(!is_ready(pace.keep()).await);
    }

    /// Polls a future once, and says whether it was ready.
    async fn is_ready(future: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(Duration::ZERO, future).await.is_ok()
    }
}
