//! Signals by name and number, and the words for them.

use circuit_proto::{Code, Error};
use rustix::process::Signal;

/// Name without `SIG`, the signal, and the words for it, which are those of Go's
/// `syscall.Signal.String`.
const SIGNALS: &[(&str, Signal, &str)] = &[
    ("HUP", Signal::HUP, "hangup"),
    ("INT", Signal::INT, "interrupt"),
    ("QUIT", Signal::QUIT, "quit"),
    ("ILL", Signal::ILL, "illegal instruction"),
    ("TRAP", Signal::TRAP, "trace/breakpoint trap"),
    ("ABRT", Signal::ABORT, "aborted"),
    ("BUS", Signal::BUS, "bus error"),
    ("FPE", Signal::FPE, "floating point exception"),
    ("KILL", Signal::KILL, "killed"),
    ("USR1", Signal::USR1, "user defined signal 1"),
    ("SEGV", Signal::SEGV, "segmentation fault"),
    ("USR2", Signal::USR2, "user defined signal 2"),
    ("PIPE", Signal::PIPE, "broken pipe"),
    ("ALRM", Signal::ALARM, "alarm clock"),
    ("TERM", Signal::TERM, "terminated"),
    ("STKFLT", Signal::STKFLT, "stack fault"),
    ("CHLD", Signal::CHILD, "child exited"),
    ("CONT", Signal::CONT, "continued"),
    ("STOP", Signal::STOP, "stopped (signal)"),
    ("TSTP", Signal::TSTP, "stopped"),
    ("TTIN", Signal::TTIN, "stopped (tty input)"),
    ("TTOU", Signal::TTOU, "stopped (tty output)"),
    ("URG", Signal::URG, "urgent I/O condition"),
    ("XCPU", Signal::XCPU, "CPU time limit exceeded"),
    ("XFSZ", Signal::XFSZ, "file size limit exceeded"),
    ("VTALRM", Signal::VTALARM, "virtual timer expired"),
    ("PROF", Signal::PROF, "profiling timer expired"),
    ("WINCH", Signal::WINCH, "window changed"),
    ("IO", Signal::IO, "I/O possible"),
    ("PWR", Signal::POWER, "power failure"),
    ("SYS", Signal::SYS, "bad system call"),
];

/// The signal of this name (with or without `SIG`, any case) or number.
pub fn parse(text: &str) -> Option<Signal> {
    if let Ok(number) = text.parse::<i32>() {
        return of_number(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // The form in which a signal without a name is printed.
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return of_number(name.parse().ok()?);
    }
    let name = match name {
        "POLL" => "IO",
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        other => other,
    };
    SIGNALS
        .iter()
        .find(|(known, ..)| *known == name)
        .map(|(_, signal, _)| *signal)
}

/// The signal of this number, if the system has one.
fn of_number(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number).or_else(|| real_time(number))
}

/// A real-time signal, which has no name: signal(7). The C library uses 32 and 33 within a process, and
/// another process can be ended by them as by any other signal.
#[allow(unsafe_code)]
fn real_time(number: i32) -> Option<Signal> {
    if !(32..=64).contains(&number) {
        return None;
    }
    // SAFETY: the number is that of a signal; the signal is sent to other processes only, and no handler
    // of this process is installed for it.
    Some(unsafe { Signal::from_raw_unchecked(number) })
}

/// The error of a caller who named no signal.
pub fn unknown(text: &str) -> Error {
    let message = format!("no such signal: {text:?} (a name such as TERM, or its number)");
    Error::new(Code::InvalidArgument, message)
}

/// Whether a signal has this number.
pub fn is_known(number: i32) -> bool {
    find(number).is_some() || real_time(number).is_some()
}

/// The name of a signal's number: `SIGTERM`, or `SIG42` where it has none.
pub fn name(number: i32) -> String {
    match find(number) {
        Some((name, ..)) => format!("SIG{name}"),
        None => format!("SIG{number}"),
    }
}

/// The words for a signal's number: `terminated`.
fn description(number: i32) -> String {
    match find(number) {
        Some((.., words)) => (*words).to_owned(),
        None => format!("signal {number}"),
    }
}

/// The words for an end that was no success, as Go's `os/exec` has them; `None` after success.
pub fn exit(code: Option<i32>, signal: Option<i32>) -> Option<String> {
    match (code, signal) {
        (_, Some(signal)) => Some(format!("signal: {}", description(signal))),
        (Some(0) | None, None) => None,
        (Some(code), None) => Some(format!("exit status {code}")),
    }
}

fn find(number: i32) -> Option<&'static (&'static str, Signal, &'static str)> {
    SIGNALS
        .iter()
        .find(|(_, signal, _)| signal.as_raw() == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for text in ["TERM", "SIGTERM", "sigterm", "term", "15"] {
            assert_eq!(parse(text), Some(Signal::TERM), "{text}");
        }
        assert_eq!(parse("SIGPOLL"), Some(Signal::IO));
        assert_eq!(parse("40").map(Signal::as_raw), Some(40));
        for text in [
            "",
            "SIG",
            "FOO",
            "0",
            "-9",
            "65",
            "SIG0",
            "SIG-9",
            "SIG65",
            "99999",
            "SIGSIGTERM",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(name(9), "SIGKILL");
        assert_eq!(description(15), "terminated");
        assert_eq!(name(42), "SIG42");
        for number in 1..=64 {
            let printed = parse(&name(number)).map(Signal::as_raw);
            assert_eq!(printed, Some(number), "{}", name(number));
        }
    }
}
