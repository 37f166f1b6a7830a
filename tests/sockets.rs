//! The Unix sockets of a server: who is let in, what their files are, and what a client learns of a
//! server's end.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use circuit_client::{Address, Client, Cmd, Error};
use rustix::process::{Gid, Signal, Uid};

use crate::support::{Home, Server, eventually, sh, skipped};

async fn dial(path: &Path) -> Client {
    let address = Address::Socket(path.to_owned());
    Client::dial(&address, None).await.unwrap()
}

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A user id that nobody here has.
const STRANGER: u32 = 23_456;

/// The beginning of a shell script that runs the binary as the stranger.
const AS_STRANGER: &str =
    "exec setpriv --reuid 23456 --regid 23456 --clear-groups -- \"$0\" \"$@\"";

/// Whether this user may become another; says so if not.
fn may_become_another() -> bool {
    if uid() != 0 {
        skipped("root, for commands of another user");
    }
    uid() == 0
}

/// A directory that every user may enter, with a name that the test has for itself.
fn open_directory(home: &Home) -> PathBuf {
    for path in [home.path().to_owned(), home.file("open")] {
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    home.file("open")
}

fn start_at(home: &Home, name: &str, socket: &Path, more: &str) -> Server {
    let line = format!("start -name {name} {more} -socket");
    home.circuit(line).arg(socket).serve()
}

#[test]
fn operations_are_logged_with_user_and_process_forwarded_ones_too() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    let found = fs::symlink_metadata(one.socket()).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let dialled = format!("-d unix:{}", one.socket().display());
    home.circuit(format!("mkchan {dialled} /one/c 0")).run();
    let line = one.logs("what=\"mkchan\"");
    let who = format!("who=\"uid {} pid ", uid());
    assert!(line.contains(&who), "{line}");
    home.circuit(format!("mkchan {dialled} /two/c 0")).run();
    let line = two.logs("what=\"mkchan\"");
    assert!(line.contains(&who), "{line}");
    assert!(line.contains(&format!(" via {}\"", one.id())), "{line}");
}

#[test]
fn a_command_finds_the_socket_that_the_environment_names() {
    let home = Home::new();
    let path = home.file("s");
    let one = start_at(&home, "one", &path, "");
    let elsewhere = Home::new();
    let line = format!("/{}\n", one.id());
    let found = elsewhere.circuit("ls /").env("CIRCUIT_SOCKET", &path);
    found.stdout(line).run();
    elsewhere
        .circuit("ls /")
        .env("CIRCUIT_SOCKET", home.file("none"))
        .stderr(format!(
            "circuit: ls: there is no socket {}\nhint: the address is from CIRCUIT_SOCKET\n",
            home.file("none").display()
        ))
        .status(255)
        .run();
}

#[test]
fn none_makes_no_socket() {
    let home = Home::new();
    let one = home.circuit("start -name one -socket none").serve();
    assert!(!one.socket().exists());
    home.circuit("run one -- echo hello")
        .stdout("hello\n")
        .run();
    home.circuit("start -socket none -socket-group 0")
        .stderr(
            "circuit: start: -socket none makes no socket for the -socket-group: give one of the \
             two\n",
        )
        .status(2)
        .run();
}

