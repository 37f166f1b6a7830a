//! Services: `mksvc`, `up`, `down`, `restart`, `reload`, `scale`, `logs`.
//!
//! Each command that says what a person wants has two parts: the server records it, and then the command
//! watches its effect, without a deadline unless `-timeout` is given. The end of the watching changes nothing.

mod logs;

use std::ffi::OsString;
use std::time::Duration;

use circuit_client::service::{Outcome, Rolling, Scale, Slot, Status};
use circuit_client::{Client, ElementKind, OsText, Path, Pattern, Service};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::arguments::{path, pattern};
use super::dial::{Dial, dial};
use super::error::{Failure, say};
use super::interrupt::Interrupts;
use super::object::{Form, field};
use super::output::{print, print_json};
use super::{block_on, interruptible};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a service, which keeps processes running, from a definition as JSON on stdin
    ///
    /// With `--` stdin is not read: the service runs COMMAND, and everything else has its default. The
    /// command ends once all slots are ready. If the first start fails, the service stays, and is tried
    /// again; the reason and the last lines of its output are shown, and the status is 1.
    #[command(
        override_usage = "circuit mksvc [OPTIONS] PATH [-- COMMAND [ARG]...]",
        after_help = "Example: echo '{\"Path\": \"./web\", \"Args\": [\"-port\", \"80{slot}\"], \
\"Instances\": 2}' | circuit mksvc /X88550014d4c82e4d/web"
    )]
    Mksvc(Mksvc),
    /// Have services up; clears their pauses and failures
    Up(Many),
    /// Have services down
    Down(Many),
    /// Replace the instances of services, a few at a time, or that of a slot
    Restart {
        /// Stop all instances, and then start all
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        many: Many,
    },
    /// Have the instances of services read their configuration again
    Reload(Many),
    /// Change the number of a service's slots: to N, by +N or by -N
    Scale {
        /// The service
        #[arg(value_parser = path)]
        path: Path,
        /// The number of slots, or the change
        #[arg(value_name = "N", allow_negative_numbers = true, value_parser = scale)]
        by: Scale,
        #[command(flatten)]
        watching: Watching,
        #[command(flatten)]
        dial: Dial,
    },
    /// Print the retained output of services, slots and processes
    Logs(logs::Logs),
}

#[derive(Debug, Args)]
pub(super) struct Mksvc {
    /// Have it down at first
    #[arg(long)]
    down: bool,
    /// Replace the definition of the service, if it is there; instances whose process would differ are
    /// replaced
    #[arg(long, conflicts_with = "down")]
    update: bool,
    /// Print what -update would change, and do nothing
    #[arg(long, conflicts_with = "down")]
    check: bool,
    #[command(flatten)]
    watching: Watching,
    /// The anchor
    #[arg(value_parser = path)]
    path: Path,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    dial: Dial,
}

/// Whether a command waits for the effect.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Watching {
    /// End as soon as it is recorded
    #[arg(long)]
    nowait: bool,
}

#[derive(Debug, Args)]
pub(super) struct Many {
    #[command(flatten)]
    watching: Watching,
    /// The services; PATH/... for all services below an anchor
    #[arg(required = true, value_name = "PATH", value_parser = pattern)]
    paths: Vec<Pattern>,
    #[command(flatten)]
    dial: Dial,
}

impl Command {
    pub(super) fn execute(self) -> Result<u8, Failure> {
        match self {
            Command::Mksvc(options) => block_on(mksvc(options)),
            Command::Up(many) => block_on(each(many, Verb::Up)),
            Command::Down(many) => block_on(each(many, Verb::Down)),
            Command::Restart { now, many } => block_on(each(many, Verb::Restart { now })),
            Command::Reload(many) => block_on(each(many, Verb::Reload)),
            Command::Scale {
                path,
                by,
                watching,
                dial,
            } => block_on(scaled(path, by, watching, dial)),
            Command::Logs(options) => interruptible(logs::print(options)),
        }
    }
}

