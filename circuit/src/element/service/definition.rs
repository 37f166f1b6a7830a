//! Reads the definition of a service, and checks all that can be checked without running it.
//!
//! A [`Plan`] is what the element needs of one generation: the command with its surroundings, the commands
//! beside it, its probes and sockets, and the [`Policy`] for the machine.

mod manner;
mod policy;
mod probe;
mod socket;

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use circuit_proto::element::process::{Cmd, Sink};
use circuit_proto::element::service::{self as wire, Definition, MAX_SLOTS};
use circuit_proto::{Code, Error, OsText};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use self::manner::manner;
use self::policy::policy;
use super::machine::Policy;
use crate::element::process::{Manner, Owner};
use crate::element::signals;

pub(super) use self::probe::{Probe, authority, with_port};
pub(super) use self::socket::{Listen, Socket};

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

/// What was looked up for a definition. It is kept with it: the next life of the server goes on although
/// nobody answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LookedUp {
    owner: Option<Owner>,
    /// The address of each socket that has one.
    addresses: Vec<Option<SocketAddr>>,
}

/// How an instance is told to read its configuration again.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reload {
    Signal(Signal),
    Command(Vec<OsText>),
}

fn too_long() -> Error {
    let message = format!("the definition is longer than {} KiB", LONGEST >> 10);
    Error::new(Code::TooLarge, message)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, message)
}

impl Plan {
    /// Reads a definition. Looks users and names of hosts up, which may block.
    pub(super) fn read(text: &str) -> Result<Plan, Error> {
        Plan::read_with(text, None)
    }

    /// Reads a definition that was kept with what was looked up for it. Looks nothing up.
    pub(super) fn read_again(text: &str, looked_up: &str) -> Result<Plan, Error> {
        let looked_up = serde_json::from_str(looked_up);
        let looked_up: LookedUp = looked_up
            .map_err(|error| Error::new(Code::Internal, format!("what was looked up: {error}")))?;
        Plan::read_with(text, Some(&looked_up))
    }

    /// What was looked up for it, to be kept with its text.
    pub(super) fn looked_up(&self) -> String {
        let address = |socket: &Socket| match &socket.listen {
            Listen::Tcp(address) | Listen::Udp(address) => Some(*address),
            Listen::Unix(_) => None,
        };
        let looked_up = LookedUp {
            owner: self.manner.owner.clone(),
            addresses: self.sockets.iter().map(address).collect(),
        };
        serde_json::to_string(&looked_up).unwrap_or_default()
    }

    fn read_with(text: &str, looked_up: Option<&LookedUp>) -> Result<Plan, Error> {
        if text.len() > LONGEST {
            return Err(too_long());
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
            .enumerate()
            .map(|(at, socket)| {
                let known = looked_up.and_then(|known| *known.addresses.get(at)?);
                Socket::read(socket, known)
            })
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
        let stop = d.stop.clone().unwrap_or_default();
        let stop_signal = stop.signal.as_deref().unwrap_or("TERM");
        let reload = d.reload.as_ref().map(Reload::read).transpose()?;
        let owner = looked_up.map(|known| known.owner.clone());
        let manner = manner(d, !sockets.is_empty(), owner)?;
        let policy = policy(d, &ready, alive.as_ref(), reload.as_ref(), surge)?;
        for sink in [&d.stdout, &d.stderr].into_iter().flatten() {
            if *sink == Sink::Pipe {
                return Err(invalid(
                    "Stdout and Stderr take \"log\", \"discard\" or a file: there is no pipe to read",
                ));
            }
        }
        let plan = Plan {
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
        };
        plan.check_probes()?;
        Ok(plan)
    }

    /// How many slots there are to be, if the definition says so.
    pub(super) fn instances(&self) -> Option<u16> {
        self.definition.instances
    }

    /// The same definition with another number of slots. Looks nothing up.
    pub(super) fn with_instances(&self, instances: u16) -> Result<Plan, Error> {
        let mut plan = self.clone();
        plan.definition.instances = Some(instances);
        plan.policy.instances = u32::from(instances);
        plan.text = serde_json::to_string(&plan.definition)
            .map_err(|error| Error::new(Code::Internal, error.to_string()))?;
        if plan.text.len() > LONGEST {
            return Err(too_long());
        }
        plan.check_probes()?;
        Ok(plan)
    }

    /// Refuses questions that another instance would answer.
    fn check_probes(&self) -> Result<(), Error> {
        let several = self.policy.instances > 1 || self.policy.surge;
        for probe in self.alive.iter().chain([&self.ready]) {
            probe.check(&self.sockets, self.policy.instances, several)?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::super::machine;
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
        let asks = |listen: &str, more: &str| {
            let socket = format!(r#"{{"Name": "web", "Listen": "{listen}"}}"#);
            let fields = format!(r#", "Sockets": [{socket}], "Surge": false, {more}"#);
            check(&fields, "any instance, or");
        };
        asks(
            "127.0.0.1:80",
            r#""Ready": {"Http": "http://127.0.0.1/ok"}"#,
        );
        asks("127.0.0.1:80", r#""Ready": {"Http": "http://localhost"}"#);
        asks("0.0.0.0:81", r#""Ready": {"Tcp": "localhost:81"}"#);
        asks(
            "127.0.0.1:82",
            r#""Ready": {"Tcp": "127.0.0.1:8{slot}"}, "Instances": 2"#,
        );
        let other = r#", "Ready": {"Tcp": "127.0.0.2:80"}, "Surge": false}"#;
        Plan::read(&format!(
            r#"{{"Path": "/bin/true", "Sockets": [{web}]{other}"#
        ))
        .unwrap();
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
    fn another_number_of_slots_needs_no_look_up_and_is_checked() {
        let mut plan = Plan::read(r#"{"Path": "/bin/true", "User": "0"}"#).unwrap();
        // A directory of users that does not answer any more.
        plan.definition.user = Some("nobody-of-this-name".to_owned());
        let more = plan.with_instances(3).unwrap();
        assert_eq!((more.policy.instances, more.instances()), (3, Some(3)));
        assert!(more.text.contains(r#""Instances":3"#), "{}", more.text);
        assert_eq!(more.manner, plan.manner);
        let probed = r#"{"Path": "/bin/true", "Ready": {"Tcp": "127.0.0.1:80"}}"#;
        let refused = Plan::read(probed).unwrap().with_instances(2).unwrap_err();
        assert!(refused.message.contains("{slot}"), "{}", refused.message);
    }

    #[test]
    fn a_kept_definition_is_read_again_although_nobody_answers() {
        let text = r#"{"Path": "/bin/x", "User": "USER", "Sockets": [
            {"Name": "a", "Listen": "HOST:80"},
            {"Name": "b", "Listen": "unix:/run/x"},
            {"Name": "c", "Listen": "udp:HOST:53"}]}"#;
        let own = rustix::process::geteuid().as_raw().to_string();
        let now = text.replace("USER", &own).replace("HOST", "127.0.0.1");
        let plan = Plan::read(&now).unwrap();
        // The user's directory and the servers of names are not there yet, or any more.
        let later = text.replace("USER", "nobody-of-this-name");
        let later = later.replace("HOST", "host.invalid");
        Plan::read(&later).unwrap_err();
        let again = Plan::read_again(&later, &plan.looked_up()).unwrap();
        assert_eq!(again.manner, plan.manner);
        assert_eq!(again.sockets, plan.sockets);
        assert_eq!(again.looked_up(), plan.looked_up());
        Plan::read_again(&now, "").unwrap_err();
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
