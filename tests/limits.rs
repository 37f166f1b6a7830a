//! Many makers at one anchor, many requests on one connection, and many descriptors of one server.

use circuit_client::{Cmd, Code, Error};

use crate::support::{DEADLINE, Home, Over, Server, eventually, over};

fn code<T>(result: &Result<T, Error>) -> Option<Code> {
    result.as_ref().err().and_then(Error::code)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_makers_at_one_place_one_wins() {
    let home = Home::new();
    let [one, _two] = home.start_all(["one", "two"]);
    // Half of them through their own connections, half through another server's.
    let direct = one.client(&home).await;
    let other = _two.client(&home).await;
    for round in 0..5 {
        let path = format!("/one/place/{round}");
        let mut makers = tokio::task::JoinSet::new();
        for number in 0..32 {
            let client = if number % 2 == 0 { &direct } else { &other };
            let anchor = client.walk(&path).unwrap();
            makers.spawn(async move { anchor.make_proc(Cmd::new("cat")).await });
        }
        let results = makers.join_all().await;
        let winners = results.iter().filter(|result| result.is_ok()).count();
        let losers = results
            .iter()
            .filter(|result| code(result) == Some(Code::Occupied))
            .count();
        assert_eq!((winners, losers), (1, 31));
    }
    assert_eq!(
        tokio::task::block_in_place(|| one.peek("/one"))["Elements"],
        5
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn makers_that_fail_leave_nothing_however_many() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let mut makers = tokio::task::JoinSet::new();
    for number in 0..64 {
        let anchor = client.walk(&format!("/one/{}", number % 4)).unwrap();
        makers.spawn(async move { anchor.make_proc(Cmd::new("/no/such")).await });
    }
    for result in makers.join_all().await {
        let code = code(&result).unwrap();
        assert!(
            matches!(code, Code::NoSuchProgram | Code::Occupied),
            "{code:?}"
        );
    }
    tokio::task::block_in_place(|| {
        assert!(one.ls("/one").is_empty());
        assert_eq!(one.peek("/one")["Elements"], 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_thousand_operations_that_wait_keep_no_other_out() {
    let home = Home::new();
    let one = home.start("one");
    tokio::task::block_in_place(|| one.make("/one/p", r#"{"Path": "cat"}"#));
    let client = one.client(&home).await;
    let process = client.walk("/one/p").unwrap().proc();
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..1100 {
        let process = process.clone();
        waiters.spawn(async move { process.wait().await });
    }
    tokio::task::block_in_place(|| {
        eventually("all wait", || {
            let output = one.circuit("stk /one").any_stdout().run();
            output
                .stdout()
                .starts_with("operations in flight: 1101\n")
                .then_some(())
        });
    });
    let anchor = client.walk("/one/p").unwrap();
    assert!(anchor.peek().await.unwrap().is_some());
    anchor.scrub().await.unwrap();
    for result in waiters.join_all().await {
        assert_eq!(code(&result), Some(Code::Aborted));
    }
    assert!(anchor.peek().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_is_refused_here() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let cmd = Cmd {
        args: vec!["x".repeat(2 << 20).into()],
        ..Cmd::new("echo")
    };
    let refused = client.walk("/one/p").unwrap().make_proc(cmd).await;
    assert_eq!(code(&refused), Some(Code::TooLarge));
    assert!(
        client
            .walk("/one/p")
            .unwrap()
            .peek()
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_stops_no_other() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let mut unread = Vec::new();
    for number in 0..20 {
        let anchor = client.walk(&format!("/one/{number}")).unwrap();
        let process = anchor.make_proc(Cmd::new("yes")).await.unwrap();
        unread.push(process.stdout().await.unwrap());
    }
    let cmd = Cmd {
        args: vec!["-c".into(), "2000000".into(), "/dev/zero".into()],
        ..Cmd::new("head")
    };
    let process = client
        .walk("/one/read")
        .unwrap()
        .make_proc(cmd)
        .await
        .unwrap();
    let mut reader = process.stdout().await.unwrap();
    let mut length = 0;
    while let Some(chunk) = reader.chunk().await.unwrap() {
        length += chunk.len();
    }
    assert_eq!(length, 2_000_000);
}

/// How many of something a server has, by its directory in `/proc`.
fn count(server: &Server, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{}/{what}", server.pid()))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_elements_later_nothing_is_left_open() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    let cycle = async |number: usize| {
        let anchor = client.walk(&format!("/one/{number}")).unwrap();
        let process = anchor.make_proc(Cmd::new("cat")).await.unwrap();
        let reader = process.stdout().await.unwrap();
        process.stdin().await.unwrap().finish().await.unwrap();
        process.wait().await.unwrap();
        drop(reader);
        anchor.scrub().await.unwrap();
    };
    cycle(0).await;
    let before = count(&one, "fd");
    for number in 1..1000 {
        cycle(number).await;
    }
    tokio::task::block_in_place(|| {
        assert!(one.ls("/one").is_empty());
        eventually("descriptors are as before", || {
            (count(&one, "fd") <= before).then_some(())
        });
    });
    let children = format!("/proc/{0}/task/{0}/children", one.pid());
    assert_eq!(std::fs::read_to_string(children).unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_of_elements_that_forget_themselves_are_answered() {
    let home = Home::new();
    let one = home.start("one");
    let client = one.client(&home).await;
    for round in 0..20 {
        let cmd = Cmd {
            scrub: true,
            ..Cmd::new("cat")
        };
        let anchor = client.walk(&format!("/one/{round}")).unwrap();
        let process = anchor.make_proc(cmd).await.unwrap();
        let mut waiters = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let process = process.clone();
            waiters.spawn(async move { process.wait().await });
        }
        tokio::task::block_in_place(|| {
            eventually("all wait", || {
                let output = one.circuit("stk /one").any_stdout().run();
                let begin = "operations in flight: 21\n";
                output.stdout().starts_with(begin).then_some(())
            });
        });
        process.stdin().await.unwrap().finish().await.unwrap();
        for status in waiters.join_all().await {
            assert_eq!(status.unwrap().code, Some(0));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_wants_more_descriptors_than_there_are_is_told_who_has_them() {
    let home = Home::new();
    let one = home
        .circuit_under("ulimit -n 100; exec \"$0\" \"$@\"", "start -name one")
        .serve();
    let client = one.client(&home).await;
    let at = |number: usize| client.walk(&format!("/one/{number}")).unwrap();
    let mut made = 0;
    let refused = loop {
        match at(made).make_proc(Cmd::new("cat")).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(made >= 10, "{made}");
    assert_eq!(refused.code(), Some(Code::Busy));
    let text = refused.to_string();
    let client = match over() {
        Over::Network => "",
        Over::Socket => ", 1 by clients on this host",
    };
    let by = format!(
        "of 100 descriptors are in use ({} by processes{client})",
        4 * made
    );
    assert!(text.contains(&by), "{text}");
    // Nothing else has stopped, and those that end give theirs back.
    for number in 0..3 {
        let process = at(number).proc();
        process.signal("KILL").await.unwrap();
        process.wait().await.unwrap();
    }
    let deadline = std::time::Instant::now() + DEADLINE;
    while let Err(error) = at(made).make_proc(Cmd::new("cat")).await {
        assert!(std::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[test]
fn the_descriptors_that_are_shown_as_used_are_open() {
    let home = Home::new();
    let one = home.start("one");
    let used = || {
        let status = one.peek("/one");
        status["Counters"]["Descriptors"]["Used"].as_u64().unwrap()
    };
    let open = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", one.pid()));
        open.unwrap().count() as u64
    };
    // What a server opens for itself later is not counted: it has a reserve for that.
    let is_true = || used().abs_diff(open()) < 20;
    let before = used();
    assert!(is_true(), "{before} used, {} open", open());
    for n in 0..30 {
        one.make(&format!("/one/{n}"), r#"{"Path": "cat"}"#);
    }
    assert!(
        used() >= before + 90 && is_true(),
        "{} used, {} open",
        used(),
        open()
    );
    for n in 0..30 {
        one.circuit(format!("signal KILL /one/{n}")).run();
        one.circuit(format!("wait /one/{n}")).any_stdout().run();
        one.circuit(format!("scrub /one/{n}")).run();
    }
    eventually("as many as before are used", || {
        (used() == before).then_some(())
    });
    assert!(is_true(), "{before} used, {} open", open());
}