fn scale(text: &str) -> Result<Scale, String> {
    let wrong = || "not a number of slots from 0 to 1024, nor a change as +2 or -1".to_owned();
    match text.strip_prefix('+') {
        Some(more) if super::arguments::is_number(more) => {
            more.parse().map(Scale::By).map_err(|_| wrong())
        }
        None if text.starts_with('-') => text.parse().map(Scale::By).map_err(|_| wrong()),
        None => text.parse().map(Scale::To).map_err(|_| wrong()),
        Some(_) => Err(wrong()),
    }
}

/// A definition as people paste it.
const DEFINITION: Form = Form {
    what: "definition",
    fields: &[
        "Env",
        "Dir",
        "Path",
        "Args",
        "AddEnv",
        "User",
        "Umask",
        "Nice",
        "Limits",
        "Instances",
        "Restart",
        "OkCodes",
        "FatalCodes",
        "Unknown",
        "Backoff",
        "Stop",
        "Reload",
        "Ready",
        "Alive",
        "After",
        "Before",
        "Sockets",
        "Announce",
        "Port",
        "Parallel",
        "Surge",
        "MaxAge",
        "MaxMemory",
        "Stdout",
        "Stderr",
        "Log",
    ],
    example: r#"{"Path": "/usr/bin/web", "Args": ["-port", "8080"], "Instances": 2}"#,
    not_utf8: r#"write a text that is not UTF-8 as {"Base64": "…"}"#,
};

/// The fields of the objects in a definition.
const WITHIN: &[&str] = &[
    "First", "Most", "Steady", "Tries", "Signal", "Seconds", "Command", "Wait", "Up", "Tcp",
    "Http", "Notify", "NotifyFd", "Every", "Timeout", "Deadline", "Fails", "Name", "Listen",
    "Backlog", "Mode", "Bytes",
];

fn parse_definition(text: &str) -> Result<String, Failure> {
    let mut all = Map::new();
    for (name, value) in DEFINITION.parse(text)? {
        let value = match name {
            "Backoff" | "Stop" | "Reload" | "Ready" | "Alive" | "Sockets" | "Log" => named(value),
            _ => value,
        };
        if !value.is_null() {
            all.insert(name.to_owned(), value);
        }
    }
    let path: Option<OsText> = all
        .get("Path")
        .cloned()
        .map(|path| field("Path", path))
        .transpose()?;
    if path.is_none_or(|path| path.is_empty()) {
        return Err(DEFINITION.bad("the definition has no Path".to_owned()));
    }
    Ok(Value::Object(all).to_string())
}

/// The same with the names of fields as the server has them.
fn named(value: Value) -> Value {
    match value {
        Value::Array(all) => all.into_iter().map(named).collect(),
        Value::Object(fields) => {
            let known = |key: String| {
                let found = WITHIN.iter().find(|name| name.eq_ignore_ascii_case(&key));
                found.map_or(key, |name| (*name).to_owned())
            };
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            fields.map(|(key, value)| (known(key), value)).collect()
        }
        other => other,
    }
}

/// Makes a service, or gives it another definition.
async fn mksvc(options: Mksvc) -> Result<u8, Failure> {
    let definition = match options.command.as_slice() {
        [] => parse_definition(&DEFINITION.read().await?)?,
        [program, args @ ..] => {
            let args: Vec<OsText> = args.iter().map(OsText::from).collect();
            json!({ "Path": OsText::from(program), "Args": args }).to_string()
        }
    };
    let mut interrupts = Interrupts::listen()?;
    let making = async {
        let client = dial(&options.dial).await?;
        let anchor = client.anchor(options.path.clone());
        if options.check {
            let lines = anchor.check_service(definition).await?;
            print(
                &lines
                    .iter()
                    .map(|line| format!("{line}\n"))
                    .collect::<String>(),
            )?;
            return Ok(None);
        }
        let making = circuit_client::Making {
            down: options.down,
            update: options.update,
        };
        let waits = definition.contains("\"After\"") && !options.watching.nowait;
        let (service, intent) = anchor.make_service(definition, making).await?;
        if waits {
            tell_what_it_waits_for(&service).await;
        }
        Ok(Some(intent))
    };
    let made: Result<Option<_>, Failure> = match interrupts.unless(making).await {
        Ok(made) => made,
        Err(status) => return Ok(status),
    };
    let Some(intent) = made? else { return Ok(0) };
    let watched = vec![(options.path.to_string(), intent)];
    watch(watched, options.watching, &options.dial, &mut interrupts).await
}

