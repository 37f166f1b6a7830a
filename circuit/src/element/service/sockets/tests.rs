use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

use rustix::process::getpid;
use socket2::{Domain, SockAddr, Socket as Raw, Type};

use super::bind::remove_stale;
use super::*;
use crate::element::process::tree::Identity;

fn socket(name: &str, listen: Listen) -> Socket {
    Socket {
        name: name.to_owned(),
        listen,
        backlog: None,
        mode: None,
    }
}

fn free(name: &str) -> Socket {
    socket(name, Listen::Tcp("127.0.0.1:0".parse().unwrap()))
}

fn set(held: &mut Held, generation: Generation, sockets: &[Socket]) -> Result<(), Error> {
    let bound = held.bind(generation, sockets, &[], &Descriptors::of_process())?;
    held.put(generation, bound);
    Ok(())
}

/// The names and addresses of the newest definition.
fn addresses(held: &Held) -> Vec<(String, String)> {
    let status = held.status().into_iter();
    status.map(|held| (held.name, held.address)).collect()
}

/// What an instance of a definition would get.
fn handed(held: &Held, generation: Generation, sockets: &[Socket]) -> Vec<String> {
    let all = held.whole(generation, sockets).unwrap();
    let address = |one: &One| bound(&one.socket.listen, &one.bound.fd);
    all.iter().map(address).collect()
}

#[test]
fn sockets_at_any_port_are_told_apart_by_their_names() {
    let mut held = Held::default();
    set(&mut held, 1, &[free("a"), free("b")]).unwrap();
    let before = addresses(&held);
    set(&mut held, 2, &[free("c"), free("b"), free("a")]).unwrap();
    let after = addresses(&held);
    assert_eq!((&after[1], &after[2]), (&before[1], &before[0]));
    // One that was renamed stays where it is.
    held.forget(1);
    set(&mut held, 3, &[free("d"), free("a")]).unwrap();
    let renamed = addresses(&held);
    assert_eq!(renamed[1], before[0]);
    assert!(after.iter().any(|(_, address)| *address == renamed[0].1));
}

#[test]
fn an_instance_of_the_definition_before_gets_its_own_sockets_in_its_own_order() {
    let mut held = Held::default();
    let other = socket("c", Listen::Tcp("127.0.0.2:0".parse().unwrap()));
    let (before, after) = ([free("a"), free("b")], [free("b"), other]);
    set(&mut held, 1, &before).unwrap();
    let old = handed(&held, 1, &before);
    set(&mut held, 2, &after).unwrap();
    // The roll has halted: both definitions are kept.
    assert_eq!(handed(&held, 1, &before), old);
    let new = handed(&held, 2, &after);
    assert_eq!(new[0], old[1]);
    assert!(!old.contains(&new[1]));
    // The roll is over: what only the old one had is closed.
    held.forget(1);
    assert_eq!(handed(&held, 2, &after), new);
    std::net::TcpListener::bind(&old[0]).unwrap();
    assert!(std::net::TcpListener::bind(&old[1]).is_err());
}

#[test]
fn nothing_is_handed_over_while_a_socket_is_missing() {
    let mut held = Held::default();
    set(&mut held, 1, &[free("b")]).unwrap();
    assert!(held.whole(1, &[free("a"), free("b")]).is_none());
    assert!(held.whole(1, &[free("b")]).is_some());
    assert!(Held::default().whole(1, &[]).is_some());
}

#[test]
fn nothing_changes_if_one_cannot_be_bound() {
    let descriptors = Descriptors::of_process();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("socket");
    let mut held = Held::default();
    let bound = held.bind(1, &[free("a"), free("b")], &[], &descriptors);
    held.put(1, bound.unwrap());
    let before = addresses(&held);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = socket("c", Listen::Tcp(listener.local_addr().unwrap()));
    let used = descriptors.used();
    let unix = socket("u", Listen::Unix(path.clone()));
    let wanted = [free("x"), unix, taken, free("b")];
    let error = held.bind(2, &wanted, &[], &descriptors).unwrap_err();
    assert!(error.message.contains("address already in use"));
    assert_eq!(addresses(&held), before);
    assert_eq!(descriptors.used(), used);
    assert!(!path.exists());
}

#[test]
fn a_socket_that_was_closed_is_taken_back_from_who_has_it_still() {
    let descriptors = Descriptors::of_process();
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let wanted = [socket("a", Listen::Tcp(address.local_addr().unwrap()))];
    drop(address);
    let mut held = Held::default();
    let bound = held.bind(1, &wanted, &[], &descriptors).unwrap();
    held.put(1, bound);
    // Somebody has a copy, as an instance that is being stopped: here it is this process, and the number is
    // that which a definition with as many sockets would give it.
    let copy = held.whole(1, &wanted).unwrap()[0].copy().unwrap();
    held.close();
    let error = held.bind(1, &wanted, &[], &descriptors).unwrap_err();
    assert!(error.message.contains("address already in use"));
    let number = usize::try_from(copy.as_raw_fd()).unwrap();
    let mut sockets = vec![free("other"); number - 3];
    sockets.push(wanted[0].clone());
    let holder = Holder {
        process: Identity::of(getpid()).unwrap(),
        sockets,
    };
    let bound = held.bind(1, &wanted, &[holder], &descriptors).unwrap();
    held.put(1, bound);
    assert!(held.whole(1, &wanted).is_some());
}

#[test]
fn what_may_change_while_a_socket_is_bound_is_applied() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("socket");
    let mode = || {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777
    };
    let mut wanted = socket("a", Listen::Unix(path.clone()));
    wanted.mode = Some(0o600);
    let mut held = Held::default();
    set(&mut held, 1, &[wanted.clone()]).unwrap();
    assert_eq!(mode(), 0o600);
    wanted.mode = Some(0o660);
    set(&mut held, 2, &[wanted.clone()]).unwrap();
    assert_eq!(mode(), 0o660);
    held.forget(1);
    assert!(path.exists());
    held.close();
    assert!(!path.exists());
}

#[test]
fn a_connection_is_not_taken_for_its_listener() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let (connection, _) = listener.accept().unwrap();
    let listen = Listen::Unix(path);
    assert!(bind::is_bound(&listen, &listener));
    assert!(!bind::is_bound(&listen, &connection));
}

#[test]
fn a_listener_whose_queue_is_full_is_not_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("socket");
    let listener = Raw::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let raw = Raw::new(Domain::UNIX, Type::STREAM, None).unwrap();
        raw.set_nonblocking(true).unwrap();
        if raw.connect(&SockAddr::unix(&path).unwrap()).is_err() {
            break;
        }
        waiting.push(raw);
    }
    let refused = remove_stale(&path).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    drop((listener, waiting));
    remove_stale(&path).unwrap();
    assert!(!path.exists());
}
