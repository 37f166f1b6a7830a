//! Black-box tests: the real binary, as processes, on loopback, and in [`hosts`] on hosts of
//! their own.
//!
//! Each file is about one theme, each test about one promise. A test starts the servers that it
//! needs in a [`support::Home`] of its own, so that tests run side by side and never meet each
//! other's servers or the user's own.
//!
//! ```text
//! cargo test -p circuit --test integration            # all
//! cargo test -p circuit --test integration streams    # one theme
//! ```

// Tests say what they expect by failing.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod bound;
mod channels;
mod containers;
mod copies;
mod descriptors;
mod dialing;
mod dns;
mod documents;
mod forwarding;
mod hangups;
mod hosts;
mod hung;
mod interrupted;
mod keys;
mod limits;
mod links;
mod listing;
mod lives;
mod log;
mod making;
mod processes;
mod programs;
mod readme;
mod redial;
mod reference;
mod run;
mod seeds;
mod servers;
mod services;
mod shell;
mod sockets;
mod start;
mod strangers;
mod streams;
mod subscriptions;
mod support;
mod tethers;
mod usage;
mod vanishing;
