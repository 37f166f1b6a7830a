//! Wrong usage: the parser's error in one line, and a hint.
//!
//! **Invariant:** a hint names only what was left out or what is wrong, never an argument that was given
//! as it should be.

use std::error::Error as StdError;
use std::io::Write;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::super::output;
use super::{USAGE, exit, say};
use crate::descriptor::Descriptor;
use crate::text::{cut, one_line};

/// How much of a value that the parser refuses is shown, in bytes. Chosen, not measured: a name of an
/// anchor that is just too long is seen whole.
const LONGEST_VALUE: usize = 300;

/// Prints what the parser says of the arguments of this command, if they name one: help and version are
/// data, anything else is wrong usage.
pub(in crate::cli) fn exit_of_usage(
    wrong: &clap::Error,
    command: Option<&clap::Command>,
) -> ExitCode {
    if !wrong.use_stderr() {
        return exit(&output::help(wrong).map(|()| 0));
    }
    if wrong.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = Descriptor::stderr().write_all(wrong.render().to_string().as_bytes());
        return ExitCode::from(USAGE);
    }
    say(&format!("circuit: {}", text(wrong)));
    if let Some(hint) = hint(wrong, command) {
        say(&format!("hint: {hint}"));
    }
    ExitCode::from(USAGE)
}

fn hint(wrong: &clap::Error, command: Option<&clap::Command>) -> Option<String> {
    let rendered = wrong.render().to_string();
    let mut lines = rendered.lines().map(str::trim);
    let tip = lines.find_map(|line| line.strip_prefix("tip: "));
    // The parser's other tip is how to pass a value that looks like a flag, which hardly anybody means.
    let tip = tip.filter(|tip| !tip.starts_with("to pass"));
    let ours = || match wrong.kind() {
        ErrorKind::InvalidSubcommand => Some("`circuit help` lists them".to_owned()),
        ErrorKind::MissingRequiredArgument => left_out(wrong, command?),
        ErrorKind::UnknownArgument => Some(too_much(wrong, command)),
        _ => None,
    };
    foreseen(wrong, tip.is_some())
        .or_else(|| tip.map(as_documented))
        .or_else(ours)
}

/// The meaning of each argument that was left out.
fn left_out(wrong: &clap::Error, command: &clap::Command) -> Option<String> {
    let Some(ContextValue::Strings(missing)) = wrong.get(ContextKind::InvalidArg) else {
        return None;
    };
    let meaning = |name: &String| {
        let mut arguments = command.get_arguments();
        let argument = arguments.find(|argument| argument.to_string() == *name)?;
        let before = if argument.is_last_set() { "-- " } else { "" };
        let help = argument.get_help()?.to_string();
        let mut letters = help.chars();
        let first = letters.next()?.to_lowercase();
        let help = first.chain(letters).collect::<String>();
        let name = as_documented(&format!(" {name}"));
        Some(format!("{before}{}: {help}", name.trim_start()))
    };
    let meanings: Option<Vec<String>> = missing.iter().map(meaning).collect();
    meanings.map(|meanings| meanings.join("; "))
}

/// Where to find out about an argument that nobody takes.
fn too_much(wrong: &clap::Error, command: Option<&clap::Command>) -> String {
    let Some(command) = command else {
        return "`circuit help` lists the commands".to_owned();
    };
    let argument = wrong.get(ContextKind::InvalidArg).map(ToString::to_string);
    let is_flag = argument.is_some_and(|argument| argument.starts_with('-'));
    let what = if is_flag { "flags" } else { "arguments" };
    match command.get_arguments().any(clap::Arg::is_last_set) {
        true if !is_flag => "-- goes before the command and its arguments".to_owned(),
        _ => format!("`circuit help {}` lists its {what}", command.get_name()),
    }
}

