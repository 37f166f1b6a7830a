//! The dialling side of tethers: opens one beside each connection that this server has dialled,
//! and opens it again when it is lost.

use std::io;
use std::sync::Arc;

use circuit_client::transport::dial::DIAL_TIMEOUT;
use circuit_client::transport::endpoint::plain;
use circuit_client::transport::tether::{FIRST_PAUSE, LONGEST_PAUSE, Tokens, dial};
use tokio::time::Instant;

use super::{Subject, Tether, Tethers};
use crate::runtime::descriptors::User;

impl Tethers {
    /// Opens the tether of a connection that this end has dialled. To be called once the other
    /// end has said something on the connection: then it expects the token.
    pub(in crate::peer) fn dial(
        self: &Arc<Self>,
        connection: &quinn::Connection,
        subject: Subject,
    ) -> Option<Tether> {
        let tokens = Tokens::of(connection)?;
        let tethers = self.clone();
        let (from, to) = (self.address, plain(connection.remote_address()));
        Some(Tether::spawn(connection.clone(), |asked| async move {
            let mut pause = FIRST_PAUSE;
            loop {
                let dialled = async {
                    let taken = tethers.runtime.descriptors.take(User::Tethers, 1);
                    let _taken = taken.map_err(io::Error::other)?;
                    dial(Some(from), to, &tokens).await
                };
                let dialled = tokio::time::timeout(DIAL_TIMEOUT, dialled).await;
                match dialled {
                    Ok(Ok(stream)) => {
                        let begin = Instant::now();
                        tethers.hold(&stream, &asked, &subject).await;
                        if begin.elapsed() >= LONGEST_PAUSE {
                            pause = FIRST_PAUSE;
                        }
                    }
                    Ok(Err(error)) => tracing::debug!("no tether to {to}: {error}"),
                    Err(_) => tracing::debug!("no tether to {to}: no answer"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }))
    }
}
