//! How two peers of a circuit speak: QUIC over UDP, TLS 1.3 with certificates on both sides, or on
//! one host a Unix socket; the handshake, and streams that tell a cut from an end.
//!
//! The client's API stands on this, and so does the server, which is why it is public. Programs
//! that use a circuit have no need of it.

mod buffer;
pub mod congestion;
pub mod dial;
pub mod endpoint;
pub mod lost;
pub mod socket;
pub mod stream;
pub mod tether;
pub mod tls;
pub mod zone;
