//! The elements that an anchor of this server can hold, one file per kind.
//!
//! [`streams`] and [`signals`] are shared by those that run programs.

pub mod channel;
pub mod container;
pub mod dns;
pub mod process;
pub mod server;
pub mod service;
pub mod signals;
pub mod streams;
pub mod subscription;

use std::future::ready;
use std::sync::Arc;

use circuit_proto::element::Status;
use circuit_proto::{ElementKind, Error};

/// The life of an element, as far as the tree and the end of the server concern it.
pub trait Lifecycle: Send + Sync {
    /// Its kind.
    fn kind(&self) -> ElementKind;

    /// The value that `peek` gives of it.
    fn status(&self) -> impl Future<Output = Result<Status, Error>> + Send;

    /// Prepares it for leaving the tree. If it fails, the element stays.
    fn retire(&self) -> impl Future<Output = Result<(), Error>> + Send {
        ready(Ok(()))
    }

    /// Ends it, once it has left the tree: whoever waits on it is told.
    fn scrubbed(&self) -> impl Future<Output = ()> + Send;

    /// Resolves, with the error for its maker, once an element that can be bound to its maker's stream
    /// has been scrubbed.
    fn aborted(&self) -> impl Future<Output = Error> + Send {
        std::future::pending()
    }

    /// Ends what is not to outlive it, as its maker's stream, to which it was bound, has ended. Then it
    /// leaves the tree.
    fn unbind(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }

    /// Ends what the server's own end would not end in order.
    fn shutdown(&self) -> impl Future<Output = ()> + Send {
        ready(())
    }
}

/// A kind of element, which the table of kinds has.
pub trait Kind: Lifecycle + Sized + 'static {
    /// It as an element.
    fn into_element(self: Arc<Self>) -> Element;

    /// The element, if it is of this kind.
    fn of(element: &Element) -> Option<&Arc<Self>>;
}

macro_rules! elements {
    ($($room:ident $Room:ident { $($kinds:tt)* })*) => {
        /// An element of this server. Clones share it.
        #[derive(Debug, Clone)]
        pub enum Element {
            $(
                #[doc = concat!("See [`", stringify!($room), "`](mod@", stringify!($room), ").")]
                $Room(Arc<$room::$Room>),
            )*
        }

        /// The one place where the kinds of elements are told apart: see [`Lifecycle`].
        impl Element {
            /// Its kind.
            pub fn kind(&self) -> ElementKind {
                match self {
                    $(Element::$Room(element) => Lifecycle::kind(&**element),)*
                }
            }

            /// The value that `peek` gives of it.
            pub async fn status(&self) -> Result<Status, Error> {
                match self {
                    $(Element::$Room(element) => Lifecycle::status(&**element).await,)*
                }
            }

            /// Prepares it for leaving the tree. If it fails, the element stays.
            pub async fn retire(&self) -> Result<(), Error> {
                match self {
                    $(Element::$Room(element) => element.retire().await,)*
                }
            }

            /// Ends it, once it has left the tree: whoever waits on it is told.
            pub async fn scrubbed(&self) {
                match self {
                    $(Element::$Room(element) => element.scrubbed().await,)*
                }
            }

            /// Ends what the server's own end would not end in order.
            pub async fn shutdown(&self) {
                match self {
                    $(Element::$Room(element) => element.shutdown().await,)*
                }
            }

            fn address(&self) -> *const () {
                match self {
                    $(Element::$Room(element) => Arc::as_ptr(element).cast(),)*
                }
            }
        }

        $(
            impl Kind for $room::$Room {
                fn into_element(self: Arc<$room::$Room>) -> Element {
                    Element::$Room(self)
                }

                fn of(element: &Element) -> Option<&Arc<$room::$Room>> {
                    match element {
                        Element::$Room(element) => Some(element),
                        _ => None,
                    }
                }
            }
        )*
    };
}

circuit_proto::kinds!(elements);

impl Element {
    /// Whether it is this very element, and not another that took its place.
    pub fn is(&self, other: &Element) -> bool {
        std::ptr::eq(self.address(), other.address())
    }
}
