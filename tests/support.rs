//! Servers, commands, terminals and waiting, for all tests.
//!
//! A [`Home`] is a user of their own: a directory, a runtime directory, a clean environment. In it
//! [`Home::start`] runs servers and [`Home::circuit`] commands, as a shell would:
//!
//! ```text
//! let home = Home::new();
//! let one = home.start("one");
//! one.circuit("peek /one/nothing").stdout("null\n").run();
//! ```
//!
//! Everything that waits has a deadline, and everything that is started is gone when its owner is
//! dropped. Nothing here sleeps for luck: [`eventually`] asks again until it holds.

mod capture;
mod command;
mod home;
mod relay;
mod server;
mod skip;
pub(crate) mod stranger;
mod terminal;
mod wait;

pub(crate) use command::{Circuit, Running};
pub(crate) use home::{Home, sh};
pub(crate) use relay::Relay;
pub(crate) use server::{Over, Server, over, who};
pub(crate) use skip::skipped;
pub(crate) use terminal::Terminal;
pub(crate) use wait::{DEADLINE, eventually, eventually_within, within};

/// Whether there is a process of this number that has not exited.
pub(crate) fn lives(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc(5): the state follows the name, which is in parentheses.
    let state = stat.rsplit(')').next().unwrap_or_default().trim();
    !state.is_empty() && !state.starts_with('Z')
}
