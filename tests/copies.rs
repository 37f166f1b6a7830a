//! Several servers on copies of one `-var` directory: one of them goes on, the others end and say
//! why, and nobody else's view flaps. And a directory that was set back, which is no copy.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::support::{Home, Server, eventually, eventually_within};

/// The log line of a server that ends because another one lives on its identity.
pub(crate) const ENDS: &str = "this one ends; was its -var directory copied?";

/// The log line of the one that goes on.
pub(crate) const GOES_ON: &str = "another server with this server's identity is at";

/// How soon of several servers on one identity all but one have ended.
const SOON: Duration = Duration::from_secs(10);

/// The next server may start once the one before has lived for longer by so much more than a
/// second that the age decides, not a random number.
const CLEARLY_OLDER: Duration = Duration::from_millis(1300);

/// Copies a directory as `cp -r` does.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Makes `v0` with the identity of a server that has run, and copies of it up to `v{n-1}`.
fn make_copies(home: &Home, n: usize) {
    let mut first = home.circuit("start -name a -var v0").serve();
    assert!(first.stop().success());
    for i in 1..n {
        copy(&home.file("v0"), &home.file(&format!("v{i}")));
    }
}

/// How many links a server has accepted or refused, and how often its view has changed.
fn counted(server: &Server) -> (u64, u64) {
    let counters = &server.peek(&format!("/{}", server.id()))["Counters"];
    let count = |group: &str, name: &str| counters[group][name].as_u64().unwrap();
    let links = count("Connections", "AcceptedLinks") + count("Connections", "Refused");
    (
        links,
        count("Membership", "Joined") + count("Membership", "Left"),
    )
}

/// Checks that nothing goes on any more: neither links nor views change for a while.
fn rests(servers: &[&Server]) {
    let mut before: Vec<_> = servers.iter().map(|server| counted(server)).collect();
    let mut quiet = 0;
    eventually("links and views come to rest", || {
        thread::sleep(Duration::from_millis(500));
        let now: Vec<_> = servers.iter().map(|server| counted(server)).collect();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
        (quiet >= 4).then_some(())
    });
}

/// Checks the ends of these servers: which of them has gone on.
fn survivor(mut copies: Vec<Server>) -> Server {
    let ends = |server: &Server| server.log().contains(ENDS);
    let n = copies.len();
    eventually_within(SOON, "all but one end", || {
        (copies.iter().filter(|copy| ends(copy)).count() == n - 1).then_some(())
    });
    let at = copies.iter().position(|copy| !ends(copy)).unwrap();
    let one = copies.swap_remove(at);
    for mut copy in copies {
        assert_eq!(copy.exit_status().code(), Some(1), "{}", copy.log());
        let said = copy.log().matches(ENDS).count();
        assert_eq!(said, 1, "{}", copy.log());
    }
    one
}

/// Checks that two bystanders and this server are one circuit, in which it can be used.
fn is_whole(bystanders: &[Server; 2], one: &Server) {
    let [p, q] = bystanders;
    Server::see_each_other(&[p, q, one]);
    for peer in [p, q] {
        eventually("the view has the one that lives", || {
            let there = peer
                .circuit("peek /a")
                .any_stdout()
                .any_stderr()
                .unchecked();
            (there.status.success() && there.json()["Addr"] == one.url().to_string()).then_some(())
        });
    }
    p.circuit("run a -- echo here").stdout("here\n").run();
}

/// The most that a bystander's view may change for each copy: the copy comes, and the one that was
/// there comes back in a life above it.
const CHANGES: u64 = 4;

/// The most links that a bystander may accept for each copy: its own, one that is opened again, and
/// one for each that wants to know more.
const LINKS: u64 = 5;

#[test]
fn started_one_by_one_the_first_goes_on() {
    for n in [2, 3, 5] {
        let home = Home::new();
        make_copies(&home, n);
        let bystanders = home.start_all(["p", "q"]);
        let [p, q] = &bystanders;
        let start = |i: usize| {
            let line = format!("start -name a -var v{i} -j {}", p.url());
            home.circuit(line).serve()
        };
        let first = start(0);
        is_whole(&bystanders, &first);
        let before = [counted(p), counted(q)];
        for i in 1..n {
            thread::sleep(CLEARLY_OLDER);
            let mut copy = start(i);
            assert_eq!(copy.exit_status().code(), Some(1), "{}", copy.log());
            assert_eq!(copy.log().matches(ENDS).count(), 1, "{}", copy.log());
            first.logs(GOES_ON);
        }
        is_whole(&bystanders, &first);
        rests(&[p, q, &first]);
        for (peer, before) in [p, q].into_iter().zip(before) {
            let after = counted(peer);
            let copies = n as u64 - 1;
            let (links, changes) = (after.0 - before.0, after.1 - before.1);
            assert!(links <= LINKS * copies, "{links} links\n{}", peer.log());
            assert!(changes <= CHANGES * copies, "{changes}\n{}", peer.log());
        }
    }
}

