//! The operations that every anchor takes, whatever it holds: listing, peeking, scrubbing.

use std::pin::pin;

use circuit_proto::element::Status;
use circuit_proto::element::anchor::{Listed, Op};
use circuit_proto::request;
use circuit_proto::{Code, Error};

use crate::anchor::Tree;
use crate::element::service::Service;
use crate::element::{Element, Kind};
use crate::server::call::{Call, Gone, nothing_there};

/// Executes an operation on an anchor of this server.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    match op {
        Op::List { recursive } => {
            let anchors = anchors(&call.server.tree, call.names(), recursive);
            call.list(anchors).await
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
            let servers = call.server.peer.servers();
            call.list(servers.into_iter().map(Listed::Server).collect())
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

/// The anchors below one, for a listing.
fn anchors(tree: &Tree<Element>, base: &[String], recursive: bool) -> Vec<Listed> {
    let entry = |path: String, element: Option<&Element>| Listed::Anchor {
        path,
        kind: element.map(Element::kind),
        note: element
            .and_then(Service::of)
            .map_or_else(String::new, |service| service.note()),
    };
    match recursive {
        true => {
            let mut all = Vec::new();
            tree.visit_subtree(base, |names, element| {
                all.push(entry(names.join("/"), element));
            });
            all
        }
        false => {
            let children = tree.children(base).into_iter();
            children
                .map(|(name, element)| entry(name, element.as_ref()))
                .collect()
        }
    }
}