/// Says at once if a service waits for others that will not be ready by themselves.
async fn tell_what_it_waits_for(service: &Service) {
    // The service is made: a status that cannot be had is no failure.
    let Ok(Status::Service(whole)) = service.peek().await else {
        return;
    };
    let waiting = whole.slots.iter().filter(|slot| slot.state == "waiting");
    let mut others = waiting.filter_map(|slot| slot.waiting.as_deref());
    let idle = |others: &&str| others.contains(": missing") || others.contains(": down");
    if let Some(others) = others.find(idle) {
        say(&format!("circuit: {}: waits for {others}", service.path()));
    }
}

/// An intent for many services.
#[derive(Debug, Clone, Copy)]
enum Verb {
    Up,
    Down,
    Restart { now: bool },
    Reload,
}

async fn each(many: Many, verb: Verb) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let intending = async {
        let client = dial(&many.dial).await?;
        let mut intents = Vec::new();
        let mut failures = Vec::new();
        for service in services(&client, &many.paths).await? {
            let path = service.path().to_string();
            let intended = match verb {
                Verb::Up => service.up().await,
                Verb::Down => service.down().await,
                Verb::Restart { now: false } => service.restart().await,
                Verb::Restart { now: true } => service.restart_now().await,
                Verb::Reload => service.reload().await,
            };
            match intended {
                Ok(intent) => intents.push((path, intent)),
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        Ok((intents, failures))
    };
    let intended: Result<_, Failure> = match interrupts.unless(intending).await {
        Ok(intended) => intended,
        Err(status) => return Ok(status),
    };
    let (intents, mut failures) = intended?;
    let status = watch(intents, many.watching, &many.dial, &mut interrupts).await?;
    // The last is the command's own failure, the others are named before it.
    let last = failures.pop();
    for failure in &failures {
        say(&format!("circuit: {}", failure.text()));
    }
    match last {
        Some(failure) => Err(failure),
        None => Ok(status),
    }
}

async fn scaled(path: Path, by: Scale, watching: Watching, options: Dial) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let scaling = async {
        let client = dial(&options).await?;
        Ok(client.anchor(path.clone()).service().scale(by).await?)
    };
    let scaled: Result<_, Failure> = match interrupts.unless(scaling).await {
        Ok(scaled) => scaled,
        Err(status) => return Ok(status),
    };
    let (from, to, intent) = scaled?;
    if matches!(by, Scale::By(_)) {
        print(&format!("{from} -> {to}\n"))?;
    }
    let watched = vec![(path.to_string(), intent)];
    watch(watched, watching, &options, &mut interrupts).await
}

/// Waits for the effects of intents, and tells of those that were not reached. Interrupted, or after the
/// deadline, says that they go on.
async fn watch(
    intents: Vec<(String, circuit_client::Intent)>,
    watching: Watching,
    options: &Dial,
    interrupts: &mut Interrupts,
) -> Result<u8, Failure> {
    if watching.nowait {
        return Ok(0);
    }
    let mut waited = JoinSet::new();
    let mut open: Vec<String> = Vec::new();
    for (path, intent) in intents {
        open.push(path.clone());
        waited.spawn(async move { (path, intent.outcome().await) });
    }
    open.sort_unstable();
    let mut status = 0;
    let deadline = tokio::time::sleep(options.watch_for().unwrap_or(Duration::MAX));
    tokio::pin!(deadline);
    loop {
        let ended = tokio::select! {
            ended = waited.join_next() => ended,
            status = interrupts.next() => {
                goes_on(&open);
                return Ok(status);
            }
            () = &mut deadline, if options.watch_for().is_some() => {
                goes_on(&open);
                return Ok(1);
            }
        };
        let Some(ended) = ended else {
            return Ok(status);
        };
        let (path, outcome) = ended.map_err(|error| Failure::operation("wait", &error))?;
        // One path may have been given twice.
        if let Some(at) = open.iter().position(|one| *one == path) {
            open.remove(at);
        }
        match outcome.map_err(Failure::from) {
            Ok(Outcome::Reached) => (),
            Ok(Outcome::Superseded { by }) => {
                say(&format!("circuit: {path}: superseded by {by}"));
                status = 1;
            }
            Ok(Outcome::Failed { why, log }) => {
                say(&format!("circuit: {path}: {why}"));
                for line in log {
                    say(&format!("  {line}"));
                }
                status = 1;
            }
            Err(failure) => {
                say(&format!("circuit: {}", failure.text()));
                status = 1;
            }
        }
    }
}

