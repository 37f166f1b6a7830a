//! Translates a container's description into a request to an Engine.
//!
//! The Engine checks most of a request by itself. This module refuses a description that the Engine
//! would misunderstand or ignore.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, PortBinding};
use circuit_proto::element::container::Run;
use circuit_proto::path::ServerPart;
use circuit_proto::{Code, Error, Path};

/// The label that names a container's server.
const SERVER: &str = "circuit.server";

/// The label that names a container's path.
const PATH: &str = "circuit.path";

/// The longest end of a container's name, in bytes. Chosen, not measured: people still read it.
const LONGEST_SLUG: usize = 100;

/// The request to the Engine for the element at this path, which begins with the server's id.
pub(super) fn body(run: &Run, path: &Path) -> Result<ContainerCreateBody, Error> {
    check_image(&run.image)?;
    let mut host = HostConfig {
        auto_remove: Some(run.scrub),
        memory: number("Memory", run.memory)?,
        cpu_shares: number("CpuShares", run.cpu_shares)?,
        network_mode: given(run.network.as_ref()),
        ..HostConfig::default()
    };
    for entry in &run.lxc {
        limit(&mut host, entry)?;
    }
    let (binds, volumes): (Vec<String>, Vec<String>) =
        run.volume.iter().cloned().partition(|v| v.contains(':'));
    host.binds = Some(binds);
    let mut exposed = Vec::new();
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for text in &run.ports {
        let (port, binding) = published(text)?;
        if !exposed.contains(&port) {
            exposed.push(port.clone());
        }
        let of_port = bindings.entry(port).or_default();
        of_port.get_or_insert_default().push(binding);
    }
    host.port_bindings = Some(bindings);
    let mut labels: HashMap<String, String> = HashMap::new();
    for (name, value) in &run.labels {
        if [SERVER, PATH].contains(&name.as_str()) {
            return Err(wrong(format!("Labels: {name} is circuit's own")));
        }
        labels.insert(name.clone(), value.clone());
    }
    let server = server(path);
    labels.insert(SERVER.to_owned(), server);
    labels.insert(PATH.to_owned(), path.to_string());
    let program = given(run.path.as_ref()).into_iter();
    let command: Vec<String> = program.chain(run.args.iter().cloned()).collect();
    Ok(ContainerCreateBody {
        image: Some(run.image.clone()),
        cmd: (!command.is_empty()).then_some(command),
        entrypoint: given(run.entry.as_ref()).map(|entry| vec![entry]),
        working_dir: given(run.dir.as_ref()),
        env: Some(run.env.clone()),
        volumes: Some(volumes),
        exposed_ports: Some(exposed),
        labels: Some(labels),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        // Without it, the end of the attached input would not be the end of the container's stdin.
        stdin_once: Some(true),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    })
}

/// The container's name, without the number of a namesake: `circuit-<id>-<path>`.
pub(super) fn name(path: &Path) -> String {
    let server = server(path);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let slug = path.below_server().join("-");
    let slug = slug.chars().map(|c| if allowed(c) { c } else { '_' });
    let slug: String = slug.take(LONGEST_SLUG).collect();
    format!("circuit-{server}-{slug}")
}

