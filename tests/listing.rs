//! `ls`: patterns, order, `-l`, `-depth`, paths by name.

use crate::support::{Home, Server, sh};

#[test]
fn an_anchor_is_there_while_it_holds_something_or_leads_to_it() {
    let home = Home::new();
    let one = home.start("one");
    let id = one.id();
    for path in ["a/b/c", "a b", "z", "a/b"] {
        one.circuit("mkproc")
            .arg(format!("/one/{path}"))
            .stdin(sh("exit 0"))
            .run();
    }
    let check = |line: &str, expected: &[&str]| {
        let lines: Vec<String> = expected
            .iter()
            .map(|line| format!("{}\n", line.replace("/one", &format!("/{id}"))))
            .collect();
        one.circuit(line).stdout(lines.concat()).run();
    };
    check("ls", &["/one"]);
    check("ls /", &["/one"]);
    check(&format!("ls /{id}"), &["/one/a", "/one/a b", "/one/z"]);
    check(&format!("ls /{id}/"), &["/one/a", "/one/a b", "/one/z"]);
    check(&format!("ls /{id}/a"), &["/one/a/b"]);
    check(&format!("ls //{id}//a/"), &["/one/a/b"]);
    check(&format!("ls /{id}/z"), &[]);
    check(&format!("ls /{id}/nowhere"), &[]);
    let all = ["/one/a", "/one/a/b", "/one/a/b/c", "/one/a b", "/one/z"];
    check(&format!("ls /{id}/..."), &all);
    check("ls /...", &[&["/one"], all.as_slice()].concat());
    check(
        "ls -depth /...",
        &[
            "/one/a/b/c",
            "/one/a/b",
            "/one/a",
            "/one/a b",
            "/one/z",
            "/one",
        ],
    );
    check(
        &format!("ls -l /{id}/..."),
        &[
            "·       /one/a",
            "proc    /one/a/b",
            "proc    /one/a/b/c",
            "proc    /one/a b",
            "proc    /one/z",
        ],
    );
    one.circuit(format!("scrub /{id}/a/b/c")).run();
    check(&format!("ls /{id}/a/..."), &["/one/a/b"]);
    one.circuit(format!("scrub /{id}/a/b")).run();
    check(&format!("ls /{id}/..."), &["/one/a b", "/one/z"]);
}

#[test]
fn a_path_may_begin_with_a_servers_name() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/a/b", sh("exit 0"));
    one.circuit("ls /one").stdout("/one/a\n").run();
    one.circuit("ls /one/...")
        .stdout("/one/a\n/one/a/b\n")
        .run();
    one.circuit("ls --long /one/...")
        .stdout("·       /one/a\nproc    /one/a/b\n")
        .run();
}

#[test]
fn of_servers_the_long_form_shows_name_and_address() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "longer"]);
    let mut lines = [(&one, "one   "), (&two, "longer")]
        .map(|(server, name)| format!("server  /{}  {name}  {}\n", server.id(), server.address()));
    lines.sort();
    one.circuit("ls -l /").stdout(lines.concat()).run();
    one.circuit("ls -long").stdout(lines.concat()).run();
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let home = Home::new();
    let one = home.start("one");
    for line in ["ls /two", "ls /two/...", "peek /two/a", "wait /two/a"] {
        let (command, path) = line.split_once(' ').unwrap();
        let path = path.trim_end_matches("/...");
        one.circuit(line)
            .status(1)
            .stderr(format!(
                "circuit: {command} {path}: no server is named two\n\
                 hint: `circuit ls -l /` lists the servers\n"
            ))
            .run();
    }
    one.circuit("ls /X0123456789abcdef")
        .status(1)
        .stderr(
            "circuit: ls /X0123456789abcdef: no server X0123456789abcdef in the circuit\n\
             hint: `circuit ls -l /` lists the servers\n",
        )
        .run();
}

