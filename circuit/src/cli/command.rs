//! The one definition of the command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use circuit_client::{Path, Pattern, Url};
use circuit_proto::element::channel::MAX_CAPACITY;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::element::signals;

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

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a server on this host until it is told to stop
    ///
    /// Prints its URL as the first line of stdout, and a log of its operations on stderr. Leaves
    /// the circuit in order on SIGINT and SIGTERM; the processes it started go on.
    ///
    /// Without -a, -if, -discover and -j it listens on loopback only.
    Start(Start),
    /// Print a new key for a circuit, or write it to a new file
    Keygen {
        /// The file, which must not exist; it is made with mode 0600
        file: Option<PathBuf>,
    },
    /// List anchors
    Ls(Ls),
    /// Print the status of an element as JSON; null if there is none
    Peek {
        /// The anchor
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Remove an element; a process or container that runs goes on, forgotten
    ///
    /// A container that has ended is removed from its Engine too.
    Scrub {
        /// The anchor
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Make a process, from a command as JSON on stdin
    ///
    /// The fields: Path (required), Args, Env (absent: the server's), Dir (absent: the server's
    /// own), Scrub, Stdout and Stderr ("pipe", "discard" or a file to append to), Terminal
    /// ({"Rows": 24, "Columns": 80}), Hangup (when whoever is attached disappears).
    #[command(
        after_help = "Example: echo '{\"Path\": \"/bin/ls\", \"Args\": [\"/\"]}' | \
circuit mkproc /X88550014d4c82e4d/pippi"
    )]
    Mkproc {
        /// Forget the element by itself once the process has exited and its readers are gone
        #[arg(long)]
        scrub: bool,
        /// The anchor
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Make a container, from a description as JSON on stdin
    ///
    /// The server must have been started with -docker. The fields: Image (required), Path, Args,
    /// Entry, Dir, Env (in addition to the image's), Memory (bytes), CpuShares, Lxc, Volume,
    /// Network, Ports, Labels, Scrub, and Pull ("missing", "never" or "always": when the image is
    /// fetched, its progress on stderr).
    #[command(
        after_help = "Example: echo '{\"Image\": \"ubuntu\", \"Path\": \"/bin/ls\", \"Args\": \
[\"/\"]}' | circuit mkdkr /X88550014d4c82e4d/docky"
    )]
    Mkdkr {
        /// Remove the container when it exits, and forget the element once its readers are gone
        #[arg(long)]
        scrub: bool,
        /// The anchor
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Write stdin to a process's or container's stdin, and close it
    Stdin {
        /// The process or container
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Print a process's or container's stdout, live
    Stdout {
        /// The process or container
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Print a process's or container's stderr, live, on stdout
    Stderr {
        /// The process or container
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Wait for a process or container to exit, and print its status as JSON
    Wait {
        /// The process or container
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Wait for all the processes and containers whose paths are on stdin, one per line
    ///
    /// Prints a line for each as it exits: its path, a tab, and `ok`, `exit status N` or
    /// `signal: NAME`.
    Waitall {
        #[command(flatten)]
        dial: Dial,
    },
    /// Send a signal to a process, or to a container's first process
    Signal {
        /// To the process's whole group
        #[arg(long)]
        group: bool,
        /// Its name, with or without SIG, in any case, or its number
        #[arg(allow_negative_numbers = true, value_parser = signal)]
        signal: String,
        /// The process or container
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Make a channel
    ///
    /// It holds up to CAPACITY messages for receivers to come; with 0, a send waits for its
    /// receiver.
    Mkchan {
        /// The anchor
        path: Path,
        /// How many messages it holds: at most 16777216
        #[arg(allow_negative_numbers = true, value_parser = capacity)]
        capacity: u64,
        #[command(flatten)]
        dial: Dial,
    },
    /// Send stdin to a channel as a message
    ///
    /// Waits until there is a place for the message, and ends once the channel holds all of it, or
    /// a receiver has it.
    Send {
        /// Send every line as a message, without its line end
        #[arg(long)]
        lines: bool,
        /// The channel
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Receive a message from a channel or subscription, and print it
    ///
    /// The message is gone from the channel once it is printed; a receiver that is interrupted
    /// leaves it to another.
    Recv(Recv),
    /// Close a channel: what it holds is received still, and it takes no more
    Close {
        /// The channel
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Make a subscription to servers: those in the circuit now, then each that joins
    ///
    /// `recv` of it gives the path of a server at a time.
    #[command(name = "mk@join")]
    MkOnJoin {
        /// The anchor
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
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Make a DNS server
    ///
    /// It answers over UDP and TCP, and is empty: `set` gives it records, `peek` tells its address.
    Mkdns {
        /// Serve the live servers of the circuit in this zone, as xID.ZONE and _circuit._udp.ZONE
        #[arg(long, value_name = "ZONE")]
        zone: Option<String>,
        /// The anchor
        path: Path,
        /// Where it answers; a missing port is any free one [default: the server's own address]
        #[arg(value_name = "HOST[:PORT]")]
        address: Option<String>,
        #[command(flatten)]
        dial: Dial,
    },
    /// Set a record of a DNS server
    ///
    /// One that is there already changes nothing; one that differs only in its TTL replaces the
    /// other. TTL and class may be left out: 3600 and IN. Names are taken from the root.
    #[command(
        after_help = "Example: circuit set /X88550014d4c82e4d/mydns \"miek.nl. 3600 IN MX 10 mx.miek.nl.\""
    )]
    Set {
        /// The DNS server
        path: Path,
        /// The record, as in a zone file
        record: String,
        /// What follows where the record is not quoted: refused in better words than clap's.
        #[arg(hide = true)]
        rest: Vec<String>,
        #[command(flatten)]
        dial: Dial,
    },
    /// Remove the records of a name from a DNS server
    Unset {
        /// The DNS server
        path: Path,
        /// The name
        name: String,
        /// Only the records of this type
        #[arg(value_name = "TYPE")]
        kind: Option<String>,
        #[command(flatten)]
        dial: Dial,
    },
    /// Execute a command on a server as if it ran here
    ///
    /// Makes a process, attaches stdin, stdout and stderr, passes signals on, exits as the process
    /// did (128 + the signal's number if one ended it), and scrubs it. Killed, it leaves
    /// nothing behind: the process is hung up, as by a terminal that closes.
    #[command(override_usage = "circuit run [-i] [OPTIONS] PATH|SERVER -- COMMAND [ARG]...")]
    Run(Run),
    /// Merge the circuit of a server with another circuit
    Join {
        /// The server
        path: Path,
        /// A server of the other circuit
        url: Url,
        #[command(flatten)]
        dial: Dial,
    },
    /// Make a server leave the circuit and exit
    Suicide {
        /// The server
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Print what a server's threads and operations are doing
    Stk {
        /// The server
        path: Path,
        #[command(flatten)]
        dial: Dial,
    },
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// The directory, which must exist
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct Start {
    /// The address to listen on; a missing port is any free one
    #[arg(short = 'a', long = "addr", value_name = "HOST[:PORT]")]
    pub(super) address: Option<String>,
    /// Listen on this network interface's address
    #[arg(long = "if", value_name = "NAME")]
    pub(super) interface: Option<String>,
    /// The address that others dial, where it is another than the one listened on
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(super) advertise: Option<String>,
    /// A name for people [default: the host's name]
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Keep the server's identity in this directory, and come back as itself
    #[arg(long, value_name = "DIR")]
    pub(super) var: Option<PathBuf>,
    /// Join this server's circuit; may be repeated
    #[arg(short = 'j', long, value_name = "URL")]
    pub(super) join: Vec<Url>,
    /// Find other servers on this multicast group; may be repeated [env: CIRCUIT_DISCOVER]
    #[arg(long, value_name = "GROUP:PORT", value_parser = group)]
    pub(super) discover: Vec<SocketAddr>,
    /// The file that holds the circuit's key [env: CIRCUIT_HMAC]
    #[arg(long, value_name = "FILE")]
    pub(super) hmac: Option<PathBuf>,
    /// Host containers, by the Docker Engine that DOCKER_HOST names or that is found at its usual place
    #[arg(long)]
    pub(super) docker: bool,
    /// The form of the log on stderr
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(super) log: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Show what each anchor holds, and of servers the name and address
    #[arg(short = 'l', long)]
    pub(super) long: bool,
    /// Print what is below an anchor before the anchor
    #[arg(long)]
    pub(super) depth: bool,
    /// An anchor, whose children are listed, or PATH/... for all that is below it
    #[arg(default_value = "/")]
    pub(super) pattern: Pattern,
    #[command(flatten)]
    pub(super) dial: Dial,
}

#[derive(Debug, Args)]
pub(super) struct Recv {
    /// Print a line end after each message; alone, one message
    #[arg(long)]
    pub(super) lines: bool,
    /// Receive so many messages
    #[arg(long, value_name = "N", conflicts_with = "follow")]
    #[arg(allow_negative_numbers = true, value_parser = messages)]
    pub(super) count: Option<u64>,
    /// Receive until the channel is closed
    #[arg(long)]
    pub(super) follow: bool,
    /// The channel or subscription
    pub(super) path: Path,
    #[command(flatten)]
    pub(super) dial: Dial,
}

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Run it on a terminal, which is this one
    #[arg(short = 'i', long)]
    pub(super) interactive: bool,
    /// Where to make the process: an anchor, or a server's path, id or name for a new anchor there
    #[arg(value_name = "PATH|SERVER")]
    pub(super) place: String,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<std::ffi::OsString>,
    #[command(flatten)]
    pub(super) dial: Dial,
}

/// How to reach the circuit.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Reaching the circuit")]
pub(super) struct Dial {
    /// Dial this server
    // Named apart from the URL that `join` takes.
    #[arg(id = "dial", short = 'd', long = "dial", value_name = "URL")]
    pub(super) url: Option<Url>,
    /// Ask this multicast group for a server [env: CIRCUIT_DISCOVER]
    #[arg(long, value_name = "GROUP:PORT", value_parser = group)]
    pub(super) discover: Option<SocketAddr>,
    /// The file that holds the circuit's key [env: CIRCUIT_HMAC]
    #[arg(long, value_name = "FILE")]
    pub(super) hmac: Option<PathBuf>,
    /// The deadline of operations that do not block by nature
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(super) timeout: Duration,
}

/// A multicast group and port.
pub(super) fn group(text: &str) -> Result<SocketAddr, String> {
    let group: SocketAddr = text
        .parse()
        .map_err(|_| "not GROUP:PORT, as in 228.8.8.8:7711".to_owned())?;
    match group {
        group if !group.ip().is_multicast() => Err(
            "not a multicast address: those are 224.0.0.0 to 239.255.255.255, and ff00::/8"
                .to_owned(),
        ),
        group if group.port() == 0 => Err("the port cannot be 0".to_owned()),
        group => Ok(group),
    }
}

fn capacity(text: &str) -> Result<u64, String> {
    let capacity = text.parse().ok();
    capacity
        .filter(|capacity| *capacity <= MAX_CAPACITY)
        .ok_or_else(|| format!("not a number of messages from 0 to {MAX_CAPACITY}"))
}

fn messages(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("not a number of messages from 0 to {}", u64::MAX))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().unwrap_or(f64::NAN);
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && seconds <= 1e9 => Ok(duration),
        _ => Err("not a number of seconds above 0, and at most 1000000000".to_owned()),
    }
}

/// The signal's name or number; a number also as `kill` takes it, `-9`.
fn signal(text: &str) -> Result<String, String> {
    let number = text.strip_prefix('-').filter(|rest| is_number(rest));
    let text = number.unwrap_or(text);
    match signals::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("not a signal: a name such as TERM, or its number".to_owned()),
    }
}

/// Whether the text is a whole number without a sign.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
