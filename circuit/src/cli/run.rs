//! `run`: a process on some server, as if it ran here.

use parking_lot::Mutex;
use std::os::fd::BorrowedFd;

use circuit_client::{
    Attached, AttachedOutput, Cmd, Code, Error, Path, Proc, TerminalSize, process,
};
use clap::{Args, Subcommand};
use rustix::termios::{OptionalActions, Termios};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::arguments::path;
use super::block_on;
use super::dial::{Dial, dial};
use super::error::Failure;
use super::output::{Pipe, Target};
use super::stdin;
use super::streams::{Copied, copy};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Execute a command on a server as if it ran here
    ///
    /// Makes a process, attaches stdin, stdout and stderr, passes signals on, exits as the process
    /// did (128 + the signal's number if one ended it), and scrubs it. Killed, it leaves
    /// nothing behind: the process is hung up, as by a terminal that closes; at once if the server is on
    /// this host, else within 3 s, or 10 s where a firewall lets no TCP through.
    #[command(override_usage = "circuit run [-i | -n] [OPTIONS] PATH|SERVER -- COMMAND [ARG]...")]
    Run(Run),
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Run it on a terminal, which is this one
    #[arg(short = 'i', long)]
    interactive: bool,
    /// Give the command an empty stdin, and leave this one's to others
    #[arg(short = 'n', long, conflicts_with = "interactive")]
    no_stdin: bool,
    /// Where to make the process: an anchor, or a server's path, id or name for a new anchor there
    #[arg(value_name = "PATH|SERVER")]
    place: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
    #[command(flatten)]
    dial: Dial,
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            // It passes signals on, and ends as the process does.
            Command::Run(options) => block_on(run(options)).map_err(Failure::beside_statuses),
        }
    }
}

