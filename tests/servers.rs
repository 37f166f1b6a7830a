//! Servers as elements: `peek`, `join`, `suicide`, `stk`.

use serde_json::json;

use crate::support::{DEADLINE, Home, Server, eventually, who};

#[test]
fn the_status_of_a_server() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let mut status = one.until("/one", |status| status["Tethers"] == 1);
    let joined = status["Joined"].take();
    assert!(joined.as_str().unwrap().ends_with('Z'), "{joined}");
    status.as_object_mut().unwrap().remove("Counters");
    assert_eq!(
        status,
        json!({
            "Addr": one.url().to_string(),
            "Joined": null,
            "Name": "one",
            "Version": env!("CARGO_PKG_VERSION"),
            "Key": true,
            "Servers": 2,
            "Degree": 1,
            "Links": [two.id()],
            "Tethers": 1,
            "Suspected": [],
            "Isolated": false,
            "Clients": 1,
            "Elements": 1,
            "StoreError": null,
        })
    );
    let text = one.circuit("peek /one").any_stdout().run();
    let begin = format!("{{\n\t\"Addr\": \"{}\",\n\t\"Joined\": \"", one.url());
    assert!(text.stdout().starts_with(&begin), "{}", text.stdout());
    let mut status = one.peek("/two");
    let mut same = one.peek(&format!("/{}", two.id()));
    // The command that looks is counted itself.
    for changing in ["Clients", "Counters"] {
        status[changing].take();
        same[changing].take();
    }
    assert_eq!(status, same);
}

#[test]
fn a_server_counts_what_happens() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    let before = one.peek("/one")["Counters"].take();
    one.make("/one/p", r#"{"Path": "cat"}"#);
    one.circuit("mkproc /one/q")
        .stdin(r#"{"Path": "/no/such"}"#)
        .status(1)
        .any_stderr()
        .run();
    one.circuit("mkchan /one/c 1").run();
    one.circuit("send /one/c").stdin("x").run();
    one.circuit("recv /one/c").stdout("x").run();
    one.circuit("peek /two/nothing").stdout("null\n").run();
    let after = one.peek("/one")["Counters"].take();
    let check = |group: &str, name: &str, expected: u64| {
        let count = |counters: &serde_json::Value| counters[group][name].as_u64().unwrap_or(0);
        let grown = count(&after) - count(&before);
        assert_eq!(grown, expected, "{group} {name}: {before} {after}");
    };
    check("Processes", "Started", 1);
    check("Processes", "NotStarted", 1);
    check("Processes", "Running", 1);
    check("Descriptors", "Processes", 4);
    check("Outcomes", "NoSuchProgram", 1);
    // Five commands that succeed, and the peek before.
    check("Outcomes", "Ok", 5);
    check("Requests", "Forwarded", 1);
    check("Messages", "Sent", 1);
    check("Messages", "Received", 1);
    // Six commands were connected, and the second peek is.
    check("Connections", "AcceptedClients", 7);
    assert_eq!(after["Membership"]["Links"], 1);
    assert_eq!(after["Membership"]["Joined"], 1);
    assert_eq!(after["Log"]["Dropped"], 0);
    // Each server counts its own only.
    assert_eq!(two.peek("/two")["Counters"]["Processes"]["Started"], 0);
    for (group, name) in [("Bytes", "Sent"), ("Bytes", "Received"), ("Log", "Written")] {
        let count = |counters: &serde_json::Value| counters[group][name].as_u64().unwrap();
        assert!(count(&after) > count(&before), "{group} {name}");
    }
}

#[test]
fn join_merges_two_circuits() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    let [three, four] = home.start_all(["three", "four"]);
    one.circuit(format!("join /one {}", three.url())).run();
    Server::see_each_other(&[&one, &two, &three, &four]);
    // A second join changes nothing.
    one.circuit(format!("join /two {}", three.url())).run();
    Server::see_each_other(&[&one, &two, &three, &four]);
}

#[test]
fn a_join_of_another_server_than_was_meant_says_so() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    let three = home.start("three");
    let mut meant = three.url().clone();
    let id = |digits: &str| format!("Q{digits}").replace('X', "");
    meant.server = one.url().server.map(|mut server| {
        server.id.0 ^= 1;
        server
    });
    let (asked, found) = (meant.server.unwrap().id.to_string(), three.id());
    // The dialled server is another than the one that joins.
    two.circuit(format!("join /one {meant}"))
        .stderr(format!(
            "circuit: warning: join /one: {} is {}, not {}: joined it all the same\n",
            three.address(),
            id(&found),
            id(&asked)
        ))
        .run();
    Server::see_each_other(&[&one, &two, &three]);
    two.circuit(format!("join /one {}", three.url())).run();
}

