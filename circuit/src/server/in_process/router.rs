//! Tests which server executes a request: a table of the caller, the path, and whether the request was
//! forwarded.

use circuit_proto::Code;
use circuit_proto::element::{Status, anchor};
use circuit_proto::request::Value;

use super::*;

/// The fate of a request.
#[derive(Debug, PartialEq)]
enum Routed {
    /// The server of this name executed it.
    By(&'static str),
    /// At the root: the server that was asked executed it.
    Root,
    /// Nobody did.
    Refused(Code),
}

/// Which of the servers a status is of.
fn by(value: &Value, servers: &[(&'static str, Url)]) -> Routed {
    let status = codec::decode::<Option<Status>>(&value.0).unwrap();
    let Some(Status::Server(status)) = status else {
        return Routed::Root;
    };
    let named = servers.iter().find(|(_, address)| *address == status.addr);
    Routed::By(named.unwrap().0)
}

#[tokio::test]
async fn each_request_is_executed_by_its_server_or_refused() {
    let [one, two, _twin, _other] = circuit(["one", "two", "twin", "twin"]).await;
    let servers = [("one", one.url().clone()), ("two", two.url().clone())];
    let client = Peer::dial(&one, |_| Role::Client).await;
    let forwarder = Peer::forwarder(&one).await;
    let (one_id, two_id) = (format!("/{}", id(&one)), format!("/{}", id(&two)));
    let refused = Routed::Refused;
    let unknown = Code::NoSuchServer;
    // The path; what comes of it for a client, and for a server that forwards.
    let table = [
        ("/".to_owned(), Routed::Root, Routed::Root),
        (one_id, Routed::By("one"), Routed::By("one")),
        ("/one".to_owned(), Routed::By("one"), Routed::By("one")),
        // A request is forwarded once, never twice.
        (two_id, Routed::By("two"), refused(unknown)),
        ("/two".to_owned(), Routed::By("two"), refused(unknown)),
        (
            "/twin".to_owned(),
            refused(Code::InvalidArgument),
            refused(Code::InvalidArgument),
        ),
        (
            "/X0123456789abcdef".to_owned(),
            refused(unknown),
            refused(unknown),
        ),
        ("/nobody/a".to_owned(), refused(unknown), refused(unknown)),
    ];
    for (path, of_client, of_forwarder) in table {
        for forwarded in [false, true] {
            for (peer, expected) in [(&client, &of_client), (&forwarder, &of_forwarder)] {
                let mut request = request(&path, anchor::Op::Peek, "somebody");
                request.forwarded = forwarded;
                let routed = match peer.ask(&request).await {
                    Ok(value) => by(&value, &servers),
                    Err(error) => Routed::Refused(error.code),
                };
                // A request that says that it was forwarded is not forwarded, whoever says so.
                let expected = match forwarded && *expected == Routed::By("two") {
                    true => &Routed::Refused(unknown),
                    false => expected,
                };
                assert_eq!(routed, *expected, "{path}, forwarded: {forwarded}");
            }
        }
    }
}

#[tokio::test]
async fn an_operation_that_is_not_known_is_refused_by_the_server_that_was_to_execute_it() {
    let [one, two] = circuit(["one", "two"]).await;
    let client = Peer::dial(&one, |_| Role::Client).await;
    for path in ["/one/a", "/two/a", "/"] {
        for (op, code) in [
            (&[200, 1][..], Code::Unsupported),
            (&[0, 200], Code::Unsupported),
            (&[], Code::InvalidArgument),
            (&[0], Code::InvalidArgument),
        ] {
            let mut request = request(path, anchor::Op::Peek, "");
            request.op = op.to_vec();
            let error = client.ask(&request).await.unwrap_err();
            assert_eq!(error.code, code, "{path} {op:?}: {error}");
        }
    }
    drop(two);
}
