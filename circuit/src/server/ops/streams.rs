//! The operations that processes and containers share: their three streams, their end, signals.

use std::pin::pin;
use std::sync::Arc;

use circuit_client::transport::stream::{RecvHalf, StreamError};
use circuit_proto::element::process::Sink;
use circuit_proto::element::streams::{Ended, Op, Reach};
use circuit_proto::request::End;
use circuit_proto::{Code, Error};

use crate::element::container::Container;
use crate::element::process::Process;
use crate::element::service::Service;
use crate::element::streams::{Attachable, Reading, Streams, Writing};
use crate::element::{Element, Kind};
use crate::runtime::Runtime;
use crate::server::call::{Call, Gone};

/// Executes an operation on a process or a container.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    if let Some(service) = call.element().as_ref().and_then(Service::of).cloned() {
        return Box::pin(execute_on_service(call, &service, op)).await;
    }
    let program = match Program::of(call) {
        Ok(program) => program,
        Err(error) => return call.refuse(error).await,
    };
    let streams = program.streams();
    match op {
        Op::Stdin => match streams.stdin.attach(call.operation.who()) {
            Ok(writing) => write(call, writing, program.attachable()).await,
            Err(error) => call.refuse(error).await,
        },
        Op::Stdout => match program.stdout(call.operation.who()) {
            Ok(reading) => read(call, reading, program.attachable()).await,
            Err(error) => call.refuse(error).await,
        },
        Op::Stderr => match program.stderr(call.operation.who()) {
            Ok(reading) => read(call, reading, program.attachable()).await,
            Err(error) => call.refuse(error).await,
        },
        Op::Wait => match call.unless_gone(pin!(program.wait())).await {
            Ok(ended) => call.answer(ended).await,
            Err(Gone) => {
                program.waiter_gone();
                Err(Gone)
            }
        },
        Op::Signal { signal, reach } => {
            let sent = Box::pin(program.signal(&signal, reach, &call.server.runtime)).await;
            call.answer(sent).await
        }
    }
}

/// Executes an operation on a service or slot, which has no streams to attach to.
async fn execute_on_service(call: &mut Call, service: &Arc<Service>, op: Op) -> Result<(), Gone> {
    match op {
        Op::Stdin | Op::Stdout | Op::Stderr => {
            let what = call.operation.what().to_owned();
            let message = match op {
                Op::Stdin => "its stdin is empty".to_owned(),
                _ => "its output is retained: read it with logs".to_owned(),
            };
            let message = format!("a service does not take {what}: {message}");
            call.refuse(Error::new(Code::WrongKind, message)).await
        }
        Op::Wait => {
            let waited = call.unless_gone(pin!(service.ended())).await?;
            call.answer(waited.map(|status| Ended::Service(Box::new(status))))
                .await
        }
        Op::Signal { signal, reach } => {
            let sent = service.signal(&signal, reach).await;
            call.answer(sent).await
        }
    }
}

/// Fails for an output of a process that goes to a file, and says to which: there is nothing to read here.
fn elsewhere(sink: &Sink) -> Result<(), Error> {
    match sink {
        Sink::File(path) => {
            let message = format!("it goes to the file {path}");
            Err(Error::new(Code::Closed, message))
        }
        Sink::Log => {
            let message = "it is retained: read it with logs";
            Err(Error::new(Code::Closed, message))
        }
        Sink::Pipe | Sink::Discard => Ok(()),
    }
}

/// An element that runs a program.
enum Program {
    Process(Arc<Process>),
    Container(Arc<Container>),
}

impl Program {
    fn of(call: &Call) -> Result<Program, Error> {
        let element = call.element();
        let process = element.as_ref().and_then(Process::of);
        let container = element.as_ref().and_then(Container::of);
        match (process, container) {
            (Some(process), _) => Ok(Program::Process(process.clone())),
            (None, Some(container)) => Ok(Program::Container(container.clone())),
            (None, None) => Err(call.wrong_kind(element)),
        }
    }

    fn attachable(&self) -> &dyn Attachable {
        match self {
            Program::Process(process) => &**process,
            Program::Container(container) => &**container,
        }
    }

    /// Attaches a reader to its stdout.
    fn stdout(&self, who: &Arc<str>) -> Result<Reading, Error> {
        if let Program::Process(process) = self {
            elsewhere(&process.cmd().stdout)?;
        }
        self.streams().stdout.attach(who)
    }

    /// Attaches a reader to its stderr.
    fn stderr(&self, who: &Arc<str>) -> Result<Reading, Error> {
        if let Program::Process(process) = self {
            elsewhere(&process.cmd().stderr)?;
        }
        self.streams().stderr.attach(who)
    }

    fn streams(&self) -> &Streams {
        self.attachable().streams()
    }

    /// Waits until the program has ended.
    async fn wait(&self) -> Result<Ended, Error> {
        Ok(match self {
            Program::Process(process) => Ended::Process(Box::new(process.wait().await?)),
            Program::Container(container) => Ended::Container(Box::new(container.wait().await?)),
        })
    }

    /// Tells a process that somebody who waited for it is gone.
    fn waiter_gone(&self) {
        match self {
            Program::Process(process) => process.waiter_gone(),
            Program::Container(_) => (),
        }
    }

    async fn signal(&self, signal: &str, reach: Reach, runtime: &Runtime) -> Result<(), Error> {
        match self {
            Program::Process(process) => process.signal(signal, reach, runtime).await,
            Program::Container(container) => container.signal(signal, reach).await,
        }
    }
}

