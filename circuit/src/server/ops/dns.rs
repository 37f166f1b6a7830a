//! The operations on a DNS server.

use std::sync::Arc;

use circuit_proto::element::dns::Op;
use circuit_proto::{Code, Error};

use crate::element::dns::Dns;
use crate::peer::Watch;
use crate::server::address::{self, AddressError};
use crate::server::call::{Call, Gone};

/// Executes an operation on a DNS server.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    let result = match op {
        Op::Make { address, zone } => make(call, address, zone).await,
        Op::Set { record } => {
            let dns = call.element_of::<Dns>();
            call.in_order(|| dns?.set(&record))
        }
        Op::Unset { name, kind } => {
            let dns = call.element_of::<Dns>();
            call.in_order(|| dns?.unset(&name, kind.as_deref()))
        }
    };
    call.answer(result).await
}

/// Makes a DNS server. Its address may have to be looked up, so the place is kept meanwhile.
async fn make(call: &mut Call, address: Option<String>, zone: Option<String>) -> Result<(), Error> {
    let server = call.server.clone();
    let place = call.reserve()?;
    let own = address::complete(server.address);
    let address = match address {
        None => own,
        Some(text) => {
            let resolving = &server.runtime.resolving;
            let resolved = resolving.run(move || address::resolve(&text)).await?;
            let invalid = |error| Error::new(Code::InvalidArgument, with_cause(&error));
            let (host, port) = resolved.map_err(invalid)?;
            let mut address = host.unwrap_or(own);
            address.set_port(port);
            address
        }
    };
    let dns = Dns::start(
        address,
        zone.as_deref(),
        server.fingerprint.id(),
        &server.runtime,
    )?;
    if dns.has_zone() {
        let watcher: Arc<dyn Watch> = dns.clone();
        server.peer.watch(&watcher);
    }
    call.commit(place, &dns);
    Ok(())
}

/// An error with its cause.
fn with_cause(error: &AddressError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
