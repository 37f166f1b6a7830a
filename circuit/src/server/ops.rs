//! The execution of requests, one file per kind of element: each file's `execute` does to its kind
//! of element what a request asks, and answers through the [`Call`](super::call::Call).
//!
//! [`anchor`] has the operations that every anchor takes, [`streams`] those that processes and
//! containers share.
//!
//! **Cancellation:** a caller that goes away ends what was done for it; `execute` then fails with
//! [`Gone`](super::call::Gone), and nobody is left to be told.

pub(super) mod anchor;
pub(super) mod channel;
pub(super) mod container;
pub(super) mod dns;
pub(super) mod process;
pub(super) mod server;
pub(super) mod service;
pub(super) mod streams;
pub(super) mod subscription;
