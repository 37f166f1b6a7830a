//! Reads the definition of a service, and checks all that can be checked without running it.
//!
//! A [`Plan`] is what the element needs of one generation: the command with its surroundings, the commands
//! beside it, its probes and sockets, and the [`Policy`] for the machine.

use std::ffi::CString;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use circuit_proto::element::process::{Cmd, Sink};
use circuit_proto::element::service::{self as wire, Bound, Definition, Limit, MAX_SLOTS};
use circuit_proto::path::ServerPart;
use circuit_proto::{Code, Error, OsText, Path};
use rustix::process::{Resource, Rlimit, Signal};

use super::machine::{self, Policy};
use crate::element::process::{Manner, Owner};
use crate::element::signals;

/// The longest definition, in bytes: the status, which repeats it, is to fit a frame.
pub(super) const LONGEST: usize = 512 << 10;

/// The longest time that a definition may name. Chosen: longer ones are a mistake in the unit.
const LONGEST_TIME: f64 = 10.0 * 365.0 * 86_400.0;

/// What the element needs of one generation of a definition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// As it was given.
    pub(super) text: String,
    definition: Definition,
    /// What the machine needs.
    pub(super) policy: Policy,
    /// How the instances and all commands are executed.
    pub(super) manner: Manner,
    /// The command before each start.
    pub(super) before: Option<Vec<OsText>>,
    /// The command that stops an instance.
    pub(super) stop_command: Option<Vec<OsText>>,
    /// The signal that stops an instance.
    pub(super) stop_signal: Signal,
    /// The signal or command of a reload.
    pub(super) reload: Option<Reload>,
    /// How it is known that an instance is ready.
    pub(super) ready: Probe,
    /// How it is known that an instance is alive.
    pub(super) alive: Option<Probe>,
    /// The sockets.
    pub(super) sockets: Vec<Socket>,
    /// How much output is retained, in bytes.
    pub(super) log_bytes: u64,
}

/// How an instance is told to read its configuration again.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reload {
    Signal(Signal),
    Command(Vec<OsText>),
}

/// A question to an instance.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Probe {
    /// None is asked: it has only to run.
    Up,
    Command(Vec<OsText>),
    /// With `{slot}`.
    Tcp(String),
    /// With `{slot}`.
    Http(String),
    /// The instance says so.
    Notify,
    /// The instance writes a line to this descriptor.
    NotifyFd(u16),
}

/// A socket that the server holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Socket {
    pub(super) name: String,
    pub(super) listen: Listen,
    pub(super) backlog: Option<u32>,
    pub(super) mode: Option<u32>,
}

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listen {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, message)
}

