//! When a client vanishes, everything that it held is free again, and nothing else changes.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Home, Relay, Server, eventually, eventually_within, sh};

#[test]
fn killed_clients_are_gone_in_ten_seconds_whatever_they_held() {
    let home = Home::new();
    let one = home.start("one");
    let echo = "while read line; do echo \"$line\"; done";
    for name in ["read", "written", "awaited"] {
        one.make(&format!("/one/{name}"), sh(echo));
    }
    let mut reader = one.circuit("stdout /one/read").spawn();
    let mut writer = one.circuit("stdin /one/written").stdin_open().spawn();
    let mut waiter = one.circuit("wait /one/awaited").spawn();
    let mut run = one
        .circuit("run /one/run -- sh -c")
        .arg(format!("echo ready; {echo}"))
        .stdin_open()
        .spawn();
    run.prints("ready\n");
    writer.write("half a line");
    one.until("/one/read", |status| status["Stdout"]["Reader"] == true);
    one.until("/one/written", |status| status["Stdin"]["Writer"] == true);
    eventually("it waits", || {
        let stacks = one.circuit("stk /one").any_stdout().run();
        stacks.stdout().contains("/awaited by").then_some(())
    });
    for client in [&mut reader, &mut writer, &mut waiter, &mut run] {
        client.kill();
    }
    eventually_within(Duration::from_secs(13), "all are gone", || {
        (one.peek("/one")["Clients"] == 1).then_some(())
    });
    let stacks = one.circuit("stk /one").any_stdout().run();
    assert!(
        stacks.stdout().starts_with("operations in flight: 1\n"),
        "{stacks}"
    );
    // Each process goes on, and the next one takes the place.
    one.circuit("stdin /one/read").stdin("next\n").run();
    one.circuit("stdout /one/read").stdout("next\n").run();
    one.circuit("stdin /one/written")
        .stdin(" and the rest\n")
        .run();
    one.circuit("stdout /one/written")
        .stdout("half a line and the rest\n")
        .run();
    assert_eq!(one.peek("/one/awaited")["Phase"], "running");
    // The anchor that `run` made was for this one run.
    eventually("its process and element are gone", || {
        (one.peek("/one/run") == Value::Null).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_dropped_in_the_middle_of_anything_is_forgotten() {
    let home = Home::new();
    let one = home.start("one");
    tokio::task::block_in_place(|| one.make("/one/p", r#"{"Path": "cat"}"#));
    for _ in 0..10 {
        let client = one.client(&home).await;
        let anchor = client.walk("/one/p").unwrap();
        let process = anchor.proc();
        let _stdin = process.stdin().await;
        let _stdout = process.stdout().await;
        // Dropped while they are under way.
        let begun = async {
            tokio::join!(
                process.wait(),
                anchor.peek(),
                anchor.list(),
                process.stderr()
            )
        };
        let _ = tokio::time::timeout(Duration::from_micros(300), begun).await;
        client.close().await;
    }
    tokio::task::block_in_place(|| {
        eventually_within(Duration::from_secs(13), "all are gone", || {
            (one.peek("/one")["Clients"] == 1).then_some(())
        });
        one.circuit("stdin /one/p").stdin("fine").run();
        one.circuit("stdout /one/p").stdout("fine").run();
    });
}

#[test]
fn a_stopped_client_does_not_hold_up_others() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/p", r#"{"Path": "yes"}"#);
    let reader = one.circuit("stdout /one/p").spawn();
    reader.shows("y\ny\n");
    reader.signal(rustix::process::Signal::STOP);
    for _ in 0..20 {
        one.circuit("run one -- echo fine").stdout("fine\n").run();
    }
}

#[test]
fn an_interrupted_command_closes_and_frees_its_place_at_once() {
    let home = Home::new();
    let one = home.start("one");
    one.make("/one/a", sh("echo ready; cat"));
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let reader = one
            .circuit("stdout /one/a")
            .status(status)
            .any_stdout()
            .spawn();
        one.until("/one/a", |status| status["Stdout"]["Reader"] == true);
        reader.signal(signal);
        reader.finish();
        // Far sooner than the ten seconds after which a silent client is given up.
        eventually_within(Duration::from_secs(2), "the place is free", || {
            (one.peek("/one/a")["Stdout"]["Reader"] == false).then_some(())
        });
    }
}

/// How many tethers a server holds, of servers and of clients.
fn tethers(server: &Server) -> Option<u64> {
    let status = server.peek("/one");
    status["Counters"]["Descriptors"]["Tethers"].as_u64()
}

/// How long the end of a client on another host may take to be known: above the 2.4 s that a server
/// waits for a sign of life by what a busy machine adds, and far below what silence alone takes.
const KILLED: Duration = Duration::from_secs(4);

#[test]
fn what_a_killed_client_on_another_host_held_is_free_in_three_seconds() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    for path in ["/one/sent", "/one/received", "/two/sent", "/two/received"] {
        one.circuit(format!("mkchan {path} 0")).run();
    }
    eventually("there is a tether between the servers", || {
        (tethers(&one) == Some(1)).then_some(())
    });
    let mut clients = Vec::new();
    for name in ["one", "two"] {
        let client = |line: String| one.over_network(line);
        clients.push(client(format!("send /{name}/sent")).stdin("held").spawn());
        clients.push(client(format!("recv /{name}/received")).spawn());
        clients.push(client(format!("run /{name}/run -- sleep 1000")).spawn());
    }
    for server in [&one, &two] {
        server.is_executing(&["send", "recv", "run"]);
    }
    eventually("each client has a tether", || {
        (tethers(&one) == Some(1 + 6)).then_some(())
    });
    for client in &mut clients {
        client.kill();
    }
    let begin = Instant::now();
    for (path, count) in [("sent", "Senders"), ("received", "Receivers")] {
        for name in ["one", "two"] {
            eventually_within(KILLED, "its place is free", || {
                (one.peek(&format!("/{name}/{path}"))[count] == 0).then_some(())
            });
        }
    }
    for path in ["/one/run", "/two/run"] {
        eventually_within(KILLED, "its process is gone", || {
            one.peek(path).is_null().then_some(())
        });
    }
    let took = begin.elapsed();
    eprintln!("measured: killed, gone after {took:?}");
    assert!(took < KILLED, "{took:?}");
    // The next message goes to the next receiver.
    let receiver = one.circuit("recv /two/received").stdout("next").spawn();
    one.circuit("send /two/received").stdin("next").run();
    receiver.finish();
}

#[test]
fn a_client_that_holds_nothing_any_more_closes_its_tether_and_goes_on() {
    let home = Home::new();
    let one = home.start("one");
    one.circuit("mkchan /one/c 0").run();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(async {
        let url = one.url().clone().into();
        circuit_client::Client::dial(&url, Some(&home.key())).await
    });
    let client = client.unwrap();
    let chan = client.walk("/one/c").unwrap().chan();
    let receiving = runtime.spawn(async move { chan.recv_all(100).await });
    eventually("there is a tether", || {
        (tethers(&one) == Some(1)).then_some(())
    });
    one.circuit("send /one/c").stdin("message").run();
    assert_eq!(runtime.block_on(receiving).unwrap().unwrap(), "message");
    eventually_within(Duration::from_secs(25), "there is none any more", || {
        (tethers(&one) == Some(0)).then_some(())
    });
    // For longer than the server would wait for a sign of life.
    let begin = Instant::now();
    while begin.elapsed() < KILLED {
        runtime.block_on(client.servers()).unwrap();
    }
    assert_eq!(one.peek("/one")["Clients"], 2);
}

#[test]
fn a_client_that_is_cut_off_for_nine_seconds_loses_nothing() {
    let home = Home::new();
    let relay = Relay::new();
    let (behind, address) = (relay.behind(), relay.address());
    let line = format!("start -name one -a {behind} -advertise {address}");
    let one = home.circuit(line).serve();
    let here = |line: &str| {
        let (command, rest) = line.split_once(' ').unwrap();
        home.circuit(format!(
            "{command} -d unix:{} {rest}",
            one.socket().display()
        ))
    };
    let peek = |path: &str| here(&format!("peek {path}")).any_stdout().run().json();
    here("mkchan /one/c 0").run();
    let receiver = one.over_network("recv /one/c").stdout("message").spawn();
    let mut run = one.over_network("run /one/run -- cat").stdin_open().spawn();
    run.write("before\n");
    run.prints("before\n");
    eventually("both have a tether", || {
        let status = peek("/one");
        (status["Counters"]["Descriptors"]["Tethers"] == 2).then_some(())
    });
    relay.fall_silent();
    // The time itself is what is tested.
    std::thread::sleep(Duration::from_secs(9));
    assert_eq!(peek("/one/c")["Receivers"], 1);
    assert_eq!(peek("/one/run")["Phase"], "running");
    relay.heal();
    here("send /one/c").stdin("message").run();
    receiver.finish();
    run.write("after\n");
    run.prints("before\nafter\n");
}

#[test]
fn where_no_tether_can_be_silence_alone_tells_of_a_killed_client() {
    let home = Home::new();
    // Another program has the port, takes connections and says nothing.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let one = home
        .circuit(format!("start -name one -a {address}"))
        .serve();
    one.circuit("mkchan /one/c 0").run();
    let mut receiver = one.over_network("recv /one/c").spawn();
    // It has tried.
    taken.accept().unwrap();
    one.until("/one/c", |status| status["Receivers"] == 1);
    receiver.kill();
    eventually_within(Duration::from_secs(13), "its place is free", || {
        (one.peek("/one/c")["Receivers"] == 0).then_some(())
    });
}
