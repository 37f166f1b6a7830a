//! The one definition of the command line.

use clap::{Parser, Subcommand};

use super::error::Failure;

/// Make the hosts of a network behave as one Unix machine.
#[derive(Debug, Parser)]
#[command(name = "circuit", version, max_term_width = 100)]
#[command(
    after_help = "A circuit is dialled through, in this order: -d URL, -discover GROUP:PORT, \
the URL in the file that CIRCUIT names, the group in CIRCUIT_DISCOVER, a server of the same user \
on this machine.\n\nLong flags may be written with one dash or two."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// An enum with the commands of each file, one after the other as help lists them, and how each of
/// these is executed.
macro_rules! commands {
    ($($Variant:ident $file:ident,)*) => {
        #[derive(Debug, Subcommand)]
        pub(super) enum Command {
            $(#[command(flatten)] $Variant(super::$file::Command),)*
        }

        impl Command {
            /// Runs the command; gives its exit status.
            pub(super) fn execute(self) -> Result<u8, Failure> {
                match self {
                    $(Command::$Variant(command) => command.execute(),)*
                }
            }
        }
    };
}

commands! {
    Start start,
    Anchor anchor,
    Process process,
    Container container,
    Streams streams,
    Channel channel,
    Subscription subscription,
    Dns dns,
    Run run,
    Server server,
    Definition definition,
}
