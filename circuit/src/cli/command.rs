//! The one definition of the command line.

use circuit_client::Status;
use clap::{Parser, Subcommand};

use super::error::Failure;

/// Make the hosts of a network behave as one Unix machine.
#[derive(Debug, Parser)]
#[command(name = "circuit", version, max_term_width = 100)]
#[command(
    after_help = "A circuit is dialled through, in this order: -d URL, -discover GROUP:PORT, \
the URL in the file that CIRCUIT names, the group in CIRCUIT_DISCOVER, the Unix socket in \
CIRCUIT_SOCKET, a server of the same user on this machine, the one of the system at \
/run/circuit/circuit.sock.\n\nLong flags may be written with one dash or two."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

macro_rules! commands {
    ($($room:ident $Room:ident { $($Kind:ident $name:literal $status:ty),* })*) => {
        /// The commands of each file, in the order in which help lists them.
        #[derive(Debug, Subcommand)]
        pub(super) enum Command {
            #[command(flatten)] Start(super::start::Command),
            #[command(flatten)] Anchor(super::anchor::Command),
            $(#[command(flatten)] $Room(super::$room::Command),)*
            #[command(flatten)] Streams(super::streams::Command),
            #[command(flatten)] Run(super::run::Command),
            #[command(flatten)] Definition(super::definition::Command),
        }

        impl Command {
            /// Runs the command; gives its exit status.
            pub(super) fn execute(self) -> Result<u8, Failure> {
                match self {
                    Command::Start(command) => command.execute(),
                    Command::Anchor(command) => command.execute(),
                    $(Command::$Room(command) => command.execute(),)*
                    Command::Streams(command) => command.execute(),
                    Command::Run(command) => command.execute(),
                    Command::Definition(command) => command.execute(),
                }
            }
        }

        /// Prints the status of an element, as its kind prints it.
        pub(super) fn print_status(status: &Status) -> Result<(), Failure> {
            match status {
                $($(Status::$Kind(status) => super::$room::print_status(status),)*)*
                Status::Unknown => {
                    let what = "the element is of a kind that this version does not know";
                    Err(Failure::failed(what.to_owned()))
                }
            }
        }
    };
}

circuit_proto::kinds!(commands);