/// The id of the server that a path begins with: before a server acts, it made names ids.
fn server(path: &Path) -> String {
    match path.server() {
        Some(ServerPart::Id(id)) => id.to_string(),
        Some(ServerPart::Name(name)) => name.to_owned(),
        None => String::new(),
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(Code::InvalidArgument, what)
}

/// The text, unless it is absent or empty.
fn given(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

fn number(field: &str, value: u64) -> Result<Option<i64>, Error> {
    match i64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(wrong(format!("{field}: {value} is too large"))),
    }
}

/// Refuses a name that would lead to another part of the Engine's API than an image.
fn check_image(image: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._:/@-".contains(c);
    let named = image
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    match named && image.chars().all(allowed) {
        true => Ok(()),
        false => Err(wrong(format!("not an image's name: {image:?}"))),
    }
}

/// A limit in the words of LXC, translated.
fn limit(host: &mut HostConfig, entry: &str) -> Result<(), Error> {
    let (key, value) = entry
        .split_once('=')
        .ok_or_else(|| wrong(format!("Lxc: not KEY = VALUE: {entry:?}")))?;
    let (key, value) = (key.trim(), value.trim());
    let bad = || wrong(format!("Lxc: {key}: not a number: {value:?}"));
    match key {
        "lxc.cgroup.cpuset.cpus" => host.cpuset_cpus = Some(value.to_owned()),
        "lxc.cgroup.cpuset.mems" => host.cpuset_mems = Some(value.to_owned()),
        "lxc.cgroup.memory.limit_in_bytes" => {
            set(
                &mut host.memory,
                bytes(value).ok_or_else(bad)?,
                key,
                "Memory",
            )?;
        }
        "lxc.cgroup.cpu.shares" => {
            let shares = value.parse().map_err(|_| bad())?;
            set(&mut host.cpu_shares, shares, key, "CpuShares")?;
        }
        _ => {
            return Err(wrong(format!(
                "Lxc: {key} has no equivalent: there are lxc.cgroup.cpuset.cpus, \
                 lxc.cgroup.cpuset.mems, lxc.cgroup.memory.limit_in_bytes, lxc.cgroup.cpu.shares"
            )));
        }
    }
    Ok(())
}

fn set(place: &mut Option<i64>, value: i64, key: &str, field: &str) -> Result<(), Error> {
    match place.replace(value) {
        Some(other) if other != value => Err(wrong(format!(
            "Lxc: {key} says {value}, and {field} {other}: give one"
        ))),
        _ => Ok(()),
    }
}

/// A size as the kernel reads it, with a suffix or without.
fn bytes(text: &str) -> Option<i64> {
    let (digits, shift) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 10),
        (at, 'm' | 'M') => (&text[..at], 20),
        (at, 'g' | 'G') => (&text[..at], 30),
        _ => (text, 0),
    };
    digits.parse::<i64>().ok()?.checked_mul(1 << shift)
}

