//! Turns an error into one line for a person, a hint where one helps, and the exit status.

use std::error::Error as StdError;
use std::io::Write;
use std::process::ExitCode;

use circuit_client::SocketError;
pub(super) use circuit_client::chain;
use circuit_client::discover::DiscoverError;
use circuit_client::runtime_dir::RuntimeDir;
use circuit_client::{Code, DialError, Error, Path, SearchError};
use circuit_proto::auth::KeyMismatch;
use circuit_proto::handshake::Refused;

use super::output;
use crate::descriptor::Descriptor;
use crate::text::{cut, one_line};

/// The operation failed. Input on stdin or in a file that makes no sense counts as that too.
const FAILED: u8 = 1;

/// Wrong usage: of the command line or of an environment variable.
const USAGE: u8 = 2;

/// Nothing was there in the time that was given.
const NOT_HAD: u8 = 3;

/// No circuit could be reached, or it refused us.
const NO_CIRCUIT: u8 = 255;

/// Why a command failed, as a person reads it.
#[derive(Debug)]
pub(super) struct Failure {
    status: u8,
    command: Option<String>,
    text: String,
    hint: Option<String>,
    /// The status of a shell that cannot execute the program, if that is what failed.
    exec: Option<u8>,
    /// The text begins with an anchor's path.
    of_anchor: bool,
    /// The anchor whose server did not answer.
    silent: Option<Path>,
    /// The reader of stdout has gone, which is no failure.
    pipe_closed: bool,
}

impl Failure {
    fn new(status: u8, text: impl Into<String>) -> Failure {
        Failure {
            status,
            command: None,
            text: text.into(),
            hint: None,
            exec: None,
            of_anchor: false,
            silent: None,
            pipe_closed: false,
        }
    }