#[test]
fn a_join_has_succeeded_though_nobody_can_tell_whom() {
    let home = Home::new();
    let [one, mut two] = home.start_all(["one", "two"]);
    let three = home.start("three");
    // Another than was meant, and at a name, which no server has in its URL: so it is looked for
    // until the command gives up.
    let mut meant = three.url().clone();
    meant.host = circuit_proto::url::Host::Name("localhost".to_owned());
    meant.server.as_mut().unwrap().id.0 ^= 1;
    // Earlier requests are in the log by then: the next list is the command's own.
    two.circuit("peek /two").any_stdout().run();
    assert!(two.logs_after(0, "what=\"peek\"", DEADLINE));
    let logged = two.logged();
    let joining = two.circuit(format!("join /one {meant}")).spawn();
    assert!(two.logs_after(logged, "what=\"ls\" path=/ ", DEADLINE));
    two.stop();
    let output = joining.finish();
    assert_eq!(output.status.code(), Some(0), "{output}");
    assert!(
        output.stderr().starts_with("circuit: warning: join /one: "),
        "{output}"
    );
    Server::see_each_other(&[&one, &three]);
}

#[test]
fn a_join_that_fails_says_why() {
    let home = Home::new();
    let one = home.start("one");
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    one.circuit(format!("join /one circuit://{address}"))
        .status(1)
        .stderr(format!(
            "circuit: join /one: no answer from {address} within 3 s\n"
        ))
        .run();
    one.circuit(format!("join /one {}", one.url()))
        .status(1)
        .stderr(format!(
            "circuit: join /one: {} refused us: it is this server itself\n",
            one.address()
        ))
        .run();
    one.circuit("join /one 10.0.0.1:7000")
        .status(2)
        .stderr(
            "circuit: invalid value '10.0.0.1:7000' for '<URL>': not a circuit URL \
             (circuit://HOST:PORT/PID/Qid): 10.0.0.1:7000\n\
             hint: write it as circuit://10.0.0.1:7000\n",
        )
        .run();
    one.make("/one/p", r#"{"Path": "cat"}"#);
    one.circuit(format!("join /one/p circuit://{address}"))
        .status(1)
        .stderr("circuit: join /one/p: a proc does not take join\n")
        .run();
}

#[test]
fn suicide_makes_a_server_leave_in_order() {
    let home = Home::new();
    let [one, mut two] = home.start_all(["one", "two"]);
    one.circuit("suicide /two").run();
    assert_eq!(two.exit_status().code(), Some(0));
    one.logs(&format!("left: {}", two.id()));
    Server::see_each_other(&[&one]);
    assert_eq!(home.registered(), [format!("{}.url", one.id())]);
    let mut one = one;
    one.circuit("suicide /one").run();
    assert_eq!(one.exit_status().code(), Some(0));
    assert!(home.registered().is_empty());
}

#[test]
fn stk_shows_operations_in_flight_and_threads() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "cat"}"#);
    let _waiter = one.circuit("wait /one/p").spawn();
    let text = eventually("both are in flight", || {
        let output = one.circuit("stk /one").any_stdout().run();
        let text = output.stdout().to_owned();
        text.starts_with("operations in flight: 2\n")
            .then_some(text)
    });
    let lines: Vec<&str> = text.lines().collect();
    let path = format!("/{}/p", one.id());
    assert!(
        lines[1].starts_with(&format!("  wait {path} by {}", who())),
        "{text}"
    );
    assert!(
        lines[2].starts_with(&format!("  stk /{} by {}", one.id(), who())),
        "{text}"
    );
    // Its own and the waiter's; those of commands that have ended may linger.
    assert!(lines[3].starts_with("connections: "), "{text}");
    assert!(
        lines[3].ends_with(" (2 of clients, 0 opened to forward requests)"),
        "{text}"
    );
    assert!(lines[4].starts_with("threads: "), "{text}");
    assert!(
        lines.iter().any(|line| line.contains(" circuit ")),
        "{text}"
    );
}

#[test]
fn a_killed_server_is_forgotten_by_the_others() {
    let home = Home::new();
    let [one, mut two, three] = home.start_all(["one", "two", "three"]);
    two.kill();
    Server::see_each_other(&[&one, &three]);
    one.logs(&format!("left: {}", two.id()));
}

#[test]
fn a_server_that_comes_back_as_itself_is_one_server() {
    let home = Home::new();
    let one = home.start("one");
    let start = format!("start -name two -var two -j {}", one.url());
    let mut two = home.circuit(&start).serve();
    Server::see_each_other(&[&one, &two]);
    two.kill();
    let again = home.circuit(&start).serve();
    assert_eq!(again.id(), two.id());
    Server::see_each_other(&[&one, &again]);
    eventually("it is reached at its new address", || {
        let output = one
            .circuit("peek /two")
            .any_stdout()
            .any_stderr()
            .unchecked();
        let same = output.status.success() && output.json()["Addr"] == again.url().to_string();
        same.then_some(())
    });
}