/// A port of the container, with its protocol, and where on the host it is found.
fn published(text: &str) -> Result<(String, PortBinding), Error> {
    let bad = || {
        wrong(format!(
            "Ports: not [[HOST:]PORT:]PORT[/tcp|udp|sctp]: {text:?}"
        ))
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !["tcp", "udp", "sctp"].contains(&protocol) {
        return Err(bad());
    }
    let (outside, inside) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (host, outside) = outside.rsplit_once(':').unwrap_or(("", outside));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = host.is_empty() || host.parse::<std::net::IpAddr>().is_ok();
    if !is_port(inside) || !is_host || !(outside.is_empty() || is_port(outside)) {
        return Err(bad());
    }
    let binding = PortBinding {
        host_ip: (!host.is_empty()).then(|| host.to_owned()),
        // If it is empty, the Engine chooses one.
        host_port: Some(outside.to_owned()),
    };
    Ok((format!("{inside}/{protocol}"), binding))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Path {
        "/X88550014d4c82e4d/docky/a b".parse().unwrap()
    }

    /// The reference's example.
    fn example() -> Run {
        Run {
            memory: 1_000_000_000,
            cpu_shares: 3,
            lxc: vec!["lxc.cgroup.cpuset.cpus = 0,1".into()],
            volume: vec!["/webapp".into(), "/src/webapp:/opt/webapp:ro".into()],
            dir: Some("/".into()),
            entry: Some(String::new()),
            env: vec!["PATH=/usr/bin".into()],
            path: Some("/bin/ls".into()),
            args: vec!["/".into()],
            ..Run::new("ubuntu")
        }
    }

    #[test]
    fn the_reference_s_example() {
        let body = body(&example(), &path()).unwrap();
        assert_eq!(body.cmd.unwrap(), ["/bin/ls", "/"]);
        assert_eq!(body.entrypoint, None);
        assert_eq!(body.working_dir.as_deref(), Some("/"));
        assert_eq!(body.volumes.unwrap(), ["/webapp"]);
        let labels = body.labels.unwrap();
        assert_eq!(labels["circuit.server"], "X88550014d4c82e4d");
        assert_eq!(labels["circuit.path"], "/X88550014d4c82e4d/docky/a b");
        let host = body.host_config.unwrap();
        assert_eq!(host.memory, Some(1_000_000_000));
        assert_eq!(host.cpu_shares, Some(3));
        assert_eq!(host.cpuset_cpus.as_deref(), Some("0,1"));
        assert_eq!(host.binds.unwrap(), ["/src/webapp:/opt/webapp:ro"]);
        assert_eq!(host.auto_remove, Some(false));
        assert_eq!(name(&path()), "circuit-X88550014d4c82e4d-docky-a_b");
    }

    #[test]
    fn limits_in_the_words_of_lxc() {
        let check = |entry: &str, expected: Result<HostConfig, &str>| {
            let mut host = HostConfig::default();
            let result = limit(&mut host, entry)
                .map(|()| host)
                .map_err(|e| e.message);
            match expected {
                Ok(expected) => assert_eq!(result, Ok(expected), "{entry}"),
                Err(part) => assert!(
                    result.as_ref().is_err_and(|e| e.contains(part)),
                    "{result:?}"
                ),
            }
        };
        let default = HostConfig::default;
        check(
            "lxc.cgroup.cpuset.mems=0",
            Ok(HostConfig {
                cpuset_mems: Some("0".into()),
                ..default()
            }),
        );
        check(
            "lxc.cgroup.cpu.shares = 5",
            Ok(HostConfig {
                cpu_shares: Some(5),
                ..default()
            }),
        );
        for (text, bytes) in [
            ("512M", 512 << 20),
            ("7k", 7 << 10),
            ("1G", 1 << 30),
            ("9", 9),
        ] {
            let entry = format!("lxc.cgroup.memory.limit_in_bytes = {text}");
            check(
                &entry,
                Ok(HostConfig {
                    memory: Some(bytes),
                    ..default()
                }),
            );
        }
        check(
            "lxc.cgroup.memory.limit_in_bytes = lots",
            Err("not a number: \"lots\""),
        );
        check(
            "lxc.cgroup.memory.limit_in_bytes = 9999999999G",
            Err("not a number"),
        );
        check(
            "lxc.aa_profile = unconfined",
            Err("lxc.aa_profile has no equivalent"),
        );
        check("cpus", Err("not KEY = VALUE"));
        let mut run = example();
        run.lxc.push("lxc.cgroup.cpu.shares = 4".into());
        assert!(
            body(&run, &path())
                .unwrap_err()
                .message
                .contains("says 4, and CpuShares 3")
        );
    }

    #[test]
    fn ports_as_docker_has_them() {
        let check = |text: &str, expected: Option<(&str, Option<&str>, &str)>| {
            let result = published(text).ok();
            let result = result.as_ref().map(|(port, b)| {
                (
                    port.as_str(),
                    b.host_ip.as_deref(),
                    b.host_port.as_deref().unwrap(),
                )
            });
            assert_eq!(result, expected, "{text}");
        };
        check("80", Some(("80/tcp", None, "")));
        check("8080:80", Some(("80/tcp", None, "8080")));
        check(
            "127.0.0.1:8080:53/udp",
            Some(("53/udp", Some("127.0.0.1"), "8080")),
        );
        check("127.0.0.1::53", Some(("53/tcp", Some("127.0.0.1"), "")));
        check("[::1]:8080:80", Some(("80/tcp", Some("::1"), "8080")));
        for bad in [
            "",
            "x",
            "0",
            "80:",
            "70000",
            "80/icmp",
            "a:80",
            "host:1:80",
            "8000-8010:80",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for image in [
            "ubuntu",
            "ubuntu:24.04",
            "localhost:5000/a/b@sha256:00",
            "a_b.c-d",
        ] {
            assert!(check_image(image).is_ok(), "{image}");
        }
        for image in ["", "a b", "../containers", "a/../b", "a?x", "a//b", "/a"] {
            assert!(check_image(image).is_err(), "{image}");
        }
    }

    #[test]
    fn circuit_s_own_labels_are_kept() {
        let mut run = Run::new("ubuntu");
        run.labels.insert("circuit.path".into(), "/x".into());
        assert!(body(&run, &path()).is_err());
    }
}