/// Removes an element that forgets itself from the tree, once `done` resolves.
pub(super) fn forget_after<K: Kind>(
    call: &Call,
    element: Arc<K>,
    done: impl Future<Output = ()> + Send + 'static,
) {
    let (server, names) = (call.server.clone(), call.names().to_vec());
    tokio::spawn(async move {
        done.await;
        let held = element.clone().into_element();
        let same = |found: &Element| found.is(&held);
        if server.tree.remove_if(&names, same).is_some() {
            element.scrubbed().await;
        }
    });
}

/// How an output's reader ended.
enum Given {
    /// It has all of the output, or wants no more of it.
    All(End),
    /// It left the rest to the next reader.
    Left,
}

/// The meaning of a reader's `End`.
enum Parting {
    /// Nobody wants the rest: it is discarded.
    Close,
    /// The rest is the next reader's.
    Leave,
}

impl Parting {
    fn take(self, reading: &Reading) -> Given {
        match self {
            Parting::Close => {
                reading.discard();
                Given::All(Ok(()))
            }
            Parting::Leave => Given::Left,
        }
    }
}

/// Resolves when a reader parts in order. A reader that is gone says nothing.
async fn parting(recv: &mut RecvHalf) -> Parting {
    loop {
        match recv.data().await {
            // Readers send no data.
            Ok(Some(_)) => (),
            Ok(None) => return Parting::Close,
            Err(StreamError::Failed(_)) => return Parting::Leave,
            Err(StreamError::Abandoned | StreamError::Lost(_) | StreamError::Protocol(_)) => {
                std::future::pending().await
            }
        }
    }
}

/// Hands an output to the caller, live, until the output ends or one of them goes away.
async fn read(call: &mut Call, mut reading: Reading, element: &dyn Attachable) -> Result<(), Gone> {
    let given = give(call, &mut reading, element).await;
    if let Ok(Given::All(Ok(()))) = given {
        reading.finish();
    }
    // The place is free before the caller hears of the end.
    drop(reading);
    match given {
        Ok(Given::All(end)) => call.end(end).await,
        // The reader leaves before the end, so this is no end of the output.
        Ok(Given::Left) => {
            element.attached_gone();
            call.end(Ok(())).await
        }
        Err(Gone) => {
            element.attached_gone();
            Err(Gone)
        }
    }
}

async fn give(
    call: &mut Call,
    reading: &mut Reading,
    element: &dyn Attachable,
) -> Result<Given, Gone> {
    call.accept().await?;
    let Call { send, recv, .. } = call;
    let abandoned = send.abandoned();
    tokio::pin!(abandoned);
    let parting = parting(recv);
    tokio::pin!(parting);
    loop {
        let chunk = tokio::select! {
            biased;
            () = element.streams().scrubbed() => return Ok(Given::All(Err(scrubbed()))),
            // Before more is handed to the reader.
            parting = &mut parting => return Ok(parting.take(reading)),
            chunk = reading.next() => chunk,
            () = &mut abandoned => return Err(Gone),
        };
        let chunk = match chunk {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(Given::All(Ok(()))),
            Err(error) => return Ok(Given::All(Err(error))),
        };
        let sent = send.data(chunk);
        tokio::pin!(sent);
        let parting = tokio::select! {
            biased;
            sent = &mut sent => {
                sent?;
                reading.handed();
                continue;
            }
            parting = &mut parting => parting,
        };
        // A reader that leaves reads what is under way, and then our end.
        if let Parting::Leave = parting {
            sent.await?;
            reading.handed();
        }
        return Ok(parting.take(reading));
    }
}

/// Takes an input from the caller until the input ends or one of them goes away.
async fn write(
    call: &mut Call,
    mut writing: Writing,
    element: &dyn Attachable,
) -> Result<(), Gone> {
    let taken = take(call, &mut writing, element).await;
    // The place is free before the caller hears of the end.
    drop(writing);
    match taken {
        Ok(end) => call.end(end).await,
        Err(Gone) => {
            // The stdin stays open for another writer, unless the element is to hang up. Of an
            // element that has ended nobody expects an end of the data.
            if !element.streams().is_over() {
                element.attached_gone();
            }
            Err(Gone)
        }
    }
}

async fn take(
    call: &mut Call,
    writing: &mut Writing,
    element: &dyn Attachable,
) -> Result<End, Gone> {
    call.accept().await?;
    let abandoned = call.send.abandoned();
    tokio::pin!(abandoned);
    loop {
        let data = tokio::select! {
            data = call.recv.data() => data?,
            () = element.streams().scrubbed() => return Ok(Err(scrubbed())),
            () = &mut abandoned => return Err(Gone),
        };
        // Writing may wait for the process, which may exit, be scrubbed or lose its writer.
        let done = async {
            match data {
                Some(data) => writing.write(&data).await.map(|()| false),
                None => writing.end().await.map(|()| true),
            }
        };
        let done = tokio::select! {
            biased;
            done = done => done,
            () = element.streams().scrubbed() => Err(scrubbed()),
            _ = element.streams().over() => Err(Writing::closed()),
            () = &mut abandoned => return Err(Gone),
        };
        match done {
            Ok(false) => (),
            Ok(true) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn scrubbed() -> Error {
    Error::new(Code::Aborted, "the element was scrubbed")
}
