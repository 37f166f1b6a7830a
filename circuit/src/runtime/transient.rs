//! Tells errors of the network and of scarcity, which pass, from those of a broken descriptor.

use std::io;

use rustix::io::Errno;

/// Whether the same call may succeed later. It may not if the descriptor is none, or not of the kind
/// that the call wants: a loop that went on would do so for ever.
pub fn is_transient(error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else {
        // The errors without a number are those of our own runtime, which ends with the server.
        return false;
    };
    !matches!(
        Errno::from_raw_os_error(number),
        Errno::BADF | Errno::NOTSOCK | Errno::INVAL | Errno::FAULT | Errno::OPNOTSUPP
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scarcity_and_the_network_pass() {
        let check = |errno: Errno, expected: bool| {
            assert_eq!(is_transient(&errno.into()), expected, "{errno}");
        };
        for errno in [
            Errno::CONNREFUSED,
            Errno::CONNRESET,
            Errno::CONNABORTED,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::MFILE,
            Errno::NFILE,
            Errno::HOSTUNREACH,
            Errno::NETDOWN,
            Errno::PERM,
        ] {
            check(errno, true);
        }
        for errno in [Errno::BADF, Errno::NOTSOCK, Errno::INVAL] {
            check(errno, false);
        }
        assert!(!is_transient(&io::ErrorKind::Other.into()));
    }
}
