//! Makes long flags of those with one dash, as the reference has them: `-discover` is `--discover`.
//!
//! **Invariant:** arguments behind `--`, and those that are no flag of this tool, stay as they are.

use std::ffi::OsString;

use circuit_client::{Path, PathError, Pattern};

/// The arguments with every long flag in its two-dash form.
pub(super) fn normalized(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let mut all: Vec<OsString> = arguments.by_ref().take(1).collect();
    let definition = super::definition();
    let mut command = &definition;
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            all.push(argument);
            break;
        }
        if let Some(found) = argument
            .to_str()
            .and_then(|name| definition.find_subcommand(name))
            && std::ptr::eq(command, &definition)
        {
            command = found;
        }
        let value_follows = argument
            .to_str()
            .is_some_and(|text| takes_value(command, text));
        all.push(lengthened(command, argument));
        // A flag's value is no flag, even if it begins with a dash.
        all.extend(arguments.by_ref().take(usize::from(value_follows)));
    }
    all.extend(arguments);
    all
}

/// The flag with two dashes, if it is a long one with one.
fn lengthened(command: &clap::Command, argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else {
        return argument;
    };
    let Some(name) = text
        .strip_prefix('-')
        .filter(|name| name.chars().nth(1).is_some())
    else {
        return argument;
    };
    if name.starts_with('-') || is_number(name) {
        return argument;
    }
    let bare = name.split('=').next().unwrap_or(name);
    let known = |name: &str| {
        matches!(name, "help" | "version")
            || command
                .get_arguments()
                .any(|flag| flag.get_long() == Some(name))
    };
    // `-l`, `-dURL` and `-i` are short flags, alone or with their value behind them. Whatever else
    // begins with one dash was meant as a long flag, and is told so if there is none of its name.
    let short = |first: char| {
        command
            .get_arguments()
            .any(|flag| flag.get_short() == Some(first))
    };
    let value_behind = bare.starts_with(short) && (name.contains("://") || name.contains('.'));
    match known(bare) || !value_behind {
        true => format!("-{text}").into(),
        false => argument,
    }
}

/// Whether the next argument is this flag's value.
fn takes_value(command: &clap::Command, text: &str) -> bool {
    let Some(name) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
        return false;
    };
    command.get_arguments().any(|flag| {
        let named = flag.get_long() == Some(name)
            || flag
                .get_short()
                .is_some_and(|short| name.chars().eq([short]));
        named && flag.get_action().takes_values()
    })
}

/// The path that an argument gives. The slash before a server's name or id may be left out.
pub(super) fn path(text: &str) -> Result<Path, ArgumentError> {
    no_url(text)?;
    Ok(rooted(text).parse()?)
}

/// The pattern that an argument gives, read as [`path`] reads it.
pub(super) fn pattern(text: &str) -> Result<Pattern, ArgumentError> {
    no_url(text)?;
    Ok(rooted(text).parse()?)
}

/// Why an argument is no path.
#[derive(Debug, thiserror::Error)]
pub(super) enum ArgumentError {
    /// The text names no anchor.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The text is the URL of a server: read as a path it would name a server that nobody has.
    #[error("a path comes first, as in /SERVER/name; this is a server's URL, which -d takes")]
    Url,
}

fn no_url(text: &str) -> Result<(), ArgumentError> {
    match text.starts_with("circuit://") || text.starts_with("unix:") {
        true => Err(ArgumentError::Url),
        false => Ok(()),
    }
}

fn rooted(text: &str) -> String {
    match text.is_empty() || text.starts_with('/') {
        true => text.to_owned(),
        false => format!("/{text}"),
    }
}

/// Whether the text is a whole number without a sign.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: &str) {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(normalized(words(line)), words(expected), "{line}");
    }

    #[test]
    fn one_dash_or_two() {
        check(
            "circuit start -if eth0 -discover 228.8.8.8:7711",
            "circuit start --if eth0 --discover 228.8.8.8:7711",
        );
        check(
            "circuit start -j circuit://a:1 -j-once circuit://b:1 -j-once=circuit://c:1",
            "circuit start -j circuit://a:1 --j-once circuit://b:1 --j-once=circuit://c:1",
        );
        check(
            "circuit start -a 10.0.0.1 -hmac .hmac",
            "circuit start -a 10.0.0.1 --hmac .hmac",
        );
        check(
            "circuit ls -d circuit://a:1 /",
            "circuit ls -d circuit://a:1 /",
        );
        check(
            "circuit ls -dcircuit://a:1 /",
            "circuit ls -dcircuit://a:1 /",
        );
        check(
            "circuit ls --long -depth /...",
            "circuit ls --long --depth /...",
        );
        check("circuit ls -timeout=3 /", "circuit ls --timeout=3 /");
        check("circuit -help", "circuit --help");
        check("circuit -version", "circuit --version");
    }

    #[test]
    fn what_is_not_ours_stays() {
        check(
            "circuit run /X1/a -- cmd -long -x",
            "circuit run /X1/a -- cmd -long -x",
        );
        check(
            "circuit start -name -docker",
            "circuit start --name -docker",
        );
        check(
            "circuit signal -group KILL /X1/a",
            "circuit signal --group KILL /X1/a",
        );
        check("circuit start - -1", "circuit start - -1");
        check("circuit signal -15 /X1/a", "circuit signal -15 /X1/a");
    }

    #[test]
    fn unknown_flags_are_long_ones() {
        check("circuit ls -discoverr x", "circuit ls --discoverr x");
    }

    #[test]
    fn the_definition_is_sound() {
        super::super::definition().debug_assert();
    }

    #[test]
    fn lines_of_the_reference_parse() {
        for line in [
            "start -if eth0 -discover 228.8.8.8:7711",
            "start -a 10.0.0.1:11022",
            "start -a 10.0.0.2:11088 -j circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d",
            "start -if eth0 -discover 228.8.8.8:7711 -docker",
            "start -a 10.0.0.1 -hmac .hmac",
            "ls /",
            "ls -discover 228.8.8.8:7711 /...",
            "ls -d circuit://10.0.0.1:11022/78517/Q56e7a2a0d47a7b5d /",
            "ls -hmac .hmac /...",
            "mkproc /X88550014d4c82e4d/pippi",
            "peek /X88550014d4c82e4d/pippi",
            "stdin /X88550014d4c82e4d/pippi",
            "stdout /X88550014d4c82e4d/pippi",
            "scrub /X88550014d4c82e4d/pippi",
            "keygen",
        ] {
            let line = format!("circuit {line}");
            let words = line.split(' ').map(OsString::from);
            assert!(super::super::parse(words).parsed.is_ok(), "{line}");
        }
    }
}
