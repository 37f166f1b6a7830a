//! Hostile peers send rubbish, nothing, forgeries and floods, and the server goes on.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use circuit_client::transport::congestion::Windows;
use circuit_client::transport::dial::{Accepted, DialError, Dialler};
use circuit_client::transport::endpoint::{dialling, transport_config};
use circuit_client::transport::stream::{RecvHalf, SendHalf};
use circuit_client::transport::tls::{Certificate, Pin};
use circuit_proto::codec;
use circuit_proto::element::anchor;
use circuit_proto::handshake::{ALPN, Answer, Close, Identity, Refused, Role, SPOKEN};
use circuit_proto::membership::{Entry, Held, Message, Phase, Record};
use circuit_proto::request::{Op, Reply, Request};
use circuit_proto::{Code, Path};
use quinn::ConnectionError;

use crate::support::stranger::{Stranger, framed};
use crate::support::{Home, Server};

/// Whether the server still serves.
fn serves(server: &Server) {
    server.circuit("peek /one/nothing").stdout("null\n").run();
}

/// Says something instead of a `Hello`, and checks the refusal.
async fn is_refused(server: &Server, said: &[u8], expected: Refused, logged: &str) {
    let stranger = Stranger::connect(server.address(), ALPN).await.unwrap();
    let answer = stranger.say(said).await;
    let answer: Answer = codec::decode(&answer[4..]).unwrap();
    let code = expected.close() as u64;
    assert_eq!(answer, Answer::Refused(expected));
    assert_eq!(
        stranger.closed_with(Duration::from_secs(3)).await,
        Some(code)
    );
    let line = server.logs(logged);
    assert!(
        line.contains("WARN") && line.contains("address=127.0.0.1:"),
        "{line}"
    );
}

/// A connection that was let in as this.
async fn admitted(home: &Home, server: &Server, role: Role) -> Result<Accepted, DialError> {
    dialled(home, server, |_| role).await
}

/// A connection of a new identity, in a role that may name it.
async fn dialled(
    home: &Home,
    server: &Server,
    role: impl FnOnce(&Certificate) -> Role,
) -> Result<Accepted, DialError> {
    dialled_with(home, server, 1, role).await
}

/// The same, letting the server open this number of streams.
async fn dialled_with(
    home: &Home,
    server: &Server,
    streams: u8,
    role: impl FnOnce(&Certificate) -> Role,
) -> Result<Accepted, DialError> {
    let (endpoint, _) = dialling(&[server.address()]).unwrap();
    let (certificate, _) = Certificate::generate().unwrap();
    let role = role(&certificate);
    let mut transport = transport_config(&Windows::default());
    transport.max_concurrent_uni_streams(streams.into());
    let dialler = Dialler {
        endpoint: &endpoint,
        certificate: &certificate,
        key: Some(&home.key()),
        transport: &std::sync::Arc::new(transport),
    };
    let timeout = Duration::from_secs(3);
    let accepted = dialler
        .dial(server.address(), Pin::Anybody, role, timeout)
        .await;
    // The endpoint's driver goes on for as long as there is a connection.
    accepted
}

fn request(path: &str, op: Vec<u8>) -> Request {
    Request {
        path: path.parse::<Path>().unwrap(),
        op,
        origin: "somebody else".to_owned(),
        forwarded: false,
    }
}

