//! The one handle of all kinds.

use std::fmt::Debug;
use std::marker::PhantomData;

use circuit_proto::element::Status;
use circuit_proto::request::Op;
use circuit_proto::{Code, ElementKind, Path};
use serde::de::DeserializeOwned;

use crate::anchor::Anchor;
use crate::error::Error;

/// A handle to an element of kind `K`: the anchor that is known to hold one. It is cheap to clone,
/// and dropping it changes nothing for the element.
///
/// [`Proc`](crate::Proc), [`Chan`](crate::Chan), [`Nameserver`](crate::Nameserver),
/// [`Container`](crate::Container), [`Subscription`](crate::Subscription) and
/// [`Server`](crate::Server) are handles, each with methods of its own besides these.
///
/// Nothing is asked of the server before a method is called. If the anchor then holds nothing, or
/// an element of another kind, the method fails with
/// [`NoSuchElement`](crate::Code::NoSuchElement) or [`WrongKind`](crate::Code::WrongKind).
#[derive(Debug, Clone)]
pub struct Handle<K> {
    anchor: Anchor,
    kind: PhantomData<fn() -> K>,
}

/// A kind of element, as the parameter of a [`Handle`]. Those that there are, are in
/// [`kind`](super::kind).
pub trait Kind: Debug + Copy + 'static {
    /// The status of an element of this kind.
    type Status;

    /// The kind, as listings have it.
    #[doc(hidden)]
    const KIND: ElementKind;

    /// The status, if it is of this kind, else its kind.
    #[doc(hidden)]
    fn status_in(status: Status) -> Result<Self::Status, ElementKind>;
}

impl<K: Kind> Handle<K> {
    pub(crate) fn new(anchor: Anchor) -> Handle<K> {
        let kind = PhantomData;
        Handle { anchor, kind }
    }

    /// The anchor that holds the element.
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), Box<dyn std::error::Error>> {
    /// let beside = process.anchor().walk("log")?.make_chan(100).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn anchor(&self) -> &Anchor {
        &self.anchor
    }

    /// The element's path.
    ///
    /// ```no_run
    /// # fn example(chan: circuit_client::Chan) {
    /// println!("circuit recv {}", chan.path());
    /// # }
    /// ```
    pub fn path(&self) -> &Path {
        self.anchor.path()
    }

    /// Asks for the element's status.
    ///
    /// # Errors
    ///
    /// For a container, [`Closed`](crate::Code::Closed) if it was removed behind the server's back,
    /// and [`Busy`](crate::Code::Busy) if its Engine does not answer.
    ///
    /// ```no_run
    /// # async fn example(
    /// #     process: circuit_client::Proc,
    /// #     chan: circuit_client::Chan,
    /// #     container: circuit_client::Container,
    /// # ) -> Result<(), circuit_client::Error> {
    /// let status = process.peek().await?;
    /// println!("process {} is {:?}", status.pid, status.phase);
    ///
    /// let status = chan.peek().await?;
    /// println!("{} of {} slots are taken", status.held, status.cap);
    ///
    /// let inspected = container.peek().await?;
    /// println!("{} is {:?}", inspected.status.name, inspected.status.phase);
    /// println!("{}", inspected.inspect);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn peek(&self) -> Result<K::Status, Error> {
        let Some(status) = self.anchor.peek().await? else {
            return Err(self.refused(Code::NoSuchElement, "nothing there".to_owned()));
        };
        K::status_in(status).map_err(|found| {
            let message = format!("a {found}, not a {}", K::KIND);
            self.refused(Code::WrongKind, message)
        })
    }

    /// Removes the element. Callers that wait for it are told [`Aborted`](crate::Code::Aborted).
    ///
    /// A process goes on, and its output is discarded. A container goes on too, if it has not
    /// ended; one that has ended is removed from its Engine, and so is one that was made with
    /// `scrub`, once it ends. The messages in a channel are lost. The port of a DNS server is free
    /// when this returns.
    ///
    /// # Errors
    ///
    /// [`Refused`](crate::Code::Refused) for a server: see
    /// [`Server::suicide`](crate::Server::suicide).
    ///
    /// ```no_run
    /// # async fn example(process: circuit_client::Proc) -> Result<(), circuit_client::Error> {
    /// process.wait().await?;
    /// process.scrub().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn scrub(&self) -> Result<(), Error> {
        self.anchor.scrub().await
    }

    pub(super) async fn call<T: DeserializeOwned>(&self, op: impl Into<Op>) -> Result<T, Error> {
        self.anchor.call(op).await
    }

    /// The error of a handle whose anchor holds something else than the handle says.
    pub(super) fn refused(&self, code: Code, message: String) -> Error {
        Error::Refused {
            path: self.path().clone(),
            error: circuit_proto::Error::new(code, message),
        }
    }
}
