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
mod start;
mod stdin;
mod streams;
mod subscription;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use command::Cli;
use error::Failure;
use interrupt::Interrupts;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    match parse(std::env::args_os()) {
        Ok((name, cli)) => {
            let result = cli.command.execute();
            error::exit(&result.map_err(|failure| failure.of_command(name)))
        }
        Err(wrong) => error::exit_of_usage(&wrong),
    }
}

/// The name of the command that the arguments ask for, and the command.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(String, Cli), clap::Error> {
    let arguments = arguments::normalized(arguments);
    let mut matches = definition().try_get_matches_from(arguments)?;
    let name = matches.subcommand_name().unwrap_or_default().to_owned();
    match Cli::from_arg_matches_mut(&mut matches) {
        Ok(cli) => Ok((name, cli)),
        Err(wrong) => Err(wrong.format(&mut definition())),
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