/// The hint for commands that other tools have, and for mistakes that the parser cannot know.
fn foreseen(wrong: &clap::Error, has_tip: bool) -> Option<String> {
    let of = |kind| wrong.get(kind).map(ToString::to_string);
    let value = of(ContextKind::InvalidValue).unwrap_or_default();
    let argument = of(ContextKind::InvalidArg).unwrap_or_default();
    match wrong.kind() {
        ErrorKind::InvalidSubcommand => {
            let hint = match of(ContextKind::InvalidSubcommand)?.as_str() {
                "exec" | "ssh" => "`circuit run SERVER -- COMMAND` executes a command",
                "ps" | "top" => "`circuit ls -l /...` lists all processes",
                "kill" => "`circuit signal TERM PATH` sends a signal",
                "stop" => {
                    "`circuit signal TERM PATH` ends a process, `circuit down PATH` a service, `circuit \
                     suicide SERVER` a server"
                }
                "rm" => "`circuit scrub PATH` removes an element",
                "cp" => "`circuit run SERVER -- sh -c 'cat > FILE' < FILE` copies a file",
                "info" | "inspect" | "status" => {
                    "`circuit peek PATH` prints the status of an element, `circuit peek SERVER` that of a \
                     server"
                }
                "version" => "`circuit -version` prints it",
                _ => return None,
            };
            Some(hint.to_owned())
        }
        ErrorKind::UnknownArgument if !has_tip => {
            let letters = argument.strip_prefix("--")?;
            let is_several = letters.len() == 2 && letters.bytes().all(|b| b.is_ascii_lowercase());
            is_several.then(|| "flags of one letter are written one by one".to_owned())
        }
        ErrorKind::ValueValidation if argument == "<SIGNAL>" && value.contains('/') => {
            Some("the signal comes first: circuit signal SIGNAL PATH".to_owned())
        }
        ErrorKind::ValueValidation
            if argument.starts_with("--dial") && path_of(&value).is_some() =>
        {
            let path = path_of(&value).unwrap_or_default();
            Some(format!("a Unix socket is written unix:{path}"))
        }
        ErrorKind::ValueValidation if argument.ends_with("<URL>") => {
            let url = format!("circuit://{value}");
            let is_url = url.parse::<circuit_client::Url>().is_ok();
            is_url.then(|| format!("write it as {url}"))
        }
        _ => None,
    }
}

/// The path of a Unix socket in a text that is meant to be the address of one.
fn path_of(text: &str) -> Option<&str> {
    match text.split_once(':') {
        Some((scheme, path)) if scheme.eq_ignore_ascii_case("unix") => Some(path),
        _ => Some(text).filter(|text| text.starts_with(['/', '.', '~'])),
    }
}

/// The parser's text with flags as the documents have them: with one dash, and in short where there
/// is a short form.
fn as_documented(text: &str) -> String {
    const SHORT: [(&str, &str); 6] = [
        ("--dial", "-d"),
        ("--long", "-l"),
        ("--interactive", "-i"),
        ("--no-stdin", "-n"),
        ("--exists", "-e"),
        ("--join", "-j"),
    ];
    let mut text = text.to_owned();
    for (long, short) in SHORT {
        for behind in [" ", "'", "]"] {
            text = text.replace(&format!("{long}{behind}"), &format!("{short}{behind}"));
        }
    }
    for before in ["'", "[", " "] {
        for letter in 'a'..='z' {
            text = text.replace(
                &format!("{before}--{letter}"),
                &format!("{before}-{letter}"),
            );
        }
    }
    text
}

