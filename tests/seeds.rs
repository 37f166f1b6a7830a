//! The ways into a circuit that a server keeps: URLs to join once, and the last members; and
//! servers that find none.
//!
//! That the URLs of `-j` are dialled again is tested on hosts (`hosts/returning.rs`).

use crate::support::{Home, Server, eventually};

/// The members that a server has kept in its directory.
fn kept(home: &Home, dir: &str) -> Vec<String> {
    let text = std::fs::read_to_string(home.file(dir).join("members")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Waits until a server has kept this one, as the most recently seen.
fn keeps(home: &Home, dir: &str, member: &Server) {
    eventually("the member is kept", || {
        (kept(home, dir).first() == Some(&member.url().to_string())).then_some(())
    });
}

#[test]
fn a_server_with_var_finds_its_circuit_again_until_it_is_told_to_go() {
    let home = Home::new();
    let one = home.start("one");
    let join = format!("start -name two -var two -j-once {}", one.url());
    let mut two = home.circuit(join).serve();
    Server::see_each_other(&[&one, &two]);
    keeps(&home, "two", &one);
    // A signal, as at a reboot, and a crash clear nothing. Nobody waits for the end of the first.
    let again = "start -name two -var two";
    two.signal(rustix::process::Signal::TERM);
    let next = home.circuit(again).serve();
    assert_eq!(two.exit_status().code(), Some(0));
    let mut two = next;
    Server::see_each_other(&[&one, &two]);
    two.kill();
    let mut two = home.circuit(again).serve();
    Server::see_each_other(&[&one, &two]);
    keeps(&home, "two", &one);
    // The word of a person does.
    one.circuit("suicide /two").run();
    assert_eq!(two.exit_status().code(), Some(0));
    assert!(!home.file("two/members").exists());
    let two = home.circuit(again).serve();
    assert_eq!(two.ls("/").len(), 1);
    assert!(!two.log().contains("joining"), "{}", two.log());
}

#[test]
fn two_servers_with_var_that_both_went_find_each_other() {
    let home = Home::new();
    let start = |name: &str| home.circuit(format!("start -name {name} -var {name}"));
    let (mut one, mut two) = (start("one").serve(), start("two").serve());
    one.circuit(format!("join /one {}", two.url())).run();
    Server::see_each_other(&[&one, &two]);
    keeps(&home, "one", &two);
    keeps(&home, "two", &one);
    let port = one.url().port;
    one.kill();
    two.kill();
    // It comes back at its port: that of the other need not be the same.
    let one = home
        .circuit(format!("start -name one -var one -a 127.0.0.1:{port}"))
        .serve();
    let two = start("two").serve();
    Server::see_each_other(&[&one, &two]);
}

#[test]
fn a_kept_address_is_that_of_its_member_alone() {
    let home = Home::new();
    home.circuit("keygen key").run();
    let start = |flags: &str| {
        home.circuit(format!("start {flags}"))
            .env("CIRCUIT_HMAC", "key")
    };
    let mut one = start("-name one").serve();
    let mut two = start(&format!("-name two -var two -j-once {}", one.url())).serve();
    keeps(&home, "two", &one);
    let address = one.address();
    two.kill();
    one.kill();
    let other = start(&format!("-name other -a {address}")).serve();
    let two = start("-name two -var two").serve();
    let said = two.logs(&format!("cannot join {} yet: ", one.url()));
    let (is, not) = (other.url().server.unwrap(), one.url().server.unwrap());
    assert!(
        said.contains(&format!("is {}, not {}", is.id.in_url(), not.id.in_url())),
        "{said}"
    );
    assert_eq!(two.ls("/").len(), 1);
}

#[test]
fn with_a_seed_or_a_group_kept_addresses_are_not_dialled() {
    let home = Home::new();
    let one = home.start("one");
    let mut two = home
        .circuit(format!("start -name two -var two -j-once {}", one.url()))
        .serve();
    keeps(&home, "two", &one);
    two.kill();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let two = home
        .circuit(format!("start -name two -var two -j circuit://{address}"))
        .serve();
    // By then it would have dialled the other as well.
    two.logs(&format!("cannot join circuit://{address} yet: "));
    assert_eq!(two.ls("/").len(), 1);
    assert_eq!(kept(&home, "two"), [one.url().to_string()]);
}

#[test]
fn a_server_that_found_nobody_says_so() {
    let home = Home::new();
    let one = home.start("one");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("circuit://{}", silent.local_addr().unwrap());
    let two = home.circuit(format!("start -name two -j {url}")).serve();
    one.logs("no other server has joined within 10 s, and this one was told to join none");
    two.logs(&format!(
        "found no other server within 10 s by {url}; it goes on looking"
    ));
}
