//! Making services, and the operations on them and their slots.

use std::pin::pin;
use std::sync::Arc;

use circuit_proto::Error;
use circuit_proto::codec::{self, MAX_CHUNK};
use circuit_proto::element::service::{Line, Op, Scaled};
use circuit_proto::request::End;

use crate::element::Kind;
use crate::element::process::Process;
use crate::element::service::{Service, line, log_failed, read_log};
use crate::logs::Reader;
use crate::server::call::{Call, Gone};

/// Executes an operation on a service or slot.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    if let Op::Make {
        definition,
        down,
        update,
    } = op
    {
        let made = Box::pin(make(call, definition, down, update)).await;
        return call.answer(made).await;
    }
    if let Op::Logs(query) = &op
        && let Some(process) = call.element().as_ref().and_then(Process::of)
    {
        let read = process.log().and_then(|log| read_log(&log, query, None));
        return Box::pin(logs(call, read)).await;
    }
    let service = match call.element_of::<Service>() {
        Ok(service) => service,
        Err(error) => return call.refuse(error).await,
    };
    match op {
        Op::Make { .. } => Ok(()),
        Op::Check { definition } => {
            let checked = Box::pin(service.check(definition)).await;
            call.answer(checked).await
        }
        Op::Up | Op::Down | Op::Restart { .. } | Op::Reload => {
            let recorded = match Box::pin(service.prepare(&op)).await {
                Ok(bound) => match call.in_order(|| service.intend(&op, bound)) {
                    Ok(intended) => Box::pin(intended.recorded()).await,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            call.answer(recorded).await
        }
        Op::Scale { by } => {
            let scaled = call.in_order(|| service.scale(by));
            let recorded = match scaled {
                Ok((from, to, intended)) => {
                    let recorded = Box::pin(intended.recorded()).await;
                    recorded.map(|intent| Scaled { from, to, intent })
                }
                Err(error) => Err(error),
            };
            call.answer(recorded).await
        }
        Op::Watch { intent } => {
            let mut watched = Box::pin(service.watch(intent));
            let outcome = call.unless_gone(watched.as_mut()).await?;
            call.answer(outcome).await
        }
        Op::Wait { ready } => {
            let waited = call.unless_gone(pin!(service.wait(ready))).await?;
            call.answer(waited).await
        }
        Op::Logs(query) => Box::pin(logs(call, service.logs(&query))).await,
    }
}

/// Makes a service, or gives one another definition.
async fn make(call: &mut Call, definition: String, down: bool, update: bool) -> Result<u64, Error> {
    if update && let Some(service) = call.element().as_ref().and_then(Service::of) {
        return service.clone().update(definition).await;
    }
    let place = call.reserve_closed()?;
    let services = call.server.services.clone();
    let names = call.names().to_vec();
    let commit = |service: Arc<Service>| call.commit(place, &service);
    Service::make(&services, names, definition, down, commit).await
}

/// Hands retained output to the caller.
async fn logs(call: &mut Call, read: Result<Reader, Error>) -> Result<(), Gone> {
    let mut reader = match read {
        Ok(reader) => reader,
        Err(error) => return call.refuse(error).await,
    };
    call.accept().await?;
    let end: End = loop {
        let items = tokio::select! {
            items = reader.next() => items,
            () = call.send.abandoned() => return Err(Gone),
        };
        let items = match items {
            Ok(Some(items)) => items,
            Ok(None) => break Ok(()),
            Err(error) => break Err(log_failed(&error)),
        };
        let mut bytes = Vec::new();
        for item in items {
            for line in pieces(line(item)) {
                let before = bytes.len();
                if codec::append(&mut bytes, &line).is_err() {
                    continue;
                }
                if bytes.len() > MAX_CHUNK && before > 0 {
                    let rest = bytes.split_off(before);
                    call.send
                        .data(std::mem::replace(&mut bytes, rest).into())
                        .await?;
                }
            }
        }
        if !bytes.is_empty() {
            call.send.data(bytes.into()).await?;
        }
    };
    call.end(end).await
}

/// The longest text of a line that fits a chunk with what goes with it.
const LONGEST_TEXT: usize = MAX_CHUNK - 64;

/// A line, in pieces that fit chunks.
fn pieces(line: Line) -> Vec<Line> {
    match line {
        Line::Line {
            time,
            slot,
            instance,
            stream,
            text,
        } if text.len() > LONGEST_TEXT => text
            .chunks(LONGEST_TEXT)
            .map(|piece| Line::Line {
                time,
                slot,
                instance,
                stream,
                text: piece.to_vec(),
            })
            .collect(),
        line => vec![line],
    }
}
