//! The relay between streams in memory: each stage of an answer and of a caller's data, and each way
//! in which either end may go away there.

use std::time::Duration;

use circuit_client::transport::lost::Lost;
use circuit_client::transport::stream::memory;
use circuit_proto::codec;
use circuit_proto::request::Value;

use super::*;

/// The window of a stream, in bytes.
const WINDOW: usize = 1_000;

/// An event at one of the ends.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The connection of the end that speaks is lost.
    Lost,
    /// The end that speaks resets.
    Reset,
    /// The end that speaks finishes.
    Finished,
    /// The end that listens asks to stop.
    Stopped,
    /// The end that speaks announces an item that is one byte too long.
    TooLong,
}

const EVENTS: [Event; 5] = [
    Event::Lost,
    Event::Reset,
    Event::Finished,
    Event::Stopped,
    Event::TooLong,
];

/// The consequence of an event, as the other end hears it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Heard {
    /// The listener hears an orderly finish.
    Finish,
    /// The listener hears a reset.
    Reset,
    /// The listener hears an error of this code as the reply.
    Reply(Code),
    /// The listener hears the end of the data, and an error of this code as its `End`.
    DataEnd(Code),
    /// The listener hears a frame with an error of this code.
    Frame(Code),
    /// The speaker hears the stop.
    Stop,
}

/// Lost without a word, as the caller of the relay explains it.
const LOST: Code = Code::Unreachable;

/// The protocol was broken, as the caller of the relay explains it.
const BROKEN: Code = Code::Internal;

fn explain(lost: &StreamError) -> Option<Error> {
    let code = match lost {
        StreamError::Lost(_) => LOST,
        StreamError::Protocol(_) => BROKEN,
        StreamError::Failed(_) | StreamError::Abandoned => panic!("{lost}"),
    };
    Some(Error::new(code, "explained"))
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// The longest item that may come, in bytes (docs/PROTOCOL.md, "Requests").
fn longest(stage: Stage) -> usize {
    match stage {
        Stage::Data => 64 << 10,
        Stage::Reply | Stage::End | Stage::Behind => 1 << 20,
    }
}

/// An answer of a stream operation, with a frame behind its end.
fn answer() -> [Vec<u8>; 5] {
    let end = codec::frame(&End::Ok(())).unwrap();
    let reply = codec::frame(&Reply::Ok(Value::default())).unwrap();
    [reply, chunk(b"hello"), chunk(b""), end.clone(), end]
}

/// Reads items until these bytes have come.
async fn expect(recv: &mut RecvHalf, bytes: &[u8]) {
    let mut read = Vec::new();
    while read.len() < bytes.len() {
        read.extend(chunk(&recv.raw_frame(MAX_FRAME).await.unwrap()));
    }
    assert_eq!(read, bytes);
}

/// Returns the next thing that the listener hears, where `stage` comes next.
async fn hear(recv: &mut RecvHalf, stage: Stage) -> Heard {
    match recv.at_finish().await {
        Ok(true) => return Heard::Finish,
        Ok(false) => (),
        Err(StreamError::Abandoned) => return Heard::Reset,
        Err(other) => panic!("{other}"),
    }
    let heard = match stage {
        Stage::Reply => Heard::Reply(recv.frame::<Reply>().await.unwrap().unwrap_err().code),
        Stage::Data => {
            assert_eq!(recv.raw_frame(MAX_CHUNK).await.unwrap().len(), 0);
            Heard::DataEnd(recv.frame::<End>().await.unwrap().unwrap_err().code)
        }
        Stage::End | Stage::Behind => {
            Heard::Frame(recv.frame::<End>().await.unwrap().unwrap_err().code)
        }
    };
    assert_eq!(recv.at_finish().await, Ok(true), "behind {heard:?}");
    heard
}

/// Lets one end say `whole` items and the beginning of another, then has the event happen.
async fn passed<R: Future<Output = ()> + Send + 'static>(
    whole: &[u8],
    begun: &[u8],
    stage: Stage,
    event: Event,
    relay: impl FnOnce(RecvHalf, SendHalf) -> R,
) -> Heard {
    let (mut speaker, from, beneath) = memory::direction(WINDOW);
    let (to, listener, _) = memory::direction(WINDOW);
    let mut listener = RecvHalf::new(listener);
    let relay = tokio::spawn(relay(RecvHalf::new(from), SendHalf::new(to)));
    speaker.write(whole);
    speaker.write(begun);
    let heard = async {
        expect(&mut listener, whole).await;
        match event {
            Event::Lost => beneath.lose(&Lost::Silent),
            Event::Reset => speaker.reset(),
            Event::Finished => speaker.finish(),
            Event::TooLong => speaker.write(&(longest(stage) as u32 + 1).to_be_bytes()),
            Event::Stopped => {
                drop(listener);
                speaker.abandoned().await;
                return Heard::Stop;
            }
        }
        let heard = hear(&mut listener, stage).await;
        if let Event::TooLong = event {
            // Nothing more is read of it.
            speaker.abandoned().await;
        }
        heard
    };
    let heard = tokio::time::timeout(Duration::from_secs(10), heard).await;
    let heard = heard.unwrap_or_else(|_| panic!("{event:?} at {stage:?}: nothing is heard"));
    relay.await.unwrap();
    heard
}

/// The bytes that came as whole frames, those that came as a part of one, the next stage, whether the
/// operation changes anything; and the consequences when the speaker is lost, resets, finishes, is
/// asked to stop, says too much.
type Row<'a> = (&'a [u8], &'a [u8], Stage, bool, [Heard; 5]);

