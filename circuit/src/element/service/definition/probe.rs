//! The questions to an instance, as a definition has them.

use std::net::{IpAddr, SocketAddr};

use circuit_proto::element::service as wire;
use circuit_proto::{Error, OsText};

use super::socket::{Listen, Socket};
use super::{command, invalid, slotted};

/// A question to an instance.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Probe {
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

impl Probe {
    pub(super) fn read(field: &str, probe: &wire::Probe) -> Result<Probe, Error> {
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
    pub(super) fn check(
        &self,
        sockets: &[Socket],
        instances: u32,
        several: bool,
    ) -> Result<(), Error> {
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
            Probe::Http(url) => with_port(authority(url)),
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
        let held = |socket: &Socket| match &socket.listen {
            Listen::Tcp(held) => {
                (1..=instances.max(1)).any(|slot| names(&slotted(&text, slot), *held))
            }
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

/// The authority of a URL, with the port that it has unless it says another.
pub(in super::super) fn with_port(authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((_, port))
            if port
                .bytes()
                .all(|byte| byte.is_ascii_digit() || b"{slot}".contains(&byte)) =>
        {
            authority.to_owned()
        }
        _ => format!("{authority}:80"),
    }
}

/// Whether what is asked is an address on which a socket listens. Looks no name up but the host's own.
fn names(asked: &str, held: SocketAddr) -> bool {
    let Some((host, port)) = asked.rsplit_once(':') else {
        return false;
    };
    if port.parse() != Ok(held.port()) {
        return false;
    }
    let any = held.ip().is_unspecified();
    if host == "localhost" {
        return any || held.ip().is_loopback();
    }
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>()
        .is_ok_and(|asked| any || asked == held.ip() || asked.is_unspecified())
}

/// The host and port of a URL.
pub(in super::super) fn authority(url: &str) -> &str {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.split(['/', '?', '#']).next().unwrap_or(rest)
}
