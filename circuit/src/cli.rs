//! The command line: what a person types, and what comes back.
//!
//! One definition, [`command::Cli`], gives parsing, help, completions and manual pages. Arguments
//! are parsed and validated first; then a circuit is dialled; then the command runs. The exit
//! status is decided in [`error`] only, and stdout is written in [`output`] only.
//!
//! A command asks a circuit only through the client crate.

mod anchor;
mod arguments;
mod channel;
mod command;
mod container;
mod definition;
mod dial;
mod dns;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod interrupt;
mod object;
mod output;
mod process;
mod run;
mod server;
mod service;
mod start;
mod stdin;
mod streams;
mod subscription;
mod supervisor;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use command::Cli;
use error::Failure;
use interrupt::Interrupts;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let CommandLine { command, parsed } = parse(std::env::args_os());
    match parsed {
        Ok(cli) => {
            let name = command.map(|command| command.get_name().to_owned());
            let result = cli.command.execute();
            error::exit(&result.map_err(|failure| failure.of_command(name.unwrap_or_default())))
        }
        Err(wrong) => error::exit_of_usage(&wrong, command.as_ref()),
    }
}

/// Arguments that were read.
struct CommandLine {
    /// The definition of the command that they name, if they name one.
    command: Option<clap::Command>,
    parsed: Result<Cli, clap::Error>,
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> CommandLine {
    let arguments = arguments::normalized(arguments);
    let mut definition = definition();
    let parsed = definition.try_get_matches_from_mut(&arguments);
    let mut names = arguments.iter().skip(1).filter_map(|word| word.to_str());
    let command = names.find_map(|name| definition.find_subcommand(name));
    CommandLine {
        command: command.cloned(),
        parsed: parsed.and_then(|mut matches| {
            Cli::from_arg_matches_mut(&mut matches).map_err(|wrong| wrong.format(&mut definition))
        }),
    }
}

/// The whole of the definition, for those who print it.
fn definition() -> clap::Command {
    Cli::command()
}

/// Runs a client's command, until it is done or interrupted.
fn interruptible(command: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    block_on(async {
        let done = Interrupts::listen()?.unless(command).await;
        done.unwrap_or_else(Ok)
    })
}

/// Runs a client's command on a runtime of one thread: a command is over in milliseconds.
fn block_on(command: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::operation("cannot start", &error))?;
    let result = runtime.block_on(async {
        let result = match command.await {
            Err(failure) => Err(explained(failure).await),
            done => done,
        };
        // However the command ended, what it held is to be free at once.
        dial::farewell().await;
        result
    });
    // A thread that reads a terminal or pipe is not waited for.
    runtime.shutdown_background();
    result
}

/// The circuit's word on a server that did not answer.
async fn explained(failure: Failure) -> Failure {
    let suspicion = match failure.silent() {
        Some(path) => dial::suspicion(path).await,
        None => None,
    };
    match suspicion {
        Some(suspicion) => failure.with_hint(suspicion),
        None => failure,
    }
}
