//! What the machine needs of a definition.

use circuit_proto::element::service::{self as wire, Definition};
use circuit_proto::path::ServerPart;
use circuit_proto::{Error, Path};

use super::super::machine::{self, Policy};
use super::{Probe, Reload, invalid, pause, time};

/// The rules by which its instances are kept running.
pub(super) fn policy(
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