impl Plan {
    /// Reads a definition. Looks users up, which may block.
    pub(super) fn read(text: &str) -> Result<Plan, Error> {
        if text.len() > LONGEST {
            return Err(Error::new(
                Code::TooLarge,
                format!("the definition is longer than {} KiB", LONGEST >> 10),
            ));
        }
        let definition: Definition = serde_json::from_str(text)
            .map_err(|error| invalid(format!("the definition is wrong: {error}")))?;
        let d = &definition;
        if d.path.is_empty() {
            return Err(invalid("the definition has no Path"));
        }
        if d.env.is_some() && !d.add_env.is_empty() {
            return Err(invalid(
                "Env and AddEnv are both given: leave one of them out",
            ));
        }
        if d.announce.is_some() || d.port.is_some() {
            return Err(Error::new(
                Code::Unsupported,
                "Announce is not yet supported: leave it and Port out",
            ));
        }
        for (field, entries) in [("Env", d.env.as_ref()), ("AddEnv", Some(&d.add_env))] {
            let is_variable = |entry: &OsText| entry.as_bytes().iter().skip(1).any(|b| *b == b'=');
            // The entry may be a secret: its place must do.
            let wrong = entries
                .into_iter()
                .flatten()
                .position(|entry| !is_variable(entry));
            if let Some(at) = wrong {
                let what = format!("entry {} of {field} is not NAME=value", at + 1);
                return Err(invalid(what));
            }
        }
        let sockets = d
            .sockets
            .iter()
            .map(Socket::read)
            .collect::<Result<Vec<_>, _>>()?;
        for (at, socket) in sockets.iter().enumerate() {
            if sockets[..at].iter().any(|other| other.name == socket.name) {
                return Err(invalid(format!(
                    "two Sockets have the name {:?}",
                    socket.name
                )));
            }
        }
        let surge = d.surge.unwrap_or(!sockets.is_empty());
        let ready = d
            .ready
            .as_ref()
            .map_or(Ok(Probe::Up), |probe| Probe::read("Ready", probe))?;
        let alive = d
            .alive
            .as_ref()
            .map(|probe| Probe::read("Alive", probe))
            .transpose()?;
        if matches!(alive, Some(Probe::Up | Probe::NotifyFd(_))) {
            return Err(invalid("Alive takes Command, Tcp, Http or Notify"));
        }
        let instances = d.instances.unwrap_or(1);
        if instances > MAX_SLOTS {
            return Err(invalid(format!("Instances: at most {MAX_SLOTS}")));
        }
        for probe in alive.iter().chain([&ready]) {
            probe.check(&sockets, instances > 1 || surge)?;
        }
        let stop = d.stop.clone().unwrap_or_default();
        let stop_signal = stop.signal.as_deref().unwrap_or("TERM");
        let reload = d.reload.as_ref().map(Reload::read).transpose()?;
        let manner = manner(d, !sockets.is_empty())?;
        let policy = policy(d, &ready, alive.as_ref(), reload.as_ref(), surge)?;
        for sink in [&d.stdout, &d.stderr].into_iter().flatten() {
            if *sink == Sink::Pipe {
                return Err(invalid(
                    "Stdout and Stderr take \"log\", \"discard\" or a file: there is no pipe to read",
                ));
            }
        }
        Ok(Plan {
            text: text.to_owned(),
            policy,
            manner,
            before: command("Before", d.before.as_ref())?,
            stop_command: command("Stop.Command", stop.command.as_ref())?,
            stop_signal: signal("Stop.Signal", stop_signal)?,
            reload,
            ready,
            alive,
            sockets,
            log_bytes: match &d.log {
                Some(log) => log.bytes.unwrap_or(DEFAULT_LOG),
                None => DEFAULT_LOG,
            },
            definition,
        })
    }

    /// How many slots there are to be, if the definition says so.
    pub(super) fn instances(&self) -> Option<u16> {
        self.definition.instances
    }

    /// The same definition with another number of slots.
    pub(super) fn with_instances(&self, instances: u16) -> Result<Plan, Error> {
        let mut definition = self.definition.clone();
        definition.instances = Some(instances);
        let text = serde_json::to_string(&definition)
            .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        Plan::read(&text)
    }