    /// Something that the command tried, and the reason why it failed.
    pub(super) fn operation(what: &str, error: &(dyn StdError + 'static)) -> Failure {
        Failure::new(FAILED, format!("{what}: {}", chain(error)))
    }

    /// A failure in these words.
    pub(super) fn failed(text: impl Into<String>) -> Failure {
        Failure::new(FAILED, text)
    }

    /// An argument, flag or environment variable makes no sense.
    pub(super) fn usage(text: impl Into<String>) -> Failure {
        Failure::new(USAGE, text)
    }

    /// Nothing was there in the time that was given.
    pub(super) fn not_had(path: &Path, why: &str) -> Failure {
        Failure {
            of_anchor: true,
            ..Failure::new(NOT_HAD, format!("{path}: {why}"))
        }
    }

    /// No circuit was reached.
    pub(super) fn no_circuit(text: impl Into<String>) -> Failure {
        Failure::new(NO_CIRCUIT, text)
    }

    /// The reader of stdout has gone: success.
    pub(super) fn pipe_closed() -> Failure {
        Failure {
            pipe_closed: true,
            ..Failure::new(0, "")
        }
    }

    /// Where the address came from that did not answer.
    pub(super) fn of_address_from(mut self, place: &str) -> Failure {
        if self.status == NO_CIRCUIT {
            let from = format!("the address is from {place}");
            self.hint = Some(match self.hint {
                Some(hint) => format!("{hint}; {from}"),
                None => from,
            });
        }
        self
    }

    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// The command that failed, which the message names first.
    pub(super) fn of_command(mut self, name: String) -> Failure {
        self.command = Some(name);
        self
    }

    /// The same in a command that an interrupt was ending anyway, with this exit status.
    pub(super) fn of_interrupted(self, status: u8) -> Failure {
        Failure { status, ..self }
    }

    /// The same in a command that otherwise exits as a process did: 127 if there is no such program,
    /// 126 if it cannot be executed, 255 for any other failure.
    pub(super) fn beside_statuses(self) -> Failure {
        let status = match (self.status, self.exec) {
            (FAILED, Some(status)) => status,
            (FAILED, None) => NO_CIRCUIT,
            (status, _) => status,
        };
        Failure { status, ..self }
    }

    /// [`beside_statuses`](Failure::beside_statuses), if the command was told to exit as a process did.
    pub(super) fn beside(self, statuses: bool) -> Failure {
        match statuses {
            true => self.beside_statuses(),
            false => self,
        }
    }

    /// The anchor whose server did not answer, if that is what happened.
    pub(super) fn silent(&self) -> Option<&Path> {
        self.silent.as_ref()
    }

    /// Whether all that happened is that the reader of stdout has gone.
    pub(super) fn is_pipe_closed(&self) -> bool {
        self.pipe_closed
    }

    /// The message, for those who print it among others.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let mut failure = Failure::new(FAILED, chain(&error));
        failure.of_anchor = failure.text.starts_with('/');
        failure.exec = match &error {
            Error::Refused { error, .. } if error.code == Code::NoSuchProgram => Some(127),
            Error::Refused { error, .. } if error.code == Code::Exec => Some(126),
            _ => None,
        };
        failure.silent = match &error {
            Error::TimedOut { path, .. } => Some(path.clone()),
            Error::ServerGone { path, error } if error.code == Code::Unreachable => {
                Some(path.clone())
            }
            _ => None,
        };
        failure.hint = match error.code() {
            Some(Code::NoSuchServer) => Some("`circuit ls -l /` lists the servers".to_owned()),
            Some(Code::Occupied) => Some(match &error {
                Error::Refused { path, .. } if path.below_server().is_empty() => {
                    "name an anchor below the server's own, as in /X…/name".to_owned()
                }
                _ => "`circuit peek` shows what is there, `circuit scrub` removes it".to_owned(),
            }),
            _ => None,
        };
        failure
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Failure {
        let failure = Failure::new(NO_CIRCUIT, chain(&error));
        match error {
            DialError::Refused {
                address,
                reason: Refused::Key(mismatch),
            } => failure.with_hint(match RuntimeDir::existing() {
                // There is the local key, which nobody has to know.
                Err(error) if mismatch == KeyMismatch::Missing && address.ip().is_loopback() => {
                    format!("your local key is not used: {}", chain(&error))
                }
                _ => key_hint(mismatch).to_owned(),
            }),
            DialError::Local(SocketError::NoPermission(_)) => failure.with_hint(
                "its server lets in its own user and root; started with -socket PATH -socket-group \
                 GROUP, that group too",
            ),
            DialError::WrongServer { .. } => {
                failure.with_hint("its new URL is the first line that its `circuit start` printed")
            }
            _ => failure,
        }
    }
}

impl From<DiscoverError> for Failure {
    fn from(error: DiscoverError) -> Failure {
        let failure = Failure::new(NO_CIRCUIT, chain(&error));
        match error {
            DiscoverError::OtherKey { reason, .. } => failure.with_hint(key_hint(reason)),
            DiscoverError::NoAnswer { .. } | DiscoverError::Socket { .. } => failure,
        }
    }
}

impl From<SearchError> for Failure {
    fn from(error: SearchError) -> Failure {
        let text = chain(&error);
        let none_given = "no circuit to dial: neither -d, -discover, CIRCUIT nor CIRCUIT_DISCOVER \
                          is given, and";
        match error {
            SearchError::NotAGroup { .. } => Failure::usage(text),
            SearchError::Key(_) => Failure::failed(text),
            SearchError::File { file, .. } => Failure::no_circuit(text).with_hint(
                match file.to_str().filter(|text| text.contains("://")) {
                    Some(url) => format!("CIRCUIT names a file that holds a URL; use -d {url}"),
                    None => "write a server's URL into it, or use -d URL".to_owned(),
                },
            ),
            SearchError::Nothing => Failure::no_circuit(format!(
                "{none_given} no server of yours runs on this machine"
            ))
            .with_hint("`circuit start` starts one"),
            SearchError::NoServers(error) => {
                let why = chain(&error);
                Failure::no_circuit(format!(
                    "{none_given} your servers cannot be looked up: {why}"
                ))
            }
            SearchError::Several(_) => {
                Failure::no_circuit(text).with_hint("choose one with -d URL")
            }
            SearchError::NoUrl { .. } | SearchError::TimedOut { .. } | SearchError::NoWay => {
                Failure::no_circuit(text)
            }
            SearchError::Dial(error) => error.into(),
            SearchError::Discover(error) => error.into(),
            SearchError::Asked(error) => error.into(),
        }
    }
}

/// The remedy for keys that do not match, from the view of the dialler.
fn key_hint(mismatch: KeyMismatch) -> &'static str {
    match mismatch {
        KeyMismatch::Missing => "name its key with -hmac FILE, or in CIRCUIT_HMAC",
        KeyMismatch::Wrong => "-hmac FILE, or CIRCUIT_HMAC, must name the key of that circuit",
        KeyMismatch::Unexpected => "leave -hmac out, and CIRCUIT_HMAC unset, for that circuit",
    }
}

