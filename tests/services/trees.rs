//! An instance is all of its processes: none is left behind, and none comes beside those that are left.

use rustix::process::Signal;
use serde_json::json;

use super::{make, marked, number, pid, script, slot, with};
use crate::support::{Home, eventually, lives};

#[test]
fn children_that_hide_are_not_left_behind_after_down() {
    let home = Home::new();
    let one = home.start("one");
    let hide = "sh -c 'echo $$ > plain; exec sleep 1000' &
        (setsid sh -c 'echo $$ > session; exec sleep 1000' &)
        (trap '' TERM; sh -c 'echo $$ > ignoring; exec sleep 1000' &)
        (trap '' TERM; setsid sh -c '(echo $(exec sh -c \"echo \\$PPID\") > both; exec sleep 1000) &' &)
        setsid env -i sh -c 'trap \"\" TERM; echo $$ > unmarked; while :; do sleep 0.05; done' &
        wait";
    let stop = json!({ "Stop": { "Seconds": 0.2 } });
    make(&one, "/one/a", &with(script(hide), stop));
    let files = ["plain", "session", "ignoring", "both"];
    let children = files.map(|file| number(&home, file));
    assert!(children.iter().all(|child| lives(*child)));
    one.circuit("down /one/a").run();
    for (file, child) in files.iter().zip(children) {
        assert!(!lives(child), "{file} is left");
    }
    assert_eq!(marked(&home), []);
    assert_eq!(slot(&one, "/one/a", 1)["State"], "down");
}

#[test]
fn a_child_without_the_mark_is_ended_while_its_parent_lives() {
    let home = Home::new();
    let one = home.start("one");
    // The parent ignores TERM, and so is there when all are killed.
    let hide = "trap '' TERM
        setsid env -i sh -c 'echo $$ > unmarked; while :; do sleep 0.05; done' &
        while :; do sleep 0.05; done";
    let stop = json!({ "Stop": { "Seconds": 0.2 } });
    make(&one, "/one/a", &with(script(hide), stop));
    let child = number(&home, "unmarked");
    one.circuit("down /one/a").run();
    assert!(!lives(child));
}

/// A wrapper that ends at once, and a program below it that takes half a second, and tells of each other that
/// is beside it.
const WRAPPED: &str = "sh -c 'mkdir lock || echo beside another
    trap \"sleep 0.5; rmdir lock; echo drained; exit\" TERM
    echo begun; while :; do sleep 0.02; done' & wait";

#[test]
fn a_new_instance_waits_for_what_a_wrapper_leaves() {
    let home = Home::new();
    let one = home.start("one");
    make(&one, "/one/a", &script(WRAPPED));
    let follower = one.circuit("logs -follow -stdout /one/a").spawn();
    follower.prints("begun\n");
    one.circuit("restart /one/a").run();
    follower.prints("begun\ndrained\nbegun\n");
    // The wrapper crashes: the same.
    one.circuit("signal KILL /one/a").run();
    follower.prints("begun\ndrained\nbegun\ndrained\nbegun\n");
    one.circuit("restart -now /one/a").run();
    follower.prints("begun\ndrained\nbegun\ndrained\nbegun\ndrained\nbegun\n");
    one.circuit("scrub /one/a").run();
    assert_eq!(marked(&home), []);
}

#[test]
fn a_program_that_forks_away_is_ended_and_not_doubled() {
    let home = Home::new();
    let one = home.start("one");
    let daemon = "(setsid sh -c 'mkdir lock || echo beside another; trap \"rmdir lock; exit\" TERM
        while :; do sleep 0.02; done' &)
        while [ ! -d lock ]; do sleep 0.01; done; echo away";
    let backoff = json!({ "Backoff": { "First": 0.05, "Tries": 3 } });
    let made = one.circuit("mksvc -nowait /one/a");
    made.stdin(with(script(daemon), backoff).to_string()).run();
    one.until("/one/a", |status| status["Slots"][0]["State"] == "failed");
    one.circuit("logs -stdout /one/a")
        .stdout("away\naway\naway\n")
        .run();
    assert_eq!(marked(&home), []);
}

#[test]
fn the_last_words_of_all_that_hold_its_stdout_are_not_lost() {
    let home = Home::new();
    let one = home.start("one");
    let talk = "sh -c 'trap \"\" HUP; trap \"sleep 0.2; echo child; exit\" TERM; echo $$ > child
            while :; do sleep 0.02; done' &
        trap 'seq 1 20000; exit 0' TERM
        while :; do sleep 0.02; done";
    make(&one, "/one/a", &script(talk));
    number(&home, "child");
    one.circuit("down /one/a").run();
    let mut expected: String = (1..=20_000).map(|line| format!("{line}\n")).collect();
    expected.push_str("child\n");
    one.circuit("logs -n 30000 -stdout /one/a")
        .stdout(expected)
        .run();
}

