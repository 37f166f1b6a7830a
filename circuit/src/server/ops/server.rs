//! The operations on a server, at its own anchor.

use std::pin::pin;

use circuit_proto::element::server::Op;

use crate::element::server::{Server, stacks};
use crate::server::LEAVE_WAIT;
use crate::server::call::{Call, Gone};

/// Executes an operation on this server itself.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    if let Err(error) = call.element_of::<Server>() {
        return call.refuse(error).await;
    }
    match op {
        Op::Join { url } => {
            let joined = call.unless_gone(pin!(call.server.peer.join(&url))).await?;
            call.answer(joined).await
        }
        Op::Suicide | Op::Stop => {
            let server = call.server.clone();
            if op == Op::Stop {
                server.services.stop_at_end();
            }
            server.withdraw();
            let heard = call.send.received();
            let answered = call.answer(Ok(())).await;
            // The caller is to hear of it before the connection goes.
            let _ = tokio::time::timeout(LEAVE_WAIT, heard).await;
            server.suicide().await;
            answered
        }
        Op::Stacks => {
            let text = stacks(&call.server);
            call.text(text).await
        }
    }
}
