//! What an anchor of this server can hold, one file per kind.

pub mod channel;
pub mod container;
pub mod dns;
pub mod process;
pub mod server;
pub mod signals;
pub mod streams;
pub mod subscription;

use std::sync::Arc;

use circuit_proto::ElementKind;

use channel::Channel;
use container::Container;
use dns::Dns;
use process::Process;
use streams::Attachable;
use subscription::Subscription;

/// An element of this server. Clones share it.
#[derive(Debug, Clone)]
pub enum Element {
    /// The server itself, at its own anchor.
    Server,
    /// A process.
    Process(Arc<Process>),
    /// A channel.
    Channel(Arc<Channel>),
    /// A subscription to joins or leaves.
    Subscription(Arc<Subscription>),
    /// A DNS server.
    Dns(Arc<Dns>),
    /// A container.
    Container(Arc<Container>),
}

impl Element {
    /// Its kind.
    pub fn kind(&self) -> ElementKind {
        match self {
            Element::Server => ElementKind::Server,
            Element::Process(_) => ElementKind::Process,
            Element::Channel(_) => ElementKind::Channel,
            Element::Subscription(subscription) => subscription.kind(),
            Element::Dns(_) => ElementKind::Dns,
            Element::Container(_) => ElementKind::Container,
        }
    }

    /// Whether it is this very element, and not another that took its place.
    pub fn is(&self, other: &Element) -> bool {
        let address = |element: &Element| match element {
            Element::Server => std::ptr::null(),
            Element::Process(process) => Arc::as_ptr(process).cast(),
            Element::Channel(channel) => Arc::as_ptr(channel).cast(),
            Element::Subscription(subscription) => Arc::as_ptr(subscription).cast(),
            Element::Dns(dns) => Arc::as_ptr(dns).cast(),
            Element::Container(container) => Arc::as_ptr(container).cast::<()>(),
        };
        address(self) == address(other)
    }

    /// The element as one that has the three streams, if it does.
    pub fn attachable(&self) -> Option<Arc<dyn Attachable>> {
        match self {
            Element::Process(process) => Some(process.clone()),
            Element::Container(container) => Some(container.clone()),
            Element::Server | Element::Channel(_) | Element::Subscription(_) | Element::Dns(_) => {
                None
            }
        }
    }
}
