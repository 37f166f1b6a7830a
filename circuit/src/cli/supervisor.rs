//! Tells the supervisor that started a server how it is: the notification protocol of systemd, sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::error::say;

/// Sends the supervisor a state, if `NOTIFY_SOCKET` names its socket. A supervisor that is not there is no
/// reason not to serve.
pub(super) fn tell(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
        return;
    };
    if let Err(error) = send(&name, state) {
        let name = name.display();
        say(&format!(
            "circuit: WARNING: cannot tell NOTIFY_SOCKET {name} of {state}: {error}"
        ));
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A supervisor that does not read does not keep the server.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_supervisor_is_told_wherever_its_socket_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("circuit-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let check = |socket: UnixDatagram, at: &OsStr| {
            send(at, "READY=1").unwrap();
            let mut told = [0; 64];
            let length = socket.recv(&mut told).unwrap();
            assert_eq!(&told[..length], b"READY=1");
        };
        check(UnixDatagram::bind(&path).unwrap(), path.as_os_str());
        let at = format!("@{name}");
        check(
            UnixDatagram::bind_addr(&abstract_name).unwrap(),
            at.as_ref(),
        );
        assert!(send(OsStr::new("/nowhere/notify"), "READY=1").is_err());
    }
}