/// A signal's name, and the signal.
type Named = (&'static str, fn() -> SignalKind);

/// The signals that are passed on to the process, and that end this command while there is none. SIGPIPE,
/// SIGCHLD and those that cannot be caught are not among them; a terminal's own signals come as bytes.
const PASSED_ON: [Named; 6] = [
    ("HUP", SignalKind::hangup),
    ("INT", SignalKind::interrupt),
    ("QUIT", SignalKind::quit),
    ("TERM", SignalKind::terminate),
    ("USR1", SignalKind::user_defined1),
    ("USR2", SignalKind::user_defined2),
];

/// Runs a command on a server, attached, and exits as it did.
async fn run(options: Run) -> Result<u8, Failure> {
    let mut cmd = command(&options.command)?;
    if options.interactive {
        cmd = with_environment(cmd);
    }
    let place = place(&options.place)?;
    let terminal = match options.interactive {
        true => Some(Terminal::find()?),
        false => None,
    };
    cmd.terminal = terminal.as_ref().map(Terminal::size);
    // From here on no signal ends this command without the process's knowing.
    let mut signals = Signals::listen()?;
    let client = tokio::select! {
        client = dial(&options.dial) => client?,
        status = signals.ends() => return Ok(status),
    };
    let anchor = client.anchor(place);
    let anchor = match anchor.path().below_server() {
        [] => anchor.fresh("run").map_err(Error::from)?,
        _ => anchor,
    };
    // Killed, this command leaves nothing behind: it is attached from the process's start to its end.
    let process = anchor.attach(cmd).await?;
    let handle = process.process.clone();
    let status = match attended(process, terminal, options.no_stdin, &mut signals).await? {
        Over::Ended(status) => status,
        Over::Left(status) => {
            match handle.scrub().await {
                // Somebody else was faster.
                Err(Error::Refused { error, .. }) if error.code == Code::NoSuchElement => (),
                other => other?,
            }
            status
        }
    };
    Ok(exit_status(status.code, status.signal_number))
}

/// How a run is over.
enum Over {
    /// The process has exited, and all that it wrote was printed.
    Ended(process::Status),
    /// The process had exited, and somebody else may still write to its outputs.
    Left(process::Status),
}

fn command(words: &[std::ffi::OsString]) -> Result<Cmd, Failure> {
    match words.split_first() {
        Some((program, args)) => Ok(Cmd::new(program).args(args)),
        None => Err(Failure::usage("no command to run")),
    }
}

/// The command with the variables that give it this terminal's name and this user's language.
fn with_environment(cmd: Cmd) -> Cmd {
    let is_passed =
        |name: &str| matches!(name, "TERM" | "COLORTERM" | "LANG") || name.starts_with("LC_");
    std::env::vars_os()
        .filter(|(name, _)| name.to_str().is_some_and(is_passed))
        .fold(cmd, |cmd, (name, value)| cmd.add_env(name, value))
}

/// The anchor, or the server's own, below which a new one is found.
fn place(text: &str) -> Result<Path, Failure> {
    let path = path(text).map_err(|error| Failure::usage(error.to_string()))?;
    match path.names() {
        [] => Err(Failure::usage(
            "the root holds no process: name a server, as in /X…/name",
        )),
        _ => Ok(path),
    }
}

/// Waits until the process has exited and all it said was printed.
async fn attended(
    process: Attached,
    mut terminal: Option<Terminal>,
    no_stdin: bool,
    signals: &mut Signals,
) -> Result<Over, Failure> {
    let Attached {
        process,
        mut stdin,
        stdout,
        stderr,
        mut end,
    } = process;
    if let Some(terminal) = &mut terminal {
        terminal.make_raw()?;
        // The terminal may have been resized before the signal was listened for.
        let _ = process.resize(terminal.size()).await;
    }
    let feed = async {
        let copied = match no_stdin {
            true => Ok(()),
            false => copy(stdin::open_in_foreground(), &mut stdin).await,
        };
        match copied {
            // A process that reads no more is no failure of its own.
            Ok(()) => drop(stdin.finish().await),
            Err(Copied::NotRead(failure)) => return failure,
            Err(Copied::NotTaken(_)) => (),
        }
        std::future::pending().await
    };
    let pass_on = async {
        loop {
            match signals.next(terminal.is_some()).await {
                Passed::Signal(name, _) => {
                    let before = process.peek().await;
                    let passed = pass(&process, name).await;
                    let had_exited = match passed {
                        Err(Error::Refused { error, .. }) => error.code == Code::Closed,
                        _ => before.is_ok_and(|status| status.phase.is_final()),
                    };
                    // Then only the output of a child of the process is waited for, and the signal
                    // is for this command, too. A circuit that failed is told by the streams.
                    if had_exited {
                        return Ok(Over::Left(process.wait().await?));
                    }
                }
                Passed::Resize => {
                    if let Some(size) = terminal.as_ref().map(Terminal::size) {
                        let _ = process.resize(size).await;
                    }
                }
            }
        }
    };
    let end = async {
        let (status, (), ()) = tokio::try_join!(
            async { Ok::<_, Failure>(end.wait().await?) },
            show(&process, stdout, Target::Stdout),
            show(&process, stderr, Target::Stderr)
        )?;
        Ok(Over::Ended(status))
    };
    tokio::select! {
        end = end => end,
        failure = feed => Err(failure),
        end = pass_on => end,
    }
}

/// Prints an output. When the reader of this command's own output has gone, the process gets SIGPIPE, as
/// at a local pipe.
async fn show(process: &Proc, mut output: AttachedOutput, target: Target) -> Result<(), Failure> {
    let mut out = Pipe::new(target);
    while let Some(piece) = output.chunk().await? {
        if let Err(failure) = out.write(piece).await {
            if !failure.is_pipe_closed() {
                return Err(failure);
            }
            // One that has exited needs no signal; one that ignores it goes on, and is not to
            // wait for a reader that never comes.
            let _ = process.signal("PIPE").await;
            let _ = output.close().await;
            return Ok(());
        }
    }
    match out.finish().await {
        // Whoever has gone by now has missed nothing that we could still give.
        Err(failure) if failure.is_pipe_closed() => Ok(()),
        other => other,
    }
}

/// The exit status that a shell gives to a process which ended so.
pub(super) fn exit_status(code: Option<i32>, signal: Option<i32>) -> u8 {
    low_byte(match (code, signal) {
        (_, Some(signal)) => 128 + signal,
        (Some(code), None) => code,
        (None, None) => 1,
    })
}

/// Exit statuses have eight bits (wait(2)).
fn low_byte(number: i32) -> u8 {
    number.to_le_bytes()[0]
}

/// Passes a signal on as a terminal would: a signal that ends a command goes to all of its group, as a
/// shell that waits for a child does not heed it.
async fn pass(process: &Proc, signal: &str) -> Result<(), Error> {
    match signal {
        "USR1" | "USR2" => process.signal(signal).await,
        _ => process.signal_group(signal).await,
    }
}

/// The signals that are passed on.
struct Signals {
    passed: Vec<(Named, Signal)>,
    resized: Signal,
}

enum Passed {
    Signal(&'static str, SignalKind),
    Resize,
}

impl Signals {
    fn listen() -> Result<Signals, Failure> {
        let failed = |error: std::io::Error| Failure::operation("cannot catch signals", &error);
        let listen = |named: Named| Ok((named, signal(named.1()).map_err(failed)?));
        Ok(Signals {
            passed: PASSED_ON
                .into_iter()
                .map(listen)
                .collect::<Result<_, Failure>>()?,
            resized: signal(SignalKind::window_change()).map_err(failed)?,
        })
    }

    async fn next(&mut self, on_terminal: bool) -> Passed {
        std::future::poll_fn(|cx| {
            for ((name, kind), signal) in &mut self.passed {
                if signal.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(Passed::Signal(name, kind()));
                }
            }
            match self.resized.poll_recv(cx).is_ready() && on_terminal {
                true => std::task::Poll::Ready(Passed::Resize),
                false => std::task::Poll::Pending,
            }
        })
        .await
    }

    /// Resolves at a signal that would end a command which does not catch it, with the exit status
    /// that a shell gives then.
    async fn ends(&mut self) -> u8 {
        loop {
            if let Passed::Signal(_, kind) = self.next(false).await {
                return low_byte(128 + kind.as_raw_value());
            }
        }
    }
}

/// The settings that the terminal had, for every way out.
static ORIGINAL: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal that this command runs on. It is as it was before when this is dropped.
struct Terminal;

impl Terminal {
    fn find() -> Result<Terminal, Failure> {
        match rustix::termios::isatty(stdin()) {
            true => Ok(Terminal),
            false => Err(Failure::usage("-i needs a terminal on stdin")),
        }
    }

    fn size(&self) -> TerminalSize {
        match rustix::termios::tcgetwinsize(stdin()) {
            Ok(size) => TerminalSize {
                rows: size.ws_row,
                columns: size.ws_col,
            },
            Err(_) => TerminalSize {
                rows: 24,
                columns: 80,
            },
        }
    }

    fn make_raw(&mut self) -> Result<(), Failure> {
        let failed = |errno: rustix::io::Errno| {
            Failure::failed(format!("cannot set the terminal to raw mode: {errno}"))
        };
        let original = rustix::termios::tcgetattr(stdin()).map_err(failed)?;
        let mut raw = original.clone();
        raw.make_raw();
        *ORIGINAL.lock() = Some(original);
        // A panic ends the process without dropping anything.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
        rustix::termios::tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(failed)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let original = ORIGINAL.lock().take();
    if let Some(original) = original {
        let _ = rustix::termios::tcsetattr(stdin(), OptionalActions::Now, &original);
    }
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}
