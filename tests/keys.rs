//! The circuit's key: `keygen`, `-hmac`, and the errors of both ends when keys do not match.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use circuit_client::Key;

use crate::support::{Home, Server};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
const OTHER: &str = "HxwdHh8YGRobFBUWFxAREhMMDQ4PCAkKCwQFBgcAAQI=\n";

#[test]
fn keygen_prints_a_key_or_writes_a_private_file() {
    let home = Home::new();
    let keygen = || {
        home.circuit("keygen")
            .any_stdout()
            .run()
            .stdout()
            .to_owned()
    };
    let (first, second) = (keygen(), keygen());
    assert_ne!(first, second);
    assert!(first.ends_with('\n') && Key::parse(&first).is_ok());
    home.circuit("keygen .hmac").run();
    let file = home.file(".hmac");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let written = fs::read_to_string(&file).unwrap();
    assert!(Key::parse(&written).is_ok());
    home.circuit("keygen .hmac")
        .status(1)
        .stderr("circuit: keygen: cannot write the key file .hmac: file exists\n")
        .run();
    assert_eq!(fs::read_to_string(&file).unwrap(), written, "left as it is");
    // A disk that is full: whoever made room may try again.
    home.circuit_under(
        "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"",
        "keygen late",
    )
    .status(1)
    .stderr("circuit: keygen: cannot write the key file late: file too large\n")
    .run();
    home.circuit("keygen late").run();
    home.circuit("keygen no/such/place")
        .status(1)
        .stderr(
            "circuit: keygen: cannot write the key file no/such/place: no such file or directory\n",
        )
        .run();
}

#[test]
fn clients_with_the_key_get_in() {
    let home = Home::new();
    home.write("key", KEY);
    let one = home
        .circuit("start -name one -a 127.0.0.1 -hmac key")
        .serve();
    one.circuit("peek -hmac key /one/x").stdout("null\n").run();
    one.circuit("peek --hmac=key /one/x").stdout("null\n").run();
    one.circuit("peek /one/x")
        .env("CIRCUIT_HMAC", "key")
        .stdout("null\n")
        .run();
    one.circuit("peek /one/x")
        .env("CIRCUIT_HMAC", "~/key")
        .stdout("null\n")
        .run();
    // The flag counts, not the variable.
    one.circuit("peek -hmac key /one/x")
        .env("CIRCUIT_HMAC", "/no/key")
        .stdout("null\n")
        .run();
    assert!(one.peek_with("-hmac key /one", "Key"));
    let two = home
        .circuit(format!("start -name two -j {}", one.url()))
        .env("CIRCUIT_HMAC", "key")
        .serve();
    one.logs(&format!("joined: {}", two.id()));
    for server in [&one, &two] {
        assert!(!server.log().contains(KEY.trim()), "{}", server.log());
    }
}

impl Server {
    fn peek_with(&self, arguments: &str, field: &str) -> bool {
        let output = self.circuit(format!("peek {arguments}")).any_stdout().run();
        output.json()[field] == true
    }
}

/// A server that has the key; another one is in a file beside it.
fn with_key(home: &Home) -> Server {
    home.write("key", KEY);
    home.write("other", OTHER);
    home.circuit("start -name one -a 127.0.0.1 -hmac key")
        .serve()
}

#[test]
fn clients_without_the_key_are_refused_and_both_ends_say_why() {
    let home = Home::new();
    let one = with_key(&home);
    let address = one.address();
    one.circuit("ls /")
        .status(255)
        .stderr(format!(
            "circuit: ls: {address} refused us: the circuit has a key, and none was given\n\
             hint: name its key with -hmac FILE, or in CIRCUIT_HMAC\n"
        ))
        .run();
    one.logs("refused a connection: it has no key, and this circuit has one");
    one.circuit("ls -hmac other /")
        .status(255)
        .stderr(format!(
            "circuit: ls: {address} refused us: the circuit has another key\n\
             hint: -hmac FILE, or CIRCUIT_HMAC, must name the key of that circuit\n"
        ))
        .run();
    let line = one.logs("refused a connection: it has another key");
    assert!(line.contains("address=127.0.0.1:"), "{line}");
    assert!(!one.log().contains(KEY.trim()) && !one.log().contains(OTHER.trim()));
}

