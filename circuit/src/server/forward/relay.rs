//! Passes on what two ends say to each other: frames and chunks unread, half-closes, resets and
//! stops as they come, with back-pressure both ways.
//!
//! The relay knows streams only: neither operations nor servers. The caller of [`down`] words what
//! is said to a reader whose other end is lost.
//!
//! **Invariant:** at most one item is held per direction: a chunk of 64 KiB at most, or a frame of
//! 1 MiB where a frame may come.
//!
//! **Invariant:** an item is passed on whole or not at all, so that an error can follow it.
//!
//! **Cancellation:** a direction that is dropped resets and stops both its ends.

use bytes::Bytes;
use circuit_client::transport::stream::{RecvHalf, SendHalf, StreamError};
use circuit_proto::codec::{MAX_CHUNK, MAX_FRAME};
use circuit_proto::request::{End, Reply};
use circuit_proto::{Code, Error};

/// The next step of a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The reply, with which an answer begins.
    Reply,
    /// A chunk of the data, or the empty one behind the last.
    Data,
    /// The `End` of the data.
    End,
    /// Frames behind the `End`.
    Behind,
}

impl Stage {
    /// The longest item that may come, in bytes.
    fn limit(self) -> usize {
        match self {
            Stage::Data => MAX_CHUNK,
            Stage::Reply | Stage::End | Stage::Behind => MAX_FRAME,
        }
    }

    /// The stage behind an item.
    fn after(self, item: &Bytes) -> Stage {
        match self {
            Stage::Reply => Stage::Data,
            Stage::Data if item.is_empty() => Stage::End,
            Stage::Data => Stage::Data,
            Stage::End | Stage::Behind => Stage::Behind,
        }
    }
}

/// The next item of a direction; `None` if it has finished.
async fn item(from: &mut RecvHalf, stage: Stage) -> Result<Option<Bytes>, StreamError> {
    match from.at_finish().await? {
        true => Ok(None),
        false => from.raw_frame(stage.limit()).await.map(Some),
    }
}

/// From the caller, whose request has been passed on, to the other server.
pub(super) async fn up(mut from: RecvHalf, mut to: SendHalf) {
    let abandoned = to.abandoned();
    tokio::pin!(abandoned);
    let mut stage = Stage::Data;
    loop {
        let item = tokio::select! {
            item = item(&mut from, stage) => item,
            // The other server reads no more: dropped here, `from` stops the caller.
            () = &mut abandoned => return,
        };
        let item = match item {
            Ok(Some(item)) => item,
            Ok(None) => return to.finish(),
            // `to` resets when it is dropped unfinished.
            Err(_) => return,
        };
        stage = stage.after(&item);
        if to.raw_frame(item).await.is_err() {
            return;
        }
    }
}

/// From the other server to the caller. `changes` says whether the operation changes anything, so
/// that its outcome is unknown where the other server is lost before its reply. `explain` gives the
/// error for a caller whose other end is lost; without one the caller is left waiting for the end of
/// its own connection.
pub(super) async fn down(
    mut from: RecvHalf,
    mut back: SendHalf,
    changes: bool,
    explain: impl FnOnce(&StreamError) -> Option<Error>,
) {
    let abandoned = back.abandoned();
    tokio::pin!(abandoned);
    let mut stage = Stage::Reply;
    let lost = loop {
        let item = tokio::select! {
            item = item(&mut from, stage) => item,
            () = &mut abandoned => return,
        };
        let item = match item {
            Ok(Some(item)) => item,
            Ok(None) => return back.finish(),
            // The other server itself abandoned the stream: so does this one.
            Err(StreamError::Abandoned) => return,
            Err(error) => break error,
        };
        stage = stage.after(&item);
        if back.raw_frame(item).await.is_err() {
            return;
        }
    };
    // Nothing more is read of it.
    drop(from);
    let Some(mut error) = explain(&lost) else {
        return abandoned.await;
    };
    // Behind the end an acknowledgement is answered, which may have been heard.
    let unknown = match stage {
        Stage::Reply => changes,
        Stage::Data | Stage::End => false,
        Stage::Behind => true,
    };
    if unknown {
        error.code = Code::Unknown;
    }
    // A caller that is gone needs no word.
    let _ = match stage {
        Stage::Reply => back.last_frame(&Reply::Err(error)).await,
        Stage::Data => back.end(&Err(error)).await,
        Stage::End | Stage::Behind => back.last_frame(&End::Err(error)).await,
    };
}

#[cfg(test)]
mod tests;
