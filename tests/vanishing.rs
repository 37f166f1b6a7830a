//! When a client vanishes, everything that it held is free again, and nothing else changes.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Home, eventually, eventually_within, sh};

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
