//! Making processes, and the operations that containers do not share.

mod run;

use std::pin::Pin;
use std::sync::Arc;

use circuit_proto::element::process::{Cmd, Op, Sink};
use circuit_proto::{Code, Error};

use super::streams::forget_after;
use crate::element::process::{Given, Manner, Process, SpawnError};
use crate::server::Server;
use crate::server::call::{Call, Gone};

/// Executes an operation on a process.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    match op {
        Op::Make(cmd) => {
            let made = make(call, cmd).await;
            call.answer(made.map(drop)).await
        }
        Op::MakeBound(cmd) => {
            let made = make(call, cmd).await.map(|(process, ())| process);
            if let Ok(process) = &made {
                process.bind();
            }
            call.bind(made).await
        }
        Op::Run { cmd, window } => run::execute(call, cmd, window).await,
        Op::Resize { size } => {
            let process = call.element_of::<Process>();
            call.answer(process.and_then(|process| process.resize(size)))
                .await
        }
    }
}

/// Makes a process element, and sees to it that one which forgets itself does.
fn make(call: &mut Call, cmd: Cmd) -> Made<'_, ()> {
    make_with(call, cmd, |_, _| ())
}

/// A process element in the making. It is boxed, as every request would carry it along.
type Made<'a, T> = Pin<Box<dyn Future<Output = Result<(Arc<Process>, T), Error>> + Send + 'a>>;

/// Makes a process element, with which `first` does something for the caller before anybody else finds
/// it.
fn make_with<'a, T: Send + 'a>(
    call: &'a mut Call,
    cmd: Cmd,
    first: impl FnOnce(&Arc<Process>, &Arc<str>) -> T + Send + 'a,
) -> Made<'a, T> {
    Box::pin(async move {
        let place = call.reserve()?;
        let services = &call.server.services;
        let manner = Manner {
            variables: services.variables_of(call.names()),
            ..Manner::default()
        };
        let mark = services.new_mark();
        let log = match (&cmd.stdout, &cmd.stderr) {
            (Sink::Log, _) | (_, Sink::Log) => Some(services.log_of_process(&mark).await?),
            _ => None,
        };
        let given = Given { manner, mark, log };
        let process = Process::spawn(cmd, given, &call.server.runtime)
            .await
            .map_err(|error| exec_failed(&call.server, &error))?;
        let done_first = first(&process, call.operation.who());
        call.commit(place, &process);
        if process.forgets_itself() {
            let forgettable = process.clone();
            let done = async move { forgettable.forgettable().await };
            forget_after(call, process.clone(), done);
        }
        Ok((process, done_first))
    })
}

fn exec_failed(server: &Server, error: &SpawnError) -> Error {
    let code = match error {
        SpawnError::Invalid(_) => Code::InvalidArgument,
        SpawnError::NotFound { .. } => Code::NoSuchProgram,
        SpawnError::Exec { .. } | SpawnError::File { .. } => Code::Exec,
        SpawnError::System(_) => Code::Busy,
        SpawnError::Refused(_) => Code::Refused,
    };
    match error {
        SpawnError::Invalid(_) => Error::new(code, error.to_string()),
        _ => Error::new(code, format!("{error} (exec on {})", server.named())),
    }
}
