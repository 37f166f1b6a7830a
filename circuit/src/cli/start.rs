//! `circuit start` and `circuit keygen`: checks the flags, completes them from the environment, and
//! runs the server.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use circuit_client::discover::parse_group;
use circuit_client::{Search, Url, key_file};
use circuit_proto::url::Host;
use clap::{Args, Subcommand, ValueEnum};
use rustix::process::Signal;
use tokio::signal::unix::SignalKind;

use super::dial;
use super::error::{Failure, say};
use super::output::print;
use super::supervisor;
use crate::runtime::{BLOCKING_THREADS, handlers};
use crate::server::address::{self, AddressError};
use crate::server::local::file::{ForOthers, SocketFileError};
use crate::server::{self, Listen, Options, Sockets, StartError, log, name};
use circuit_client::chain;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a server on this host until it is told to stop
    ///
    /// Prints its URL as the first line of stdout, and a log of its operations on stderr. Leaves
    /// the circuit in order on SIGINT and SIGTERM; the processes it started go on. On SIGPWR, which
    /// says that the host goes down, it stops its services first.
    ///
    /// Without -a, -if, -discover, -j and -j-once it listens on loopback only.
    Start(Box<Start>),
    /// Print a new key for a circuit, or write it to a new file
    Keygen {
        /// The file, which must not exist; it is made with mode 0600
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct Start {
    /// The address to listen on; a missing port is any free one
    #[arg(short = 'a', long = "addr", value_name = "HOST[:PORT]")]
    address: Option<String>,
    /// Listen on this network interface's address
    #[arg(long = "if", value_name = "NAME")]
    interface: Option<String>,
    /// The address that others dial, where it is another than the one listened on
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Option<String>,
    /// A name for people [default: the host's name]
    #[arg(long)]
    name: Option<String>,
    /// Keep the server's identity in this directory, and come back as itself
    ///
    /// The addresses of the last members are kept there too. Without -j and -discover they are
    /// dialled at the next start, unless `suicide` has ended the server.
    #[arg(long, value_name = "DIR")]
    var: Option<PathBuf>,
    /// Join this server's circuit, now and whenever the server there is lost; may be repeated
    #[arg(short = 'j', long, value_name = "URL")]
    join: Vec<Url>,
    /// Join this server's circuit once, and forget the URL then; may be repeated
    #[arg(long = "j-once", alias = "join-once", value_name = "URL")]
    join_once: Vec<Url>,
    /// Find other servers on this multicast group; may be repeated [env: CIRCUIT_DISCOVER]
    #[arg(long, value_name = "GROUP:PORT", value_parser = parse_group)]
    discover: Vec<SocketAddr>,
    /// The file that holds the circuit's key [env: CIRCUIT_HMAC]
    #[arg(long, value_name = "FILE")]
    hmac: Option<PathBuf>,
    /// Host containers, by the Docker Engine that DOCKER_HOST names or that is found at its usual place
    #[arg(long)]
    docker: bool,
    /// Also listen for clients on this host on a Unix socket at this path, for the commands of others;
    /// `none`: on no Unix socket
    ///
    /// A server always listens on one in the runtime directory, which the commands of its own user
    /// and root's use by themselves.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The group that may use the socket of -socket, and with it run programs as the server's user
    #[arg(long, value_name = "GROUP", requires = "socket")]
    socket_group: Option<String>,
    /// How many bytes of output all services together may retain [default: a tenth of the disk]
    #[arg(long, value_name = "BYTES")]
    logs: Option<u64>,
    /// The form of the log on stderr
    #[arg(long, value_name = "FORM", default_value = "text")]
    log: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Start(flags) => start(*flags),
            Command::Keygen { file } => keygen(file.as_deref()),
        }
    }
}

