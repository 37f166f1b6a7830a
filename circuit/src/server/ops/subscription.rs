//! The operations on a subscription. Those that receive its events are a channel's, with the whole
//! event in place of its server's path.

use std::sync::Arc;

use circuit_proto::Error;
use circuit_proto::element::subscription::{Op, Source};

use super::channel::{self, Form};
use crate::element::subscription::Subscription;
use crate::peer::Watch;
use crate::server::call::{Call, Gone};

/// Executes an operation on a subscription.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    match op {
        Op::Make { source } => {
            let made = make(call, source);
            call.answer(made.map(drop)).await
        }
        Op::MakeBound { source } => {
            let made = make(call, source);
            call.bind(made).await
        }
        Op::Receive | Op::ReceiveMany => {
            let subscription = match call.element_of::<Subscription>() {
                Ok(subscription) => subscription,
                Err(error) => return call.refuse(error).await,
            };
            let channel = subscription.channel();
            match op {
                Op::ReceiveMany => channel::receive_many(call, channel, Form::Message).await,
                Op::Receive | Op::Make { .. } | Op::MakeBound { .. } => {
                    channel::receive(call, channel.receive(), Form::Message).await
                }
            }
        }
    }
}

/// Makes a subscription.
fn make(call: &mut Call, source: Source) -> Result<Arc<Subscription>, Error> {
    let (peer, services) = (call.server.peer.clone(), call.server.services.clone());
    call.make(|| {
        let subscription = Subscription::new(source)?;
        match source {
            Source::Join | Source::Leave => {
                let watcher: Arc<dyn Watch> = subscription.clone();
                peer.watch(&watcher);
            }
            Source::Service => services.subscribe(&subscription),
        }
        Ok(subscription)
    })
}