    /// The names of fields that differ between two definitions.
    pub(super) fn differences(&self, other: &Plan) -> Vec<String> {
        let fields = |plan: &Plan| match serde_json::to_value(&plan.definition) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        let (before, after) = (fields(self), fields(other));
        let names = before.keys().chain(after.keys());
        let mut names: Vec<_> = names
            .filter(|name| before.get(*name) != after.get(*name))
            .cloned()
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether an instance of the one would be the same process as one of the other.
    pub(super) fn has_same_process(&self, other: &Plan) -> bool {
        let process = |plan: &Plan| {
            let d = &plan.definition;
            let sockets: Vec<_> = plan
                .sockets
                .iter()
                .map(|s| (s.name.clone(), s.listen.clone()))
                .collect();
            let notify = match plan.ready {
                Probe::NotifyFd(fd) => Some(fd),
                _ => None,
            };
            (
                (
                    d.path.clone(),
                    d.args.clone(),
                    d.env.clone(),
                    d.add_env.clone(),
                    d.dir.clone(),
                ),
                (d.user.clone(), d.umask.clone(), d.nice, d.limits.clone()),
                (
                    d.stdout.clone(),
                    d.stderr.clone(),
                    sockets,
                    notify,
                    plan.uses_notify(),
                ),
            )
        };
        process(self) == process(other)
    }

    /// Whether instances may speak to a notify socket.
    pub(super) fn uses_notify(&self) -> bool {
        self.ready == Probe::Notify || self.alive == Some(Probe::Notify)
    }

    /// The command of an instance in this slot.
    pub(super) fn cmd(&self, slot: u32) -> Cmd {
        let d = &self.definition;
        let log = |sink: &Option<Sink>| sink.clone().unwrap_or(Sink::Log);
        Cmd {
            env: d.env.clone(),
            dir: d.dir.clone(),
            path: d.path.clone(),
            args: d.args.iter().map(|arg| with_slot(arg, slot)).collect(),
            add_env: d
                .add_env
                .iter()
                .map(|entry| with_slot(entry, slot))
                .collect(),
            stdout: log(&d.stdout),
            stderr: log(&d.stderr),
            ..Cmd::default()
        }
    }

    /// A command beside an instance, which is executed as that instance is.
    pub(super) fn beside(&self, command: &[OsText], slot: u32) -> Cmd {
        let mut words = command.iter().map(|word| with_slot(word, slot));
        Cmd {
            path: words.next().unwrap_or_default(),
            args: words.collect(),
            ..self.cmd(slot)
        }
    }
}

/// How much output is retained unless the definition says otherwise, in bytes.
const DEFAULT_LOG: u64 = 16 << 20;

/// A text in which `{slot}` is the number.
fn with_slot(text: &OsText, slot: u32) -> OsText {
    match text.to_str() {
        Some(text) if text.contains("{slot}") => slotted(text, slot).into(),
        _ => text.clone(),
    }
}

/// The same of a text that is UTF-8.
pub(super) fn slotted(text: &str, slot: u32) -> String {
    text.replace("{slot}", &slot.to_string())
}

fn command(field: &str, command: Option<&Vec<OsText>>) -> Result<Option<Vec<OsText>>, Error> {
    match command {
        Some(words) if words.first().is_none_or(|word| word.is_empty()) => Err(invalid(format!(
            "{field} is empty: it is a list of a program and its arguments"
        ))),
        other => Ok(other.cloned()),
    }
}

fn signal(field: &str, name: &str) -> Result<Signal, Error> {
    signals::parse(name).ok_or_else(|| {
        let unknown = signals::unknown(name);
        invalid(format!("{field}: {}", unknown.message))
    })
}

fn time(field: &str, seconds: Option<f64>, default: f64) -> Result<Duration, Error> {
    let seconds = seconds.unwrap_or(default);
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds <= LONGEST_TIME => Ok(time),
        _ => Err(invalid(format!(
            "{field} is {seconds}: it is a number of seconds, from 0 to ten years"
        ))),
    }
}

/// A time that is not zero.
fn pause(field: &str, seconds: Option<f64>, default: f64) -> Result<Duration, Error> {
    let time = time(field, seconds, default)?;
    match time < Duration::from_millis(10) {
        true => Err(invalid(format!("{field} is less than 0.01 s"))),
        false => Ok(time),
    }
}

fn octal(field: &str, text: &str) -> Result<u32, Error> {
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| {
        invalid(format!(
            "{field} is {text:?}: it is up to four octal digits, as \"022\""
        ))
    })
}

impl Reload {
    fn read(reload: &wire::Reload) -> Result<Reload, Error> {
        let command = command("Reload.Command", reload.command.as_ref())?;
        match (&reload.signal, command) {
            (Some(name), None) => Ok(Reload::Signal(signal("Reload.Signal", name)?)),
            (None, Some(command)) => Ok(Reload::Command(command)),
            _ => Err(invalid("Reload has one of Signal and Command")),
        }
    }
}