/// The stages of an answer: what came whole and in part, what comes next, and what the caller hears
/// of each event.
#[tokio::test]
async fn each_stage_of_an_answer() {
    use Heard::{DataEnd, Finish, Frame, Reply, Reset, Stop};
    let [reply, data, last, end, done] = answer();
    let up_to_data = [&reply[..], &data].concat();
    let up_to_last = [&up_to_data[..], &last].concat();
    let up_to_end = [&up_to_last[..], &end].concat();
    let all = [&up_to_end[..], &done].concat();
    let unknown = Code::Unknown;
    let table: [Row; 9] = [
        (
            &[],
            &[],
            Stage::Reply,
            false,
            [Reply(LOST), Reset, Finish, Stop, Reply(BROKEN)],
        ),
        (
            &[],
            &[],
            Stage::Reply,
            true,
            [Reply(unknown), Reset, Finish, Stop, Reply(unknown)],
        ),
        (
            &reply,
            &[],
            Stage::Data,
            true,
            [DataEnd(LOST), Reset, Finish, Stop, DataEnd(BROKEN)],
        ),
        (
            &up_to_data,
            &[],
            Stage::Data,
            true,
            [DataEnd(LOST), Reset, Finish, Stop, DataEnd(BROKEN)],
        ),
        (
            &up_to_last,
            &[],
            Stage::End,
            true,
            [Frame(LOST), Reset, Finish, Stop, Frame(BROKEN)],
        ),
        (
            &up_to_end,
            &[],
            Stage::Behind,
            false,
            [Frame(unknown), Reset, Finish, Stop, Frame(unknown)],
        ),
        (
            &all,
            &[],
            Stage::Behind,
            false,
            [Frame(unknown), Reset, Finish, Stop, Frame(unknown)],
        ),
        // A part of an item is not passed on, so that a finish behind it is a cut.
        (
            &[],
            &reply[..5],
            Stage::Reply,
            false,
            [Reply(LOST), Reset, Reset, Stop, Reply(LOST)],
        ),
        (
            &reply,
            &data[..6],
            Stage::Data,
            false,
            [DataEnd(LOST), Reset, Reset, Stop, DataEnd(LOST)],
        ),
    ];
    for (whole, begun, stage, changes, expected) in table {
        for (event, expected) in EVENTS.into_iter().zip(expected) {
            if !begun.is_empty() && matches!(event, Event::TooLong) {
                continue;
            }
            let relay = |from, to| down(from, to, changes, explain);
            let heard = passed(whole, begun, stage, event, relay).await;
            let case = format!("{event:?}, next {stage:?} behind {begun:?}, changes: {changes}");
            assert_eq!(heard, expected, "{case}");
        }
    }
}

/// The stages of what a caller sends behind its request, and what the other server hears.
#[tokio::test]
async fn each_stage_of_what_a_caller_sends() {
    use Heard::{Finish, Reset, Stop};
    let [_, data, last, end, _] = answer();
    let up_to_last = [&data[..], &last].concat();
    let up_to_end = [&up_to_last[..], &end].concat();
    let whole = [Reset, Reset, Finish, Stop, Reset];
    let begun = [Reset, Reset, Reset, Stop, Reset];
    let table: [Row; 6] = [
        (&[], &[], Stage::Data, false, whole),
        (&data, &[], Stage::Data, false, whole),
        (&data, &data[..6], Stage::Data, false, begun),
        (&up_to_last, &[], Stage::End, false, whole),
        (&up_to_last, &end[..2], Stage::End, false, begun),
        (&up_to_end, &[], Stage::Behind, false, whole),
    ];
    for (whole, begun, stage, _, expected) in table {
        for (event, expected) in EVENTS.into_iter().zip(expected) {
            if !begun.is_empty() && matches!(event, Event::TooLong) {
                continue;
            }
            let heard = passed(whole, begun, stage, event, up).await;
            assert_eq!(
                heard, expected,
                "{event:?}, next {stage:?} behind {begun:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_loss_that_is_not_explained_leaves_the_caller_to_its_own_connection() {
    let (_speaker, from, other_server) = memory::direction(WINDOW);
    let (to, listener, caller) = memory::direction(WINDOW);
    let mut listener = RecvHalf::new(listener);
    let relay = tokio::spawn(down(RecvHalf::new(from), SendHalf::new(to), true, |_| None));
    other_server.lose(&Lost::Closed(0));
    let silent = tokio::time::timeout(Duration::from_millis(50), listener.at_finish()).await;
    assert!(silent.is_err(), "{silent:?}");
    caller.lose(&Lost::Left);
    let lost = Err(StreamError::Lost(Lost::Left));
    assert_eq!(listener.at_finish().await, lost);
    relay.await.unwrap();
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_the_other_server_back() {
    let (speaker, from, _) = memory::direction(WINDOW);
    let (to, listener, _) = memory::direction(WINDOW);
    let (mut speaker, mut listener) = (SendHalf::new(speaker), RecvHalf::new(listener));
    let relay = tokio::spawn(down(RecvHalf::new(from), SendHalf::new(to), false, explain));
    speaker.frame(&Reply::Ok(Value::default())).await.unwrap();
    let data = Bytes::from(vec![7; 10 * MAX_CHUNK]);
    let sent = tokio::spawn(async move {
        speaker.data(data).await.unwrap();
        speaker.end(&Ok(())).await.unwrap();
    });
    // The windows and the relay hold far less.
    tokio::task::yield_now().await;
    let early = tokio::time::timeout(Duration::from_millis(50), sent);
    tokio::pin!(early);
    assert!(early.as_mut().await.is_err());
    listener.frame::<Reply>().await.unwrap().unwrap();
    let mut length = 0;
    while let Some(bytes) = listener.data().await.unwrap() {
        length += bytes.len();
    }
    assert_eq!(length, 10 * MAX_CHUNK);
    relay.await.unwrap();
}
