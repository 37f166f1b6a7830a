//! Subscriptions: `mk@join`, `mk@leave`, `mk@svc`. `recv` of [`channel`](super::channel) receives their events.

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
    Joins {
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
    Leaves {
        /// The anchor
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Make a subscription to what happens to the services of a server from now on
    ///
    /// `recv` of it gives a JSON object at a time, with Time, Path, Slot, Event and what else there is to
    /// tell.
    #[command(name = "mk@svc")]
    Services {
        /// The anchor, on the server whose services are meant
        #[arg(value_parser = path)]
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Joins { path, dial } => interruptible(subscribe(path, Events::Joins, dial)),
            Command::Leaves { path, dial } => interruptible(subscribe(path, Events::Leaves, dial)),
            Command::Services { path, dial } => {
                interruptible(subscribe(path, Events::Services, dial))
            }
        }
    }
}

/// Which events a subscription tells.
#[derive(Debug, Clone, Copy)]
enum Events {
    Joins,
    Leaves,
    Services,
}

/// Makes a subscription.
async fn subscribe(path: Path, events: Events, options: Dial) -> Result<u8, Failure> {
    let client = dial(&options).await?;
    let anchor = client.anchor(path);
    match events {
        Events::Joins => anchor.make_on_join().await?,
        Events::Leaves => anchor.make_on_leave().await?,
        Events::Services => anchor.make_on_service().await?,
    };
    Ok(0)
}
