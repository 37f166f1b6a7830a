//! Images that are fetched, from registries of the tests' own.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::engine::{Daemon, Engine};
use super::registry::{Manner, Registry};
use super::{make, wait};
use crate::support::{Home, Server};

/// Makes a container of the registry's image, and returns the lines about the fetch.
fn container(registry: &Registry, pull: &str) -> Value {
    match pull {
        "" => json!({"Image": registry.image()}),
        _ => json!({"Image": registry.image(), "Pull": pull}),
    }
}

#[test]
fn an_image_that_is_not_there_is_fetched_once() {
    let Some(daemon) = Daemon::shared() else {
        return;
    };
    let registry = Registry::new(&daemon.network(), Manner::Whole);
    let engine = Engine::fetching(daemon.host(), &registry.image());
    let home = Home::new();
    let one = engine.server(&home, "-name one");
    let image = registry.image();
    one.circuit("mkdkr /one/a")
        .stdin(container(&registry, "never").to_string())
        .status(1)
        .stderr(format!(
            "circuit: mkdkr /one/a: no such image: {image} (and Pull is never)\n"
        ))
        .run();
    assert_eq!(registry.asked(""), 0);
    let fetched = one
        .circuit("mkdkr /one/a")
        .stdin(container(&registry, "").to_string())
        .any_stderr()
        .run();
    let shown = fetched.stderr();
    assert!(shown.starts_with("1: Pulling from app\n"), "{fetched}");
    assert!(shown.contains(": Pull complete\n"), "{fetched}");
    let last = format!("Status: Downloaded newer image for {image}\n");
    assert!(shown.ends_with(&last), "{fetched}");
    // The container runs the image's own command.
    let mark = image.rsplit([':', '/']).nth(2).unwrap();
    one.circuit("stdout /one/a")
        .stdout(format!("{mark}\n"))
        .run();
    let asked = registry.asked("");
    make(&one, "/one/b", &container(&registry, ""));
    make(&one, "/one/c", &container(&registry, "never"));
    assert_eq!(registry.asked(""), asked);
    let again = one
        .circuit("mkdkr /one/d")
        .stdin(container(&registry, "always").to_string())
        .any_stderr()
        .run();
    let last = format!("Status: Image is up to date for {image}\n");
    assert!(again.stderr().ends_with(&last), "{again}");
    assert!(registry.asked("manifests/") > 1);
    for path in ["/one/b", "/one/c", "/one/d"] {
        assert_eq!(wait(&one, path)["Exit"], json!(null));
    }
}

/// The deadline of operations does not end a fetch that goes on.
#[test]
fn fetching_may_take_longer_than_the_deadline_and_goes_through_another_server() {
    let Some(daemon) = Daemon::shared() else {
        return;
    };
    let registry = Registry::new(&daemon.network(), Manner::Held);
    let engine = Engine::fetching(daemon.host(), &registry.image());
    let home = Home::new();
    let two = engine.server(&home, "-name two");
    let one = home
        .circuit(format!("start -name one -j {}", two.url()))
        .serve();
    Server::see_each_other(&[&one, &two]);
    let begin = Instant::now();
    let mut making = one
        .circuit("mkdkr -timeout 1 /two/a")
        .stdin(container(&registry, "").to_string())
        .spawn();
    let shown = |text: &str| {
        let shown = making.stderr().wait_for(crate::support::DEADLINE, |shown| {
            shown.contains(text).then_some(())
        });
        assert!(shown.is_some(), "{}", making.stderr().text());
    };
    shown(": Downloading\n");
    // Meanwhile the anchor is taken.
    one.circuit("mkdkr /two/a")
        .stdin(container(&registry, "").to_string())
        .status(1)
        .any_stderr()
        .run();
    std::thread::sleep(Duration::from_millis(1200).saturating_sub(begin.elapsed()));
    assert!(making.is_running(), "{}", making.finish());
    registry.release();
    let made = making.finish();
    assert!(made.status.success(), "{made}");
    assert_eq!(made.stdout(), "");
    assert!(made.stderr().contains(": Pull complete\n"), "{made}");
    assert_eq!(wait(&one, "/two/a")["Exit"], json!(null));
}

#[test]
fn an_image_that_cannot_be_fetched_leaves_nothing_and_says_why() {
    let Some(daemon) = Daemon::shared() else {
        return;
    };
    let home = Home::new();
    let registry = Registry::new(&daemon.network(), Manner::Cut);
    let engine = Engine::fetching(daemon.host(), &registry.image());
    let one = engine.server(&home, "-name one");
    let check = |image: &str, shown: &str, reason: &str| {
        let failed = one
            .circuit("mkdkr /one/a")
            .stdin(json!({"Image": image}).to_string())
            .status(1)
            .any_stderr()
            .run();
        let last = failed.stderr().lines().last().unwrap();
        let first = format!("circuit: mkdkr /one/a: cannot fetch the image {image}: ");
        assert!(last.starts_with(&first), "{failed}");
        assert!(last.ends_with(reason), "{failed}");
        assert!(failed.stderr().starts_with(shown), "{failed}");
        one.circuit("peek /one/a").stdout("null\n").run();
        assert!(engine.containers().is_empty());
    };
    check(&registry.image(), "1: Pulling from app\n", "unexpected EOF");
    let unknown = registry.image().replace(":1", ":2");
    check(&unknown, "circuit: ", "manifest unknown");
}

#[test]
fn who_is_tired_of_waiting_for_an_image_leaves_nothing() {
    let Some(daemon) = Daemon::shared() else {
        return;
    };
    for manner in [Manner::Held, Manner::Silent] {
        let registry = Registry::new(&daemon.network(), manner);
        let engine = Engine::fetching(daemon.host(), &registry.image());
        let home = Home::new();
        let one = engine.server(&home, "-name one");
        let making = one
            .circuit("mkdkr /one/a")
            .stdin(container(&registry, "").to_string())
            .spawn();
        let what = if manner == Manner::Held {
            "blobs/"
        } else {
            "manifests/"
        };
        crate::support::eventually("the registry is asked", || {
            (registry.asked(what) > 0).then_some(())
        });
        one.is_executing(&["mkdkr"]);
        making.signal(Signal::INT);
        assert!(!making.finish().status.success());
        crate::support::eventually("nobody makes it any more", || {
            let stacks = one.circuit("stk /one").any_stdout().run();
            (!stacks.stdout().contains("mkdkr")).then_some(())
        });
        one.circuit("peek /one/a").stdout("null\n").run();
        assert!(engine.containers().is_empty());
        registry.release();
        one.circuit("mkdkr /one/a")
            .stdin(container(&registry, "").to_string())
            .any_stderr()
            .run();
        assert_eq!(wait(&one, "/one/a")["Exit"], json!(null));
    }
}
