//! Making containers. The caller is shown how an image is fetched.
//!
//! **Cancellation:** a caller that goes away while an image is fetched takes its container along;
//! one that goes away later leaves it made.

use std::sync::Arc;

use circuit_proto::element::container::{Op, Run};
use circuit_proto::{Code, Error};
use futures_util::StreamExt;

use super::streams::forget_after;
use crate::anchor::Reservation;
use crate::element::Element;
use crate::element::container::engine::Engine;
use crate::element::container::{Container, fetch_image, needs_image};
use crate::server::call::{Call, Gone};

/// Executes an operation on a container.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    match op {
        // Boxed: every request would carry along three quarters of it.
        Op::Make(run) => Box::pin(make(call, run)).await,
    }
}

/// Makes a container element, and sees to it that one which forgets itself does.
async fn make(call: &mut Call, run: Run) -> Result<(), Gone> {
    let (engine, place) = match reserve(call) {
        Ok(reserved) => reserved,
        Err(error) => return call.refuse(error).await,
    };
    match needs_image(&engine, &run, &call.path).await {
        Ok(true) => {
            call.accept().await?;
            let made = match fetch(call, &engine, &run).await? {
                Ok(()) => start(call, engine, place, run).await,
                Err(error) => Err(error),
            };
            call.end(made).await
        }
        Ok(false) => match start(call, engine, place, run).await {
            // Nothing was fetched, so there is no progress.
            Ok(()) => call.text(String::new()).await,
            Err(error) => call.refuse(error).await,
        },
        Err(error) => call.refuse(error).await,
    }
}

/// The Engine, and the place for the element.
fn reserve(call: &mut Call) -> Result<(Arc<Engine>, Reservation<Element>), Error> {
    let Some(engine) = call.server.engine.clone() else {
        let message = "this server hosts no containers: start it with -docker";
        return Err(Error::new(Code::Refused, message));
    };
    Ok((engine, call.reserve()?))
}

/// Fetches the image, until it is there or the caller is gone.
async fn fetch(call: &mut Call, engine: &Engine, run: &Run) -> Result<Result<(), Error>, Gone> {
    let abandoned = call.send.abandoned();
    tokio::pin!(abandoned);
    let mut progress = std::pin::pin!(fetch_image(engine, run));
    loop {
        let line = tokio::select! {
            line = progress.next() => line,
            () = &mut abandoned => return Err(Gone),
        };
        match line {
            Some(Ok(line)) => call.send.data(line.into()).await?,
            Some(Err(error)) => return Ok(Err(error)),
            None => return Ok(Ok(())),
        }
    }
}

async fn start(
    call: &mut Call,
    engine: Arc<Engine>,
    place: Reservation<Element>,
    run: Run,
) -> Result<(), Error> {
    let container = Container::start(engine, run, &call.path, &call.server.runtime).await?;
    call.commit(place, &container);
    if container.forgets_itself() {
        let ended = container.clone();
        forget_after(call, container, async move { ended.done().await });
    }
    Ok(())
}