fn goes_on(open: &[String]) {
    for path in open {
        say(&format!("circuit: {path}: goes on"));
    }
}

/// The services and slots that patterns mean.
async fn services(client: &Client, patterns: &[Pattern]) -> Result<Vec<Service>, Failure> {
    let mut all = Vec::new();
    for pattern in patterns {
        if !pattern.recursive {
            all.push(client.anchor(pattern.base.clone()).service());
            continue;
        }
        let before = all.len();
        let (entries, silent) = super::anchor::entries(client, pattern).await?;
        let found = entries
            .into_iter()
            .filter(|entry| entry.kind == Some(ElementKind::Service));
        all.extend(found.map(|entry| entry.anchor.service()));
        if let Some((_, failure)) = silent.into_iter().next() {
            return Err(failure);
        }
        if all.len() == before {
            let what = format!("{}/...: there is no service", pattern.base);
            return Err(Failure::failed(what));
        }
    }
    Ok(all)
}

/// Prints the status of a service or slot as JSON.
pub(super) fn print_status(status: &Status) -> Result<(), Failure> {
    match status {
        Status::Slot(slot) => print_json(&slot_json(slot)),
        Status::Service(whole) => {
            let definition: Value = serde_json::from_str(&whole.service).unwrap_or_default();
            let rolling = match &whole.rolling {
                None => Value::Null,
                Some(Rolling::Unfinished(what)) => what.clone().into(),
                Some(Rolling::Halted(why)) => json!({ "Halted": why }),
            };
            print_json(&json!({
                "Service": definition,
                "Generation": whole.generation,
                "Previous": whole.previous,
                "Want": whole.want,
                "Ready": whole.ready,
                "Rolling": rolling,
                "Kept": whole.kept,
                "Sockets": whole.sockets,
                "Log": whole.log,
                "Slots": whole.slots.iter().map(slot_json).collect::<Vec<_>>(),
            }))
        }
    }
}

/// A slot as `peek` prints it, with the time to the next start in seconds.
fn slot_json(slot: &Slot) -> Value {
    let mut value = json!(slot);
    if let (Some(fields), Some(next)) = (value.as_object_mut(), slot.next) {
        fields.insert(
            "Next".to_owned(),
            json!(Duration::from_millis(next).as_secs_f64()),
        );
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_as_people_paste_them() {
        let text = parse_definition(
            "{PATH: '/bin/web', // the server\n \"stop\": {\"signal\": \"INT\", \"Wait\": null,}, \"instances\": 2,}",
        )
        .unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let expected = json!({"Path": "/bin/web", "Stop": {"Signal": "INT"}, "Instances": 2});
        assert_eq!(value, expected);
        assert!(
            parse_definition("{}")
                .unwrap_err()
                .text()
                .contains("no Path")
        );
        let unknown = parse_definition(r#"{"Path": "a", "Instance": 1}"#).unwrap_err();
        assert!(
            unknown.text().contains("unknown field"),
            "{}",
            unknown.text()
        );
    }

    #[test]
    fn slots_are_set_and_changed() {
        assert_eq!(scale("3"), Ok(Scale::To(3)));
        assert_eq!(scale("+3"), Ok(Scale::By(3)));
        assert_eq!(scale("-3"), Ok(Scale::By(-3)));
        for wrong in ["", "+", "-", "three", "+-1", "99999999"] {
            assert!(scale(wrong).is_err(), "{wrong}");
        }
    }
}