#[test]
fn a_path_may_be_longer_than_an_address() {
    let home = Home::new();
    let deep = home.file(&"d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    let path = deep.join("socket");
    let one = start_at(&home, "one", &path, "");
    let line = format!("ls -d unix:{} /", path.display());
    home.circuit(line).stdout(format!("/{}\n", one.id())).run();
}

#[test]
fn what_a_killed_server_left_is_replaced_and_all_else_refused() {
    let home = Home::new();
    let path = home.file("s");
    let mut one = start_at(&home, "one", &path, "");
    let shown = path.display();
    let refused = |text: String| {
        let second = home.circuit("start -name two -socket").arg(&path);
        second.stderr(text).status(1).run();
    };
    refused(format!(
        "circuit: start: another server, process {}, listens on {shown}: give each a path of its own\n",
        one.pid()
    ));
    one.kill();
    one.exit_status();
    assert!(path.exists());
    let mut two = start_at(&home, "two", &path, "");
    let line = format!("ls -d unix:{shown} -names /");
    home.circuit(line).stdout("/two\n").run();
    two.stop();
    assert!(!path.exists() && !two.socket().exists());
    fs::write(&path, "precious").unwrap();
    refused(format!(
        "circuit: start: {shown} is there and is no socket: remove it, or give another path\n"
    ));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert!(!home.file("s.lock").exists());
}

#[test]
fn a_path_without_a_directory_is_named() {
    let home = Home::new();
    let path = home.file("none").join("s");
    home.circuit("start -name one -socket")
        .arg(&path)
        .stderr(format!(
            "circuit: start: cannot make the socket {}: no such file or directory\n\
             hint: make its directory first: mkdir -p {}\n",
            path.display(),
            home.file("none").display()
        ))
        .status(1)
        .run();
}

#[test]
fn a_file_that_was_replaced_is_left_alone() {
    let home = Home::new();
    let path = home.file("s");
    let mut one = start_at(&home, "one", &path, "");
    // In its place at once, so that the server does not find it gone.
    fs::write(home.file("other"), "somebody else's").unwrap();
    fs::rename(home.file("other"), &path).unwrap();
    let replaced = format!("somebody has replaced the socket {}", path.display());
    one.logs(&replaced);
    one.stop();
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody else's");
}

#[test]
fn other_users_are_kept_out_unless_they_are_of_the_group() {
    if !may_become_another() {
        return;
    }
    let home = Home::new();
    let path = open_directory(&home).join("s");
    let _one = start_at(&home, "one", &path, "");
    let line = format!("ls -names -d unix:{} /", path.display());
    let stranger = || home.circuit_under(AS_STRANGER, &line);
    stranger()
        .stderr(format!(
            "circuit: ls: no permission for the socket {}\n\
             hint: its server lets in its own user and root; started with -socket PATH -socket-group \
             GROUP, that group too\n",
            path.display()
        ))
        .status(255)
        .run();
    // A mode that was changed by hand opens the file, not the server.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    stranger()
        .stderr(format!(
            "circuit: ls: the server at {} refused us: only its own user, root and the group of its \
             socket may use it\n",
            path.display()
        ))
        .status(255)
        .run();
    let path = home.file("open").join("group");
    let _two = start_at(&home, "two", &path, "-socket-group 23456");
    let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let line = format!("ls -names -d unix:{} /", path.display());
    home.circuit_under(AS_STRANGER, &line)
        .stdout("/two\n")
        .run();
}

#[test]
fn a_user_without_an_id_here_is_nobody() {
    if !may_become_another() {
        return;
    }
    let home = Home::new();
    let path = open_directory(&home).join("s");
    // In a user namespace of its own, which maps no user but the server's.
    let script = "exec unshare --user --map-root-user -- \"$0\" \"$@\"";
    let one = home
        .circuit_under(script, "start -name one -socket-group 0 -socket")
        .arg(&path)
        .serve();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let line = format!("ls -d unix:{} /", path.display());
    home.circuit_under(AS_STRANGER, &line)
        .any_stderr()
        .status(255)
        .run();
    one.logs("refused a client on this host");
    home.circuit(line).stdout(format!("/{}\n", one.id())).run();
}

/// A directory that a stranger owns: the script that runs the binary as that user, with the directory as the
/// runtime directory, and the path of a socket in it.
fn strangers_directory(home: &Home) -> (String, PathBuf) {
    let directory = open_directory(home);
    chown(&directory, Some(STRANGER), None).unwrap();
    let runtime = directory.display();
    let script = format!("export XDG_RUNTIME_DIR='{runtime}'; {AS_STRANGER}");
    (script, directory.join("s"))
}

#[test]
fn a_socket_that_another_user_serves_is_not_trusted() {
    if !may_become_another() {
        return;
    }
    let home = Home::new();
    let (script, path) = strangers_directory(&home);
    let _fake = home
        .circuit_under(&script, "start -name fake -socket-group 23456 -socket")
        .arg(&path)
        .serve();
    let line = format!("ls -names -d unix:{} /", path.display());
    home.circuit(&line)
        .stderr(format!(
            "circuit: ls: the socket {} is served by the user {STRANGER}, who is neither this user \
             nor root\n",
            path.display()
        ))
        .status(255)
        .run();
    // In a directory that only root can write, root has made that user the server's.
    chown(path.parent().unwrap(), Some(0), None).unwrap();
    home.circuit(&line).stdout("/fake\n").run();
}

/// Waits through the socket of a server for a process at a path, while `end` has its effect.
async fn lost_while_waiting(server: &Server, path: &str, end: impl FnOnce()) -> Error {
    let client = dial(&server.socket()).await;
    let process = client.walk(path).unwrap().proc();
    let waiting = tokio::spawn(async move { process.wait().await });
    tokio::task::block_in_place(|| {
        server.is_executing(&["wait"]);
        end();
    });
    waiting.await.unwrap().unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_and_one_that_is_killed_are_told_apart() {
    let home = Home::new();
    let one = home.start("one");
    let two = home.start("two");
    for (server, name, signal, end) in [
        (&one, "one", Signal::TERM, "left the circuit"),
        (&two, "two", Signal::KILL, "its process has ended"),
    ] {
        server.make(&format!("/{name}/p"), r#"{"Path": "cat"}"#);
        let path = format!("/{name}/p");
        let error = lost_while_waiting(server, &path, || server.signal(signal)).await;
        assert!(matches!(error, Error::CircuitGone { .. }), "{error}");
        assert!(error.to_string().ends_with(end), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_used_again_and_a_dropped_request_takes_its_own_along() {
    let home = Home::new();
    let one = home.start("one");
    let client = dial(&one.socket()).await;
    let anchor = client.walk("/one/p").unwrap();
    for _ in 0..100 {
        anchor.make_proc(Cmd::new("true")).await.unwrap();
        anchor.proc().wait().await.unwrap();
        anchor.scrub().await.unwrap();
    }
    let counters = |name: &str| {
        let status = tokio::task::block_in_place(|| one.peek("/one"));
        status["Counters"]["Connections"][name].as_u64().unwrap()
    };
    // This one, and those of the commands that asked.
    assert!(
        counters("AcceptedClients") <= 3,
        "{}",
        counters("AcceptedClients")
    );
    anchor.make_proc(Cmd::new("cat")).await.unwrap();
    let process = anchor.proc();
    tokio::select! {
        biased;
        ended = process.wait() => panic!("{ended:?}"),
        () = async { tokio::task::block_in_place(|| one.is_executing(&["wait"])) } => (),
    }
    tokio::task::block_in_place(|| {
        eventually("nobody waits any more", || {
            (!one.executed().iter().any(|what| what == "wait")).then_some(())
        });
    });
    anchor.proc().kill().await.unwrap();
}

#[test]
fn a_killed_client_is_gone_at_once_whatever_it_held() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    let here = format!("-d unix:{}", one.socket().display());
    one.make("/one/p", sh("while read line; do echo \"$line\"; done"));
    one.circuit("mkchan /one/c 0").run();
    let clients = [
        home.circuit(format!("stdout {here} /one/p")),
        home.circuit(format!("stdin {here} /one/p")).stdin_open(),
        home.circuit(format!("wait {here} /one/p")),
        home.circuit(format!("send {here} /one/c"))
            .stdin("a message"),
        home.circuit(format!("run {here} /one/run -- sleep 1000")),
        home.circuit(format!("run {here} /two/run -- sleep 1000")),
    ];
    let mut clients = clients.map(|client| client.spawn());
    let held = ["stdout", "stdin", "wait", "send", "run"];
    one.is_executing(&held);
    two.is_executing(&["run"]);
    for client in &mut clients {
        client.kill();
    }
    // Far sooner than QUIC would tell: the deadline of `eventually` is longer only for slow machines.
    eventually("nothing is held", || {
        let executed = one.executed();
        let none = held.iter().all(|name| !executed.iter().any(|e| e == name));
        none.then_some(())
    });
    eventually("the process of `run` is gone", || {
        let gone = |path| one.peek(path).is_null();
        (gone("/one/run") && gone("/two/run")).then_some(())
    });
    assert_eq!(one.peek("/one/c")["Senders"], 0);
}

/// Does something as the stranger, in a thread of its own: user ids are those of a thread.
fn as_stranger<T: Send>(what: impl FnOnce() -> T + Send) -> T {
    let stranger = move || {
        let (uid, gid) = (Uid::from_raw(STRANGER), Gid::from_raw(STRANGER));
        rustix::thread::set_thread_groups(&[gid]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        what()
    };
    thread::scope(|scope| scope.spawn(stranger).join().unwrap())
}

#[test]
fn whoever_opens_connections_and_says_nothing_leaves_room_to_others() {
    if !may_become_another() {
        return;
    }
    let home = Home::new();
    let path = open_directory(&home).join("s");
    let few = r#"ulimit -n 256; exec "$0" "$@""#;
    let line = format!("start -name one -socket-group {STRANGER} -socket");
    let one = home.circuit_under(few, &line).arg(&path).serve();
    let connect = || UnixStream::connect(&path).unwrap();
    let mut silent: Vec<UnixStream> = as_stranger(|| (0..600).map(|_| connect()).collect());
    // Neither its owner nor another member of the group waits, or is turned away.
    let line = format!("ls -names -d unix:{} /", path.display());
    home.circuit(&line).stdout("/one\n").run();
    home.circuit_under(AS_STRANGER, &line)
        .stdout("/one\n")
        .run();
    let who = format!("who=\"uid {STRANGER} pid {}\"", std::process::id());
    let logged = one.logs("refused a client on this host: ");
    assert!(logged.contains(&who), "{logged}");
    let status = one.peek("/one");
    let refused = &status["Counters"]["Connections"]["Refused"];
    assert!(refused.as_u64() >= Some(500), "{refused}");
    let lines = one.log();
    let lines = lines.lines().filter(|line| line.contains("refused"));
    assert!(lines.count() < 50, "the log is not flooded");
    // The oldest made room for the newest.
    let mut said = Vec::new();
    silent[0].read_to_end(&mut said).unwrap();
    let last = silent.last_mut().unwrap();
    last.set_nonblocking(true).unwrap();
    let open = last.read(&mut [0]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_connection_that_speaks_something_else_is_counted_and_logged() {
    let home = Home::new();
    let one = home.start("one");
    let refused = || {
        let status = one.peek("/one");
        status["Counters"]["Connections"]["Refused"]
            .as_u64()
            .unwrap()
    };
    let who = format!("who=\"uid {} pid {}\"", uid(), std::process::id());
    for (junk, before) in [(&b"GET / HTTP/1.0\r\n\r\n"[..], 0), (b"\n", 1)] {
        assert_eq!(refused(), before);
        let logged = one.logged();
        let mut stream = UnixStream::connect(one.socket()).unwrap();
        stream.write_all(junk).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // What is said is an answer or nothing.
        let _ = stream.read_to_end(&mut Vec::new());
        let malformed = "refused a client on this host: its handshake is malformed";
        let deadline = std::time::Duration::from_secs(20);
        assert!(one.logs_after(logged, malformed, deadline));
        assert!(one.logs(malformed).contains(&who));
        assert_eq!(refused(), before + 1);
    }
    // One that comes and goes is none of the server's business.
    drop(UnixStream::connect(one.socket()).unwrap());
    assert_eq!(refused(), 2);
}

#[test]
fn a_file_that_was_removed_is_made_again() {
    let home = Home::new();
    let path = home.file("s");
    let mut one = start_at(&home, "one", &path, "-socket-group 0");
    let line = format!("ls -names -d unix:{} /", path.display());
    for lock in [false, true] {
        let logged = one.logged();
        fs::remove_file(&path).unwrap();
        if lock {
            fs::remove_file(home.file("s.lock")).unwrap();
        }
        let again = format!(
            "somebody has removed the socket {}: made again",
            path.display()
        );
        assert!(one.logs_after(logged, &again, std::time::Duration::from_secs(20)));
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        home.circuit(&line).stdout("/one\n").run();
        let pid = fs::read_to_string(home.file("s.lock")).unwrap();
        assert_eq!(pid, format!("{}\n", one.pid()));
    }
    one.stop();
    assert!(!path.exists() && !home.file("s.lock").exists());
}

#[test]
fn what_is_no_socket_is_called_by_its_type() {
    let home = Home::new();
    let fails = |path: &Path, why: &str| {
        home.circuit(format!("ls -d unix:{} /", path.display()))
            .stderr(format!("circuit: ls: {why}\n"))
            .status(255)
            .run();
    };
    let is = |path: &Path, what: &str| {
        fails(
            path,
            &format!("{} is {what}, and no socket", path.display()),
        )
    };
    is(home.path(), "a directory");
    fs::write(home.file("file"), "").unwrap();
    is(&home.file("file"), "a regular file");
    let fifo = home.file("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    is(&fifo, "a named pipe");
    is(Path::new("/dev/null"), "a device");
    // A name that is too long for the system, wherever it is.
    let long = home.file(&"n".repeat(120));
    let limit =
        "a path of more than 107 bytes whose name has more than 82: give the socket a shorter name";
    fails(
        &long,
        &format!("cannot connect to {}: {limit}", long.display()),
    );
    home.circuit("start -socket")
        .arg(&long)
        .stderr(format!(
            "circuit: start: cannot make the socket {}: {limit}\n",
            long.display()
        ))
        .status(1)
        .run();
}

#[test]
fn a_server_that_closes_at_once_is_not_called_ended() {
    let home = Home::new();
    let path = home.file("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
    home.circuit(format!("ls -d unix:{} /", path.display()))
        .stderr(format!(
            "circuit: ls: {} does not speak the circuit protocol with us: it closed the connection\n",
            path.display()
        ))
        .status(255)
        .run();
}

#[test]
fn a_socket_is_named_in_several_ways() {
    let home = Home::new();
    let path = home.file("s");
    let _one = start_at(&home, "one", &path, "");
    let elsewhere = Home::new();
    let named = format!("unix:{}", path.display());
    for value in [named.as_str(), path.to_str().unwrap()] {
        let found = elsewhere
            .circuit("ls -names /")
            .env("CIRCUIT_SOCKET", value);
        found.stdout("/one\n").run();
    }
    for given in [
        path.display().to_string(),
        format!("UNIX:{}", path.display()),
    ] {
        let output = elsewhere
            .circuit(format!("ls -d {given} /"))
            .any_stderr()
            .status(2)
            .run();
        let hint = format!("hint: a Unix socket is written {named}\n");
        assert!(output.stderr().ends_with(&hint), "{output}");
    }
    elsewhere
        .circuit("start -socket s -socket-group")
        .arg("")
        .stderr("circuit: start: -socket-group takes the name or number of a group\n")
        .status(2)
        .run();
}

#[test]
fn the_log_says_where_clients_on_this_host_are_served() {
    let home = Home::new();
    let path = home.file("s");
    let one = start_at(&home, "one", &path, "-socket-group 0");
    one.logs(&format!(
        "clients on this host are served at {} (group 0)",
        path.display()
    ));
    one.logs(&format!(
        "clients on this host are served at {}",
        one.socket().display()
    ));
}

#[test]
fn a_group_that_the_server_is_not_in_is_named() {
    if !may_become_another() {
        return;
    }
    let home = Home::new();
    let (script, path) = strangers_directory(&home);
    home.circuit_under(&script, "start -socket-group 1 -socket")
        .arg(&path)
        .stderr(format!(
            "circuit: start: cannot give the socket {} to the group 1: operation not permitted\n",
            path.display()
        ))
        .status(1)
        .run();
    // A lock of another user's cannot be opened: it says whose it is.
    let two = start_at(&home, "two", &home.file("open").join("t"), "");
    home.circuit_under(&script, "start -socket")
        .arg(home.file("open").join("t"))
        .stderr(format!(
            "circuit: start: another server of the user 0 listens on {}: give each a path of its own\n",
            home.file("open").join("t").display()
        ))
        .status(1)
        .run();
    drop(two);
}
