//! The types and computations on which two peers of a circuit must agree, and nothing else.
//!
//! Ids, URLs, paths, messages and their codec, the authentication computation, and the state
//! machines of membership and discovery. Everything here is pure: no sockets, no clock, no global
//! randomness; time and random bytes come in as arguments. The crates above drive it.
//!
//! **Invariant:** bytes from a peer give a value or an error, never a panic, and never an
//! allocation larger than a small multiple of the bytes received.

pub mod auth;
pub mod codec;
pub mod discovery;
pub mod element;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod handshake;
pub mod id;
pub mod key;
pub mod life;
pub mod membership;
pub mod os_text;
pub mod path;
pub mod request;
pub mod timers;
pub mod url;

pub use element::ElementKind;
pub use error::{Code, Error};
pub use id::{Fingerprint, ServerId};
pub use key::Key;
pub use life::{Life, Tenure};
pub use os_text::OsText;
pub use path::Path;
pub use url::Url;
