//! Output of a process that its server retains.

use std::fs;

use serde_json::json;

use super::{pid, wait};
use crate::support::{Home, eventually, lives, sh};

#[test]
fn output_that_is_retained_is_read_by_many_and_again() {
    let home = Home::new();
    let one = home.start("one");
    let script = "echo out; echo err >&2; read x; echo last";
    let command = json!({
        "Path": "/bin/sh",
        "Args": ["-c", script],
        "Stdout": "log",
        "Stderr": "log",
    });
    one.make("/one/p", command.to_string());
    let follower = one.circuit("logs -follow -stdout /one/p").spawn();
    follower.prints("out\n");
    one.circuit("stdin /one/p").stdin("\n").run();
    // It comes to its end, as the process does.
    let followed = follower.finish();
    assert_eq!(followed.stdout(), "out\nlast\n");
    for _ in 0..2 {
        one.circuit("logs -stderr /one/p").stdout("err\n").run();
        let last = one.circuit("logs -n 1 -stdout /one/p");
        last.stdout("last\n").run();
    }
    let status = wait(&one, "/one/p");
    assert_eq!(status["Cmd"]["Stdout"], "log");
    let refused = "circuit: stdout /one/p: it is retained: read it with logs\n";
    let refused = one.circuit("stdout /one/p").stderr(refused);
    refused.status(1).run();
    let logs = || {
        let found = std::process::Command::new("find")
            .arg(home.path())
            .args(["-path", "*/logs/*/*", "-print"])
            .output()
            .unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    assert!(!logs().is_empty());
    one.circuit("scrub /one/p").run();
    eventually("the log is forgotten", || logs().is_empty().then_some(()));
    one.make("/one/p", sh("exit 0"));
    let refused =
        "circuit: logs /one/p: its output is not retained: make it with \"Stdout\": \"log\"\n";
    one.circuit("logs /one/p").stderr(refused).status(1).run();
}

#[test]
fn a_process_whose_retained_output_nobody_reads_any_more_does_not_wait() {
    let home = Home::new();
    let mut one = home.circuit("start -name one -var var").serve();
    let command = json!({
        "Path": "/bin/sh",
        "Args": ["-c", "while echo more; do sleep 0.01; done"],
        "Stdout": "log",
    });
    one.make("/one/p", command.to_string());
    let running = pid(&one.peek("/one/p"));
    one.kill();
    eventually("its pipe is broken", || (!lives(running)).then_some(()));
    let one = home.circuit("start -name one -var var").serve();
    one.circuit("peek /one/p").stdout("null\n").run();
    for kept in ["pipes", "kept"] {
        let dir = home.file("var").join("logs").join(kept);
        eventually("what was retained is gone", || {
            (fs::read_dir(&dir).unwrap().count() == 0).then_some(())
        });
    }
}