impl Probe {
    fn read(field: &str, probe: &wire::Probe) -> Result<Probe, Error> {
        let mut kinds = Vec::new();
        if probe.up.is_some() {
            kinds.push(Probe::Up);
        }
        if let Some(words) = command(&format!("{field}.Command"), probe.command.as_ref())? {
            kinds.push(Probe::Command(words));
        }
        if let Some(address) = &probe.tcp {
            kinds.push(Probe::Tcp(address.clone()));
        }
        if let Some(url) = &probe.http {
            if !url.starts_with("http://") {
                return Err(invalid(format!("{field}.Http is no http:// URL")));
            }
            kinds.push(Probe::Http(url.clone()));
        }
        match probe.notify {
            Some(true) => kinds.push(Probe::Notify),
            Some(false) => return Err(invalid(format!("{field}.Notify is true or absent"))),
            None => (),
        }
        if let Some(fd) = probe.notify_fd {
            kinds.push(Probe::NotifyFd(fd));
        }
        match (kinds.pop(), kinds.is_empty()) {
            (Some(kind), true) => Ok(kind),
            _ => Err(invalid(format!(
                "{field} has one of Up, Command, Tcp, Http, Notify and NotifyFd"
            ))),
        }
    }

    /// Refuses a question that another instance, or none, would answer.
    fn check(&self, sockets: &[Socket], several: bool) -> Result<(), Error> {
        let text = match self {
            Probe::Tcp(text) => {
                let port = slotted(text, 1)
                    .rsplit_once(':')
                    .map(|(_, port)| port.parse::<u16>());
                if !matches!(port, Some(Ok(_))) {
                    return Err(invalid(format!("a probe of {text} has no port: HOST:PORT")));
                }
                text.clone()
            }
            Probe::Http(url) => authority(url).to_owned(),
            Probe::NotifyFd(fd) => {
                return match usize::from(*fd) < 3 + sockets.len() {
                    true => Err(invalid(format!(
                        "NotifyFd {fd} is taken: the first that is free is {}",
                        3 + sockets.len()
                    ))),
                    false if *fd > 255 => Err(invalid("NotifyFd is at most 255")),
                    false => Ok(()),
                };
            }
            Probe::Up | Probe::Command(_) | Probe::Notify => return Ok(()),
        };
        if several && !text.contains("{slot}") {
            return Err(invalid(format!(
                "a probe of {text} may be answered by another instance: use {{slot}} in it"
            )));
        }
        let address = slotted(&text, 1);
        let held = |socket: &Socket| match &socket.listen {
            Listen::Tcp(held) => address
                .parse::<SocketAddr>()
                .is_ok_and(|asked| asked.port() == held.port()),
            Listen::Udp(_) | Listen::Unix(_) => false,
        };
        match sockets.iter().find(|socket| held(socket)) {
            Some(socket) => Err(invalid(format!(
                "a probe of {text} asks the socket {:?}, which the server holds: any instance, or \
                 none, would answer",
                socket.name
            ))),
            None => Ok(()),
        }
    }
}

/// The host and port of a URL.
pub(super) fn authority(url: &str) -> &str {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}

impl Socket {
    fn read(socket: &wire::Socket) -> Result<Socket, Error> {
        let name = socket.name.clone();
        if name.is_empty()
            || name.len() > 255
            || name.contains(|c: char| c.is_control() || c == ':')
        {
            return Err(invalid(format!(
                "the socket's Name {name:?} is no name: 1 to 255 characters without colons"
            )));
        }
        let wrong = |why: &str| invalid(format!("the socket {name:?}: {:?} {why}", socket.listen));
        let address = |text: &str| {
            let mut found = text
                .to_socket_addrs()
                .map_err(|_| wrong("is no HOST:PORT, udp:HOST:PORT or unix:PATH"))?;
            found.next().ok_or_else(|| wrong("has no address"))
        };
        let listen = if let Some(path) = socket.listen.strip_prefix("unix:") {
            if !path.starts_with('/') || path.len() > 107 {
                return Err(wrong("has no absolute path of at most 107 bytes"));
            }
            Listen::Unix(path.into())
        } else if let Some(text) = socket.listen.strip_prefix("udp:") {
            Listen::Udp(address(text)?)
        } else {
            Listen::Tcp(address(&socket.listen)?)
        };
        let mode = socket
            .mode
            .as_deref()
            .map(|mode| octal("Mode", mode))
            .transpose()?;
        if mode.is_some() && !matches!(listen, Listen::Unix(_)) {
            return Err(wrong("has no Mode: only Unix sockets do"));
        }
        Ok(Socket {
            name: name.clone(),
            listen,
            backlog: socket.backlog,
            mode,
        })
    }
}

