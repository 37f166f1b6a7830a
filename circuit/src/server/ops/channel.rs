//! The operations on a channel, of which subscriptions share those that receive; and one message
//! on a stream of its own. [`many`] has many messages on one stream.
//!
//! The answers to the caller rest on the element alone: [`Sending`] and [`Receiving`] decide, these
//! files carry the words. See [`circuit_proto::element::channel`] for those.
//!
//! **Cancellation:** a caller that goes away takes its sends and receives along; what was stored or
//! acknowledged stays so.

mod many;

pub(super) use many::receive as receive_many;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use circuit_client::transport::stream::StreamError;
use circuit_proto::Error;
use circuit_proto::element::channel::Op;
use circuit_proto::element::subscription::Source;
use circuit_proto::request::End;

use crate::element::Kind;
use crate::element::channel::{Channel, Receiving, Sending, joined};
use crate::element::subscription::Subscription;
use crate::server::call::{Call, Gone};

/// The chunk that says that a message has its place.
const PLACED: Bytes = Bytes::from_static(&[1]);

/// The form in which a receiver is given a message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// The message as it is.
    Message,
    /// Of a subscription's event, the path of its server.
    Path,
}

impl Form {
    fn of(self, pieces: Vec<Bytes>) -> Vec<Bytes> {
        match self {
            Form::Message => pieces,
            // An event is short, and pulled in one piece.
            Form::Path => vec![Subscription::path_in(&joined(pieces))],
        }
    }
}

/// Executes an operation on a channel.
pub(in crate::server) async fn execute(call: &mut Call, op: Op) -> Result<(), Gone> {
    let element = match op {
        Op::Make { capacity } => {
            let made = call.make(|| Channel::new(capacity));
            return call.answer(made.map(drop)).await;
        }
        Op::MakeBound { capacity } => {
            let made = call.make(|| Channel::new(capacity));
            return call.bind(made).await;
        }
        Op::Send | Op::SendMany | Op::Close => {
            let channel = call.element_of::<Channel>();
            channel.map(|channel| (channel, Form::Message))
        }
        Op::Receive | Op::ReceiveWithin { .. } | Op::ReceiveMany => source(call),
    };
    let (channel, form) = match element {
        Ok(found) => found,
        Err(error) => return call.refuse(error).await,
    };
    match op {
        Op::Send => send(call, &channel).await,
        Op::Receive => receive(call, channel.receive(), form).await,
        Op::ReceiveWithin { wait } => {
            let mut receiving = channel.receive();
            receiving.wait_for(Duration::from_millis(wait));
            receive(call, receiving, form).await
        }
        Op::SendMany => many::send(call, &channel).await,
        Op::ReceiveMany => many::receive(call, &channel, form).await,
        Op::Make { .. } | Op::MakeBound { .. } | Op::Close => {
            let closed = call.in_order(|| channel.close());
            call.answer(closed).await
        }
    }
}

/// The channel that messages are received from, and their form.
fn source(call: &Call) -> Result<(Arc<Channel>, Form), Error> {
    let element = call.element();
    match element.as_ref().and_then(Subscription::of) {
        Some(subscription) => {
            let form = match subscription.source() {
                Source::Join | Source::Leave => Form::Path,
                Source::Service => Form::Message,
            };
            Ok((subscription.channel().clone(), form))
        }
        None => Ok((call.element_of()?, Form::Message)),
    }
}

/// Takes one message from the caller.
async fn send(call: &mut Call, channel: &Arc<Channel>) -> Result<(), Gone> {
    let sending = match channel.send() {
        Ok(sending) => sending,
        Err(error) => return call.refuse(error).await,
    };
    let abandoned = call.send.abandoned();
    let taken = tokio::select! {
        taken = take(call, &sending) => taken,
        () = abandoned => Err(Gone),
    };
    drop(sending);
    call.end(taken?).await
}

async fn take(call: &mut Call, sending: &Sending) -> Result<End, Gone> {
    // A message that comes whole and finds its place at once is answered in one write.
    call.queue_accept()?;
    let Call { send, recv, .. } = call;
    if let Err(error) = send.unless_ready(pin!(sending.placed())).await? {
        return Ok(Err(error));
    }
    send.queue_data(PLACED);
    loop {
        let data = pin!(async {
            tokio::select! {
                data = recv.data() => Ok(data?),
                error = sending.failed() => Err(Failed::Send(error)),
            }
        });
        let bytes = match send.unless_ready(data).await? {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(Failed::Send(error)) => return Ok(Err(error)),
            Err(Failed::Stream(error)) => return Err(error.into()),
        };
        if let Err(error) = send.unless_ready(pin!(sending.push(bytes))).await? {
            return Ok(Err(error));
        }
    }
    sending.end();
    let end = send.unless_ready(pin!(sending.stored())).await?;
    if end.is_ok() {
        call.server.runtime.counters.messages_sent.one();
    }
    Ok(end)
}

/// Why no more of a message is taken.
enum Failed {
    Send(Error),
    Stream(StreamError),
}

impl From<StreamError> for Failed {
    fn from(error: StreamError) -> Failed {
        Failed::Stream(error)
    }
}

/// Gives one message to the caller.
pub(super) async fn receive(call: &mut Call, receiving: Receiving, form: Form) -> Result<(), Gone> {
    let abandoned = call.send.abandoned();
    let given = tokio::select! {
        given = give(call, &receiving, form) => given?,
        () = abandoned => return Err(Gone),
    };
    match given {
        Err(error) => {
            drop(receiving);
            call.end(Err(error)).await
        }
        Ok(()) => {
            let done: End = receiving.commit();
            if done.is_ok() {
                call.server.runtime.counters.messages_received.one();
            }
            call.operation.log(done.as_ref().err());
            Ok(call.send.last_frame(&done).await?)
        }
    }
}

/// Gives the message, until the caller says that it has all of it.
async fn give(call: &mut Call, receiving: &Receiving, form: Form) -> Result<End, Gone> {
    // A message of one chunk that is there at once is given in one write.
    call.queue_accept()?;
    let mut is_first = true;
    loop {
        match call.send.unless_ready(pin!(receiving.pull())).await? {
            Ok(Some(pieces)) if is_first => call.send.queue_chunk(form.of(pieces)),
            Ok(Some(pieces)) => call.send.chunk(form.of(pieces)).await?,
            Ok(None) => break,
            Err(error) => return Ok(Err(error)),
        }
        is_first = false;
    }
    call.send.send_end(&Ok(())).await?;
    match call.recv.data().await? {
        None => Ok(Ok(())),
        Some(_) => Err(Gone),
    }
}
