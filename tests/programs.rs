//! Programs on the client crate: what a program may rely on besides what the tool does with it.

use std::collections::BTreeSet;

use circuit_client::{
    Anchor, Attached, AttachedOutput, Client, Cmd, Code, Error, Search, SearchError, Signal, Sink,
    TerminalSize, Warning, Way,
};
use tokio::io::AsyncReadExt;

use crate::support::{Home, Over, Server, eventually, lives, over};

async fn client(home: &Home) -> (Server, Client) {
    let one = home.start("one");
    let client = one.client(home).await;
    (one, client)
}

fn code<T>(result: &Result<T, Error>) -> Option<Code> {
    result.as_ref().err().and_then(Error::code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_built_step_by_step() {
    let home = Home::new();
    let (one, client) = client(&home).await;
    let anchor = client.walk("/one/p").unwrap();
    let script = "echo $0 $1; echo ${A-} ${PATH:+path}; pwd";
    let check = async |cmd: Cmd, expected: &str| {
        let process = anchor.make_proc(cmd).await.unwrap();
        let mut text = String::new();
        let mut stdout = process.stdout().await.unwrap();
        stdout.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, expected);
        process.scrub().await.unwrap();
    };
    let cmd = Cmd::new("/bin/sh").arg("-c").arg(script).args(["x", "y"]);
    let cmd = cmd.stderr(Sink::Discard).dir("/");
    check(cmd.clone().add_env("A", "b=c"), "x y\nb=c path\n/\n").await;
    check(cmd.clone().add_env("A", ""), "x y\npath\n/\n").await;
    check(cmd.clone().env([("A", "d")]), "x y\nd path\n/\n").await;
    let none: [(&str, &str); 0] = [];
    let shell_of_no_path = Cmd::new("/usr/bin/env").env(none);
    // All that it gets says where it is, and which.
    let process = anchor.make_proc(shell_of_no_path).await.unwrap();
    let mut text = String::new();
    let mut stdout = process.stdout().await.unwrap();
    stdout.read_to_string(&mut text).await.unwrap();
    process.scrub().await.unwrap();
    let (mark, place) = text.split_once('\n').unwrap();
    assert!(mark.starts_with("CIRCUIT_INSTANCE="), "{text}");
    let expected = format!(
        "CIRCUIT_PATH=/{}/p\nCIRCUIT_SOCKET={}\n",
        one.id(),
        one.socket().display()
    );
    assert_eq!(place, expected);
    // The later one wins.
    let cmd = cmd.add_env("A", "1").add_env("A", "2");
    check(cmd, "x y\n2 path\n/\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_not_there_has_a_code_of_its_own() {
    let home = Home::new();
    let (_one, client) = client(&home).await;
    let anchor = client.walk("/one/p").unwrap();
    for (cmd, expected) in [
        (Cmd::new("/no/such"), Code::NoSuchProgram),
        (Cmd::new("no-such-program"), Code::NoSuchProgram),
        (
            Cmd::new("sh").add_env("PATH", "/no/bin"),
            Code::NoSuchProgram,
        ),
        (Cmd::new("/"), Code::Exec),
        (Cmd::new("true").dir("/no/dir"), Code::Exec),
        (Cmd::new("true").add_env("", "x"), Code::InvalidArgument),
    ] {
        let made = anchor.make_proc(cmd.clone()).await;
        assert_eq!(code(&made), Some(expected), "{cmd:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_have_names_numbers_and_constants() {
    let home = Home::new();
    let (_one, client) = client(&home).await;
    let anchor = client.walk("/one/p").unwrap();
    for (signal, expected) in [
        (Signal::TERM, "signal: terminated"),
        ("usr1".into(), "signal: user defined signal 1"),
        (9.into(), "signal: killed"),
    ] {
        let process = anchor.make_proc(Cmd::new("cat")).await.unwrap();
        process.signal(signal).await.unwrap();
        let status = process.wait().await.unwrap();
        assert_eq!(status.exit.as_deref(), Some(expected));
        let again = process.signal(Signal::TERM).await;
        assert_eq!(code(&again), Some(Code::Closed));
        process.scrub().await.unwrap();
    }
    // Whoever wants it to be gone, and finds it gone, has what it wants.
    let process = anchor.make_proc(Cmd::new("cat")).await.unwrap();
    process.kill().await.unwrap();
    let status = process.wait().await.unwrap();
    assert_eq!(status.exit.as_deref(), Some("signal: killed"));
    process.kill().await.unwrap();
    process.scrub().await.unwrap();
    assert_eq!(code(&process.kill().await), Some(Code::NoSuchElement));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_was_dialled_is_known() {
    let home = Home::new();
    let (one, client) = client(&home).await;
    let dialled = client.dialled();
    assert_eq!(dialled.id.to_string(), one.id());
    assert_eq!(dialled.name, "one");
    assert_eq!(dialled.url, *one.url());
    assert_eq!(
        dialled.address,
        match over() {
            Over::Network => one.address().to_string(),
            Over::Socket => format!("unix:{}", one.socket().display()),
        }
    );
}

fn sh(script: &str) -> Cmd {
    Cmd::new("sh").args(["-c", script])
}

async fn is_empty(anchor: &Anchor) -> bool {
    anchor.view().await.unwrap().is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_short_process_is_whole() {
    let home = Home::new();
    let [one, _two] = home.start_all(["one", "two"]);
    let client = one.client(&home).await;
    for server in ["/one", "/two"] {
        let anchor = client.walk(server).unwrap();
        let mut running = tokio::task::JoinSet::new();
        for n in 0..40 {
            // Whoever runs several at once at a server has an anchor for each.
            let (anchor, cmd) = (
                anchor.clone(),
                sh(&format!("echo {n}; echo err >&2; exit {n}")),
            );
            // Whatever the command says of that, it is forgotten when it has been read.
            let scrub = n % 2 == 0;
            running.spawn(async move { (n, anchor.output(Cmd { scrub, ..cmd }).await.unwrap()) });
        }
        for (n, output) in running.join_all().await {
            assert_eq!(output.status.code, Some(n));
            assert_eq!(output.status.success(), n == 0);
            assert_eq!(output.stdout, format!("{n}\n").as_bytes());
            assert_eq!(output.stderr, b"err\n");
        }
        assert!(is_empty(&anchor).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_of_any_length_and_from_wherever_it_goes() {
    let home = Home::new();
    let (_one, client) = client(&home).await;
    let anchor = client.walk("/one/p").unwrap();
    let long = anchor.output(sh(
        "head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2",
    ));
    let long = long.await.unwrap();
    assert_eq!(
        (long.stdout.len(), long.stderr.len()),
        (3_000_000, 2_000_000)
    );
    // There is nothing on stdin.
    let cat = anchor.output(Cmd::new("cat")).await.unwrap();
    assert!(cat.status.success() && cat.stdout.is_empty());
    let file = home.file("log");
    let sink = Sink::File((&file).into());
    let elsewhere = sh("echo out; echo err >&2")
        .stdout(sink)
        .stderr(Sink::Discard);
    let elsewhere = anchor.output(elsewhere).await.unwrap();
    assert!(elsewhere.stdout.is_empty() && elsewhere.stderr.is_empty());
    assert_eq!(std::fs::read_to_string(file).unwrap(), "out\n");
    let size = TerminalSize {
        rows: 24,
        columns: 80,
    };
    let terminal = anchor.output(sh("echo out; echo err >&2").terminal(size));
    assert_eq!(terminal.await.unwrap().stdout, b"out\r\nerr\r\n");
    let status = anchor.status(sh("head -c 3000000 /dev/zero; kill -TERM $$"));
    let status = status.await.unwrap();
    assert_eq!(status.exit.as_deref(), Some("signal: terminated"));
    assert!(!status.success());
    assert!(anchor.peek().await.unwrap().is_none());
    let failed = anchor.output(Cmd::new("/no/such")).await;
    assert_eq!(code(&failed), Some(Code::NoSuchProgram));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_drops_an_output_hangs_its_process_up() {
    let home = Home::new();
    let (one, client) = client(&home).await;
    let anchor = client.walk("/one/p").unwrap();
    let waiting = anchor.clone();
    let output = tokio::spawn(async move { waiting.output(sh("echo; sleep 1000")).await });
    one.is_executing(&["run"]);
    let pid = one.peek("/one/p")["Pid"].as_i64().unwrap();
    output.abort();
    eventually("the process is gone", || (!lives(pid)).then_some(()));
    one.until("/one/p", serde_json::Value::is_null);
    // Somebody else removes it.
    let waiting = anchor.clone();
    let output = tokio::spawn(async move { waiting.output(Cmd::new("sleep").arg("1000")).await });
    one.is_executing(&["run"]);
    anchor.scrub().await.unwrap();
    assert_eq!(code(&output.await.unwrap()), Some(Code::Aborted));
}

/// Reads so many bytes of an output.
async fn read(output: &mut AttachedOutput, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend_from_slice(&output.chunk().await.unwrap().unwrap());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_not_read_keeps_nothing_else_waiting() {
    let home = Home::new();
    let [one, _two] = home.start_all(["one", "two"]);
    let client = one.client(&home).await;
    for path in ["/one/p", "/two/p"] {
        let script = "yes & head -c 3000000 /dev/zero >&2; cat >/dev/null; echo all >&2; wait";
        let attached = client.walk(path).unwrap().attach(sh(script)).await.unwrap();
        let Attached {
            process,
            mut stdin,
            mut stdout,
            mut stderr,
            end,
        } = attached;
        assert_eq!(read(&mut stderr, 3_000_000).await.len(), 3_000_000);
        let status = loop {
            let status = process.peek().await.unwrap();
            if status.blocked.as_deref() == Some("stdout") {
                break status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        // More than the windows and buffers of all hops together.
        stdin.send(vec![b'x'; 5_000_000].into()).await.unwrap();
        stdin.finish().await.unwrap();
        assert_eq!(read(&mut stderr, 4).await, b"all\n");
        assert!(read(&mut stdout, 3_000_000).await.starts_with(b"y\ny\n"));
        drop((process, stdout, stderr, end));
        let pid = i64::from(status.pid);
        eventually("the process is gone", || (!lives(pid)).then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stdin_that_is_not_read_keeps_nothing_else_waiting() {
    let home = Home::new();
    let (_one, client) = client(&home).await;
    let anchor = client.walk("/one/p").unwrap();
    let attached = anchor.attach(sh("sleep 1000 & echo $!; wait")).await;
    let Attached {
        process,
        mut stdin,
        mut stdout,
        stderr,
        mut end,
    } = attached.unwrap();
    let sending = tokio::spawn(async move { stdin.send(vec![0; 5_000_000].into()).await });
    let text = String::from_utf8(read(&mut stdout, 2).await).unwrap();
    let sleep: i64 = text.trim().parse().unwrap();
    assert!(!sending.is_finished());
    stderr.close().await.unwrap();
    stdout.close().await.unwrap();
    process.signal_group(Signal::TERM).await.unwrap();
    let status = end.wait().await.unwrap();
    assert_eq!(status.exit.as_deref(), Some("signal: terminated"));
    assert_eq!(code(&sending.await.unwrap()), Some(Code::Closed));
    assert!(anchor.peek().await.unwrap().is_none());
    eventually("its child is gone", || (!lives(sleep)).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_to_a_closed_stdin_is_told_and_the_run_goes_on() {
    let home = Home::new();
    let (_one, client) = client(&home).await;
    let anchor = client.walk("/one/p").unwrap();
    let script = "exec <&-; echo closed; while [ ! -e go ]; do sleep 0.01; done; echo end; exit 3";
    let cmd = sh(script).dir(home.path());
    let mut attached = anchor.attach(cmd).await.unwrap();
    assert_eq!(read(&mut attached.stdout, 7).await, b"closed\n");
    attached.stdin.send("too late".into()).await.unwrap();
    assert_eq!(attached.stdin.failed().await.code(), Some(Code::Closed));
    let again = attached.stdin.send("later still".into()).await;
    assert_eq!(code(&again), Some(Code::Closed));
    std::fs::write(home.file("go"), "").unwrap();
    assert_eq!(read(&mut attached.stdout, 4).await, b"end\n");
    assert!(attached.stdout.chunk().await.unwrap().is_none());
    assert!(attached.stderr.chunk().await.unwrap().is_none());
    assert_eq!(attached.end.wait().await.unwrap().code, Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_anchor_is_nobody_elses() {
    let home = Home::new();
    let (_one, client) = client(&home).await;
    let anchor = client.walk("/one/a").unwrap();
    let paths: BTreeSet<String> = (0..1000)
        .map(|_| anchor.fresh("reply").unwrap().path().to_string())
        .collect();
    assert_eq!(paths.len(), 1000);
    assert!(paths.iter().all(|path| path.starts_with("/one/a/reply-")));
    assert!(anchor.fresh("a\n").is_err());
    anchor.fresh("reply").unwrap().make_chan(1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_is_found_by_what_a_program_names() {
    let home = Home::new();
    let one = home.start("one");
    let key_file = home.runtime_dir().join("key");
    let search = Search {
        address: Some(one.url().clone().into()),
        key_file: Some(key_file.clone()),
        ..Search::default()
    };
    let client = search.dial().await.unwrap();
    assert_eq!(client.dialled().id.to_string(), one.id());
    // The first that is named.
    let group = "228.8.8.8:7711".parse().unwrap();
    let both = Search {
        group: Some(group),
        ..search.clone()
    };
    assert_eq!(both.way().unwrap(), Way::Address(one.url().clone().into()));
    let asked = Search {
        address: None,
        ..both
    };
    assert_eq!(asked.way().unwrap(), Way::Group(group));
    assert_eq!(asked.source(), None);
    // A key that others can read lets us in all the same.
    use std::os::unix::fs::PermissionsExt;
    let exposed = home.write("exposed", &std::fs::read_to_string(key_file).unwrap());
    std::fs::set_permissions(&exposed, std::fs::Permissions::from_mode(0o644)).unwrap();
    static WARNED: std::sync::Mutex<Vec<Warning>> = std::sync::Mutex::new(Vec::new());
    let search = Search {
        key_file: Some(exposed.clone()),
        warn: |warning| WARNED.lock().unwrap().push(warning),
        ..search
    };
    search.dial().await.unwrap();
    assert_eq!(*WARNED.lock().unwrap(), [Warning::ExposedKey(exposed)]);
    let no_key = Search {
        key_file: Some(home.file("none")),
        ..search
    };
    let error = no_key.dial().await.unwrap_err();
    assert!(matches!(error, SearchError::Key(_)), "{error}");
    // As a `main` that returns it prints it.
    let shown = format!("{error:?}");
    assert!(shown.starts_with("cannot read the key file /"), "{shown}");
    assert!(
        shown.ends_with("none: no such file or directory"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_have_the_servers_id_and_name() {
    let home = Home::new();
    let [one, two] = home.start_all(["one", "two"]);
    // Through the other server.
    let client = two.client(&home).await;
    let joins = client.walk("/one/joins").unwrap();
    let joins = joins.make_on_join().await.unwrap();
    let leaves = client.walk("/one/leaves").unwrap();
    let mut leaves = leaves
        .make_on_leave()
        .await
        .unwrap()
        .events()
        .await
        .unwrap();
    let first = joins.next().await.unwrap();
    let mut events = joins.events().await.unwrap();
    let second = events.next().await.unwrap();
    let told: BTreeSet<_> = [first, second]
        .map(|event| (event.name.clone(), event.path().to_string(), event.url))
        .into();
    let there = |name: &str, server: &Server| {
        let path = format!("/{}", server.id());
        (name.to_owned(), path, server.url().clone())
    };
    assert_eq!(told, [there("one", &one), there("two", &two)].into());
    let start = format!("start -name three -j {}", one.url());
    let mut three = home.circuit(start).serve();
    assert_eq!(events.next().await.unwrap().name, "three");
    three.kill();
    let left = leaves.next().await.unwrap();
    assert_eq!((left.id.to_string(), &*left.name), (three.id(), "three"));
    // The same events in the form that the tool has.
    drop(events);
    let start = format!("start -name four -j {}", one.url());
    let four = home.circuit(start).serve();
    let path = joins.recv_all(4096).await.unwrap();
    assert_eq!(path, format!("/{}", four.id()));
    joins.scrub().await.unwrap();
    assert_eq!(code(&joins.next().await), Some(Code::NoSuchElement));
    let chan = client
        .walk("/one/chan")
        .unwrap()
        .make_chan(1)
        .await
        .unwrap();
    let other = chan.anchor().subscription().next().await;
    assert_eq!(code(&other), Some(Code::WrongKind));
}