/// The parser's error in one line.
fn text(wrong: &clap::Error) -> String {
    let of = |kind| wrong.get(kind).map(ToString::to_string);
    if wrong.kind() == ErrorKind::ValueValidation
        && let (Some(argument), Some(value), Some(why)) = (
            of(ContextKind::InvalidArg),
            of(ContextKind::InvalidValue),
            wrong.source(),
        )
    {
        let value = cut(&value, LONGEST_VALUE);
        // A space ends the name of a flag that has no value.
        let argument = as_documented(&format!(" {argument} "));
        let argument = argument.trim();
        let text = format!("invalid value '{value}' for '{argument}': {why}");
        return one_line(&text);
    }
    let mut text = wrong.render().to_string();
    for kind in [
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
        ContextKind::InvalidValue,
    ] {
        if let Some(value) = of(kind).filter(|value| value.len() > LONGEST_VALUE) {
            text = text.replace(&value, &cut(&value, LONGEST_VALUE));
        }
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    // The parser lists missing arguments, and possible values, below its first line.
    let rest: Vec<&str> = lines
        .take_while(|line| {
            !line.starts_with("Usage") && !line.starts_with("tip:") && !line.starts_with("For more")
        })
        .collect();
    as_documented(&match (first.strip_suffix(':'), rest.as_slice()) {
        (Some(first), [_, ..]) => format!("{first}: {}", rest.join(", ")),
        (None, [choice, ..]) if choice.starts_with('[') => format!("{first} {choice}"),
        _ => first.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{CommandLine, parse};

    /// A value that the argument takes.
    fn example(argument: &clap::Arg) -> &'static str {
        match argument.get_id().as_str() {
            "path" | "paths" | "place" => "/one/a",
            "by" => "3",
            "signal" => "TERM",
            "capacity" => "1",
            "record" => "a. 60 A 10.0.0.1",
            "name" => "a.",
            "url" => "circuit://10.0.0.1:11022",
            "command" => "true",
            "shell" => "bash",
            "dir" => "pages",
            other => panic!("an example for {other} is missing"),
        }
    }

    /// The text and the hint for a command line.
    fn said(words: &[&str]) -> (String, Option<String>) {
        let words = ["circuit"].iter().chain(words).map(Into::into);
        let CommandLine { command, parsed } = parse(words);
        let wrong = parsed.unwrap_err();
        (text(&wrong), hint(&wrong, command.as_ref()))
    }

    #[test]
    fn a_hint_names_only_what_was_left_out() {
        let mut definition = crate::cli::definition();
        definition.build();
        let mut count = 0;
        for command in definition.get_subcommands() {
            let required: Vec<&clap::Arg> = command
                .get_arguments()
                .filter(|argument| argument.is_required_set())
                .collect();
            for left_out in &required {
                let mut words = vec![command.get_name()];
                for argument in required.iter().filter(|other| *other != left_out) {
                    words.extend(argument.is_last_set().then_some("--"));
                    words.push(example(argument));
                }
                let (text, hint) = said(&words);
                count += 1;
                let all = format!("{words:?}: {text}, {hint:?}");
                // Without an argument before the last the parser takes each value for another.
                let missing =
                    text.strip_prefix("the following required arguments were not provided: ");
                let Some(missing) = missing else {
                    let hint = hint.unwrap_or_default();
                    assert!(
                        !hint.contains(['<', '[']) && text.starts_with("invalid value"),
                        "{all}"
                    );
                    continue;
                };
                let hint = hint.expect(&all);
                let usage = format!("circuit {}", command.get_name());
                for argument in &required {
                    let name = argument.to_string();
                    assert_eq!(hint.contains(&name), missing.contains(&name), "{all}");
                }
                assert!(!hint.contains("OPTIONS") && !hint.contains(&usage), "{all}");
            }
        }
        assert!(count > 25, "{count}");
    }

    #[test]
    fn a_hint_names_nothing_that_is_right() {
        let check = |line: &str, expected_text: &str, expected_hint: Option<&str>| {
            let words: Vec<&str> = line.split(' ').collect();
            let (text, hint) = said(&words);
            assert_eq!(
                (&*text, hint.as_deref()),
                (expected_text, expected_hint),
                "{line}"
            );
        };
        check(
            "signal TERM",
            "the following required arguments were not provided: <PATH>",
            Some("<PATH>: the process, container, service or slot"),
        );
        check(
            "signal",
            "the following required arguments were not provided: <SIGNAL>, <PATH>",
            Some(
                "<SIGNAL>: its name, with or without SIG, in any case, or its number; <PATH>: the \
                 process, container, service or slot",
            ),
        );
        check(
            "run q",
            "the following required arguments were not provided: <COMMAND>...",
            Some("-- <COMMAND>...: the command and its arguments"),
        );
        check(
            "run q ls",
            "unexpected argument 'ls' found",
            Some("-- goes before the command and its arguments"),
        );
        check(
            "start -socket-group adm",
            "the following required arguments were not provided: -socket <PATH>",
            Some(
                "-socket <PATH>: also listen for clients on this host on a Unix socket at this path, for \
                 the commands of others; `none`: on no Unix socket",
            ),
        );
        check(
            "ls -names -json -l /",
            "the argument '-json' cannot be used with '-l'",
            None,
        );
        check(
            "ls -frob /",
            "unexpected argument '-frob' found",
            Some("`circuit help ls` lists its flags"),
        );
        check(
            "peek -e /a /b",
            "unexpected argument '/b' found",
            Some("`circuit help peek` lists its arguments"),
        );
        check(
            "-frob",
            "unexpected argument '-frob' found",
            Some("`circuit help` lists the commands"),
        );
    }
}