#[test]
fn a_scrub_that_takes_long_says_so_and_completes_by_itself() {
    let home = Home::new();
    let one = home.start("one");
    let stubborn = "trap '' TERM; while :; do sleep 0.05; done";
    let stop = json!({ "Stop": { "Seconds": 4 } });
    make(&one, "/one/a", &with(script(stubborn), stop));
    let running = pid(&slot(&one, "/one/a", 1));
    let busy = "circuit: scrub /one/a: it is being stopped, and is scrubbed when nothing is left of it: \
                this goes on\n";
    let scrub = one.circuit("scrub /one/a").any_stderr().status(1).run();
    assert_eq!(scrub.stderr(), busy);
    eventually("it is scrubbed", || {
        one.ls("/one/...").is_empty().then_some(())
    });
    assert!(!lives(running));
    // Its place is free.
    make(&one, "/one/a", &script("exec sleep 1000"));
}

#[test]
fn a_long_drain_blocks_no_other_command() {
    let home = Home::new();
    let one = home.start("one");
    let slow =
        "trap 'while [ ! -e go ]; do sleep 0.02; done; exit' TERM; while :; do sleep 0.02; done";
    make(
        &one,
        "/one/slow",
        &with(script(slow), json!({ "Instances": 2 })),
    );
    make(&one, "/one/other", &script("exec sleep 1000"));
    let mut down = one.circuit("down /one/slow").spawn();
    one.until("/one/slow", |status| {
        status["Slots"][0]["State"] == "stopping"
    });
    one.circuit("restart /one/other").run();
    one.circuit("scale /one/other 2").run();
    one.circuit("scrub /one/other").run();
    // Of the same service, too: the newest wins.
    assert!(down.is_running());
    one.circuit("up -nowait /one/slow").run();
    let down = down.finish();
    assert_eq!(down.stderr(), "circuit: /one/slow: superseded by up\n");
    home.write("go", "");
    one.until("/one/slow", |status| status["Ready"] == 2);
}

#[test]
fn a_signal_to_the_tree_reaches_a_child_of_another_session() {
    let home = Home::new();
    let one = home.start("one");
    let hide = "(setsid sh -c 'trap \"echo heard; exit\" USR1; echo $$ > child; while :; do sleep 0.02; done' &)
        trap '' USR1; while :; do sleep 0.05; done";
    make(&one, "/one/a", &script(hide));
    let child = number(&home, "child");
    one.circuit("signal USR1 /one/a/1").run();
    one.circuit("signal -group USR1 /one/a/1").run();
    assert!(lives(child));
    one.circuit("signal -tree USR1 /one/a/1").run();
    one.circuit("logs -follow -stdout /one/a")
        .spawn()
        .prints("heard\n");
    eventually("it ends", || (!lives(child)).then_some(()));
}

#[test]
fn probes_and_commands_beside_leave_no_processes() {
    let home = Home::new();
    let one = home.start("one");
    let hang = json!([
        "sh",
        "-c",
        "echo asked >> asked; (setsid sleep 1000 &) ; exec sleep 1000"
    ]);
    let more = json!({
        "Ready": { "Command": hang, "Timeout": 0.1, "Every": 0.05, "Deadline": 0.6 },
        "Backoff": { "Tries": 1 },
    });
    let made = one.circuit("mksvc /one/a").any_stderr().status(1);
    made.stdin(with(script("exec sleep 1000"), more).to_string())
        .run();
    let status = one.until("/one/a", |status| status["Slots"][0]["State"] == "failed");
    assert_eq!(status["Slots"][0]["Last"]["Why"], "not ready in time");
    let asked = std::fs::read_to_string(home.file("asked")).unwrap();
    assert!(asked.lines().count() > 1, "{asked}");
    eventually("no process is left", || {
        marked(&home).is_empty().then_some(())
    });
}

#[test]
fn orphans_are_reaped() {
    let home = Home::new();
    let one = home.start("one");
    let orphans = "for i in 1 2 3 4 5 6 7 8; do (setsid sleep 0.1 &); done; exec sleep 1000";
    make(&one, "/one/a", &script(orphans));
    let server = one.pid();
    let zombies = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let stats = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        let mine = stats.filter(|stat| {
            let mut fields = stat.rsplit(')').next().unwrap().split_whitespace();
            fields.next() == Some("Z") && fields.next() == Some(&server.to_string())
        });
        mine.count()
    };
    one.circuit("down /one/a").run();
    eventually("there is no zombie", || (zombies() == 0).then_some(()));
    assert_eq!(marked(&home), []);
    one.signal(Signal::TERM);
}
