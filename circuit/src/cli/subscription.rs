//! Subscriptions: `mk@join`, `mk@leave`. `recv` of [`channel`](super::channel) receives their events.

use circuit_client::Path;
use clap::Subcommand;

use super::arguments::path;
use super::dial::{Dial, dial};
use super::error::Failure;
use super::interruptible;

pub(super) use super::output::print_json as print_status;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a subscription to servers: those in the circuit now, then each that joins
    ///
    /// `recv` of it gives the path of a server at a time.
    #[command(name = "mk@join")]
    MkOnJoin {
        /// The anchor
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Make a subscription to servers that leave from now on
    ///
    /// `recv` of it gives the path of a server at a time.
    #[command(name = "mk@leave")]
    MkOnLeave {
        /// The anchor
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::MkOnJoin { path, dial } => interruptible(subscribe(path, Events::Joins, dial)),
            Command::MkOnLeave { path, dial } => {
                interruptible(subscribe(path, Events::Leaves, dial))
            }
        }
    }
}

/// Which events a subscription tells.
#[derive(Debug, Clone, Copy)]
enum Events {
    Joins,
    Leaves,
}

/// Makes a subscription.
async fn subscribe(path: Path, events: Events, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let anchor = client.anchor(path);
    match events {
        Events::Joins => anchor.make_on_join().await?,
        Events::Leaves => anchor.make_on_leave().await?,
    };
    Ok(0)
}