/// Runs a server until it is told to stop.
fn start(flags: Start) -> Result<u8, Failure> {
    let format = match flags.log {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    let mut options = options(flags)?;
    let log = log::start(format).map_err(|error| Failure::operation("cannot log", &error))?;
    options.log = Some(log.lines());
    // One thread carries the network: measured on two cores, handing a request from one thread to
    // another costs more than serving it. A few pools of threads do the work that blocks.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build();
    let runtime = runtime.map_err(|error| Failure::operation("cannot start", &error))?;
    let result = runtime.block_on(async {
        // Before the URL is printed, so that its reader can stop the server in order.
        let stopped = stop_signal()?;
        let mut power = handlers::listen(SignalKind::from_raw(Signal::POWER.as_raw()))
            .map_err(|error| Failure::operation("cannot catch signals", &error))?;
        crate::element::process::keep_from_children();
        crate::element::process::orphans::adopt();
        let running = server::start(options).await.map_err(not_started)?;
        if running.is_open_to_all() {
            say(&format!(
                "circuit: WARNING: no key: anybody who reaches {} may run programs on this host \
                 (make a key with `circuit keygen FILE`, give it with -hmac FILE)",
                running.url().authority()
            ));
        }
        if running.is_hidden() {
            say(&format!(
                "circuit: WARNING: announced as {}, where no other host reaches it: start it once \
                 the network is up, or give -a HOST, -if or -advertise",
                running.url().authority()
            ));
        }
        // A reader who does not want the URL is no reason not to serve.
        let _ = print(&format!("{}\n", running.url()));
        supervisor::tell("READY=1");
        let server = running.server().clone();
        tokio::spawn(async move {
            server.leaves().await;
            supervisor::tell("STOPPING=1");
        });
        let server = running.server().clone();
        tokio::spawn(async move {
            if power.recv().await.is_some() {
                server.stop_with_services();
            }
        });
        let finished = running.finished(stopped).await;
        finished.map_err(|failure| Failure::failed(chain(&failure)))?;
        Ok(0)
    });
    // The server does not wait for a thread that hangs in the resolver or on a file system.
    runtime.shutdown_background();
    result
}

/// Why a server did not start, with the remedy where one helps.
fn not_started(error: StartError) -> Failure {
    let failure = Failure::failed(chain(&error));
    match &error {
        StartError::Socket(SocketFileError::Io { path, source })
            if source.kind() == ErrorKind::NotFound =>
        {
            let directory = path.parent().unwrap_or(path).display();
            failure.with_hint(format!("make its directory first: mkdir -p {directory}"))
        }
        _ => failure,
    }
}

/// Checks and completes what was given on the command line.
fn options(flags: Start) -> Result<Options, Failure> {
    let discover = match flags.discover.is_empty() {
        true => Search::groups()?,
        false => flags.discover,
    };
    let key = dial::key(flags.hmac.as_deref())?;
    let joins: Vec<&Url> = flags.join.iter().chain(&flags.join_once).collect();
    let listen = listen(
        flags.address.as_deref(),
        flags.interface.as_deref(),
        !discover.is_empty(),
        &joins,
    )?;
    let advertise = flags.advertise.as_deref().map(advertised).transpose()?;
    let name = match flags.name {
        Some(name) => checked_name(name)?,
        None => host_name(),
    };
    let sockets = sockets(flags.socket, flags.socket_group.as_deref())?;
    Ok(Options {
        listen,
        advertise,
        name,
        var: flags.var,
        join: flags.join,
        join_once: flags.join_once,
        discover,
        key,
        docker: flags.docker,
        log: None,
        logs: flags.logs,
        sockets,
    })
}

fn listen(
    address: Option<&str>,
    interface: Option<&str>,
    discovers: bool,
    joins: &[&Url],
) -> Result<Listen, Failure> {
    let wrong = |error: AddressError| Failure::usage(chain(&error));
    let (host, port) = match address {
        Some(address) => address::resolve(address).map_err(wrong)?,
        None => (None, 0),
    };
    let host = match (host, interface) {
        (Some(_), Some(_)) => {
            return Err(Failure::usage(
                "-a HOST and -if both say where to listen: give one (-a :PORT goes with -if)",
            ));
        }
        (None, Some(interface)) => Some(address::of_interface(interface).map_err(wrong)?),
        (host, None) => host,
    };
    // A server that joins servers of this machine only is not for other hosts.
    let outside = discovers || joins.iter().any(|url| !url.is_loopback());
    Ok(match host {
        Some(host) if host.ip().is_unspecified() && host.is_ipv6() => Listen::Everywhere(port),
        Some(mut host) => {
            host.set_port(port);
            Listen::At(host)
        }
        None if address.is_some() || outside => Listen::Everywhere(port),
        None => Listen::Loopback,
    })
}

/// The Unix sockets that the flags ask for.
fn sockets(path: Option<PathBuf>, group: Option<&str>) -> Result<Sockets, Failure> {
    if path
        .as_ref()
        .is_some_and(|path| path.as_os_str().is_empty())
    {
        return Err(Failure::usage("-socket takes a path, or none"));
    }
    if group == Some("") {
        return Err(Failure::usage(
            "-socket-group takes the name or number of a group",
        ));
    }
    let group = group.map(group_id).transpose()?;
    match path {
        None => Ok(Sockets {
            own: true,
            for_others: None,
        }),
        Some(path) if path.as_os_str() == "none" => match group {
            None => Ok(Sockets::default()),
            Some(_) => Err(Failure::usage(
                "-socket none makes no socket for the -socket-group: give one of the two",
            )),
        },
        Some(path) => Ok(Sockets {
            own: true,
            for_others: Some(ForOthers { path, group }),
        }),
    }
}

/// The number of a group that is given by its number or its name in /etc/group.
fn group_id(group: &str) -> Result<u32, Failure> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group")
        .map_err(|error| Failure::operation("cannot read /etc/group", &error))?;
    let found = groups.lines().find_map(|line| {
        // NAME:PASSWORD:NUMBER:MEMBERS, group(5).
        let mut fields = line.split(':');
        match fields.next() == Some(group) {
            true => fields.nth(1)?.parse().ok(),
            false => None,
        }
    });
    found.ok_or_else(|| {
        Failure::usage(format!(
            "-socket-group {group}: no such group in /etc/group (a number is taken too)"
        ))
    })
}

