//! The machine in a world of its own: each rule, and random histories.

mod backoff;
mod intents;
mod kept;
mod random;
mod readiness;
mod rolling;
mod stopping;
mod world;
