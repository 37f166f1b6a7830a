//! Handles to elements: [`Handle`] has the methods that all kinds have, a file per kind its own
//! methods and the method of [`Anchor`] that makes an element of the kind.

mod bound;
pub mod channel;
pub mod container;
pub mod dns;
mod handle;
pub mod process;
pub mod server;
pub mod service;
pub mod streams;
pub mod subscription;

use circuit_proto::ElementKind;

pub use bound::Bound;
pub use handle::{Handle, Kind};

use crate::anchor::Anchor;

macro_rules! elements {
    ($($room:ident $Room:ident {
        $FirstKind:ident $first_name:literal $status:ty $(, $Kind:ident $name:literal $same:ty)*
    })*) => {
        /// The kinds that a [`Handle`] can be of. They have no values: they are parameters of types.
        pub mod kind {
            $(
                #[doc = concat!("See [`", stringify!($room), "`](super::", stringify!($room), ").")]
                #[derive(Debug, Clone, Copy)]
                pub enum $Room {}
            )*
        }

        /// The status of each kind. Here the names of the table are those of the wire's modules.
        mod status {
            use circuit_proto::element::*;

            use super::{Kind, kind};

            $(
                impl Kind for kind::$Room {
                    type Status = $status;

                    const KIND: ElementKind = ElementKind::$FirstKind;

                    fn status_in(status: Status) -> Result<Self::Status, ElementKind> {
                        match status {
                            Status::$FirstKind(status) $(| Status::$Kind(status))* => Ok(status),
                            other => Err(other.kind()),
                        }
                    }
                }
            )*
        }

        /// The element that an anchor holds, as a handle of its kind.
        #[derive(Debug, Clone)]
        pub enum Element {
            $(
                #[doc = concat!("`", $first_name, "` in `circuit ls -l`.")]
                $FirstKind(Handle<kind::$Room>),
                $(
                    #[doc = concat!("`", $name, "` in `circuit ls -l`.")]
                    $Kind(Handle<kind::$Room>),
                )*
            )*
            /// An element of a kind that a later version has.
            Unknown,
        }

        impl Element {
            /// A handle of this kind to the element of an anchor.
            pub(crate) fn of(kind: ElementKind, anchor: Anchor) -> Element {
                match kind {
                    $(
                        ElementKind::$FirstKind => Element::$FirstKind(Handle::new(anchor)),
                        $(ElementKind::$Kind => Element::$Kind(Handle::new(anchor)),)*
                    )*
                    ElementKind::Unknown => Element::Unknown,
                }
            }
        }
    };
}

circuit_proto::kinds!(elements);
