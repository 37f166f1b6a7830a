//! Elements that are bound to a handle go when it does, however that happens.

use std::time::Duration;

use circuit_client::{Client, Cmd, Code, Error, Key, Url};
use rustix::process::Signal;

use crate::support::{Home, Server, eventually, eventually_within, lives};

/// Within which a client that says nothing any more is given up, and a process that was hung up is
/// killed, after that.
const IDLE: Duration = Duration::from_secs(25);

fn nothing_is_left(server: &Server, within: Duration) {
    let name = server.id();
    eventually_within(within, "its elements are gone", || {
        server.ls(&format!("/{name}/...")).is_empty().then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_element_of_each_kind_goes_with_its_handle() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    let client = one.client(&home).await;
    // Here, and through a server that forwards.
    for server in [&one, &two] {
        let anchor = client.server(server.url().server.unwrap().id);
        let at = |name: &str| anchor.walk(name).unwrap();
        let chan = at("chan").make_bound_chan(1).await.unwrap();
        let joins = at("joins").make_bound_on_join().await.unwrap();
        let leaves = at("leaves").make_bound_on_leave().await.unwrap();
        let cat = at("cat").make_bound_proc(Cmd::new("cat")).await.unwrap();
        let pid = i64::from(cat.peek().await.unwrap().pid);
        // They are as others are, for everybody.
        chan.send_all("hello").await.unwrap();
        let path = chan.path();
        two.circuit(format!("recv {path}")).stdout("hello").run();
        assert!(["one", "two"].contains(&&*joins.next().await.unwrap().name));
        let mut stdin = cat.stdin().await.unwrap();
        stdin.send("hello\n".into()).await.unwrap();
        stdin.flush().await.unwrap();
        let mut stdout = cat.stdout().await.unwrap();
        assert_eq!(stdout.chunk().await.unwrap().unwrap(), "hello\n");
        let other = at("chan").make_bound_chan(1).await;
        assert_eq!(other.unwrap_err().code(), Some(Code::Occupied));
        let refused = at("none").make_bound_proc(Cmd::new("/no/such")).await;
        assert_eq!(refused.unwrap_err().code(), Some(Code::NoSuchProgram));
        assert_eq!(anchor.view().await.unwrap().len(), 4);
        // In order: gone when that returns.
        chan.end().await.unwrap();
        leaves.end().await.unwrap();
        assert_eq!(anchor.view().await.unwrap().len(), 2);
        // Whoever is attached is told.
        let receiver = tokio::spawn({
            let joins = (*joins).clone();
            async move {
                loop {
                    if let Err(error) = joins.next().await {
                        return error.code();
                    }
                }
            }
        });
        one.is_executing(&["recv"]);
        drop((joins, cat));
        assert_eq!(receiver.await.unwrap(), Some(Code::Aborted));
        assert_eq!(stdout.chunk().await.unwrap(), None);
        nothing_is_left(server, IDLE);
        assert!(!lives(pid));
        server.logs("what=\"scrub\"");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_is_told_when_its_element_is_scrubbed_and_takes_no_other_along() {
    let home = Home::new();
    let [one, _two] = home.start_all(["one", "two"]);
    let client = one.client(&home).await;
    for path in ["/one/a", "/two/a"] {
        let anchor = client.walk(path).unwrap();
        let mut chan = anchor.make_bound_chan(1).await.unwrap();
        anchor.scrub().await.unwrap();
        let why = chan.gone().await;
        assert_eq!(why.to_string(), format!("{path}: the channel was scrubbed"));
        assert_eq!(why.code(), Some(Code::Aborted));
        anchor.make_chan(1).await.unwrap();
        drop(chan);
        let deeper = client.walk(&format!("{path}/deeper")).unwrap();
        let mut joins = deeper.make_bound_on_join().await.unwrap();
        joins.scrub().await.unwrap();
        assert_eq!(joins.gone().await.code(), Some(Code::Aborted));
        // Whoever wants it to be gone, and finds it gone, has what it wants.
        joins.end().await.unwrap();
        let other = client.walk(&format!("{path}/other")).unwrap();
        let chan = other.make_bound_chan(1).await.unwrap();
        chan.scrub().await.unwrap();
        chan.end().await.unwrap();
        // The other's drop was heard long ago.
        anchor.chan().send_all("still there").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_goes_with_its_whole_group() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let anchor = client.walk("/one/p").unwrap();
    let sh = |script: &str| Cmd::new("sh").args(["-c", script]);
    let pids = async |process: &circuit_client::Proc| {
        let mut stdout = process.stdout().await.unwrap();
        let mut text = String::new();
        while text.lines().count() < 2 || !text.ends_with('\n') {
            let bytes = stdout.chunk().await.unwrap().unwrap();
            text += std::str::from_utf8(&bytes).unwrap();
        }
        let pids = text.lines().map(|pid| pid.parse().unwrap());
        pids.collect::<Vec<i64>>()
    };
    // It has a child, and the child hears of nothing.
    let stubborn =
        "(trap '' HUP TERM; echo $(exec sh -c 'echo $PPID'); exec sleep 1000) & echo $$; wait";
    let process = anchor.make_bound_proc(sh(stubborn)).await.unwrap();
    let both = pids(&process).await;
    assert!(both.iter().all(|pid| lives(*pid)));
    process.end().await.unwrap();
    assert!(anchor.peek().await.unwrap().is_none());
    eventually("both are killed", || {
        both.iter().all(|pid| !lives(*pid)).then_some(())
    });
    // It has exited and is read; the rest of its group is in the background.
    let process = anchor
        .make_bound_proc(sh("sleep 1000 & echo $!; echo $$"))
        .await
        .unwrap();
    let both = pids(&process).await;
    process.wait().await.unwrap();
    assert!(lives(both[0]));
    drop(process);
    eventually("both are gone", || {
        both.iter().all(|pid| !lives(*pid)).then_some(())
    });
    nothing_is_left(&one, IDLE);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_onlooker_who_goes_ends_no_process() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let anchor = client.walk("/one/p").unwrap();
    let process = anchor.make_bound_proc(Cmd::new("cat")).await.unwrap();
    let onlooker = one.circuit("stdout /one/p").any_stdout().spawn();
    one.is_executing(&["stdout"]);
    onlooker.signal(Signal::KILL);
    drop(onlooker);
    let mut stdin = process.stdin().await.unwrap();
    stdin.send("hello".into()).await.unwrap();
    stdin.finish().await.unwrap();
    assert!(process.wait().await.unwrap().success());
    process.end().await.unwrap();
    assert!(anchor.peek().await.unwrap().is_none());
}

/// A client that says nothing any more from some moment on, as one that was killed.
struct Mortal {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Mortal {
    fn new(url: Url, key: Key) -> Mortal {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let dialled = runtime.block_on(async move { Client::dial(&url.into(), Some(&key)).await });
        let client = dialled.unwrap();
        Mortal { runtime, client }
    }

    /// Makes an element of each kind on a server.
    fn make(&self, server: &str) {
        let anchor = self.client.walk(server).unwrap();
        let at = |name: &str| anchor.walk(name).unwrap();
        self.runtime.block_on(async {
            let chan = at("chan").make_bound_chan(1).await.unwrap();
            let joins = at("joins").make_bound_on_join().await.unwrap();
            let sleep = Cmd::new("sleep").arg("1000");
            let sleep = at("sleep").make_bound_proc(sleep).await.unwrap();
            // Dropped, they would say so.
            std::mem::forget((chan, joins, sleep));
        });
    }

    fn dies(self) {
        let Mortal { runtime, client } = self;
        std::mem::forget(client);
        runtime.shutdown_background();
    }
}

#[test]
fn the_elements_of_a_client_that_was_killed_go() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    let client = Mortal::new(one.url().clone(), home.key());
    client.make("/one");
    client.make("/two");
    let pids = [&one, &two].map(|server| {
        let path = format!("/{}/sleep", server.id());
        server.peek(&path)["Pid"].as_i64().unwrap()
    });
    client.dies();
    for (server, pid) in [&one, &two].into_iter().zip(pids) {
        nothing_is_left(server, IDLE);
        assert!(!lives(pid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn elements_go_with_the_server_that_forwards_for_their_handles() {
    let home = Home::new();
    for orderly in [true, false] {
        let [mut one, two] = home.start_all(["one", "two"]);
        let client = one.client(&home).await;
        let anchor = client.walk("/two/a").unwrap();
        let mut chan = anchor.make_bound_chan(1).await.unwrap();
        let sleep = Cmd::new("sleep").arg("1000");
        let place = client.walk("/two/b").unwrap();
        let mut sleep = place.make_bound_proc(sleep).await.unwrap();
        let pid = i64::from(sleep.peek().await.unwrap().pid);
        match orderly {
            true => drop(one.stop()),
            false => one.kill(),
        }
        for why in [chan.gone().await, sleep.gone().await] {
            assert!(matches!(why, Error::CircuitGone { .. }), "{why}");
        }
        nothing_is_left(&two, IDLE);
        assert!(!lives(pid));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_is_told_when_its_elements_server_ends_and_no_process_stays() {
    let home = Home::new();
    let [one, mut two] = home.start_all(["one", "two"]);
    let client = one.client(&home).await;
    let place = client.walk("/two/a").unwrap();
    let sleep = Cmd::new("sleep").arg("1000");
    let mut sleep = place.make_bound_proc(sleep).await.unwrap();
    let pid = i64::from(sleep.peek().await.unwrap().pid);
    two.stop();
    let why = sleep.gone().await;
    assert!(matches!(why, Error::ServerGone { .. }), "{why}");
    eventually("the process is gone", || (!lives(pid)).then_some(()));
}
