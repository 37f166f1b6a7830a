//! Services over the lives of their server: killed, stopped, and started again.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{make, pid, script, slot, with};
use crate::support::{Home, Server, eventually, lives};

fn start(home: &Home) -> Server {
    home.circuit("start -a 127.0.0.1:0 -name one -var var")
        .serve()
}

fn kill(server: &mut Server) {
    server.signal(Signal::KILL);
    server.exit_status();
}

#[test]
fn a_killed_servers_next_life_adopts_its_instances_and_their_last_words() {
    let home = Home::new();
    let mut one = start(&home);
    let talk = "echo first; while [ ! -e go ]; do sleep 0.02; done; echo last; exec sleep 1000";
    let here = home.path().to_str().unwrap();
    let definition = with(script(talk), json!({ "Instances": 2, "Dir": here }));
    make(&one, "/one/a", &definition);
    let before = [1, 2].map(|n| pid(&slot(&one, "/one/a", n)));
    kill(&mut one);
    assert!(before.iter().all(|pid| lives(*pid)));
    home.write("go", "");
    let one = start(&home);
    let status = one.peek("/one/a");
    assert_eq!(status["Ready"], 2);
    assert!(
        status["Slots"]
            .as_array()
            .unwrap()
            .iter()
            .all(|slot| slot["Adopted"] == true)
    );
    assert_eq!([1, 2].map(|n| pid(&slot(&one, "/one/a", n))), before);
    let follower = one.circuit("logs -follow /one/a/1").spawn();
    follower.prints("first\nlast\n");
    // An adopted one is stopped and replaced as any other.
    one.circuit("restart /one/a").run();
    assert!(before.iter().all(|pid| !lives(*pid)));
    one.circuit("scrub /one/a").run();
}

#[test]
fn an_instance_that_ended_between_two_lives_is_started_again() {
    let home = Home::new();
    let mut one = start(&home);
    make(&one, "/one/a", &script("exec sleep 1000"));
    let before = pid(&slot(&one, "/one/a", 1));
    let once = with(
        script("exec sleep 1000"),
        json!({ "Unknown": "finished", "Restart": "failure" }),
    );
    make(&one, "/one/once", &once);
    let once = pid(&slot(&one, "/one/once", 1));
    kill(&mut one);
    for pid in [before, once] {
        let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
    }
    eventually("both have gone", || {
        (!lives(before) && !lives(once)).then_some(())
    });
    let one = start(&home);
    let status = one.until("/one/a", |status| status["Ready"] == 1);
    assert_ne!(pid(&status["Slots"][0]), before);
    assert_eq!(status["Slots"][0]["Last"]["Unknown"], true);
    assert_eq!(slot(&one, "/one/once", 1)["State"], "finished");
}

#[test]
fn the_end_of_an_adopted_instance_is_told_truly_or_as_unknown() {
    let home = Home::new();
    let mut one = start(&home);
    let wait = "while [ ! -e go ]; do sleep 0.02; done; exit 3";
    let here = home.path().to_str().unwrap();
    let more = json!({ "Dir": here, "Restart": "never", "OkCodes": [3] });
    make(&one, "/one/a", &with(script(wait), more));
    kill(&mut one);
    let one = start(&home);
    assert_eq!(slot(&one, "/one/a", 1)["Adopted"], true);
    home.write("go", "");
    let status = one.until("/one/a", |status| status["Slots"][0]["State"] == "finished");
    let last = &status["Slots"][0]["Last"];
    // Linux tells it from 6.15 on, once init has reaped the process, which some do late.
    let is_known = last["Code"] == 3 && last["Exit"] == "exit status 3";
    let is_unknown = last["Unknown"] == true && last["Code"].is_null();
    assert!(is_known != is_unknown, "{last}");
}

#[test]
fn what_was_wanted_stays_wanted() {
    let home = Home::new();
    let mut one = start(&home);
    make(&one, "/one/up", &script("exec sleep 1000"));
    make(&one, "/one/down", &script("exec sleep 1000"));
    one.circuit("down /one/down").run();
    one.circuit("scale /one/up 2").run();
    assert!(one.stop().success());
    let one = start(&home);
    assert_eq!(one.peek("/one/down")["Want"], "down");
    assert_eq!(slot(&one, "/one/down", 1)["State"], "down");
    let up = one.peek("/one/up");
    assert_eq!((&up["Want"], &up["Ready"]), (&json!("up"), &json!(2)));
    one.circuit("scrub /one/up").run();
    one.circuit("scrub /one/down").run();
    drop(one);
    let again = start(&home);
    assert!(again.ls("/one/...").is_empty());
}

#[test]
fn without_a_directory_services_end_with_their_server() {
    let home = Home::new();
    let mut one = home.start("one");
    make(&one, "/one/a", &script("exec sleep 1000"));
    let running = pid(&slot(&one, "/one/a", 1));
    assert!(one.stop().success());
    assert!(!lives(running));
}

#[test]
fn what_a_killed_server_without_a_directory_leaves_the_next_one_ends() {
    let home = Home::new();
    let mut one = home.start("one");
    make(&one, "/one/a", &script("sleep 1000 & exec sleep 1001"));
    let running = pid(&slot(&one, "/one/a", 1));
    kill(&mut one);
    assert!(lives(running));
    let _two = home.start("two");
    eventually("it is ended", || (!lives(running)).then_some(()));
}

#[test]
fn a_server_stops_its_services_when_it_is_told_to_and_they_stay_wanted() {
    let home = Home::new();
    let mut one = start(&home);
    make(&one, "/one/a", &script("exec sleep 1000"));
    let first = pid(&slot(&one, "/one/a", 1));
    one.circuit(format!("suicide /{}", one.id())).run();
    assert!(one.exit_status().success());
    assert!(lives(first));
    let mut one = start(&home);
    assert_eq!(pid(&slot(&one, "/one/a", 1)), first);
    one.circuit(format!("suicide -stop /{}", one.id())).run();
    assert!(one.exit_status().success());
    assert!(!lives(first));
    // The host goes down.
    let mut one = start(&home);
    let status = one.until("/one/a", |status| status["Ready"] == 1);
    assert_eq!(status["Want"], "up");
    let second = pid(&slot(&one, "/one/a", 1));
    one.signal(Signal::POWER);
    assert!(one.exit_status().success());
    assert!(!lives(second));
    let one = start(&home);
    let status = one.until("/one/a", |status| status["Ready"] == 1);
    assert_eq!(status["Want"], "up");
    one.circuit("scrub /one/a").run();
}