/// The limits, by their names in definitions.
const LIMITS: &[(&str, Resource)] = &[
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

fn limit(name: &str, limit: &Limit) -> Result<(Resource, Rlimit), Error> {
    let known = LIMITS.iter().find(|(known, _)| *known == name);
    let Some((_, resource)) = known else {
        let all: Vec<_> = LIMITS.iter().map(|(name, _)| *name).collect();
        return Err(invalid(format!(
            "Limits: no limit is named {name:?}: there are {}",
            all.join(", ")
        )));
    };
    let side = |bound: &Bound| match bound {
        Bound::Number(number) => Ok(Some(*number)),
        Bound::Word(word) if word == "unlimited" => Ok(None),
        Bound::Word(word) => Err(invalid(format!(
            "Limits: {name} is {word:?}: a number or \"unlimited\""
        ))),
    };
    let (current, maximum) = match limit {
        Limit::Both(both) => (side(both)?, side(both)?),
        Limit::Each([soft, hard]) => (side(soft)?, side(hard)?),
    };
    let greater = match (current, maximum) {
        (Some(soft), Some(hard)) => soft > hard,
        (None, Some(_)) => true,
        (_, None) => false,
    };
    match greater {
        true => Err(invalid(format!(
            "Limits: {name}: the soft limit is above the hard one"
        ))),
        false => Ok((*resource, Rlimit { current, maximum })),
    }
}

fn manner(d: &Definition, own_number: bool) -> Result<Manner, Error> {
    let limits = d.limits.iter().flatten();
    if d.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
        return Err(invalid("Nice is from -20 to 19"));
    }
    Ok(Manner {
        owner: d.user.as_deref().map(owner).transpose()?,
        umask: d
            .umask
            .as_deref()
            .map(|mask| octal("Umask", mask))
            .transpose()?,
        nice: d.nice,
        limits: limits
            .map(|(name, value)| limit(name, value))
            .collect::<Result<_, _>>()?,
        own_number,
        variables: Vec::new(),
    })
}

/// The user `www` or `www:adm`, with its supplementary groups.
fn owner(text: &str) -> Result<Owner, Error> {
    use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
    let failed = |what: &str, why: nix::Error| {
        Error::new(
            Code::Internal,
            format!("User: cannot look up {what}: {}", why.desc()),
        )
    };
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    let user = match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    };
    let user = user
        .map_err(|why| failed(name, why))?
        .ok_or_else(|| invalid(format!("User: there is no user {name:?}")))?;
    let gid = match group {
        None => user.gid,
        Some(group) => {
            let found = match group.parse() {
                Ok(number) => Group::from_gid(Gid::from_raw(number)),
                Err(_) => Group::from_name(group),
            };
            let found = found.map_err(|why| failed(group, why))?;
            found
                .ok_or_else(|| invalid(format!("User: there is no group {group:?}")))?
                .gid
        }
    };
    let name = CString::new(user.name).map_err(|_| invalid("User holds a zero byte"))?;
    let groups = getgrouplist(&name, gid).map_err(|why| failed(text, why))?;
    let own = rustix::process::geteuid();
    if !own.is_root() && own.as_raw() != user.uid.as_raw() {
        return Err(invalid(
            "User: only a server of root's can run programs as another user",
        ));
    }
    Ok(Owner {
        uid: user.uid.as_raw(),
        gid: gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
    })
}

