//! What a process has from its server, and what it costs the server.

use std::fs;

use rustix::process::Signal;

use crate::support::{Home, eventually, sh, skipped};

#[test]
fn children_do_not_inherit_ignored_signals_and_open_files_of_the_server() {
    let home = Home::new();
    let one = home
        .circuit_under(
            "trap '' HUP QUIT USR1 CHLD TTOU; exec 9</dev/null; exec \"$0\" \"$@\"",
            "start -name one",
        )
        .serve();
    one.circuit("run one -- sh -c")
        .arg("ls /proc/self/fd | grep -c 9; kill -HUP $$; echo ignored")
        .stdout("0\n")
        .status(128 + 1)
        .run();
    one.circuit("run one -- sh -c")
        .arg("kill -QUIT $$; echo ignored")
        .status(128 + 3)
        .run();
    one.circuit("run one -- sh -c")
        .arg("kill -USR1 $$; echo ignored")
        .status(128 + 10)
        .run();
    // How children end is heard even by a server that was to ignore it.
    one.circuit("run one -- sh -c")
        .arg("exit 7")
        .status(7)
        .run();
    // It goes on ignoring them itself.
    one.signal(Signal::HUP);
    one.circuit("peek /one/x").stdout("null\n").run();
}

#[test]
fn an_exited_process_on_a_terminal_costs_no_descriptors() {
    let home = Home::new();
    let one = home.start("one");
    let open = || {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", one.pid())).unwrap();
        entries.count()
    };
    let terminal = r#"{"Path": "true", "Terminal": {"Rows": 24, "Columns": 80}}"#;
    let make = |n: usize| {
        one.make(&format!("/one/{n}"), terminal);
        one.circuit(format!("wait /one/{n}")).any_stdout().run();
    };
    make(0);
    let before = open();
    (1..=5).for_each(make);
    crate::support::eventually("they are closed", || (open() <= before).then_some(()));
}

#[test]
fn children_begin_with_the_limit_that_the_server_was_started_with() {
    let home = Home::new();
    let one = home
        .circuit_under("ulimit -Sn 60; exec \"$0\" \"$@\"", "start -name one")
        .serve();
    let hard = std::fs::read_to_string(format!("/proc/{}/limits", one.pid())).unwrap();
    let line = hard
        .lines()
        .find(|line| line.contains("open files"))
        .unwrap();
    if line.split_whitespace().nth(4) == Some("60") {
        return skipped("a hard limit of open files above 60");
    }
    // More than the server's own limit lets it have.
    for n in 0..40 {
        one.make(&format!("/one/cat/{n}"), r#"{"Path": "cat"}"#);
        one.circuit("run one -- sh -c")
            .arg("ulimit -Sn")
            .stdout("60\n")
            .run();
    }
}

#[test]
fn exited_processes_cost_no_descriptors_however_many_were_started_at_once() {
    let home = Home::new();
    let one = home.start("one");
    let open = || {
        let entries = fs::read_dir(format!("/proc/{}/fd", one.pid())).unwrap();
        entries.count()
    };
    one.circuit("peek /one").any_stdout().run();
    let before = open();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = one.client(&home).await;
        let anchor = client.walk("/one/many").unwrap();
        let mut making = tokio::task::JoinSet::new();
        for n in 0..200 {
            let anchor = anchor.walk(&n.to_string()).unwrap();
            making.spawn(async move {
                let process = anchor.make_proc(circuit_client::Cmd::new("true")).await;
                process.unwrap().wait().await.unwrap();
            });
        }
        while let Some(made) = making.join_next().await {
            made.unwrap();
        }
        client.close().await;
    });
    eventually("all are closed", || (open() <= before).then_some(()));
}

#[test]
fn a_process_knows_its_path_and_its_servers_socket() {
    let home = Home::new();
    let one = home.start("one");
    let script = "echo $CIRCUIT_PATH; echo $CIRCUIT_SOCKET";
    one.make("/one/a/p", sh(script));
    let socket = home.runtime_dir().join(format!("{}.socket", one.id()));
    let expected = format!("/{}/a/p\n{}\n", one.id(), socket.display());
    one.circuit("stdout /one/a/p").stdout(expected).run();
    assert!(socket.exists());
}
