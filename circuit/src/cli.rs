//! The command line: what a person types, and what comes back.
//!
//! One definition, [`command::Cli`], gives parsing, help, completions and manual pages. Arguments
//! are parsed and validated first; then a circuit is dialled; then the command runs. The exit
//! status is decided in [`error`] only, and stdout is written in [`output`] only.
//!
//! What a command asks of a circuit, it asks through the client crate.

mod anchors;
mod arguments;
mod channel;
mod command;
mod container;
mod dial;
mod dns;
mod error;
mod interrupt;
mod object;
mod output;
mod process;
mod run;
mod server;
mod start;

use std::process::ExitCode;

use clap::Parser;

use command::{Cli, Command};
use error::Failure;
use interrupt::Interrupts;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = arguments::normalized(std::env::args_os());
    match Cli::try_parse_from(arguments) {
        Ok(cli) => error::exit(&execute(cli.command)),
        Err(wrong) => error::exit_of_usage(&wrong),
    }
}

/// The whole of the definition, for those who print it.
fn definition() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn execute(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Start(options) => start::start(options),
        Command::Keygen { file } => start::keygen(file.as_deref()),
        Command::Completions { shell } => {
            output::completions(shell).map_err(|failure| failure.of_command("completions"))
        }
        Command::Man { directory } => {
            output::manual_pages(&directory).map_err(|failure| failure.of_command("man"))
        }
        // These end in their own way when they are interrupted: it passes signals on, and so ends as
        // the process does; readers print what had come.
        Command::Run(options) => block_on("run", run::run(options)),
        Command::Stdout { path, dial } => {
            let which = process::Which::Stdout;
            block_on("stdout", process::output(path, which, dial))
        }
        Command::Stderr { path, dial } => {
            let which = process::Which::Stderr;
            block_on("stderr", process::output(path, which, dial))
        }
        Command::Recv(options) => block_on("recv", channel::recv(options)),
        Command::Ls(options) => async_command("ls", anchors::ls(options)),
        Command::Peek { path, dial } => async_command("peek", anchors::peek(path, dial)),
        Command::Scrub { path, dial } => async_command("scrub", anchors::scrub(path, dial)),
        Command::Mkproc { scrub, path, dial } => {
            async_command("mkproc", process::mkproc(path, scrub, dial))
        }
        Command::Mkdkr { scrub, path, dial } => {
            async_command("mkdkr", container::mkdkr(path, scrub, dial))
        }
        Command::Stdin { path, dial } => async_command("stdin", process::stdin(path, dial)),
        Command::Wait { path, dial } => async_command("wait", process::wait(path, dial)),
        Command::Waitall { dial } => async_command("waitall", process::waitall(dial)),
        Command::Signal {
            group,
            signal,
            path,
            dial,
        } => async_command("signal", process::signal(signal, path, group, dial)),
        Command::Mkchan {
            path,
            capacity,
            dial,
        } => async_command("mkchan", channel::mkchan(path, capacity, dial)),
        Command::Send { lines, path, dial } => {
            async_command("send", channel::send(path, lines, dial))
        }
        Command::Close { path, dial } => async_command("close", channel::close(path, dial)),
        Command::Mkdns {
            zone,
            path,
            address,
            dial,
        } => async_command("mkdns", dns::mkdns(path, address, zone, dial)),
        Command::Set {
            path,
            record,
            rest,
            dial,
        } => async_command("set", dns::set(path, record, rest, dial)),
        Command::Unset {
            path,
            name,
            kind,
            dial,
        } => async_command("unset", dns::unset(path, name, kind, dial)),
        Command::MkOnJoin { path, dial } => async_command(
            "mk@join",
            channel::subscribe(path, channel::Events::Joins, dial),
        ),
        Command::MkOnLeave { path, dial } => async_command(
            "mk@leave",
            channel::subscribe(path, channel::Events::Leaves, dial),
        ),
        Command::Join { path, url, dial } => async_command("join", server::join(path, url, dial)),
        Command::Suicide { path, dial } => async_command("suicide", server::suicide(path, dial)),
        Command::Stk { path, dial } => async_command("stk", server::stk(path, dial)),
    }
}

/// Runs a client's command, until it is done or interrupted.
fn async_command(
    name: &'static str,
    command: impl Future<Output = Result<u8, Failure>>,
) -> Result<u8, Failure> {
    block_on(name, async {
        let done = Interrupts::listen()?.unless(command).await;
        done.unwrap_or_else(Ok)
    })
}

/// Runs a client's command on a runtime of one thread: a command is over in milliseconds.
fn block_on(
    name: &'static str,
    command: impl Future<Output = Result<u8, Failure>>,
) -> Result<u8, Failure> {
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
    result.map_err(|failure| failure.of_command(name))
}

/// What the circuit knows of a server that did not answer.
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

/// The arguments of this process as the tests of parsing want them.
#[cfg(test)]
fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
    let arguments = arguments.iter().map(std::ffi::OsString::from);
    Cli::try_parse_from(arguments::normalized(
        std::iter::once("circuit".into()).chain(arguments),
    ))
}