fn policy(
    d: &Definition,
    ready: &Probe,
    alive: Option<&Probe>,
    reload: Option<&Reload>,
    surge: bool,
) -> Result<Policy, Error> {
    let backoff = d.backoff.clone().unwrap_or_default();
    let stop = d.stop.clone().unwrap_or_default();
    let asked = d.ready.clone().unwrap_or_default();
    let deadline = pause("Ready.Deadline", asked.deadline, 60.0)?;
    for name in &d.after {
        let path: Result<Path, _> = format!("/{}", name.trim_start_matches('/')).parse();
        let names_a_server = |path: &Path| matches!(path.server(), Some(ServerPart::Id(_)));
        if name.is_empty() || path.is_err() || path.as_ref().is_ok_and(names_a_server) {
            return Err(invalid(format!(
                "After: {name:?} is no path of a service of this server"
            )));
        }
    }
    if d.parallel == Some(0) {
        return Err(invalid("Parallel is at least 1"));
    }
    Ok(Policy {
        instances: u32::from(d.instances.unwrap_or(1)),
        restart: match d.restart {
            None | Some(wire::Restart::Always) => machine::Restart::Always,
            Some(wire::Restart::Failure) => machine::Restart::Failure,
            Some(wire::Restart::Never) => machine::Restart::Never,
        },
        ok_codes: d.ok_codes.clone().unwrap_or_else(|| vec![0]),
        fatal_codes: d.fatal_codes.clone().unwrap_or_default(),
        unknown_finishes: d.unknown == Some(wire::Unknown::Finished)
            || d.restart == Some(wire::Restart::Never),
        backoff: machine::Backoff {
            first: time("Backoff.First", backoff.first, 1.0)?,
            most: time("Backoff.Most", backoff.most, 60.0)?,
            steady: time("Backoff.Steady", backoff.steady, 10.0)?,
            tries: backoff.tries.unwrap_or(0),
        },
        stop: machine::Stop {
            command: stop.command.is_some(),
            seconds: time("Stop.Seconds", stop.seconds, 10.0)?,
            wait: time("Stop.Wait", stop.wait, 0.0)?,
        },
        ready: match ready {
            Probe::Up => machine::Ready::Up(time("Ready.Up", asked.up, 1.0)?),
            Probe::Command(_) | Probe::Tcp(_) | Probe::Http(_) => machine::Ready::Probe {
                every: pause("Ready.Every", asked.every, 1.0)?,
                timeout: pause("Ready.Timeout", asked.timeout, 1.0)?,
                deadline,
            },
            Probe::Notify | Probe::NotifyFd(_) => machine::Ready::Notify { deadline },
        },
        alive: match (&d.alive, alive) {
            (Some(asked), Some(kind)) => Some(machine::Alive {
                watchdog: *kind == Probe::Notify,
                every: pause("Alive.Every", asked.every, 10.0)?,
                timeout: pause("Alive.Timeout", asked.timeout, 5.0)?,
                fails: asked.fails.unwrap_or(3).max(1),
            }),
            _ => None,
        },
        after: d
            .after
            .iter()
            .map(|name| name.trim_matches('/').to_owned())
            .collect(),
        before: d.before.is_some(),
        parallel: u32::from(d.parallel.unwrap_or(1)),
        surge,
        max_age: d
            .max_age
            .map(|age| pause("MaxAge", Some(age), 0.0))
            .transpose()?,
        max_memory: d.max_memory,
        reload: match reload {
            None => None,
            Some(Reload::Signal(_)) => Some(machine::Reload::Signal),
            Some(Reload::Command(_)) => Some(machine::Reload::Command),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_documents() {
        let plan = Plan::read(r#"{"Path": "/bin/true"}"#).unwrap();
        assert_eq!(plan.policy.instances, 1);
        assert_eq!(plan.policy.backoff.most, Duration::from_secs(60));
        assert_eq!(
            plan.policy.ready,
            machine::Ready::Up(Duration::from_secs(1))
        );
        assert_eq!(plan.stop_signal, Signal::TERM);
        assert!(!plan.policy.surge);
        assert_eq!(plan.cmd(1).stdout, Sink::Log);
    }

    #[test]
    fn a_wrong_definition_is_refused_by_field() {
        let check = |fields: &str, expected: &str| {
            let text = format!(r#"{{"Path": "/bin/true"{fields}}}"#);
            let error = Plan::read(&text).unwrap_err();
            assert!(
                error.message.contains(expected),
                "{fields}: {}",
                error.message
            );
        };
        check(r#", "Pth": 1"#, "unknown field `Pth`");
        check(r#", "Stop": {"Sgnal": "TERM"}"#, "unknown field `Sgnal`");
        check(r#", "Stop": {"Signal": "NOPE"}"#, "Stop.Signal");
        check(r#", "Stop": {"Seconds": -1}"#, "Stop.Seconds is -1");
        check(r#", "Ready": {"Every": 1}"#, "Ready has one of");
        check(
            r#", "Ready": {"Up": 1, "Tcp": "1.2.3.4:5"}"#,
            "Ready has one of",
        );
        check(
            r#", "Ready": {"Tcp": "127.0.0.1:80"}, "Instances": 2"#,
            "{slot}",
        );
        check(r#", "Alive": {"Up": 1}"#, "Alive takes");
        check(r#", "Env": [], "AddEnv": ["A=b"]"#, "Env and AddEnv");
        check(r#", "Instances": 1025"#, "at most 1024");
        check(
            r#", "AddEnv": ["A=b", "C"]"#,
            "entry 2 of AddEnv is not NAME=value",
        );
        check(r#", "Ready": {"Tcp": "localhost"}"#, "has no port");
        check(
            r#", "After": ["/X0123456789abcdef/db"]"#,
            "is no path of a service",
        );
        check(r#", "Limits": {"nofiles": 3}"#, "no limit is named");
        check(r#", "Limits": {"nofile": [4, 3]}"#, "above the hard one");
        check(r#", "Umask": "9""#, "octal");
        check(r#", "Before": []"#, "Before is empty");
        check(r#", "Announce": "web""#, "not yet supported");
        check(r#", "User": "nobody-of-this-name""#, "there is no user");
        check(r#", "Stdout": "pipe""#, "there is no pipe to read");
        let web = r#"{"Name": "web", "Listen": "127.0.0.1:80"}"#;
        check(&format!(r#", "Sockets": [{web}, {web}]"#), "two Sockets");
        let probed = r#", "Ready": {"Tcp": "127.0.0.1:80"}, "Surge": false"#;
        check(
            &format!(r#", "Sockets": [{web}]{probed}"#),
            "any instance, or",
        );
        check(
            &format!(r#", "Sockets": [{web}], "Ready": {{"NotifyFd": 3}}"#),
            "the first that is free is 4",
        );
        check(
            r#", "Sockets": [{"Name": "web", "Listen": "here"}]"#,
            "is no HOST:PORT",
        );
        assert!(
            Plan::read("{")
                .unwrap_err()
                .message
                .contains("the definition is wrong")
        );
        assert!(Plan::read("{}").unwrap_err().message.contains("no Path"));
    }

    #[test]
    fn the_slots_number_is_put_in() {
        let plan = Plan::read(
            r#"{"Path": "/bin/x", "Args": ["-p", "80{slot}"], "AddEnv": ["N={slot}"],
                "Instances": 12, "Ready": {"Tcp": "127.0.0.1:80{slot}"}}"#,
        );
        let cmd = plan.unwrap().cmd(12);
        assert_eq!(cmd.args, ["-p", "8012"]);
        assert_eq!(cmd.add_env, ["N=12"]);
    }
}