/// Prints the error, and gives the exit status of the process.
pub(super) fn exit(result: &Result<u8, Failure>) -> ExitCode {
    match result {
        Ok(status) => ExitCode::from(*status),
        Err(failure) if failure.pipe_closed => ExitCode::from(failure.status),
        Err(failure) => {
            let command = failure.command.as_ref();
            let command = command.map(|name| format!("{name}: ")).unwrap_or_default();
            // A path follows its command without a colon: `mkproc /X…/a: …`.
            let command = match failure.of_anchor {
                true => command.replace(": ", " "),
                false => command,
            };
            say(&format!("circuit: {command}{}", failure.text));
            if let Some(hint) = &failure.hint {
                say(&format!("hint: {hint}"));
            }
            ExitCode::from(failure.status)
        }
    }
}

/// Help and version are data; anything else that the parser says is wrong usage.
pub(super) fn exit_of_usage(wrong: &clap::Error) -> ExitCode {
    if !wrong.use_stderr() {
        return exit(&output::help(wrong).map(|()| 0));
    }
    if wrong.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = Descriptor::stderr().write_all(wrong.render().to_string().as_bytes());
        return ExitCode::from(USAGE);
    }
    say(&format!("circuit: {}", usage_text(wrong)));
    let rendered = wrong.render().to_string();
    let after = |start| {
        rendered
            .lines()
            .find_map(move |l| l.trim().strip_prefix(start))
    };
    // The parser's other tip is how to pass a value that looks like a flag, which hardly anybody means.
    let tip = after("tip: ").filter(|tip| !tip.starts_with("to pass"));
    if let Some(hint) = hint_of_usage(wrong, tip.is_some()) {
        say(&format!("hint: {hint}"));
        return ExitCode::from(USAGE);
    }
    let usage = match wrong.kind() {
        clap::error::ErrorKind::InvalidSubcommand => Some("`circuit help` lists them"),
        _ => after("Usage: "),
    };
    if let Some(hint) = tip.or(usage) {
        say(&format!("hint: {}", as_documented(hint)));
    }
    ExitCode::from(USAGE)
}

/// The hint for commands that other tools have, and for mistakes that the parser cannot know.
fn hint_of_usage(wrong: &clap::Error, has_tip: bool) -> Option<String> {
    use clap::error::{ContextKind, ErrorKind};
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
                    "`circuit signal TERM PATH` ends a process, `circuit suicide SERVER` a server"
                }
                "rm" => "`circuit scrub PATH` removes an element",
                "logs" => "`circuit stdout PATH` prints a process's output",
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
        ErrorKind::ValueValidation if argument.ends_with("<URL>") => {
            let url = format!("circuit://{value}");
            let is_url = url.parse::<circuit_client::Url>().is_ok();
            is_url.then(|| format!("write it as {url}"))
        }
        _ => None,
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
fn usage_text(wrong: &clap::Error) -> String {
    use clap::error::{ContextKind, ErrorKind};
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

/// How much of a message is shown, in bytes. Chosen, not measured: a URL or two, a path of a few
/// long names.
const LONGEST: usize = 2000;

/// How much of a value that the parser refuses is shown, in bytes. Chosen, not measured: a name of an
/// anchor that is just too long is seen whole.
const LONGEST_VALUE: usize = 300;

/// Says a line on stderr. A stderr that is closed hears nothing.
pub(super) fn say(line: &str) {
    let line = format!("{}\n", one_line(&cut(line, LONGEST)));
    let _ = Descriptor::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_an_address_is_said_in_few_words() {
        let unknown = crate::server::address::resolve("nowhere.invalid").unwrap_err();
        let text = chain(&unknown);
        let words = text.strip_prefix("cannot find the address of nowhere.invalid: ");
        assert!(words.is_some_and(|words| !words.contains(':')), "{text}");
    }

    #[test]
    fn causes_are_said_once() {
        let source = std::io::Error::from_raw_os_error(98);
        let address = "127.0.0.1:7".parse().unwrap();
        let error = crate::server::StartError::Listen { address, source };
        assert_eq!(
            chain(&error),
            "cannot listen on 127.0.0.1:7: address already in use"
        );
    }
}