#[test]
fn started_together_one_goes_on() {
    for n in [2, 3, 5] {
        let home = Home::new();
        make_copies(&home, n);
        let bystanders = home.start_all(["p", "q"]);
        let before = bystanders.each_ref().map(counted);
        let copies: Vec<Server> = thread::scope(|scope| {
            let starting: Vec<_> = (0..n)
                .map(|i| {
                    let peer = &bystanders[i % 2];
                    let line = format!("start -name a -var v{i} -j {}", peer.url());
                    let command = home.circuit(line);
                    scope.spawn(|| command.serve())
                })
                .collect();
            starting.into_iter().map(|s| s.join().unwrap()).collect()
        });
        let one = survivor(copies);
        is_whole(&bystanders, &one);
        rests(&[&bystanders[0], &bystanders[1], &one]);
        assert!(!one.log().contains("left: "), "{}", one.log());
        for (peer, before) in bystanders.iter().zip(before) {
            let after = counted(peer);
            let (links, changes) = (after.0 - before.0, after.1 - before.1);
            assert!(links <= LINKS * n as u64, "{links} links\n{}", peer.log());
            assert!(changes <= CHANGES * n as u64, "{changes}\n{}", peer.log());
        }
    }
}

#[test]
fn a_copy_that_counts_more_lives_ends_as_well() {
    let home = Home::new();
    make_copies(&home, 1);
    let bystanders = home.start_all(["p", "q"]);
    let start = |var: &str| {
        let line = format!("start -name a -var {var} -j {}", bystanders[0].url());
        home.circuit(line).serve()
    };
    let first = start("v0");
    is_whole(&bystanders, &first);
    copy(&home.file("v0"), &home.file("copy"));
    fs::write(home.file("copy/incarnation"), "90\n").unwrap();
    thread::sleep(CLEARLY_OLDER);
    let mut second = start("copy");
    assert_eq!(second.exit_status().code(), Some(1), "{}", second.log());
    is_whole(&bystanders, &first);
    // The first one has taken a count above, and its directory has it.
    eventually("the count is kept", || {
        let count = fs::read_to_string(home.file("v0/incarnation")).ok()?;
        (count.trim().parse::<u64>().ok()? == 92).then_some(())
    });
    // An empty directory makes another server.
    fs::remove_dir_all(home.file("copy")).unwrap();
    let other = start("copy");
    assert_ne!(other.id(), first.id());
}

#[test]
fn a_copy_that_dials_the_original_ends() {
    let home = Home::new();
    make_copies(&home, 3);
    let first = home.circuit("start -name a -var v0").serve();
    thread::sleep(CLEARLY_OLDER);
    let pinned = first.url().to_string();
    let unpinned = format!("circuit://{}", first.url().authority());
    for (i, url) in [(1, pinned), (2, unpinned)] {
        let mut copy = home
            .circuit(format!("start -name a -var v{i} -j {url}"))
            .serve();
        assert_eq!(copy.exit_status().code(), Some(1), "{}", copy.log());
        assert_eq!(copy.log().matches(ENDS).count(), 1, "{}", copy.log());
    }
    first.circuit("run a -- echo here").stdout("here\n").run();
}

#[test]
fn a_directory_that_was_set_back_just_works() {
    for killed in [false, true] {
        let home = Home::new();
        make_copies(&home, 2);
        let bystanders = home.start_all(["p", "q"]);
        let start = |var: &str| {
            let line = format!("start -name a -var {var} -j {}", bystanders[0].url());
            home.circuit(line).serve()
        };
        for _ in 0..3 {
            let mut later = start("v0");
            is_whole(&bystanders, &later);
            if killed {
                later.kill();
            } else {
                assert!(later.stop().success());
            }
        }
        let backup = start("v1");
        eventually_within(Duration::from_secs(6), "it is reached", || {
            let ran = bystanders[1]
                .circuit("run a -- echo here")
                .any_stdout()
                .any_stderr()
                .unchecked();
            (ran.stdout() == "here\n").then_some(())
        });
        is_whole(&bystanders, &backup);
        rests(&[&bystanders[0], &bystanders[1], &backup]);
        assert!(!backup.log().contains(GOES_ON), "{}", backup.log());
    }
}
