//! Turns an error into one line for a person, a hint where one helps, and the exit status.

mod usage;

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

pub(super) use self::usage::exit_of_usage;
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

    /// The hint, if there is one.
    #[cfg(test)]
    pub(super) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
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
        let none_given = "no circuit to dial: neither -d, -discover, CIRCUIT, CIRCUIT_DISCOVER nor \
                          CIRCUIT_SOCKET is given,";
        match error {
            SearchError::NotAGroup { .. } => Failure::usage(text),
            SearchError::Key(_) => Failure::failed(text),
            SearchError::File { file, .. } => Failure::no_circuit(text).with_hint(
                match file.to_str().filter(|text| text.contains("://")) {
                    Some(url) => format!("CIRCUIT names a file that holds a URL; use -d {url}"),
                    None => WRITE_URL.to_owned(),
                },
            ),
            SearchError::Nothing => Failure::no_circuit(format!(
                "{none_given} no server of yours runs on this machine, and there is no \
                 /run/circuit/circuit.sock"
            ))
            .with_hint("`circuit start` starts one"),
            SearchError::NoServers(error) => {
                let why = chain(&error);
                Failure::no_circuit(format!(
                    "{none_given} and your servers cannot be looked up: {why}"
                ))
            }
            SearchError::Several(_) => {
                Failure::no_circuit(text).with_hint("choose one with -d URL")
            }
            SearchError::NoUrl { .. } => Failure::no_circuit(text).with_hint(WRITE_URL),
            SearchError::TimedOut { .. } | SearchError::NoWay => Failure::no_circuit(text),
            SearchError::Dial(error) => error.into(),
            SearchError::Discover(error) => error.into(),
            SearchError::Asked(error) => error.into(),
        }
    }
}

/// The remedy for a file that holds no URL.
const WRITE_URL: &str = "write a server's URL into it, or use -d URL";

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

/// How much of a message is shown, in bytes. Chosen, not measured: a URL or two, a path of a few
/// long names.
const LONGEST: usize = 2000;

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