#[test]
fn rubbish_packets_are_ignored() {
    let home = Home::new();
    let one = home.start("one");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for length in (0..1500).step_by(7) {
        let mut packet = vec![0; length];
        getrandom::fill(&mut packet).unwrap();
        socket.send_to(&packet, one.address()).unwrap();
        // Packets that look like one of membership, or like the first of a connection.
        for mark in [1, 0xc0, 0x40] {
            if let Some(first) = packet.first_mut() {
                *first = mark;
            }
            socket.send_to(&packet, one.address()).unwrap();
        }
    }
    serves(&one);
    assert_eq!(one.peek("/one")["Servers"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_gets_no_connection() {
    let home = Home::new();
    let one = home.start("one");
    let error = Stranger::connect(one.address(), b"h3").await.err().unwrap();
    assert!(
        matches!(error, ConnectionError::ConnectionClosed(_)),
        "{error}"
    );
    serves(&one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_handshake_is_refused() {
    let home = Home::new();
    let one = home.start("one");
    let malformed = "refused a connection: its handshake is malformed";
    for said in [
        framed(&[]),
        framed(&[0, 1]),
        framed(&[0, 1, 0, 1, 0xff, 0xff, 0xff]),
        // A role that is none, and bytes left over.
        framed(&[0, 1, 0, 1, 9, 0]),
        framed(&[0, 1, 0, 1, 0, 0, 0]),
        // This frame is cut short.
        vec![0, 0],
        vec![0, 0, 0, 50, 1],
        // Longer than a stranger may send.
        vec![0xff; 64],
        (1_u32 << 20).to_be_bytes().to_vec(),
    ] {
        is_refused(&one, &said, Refused::Malformed, malformed).await;
    }
    serves(&one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_we_do_not_speak_is_refused() {
    let home = Home::new();
    let one = home.start("one");
    let logged = "refused a connection: it speaks no version of the protocol that we speak";
    for versions in [[0, 2, 0, 9], [0, 0, 0, 0], [0, 2, 0, 1]] {
        is_refused(&one, &framed(&versions), Refused::Version(SPOKEN), logged).await;
    }
    serves(&one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_has_five_seconds_and_one_stream() {
    let home = Home::new();
    let one = home.start("one");
    let begin = Instant::now();
    let silent = Stranger::connect(one.address(), ALPN).await.unwrap();
    let half = Stranger::connect(one.address(), ALPN).await.unwrap();
    let (mut send, _recv) = half.connection.open_bi().await.unwrap();
    send.write_all(&[0, 0]).await.unwrap();
    let second = tokio::time::timeout(Duration::from_millis(300), half.connection.open_bi());
    assert!(second.await.is_err(), "a second stream");
    for stranger in [silent, half] {
        let code = stranger.closed_with(Duration::from_secs(8)).await;
        assert_eq!(code, Some(Close::Slow as u64));
    }
    let took = begin.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(7),
        "{took:?}"
    );
    serves(&one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_silent_peers_is_bounded_and_shuts_nobody_else_out() {
    let home = Home::new();
    let one = home.start("one");
    let mut silent: Vec<Stranger> = Vec::new();
    let begin = Instant::now();
    // Many at once: whoever is silent for five seconds makes room.
    let refused = 'flood: loop {
        let address = one.address();
        let crowd = (0..32).map(|_| tokio::spawn(Stranger::connect(address, ALPN)));
        for stranger in crowd.collect::<Vec<_>>() {
            match stranger.await.unwrap() {
                Ok(stranger) => silent.push(stranger),
                Err(error) => break 'flood error,
            }
        }
        silent.retain(|stranger| stranger.connection.close_reason().is_none());
        assert!(silent.len() <= 256, "there is no bound");
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "nobody is refused"
        );
    };
    assert!(
        matches!(refused, ConnectionError::ConnectionClosed(_)),
        "{refused}"
    );
    let other = Ipv4Addr::new(127, 0, 0, 2).into();
    let other = Stranger::connect_from(other, one.address(), ALPN).await;
    assert!(other.is_ok(), "{:?}", other.err());
    drop(silent);
    tokio::task::block_in_place(|| {
        crate::support::eventually("it serves again", || {
            let output = one
                .circuit("peek /one/x")
                .any_stdout()
                .any_stderr()
                .unchecked();
            output.status.success().then_some(())
        });
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_must_be_who_its_url_says() {
    let home = Home::new();
    let one = home.start("one");
    let identity = Identity {
        url: one.url().clone(),
        name: "one".to_owned(),
        count: 0,
        instance: 0,
    };
    for role in [
        Role::Link(identity.clone(), Vec::new()),
        Role::Transfer(identity.clone()),
    ] {
        let error = admitted(&home, &one, role).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{} refused us: our URL does not name our own key",
                one.address()
            )
        );
    }
    one.logs("refused a connection: its URL does not name its own key");
    assert_eq!(one.peek("/one")["Servers"], 1);
}

/// The role of a server of this identity, which the circuit takes for a member.
fn member(certificate: &Certificate) -> Role {
    let id = certificate.fingerprint().id().in_url();
    let identity = Identity {
        url: format!("circuit://127.0.0.1:9/1/{id}").parse().unwrap(),
        name: "two".to_owned(),
        count: 0,
        instance: 0,
    };
    Role::Link(identity, Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_on_which_nothing_more_can_be_heard_is_closed() {
    let home = Home::new();
    let one = home.start("one");
    for how in ["nonsense", "too long", "finished", "reset"] {
        let peer = dialled(&home, &one, member).await.unwrap().connection;
        let mut send = peer.open_uni().await.unwrap();
        let nothing = framed(&[0xff; 9]);
        match how {
            "nonsense" => send.write_all(&nothing).await.unwrap(),
            "too long" => send.write_all(&[0xff; 8]).await.unwrap(),
            "finished" => send.finish().unwrap(),
            _ => send.reset(0_u8.into()).unwrap(),
        }
        let closed = tokio::time::timeout(Duration::from_secs(5), peer.closed()).await;
        match closed.unwrap_or_else(|_| panic!("{how}: the link is kept")) {
            ConnectionError::ApplicationClosed(closed) => {
                let code = closed.error_code.into_inner();
                assert_eq!(code, Close::Malformed as u64, "{how}");
            }
            other => panic!("{how}: {other}"),
        }
    }
    serves(&one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_makes_no_sense_costs_the_connection() {
    let home = Home::new();
    let one = home.start("one");
    for said in [
        framed(&[0xff; 9]),
        vec![0xff; 8],
        framed(&[3, b'a', b'/', b'b', 0, 0, 0]),
    ] {
        let peer = admitted(&home, &one, Role::Client).await.unwrap();
        let (mut send, _recv) = peer.connection.open_bi().await.unwrap();
        send.write_all(&said).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(3), peer.connection.closed());
        match closed.await.unwrap() {
            ConnectionError::ApplicationClosed(closed) => {
                assert_eq!(closed.error_code.into_inner(), Close::Malformed as u64);
            }
            other => panic!("{other}"),
        }
    }
    serves(&one);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_of_a_later_version_is_answered() {
    let home = Home::new();
    let one = home.start("one");
    let peer = admitted(&home, &one, Role::Client).await.unwrap();
    for (op, code) in [
        // Of a kind that is not known.
        (vec![200, 1, 2], Code::Unsupported),
        // Of a channel, which is known.
        (vec![4, 200, 1, 2], Code::Unsupported),
        (vec![0], Code::InvalidArgument),
        (vec![4, 0], Code::InvalidArgument),
    ] {
        let (send, recv) = peer.connection.open_bi().await.unwrap();
        let (mut send, mut recv) = (SendHalf::new(send), RecvHalf::new(recv));
        send.frame(&request("/one/p", op)).await.unwrap();
        send.finish();
        let reply: Reply = recv.frame().await.unwrap();
        assert_eq!(reply.unwrap_err().code, code);
    }
    serves(&one);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_speak_in_anothers_name() {
    let home = Home::new();
    let one = home.start("one");
    let peer = admitted(&home, &one, Role::Client).await.unwrap();
    let (send, recv) = peer.connection.open_bi().await.unwrap();
    let (mut send, mut recv) = (SendHalf::new(send), RecvHalf::new(recv));
    let op = codec::encode(&Op::from(anchor::Op::Scrub)).unwrap();
    send.frame(&request("/one/p", op)).await.unwrap();
    send.finish();
    let reply: Reply = recv.frame().await.unwrap();
    assert_eq!(reply.unwrap_err().code, Code::NoSuchElement);
    let line = one.logs("what=\"scrub\"");
    assert!(
        line.contains("who=127.0.0.1:") && !line.contains("somebody else"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_loses_its_link_and_is_told_of_once() {
    let home = Home::new();
    let one = home.start("one");
    // The server may open no stream, so that all that it says waits.
    let introduced = |certificate: &Certificate| {
        let Role::Link(identity, _) = member(certificate) else {
            unreachable!("a member has a link");
        };
        let (fingerprint, count) = (certificate.fingerprint(), identity.count);
        let held = Held {
            count,
            instance: 0,
            incarnation: 0,
            phase: Phase::Alive,
        };
        let record = Record {
            fingerprint,
            url: identity.url.clone(),
            name: identity.name.clone(),
            count,
            instance: 0,
        };
        let hello = Message::Hello {
            entry: Entry {
                fingerprint,
                held,
                age: 0,
                record: Some(Arc::new(record)),
            },
            live: 1,
            digest: 0,
        };
        Role::Link(identity, hello.encode().unwrap())
    };
    let dialled = dialled_with(&home, &one, 0, introduced).await;
    let peer = dialled.unwrap().connection;
    let mut send = peer.open_uni().await.unwrap();
    let ping = Message::Ping {
        nonce: 1,
        held: Held {
            count: 0,
            instance: 0,
            incarnation: 0,
            phase: Phase::Alive,
        },
    };
    let pings = framed(&ping.encode().unwrap()).repeat(8000);
    // The link is closed before all of them are read.
    let _ = send.write_all(&pings).await;
    let closed = tokio::time::timeout(Duration::from_secs(5), peer.closed()).await;
    match closed.unwrap() {
        ConnectionError::ApplicationClosed(closed) => {
            assert_eq!(closed.error_code.into_inner(), Close::Slow as u64);
        }
        other => panic!("{other}"),
    }
    one.logs("reads too slowly");
    serves(&one);
    assert_eq!(one.log().matches("reads too slowly").count(), 1);
}
