//! The operations that every anchor takes, whatever it holds: listing, peeking, scrubbing.

use std::pin::pin;

use circuit_proto::element::Status;
use circuit_proto::element::anchor::{Listed, ListedRef, Op};
use circuit_proto::request;
use circuit_proto::{Code, Error};

use crate::anchor::{Cursor, Depth};
use crate::element::service::Service;
use crate::element::{Element, Kind};
use crate::server::call::{Call, Gone, nothing_there};

/// Executes an operation on an anchor of this server.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    match op {
        Op::List { recursive } => {
            let depth = if recursive {
                Depth::All
            } else {
                Depth::Children
            };
            list(call, depth).await
        }
        Op::Peek => {
            let status = match call.element() {
                None => Ok(None),
                Some(element) => call.unless_gone(pin!(element.status())).await?.map(Some),
            };
            call.answer(status).await
        }
        Op::Scrub => {
            let result = scrub(call).await;
            call.answer(result).await
        }
    }
}

/// Executes an operation on the root, whose children are the live servers.
pub(in crate::server) async fn execute_at_root(
    call: &mut Call,
    op: request::Op,
) -> Result<(), Gone> {
    match op {
        request::Op::Anchor(Op::List { .. }) => {
            let mut servers = call.server.peer.servers().into_iter();
            call.list(|chunks| {
                for server in servers.by_ref() {
                    chunks.add(&Listed::Server(server));
                    if chunks.is_full() {
                        return false;
                    }
                }
                true
            })
            .await
        }
        request::Op::Anchor(Op::Peek) => call.answer(Ok(None::<Status>)).await,
        _ => {
            let message = "the root holds no element: name a server, as in /X…/name";
            call.refuse(Error::new(Code::InvalidArgument, message))
                .await
        }
    }
}

/// Removes the element. Whoever waits on it is told once it has left the tree.
async fn scrub(call: &mut Call) -> Result<(), Error> {
    let server = call.server.clone();
    let element = call.element().ok_or_else(nothing_there)?;
    element.retire().await?;
    // If somebody else has removed the element meanwhile, another element may be in its place: that
    // one is left alone.
    let same = |found: &Element| found.is(&element);
    let names = call.path.below_server();
    let remove = || server.tree.remove_if(names, same).ok_or_else(nothing_there);
    let removed = call.operation.in_order(remove, |_| true)?;
    removed.scrubbed().await;
    Ok(())
}

/// Answers with the anchors below one, so many at a time as fit a chunk: a listing that nobody reads
/// holds one.
async fn list(call: &mut Call, depth: Depth) -> Result<(), Gone> {
    let (server, path) = (call.server.clone(), call.path.clone());
    let (mut cursor, mut names_below) = (Cursor::default(), String::new());
    call.list(|chunks| {
        let base = path.below_server();
        server
            .tree
            .visit(base, depth, &mut cursor, |names, element| {
                names_below.clear();
                for (n, name) in names.iter().enumerate() {
                    if n > 0 {
                        names_below.push('/');
                    }
                    names_below.push_str(name);
                }
                let service = element.and_then(Service::of);
                let note = service.map_or_else(String::new, |service| service.note());
                let (path, kind) = (names_below.as_str(), element.map(Element::kind));
                chunks.add(&ListedRef::Anchor { path, kind, note });
                !chunks.is_full()
            })
    })
    .await
}