/// Splits an address to announce into the host and the port, which is 0 if none was given.
fn advertised(text: &str) -> Result<(Host, u16), Failure> {
    let wrong = || Failure::usage(format!("-advertise: not an address (HOST[:PORT]): {text}"));
    let (host, port) = address::split(text).ok_or_else(wrong)?;
    let host = match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host.to_owned(),
    };
    let url: Url = format!("circuit://{host}:1").parse().map_err(|_| wrong())?;
    match &url.host {
        Host::Ip(ip) if ip.is_unspecified() => Err(wrong()),
        _ => Ok((url.host, port)),
    }
}

/// Fails unless it is a name that a server can have.
fn checked_name(name: String) -> Result<String, Failure> {
    match name::check(&name) {
        Ok(()) => Ok(name),
        Err(why) => Err(Failure::usage(format!("-name {name:?}: {why}"))),
    }
}

/// The host's name, or a name that is made from it, with a warning, if it is none that a server can have.
fn host_name() -> String {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let name = name::from_host(&host);
    if name != host {
        say(&format!(
            "circuit: WARNING: the host's name {host:?} cannot be a server's name: this server is named \
             {name} (-name NAME gives another)"
        ));
    }
    name
}

/// Resolves at SIGINT, SIGTERM, or the end of the terminal that the server was started on. From then on
/// a second signal ends the process at once. A hang-up is ignored without a terminal, and under `nohup`.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error: std::io::Error| Failure::operation("cannot catch signals", &error);
    let mut interrupt = handlers::listen(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = handlers::listen(SignalKind::terminate()).map_err(failed)?;
    let heeds = heeds_hangups();
    let mut hangup = handlers::listen(SignalKind::hangup()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => (),
            _ = terminate.recv() => (),
            _ = hangup.recv(), if heeds => (),
        }
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
            }
            std::process::exit(1);
        });
    })
}

/// Whether a hang-up is to end this process: it has a controlling terminal, and was not started with
/// hang-ups ignored.
fn heeds_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The first bit stands for the first signal, SIGHUP.
    let ignores = ignored.is_some_and(|mask| mask & 1 != 0);
    !ignores && std::fs::File::open("/dev/tty").is_ok()
}

/// Prints a new key, or writes it to a new file.
fn keygen(file: Option<&Path>) -> Result<u8, Failure> {
    let failed = |error: key_file::KeyFileError| Failure::failed(chain(&error));
    let key = key_file::generate().map_err(failed)?;
    match file {
        Some(path) => key_file::write_new(path, &key).map_err(failed)?,
        None => print(&format!("{}\n", key.to_text()))?,
    }
    Ok(0)
}