#[test]
fn a_server_that_has_lost_all_its_links_says_so() {
    let home = Home::new();
    let [one, mut two] = home.start_all(["one", "two"]);
    two.kill();
    Server::see_each_other(&[&one]);
    assert_eq!(one.peek("/one")["Isolated"], true);
    for line in ["ls /", "ls /..."] {
        one.circuit(line)
            .stdout(format!("/{}\n", one.id()))
            .stderr(format!(
                "circuit: warning: one at {} has lost all its links, and cannot know who is alive\n",
                one.address()
            ))
            .run();
    }
    one.circuit("ls -l /")
        .stdout(format!(
            "server  /{}  one  {}  isolated\n",
            one.id(),
            one.address()
        ))
        .any_stderr()
        .run();
    let two = two.id();
    one.circuit(format!("ls /{two}"))
        .status(1)
        .stderr(format!(
            "circuit: ls /{two}: no server {two} in the circuit: one at {} has lost all its links, \
             and cannot know who is alive\n\
             hint: `circuit ls -l /` lists the servers\n",
            one.address()
        ))
        .run();
}

#[test]
fn a_name_that_two_servers_have_means_neither() {
    let home = Home::new();
    let [one, two, _three] = home.start_all(["twin", "twin", "three"]);
    let mut both = [&one, &two].map(|server| format!("{} at {}", server.id(), server.address()));
    both.sort();
    one.circuit("ls /twin")
        .status(1)
        .stderr(format!(
            "circuit: ls /twin: several servers are named twin, use an id: {}, {}\n",
            both[0], both[1]
        ))
        .run();
    for (server, other) in [(&one, &two), (&two, &one)] {
        let warning = server.logs("WARN circuit::peer::driver: two servers are named twin: ");
        let theirs = format!(" and {} at {}; ", other.id(), other.address());
        assert!(warning.contains(&theirs), "{warning}");
    }
    one.circuit("peek /three/a").stdout("null\n").run();
}

#[test]
fn texts_that_are_no_paths_are_wrong_usage() {
    let home = Home::new();
    let check = |command: &str, argument: &str, path: &str, error: &str| {
        home.circuit(command)
            .arg(path)
            .status(2)
            .stderr(format!(
                "circuit: invalid value '{}' for '{argument}': {error}\n",
                path.replace('\t', "\\t").replace('\n', "\\n")
            ))
            .run();
    };
    check("ls", "[PATTERN]", "", "a path begins with /: \"\"");
    check(
        "ls",
        "[PATTERN]",
        "/one/..",
        "an anchor cannot be named ..: /one/..",
    );
    check(
        "ls",
        "[PATTERN]",
        "/one/.../a",
        "an anchor cannot be named ...: /one/.../a",
    );
    check(
        "peek",
        "<PATH>",
        "/one/...",
        "an anchor cannot be named ...: /one/...",
    );
    check(
        "scrub",
        "<PATH>",
        "/one/./a",
        "an anchor cannot be named .: /one/./a",
    );
    check(
        "peek",
        "<PATH>",
        "/one/a\tb\nc",
        "a name in the path holds a control character: /one/a\\tb\\nc",
    );
    let deep = "/a".repeat(65);
    check(
        "peek",
        "<PATH>",
        &deep,
        &format!("the path is deeper than 64 names: {deep}"),
    );
    let long = format!("/one/{}", "x".repeat(256));
    let shown: String = long.chars().take(200).collect();
    check(
        "peek",
        "<PATH>",
        &long,
        &format!("a name in the path is longer than 255 bytes: {shown}…"),
    );
}

#[test]
fn a_listing_of_many_chunks_is_whole() {
    let home = Home::new();
    let one = home.start("one");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listed = runtime.block_on(async {
        let client = one.client(&home).await;
        for number in 0..1000 {
            let path = format!("/one/{number:04}/{}", "long".repeat(20));
            let cmd = circuit_client::Cmd::new("/bin/true");
            client.walk(&path).unwrap().make_proc(cmd).await.unwrap();
        }
        client.walk("/one").unwrap().list().await.unwrap().len()
    });
    assert_eq!(listed, 2000);
    assert_eq!(one.ls("/one/...").len(), 2000);
}
