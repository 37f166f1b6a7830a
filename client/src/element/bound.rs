//! Elements that last as long as a handle: their making is a stream that the handle keeps open.

use std::ops::Deref;

use circuit_proto::Code;
use circuit_proto::request::Op;

use super::{Handle, Kind};
use crate::anchor::Anchor;
use crate::error::Error;
use crate::transport::stream::{RecvHalf, SendHalf, StreamError};

/// A handle to an element that is bound to it: the element goes when the handle does, whether it is
/// [ended](Bound::end) or dropped, its program is killed, or the connection is lost on the way, also
/// at a server that forwards. A server that hears no end gives a connection up after 10 s.
///
/// It is a [`Handle`] as well, whose methods it has; a clone of that binds nothing.
///
/// A process goes with its whole group, which is hung up (`SIGHUP`), and killed if it is still there
/// after 10 s; until then its element stays. What goes of the other kinds, goes as with
/// [`scrub`](Handle::scrub).
///
/// ```no_run
/// # async fn example(client: circuit_client::Client) -> Result<(), circuit_client::Error> {
/// let server = client.server(client.dialled().id);
/// let replies = server.fresh("replies")?.make_bound_chan(0).await?;
/// println!("circuit send {}", replies.path());
/// let reply = replies.recv_all(1 << 20).await?;
/// // However the program ends from here on, the channel does not stay.
/// replies.end().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Bound<K> {
    handle: Handle<K>,
    send: SendHalf,
    recv: RecvHalf,
}

impl<K> Deref for Bound<K> {
    type Target = Handle<K>;

    fn deref(&self) -> &Handle<K> {
        &self.handle
    }
}

impl<K: Kind> Bound<K> {
    /// Makes a bound element at an anchor.
    pub(super) async fn make(anchor: &Anchor, op: impl Into<Op>) -> Result<Bound<K>, Error> {
        let (send, recv) = anchor.open(op).await?;
        Ok(Bound {
            handle: Handle::new(anchor.clone()),
            send,
            recv,
        })
    }

    /// Resolves when the element is gone though the handle is there, and says why: it was scrubbed
    /// ([`Aborted`](crate::Code::Aborted)), or its server or the circuit is lost.
    ///
    /// ```no_run
    /// # async fn example(anchor: circuit_client::Anchor) -> Result<(), circuit_client::Error> {
    /// let mut joins = anchor.make_bound_on_join().await?;
    /// eprintln!("no more events: {}", joins.gone().await);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn gone(&mut self) -> Error {
        loop {
            match self.recv.data().await {
                Ok(Some(_)) => (),
                Ok(None) => return self.failed(StreamError::Abandoned),
                Err(error) => return self.failed(error),
            }
        }
    }

    /// Ends the element, and waits until it is gone: of a process, for 10 s or a little more. That
    /// somebody has scrubbed it is no error.
    ///
    /// # Errors
    ///
    /// [`Error::ServerGone`] and [`Error::CircuitGone`] if its server, or the one that was dialled, is
    /// lost: then the element goes without this.
    pub async fn end(mut self) -> Result<(), Error> {
        match self.send.send_end(&Ok(())).await {
            // What comes says why.
            Ok(()) | Err(StreamError::Abandoned) => self.send.finish(),
            Err(error) => return Err(self.failed(error)),
        }
        loop {
            match self.recv.data().await {
                Ok(Some(_)) => (),
                Ok(None) => return Ok(()),
                Err(StreamError::Failed(error)) if error.code == Code::Aborted => return Ok(()),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn failed(&self, error: StreamError) -> Error {
        self.handle.anchor().client().failed(self.path(), error)
    }
}
