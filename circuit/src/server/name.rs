//! Names of servers: which are allowed, and how a host's name becomes one.

use circuit_proto::ServerId;

/// The longest name of a server, in bytes. A label of the domain name system has as many.
const LONGEST: usize = 63;

/// The name that stands for all servers.
const ALL: &str = "all";

/// Says why a server cannot have this name.
pub fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > LONGEST {
        return Err("a server's name has 1 to 63 characters");
    }
    if !name.bytes().all(is_allowed) {
        return Err("a server's name is of letters (a to z, A to Z), digits, '.', '_' and '-'");
    }
    if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) {
        return Err("a server's name begins with a letter or a digit");
    }
    if name == ALL {
        return Err("all servers together are named so");
    }
    if name.parse::<ServerId>().is_ok() {
        return Err("a name must not look like an id");
    }
    Ok(())
}

/// The host's name if a server can have it, else a name that is made from it.
pub fn from_host(host: &str) -> String {
    if check(host).is_ok() {
        return host.to_owned();
    }
    let plain: String = host
        .chars()
        .map(|c| match u8::try_from(c) {
            Ok(byte) if is_allowed(byte) => c,
            _ => '-',
        })
        .collect();
    let plain = plain.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let cut = &plain[..plain.len().min(LONGEST)];
    if check(cut).is_ok() {
        return cut.to_owned();
    }
    match plain {
        "" => "host".to_owned(),
        // Its form, not its characters, is in the way.
        other => format!("host-{other}"),
    }
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_gets_a_name_that_is_allowed() {
        let long = "a".repeat(64);
        for (host, name) in [
            ("web-1.example.org", "web-1.example.org"),
            ("9", "9"),
            (".", "host"),
            ("", "host"),
            ("..a..", "a"),
            ("my host", "my-host"),
            ("b\u{fc}ro", "b-ro"),
            ("all", "host-all"),
            ("X0123456789abcdef", "host-X0123456789abcdef"),
            (&long, &long[..63]),
        ] {
            assert_eq!(from_host(host), name);
            assert_eq!(check(name), Ok(()), "{name}");
            assert_eq!(check(host).is_ok(), host == name, "{host}");
        }
    }
}