#[test]
fn a_server_with_another_key_does_not_get_in_either() {
    let home = Home::new();
    let one = with_key(&home);
    let two = home
        .circuit(format!(
            "start -name two -a 127.0.0.1 -hmac other -j {}",
            one.url()
        ))
        .serve();
    let line = two.logs("cannot join");
    let expected = format!(
        "cannot join {} yet: {} refused us: the circuit has another key",
        one.url(),
        one.address()
    );
    assert!(line.ends_with(&expected), "{line}");
    one.logs("refused a connection: it has another key");
    let alone = one.circuit("peek -hmac key /one").any_stdout().run().json();
    assert_eq!(alone["Servers"], 1);
}

#[test]
fn the_local_key_keeps_other_users_out() {
    let (home, elsewhere) = (Home::new(), Home::new());
    let one = home.start("one");
    // Another user's runtime directory holds no key, or another.
    elsewhere
        .circuit(format!("ls -d {}", one.url()))
        .status(255)
        .stderr(format!(
            "circuit: ls: {} refused us: the circuit has a key, and none was given\n\
             hint: name its key with -hmac FILE, or in CIRCUIT_HMAC\n",
            one.address()
        ))
        .run();
    let _their_own = elsewhere.start("two");
    elsewhere
        .circuit(format!("ls -d {}", one.url()))
        .status(255)
        .stderr(format!(
            "circuit: ls: {} refused us: the circuit has another key\n\
             hint: -hmac FILE, or CIRCUIT_HMAC, must name the key of that circuit\n",
            one.address()
        ))
        .run();
}

#[test]
fn a_local_key_that_is_not_used_is_spoken_of() {
    let home = Home::new();
    let one = home.start("one");
    let dir = home.runtime_dir();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    home.circuit(format!("ls -d {}", one.url()))
        .status(255)
        .stderr(format!(
            "circuit: ls: {} refused us: the circuit has a key, and none was given\n\
             hint: your local key is not used: others can look into {dir}: chmod 700 {dir}\n",
            one.address(),
            dir = dir.display()
        ))
        .run();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    home.circuit("ls").stdout(format!("/{}\n", one.id())).run();
}

#[test]
fn key_files_that_are_none_are_refused_and_exposed_ones_draw_a_warning() {
    let home = Home::new();
    let check = |text: &str, error: &str| {
        home.write("key", text);
        home.circuit("ls -hmac key /")
            .status(1)
            .stderr(format!("circuit: ls: key: {error}\n"))
            .run();
        home.circuit("start -hmac key")
            .status(1)
            .stderr(format!("circuit: start: key: {error}\n"))
            .run();
    };
    check(
        "",
        "not a key: a key file holds one line of base64, as circuit keygen writes it",
    );
    check(
        "secret!",
        "not a key: a key file holds one line of base64, as circuit keygen writes it",
    );
    check(
        "c2hvcnQ=",
        "the key has 40 bits, at least 128 are needed: make one with circuit keygen",
    );
    let place = home.file("key");
    let place = place.display();
    home.circuit(format!("ls -hmac {place} /"))
        .status(1)
        .stderr(format!(
            "circuit: ls: {place}: the key has 40 bits, at least 128 are needed: make one with \
             circuit keygen\n"
        ))
        .run();
    let key = home.write("key", KEY);
    let one = home
        .circuit("start -name one -a 127.0.0.1 -hmac key")
        .serve();
    fs::set_permissions(key, fs::Permissions::from_mode(0o640)).unwrap();
    one.circuit("peek -hmac key /one/x")
        .stdout("null\n")
        .stderr("circuit: warning: others can read the key file key: chmod 600 key\n")
        .run();
}

#[test]
fn a_file_without_end_is_no_key_and_no_url() {
    let home = Home::new();
    home.circuit("ls -hmac /dev/zero /")
        .status(1)
        .any_stderr()
        .run();
    let end = home
        .circuit("ls /")
        .env("CIRCUIT", "/dev/zero")
        .status(255)
        .any_stderr()
        .run();
    assert!(
        end.stderr().contains("holds no URL"),
        "{}",
        &end.stderr()[..200]
    );
}
