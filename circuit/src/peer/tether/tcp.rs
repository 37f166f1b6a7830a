//! The figures that TCP keeps of a connection: whether the other kernel still acknowledges, and
//! how the connection ended.
//!
//! The module knows nothing of tokens or of membership: it is given a silent stream.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use circuit_proto::membership::TetherState;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// The longest wait that TCP allows before a keep-alive, in seconds: as good as never.
const NEVER: Duration = Duration::from_secs(32_767);

/// The shortest wait that TCP allows. On a connection that has been quiet for as long, the
/// keep-alive falls due at once.
const NOW: Duration = Duration::from_secs(1);

/// How old an acknowledgement may be to count as recent. Chosen, not measured: the machine probes
/// whoever was silent for 1.5 s, so an older one says nothing about the silence.
const RECENT: Duration = Duration::from_secs(1);

/// How often, and how many times, the kernel is asked after a keep-alive: together as long as a
/// probe pings before it can come to a verdict (`PING_EVERY` and `PINGS` of the machine).
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOKS: u32 = 9;

/// Silences a connection: the kernel sends no keep-alive until it is told to.
pub(super) fn quieten(stream: &TcpStream) {
    let rest = TcpKeepalive::new().with_time(NEVER).with_interval(NOW);
    // Without keep-alives the tether still tells of its end.
    let _ = SockRef::from(stream).set_tcp_keepalive(&rest);
}

/// Whether the other kernel has acknowledged something recently.
pub(super) fn acknowledgement(stream: &TcpStream) -> TetherState {
    match since_acknowledgement(stream) {
        Some(since) if since < RECENT => TetherState::Acknowledged,
        _ => TetherState::Unknown,
    }
}

/// Sends one keep-alive, and tells whether the other kernel acknowledges it.
pub(super) async fn acknowledgement_after_keepalive(stream: &TcpStream) -> TetherState {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(NOW));
    let mut state = TetherState::Unknown;
    for _ in 0..LOOKS {
        tokio::time::sleep(LOOK_EVERY).await;
        state = acknowledgement(stream);
        if state == TetherState::Acknowledged {
            break;
        }
    }
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(NEVER));
    state
}

/// Waits until the connection ends, and tells what its end says of the process at the other end.
///
/// Only the other kernel closes a connection in order (FIN). A middlebox that has forgotten a
/// silent connection resets it; so a reset is evidence only where the other kernel has acknowledged
/// something just before.
pub(super) async fn end(stream: &TcpStream) -> TetherState {
    loop {
        let read = match stream.readable().await {
            Ok(()) => stream.try_read(&mut [0]),
            Err(error) => Err(error),
        };
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            Ok(0) => return TetherState::Broken,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return match acknowledgement(stream) {
                    TetherState::Acknowledged => TetherState::Broken,
                    _ => TetherState::Unknown,
                };
            }
            // The peer broke the silence, or the network ended the connection.
            Ok(_) | Err(_) => return TetherState::Unknown,
        }
    }
}

/// How long ago the other kernel last acknowledged anything: `tcpi_last_ack_recv` of tcp(7).
#[allow(unsafe_code)]
fn since_acknowledgement(stream: &TcpStream) -> Option<Duration> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which are there, and integers of any value
    // are a `tcp_info`; what an older kernel does not write is zero.
    let info = unsafe {
        let result = libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        );
        (result == 0).then(|| info.assume_init())
    }?;
    Some(Duration::from_millis(info.tcpi_last_ack_recv.into()))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// The two ends of a silent connection.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap());
        let (dialled, accepted) = tokio::join!(dialled, listener.accept());
        let ends = (dialled.unwrap(), accepted.unwrap().0);
        for end in [&ends.0, &ends.1] {
            quieten(end);
        }
        ends
    }

    /// Closes with a reset, as a middlebox does that has forgotten the connection.
    fn reset(stream: TcpStream) {
        let now = Some(Duration::ZERO);
        SockRef::from(&stream).set_linger(now).unwrap();
        drop(stream);
    }

    /// Lasts until the last acknowledgement is no longer recent.
    async fn until_old(stream: &TcpStream) {
        while acknowledgement(stream) == TetherState::Acknowledged {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    #[tokio::test]
    async fn a_kernel_acknowledges_when_asked_and_not_before() {
        let (one, _other) = pair().await;
        // The handshake that opened the connection was acknowledged.
        assert_eq!(acknowledgement(&one), TetherState::Acknowledged);
        until_old(&one).await;
        // The process at the other end does nothing at all, before as after.
        let state = acknowledgement_after_keepalive(&one).await;
        assert_eq!(state, TetherState::Acknowledged);
    }

    #[tokio::test]
    async fn a_close_is_evidence_however_old_the_last_acknowledgement_is() {
        let (one, other) = pair().await;
        drop(other);
        assert_eq!(end(&one).await, TetherState::Broken, "at once");
        let (one, other) = pair().await;
        until_old(&one).await;
        drop(other);
        assert_eq!(end(&one).await, TetherState::Broken, "after a silence");
    }

    #[tokio::test]
    async fn a_reset_is_evidence_only_soon_after_an_acknowledgement() {
        let (one, other) = pair().await;
        reset(other);
        assert_eq!(end(&one).await, TetherState::Broken, "at once");
        let (one, other) = pair().await;
        until_old(&one).await;
        reset(other);
        assert_eq!(end(&one).await, TetherState::Unknown, "after a silence");
        let (one, other) = pair().await;
        until_old(&one).await;
        let state = acknowledgement_after_keepalive(&one).await;
        assert_eq!(state, TetherState::Acknowledged);
        reset(other);
        assert_eq!(end(&one).await, TetherState::Broken, "it was asked before");
    }

    #[tokio::test]
    async fn a_peer_that_is_not_silent_proves_nothing() {
        let (one, mut other) = pair().await;
        other.write_all(b"chatter").await.unwrap();
        assert_eq!(end(&one).await, TetherState::Unknown);
    }
}
