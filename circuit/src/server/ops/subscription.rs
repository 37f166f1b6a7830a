//! Making subscriptions. The operations that receive their events are a channel's.

use std::sync::Arc;

use circuit_proto::element::subscription::Op;

use crate::element::subscription::Subscription;
use crate::peer::Watch;
use crate::server::call::{Call, Gone};

/// Executes an operation on a subscription.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    match op {
        Op::Make { source } => {
            let peer = call.server.peer.clone();
            let made = call.make(|| {
                let subscription = Subscription::new(source)?;
                let watcher: Arc<dyn Watch> = subscription.clone();
                peer.watch(&watcher);
                Ok(subscription)
            });
            call.answer(made).await
        }
    }
}
